import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import wgoal

OPTIONS = dict(recipe="goal", objective="hinge", epochs=3, embed=8, batch=32, lr=2e-3, standardize=True, lr_drop=[2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, features):
    """The features as a dataset in files."""
    images, texts, owners = features
    path = tmp_path_factory.mktemp("features")
    np.save(path / "images.npy", images)
    np.save(path / "texts.npy", texts)
    np.save(path / "text_to_image.npy", owners)
    order = np.random.default_rng(1).permutation(len(images))
    for name, rows in [("train", order[:80]), ("val", order[80:100]), ("test", order[100:])]:
        np.save(path / f"split_{name}.npy", np.sort(rows))
    return path


def by_command_line(folder, out, *options):
    command = [sys.executable, "-m", "wgoal", *map(str, options), "--out", str(out), "--device", "cpu"]
    subprocess.run(command, check=True, capture_output=True)
    return (out / "best.safetensors").read_bytes()


def test_the_estimator_and_the_command_line_train_the_same_bits(folder, tmp_path):
    options = ["--recipe", "goal", "--objective", "hinge", "--epochs", 3, "--embed", 8, "--batch", 32]
    options += ["--lr", "2e-3", "--standardize", "--lr-drop", 2]
    expected = by_command_line(folder, tmp_path / "run", "train", folder, *options)
    fitted = wgoal.JointHead(device="cpu", **OPTIONS).fit(folder)
    fitted.head_.save(tmp_path / "head.safetensors")
    assert (tmp_path / "head.safetensors").read_bytes() == expected
    assert fitted.head_ == wgoal.Head.load(tmp_path / "run")


def test_the_default_recipe_gives_the_same_bits_from_arrays(folder, features, tmp_path):
    expected = by_command_line(folder, tmp_path / "run", "train", folder, "--epochs", 2)
    images, texts, owners = features
    splits = {f"split_{name}": np.load(folder / f"split_{name}.npy") for name in ("train", "val", "test")}
    dataset = wgoal.Dataset.from_arrays(images, texts, owners, **splits)
    head = wgoal.JointHead(epochs=2, device="cpu").fit(dataset).head_
    head.save(tmp_path / "head.safetensors")
    assert (tmp_path / "head.safetensors").read_bytes() == expected


@pytest.mark.parametrize("form", ["cca", "ridge", "kcca"])
def test_closed_forms_are_those_of_the_command_line(form, folder, tmp_path):
    expected = by_command_line(folder, tmp_path / "run", "baseline", form, folder, "--standardize")
    fit = getattr(wgoal, form)(folder, standardize=True, device="cpu")
    fit.head.save(tmp_path / "head.safetensors")
    assert (tmp_path / "head.safetensors").read_bytes() == expected
    assert fit.regularization > 0 and (fit.bandwidth is None) == (form != "kcca")
    assert len(fit.correlations) == (0 if form == "ridge" else fit.head.dim)
    assert fit.val.rsum == pytest.approx(fit.head.recall(wgoal.Dataset.open(folder), "val", device="cpu").rsum)


def test_an_estimator_fits_arrays(features):
    images, texts, owners = features
    taken = np.isin(owners, np.arange(90, 120))
    validation = images[90:], texts[taken], owners[taken] - 90
    options = {**OPTIONS, "epochs": 30, "objective": "infonce", "lr_drop": None}
    first = wgoal.JointHead(device="cpu", **options).fit(images[:90], texts[~taken], owners[~taken], validation)
    x, y = first.transform_images(images[90:]), first.transform_texts(texts[taken])
    assert x.shape == (30, 8) and y.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, rtol=1e-5)
    assert first.score(*validation) == pytest.approx(wgoal.recall(x, y, validation[2], device="cpu").rsum)
    # Chance reaches about 106 of 600 here.
    assert first.score(*validation) > 250 and len(first.history_) == 30
    assert first.history_[first.best_epoch_ - 1].best
    second = wgoal.JointHead(device="cpu", **options).fit(images, texts, owners, validation=np.arange(90, 120))
    assert second.head_ == first.head_
    with pytest.raises(ValueError, match="call fit first"):
        wgoal.JointHead().transform_images(images)


def test_parameters_of_an_estimator():
    estimator = wgoal.JointHead("hinge", epochs=3, device="cpu")
    assert estimator.get_params() == dict(
        objective="hinge", recipe=None, device="cpu", verbose=False, epochs=3
    )
    assert wgoal.JointHead(**estimator.get_params()).set_params(epochs=4, recipe="goal").get_params()["epochs"] == 4
    assert repr(estimator) == "JointHead(objective='hinge', device='cpu', epochs=3)"
    sklearn = pytest.importorskip("sklearn.base")
    assert sklearn.clone(estimator).get_params() == estimator.get_params()


