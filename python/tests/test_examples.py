"""Every example runs, and what it prints improves."""

import re
import subprocess
import sys

import pytest


def run(root, folder, name, *arguments):
    command = [sys.executable, str(root / "python" / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern, text):
    return [float(found) for found in re.findall(pattern, text)]


def test_the_training_loop(root, tmp_path):
    pytest.importorskip("torch")
    found = numbers(r"val rsum ([\d.]+)", run(root, tmp_path, "training_loop.py", root / "data" / "clipart-mini", 3))
    assert len(found) == 3 and found[-1] > found[0] > 60


def test_the_loss_of_open_clip(root, tmp_path):
    pytest.importorskip("torch")
    found = numbers(r"R@1\s+([\d.]+)", run(root, tmp_path, "open_clip_loss.py"))
    assert found[0] < 20 and found[-1] > 90


def test_the_estimator(root, tmp_path):
    text = run(root, tmp_path, "estimator.py")
    assert numbers(r"rsum on other images: ([\d.]+)", text)[0] > 300 and "finds image 0," in text


def test_the_learning_curves(root, tmp_path):
    pytest.importorskip("matplotlib")
    text = run(root, tmp_path, "learning_curves.py", root / "data" / "clipart-mini", "curves.png", 2)
    assert len(numbers(r"best rsum ([\d.]+)", text)) == 3
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_several_processes(root, tmp_path):
    pytest.importorskip("torch.distributed.nn.functional")
    found = numbers(r"loss\s+(-?[\d.]+)", run(root, tmp_path, "distributed.py"))
    assert found[-1] < found[0]
