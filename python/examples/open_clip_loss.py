"""open_clip's ClipLoss, replaced by a GOAL gradient.

    python open_clip_loss.py

`GoalLoss` takes the arguments of open_clip.ClipLoss, so it can stand in its place:

    loss = GoalLoss("cir:sig-ms")                      # was: open_clip.ClipLoss()
    loss(image_features, text_features, logit_scale)

The script trains two small towers with it. With open_clip, give it what `model(images, texts)` returns.
"""

import torch

from wgoal.torch import Loss


class GoalLoss(torch.nn.Module):
    """An objective of wgoal with the arguments of open_clip.ClipLoss."""

    def __init__(self, objective="cir:sig-ms", **options):
        super().__init__()
        # open_clip's loss is a mean over the batch.
        self.loss = Loss(objective, reduction="mean", **options)

    def forward(self, image_features, text_features, logit_scale=None, logit_bias=None, output_dict=False):
        # GOAL gradients compare cosines, so they do not read the scale of the logits.
        value = self.loss(image_features, text_features)
        return {"goal_loss": value} if output_dict else value


if __name__ == "__main__":
    torch.manual_seed(0)
    common = torch.randn(256, 16)
    images, texts = (common @ torch.randn(16, width) for width in (64, 48))
    towers = torch.nn.ModuleList([torch.nn.Linear(64, 32), torch.nn.Linear(48, 32)])
    logit_scale = torch.nn.Parameter(torch.tensor(2.6593))
    loss = GoalLoss("cir:sig-ms")
    optimizer = torch.optim.AdamW([*towers.parameters(), logit_scale], lr=5e-3)
    for step in range(101):
        normalize = torch.nn.functional.normalize
        image_features, text_features = normalize(towers[0](images)), normalize(towers[1](texts))
        value = loss(image_features, text_features, logit_scale.exp(), output_dict=True)["goal_loss"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step % 25 == 0:
            right = (image_features @ text_features.T).argmax(1) == torch.arange(len(images))
            print(f"step {step:3}  hardest - positive {float(value):6.3f}  R@1 {100 * right.float().mean():5.1f}")
