"""Objectives as PyTorch losses, and heads as PyTorch modules.

``Loss`` computes its gradient in wgoal and hands it to autograd. Tensors of a GPU are copied through the host: two
matrices each way per call.
"""

from __future__ import annotations

import math
from typing import Any, Optional

import numpy as np
import torch
from torch import nn

from wgoal import _options, _wgoal

__all__ = ["Encoder", "Loss"]

#: The range of a learned temperature, as in the library.
BOUNDS = (0.001, 0.5)


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images, texts, temperature, logit_bias, ids, text_image, call):
        x, y = (_host(name, tensor) for name, tensor in (("images", images), ("texts", texts)))
        values = [None if tensor is None else float(tensor) for tensor in (temperature, logit_bias)]
        found = call(x, y, ids, text_image, *values)
        scale = 1.0 / len(y) if call.mean else 1.0
        own = []
        for tensor, gradient in ((images, found.images), (texts, found.texts)):
            gradient = torch.from_numpy(gradient).to(device=tensor.device, dtype=tensor.dtype)
            own.append(gradient.mul_(scale) if call.mean else gradient)
        for tensor, gradient in ((temperature, found.temperature), (logit_bias, found.logit_bias)):
            own.append(None if tensor is None else torch.full_like(tensor, scale * gradient))
        ctx.save_for_backward(*own)
        return images.new_tensor(scale * found.loss, dtype=torch.float32)

    @staticmethod
    def backward(ctx, upstream):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "wgoal.torch.Loss: expected one backward pass, found create_graph=True; wgoal has no second "
                "derivatives: leave create_graph out"
            )
        own = []
        for needed, gradient in zip(ctx.needs_input_grad, ctx.saved_tensors):
            own.append(gradient * upstream.to(gradient.dtype) if needed and gradient is not None else None)
        return (*own, None, None, None)


