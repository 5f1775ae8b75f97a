"""A plain PyTorch training loop with an objective of wgoal as its loss.

    python training_loop.py [DATASET] [EPOCHS]

The two towers are linear layers on the cached features of DATASET, by default the example dataset of the repository.
Replace them by encoders of your own.
"""

import sys
from pathlib import Path

import torch

import wgoal
from wgoal.torch import Loss

path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "data" / "clipart-mini"
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
torch.manual_seed(0)

dataset = wgoal.Dataset.open(path)
images, captions, places = (torch.tensor(rows) for rows in dataset.split("train"))
image_features = torch.tensor(dataset.rows("image"))
text_features = torch.tensor(dataset.rows("text"))

image_tower = torch.nn.Linear(dataset.image_dim, 256)
text_tower = torch.nn.Linear(dataset.text_dim, 256)
loss = Loss("infonce+0.5*cir:sig-ms", learn_temperature=True)
parameters = [*image_tower.parameters(), *text_tower.parameters(), *loss.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=1e-3)


def validate():
    rows, texts, places = dataset.split("val")
    with torch.no_grad():
        x, y = image_tower(image_features[rows]), text_tower(text_features[texts])
    return wgoal.recall(x, y, places, normalize=True)


for epoch in range(1, epochs + 1):
    total = 0.0
    for batch in torch.randperm(len(captions)).split(128):
        # Captions of the same image are not negatives of each other.
        ids = places[batch]
        x = image_tower(image_features[images[ids]])
        y = text_tower(text_features[captions[batch]])
        value = loss(x, y, ids)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total += float(value)
    print(f"epoch {epoch}  loss {total:9.2f}  temperature {float(loss.temperature):.4f}  val rsum {validate().rsum:.1f}")
