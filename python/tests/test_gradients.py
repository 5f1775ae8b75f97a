import gc
import os

import numpy as np
import pytest

import reference
import wgoal
from reference import batch

close = dict(rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("pairs, dim", [(2, 3), (5, 4), (24, 16), (65, 30)])
@pytest.mark.parametrize("name", ["hinge", "cir:sig-ms", "infonce"])
def test_values_are_those_of_loops_over_triplets(name, pairs, dim, device):
    x, y = batch(pairs, dim)
    g = wgoal.gradients(x, y, name, device=device)
    loop = {"hinge": reference.hinge, "cir:sig-ms": reference.cir_sig_ms, "infonce": reference.infonce}[name]
    loss, dx, dy, *dt = loop(x, y)
    np.testing.assert_allclose(g.loss, loss, rtol=1e-4)
    np.testing.assert_allclose(g.images, dx, **close)
    np.testing.assert_allclose(g.texts, dy, **close)
    np.testing.assert_allclose(g.temperature, dt[0] if dt else 0, rtol=1e-3)
    s = x @ y.T
    np.fill_diagonal(s, -np.inf)
    assert g.hardest_text.dtype == g.hardest_image.dtype == np.int64
    np.testing.assert_array_equal(g.hardest_text, s.argmax(1))
    np.testing.assert_array_equal(g.hardest_image, s.argmax(0))
    np.testing.assert_allclose(g.hardest_text_similarity, s.max(1), rtol=1e-5)
    np.testing.assert_allclose(g.positive, (x * y).sum(1), rtol=1e-5)


def test_parameters_and_ids_are_used(device):
    x, y = batch(24, 16)
    ids = np.arange(24) // 2 + 10**12
    g = wgoal.gradients(x, y, "hinge", ids, margin=0.5, device=device)
    _, dx, _ = reference.hinge(x, y, margin=0.5, ids=ids)
    np.testing.assert_allclose(g.images, dx, **close)
    given = dict(tau=2.0, alpha=1.0, beta=5.0, threshold=0.3, circle_margin=0.4)
    g = wgoal.gradients(x, y, "cir:sig-ms", lambda_=0.4, device=device, **given)
    _, dx, _ = reference.cir_sig_ms(x, y, 2.0, 1.0, 5.0, 0.4, 0.3, 0.4)
    np.testing.assert_allclose(g.images, dx, **close)
    g = wgoal.gradients(x, y, "infonce", temperature=0.2, scale=-3.0, device=device)
    loss, dx, _, dt = reference.infonce(x, y, 0.2)
    np.testing.assert_allclose(g.images, -3 * dx, **close)
    np.testing.assert_allclose([g.loss, g.temperature], [loss, -3 * dt], rtol=1e-3)
    # The context of the call before has another objective.
    again = wgoal.gradients(x, y, "infonce", device=device)
    np.testing.assert_allclose(again.loss, reference.infonce(x, y)[0], rtol=1e-4)


def test_a_weight_file_defines_an_objective(root, tmp_path, device):
    x, y = batch(24, 16)
    file = root / "examples" / "weights" / "cir_sig.wgsl"
    built_in = wgoal.gradients(x, y, "cir:sig", tau=2.0, device=device)
    g = wgoal.gradients(x, y, "custom", weights=file, param={"tau": 2.0}, device=device)
    np.testing.assert_allclose(g.images, built_in.images, **close)
    np.testing.assert_allclose(g.texts, built_in.texts, **close)
    # The file is read at every call.
    own = tmp_path / "own.wgsl"
    for factor in (1.0, 3.0):
        own.write_text(
            f"fn triplet_weight(p: f32, n: f32) -> f32 {{ return {factor}; }}\n"
            "fn pair_weights(p: f32, n: f32) -> vec2f { return vec2f(1.0, 1.0); }\n"
        )
        of_file = wgoal.gradients(x, y, "custom", weights=str(own), device=device)
        plain = wgoal.gradients(x, y, "con:con", device=device)
        np.testing.assert_allclose(of_file.images, factor * plain.images, **close)
    assert wgoal.analyze("custom", weights=own)["asymmetry"] == wgoal.analyze("con:con")["asymmetry"]
    with pytest.raises(ValueError, match="weights: expected a WGSL file"):
        wgoal.gradients(x, y, "hinge+custom", device=device)
    with pytest.raises(ValueError, match="weights: expected the objective custom, found hinge"):
        wgoal.gradients(x, y, "hinge", weights=own, device=device)
    with pytest.raises(ValueError, match="param: expected a weight file"):
        wgoal.gradients(x, y, "hinge", param={"tau": 1.0}, device=device)
    with pytest.raises(ValueError, match="^param: expected .*`gain`"):
        wgoal.gradients(x, y, "custom", weights=file, param={"gain": 1.0}, device=device)
    with pytest.raises(FileNotFoundError, match="none.wgsl"):
        wgoal.gradients(x, y, "custom", weights=tmp_path / "none.wgsl", device=device)
    own.write_text("fn triplet_weight(")
    with pytest.raises(ValueError, match="own.wgsl"):
        wgoal.gradients(x, y, "custom", weights=own, device=device)


def test_an_image_has_several_texts(device):
    x, y = batch(12, 8)
    owners = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7])
    images = x[[0, 2, 3, 6, 7, 8, 10, 11]]
    for name in ("hinge", "triplet", "hinge"):
        g = wgoal.gradients(images, y, name, text_image=owners, device=device)
        assert g.images.shape == (8, 8) and g.texts.shape == (12, 8)
        s = images @ y.T
        s[owners, np.arange(12)] = -np.inf
        np.testing.assert_array_equal(g.hardest_text, s.argmax(1))
        np.testing.assert_array_equal(g.hardest_image, s.argmax(0))
    # A context of another objective, and a new one after contexts of other shapes.
    first = wgoal.gradients(images, y, "infonce", text_image=owners, device=device)
    for pairs in range(2, 8):
        wgoal.gradients(x[:pairs], y[:pairs], "hinge", device=device)
    again = wgoal.gradients(images, y, "infonce", text_image=owners, device=device)
    assert first.loss == again.loss
    np.testing.assert_array_equal(first.images, again.images)
    # With one text per image, it is the gradient of pairs.
    one, other = wgoal.gradients(x, y, "hinge", text_image=np.arange(12), device=device), wgoal.gradients(
        x, y, "hinge", device=device
    )
    np.testing.assert_allclose(one.images, other.images, **close)
    with pytest.raises(ValueError, match="text_image: expected 12 numbers"):
        wgoal.gradients(images, y, "hinge", text_image=owners[:5], device=device)


