import numpy as np
import pytest

import wgoal
from reference import batch

jax = pytest.importorskip("jax", exc_type=ImportError)

import jax.numpy as jnp  # noqa: E402

from wgoal.jax import loss  # noqa: E402


def test_value_and_gradient_inside_jit():
    x, y = batch(12, 8)
    g = wgoal.gradients(x, y, "cir:sig-ms", normalize=True, device="cpu")
    function = jax.jit(jax.value_and_grad(lambda a, b: 2 * loss(a, b, device="cpu"), argnums=(0, 1)))
    value, (dx, dy) = function(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(value, 2 * g.loss, rtol=1e-5)
    np.testing.assert_allclose(dx, 2 * g.images, rtol=1e-5)
    np.testing.assert_allclose(dy, 2 * g.texts, rtol=1e-5)


def test_a_temperature_has_a_gradient():
    x, y = batch(12, 8)

    def plain(t):
        logits = jnp.asarray(x) @ jnp.asarray(y).T / t
        own = jnp.arange(12)
        rows = -jax.nn.log_softmax(logits)[own, own].mean()
        return (rows - jax.nn.log_softmax(logits.T)[own, own].mean()) / 2

    def ours(t):
        return loss(jnp.asarray(x), jnp.asarray(y), "infonce", temperature=t, device="cpu")

    np.testing.assert_allclose(ours(0.1), plain(0.1), rtol=1e-4)
    np.testing.assert_allclose(jax.grad(ours)(0.1), jax.grad(plain)(0.1), rtol=1e-3)
