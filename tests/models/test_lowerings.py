"""A block of Xception as GPUs and TPUs compute it is the plain one: results, gradients and running statistics."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from xception_jax import ops
from xception_jax.models.layers import Numerics
from xception_jax.models.xception import Block


def block(stride, segments=None):
    numerics = Numerics(1e-3, 0.9, jnp.dtype("float32"), jnp.dtype("float32"))
    made = Block(
        4, (6, 8) if stride == 2 else (4, 4), stride, halving=stride == 2, dilation=1, leading_relu=True, residual=True,
        drop_rate=0.0, segments=segments, between=None, pool_padding="SAME", numerics=numerics, rngs=nnx.Rngs(0),
    )  # fmt: skip
    for i, norm in enumerate(made.norms):
        norm.scale[...] = jax.random.normal(jax.random.key(i), norm.scale.shape)  # negative ones too
        norm.bias[...] = jax.random.normal(jax.random.key(10 + i), norm.bias.shape)
    return made


def results(stride, train, segments=None):
    """Of the block as it is traced now: its result, gradients to the input and the parameters, and its statistics."""
    graphdef, params, statistics = nnx.split(block(stride, segments), nnx.Param, nnx.BatchStat)
    params, statistics = nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)

    def loss(x, params):
        model = nnx.merge(graphdef, params, statistics)
        y = model(x, train=train)
        return jnp.sum(jnp.sin(y)), (y, nnx.to_pure_dict(nnx.split(model, nnx.Param, nnx.BatchStat)[2]))

    x = jax.random.normal(jax.random.key(0), (4, 7, 8, 4))
    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, params)


@pytest.mark.parametrize(
    ("platform", "stride", "train", "segments"),
    [
        ("gpu", 2, True, None),
        ("gpu", 1, True, None),
        ("gpu", 2, False, None),
        ("gpu", 2, True, 4),  # of the first layer's channels, each: it is depthwise, and the other one is not
        ("tpu", 2, True, None),
        ("tpu", 1, True, None),
    ],
)
def test_block(platform, stride, train, segments):
    computed = []
    for context in (ops.as_reference(), contextlib.nullcontext()):
        with ops.for_platform(platform), context:
            computed.append(results(stride, train, segments))
    for a, b in zip(*map(jax.tree.leaves, computed), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(a).max()))