def _host(name, tensor):
    """The values of a tensor as a float32 matrix on the host. CPU tensors of this type are not copied."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, found {type(tensor).__name__}; use torch.as_tensor")
    if tensor.dim() != 2:
        shape = tuple(tensor.shape)
        raise ValueError(f"{name}: expected a matrix (pairs, width), found shape {shape}; flatten each item to a row")
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: expected floating-point embeddings, found {tensor.dtype}; convert them with .float()")
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()


class _Call:
    """A call of `gradients` with the options of a loss."""

    def __init__(self, objective, mean, normalize, device, parameters):
        self.objective, self.mean, self.normalize = objective, mean, normalize
        self.device, self.parameters = device, parameters

    def __call__(self, x, y, ids, text_image, temperature, logit_bias):
        parameters = dict(self.parameters)
        if text_image is not None:
            parameters["text_image"] = text_image
        if temperature is not None:
            parameters["temperature"] = temperature
        if logit_bias is not None:
            parameters["logit_bias"] = logit_bias
        return _wgoal.gradients(x, y, self.objective, ids, self.normalize, self.device, None, **parameters)


class Loss(nn.Module):
    """An objective of wgoal as a loss.

    ``loss(images, texts, ids=None)`` takes two matrices (pairs, width), whose row i is a pair, and for every pair the
    number of its image. Pairs of one image are never negatives of each other. It returns a scalar, float32.
    ``loss(images, texts, text_image=rows)`` takes every image once, and the row of each text's image.

    Most GOAL gradients are not the gradient of any loss. The value is then the sum of hardest - positive, and the
    gradient is that of GOAL.

    Args:
        objective: a name as in `wgoal train --objective`, such as "cir:sig-ms", "infonce" or "infonce+0.5*cir:sig-ms".
        reduction: "sum" is the value as wgoal defines it: a sum over the batch for GOAL and the triplet losses, a mean for
            infonce and siglip. "mean" divides it, and the gradient, by the number of texts.
        learn_temperature: whether the temperature of infonce or siglip is learned (and the bias of siglip); by default
            as in the library, off for infonce and on for siglip. It is the Parameter `temperature`, clamped to 0.001
            to 0.5.
        normalize: divide each row by its length first. Rows that your model has normalised give the same gradient with
            or without it.
        device: as `wgoal --device`.
        parameters: those of `wgoal.gradients`, such as `margin=0.2`, also `weights` and `param` for the objective
            "custom".
    """

    def __init__(
        self,
        objective: str = "cir:sig-ms",
        reduction: str = "sum",
        learn_temperature: Optional[bool] = None,
        *,
        normalize: bool = True,
        device: str = "auto",
        temperature: Optional[float] = None,
        logit_bias: Optional[float] = None,
        **parameters: Any,
    ):
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction: expected sum or mean, found {reduction!r}; choose one of them")
        self.objective, self.reduction, self.normalize, self.device = objective, reduction, normalize, device
        self.parameters_of_objective = dict(parameters)
        named = _options.objective(temperature=temperature, logit_bias=logit_bias, **parameters)
        logits = _wgoal.logits(objective, *named)
        self.temperature = self.logit_bias = None
        if logits is None:
            if learn_temperature:
                raise ValueError(
                    f"learn_temperature: expected an objective with infonce or siglip, found {objective}; leave it out"
                )
            return
        start, bias, has_bias, learned = logits
        learn = learned if learn_temperature is None else bool(learn_temperature)
        if learn and not BOUNDS[0] <= start <= BOUNDS[1]:
            raise ValueError(
                f"temperature: expected {BOUNDS[0]} to {BOUNDS[1]} where it is learned, found {start}; choose another"
            )
        self.temperature = nn.Parameter(torch.tensor(start), requires_grad=learn)
        if has_bias:
            self.logit_bias = nn.Parameter(torch.tensor(bias), requires_grad=learn)

    def forward(self, images: torch.Tensor, texts: torch.Tensor, ids=None, text_image=None) -> torch.Tensor:
        """The value at images and texts (pairs, width)."""
        ids, text_image = (
            rows.detach().cpu().numpy() if isinstance(rows, torch.Tensor) else rows for rows in (ids, text_image)
        )
        call = _Call(
            self.objective, self.reduction == "mean", self.normalize, self.device, self.parameters_of_objective
        )
        temperature = self.temperature
        if temperature is not None and temperature.requires_grad:
            with torch.no_grad():
                temperature.clamp_(*BOUNDS)
        return _Gradient.apply(images, texts, temperature, self.logit_bias, ids, text_image, call)

    def extra_repr(self):
        given = "".join(f", {name}={value}" for name, value in self.parameters_of_objective.items())
        return f"{self.objective!r}, reduction={self.reduction!r}, normalize={self.normalize}{given}"


class Encoder(nn.Module):
    """One side of a head: features (rows, width) to unit rows (rows, dim). Its weights are Parameters."""

    def __init__(self, head, side: str):
        super().__init__()
        tensors, self.signed_root = head.layers(side)
        fixed = ("mean", "inverse_std", "fourier.frequency", "fourier.phase", "landmarks.rows", "landmarks.shift")
        for name, value in tensors.items():
            key, value = name.replace(".", "_"), torch.from_numpy(np.array(value))
            if name in fixed:
                self.register_buffer(key, value)
            else:
                self.register_parameter(key, nn.Parameter(value))
        self.has = frozenset(name.split(".")[0] for name in tensors)

    def forward(self, x):
        if self.signed_root:
            x = torch.sign(x) * torch.sqrt(torch.abs(x))
        if "mean" in self.has:
            x = (x - self.mean) * self.inverse_std
        z = nn.functional.linear(x, self.weight, self.bias)
        if "fourier" in self.has:
            turns = x @ self.fourier_frequency.T + self.fourier_phase
            z = z + torch.cos(2 * math.pi * turns) @ self.fourier_weight.T
        if "landmarks" in self.has:
            unit = nn.functional.normalize(x)
            kernel = torch.exp(unit @ self.landmarks_rows.T + self.landmarks_shift)
            z = z + kernel @ self.landmarks_weight.T
        return nn.functional.normalize(z)
