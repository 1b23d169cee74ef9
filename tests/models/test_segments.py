"""The spectrum between regular and depthwise separable convolutions, against the paper's towers, by PyTorch in float64,
and against sizes that are worked out here."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn.functional import batch_norm, conv2d

from tests.models.test_counts import abstract, count
from xception_jax import ops
from xception_jax.errors import UserError
from xception_jax.models import create_model
from xception_jax.models.layers import Numerics, SeparableConv
from xception_jax.models.xception import Block

# The separable convolutions: how many, channels in and out, height and width of the map at 299 pixels.
LAYERS = (
    (1, 64, 128, 147), (1, 128, 128, 147), (1, 128, 256, 74), (1, 256, 256, 74), (1, 256, 728, 37), (1, 728, 728, 37),
    (25, 728, 728, 19), (1, 728, 1024, 19), (1, 1024, 1536, 10), (1, 1536, 2048, 10),
)  # fmt: skip
# Multiplications of all else: the stem, the shortcuts and the logits.
OTHERS = (
    149**2 * 32 * 9 * 3 + 147**2 * 64 * 9 * 32
    + 74**2 * 64 * 128 + 37**2 * 128 * 256 + 19**2 * 256 * 728 + 10**2 * 728 * 1024 + 2048 * 1000
)  # fmt: skip


def widths(channels, segments):
    """Of the segments: 10 channels in 4 are 3, 3, 2 and 2."""
    return [len(part) for part in np.array_split(np.arange(channels), min(segments or channels, channels))]


def products(channels, segments):
    """Of one pixel, and parameters, of a 3x3 convolution."""
    return 9 * sum(n**2 for n in widths(channels, segments))


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


@pytest.mark.parametrize(
    ("segments", "parameters"),
    # Depthwise kernels have 9 C parameters, n segments 9 C^2 / n: over all layers 207,432 and 160,968,384 / n.
    [(None, 22_855_952), (1, 183_616_904), (2, 103_132_712), (4, 62_890_616), (8, 42_769_568)],
)
def test_parameters(segments, parameters):
    assert count(abstract("xception", segments=segments)) == parameters


@pytest.mark.parametrize("segments", [None, 1, 3, 8, 32])
def test_multiplications(segments):
    """Of a picture of 299 pixels, and the parameters once more, with segments that do not divide the channels."""
    model = abstract("xception", segments=segments)
    others = 864 + 18_432 + 64 * 128 + 128 * 256 + 256 * 728 + 728 * 1024 + 2048 * 1000 + 1000
    norms = 2 * (32 + 64 + 128 + 256 + 728 + 1024) + 2 * sum(n * out for n, _, out, _ in LAYERS)
    layers = sum(n * (products(c, segments) + c * out) for n, c, out, _ in LAYERS)
    assert count(model) == others + norms + layers

    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
    with ops.as_reference():
        program = jax.make_jaxpr(lambda state, x: nnx.merge(graphdef, state)(x))(state, images)
    expected = OTHERS + sum(n * side**2 * (products(c, segments) + c * out) for n, c, out, side in LAYERS)
    assert multiplications(program.jaxpr) == expected


def multiplications(jaxpr):
    """Of its convolutions and matrix products, those with the padding's zeros, too."""
    total = 0
    for equation in jaxpr.eqns:
        total += sum(multiplications(p.jaxpr) for p in equation.params.values() if hasattr(p, "jaxpr"))
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            kernel = equation.invars[1].aval.shape
            total += equation.outvars[0].aval.size * int(np.prod(kernel[:-1]))
    return total


@pytest.mark.parametrize("segments", [2048, 10_000])
def test_one_segment_a_channel_is_the_network_of_the_paper(segments):
    """Names, shapes and structure; trained weights load as before."""
    plain, most = (nnx.split(abstract("xception", segments=n)) for n in (None, segments))
    assert plain[0] == most[0]
    shapes = [jax.tree.map(lambda x: x.shape, nnx.to_pure_dict(state)) for _, state in (plain, most)]
    assert shapes[0] == shapes[1]


def test_no_segments_are_refused():
    with pytest.raises(UserError, match="segments is 0; it must be 1 or more, or None"):
        create_model("xception", rngs=nnx.Rngs(0), segments=0)
