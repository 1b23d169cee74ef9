"""Two-dimensional convolution, which takes nearly all of a network's time.

Shape legend: B batch, H height, W width, h, w height and width of the output, C channels in, D channels out, G groups.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from xception_jax.ops.cpu.dense import NHWC, dense_conv
from xception_jax.ops.cpu.depthwise import depthwise_conv
from xception_jax.ops.cpu.grouped import grouped_conv
from xception_jax.ops.cpu.pointwise import pointwise_conv
from xception_jax.ops.lowering import current

MAX_TAPS = 49  # largest kernel of groups computed as shifted products, 7x7: compilation of larger ones takes too long


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    **others: Any,
) -> jax.Array:
    """`lax.conv_general_dilated`, with faster lowerings for most convolutions on the CPU.

    Results are equal up to rounding. Convolutions without a faster lowering use `lax` itself: those of dtypes that are
    not floating point, of other layouts than [B, H, W, C] and [kh, kw, C/G, D], and with unusual `others`, its other
    arguments.

    Raises:
      TypeError, ValueError: as `lax.conv_general_dilated`.
    """

    def plain() -> jax.Array:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
            **others,
        )

    lowering = current()
    if lowering.fast(on="gpu"):
        strided_1x1 = rhs.shape[:2] == (1, 1) and max(window_strides) > 1 and isinstance(padding, str)
        if strided_1x1 and _usual(lhs, rhs, dimension_numbers, others):
            # Only every second pixel is read. With explicit slicing, the gradient is not written at full size.
            lhs = lhs[:, :: window_strides[0], :: window_strides[1]]
            window_strides = (1, 1)
        return checkpoint_name(plain(), "convolution" if feature_group_count == 1 else "depthwise")
    if lowering.target != "cpu" or not _usual(lhs, rhs, dimension_numbers, others):
        return plain()
    (kh, kw, per_group, out_channels), channels = rhs.shape, lhs.shape[3]
    strides, dilation = (_pair(n) for n in (window_strides, rhs_dilation or (1, 1)))
    extent = [(k - 1) * d + 1 for k, d in zip((kh, kw), dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], extent, strides, padding)
    pads = (_pair(padding[0]), _pair(padding[1]))
    if any(n + sum(pad) < e for n, pad, e in zip(lhs.shape[1:3], pads, extent, strict=True)):
        return plain()  # the result is empty

    depthwise = feature_group_count == channels == out_channels and per_group == 1
    if depthwise and kh * kw <= MAX_TAPS and lowering.fast("depthwise"):
        return depthwise_conv(lhs, rhs, strides, pads, dilation)
    grouped = feature_group_count > 1 < per_group and kh * kw <= MAX_TAPS and precision is None
    if grouped and lowering.fast("convolution"):
        return grouped_conv(lhs, rhs, feature_group_count, strides, pads, dilation)
    pointwise = feature_group_count == kh == kw == 1 and per_group == channels and pads == ((0, 0), (0, 0))
    if pointwise and lowering.fast("pointwise"):
        return pointwise_conv(lhs, rhs, strides, precision)
    dense = feature_group_count == 1 and dilation == (1, 1) and precision is None and min(*pads[0], *pads[1]) >= 0
    if dense and not depthwise and not pointwise and lowering.fast("convolution"):
        return dense_conv(lhs, rhs, strides, pads)
    return plain()


def _usual(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, others: dict[str, Any]) -> bool:
    """Whether this is an ordinary convolution of NHWC images with a single floating-point dtype."""
    if lhs.ndim != 4 or rhs.ndim != 4 or lhs.dtype != rhs.dtype or not jnp.issubdtype(lhs.dtype, jnp.floating):
        return False
    ordinary = {"lhs_dilation": (1, 1), "batch_group_count": 1, "preferred_element_type": lhs.dtype}
    if any(value is not None and value != ordinary.get(name) for name, value in others.items()):
        return False
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    return numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)


def _pair(numbers: Sequence[int]) -> tuple[int, int]:
    """Two plain integers, as static arguments must be hashable."""
    first, second = numbers
    return int(first), int(second)
