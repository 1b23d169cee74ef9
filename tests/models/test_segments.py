"""The spectrum between regular and depthwise separable convolutions: its sizes, which are worked out here."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.models.test_counts import abstract, count
from xception_jax import ops
from xception_jax.errors import UserError
from xception_jax.models import build_network

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
        build_network("xception", rngs=nnx.Rngs(0), segments=0)
