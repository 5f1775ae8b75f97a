"""Objectives as JAX functions with a gradient of their own.

``loss`` calls wgoal on the host through ``jax.pure_callback``, so it also works inside ``jax.jit`` and ``jax.grad``.
Arrays of a GPU or a TPU are copied through the host.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from wgoal import _options, _wgoal

__all__ = ["loss"]


def loss(
    images,
    texts,
    objective: str = "cir:sig-ms",
    *,
    ids=None,
    reduction: str = "sum",
    normalize: bool = True,
    temperature=None,
    device: str = "auto",
    weights=None,
    param=None,
    **parameters: float,
):
    """The value of an objective at images and texts (pairs, width), whose row i is a pair.

    It is differentiable once, at images, texts and temperature. The arguments are those of `wgoal.torch.Loss`;
    `temperature` may be a traced value.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction: expected sum or mean, found {reduction!r}; choose one of them")
    logits = _wgoal.logits(objective, *_options.objective(weights, param, temperature=None, **parameters))
    if temperature is None:
        temperature = logits[0] if logits else 1.0
    elif logits is None:
        raise ValueError(f"temperature: expected an objective with infonce or siglip, found {objective}; leave it out")
    file = None if weights is None else (str(weights), tuple(sorted((param or {}).items())))
    static = (objective, reduction, normalize, device, logits is not None, tuple(sorted(parameters.items())), file)
    ids = jnp.zeros((0,), jnp.int32) if ids is None else jnp.asarray(ids)
    return _loss(static, jnp.asarray(images), jnp.asarray(texts), ids, jnp.asarray(temperature, jnp.float32))


def _host(static, images, texts, ids, temperature):
    objective, reduction, normalize, device, has_logits, parameters, file = static
    x, y = (np.ascontiguousarray(value, np.float32) for value in (images, texts))
    ids = np.asarray(ids)
    parameters = dict(parameters)
    if file is not None:
        parameters.update(weights=file[0], param=dict(file[1]))
    if has_logits:
        parameters["temperature"] = float(temperature)
    found = _wgoal.gradients(x, y, objective, ids if ids.size else None, normalize, device, None, **parameters)
    scale = np.float32(1.0 / len(x) if reduction == "mean" else 1.0)
    return (
        scale * np.float32(found.loss),
        np.asarray(scale * found.images, images.dtype),
        np.asarray(scale * found.texts, texts.dtype),
        scale * np.float32(found.temperature),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(static, images, texts, ids, temperature):
    return _forward(static, images, texts, ids, temperature)[0]


def _forward(static, images, texts, ids, temperature):
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    shapes = (
        scalar,
        jax.ShapeDtypeStruct(images.shape, images.dtype),
        jax.ShapeDtypeStruct(texts.shape, texts.dtype),
        scalar,
    )
    value, *own = jax.pure_callback(partial(_host, static), shapes, images, texts, ids, temperature)
    return value, (*own, ids)


def _backward(static, kept, upstream):
    dx, dy, dt, ids = kept
    none = np.zeros(ids.shape, jax.dtypes.float0)
    return (upstream * dx).astype(dx.dtype), (upstream * dy).astype(dy.dtype), none, upstream * dt


_loss.defvjp(_forward, _backward)