@pytest.mark.parametrize("name", ["infonce", "hinge-sum", "siglip", "multi-similarity"])
def test_losses_agree_with_finite_differences(name, device):
    x, y = batch(8, 6)
    x, y = 1.7 * x, 0.6 * y
    g = wgoal.gradients(x, y, name, normalize=True, device=device)
    step = 2e-3
    for i, j in [(0, 0), (3, 5), (7, 2)]:
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[i, j] += sign * step
            ends.append(wgoal.gradients(moved, y, name, normalize=True, device=device).loss)
        np.testing.assert_allclose(g.images[i, j], (ends[0] - ends[1]) / (2 * step), rtol=0.05, atol=5e-3)


def test_out_receives_the_gradients(embeddings, device):
    x, y = embeddings
    out = np.full_like(x, np.nan), np.full_like(y, np.nan)
    g = wgoal.gradients(x, y, "hinge", out=out, device=device)
    assert g.images is out[0] and g.texts is out[1]
    fresh = wgoal.gradients(x, y, "hinge", device=device)
    np.testing.assert_array_equal(out[0], fresh.images)
    np.testing.assert_array_equal(out[1], fresh.texts)
    for bad in [(x, y), (out[0], out[0]), (out[0][:-1], out[1]), (out[0].astype(np.float64), out[1]), (1, 2)]:
        with pytest.raises(ValueError, match="^out: expected"):
            wgoal.gradients(x, y, "hinge", out=bad, device=device)
    out[0].flags.writeable = False
    with pytest.raises(ValueError, match="^out: expected a writeable array"):
        wgoal.gradients(x, y, "hinge", out=out, device=device)


