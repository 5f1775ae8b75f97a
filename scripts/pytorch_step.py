#!/usr/bin/env python3
"""The training step of `wgoal bench step` in PyTorch, and the ratio of the two, on this machine's CPU or a GPU.

    cargo build --release && python3 scripts/pytorch_step.py [--objective hinge | cir:sig-ms] [N:P:Q:D ...]
    ... --torch cuda --wgoal vulkan    # PyTorch's device, and ours

Two linear heads, L2 norm, the objective, gradient clip, AdamW. Hinge is differentiated; the gradient of cir:sig-ms is put
together on the similarities as docs/math.md writes it, with N x N masks. Rounds of both alternate; the medians are over
all rounds.
"""
import argparse
import json
import statistics
import subprocess
import time

import torch


def hinge(s):
    diagonal = torch.eye(len(s), dtype=torch.bool, device=s.device)
    positive = s.diag()
    cost_text = (0.2 + s - positive[:, None]).clamp(min=0).masked_fill(diagonal, 0)
    cost_image = (0.2 + s - positive[None, :]).clamp(min=0).masked_fill(diagonal, 0)
    loss = cost_text.max(1).values.sum() + cost_image.max(0).values.sum()
    return loss, loss.detach()


def mean_over(values, members):
    return (values * members).sum(1) / members.sum(1).clamp(min=1)


@torch.no_grad()
def cir_sig_ms_field(s, tau=1.0, alpha=2.0, beta=10.0, lambda_=0.5, threshold=0.1):
    """The gradient at the similarities (docs/math.md, "Assembled gradient"), and the scalar that falls with it."""
    diagonal = torch.eye(len(s), dtype=torch.bool, device=s.device)
    positive, anchors = s.diag(), torch.arange(len(s), device=s.device)
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
        loss = loss + (n - positive).sum()
    return field, loss


def cir_sig_ms(s):
    field, loss = cir_sig_ms_field(s)
    return (field * s).sum(), loss


SAMPLE = 0.02  # Seconds, at the end of which the last step's loss is waited for: as in `wgoal bench step`.
OBJECTIVES = {"hinge": hinge, "cir:sig-ms": cir_sig_ms}


def pytorch_rounds(device, objective, n, p, q, d, seconds=1.0):
    torch.manual_seed(0)
    batch = [torch.rand(n, p) * 2 - 1, torch.rand(n, q) * 2 - 1]
    if device != "cpu":  # Every step brings its batch to the device, as in wgoal; from pinned memory, the quickest way.
        batch = [part.pin_memory() for part in batch]
    heads = torch.nn.ModuleList([torch.nn.Linear(p, d), torch.nn.Linear(q, d)]).to(device)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=5e-4, weight_decay=1e-4)

    def step():
        images, texts = (part.to(device, non_blocking=True) for part in batch)
        x = torch.nn.functional.normalize(heads[0](images))
        y = torch.nn.functional.normalize(heads[1](texts))
        surrogate, loss = OBJECTIVES[objective](x @ y.T)
        optimizer.zero_grad()
        surrogate.backward()
        torch.nn.utils.clip_grad_norm_(heads.parameters(), 2.0)
        optimizer.step()
        return loss

    first = step().item()
    assert objective != "hinge" or first > 0
    for _ in range(10):
        last = step().item()
    assert last < first, "the loss must fall on one batch"
    def sample(steps):
        begin = time.perf_counter()
        for _ in range(steps):
            last = step()
        last.item()
        return (time.perf_counter() - begin) / steps

    steps = min(max(int(SAMPLE / sample(4)), 4), 256)
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds:
        times.append(1e3 * sample(steps))
    return statistics.median(times)


def wgoal(device, objective, shape):
    command = ["target/release/wgoal", "bench", "step", "--shape", shape, "--objective", objective]
    command += ["--device", device, "--json"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out)["median_ms"]


def main():
    arguments = argparse.ArgumentParser(description="A training step in PyTorch and in wgoal.")
    arguments.add_argument("--torch", choices=["cpu", "cuda"], default="cpu", help="PyTorch's device [cpu]")
    arguments.add_argument("--wgoal", default="cpu", help="wgoal's device [cpu]")
    arguments.add_argument("--objective", choices=OBJECTIVES, default="hinge")
    arguments.add_argument("--rounds", type=int, default=5, help="rounds of both, in turn [5]")
    arguments.add_argument("shapes", nargs="*", metavar="N:P:Q:D", default=["128:1280:384:256"])
    arguments = arguments.parse_args()
    where = f"{torch.get_num_threads()} threads" if arguments.torch == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}, {arguments.objective}")
    for shape in arguments.shapes:
        sizes = [int(size) for size in shape.split(":")]
        rounds = [
            (
                pytorch_rounds(arguments.torch, arguments.objective, *sizes),
                wgoal(arguments.wgoal, arguments.objective, shape),
            )
            for _ in range(arguments.rounds)
        ]
        theirs, ours = (statistics.median(column) for column in zip(*rounds))
        print(f"{shape}: PyTorch {theirs:.2f} ms, wgoal {ours:.2f} ms, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
