#!/usr/bin/env python3
"""The training step of `wgoal bench step` in PyTorch, and the ratio of the two on this machine's CPU.

    cargo build --release && python3 scripts/pytorch_step.py [--objective hinge | cir:sig-ms] [N:P:Q:D ...]

Two linear heads, L2 norm, the objective, gradient clip, AdamW. Hinge is differentiated; the gradient of cir:sig-ms is put
together on the similarities as goal-math.md writes it, with N x N masks. Rounds of both alternate; the medians are over
all rounds.
"""
import argparse
import json
import statistics
import subprocess
import time

import torch


def hinge(s):
    diagonal = torch.eye(len(s), dtype=torch.bool)
    positive = s.diag()
    cost_text = (0.2 + s - positive[:, None]).clamp(min=0).masked_fill(diagonal, 0)
    cost_image = (0.2 + s - positive[None, :]).clamp(min=0).masked_fill(diagonal, 0)
    loss = cost_text.max(1).values.sum() + cost_image.max(0).values.sum()
    return loss, loss.item()


def mean_over(values, members):
    return (values * members).sum(1) / members.sum(1).clamp(min=1)


@torch.no_grad()
def cir_sig_ms_field(s, tau=1.0, alpha=2.0, beta=10.0, lambda_=0.5, threshold=0.1):
    """The gradient at the similarities (goal-math.md, section 5), and the scalar that falls with it."""
    diagonal = torch.eye(len(s), dtype=torch.bool)
    positive, anchors = s.diag(), torch.arange(len(s))
    field, loss = torch.zeros_like(s), 0.0
    for direction, out in (s, field), (s.T, field.T):
        m = direction.masked_fill(diagonal, -1)
        n, index = m.max(1)
        triplet = torch.sigmoid(tau * ((1 - positive) ** 2 + n**2 - 0.5))
        u = torch.exp(alpha * (positive[:, None] - positive[None, :]))
        in_u = ~diagonal & (positive[None, :] <= n[:, None] + threshold)
        v = torch.exp(-beta * (n[:, None] - m))
        in_v = ~diagonal & (m >= positive.min() - threshold)
        in_v[anchors, index] = False
        pull = triplet / (torch.exp(alpha * (positive - lambda_)) + mean_over(u, in_u))
        push = triplet / (torch.exp(-beta * (n - lambda_)) + mean_over(v, in_v))
        out.diagonal().sub_(pull)
        out[anchors, index] += push
        loss += (n - positive).sum().item()
    return field, loss


def cir_sig_ms(s):
    field, loss = cir_sig_ms_field(s)
    return (field * s).sum(), loss


OBJECTIVES = {"hinge": hinge, "cir:sig-ms": cir_sig_ms}


def pytorch_rounds(objective, n, p, q, d, seconds=1.0):
    torch.manual_seed(0)
    images, texts = torch.rand(n, p) * 2 - 1, torch.rand(n, q) * 2 - 1
    heads = torch.nn.ModuleList([torch.nn.Linear(p, d), torch.nn.Linear(q, d)])
    optimizer = torch.optim.AdamW(heads.parameters(), lr=5e-4, weight_decay=1e-4)

    def step():
        x = torch.nn.functional.normalize(heads[0](images))
        y = torch.nn.functional.normalize(heads[1](texts))
        surrogate, loss = OBJECTIVES[objective](x @ y.T)
        optimizer.zero_grad()
        surrogate.backward()
        torch.nn.utils.clip_grad_norm_(heads.parameters(), 2.0)
        optimizer.step()
        return loss

    first = step()
    assert objective != "hinge" or first > 0
    for _ in range(10):
        last = step()
    assert last < first, "the loss must fall on one batch"
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def wgoal(objective, shape):
    command = ["target/release/wgoal", "bench", "step", "--shape", shape, "--objective", objective]
    command += ["--device", "cpu", "--json"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out)["median_ms"]


def main():
    arguments = argparse.ArgumentParser(description="A training step in PyTorch and in wgoal, on this CPU.")
    arguments.add_argument("--objective", choices=OBJECTIVES, default="hinge")
    arguments.add_argument("shapes", nargs="*", metavar="N:P:Q:D", default=["128:1280:384:256"])
    arguments = arguments.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.objective}")
    for shape in arguments.shapes:
        sizes = [int(size) for size in shape.split(":")]
        rounds = [
            (pytorch_rounds(arguments.objective, *sizes), wgoal(arguments.objective, shape)) for _ in range(5)
        ]
        theirs, ours = (statistics.median(column) for column in zip(*rounds))
        print(f"{shape}: PyTorch {theirs:.2f} ms, wgoal {ours:.2f} ms, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
