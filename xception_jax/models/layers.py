"""Layers shared by the networks.

Shape legend: B batch, H height, W width, C channels in, D channels out.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from xception_jax import ops
from xception_jax.errors import UserError, suggest
from xception_jax.models.initializers import glorot_uniform

Padding = str | Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Numerics:
    """Number formats and batch normalization constants, the same in every layer of a network.

    Attributes:
      bn_epsilon: added to the variance. Keras: 1e-3, timm's `legacy_xception`: 1e-5.
      bn_momentum: weight of the old value in the running statistics, 0..1.
      dtype: computation dtype (float32 or bfloat16); batch statistics are always float32.
      param_dtype: dtype of the parameters.
    """

    bn_epsilon: float = 1e-3
    bn_momentum: float = 0.99
    dtype: jnp.dtype = jnp.dtype("float32")
    param_dtype: jnp.dtype = jnp.dtype("float32")


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, int],
    *,
    numerics: Numerics = Numerics(),
    rngs: nnx.Rngs,
    strides: int = 1,
    padding: Padding = "SAME",
    dilation: int = 1,
    groups: int = 1,
    use_bias: bool = False,
) -> nnx.Conv:
    """A convolution that uses this project's operators. Kernel [h, w, in_channels / groups, out_channels]."""
    return nnx.Conv(
        in_channels,
        out_channels,
        kernel_size,
        strides=strides,
        padding=padding,
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=glorot_uniform,
        conv_general_dilated=ops.conv_general_dilated,
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )


class Pool(NamedTuple):
    """Arguments of a max pool."""

    window: int
    stride: int
    padding: Padding
    dilation: int


class BatchNorm(nnx.BatchNorm):
    """Batch normalization over all axes but the last, using this project's operators.

    Statistics are always float32, and those of the global batch if the batch is sharded under `jax.jit`.
    """

    def __call__(self, x: Float[Array, "*B C"], use_running_average: bool) -> Float[Array, "*B C"]:  # type: ignore[override]
        if not ops.current().fast("batch norm"):
            return super().__call__(x, use_running_average=use_running_average)
        x = x.astype(self.dtype)
        if use_running_average:
            return ops.affine(x, *self.scale_and_shift(self.mean[...], self.var[...]))
        y, mean, variance = ops.batch_norm(x, *self._scale_and_bias(), self.epsilon)
        self.update(mean, variance)
        return y

    def update(self, mean: Float[Array, " C"], variance: Float[Array, " C"]) -> None:
        """Updates the running statistics with those of a batch."""
        for running, batch in ((self.mean, mean), (self.var, variance)):
            updated = self.momentum * running[...] + (1 - self.momentum) * batch
            running.set_value(updated.astype(running[...].dtype))  # `running[...] =` is slow to trace

    def scale_and_shift(self, mean: Float[Array, " C"], variance: Float[Array, " C"]) -> tuple[jax.Array, jax.Array]:
        """The scale and the shift of normalization by these statistics: float32 [C]."""
        return ops.scale_and_shift(mean, variance, *self._scale_and_bias(), self.epsilon)

    def _scale_and_bias(self) -> tuple[jax.Array, jax.Array]:
        """The parameters, float32 [C]."""
        assert self.bias is not None
        scale = jnp.ones_like(self.mean[...]) if self.scale is None else self.scale[...].astype(jnp.float32)
        return scale, self.bias[...].astype(jnp.float32)

    def max_pool(self, x: Float[Array, "B H W C"], pool: Pool, use_running_average: bool) -> Float[Array, "B h w C"]:
        """The max pool of the normalized `x`. On GPUs, the normalized `x` itself is not computed."""
        if not ops.current().fast("max pool", on="gpu"):
            return ops.max_pool(self(x, use_running_average), *pool)
        x = x.astype(self.dtype)
        if use_running_average:
            statistics = self.mean[...], self.var[...]
        else:
            statistics = ops.batch_statistics(x)
            self.update(*statistics)
        return ops.affine_max_pool(
            x, *self.scale_and_shift(*statistics), pool.window, pool.stride, pool.padding, pool.dilation
        )


def batch_norm(channels: int, *, numerics: Numerics = Numerics(), rngs: nnx.Rngs, use_scale: bool = True) -> BatchNorm:
    """A batch normalization layer."""
    return BatchNorm(
        channels,
        epsilon=numerics.bn_epsilon,
        momentum=numerics.bn_momentum,
        use_scale=use_scale,
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )


