"""Convolutions over segments of the channels, against the paper's towers of convolutions, by PyTorch in float64."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.models.test_segments import widths
from xception_jax.models.layers import Numerics, SeparableConv
from xception_jax.models.xception import Block

torch = pytest.importorskip("torch")
conv2d, batch_norm = torch.nn.functional.conv2d, torch.nn.functional.batch_norm


def array(x, *axes):
    return torch.tensor(np.asarray(x, np.float64).transpose(axes))


def nchw(x):
    return array(x, 0, 3, 1, 2)


def taps(part):
    """Of a 3x3 convolution, as PyTorch has them, one a segment: [channels, channels, 3, 3]."""
    parts = [part[name] for name in ("wider", "narrower")] if "wider" in part else [part]
    kernels = [array(part["kernel"], 3, 2, 0, 1) for part in parts]
    return [one for kernel in kernels for one in kernel.split(kernel.shape[1])]


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(("segments", "dilation"), [(1, 1), (3, 1), (4, 2), (5, 1), (10, 1), (99, 2), (None, 1)])
def test_each_segment_is_convolved_by_itself(segments, dilation):
    """Values and gradients of a layer."""
    layer = SeparableConv(10, 6, segments=segments, dilation=dilation, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(layer)
    parameters, x = nnx.to_pure_dict(state), normal(2, 7, 6, 10)
    ours, pull = jax.vjp(lambda p, x: nnx.merge(graphdef, p)(x), parameters, x)
    cotangent = normal(2, 7, 6, 6, seed=1)
    gradients, to_x = pull(cotangent)

    leaves = [nchw(x), array(parameters["pointwise"]["kernel"], 3, 2, 0, 1), *taps(parameters["depthwise"])]
    wide, pointwise, *kernels = [leaf.requires_grad_() for leaf in leaves]
    assert [len(kernel) for kernel in kernels] == widths(10, segments)
    parts = zip(wide.split(widths(10, segments), 1), kernels, strict=True)
    mapped = torch.cat([conv2d(x, kernel, padding=dilation, dilation=dilation) for x, kernel in parts], 1)
    theirs = conv2d(mapped, pointwise)
    theirs.backward(nchw(cotangent))
    np.testing.assert_allclose(nchw(ours), theirs.detach(), atol=1e-5)
    np.testing.assert_allclose(nchw(to_x), wide.grad, atol=1e-5)
    for mine, kernel in zip(taps(gradients["depthwise"]), kernels, strict=True):
        np.testing.assert_allclose(mine, kernel.grad, atol=1e-4)


@pytest.mark.parametrize("towers", [3, 4])
def test_segments_are_the_towers_of_inception_modules(towers):
    """The paper's figure 2: towers of a 1x1 and a 3x3 convolution, concatenated; all have the module's input.

    They are between the first 3x3 convolution of a block and its last 1x1 convolution.
    """
    block = Block(
        8, (10, 10, 10), 1, halving=False, dilation=1, leading_relu=False, residual=False, drop_rate=0.0,
        segments=towers, between=None, pool_padding="SAME", numerics=Numerics(), rngs=nnx.Rngs(0),
    )  # fmt: skip
    for i, norm in enumerate(block.norms):
        for j, values in enumerate((norm.scale, norm.bias, norm.mean)):
            values[...] = normal(10, seed=3 * i + j)
    x = normal(2, 7, 6, 8)
    parameters = nnx.to_pure_dict(nnx.state(block, nnx.Param))["sepconvs"]

    def module(x, pointwise, norm, spatial):
        """An Inception module of towers that end where their channels are normalized and rectified."""
        kernels = array(pointwise["kernel"], 3, 2, 0, 1).split(widths(10, towers))
        places = np.array_split(np.arange(10), towers)
        concatenated = []
        for one_by_one, place, three_by_three in zip(kernels, places, taps(spatial), strict=True):
            statistics = [array(v[...][place], 0) for v in (norm.mean, norm.var, norm.scale, norm.bias)]
            tower = batch_norm(conv2d(x, one_by_one), *statistics, eps=1e-3).relu()
            concatenated.append(conv2d(tower, three_by_three, padding=1))
        return torch.cat(concatenated, 1)

    parts = nchw(x).split(widths(8, towers), 1)
    y = torch.cat([conv2d(x, k, padding=1) for x, k in zip(parts, taps(parameters[0]["depthwise"]), strict=True)], 1)
    for i in (0, 1):
        y = module(y, parameters[i]["pointwise"], block.norms[i], parameters[i + 1]["depthwise"])
    y = conv2d(y, array(parameters[2]["pointwise"]["kernel"], 3, 2, 0, 1))
    statistics = [array(v[...], 0) for v in (block.norms[2].mean, block.norms[2].var)]
    y = batch_norm(y, *statistics, *(array(v[...], 0) for v in (block.norms[2].scale, block.norms[2].bias)), eps=1e-3)
    np.testing.assert_allclose(nchw(block(x, train=False)), y, atol=2e-4)
