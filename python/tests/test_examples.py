"""Every example runs, and what it prints improves."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def run(root, folder, name, *arguments, timeout=240):
    """What an example prints. If it does not end in time, the test fails with the stacks of its processes."""
    command = [sys.executable, str(root / "python" / "examples" / name), *map(str, arguments)]
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    example = subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **pipes)
    try:
        out, err = example.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        waiting = threads(example.pid)
        if os.name == "posix":
            # Python prints the stacks of a process that this signal ends, unless it has begun to end by itself.
            os.killpg(example.pid, signal.SIGABRT)
        else:
            example.kill()
        out, err = example.communicate(timeout=30)
        pytest.fail(f"{name}: no end after {timeout} s\n{waiting}\n{out}\n{err}")
    assert example.returncode == 0, err
    return out


def threads(session):
    """The threads of the processes of a session: their processes, names, and what they wait for, on Linux."""
    found = []
    for task in Path("/proc").glob("[0-9]*/task/*"):
        try:
            name, rest = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
            if int(rest.split()[3]) == session:
                waits = (task / "wchan").read_text()
                call = (task / "syscall").read_text().split()[0]
                found.append(f"process {task.parts[2]} thread {task.name} {name}: {waits}, system call {call}")
        except (OSError, ValueError):
            continue
    return "\n".join(found)


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
    found = numbers(r"loss\s+(-?[\d.]+)", run(root, tmp_path, "distributed.py", timeout=90))
    assert found[-1] < found[0]