class UnevenConv(nnx.Module):
    """A 3x3 convolution over segments of the channels, of two widths, as their number does not divide the channels.

    `wider` is of the first C mod n segments, which have one channel more than those of `narrower`.
    """

    def __init__(self, channels: int, segments: int, **options: Any):
        self.split = channels % segments * (channels // segments + 1)
        self.wider = conv(self.split, self.split, (3, 3), groups=channels % segments, **options)
        rest = channels - self.split
        self.narrower = conv(rest, rest, (3, 3), groups=segments - channels % segments, **options)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        return jnp.concatenate([self.wider(x[..., : self.split]), self.narrower(x[..., self.split :])], -1)


def segmented_conv(
    channels: int,
    segments: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    numerics: Numerics = Numerics(),
    rngs: nnx.Rngs,
) -> nnx.Conv | UnevenConv:
    """A 3x3 convolution of each of `segments` equal segments of the channels by itself, padded symmetrically.

    1 is a regular convolution, `channels` a depthwise one. If the number does not divide the channels, the first
    segments have a channel more than the last ones.
    """
    around = ((dilation, dilation), (dilation, dilation))
    options: dict[str, Any] = {"strides": stride, "padding": around, "dilation": dilation}
    if channels % segments:
        return UnevenConv(channels, segments, numerics=numerics, rngs=rngs, **options)
    return conv(channels, channels, (3, 3), groups=segments, numerics=numerics, rngs=rngs, **options)


class SeparableConv(nnx.Module):
    """Depthwise 3x3 convolution, then pointwise 1x1, no biases (paper, sections 1.2 and 4.7).

    With fewer `segments` than channels, the 3x3 convolution is over that many segments of the channels: a point of the
    paper's spectrum between a regular convolution (1 segment, with the pointwise convolution, as there) and a depthwise
    one (None: a segment a channel). It is called `depthwise` all the same. A layer with fewer channels is depthwise.

    Between layers in a row, a pointwise convolution and the 3x3 convolution after it are an Inception module of n
    towers, each 1x1 and then 3x3, as the paper simplifies it (figures 2 and 3).

    `between` is the activation between the two; the paper finds that none is best. Stride and dilation apply to the
    3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        segments: int | None = None,
        between: Callable[[jax.Array], jax.Array] | None = None,
        stride: int = 1,
        dilation: int = 1,
        numerics: Numerics = Numerics(),
        rngs: nnx.Rngs,
    ):
        segments = min(segments or in_channels, in_channels)
        self.depthwise = segmented_conv(
            in_channels, segments, stride=stride, dilation=dilation, numerics=numerics, rngs=rngs
        )
        self.pointwise = conv(in_channels, out_channels, (1, 1), numerics=numerics, rngs=rngs)
        self.between = between
        self.is_plain = between is None and segments == in_channels

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        x = self.depthwise(x)
        if self.between is not None:
            x = self.between(x)
        return self.pointwise(x)

    def normalized(
        self, x: Float[Array, "B H W C"], scale: Float[Array, " C"], shift: Float[Array, " C"], *, relu: bool
    ) -> tuple[Float[Array, "B H W D"], Float[Array, " D"], Float[Array, " D"]]:
        """The convolution of x * scale + shift, or of its ReLU, and its batch statistics, as one operator.

        Requires stride 1 and that the layer `is_plain`: depthwise, with no activation between the two convolutions.
        """
        assert isinstance(self.depthwise, nnx.Conv)
        dtype = self.depthwise.dtype
        kernels = (conv.kernel[...].astype(dtype) for conv in (self.depthwise, self.pointwise))
        dilation: Any = self.depthwise.kernel_dilation
        return ops.normalized_separable_conv(x.astype(dtype), scale, shift, *kernels, relu=relu, dilation=dilation)


def stochastic_depth(rate: float) -> nnx.Dropout:
    """Stochastic depth (G. Huang et al., arXiv 1603.09382): in training, a residual block's main path is zeroed for an
    image with probability `rate`, and divided by 1 - rate otherwise."""
    return nnx.Dropout(rate, broadcast_dims=(1, 2, 3))


def drop_path_rates(highest: float, num_blocks: int) -> list[float]:
    """Each block's drop rate, from 0 in the first to `highest` in the last, as in timm."""
    return [highest * i / (num_blocks - 1) for i in range(num_blocks)]


class Stride(NamedTuple):
    """A block's own stride and dilation, and the network's total stride after it."""

    stride: int
    dilation: int
    output_stride: int


def atrous(strides: Sequence[int], output_stride: int, *, before: int) -> list[Stride]:
    """Limits the stride of a network to `output_stride` (L.-C. Chen et al., arXiv 1706.05587, section 3.1).

    A block that would exceed the limit gets stride 1 instead, and all later blocks are dilated by that factor.

    Args:
      strides: of the blocks, in order.
      output_stride: 32, 16 or 8.
      before: stride of the first block's input.
    """
    steps, dilation = [], 1
    for stride in strides:
        kept = stride if before * stride <= output_stride else 1
        before *= kept
        steps.append(Stride(kept, dilation, before))
        dilation *= stride // kept
    return steps


def global_average(x: Float[Array, "B H W C"]) -> Float[Array, "B C"]:
    """The mean over all pixels, float32."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def scaled(channels: Sequence[int], width: float) -> tuple[int, ...]:
    """Channel counts times `width`, rounded to multiples of 8, at least 8; unchanged if `width` is 1."""
    return tuple(channels) if width == 1 else tuple(max(8, round(c * width / 8) * 8) for c in channels)


def check_choice(option: str, value: str, choices: Collection[str]) -> None:
    """Raises UserError unless `value` is one of `choices`."""
    if value not in choices:
        raise UserError(f'unknown {option} "{value}"; {suggest(str(value), choices)}')


def check_images(images: Array) -> None:
    """Raises UserError unless these are images as networks take them: [B, H, W, 3], normalized."""
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"images are [B, H, W, 3]; these are {list(images.shape)}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"the images are {images.dtype}, which a network does not take as they are: model(model.preprocess(images))"
        )


def check_image_size(shape: tuple[int, ...], smallest: int) -> None:
    """Raises UserError if images [B, H, W, 3] are too small for the network's strides."""
    if min(shape[1:3]) < smallest:
        raise UserError(
            f"images of {shape[1]}x{shape[2]} pixels are too small: the network's strides need "
            f"{smallest} pixels or more"
            + ('; with stem="small", 32 are enough' if smallest > 32 else "; use a larger image_size")
        )
