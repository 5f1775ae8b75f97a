"""Learning curves of several objectives, with matplotlib.

    python learning_curves.py [DATASET] [OUT.png] [EPOCHS]
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import wgoal

path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "data" / "clipart-mini"
out = sys.argv[2] if len(sys.argv) > 2 else "curves.png"
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 10

dataset = wgoal.Dataset.open(path)
figure, axes = plt.subplots(figsize=(7, 4))
for objective in ("hinge", "cir:sig-ms", "infonce"):
    trainer = wgoal.Trainer(dataset, recipe="goal", objective=objective, epochs=epochs)
    curve = [(epoch.epoch, epoch.val.rsum) for epoch in trainer]
    axes.plot(*zip(*curve), label=objective)
    print(f"{objective}: best rsum {max(rsum for _, rsum in curve):.1f} of {len(curve)} epochs")
fit = wgoal.cca(dataset)
axes.axhline(fit.val.rsum, linestyle="--", color="gray", label="CCA, without training")
axes.set(xlabel="epoch", ylabel="validation rsum (at most 600)")
axes.legend()
figure.tight_layout()
figure.savefig(out)
