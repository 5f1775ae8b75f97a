"""Times wgoal.gradients beside the same gradient in PyTorch, and beside the library's own time.

    python python/bench/gradients.py [--threads 2] [--seconds 2] [--json]

Values and gradients are compared before anything is timed. The library's own time is that of the same call of
GradientContext::gradients in Rust on the same arrays, without Python: the rest is what the package adds. Two candidates take turns, so a change
of the machine's speed meets both: first the package and the library, then the package and PyTorch. (A call that follows
PyTorch's finds other data in the caches, so the three do not take turns.) A time is the median over the rounds, and a
ratio is the median of the ratios within each round.
"""

import argparse
import json
import os
import statistics
import sys
import time

arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
arguments.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both libraries")
arguments.add_argument("--seconds", type=float, default=2.0, help="time for each pair of candidates")
arguments.add_argument("--shapes", default="128x256,512x512,2048x512", help="pairs x width")
arguments.add_argument("--json", action="store_true", help="print one JSON array")
options = arguments.parse_args()

# PyTorch's idle threads would otherwise spin beside the threads of wgoal.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAYON_NUM_THREADS", str(options.threads))

import numpy as np  # noqa: E402

import wgoal  # noqa: E402
from wgoal import _wgoal  # noqa: E402

try:
    import torch

    torch.set_num_threads(options.threads)
except ImportError:
    torch = None


def hinge(x, y, margin=0.2):
    s = x @ y.T
    p = s.diagonal()
    masked = s.masked_fill(torch.eye(len(s), dtype=torch.bool), -1.0)
    of_rows = (margin + masked.max(1).values - p).clamp(min=0).sum()
    return of_rows + (margin + masked.max(0).values - p).clamp(min=0).sum()


def infonce(x, y, temperature=0.07):
    logits = x @ y.T / temperature
    own = torch.arange(len(x))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def cir_sig_ms(x, y, tau=1.0, alpha=2.0, beta=10.0, center=0.5, reach=0.1, margin=0.5):
    """The GOAL gradient as a value whose gradient it is: the weights are detached."""
    s = x @ y.T
    pairs = len(s)
    with torch.no_grad():
        eye = torch.eye(pairs, dtype=torch.bool)
        p = s.diagonal()
        field = torch.zeros_like(s)
        for m, a in ((s, field), (s.T, field.T)):
            n, hardest = m.masked_fill(eye, -1.0).max(1)
            u = torch.exp(alpha * (p[:, None] - p[None, :]))
            in_u = (p[None, :] <= n[:, None] + reach) & ~eye
            v = torch.exp(-beta * (n[:, None] - m))
            in_v = (m >= p.min() - reach) & ~eye
            in_v.scatter_(1, hardest[:, None], False)
            mean_u = (u * in_u).sum(1) / in_u.sum(1).clamp(min=1)
            mean_v = (v * in_v).sum(1) / in_v.sum(1).clamp(min=1)
            positive = 1 / (torch.exp(alpha * (p - center)) + mean_u)
            negative = 1 / (torch.exp(-beta * (n - center)) + mean_v)
            t = torch.sigmoid(tau * ((1 - p) ** 2 + n**2 - 2 * margin**2))
            rows = torch.arange(pairs)
            a[rows, rows] -= t * positive
            a[rows, hardest] += t * negative
    return (field * s).sum()


OBJECTIVES = {"hinge": hinge, "cir:sig-ms": cir_sig_ms, "infonce": infonce}


def embeddings(pairs, dim):
    random = np.random.default_rng(0)
    x = random.standard_normal((pairs, dim))
    y = x + 5.0 * random.standard_normal((pairs, dim))
    return [(side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in (x, y)]


def of_torch(name, x, y):
    a, b = (torch.from_numpy(side).requires_grad_() for side in (x, y))
    value = OBJECTIVES[name](a, b)
    value.backward()
    return float(value.detach()), a.grad.numpy(), b.grad.numpy()


def check(name, x, y):
    """Compares the gradients of both. Rounding may move a similarity into a relative set or out of it: a few rows of
    cir:sig-ms may differ more."""
    g = wgoal.gradients(x, y, name, device="cpu")
    value, dx, dy = of_torch(name, x, y)
    if name != "cir:sig-ms":
        assert abs(g.loss - value) <= 1e-3 * abs(value), (name, g.loss, value)
    for own, other in ((g.images, dx), (g.texts, dy)):
        worst = np.abs(own - other).max(axis=1) / np.abs(other).max()
        assert np.quantile(worst, 0.99) < 1e-3 and worst.max() < 2e-2, (name, worst.max())


def turns(candidates, seconds):
    """The seconds of each candidate, which take turns."""
    times = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(next(iter(times.values()))) < 5:
        for name, run in candidates.items():
            # The caches hold the data of the candidate before, and threads sleep.
            run()
            times[name].append(run())
    return times


def ratio(times, others):
    """The median ratio within a round."""
    return statistics.median(time / other for time, other in zip(times, others))


def timed(call):
    def run():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return run


def main():
    rows = []
    for shape in options.shapes.split(","):
        pairs, dim = map(int, shape.split("x"))
        x, y = embeddings(pairs, dim)
        out = np.empty_like(x), np.empty_like(y)
        for name in OBJECTIVES:
            if torch is not None:
                check(name, x, y)
            package = timed(lambda: wgoal.gradients(x, y, name, device="cpu", out=out))
            library = lambda: _wgoal.time_gradients(x, y, name, out)  # noqa: E731
            found = turns({"wgoal": package, "native": library}, options.seconds)
            row = {"objective": name, "pairs": pairs, "width": dim}
            row.update({f"{key}_ms": round(1000 * statistics.median(value), 4) for key, value in found.items()})
            row["added_percent"] = round(100 * (ratio(found["wgoal"], found["native"]) - 1), 2)
            if torch is not None:
                found = turns({"wgoal": package, "torch": timed(lambda: of_torch(name, x, y))}, options.seconds)
                row["torch_ms"] = round(1000 * statistics.median(found["torch"]), 4)
                row["of_torch"] = round(ratio(found["wgoal"], found["torch"]), 3)
            rows.append(row)
            if not options.json:
                show(row, first=len(rows) == 1)
    if options.json:
        print(json.dumps(rows))


def show(row, first):
    if first:
        version = torch.__version__ if torch is not None else "none"
        print(f"{options.threads} threads, NumPy {np.__version__}, torch {version}, Python {sys.version.split()[0]}")
        print("objective   pairs  width     wgoal    native  added     torch  of torch")
    torch_ms = f"{row['torch_ms']:8.3f}  {row['of_torch']:8.2f}" if "torch_ms" in row else "       -         -"
    print(
        f"{row['objective']:10} {row['pairs']:6} {row['width']:6}  {row['wgoal_ms']:8.3f}  {row['native_ms']:8.3f}"
        f" {row['added_percent']:5.1f}%  {torch_ms}",
        flush=True,
    )


if __name__ == "__main__":
    main()