def test_arrays_of_every_kind_give_the_same_bits(embeddings, device):
    x, y = embeddings
    expected = wgoal.gradients(x, y, "cir:sig-ms", device=device)
    wide = np.zeros((48, 40), np.float32)
    wide[::2, 3:35:2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    raw[:] = x
    swapped = x.astype(x.dtype.newbyteorder())
    for same in [wide[::2, 3:35:2], np.asfortranarray(x), read_only, raw, x.astype(np.float64), swapped, x.tolist()]:
        g = wgoal.gradients(same, y, "cir:sig-ms", device=device)
        assert g.loss == expected.loss
        np.testing.assert_array_equal(g.images, expected.images)
    half = wgoal.gradients(x.astype(np.float16), y, device=device)
    np.testing.assert_allclose(half.loss, expected.loss, rtol=1e-2)


def test_float32_in_c_order_is_not_copied(embeddings, monkeypatch, device):
    x, y = embeddings

    def refuse(*_):
        raise AssertionError("converted")

    monkeypatch.setattr("wgoal._arrays.matrix", refuse)
    wgoal.gradients(x, y, device=device)
    with pytest.raises(AssertionError, match="converted"):
        wgoal.gradients(x.astype(np.float64), y, device=device)


def test_an_array_is_an_error_in_one_line(embeddings, device):
    x, y = embeddings
    nan = x.copy()
    nan[3, 2] = np.nan
    cases = [
        ((nan, y), ValueError, "image embedding, row 3, column 2: expected a finite number, found NaN"),
        ((x, y[:5]), ValueError, r"embeddings: expected two matrices of one shape, found \[24, 16\] and \[5, 16\]"),
        # The same number of values.
        ((x.reshape(16, 24), y), ValueError, "expected two matrices of one shape"),
        ((x[0], y), ValueError, r"x: expected a matrix \(rows, columns\), found shape \(16,\)"),
        ((x[:0], y[:0]), ValueError, "pairs of a batch: expected 1 to 65535, found 0"),
        ((x[:, :0], y[:, :0]), ValueError, "embeddings: expected a width of 1 or more, found 0"),
        ((x.astype(str), y), TypeError, "x: expected real numbers, found the type <U"),
        ((x * 1j, y), TypeError, "x: expected real numbers, found the type complex64"),
        (("x", y), TypeError, "x: expected real numbers"),
        ((x, y, "cir:sigms"), ValueError, "did you mean cir:sig-ms"),
        ((x, y, "hinge", np.arange(5)), ValueError, "ids: expected 24 numbers"),
        ((x, y, "hinge", np.arange(24.0)), TypeError, "ids: expected whole numbers"),
    ]
    for arguments, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            wgoal.gradients(*arguments, device=device)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="expected one of margin, found 'tau'"):
        wgoal.gradients(x, y, "hinge", tau=2.0, device=device)
    with pytest.raises(ValueError, match="expected a finite number above 0, found -1"):
        wgoal.gradients(x, y, tau=-1.0, device=device)
    with pytest.raises(TypeError):
        wgoal.gradients(x, y, sigma=1.0, device=device)
    with pytest.raises(wgoal.DeviceError, match="no-such-device") as caught:
        wgoal.gradients(x, y, device="no-such-device")
    assert caught.value.kind == "device" and caught.value.advice


def test_an_array_of_more_than_two_billion_elements_is_refused_in_time(tmp_path, device):
    # A sparse file of 2^31 + 2^16 values takes no space.
    path = tmp_path / "large"
    rows, dim = 2**15 + 1, 2**16
    with open(path, "wb") as file:
        file.truncate(4 * rows * dim)
    large = np.memmap(path, np.float32, mode="r", shape=(rows, dim))
    with pytest.raises(ValueError, match="two matrices of one shape"):
        wgoal.gradients(large, large[:7], device=device)
    # Rows beyond the first 2^31 values are read where they are.
    part = large[-3:]
    assert wgoal.gradients(part, part, "hinge", device=device).images.shape == (3, dim)


def test_a_loop_of_calls_leaks_no_memory(device):
    """WGOAL_TEST_CALLS sets the number of calls. It also passes with 1,000,000, under the same bound of 5 MB."""
    resource = pytest.importorskip("resource")
    x, y = batch(4, 4)
    out = np.empty_like(x), np.empty_like(y)

    def calls(count):
        for k in range(count):
            wgoal.gradients(x, y, "hinge" if k % 100 else "infonce", out=out, device=device)
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = calls(3_000)
    # An object of 100 bytes per call would be 10 MB.
    assert calls(int(os.environ.get("WGOAL_TEST_CALLS", "100000"))) - before < 5_000