def test_heads_are_values(folder, tmp_path, features):
    estimator = wgoal.JointHead(device="cpu", **OPTIONS).fit(folder)
    head = estimator.head_
    assert pickle.loads(pickle.dumps(head)) == head == copy.deepcopy(head)
    assert pickle.loads(pickle.dumps(estimator)).head_ == head
    head.save(tmp_path / "h.safetensors")
    again = wgoal.Head.load(tmp_path / "h.safetensors")
    assert again == head and (again.dim, again.image_dim, again.text_dim) == (8, 12, 8)
    assert head.config["objective"] and head.parameters()["image.weight"].shape == (8, 12)
    dataset = wgoal.Dataset.open(folder)
    rows = head.embed("image", dataset, [3, 1], device="cpu")
    np.testing.assert_array_equal(rows, head.embed("image", features[0][[3, 1]], device="cpu"))
    with pytest.raises(FileNotFoundError):
        wgoal.Head.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="side: expected image or text"):
        head.embed("images", features[0])
    with pytest.raises(ValueError, match="rows: expected row numbers below 120"):
        head.embed("image", dataset, [120])
    with pytest.raises(ValueError, match="width"):
        head.embed("image", features[1], device="cpu")


HEADS = [
    dict(OPTIONS),
    dict(recipe="goal", epochs=1, embed=8, signed_root="images", random_features=16),
    dict(epochs=1, embed=8),
]


@pytest.mark.parametrize("options", HEADS, ids=["linear", "random features", "landmarks"])
def test_other_frameworks_compute_the_same_embeddings(options, folder, features, tmp_path):
    head = wgoal.JointHead(device="cpu", **options).fit(folder).head_
    for side, values in [("image", features[0]), ("text", features[1])]:
        expected = head.embed(side, values, device="cpu")
        try:
            import torch

            with torch.no_grad():
                found = head.to_torch(side)(torch.tensor(values))
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
        except ImportError:
            pytest.skip("torch is not installed")
    for side, values in [("image", features[0]), ("text", features[1])]:
        onnx = pytest.importorskip("onnx")
        evaluator = pytest.importorskip("onnx.reference")
        head.to_onnx(side, tmp_path / "side.onnx")
        model = onnx.load(tmp_path / "side.onnx")
        (found,) = evaluator.ReferenceEvaluator(model).run(None, {"features": values})
        np.testing.assert_allclose(found, head.embed(side, values, device="cpu"), rtol=2e-3, atol=2e-4)


def test_a_head_of_two_layers():
    torch = pytest.importorskip("torch")
    image, text = torch.nn.Linear(5, 4), torch.nn.Linear(3, 4, bias=False)
    head = wgoal.Head.from_torch(image, text)
    x = torch.randn(6, 3)
    expected = torch.nn.functional.normalize(text(x)).detach().numpy()
    np.testing.assert_allclose(head.embed("text", x, device="cpu"), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="layers: expected one width"):
        wgoal.Head.from_torch(image, torch.nn.Linear(3, 7))


def test_a_trainer_goes_epoch_by_epoch(folder, tmp_path):
    steps, seen = [], []

    def callback(trainer, epoch):
        seen.append(epoch.epoch)
        trainer.checkpoint(tmp_path / "last.safetensors")
        if epoch.epoch == 2:
            trainer.stop()

    trainer = wgoal.Trainer(
        folder, OPTIONS, device="cpu", callbacks=[callback], on_step=lambda *step: steps.append(step)
    )
    assert trainer.steps_per_epoch == 5 and not trainer.finished
    losses = [epoch.loss for epoch in trainer]
    assert len(losses) == 2 and seen == [1, 2] and trainer.finished
    assert steps[0] == (1, 1, 5) and steps[-1] == (2, 5, 5) and len(steps) == 10
    assert trainer.recall("val").rsum == pytest.approx(trainer.history[-1].val.rsum)
    resumed = wgoal.Trainer(folder, resume=tmp_path / "last.safetensors", device="cpu").train()
    whole = wgoal.Trainer(folder, device="cpu", **OPTIONS).train()
    assert resumed.head == whole.head and resumed.finish() == whole.finish()
    assert whole.config["epochs"] == 3 and whole.epoch == 3 and whole.best_epoch is not None
    with pytest.raises(ValueError, match="options: expected none, because a run that is resumed"):
        wgoal.Trainer(folder, resume=tmp_path / "last.safetensors", epochs=5)


