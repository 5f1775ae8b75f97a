import numpy as np
import pytest

import wgoal
from reference import batch


def test_recall_is_that_of_sorted_similarities(device):
    random = np.random.default_rng(3)
    owners = np.sort(random.integers(0, 20, 50))
    x, _ = batch(20, 8)
    y = x[owners] + 0.9 * random.standard_normal((50, 8)).astype(np.float32)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    found = wgoal.recall(x, y, owners, ks=(1, 3), ranks=True, device=device)
    s = x @ y.T
    of_texts = np.array([(s[:, t] > s[owners[t], t]).sum() for t in range(50)])
    best = [
        min((s[i] > s[i, t]).sum() for t in range(50) if owners[t] == i) if i in owners else -1 for i in range(20)
    ]
    np.testing.assert_array_equal(found.t2i.ranks, of_texts)
    np.testing.assert_array_equal(found.i2t.ranks, best)
    assert found.t2i.ranks.dtype == np.int64
    asked = np.array([rank for rank in best if rank >= 0])
    assert found.t2i.recall_at == pytest.approx({1: 100 * (of_texts < 1).mean(), 3: 100 * (of_texts < 3).mean()})
    assert found.i2t.r5 == pytest.approx(100 * (asked < 5).mean())
    assert found.t2i.mrr == pytest.approx(100 * (1 / (of_texts + 1)).mean())
    six = [r for d in (found.i2t, found.t2i) for r in (d.r1, d.r5, d.r10)]
    assert found.rsum == pytest.approx(sum(six))
    assert str(found).splitlines()[-1] == f"rsum {found.rsum:.1f} of 600"
    assert wgoal.recall(x, y, owners, device=device).t2i.ranks is None


def test_recall_normalises_and_folds(device):
    x, y = batch(20, 8)
    plain = wgoal.recall(x, y, device=device)
    lengths = np.linspace(0.1, 9, 20, dtype=np.float32)[:, None]
    assert wgoal.recall(lengths * x, y / lengths, normalize=True, device=device).rsum == pytest.approx(plain.rsum)
    expected = wgoal.top_k(x, y, 3, device=device)
    found = wgoal.top_k(x / lengths, lengths * y, 3, normalize=True, device=device)
    np.testing.assert_array_equal(found[0], expected[0])
    folds = wgoal.recall(x, y, folds=4, device=device)
    parts = [wgoal.recall(x[k : k + 5], y[k : k + 5], device=device).rsum for k in range(0, 20, 5)]
    assert folds.rsum == pytest.approx(np.mean(parts))


def test_recall_refuses_what_it_cannot_use(device):
    x, y = batch(6, 4)
    for arguments, more, message in [
        ((x, y[:5]), {}, "text_to_image: expected the image row of every text"),
        ((x, y, np.arange(5)), {}, "text_to_image: expected 6 numbers"),
        ((x, y, [0, 1, 2, 3, 4, 6]), {}, "6"),
        ((x, y, [0, 1, 2, 3, 4, -1]), {}, "text_to_image: expected row numbers of 0 or more, found -1"),
        ((x, y[:, :3]), {}, "embeddings: expected two matrices of one width, found widths 4 and 3"),
        ((x, y), dict(folds=4), "^folds: expected a divisor"),
        ((x, y), dict(folds=2, ranks=True), "ranks: expected one fold"),
        ((x, y), dict(ks=[0]), "ks: expected numbers of 1 or more"),
        ((x * np.nan, y), {}, "recall: expected finite embeddings"),
    ]:
        with pytest.raises(ValueError, match=message):
            wgoal.recall(*arguments, device=device, **more)


def test_top_k_is_that_of_argsort(device):
    x, y = batch(7, 5)[0], batch(40, 5, seed=9)[1]
    index, score = wgoal.top_k(x, y, 3, device=device)
    s = x @ y.T
    expected = np.argsort(-s, axis=1, kind="stable")[:, :3]
    assert index.dtype == np.int64 and score.dtype == np.float32
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(score, np.take_along_axis(s, expected, 1), rtol=1e-5)
    assert wgoal.top_k(x, y, 100, device=device)[0].shape == (7, 40)
    with pytest.raises(ValueError, match="^k: expected 1 candidate or more, found 0"):
        wgoal.top_k(x, y, 0, device=device)


def test_hard_negatives_are_of_other_images(device):
    x, y = batch(30, 8)
    ids = np.arange(30) // 3
    texts, images = wgoal.hard_negatives(x, y, ids, seed=4, device=device)
    assert (ids[texts] != ids).all() and (ids[images] != ids).all() and texts.dtype == np.int64
    again = wgoal.hard_negatives(x, y, ids, seed=4, device=device)
    np.testing.assert_array_equal(texts, again[0])
    s = x @ y.T
    drawn = s[np.arange(30), wgoal.hard_negatives(x, y, temperature=0.1, device=device)[0]]
    assert drawn.mean() > s.mean() + 0.2


def test_analyze_tells_whether_a_gradient_is_that_of_a_loss():
    assert wgoal.analyze("triplet")["integrable"]
    assert not wgoal.analyze("cir:sig-ms", tau=2.0)["integrable"]
    with pytest.raises(TypeError, match="expected one of margin"):
        wgoal.analyze("hinge", sigma=1)


def test_devices_end_with_the_cpu():
    assert wgoal.devices()[-1]["kind"] in ("cpu", "Cpu")
