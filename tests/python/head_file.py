"""Applies heads with the code of docs/head-file.md and compares the embeddings with those of `wgoal embed`. Heads with a
correction for hubs get its columns.

Arguments: numpy or torch, then for each head: the head, the folder of `wgoal embed` in npy format, and the features of
both sides as .npy files of f32.
"""

import sys

import numpy as np

from snippets import run

# Sums of up to 2,000 products in f32, in another order.
TOLERANCE = 2e-6

library, *heads = sys.argv[1:]
embed = run("head-file.md", "torch.hstack(parts)" if library == "torch" else "np.hstack(parts)")["embed"]
correct = run("head-file.md", "def correct")["correct"]
corrected = 0
assert heads and len(heads) % 4 == 0
for head, vectors, images, texts in zip(*[iter(heads)] * 4):
    for side, features in [("image", images), ("text", texts)]:
        x = np.load(features)[np.load(f"{vectors}/{side}_rows.npy")]
        if library == "torch":
            import torch

            found = np.array(embed(head, side, torch.tensor(x.tolist())).tolist())
        else:
            found = embed(head, side, x)
        expected = np.load(f"{vectors}/{side}s.npy")
        if expected.shape[1] == found.shape[1] + 2:
            found = correct(head, side, found)
            corrected += 1
        assert found.shape == expected.shape and len(found) > 0
        worst = np.abs(found - expected).max()
        assert worst < TOLERANCE, f"{head}, {side}: expected less than {TOLERANCE}, found {worst}"
        print(f"{library}, {head}, {side}: {found.shape}, differs by {worst:.1e}")
assert corrected == 4, corrected
