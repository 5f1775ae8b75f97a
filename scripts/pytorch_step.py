#!/usr/bin/env python3
"""The training step of `wgoal bench step` in PyTorch, and the ratio of the two on this machine's CPU.

    cargo build --release && python3 scripts/pytorch_step.py [N:P:Q:D ...]

Two linear heads, L2 norm, hinge on the hardest negatives, gradient clip, AdamW. Rounds of both alternate; the medians
are over all rounds.
"""
import json
import statistics
import subprocess
import sys
import time

import torch


def pytorch_rounds(n, p, q, d, seconds=1.0):
    torch.manual_seed(0)
    images, texts = torch.rand(n, p) * 2 - 1, torch.rand(n, q) * 2 - 1
    heads = torch.nn.ModuleList([torch.nn.Linear(p, d), torch.nn.Linear(q, d)])
    optimizer = torch.optim.AdamW(heads.parameters(), lr=5e-4, weight_decay=1e-4)
    diagonal = torch.eye(n, dtype=torch.bool)

    def step():
        x = torch.nn.functional.normalize(heads[0](images))
        y = torch.nn.functional.normalize(heads[1](texts))
        s = x @ y.T
        positive = s.diag()
        cost_text = (0.2 + s - positive[:, None]).clamp(min=0).masked_fill(diagonal, 0)
        cost_image = (0.2 + s - positive[None, :]).clamp(min=0).masked_fill(diagonal, 0)
        loss = cost_text.max(1).values.sum() + cost_image.max(0).values.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(heads.parameters(), 2.0)
        optimizer.step()
        return loss.item()

    first = step()
    assert first > 0
    for _ in range(10):
        last = step()
    assert last < first, "the loss must fall on one batch"
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def wgoal(shape):
    command = ["target/release/wgoal", "bench", "step", "--shape", shape, "--objective", "hinge", "--device", "cpu", "--json"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out)["median_ms"]


def main():
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for shape in sys.argv[1:] or ["128:1280:384:256"]:
        n, p, q, d = map(int, shape.split(":"))
        rounds = [(pytorch_rounds(n, p, q, d), wgoal(shape)) for _ in range(5)]
        theirs, ours = (statistics.median(column) for column in zip(*rounds))
        print(f"{shape}: PyTorch {theirs:.2f} ms, wgoal {ours:.2f} ms, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