def test_an_exception_of_a_callback_reaches_the_caller(folder):
    def fail(epoch, step, steps):
        if step == 3:
            raise ZeroDivisionError(f"at {step}")

    trainer = wgoal.Trainer(folder, OPTIONS, device="cpu", on_step=fail)
    with pytest.raises(ZeroDivisionError, match="at 3"):
        trainer.train()
    with pytest.raises(ValueError, match="found one that was stopped"):
        trainer.run_epoch()
    busy = wgoal.Trainer(folder, OPTIONS, device="cpu", on_step=lambda *_: busy.epoch)
    with pytest.raises(RuntimeError, match="ask between its epochs"):
        busy.train()


def test_options_are_those_of_the_command_line(folder):
    with pytest.raises(ValueError, match="found learning_rate: .*; use lr;"):
        wgoal.Trainer(folder, learning_rate=1)
    with pytest.raises(ValueError, match="invalid value 'many'"):
        wgoal.Trainer(folder, epochs="many")
    with pytest.raises(ValueError, match="^out: expected an option of `wgoal train` that changes the result"):
        wgoal.JointHead(out="x").fit(folder)
    with pytest.raises(ValueError, match="^mixed: expected an option of `wgoal train` that changes the result"):
        wgoal.JointHead(mixed=True).fit(folder)
    with pytest.warns(UserWarning, match="^tau has no effect"):
        wgoal.Trainer(folder, {**OPTIONS, "tau": 2.0}, device="cpu")
    with pytest.raises(ValueError, match="is not|expected"):
        wgoal.Trainer(folder, objective="nothing")


def test_a_dataset_of_arrays(features, folder):
    images, texts, owners = features
    dataset = wgoal.Dataset.from_arrays(images, texts, owners, split_train=np.arange(100), split_val=np.arange(120) >= 100)
    assert (dataset.images, dataset.texts, dataset.image_dim, dataset.text_dim) == (120, 240, 12, 8)
    rows, captions, places = dataset.split("val")
    np.testing.assert_array_equal(rows, np.arange(100, 120))
    np.testing.assert_array_equal(owners[captions], rows[places])
    np.testing.assert_array_equal(dataset.rows("text", [7, 3]), texts[[7, 3]])
    np.testing.assert_array_equal(dataset.rows("text", owners == 4), texts[8:10])
    np.testing.assert_array_equal(dataset.text_to_image, owners)
    assert "images: 120, 12 wide" in repr(dataset)
    with pytest.raises(ValueError, match="row 2 of array images|images"):
        bad = images.copy()
        bad[2, 1] = np.inf
        wgoal.Dataset.from_arrays(bad, texts, owners).rows("image")
    with pytest.raises(ValueError, match="text_to_image"):
        wgoal.Dataset.from_arrays(images, texts, owners[:-1])
    with pytest.raises(FileNotFoundError):
        wgoal.Dataset.open(folder / "nothing")


def test_memory_mapped_arrays_stay_on_disk(features, tmp_path):
    images, texts, owners = features
    np.save(tmp_path / "x.npy", images.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for part, rows in [(mapped, slice(None)), (mapped[20:90], slice(20, 90)), (mapped[::2], slice(None, None, 2))]:
        owned = np.arange(len(part))
        dataset = wgoal.Dataset.from_arrays(part, texts[: len(part)], owned)
        np.testing.assert_array_equal(dataset.rows("image"), images.astype(np.float16)[rows].astype(np.float32))
    # A dataset of more than 2^31 values, in a sparse file.
    rows, width = 2**15 + 1, 2**16
    large = np.memmap(tmp_path / "large", np.float32, mode="w+", shape=(rows, width))
    large[-1] = 3
    owned = np.arange(rows)
    few = dict(split_train=owned[:3], split_val=owned[-3:])
    dataset = wgoal.Dataset.from_arrays(large, np.ones((rows, 1), np.float32), owned, **few)
    np.testing.assert_array_equal(dataset.rows("image", [rows - 1, 0]).sum(1), [3 * width, 0])
    del large, dataset
    # A file that is changed later shows in the dataset: it was not copied.
    dataset = wgoal.Dataset.from_arrays(mapped, texts[:120], np.arange(120))
    changed = np.load(tmp_path / "x.npy", mmap_mode="r+")
    changed[5] = 7
    changed.flush()
    np.testing.assert_array_equal(dataset.rows("image", [5]), np.full((1, 12), 7, np.float32))
