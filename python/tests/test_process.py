"""What a package must not do to the process that it is in."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import wgoal
from reference import batch


def python(code, *arguments, **options):
    """Runs code in another process, with this folder on its path."""
    here = os.path.dirname(__file__)
    environment = {**os.environ, "PYTHONPATH": here}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finished(process, timeout=120):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out


def test_two_threads_at_once_give_the_same_bits(device):
    x, y = batch(200, 64)
    expected = wgoal.gradients(x, y, device=device)
    found = {}

    def work(key):
        for _ in range(20):
            found[key] = wgoal.gradients(x, y, device=device)

    threads = [threading.Thread(target=work, args=(key,)) for key in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for key in range(2):
        assert found[key].loss == expected.loss
        np.testing.assert_array_equal(found[key].images, expected.images)


def test_other_threads_run_meanwhile(device):
    x, y = batch(3000, 256)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    wgoal.gradients(x, y, "hinge-sum", device=device)
    end = time.perf_counter()
    stop.set()
    thread.join()
    assert sum(start < at < end for at in ticks) >= 3


FORK = """
    import os, sys
    import numpy as np
    import wgoal
    from reference import batch
    x, y = batch(600, 32)
    def train():
        dataset = wgoal.Dataset.from_arrays(np.tile(x, 8), y)
        return wgoal.Trainer(dataset, recipe="goal", epochs=2, batch=512, device="cpu").train().head
    before, head = wgoal.gradients(x, y, device="cpu"), train()
    child = os.fork()
    if child == 0:
        after = wgoal.gradients(x, y, device="cpu")
        same = after.loss == before.loss and (after.images == before.images).all()
        wgoal.top_k(x, y, 3, device="cpu")
        wgoal.recall(x, y, device="cpu")
        # The thread that reads batches uses no thread of the parent.
        same &= train() == head
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_computes():
    finished(python(FORK), timeout=60)


CTRL_C = """
    import signal, sys, time
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import numpy as np
    import wgoal
    {setup}
    print("ready", flush=True)
    start = time.perf_counter()
    try:
        {work}
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(0)
    sys.exit("it ended by itself")
"""
LONG = [
    (
        "x = np.random.default_rng(0).standard_normal((40000, 128)).astype(np.float32)",
        'wgoal.gradients(x, x, "hinge-sum", normalize=True, device="cpu")',
    ),
    (
        "x = np.random.default_rng(0).standard_normal((60000, 128)).astype(np.float32)",
        'wgoal.top_k(x, x, 5, device="cpu")',
    ),
    (
        "x = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32); "
        'trainer = wgoal.Trainer(wgoal.Dataset.from_arrays(x, x), recipe="goal", epochs=100000, device="cpu")',
        "trainer.train()",
    ),
    (
        "x = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32); "
        'trainer = wgoal.Trainer(wgoal.Dataset.from_arrays(x, x), recipe="goal", epochs=100000, device="cpu", '
        "on_step=lambda *_: None)",
        "trainer.train()",
    ),
]


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize("setup, work", LONG, ids=["gradients", "top_k", "training", "training with a callback"])
def test_ctrl_c_ends_what_takes_long(setup, work):
    process = python(CTRL_C.format(setup=setup, work=work))
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    start = time.perf_counter()
    process.send_signal(signal.SIGINT)
    assert finished(process) == "interrupted\n"
    assert time.perf_counter() - start < 20


def test_the_import_is_quick_and_needs_neither_torch_nor_jax():
    code = """
        import sys, time
        import numpy
        start = time.perf_counter()
        import wgoal
        print(time.perf_counter() - start)
        assert "torch" not in sys.modules and "jax" not in sys.modules
    """
    seconds = min(float(finished(python(code))) for _ in range(3))
    assert seconds < 0.3, seconds


def test_the_command_line_is_there(tmp_path):
    run = [sys.executable, "-m", "wgoal"]
    version = subprocess.run([*run, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"wgoal {wgoal.__version__}\n"
    failed = subprocess.run([*run, "train", str(tmp_path / "none")], capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.startswith("error: ")
    wrong = subprocess.run([*run, "train", "--learning-rate", "1"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "use --lr" in wrong.stderr
    script = os.path.join(os.path.dirname(sys.executable), "wgoal")
    assert subprocess.run([script, "--version"], capture_output=True, text=True).stdout == version.stdout


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ctrl_c_ends_the_command_line(tmp_path, root):
    command = [sys.executable, "-m", "wgoal", "train", root / "data" / "clipart-mini", "--out", tmp_path / "run"]
    command += ["--recipe", "goal", "--epochs", "100000", "--device", "cpu"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    while "epoch   2" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped by Ctrl-C" in err
