"""Aligned Xception (L.-C. Chen et al., arXiv 1802.02611, figure 4), deeper and without max pools, as timm has it.

| here | timm | size at 299 | widths, stride of the last one |
|---|---|---|---|
| block1 | stem | 150 | 32/2, 64 |
| block2 .. | blocks.0 .. | 75, 38, 19 | entry flow: (128)/2, (256)/2, (728)/2; two more in xception71 |
| ... | ... | 19 | middle flow: 8 or 16 x (728) |
| the last two | the last two | 10 | exit flow: (728, 1024, 1024)/2, (1536, 1536, 2048) |

A block has three separable convolutions, each preceded by a ReLU; xception41p and xception65p use pre-activation:
normalization and ReLU before each. All padding is symmetric.

Shape legend: B batch, H height, W width, C channels in, D channels out.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xception_jax.models.backbone import Backbone
from xception_jax.models.head import Head, steps_of
from xception_jax.models.layers import (
    Numerics,
    SeparableConv,
    atrous,
    batch_norm,
    check_choice,
    conv,
    drop_path_rates,
    scaled,
    segmented_conv,
    stochastic_depth,
)

Widths = tuple[int, int, int]
Blocks = tuple[tuple[Widths, int], ...]  # widths of a block's separable convolutions, stride of the last one

SYMMETRIC = ((1, 1), (1, 1))
STEM_STRIDE = {"imagenet": 2, "small": 1}
MIN_IMAGE_SIZE = {"imagenet": 32, "small": 16}  # leaves a last map of one pixel

ENTRY: Blocks = (((128, 128, 128), 2), ((256, 256, 256), 2), ((728, 728, 728), 2))
LONG_ENTRY: Blocks = (
    ((128, 128, 128), 2),
    ((256, 256, 256), 1),
    ((256, 256, 256), 2),
    ((728, 728, 728), 1),
    ((728, 728, 728), 2),
)
MIDDLE: Blocks = (((728, 728, 728), 1),)
EXIT: Blocks = (((728, 1024, 1024), 2), ((1536, 1536, 2048), 1))


class Stem(nnx.Module):
    """Two 3x3 convolutions with batch normalization and ReLU; with pre-activation, the second has neither."""

    def __init__(
        self, stride: int, widths: tuple[int, int], *, preactivation: bool, numerics: Numerics, rngs: nnx.Rngs
    ):
        first, second = widths
        self.conv1 = conv(3, first, (3, 3), strides=stride, padding=SYMMETRIC, numerics=numerics, rngs=rngs)
        self.conv1_bn = batch_norm(first, numerics=numerics, rngs=rngs)
        self.conv2 = conv(first, second, (3, 3), padding=SYMMETRIC, numerics=numerics, rngs=rngs)
        self.conv2_bn = None if preactivation else batch_norm(second, numerics=numerics, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"], *, train: bool) -> Float[Array, "B h w D"]:
        x = self.conv2(nnx.relu(self.conv1_bn(self.conv1(x), use_running_average=not train)))
        return x if self.conv2_bn is None else nnx.relu(self.conv2_bn(x, use_running_average=not train))


class NormalizedSeparableConv(nnx.Module):
    """Depthwise 3x3 and pointwise 1x1 convolutions, each followed by batch normalization and, optionally, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        dilation: int,
        relu: bool,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        self.relu = relu
        self.depthwise = segmented_conv(
            in_channels, in_channels, stride=stride, dilation=dilation, numerics=numerics, rngs=rngs
        )
        self.depthwise_bn = batch_norm(in_channels, numerics=numerics, rngs=rngs)
        self.pointwise = conv(in_channels, out_channels, (1, 1), numerics=numerics, rngs=rngs)
        self.pointwise_bn = batch_norm(out_channels, numerics=numerics, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B h w D"]:
        for layer, norm in ((self.depthwise, self.depthwise_bn), (self.pointwise, self.pointwise_bn)):
            x = norm(layer(x), use_running_average=not train)
            if self.relu:
                x = nnx.relu(x)
        return x


class Block(nnx.Module):
    """Three separable convolutions, each after a ReLU, and a residual connection from the raw input.

    The last block of a network has no residual connection, and its ReLUs follow the normalizations instead.

    Args:
      in_channels: C.
      widths: output channels of the three convolutions; the last is D.
      stride: of the third convolution and of the shortcut.
      dilation: of the depthwise convolutions.
      residual: False for the last block.
      projected: the shortcut is a 1x1 convolution with batch normalization, not the identity.
      drop_rate: probability of dropping the main path for an image in training.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        stride: int,
        dilation: int,
        residual: bool,
        projected: bool,
        drop_rate: float,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        self.residual = residual
        channels = (in_channels, *widths[:-1])
        self.sepconvs = nnx.List(
            NormalizedSeparableConv(
                c, width, stride=s, dilation=dilation, relu=not residual, numerics=numerics, rngs=rngs
            )
            for c, width, s in zip(channels, widths, (1, 1, stride), strict=True)
        )
        if projected:
            self.shortcut: nnx.Conv | None = conv(
                in_channels, widths[-1], (1, 1), strides=stride, numerics=numerics, rngs=rngs
            )
            self.shortcut_bn: nnx.BatchNorm | None = batch_norm(widths[-1], numerics=numerics, rngs=rngs)
        else:
            self.shortcut = self.shortcut_bn = None
        self.drop_path = stochastic_depth(drop_rate)

    def __call__(
        self, x: Float[Array, "B H W C"], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "B H W c"], Float[Array, "B h w D"]]:
        """The input of the last, strided convolution (the last map at the input's stride), and the block's output."""
        y = x
        for sepconv in self.sepconvs:
            inner = nnx.relu(y) if self.residual else y
            y = sepconv(inner, train=train)
        if not self.residual:
            return inner, y
        if self.shortcut is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn(self.shortcut(x), use_running_average=not train)
        return inner, self.drop_path(y, deterministic=not train, rngs=rngs) + x


class PreactivationBlock(nnx.Module):
    """Batch normalization, ReLU and a bare separable convolution, three times; a residual connection.

    The shortcut has the same input as the first convolution. Arguments and results as for `Block`, except that a
    projected shortcut is a bare convolution, and the last map at the input's stride is not normalized.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        stride: int,
        dilation: int,
        residual: bool,
        projected: bool,
        drop_rate: float,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        self.residual = residual
        channels = (in_channels, *widths[:-1])
        self.norms = nnx.List(batch_norm(c, numerics=numerics, rngs=rngs) for c in channels)
        self.sepconvs = nnx.List(
            SeparableConv(c, width, between=None, stride=s, dilation=dilation, numerics=numerics, rngs=rngs)
            for c, width, s in zip(channels, widths, (1, 1, stride), strict=True)
        )
        self.shortcut = (
            conv(in_channels, widths[-1], (1, 1), strides=stride, numerics=numerics, rngs=rngs) if projected else None
        )
        self.drop_path = stochastic_depth(drop_rate)

    def __call__(
        self, x: Float[Array, "B H W C"], *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "B H W c"], Float[Array, "B h w D"]]:
        x = y = nnx.relu(self.norms[0](x, use_running_average=not train))
        y = self.sepconvs[0](y)
        for norm, sepconv in zip(self.norms[1:], self.sepconvs[1:], strict=True):
            inner = y
            y = sepconv(nnx.relu(norm(y, use_running_average=not train)))
        if not self.residual:
            return inner, y
        if self.shortcut is not None:
            x = self.shortcut(x)
        return inner, self.drop_path(y, deterministic=not train, rngs=rngs) + x


class AlignedXception(Backbone):
    """Aligned Xception; subclasses define the variants.

    The last map is non-negative and has 1/32 of the image's size and 2048 channels: 299 -> 10.

    Args:
      num_classes: width of the logits; 0 omits the logits layer.
      rngs: initialises the parameters (Glorot uniform).
      stem: "imagenet" (32 pixels or more) or "small" (16 pixels or more; the first convolution keeps the size).
      output_stride: 32, 16 or 8. Where the stride would exceed it, blocks keep the size and the convolutions after
        them are dilated: every 2nd (4th) pixel of the last map is the map at stride 32. The parameters are the same.
      hidden: widths of fully connected ReLU layers before the logits.
      head: in place of `hidden`, all that is before the logits, see `models.head`: "max_pool, dense 128 gelu".
      dropout: dropout rate before the logits layer, 0..1.
      drop_path: stochastic depth, probability of dropping a block's main path for an image in training, 0..1; it
        increases linearly from 0 in the first block to this value in the last.
      width: multiplies every channel count, rounded to multiples of 8.
      bn_epsilon: None is the value that timm's weights were trained with: 1e-3, or 1e-5 for xception41p.
      bn_momentum: weight of the old value in the running batch statistics.
      dtype: computation dtype, "float32" or "bfloat16".
      param_dtype: parameter dtype.

    Raises:
      UserError: an option has an invalid value.
    """

    blocks: ClassVar[Blocks]
    preactivation: ClassVar[bool] = False
    default_epsilon: ClassVar[float] = 1e-3

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        rngs: nnx.Rngs,
        stem: str = "imagenet",
        output_stride: int = 32,
        hidden: Sequence[int] = (),
        head: str = "",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        width: float = 1.0,
        bn_epsilon: float | None = None,
        bn_momentum: float = 0.99,
        dtype: DTypeLike = "float32",
        param_dtype: DTypeLike = "float32",
    ):
        check_choice("stem", stem, MIN_IMAGE_SIZE)
        self.min_image_size = MIN_IMAGE_SIZE[stem]
        epsilon = self.default_epsilon if bn_epsilon is None else bn_epsilon
        numerics = Numerics(epsilon, bn_momentum, jnp.dtype(dtype), jnp.dtype(param_dtype))
        steps = atrous([stride for _, stride in self.blocks], output_stride, before=STEM_STRIDE[stem])
        self.strides = (STEM_STRIDE[stem], *(step.output_stride for step in steps))

        first, channels = scaled((32, 64), width)
        preactivation = self.preactivation
        self.block1 = Stem(
            STEM_STRIDE[stem], (first, channels), preactivation=preactivation, numerics=numerics, rngs=rngs
        )
        rates = drop_path_rates(drop_path, len(self.blocks))
        last = len(self.blocks) - 1
        for i, ((widths, stride), step, rate) in enumerate(zip(self.blocks, steps, rates, strict=True)):
            residual = i < last
            block = (PreactivationBlock if preactivation else Block)(
                channels,
                scaled(widths, width),
                stride=step.stride,
                dilation=step.dilation,
                residual=residual,
                # By the strides before atrous removes any: the parameters are the same for every output stride.
                projected=residual and (stride != 1 or scaled(widths, width)[-1] != channels),
                drop_rate=rate,
                numerics=numerics,
                rngs=rngs,
            )
            setattr(self, f"block{i + 2}", block)
            channels = scaled(widths, width)[-1]
        self.num_features = channels
        between = steps_of(head, hidden=hidden, dropout=dropout)
        self.head = Head(channels, num_classes, steps=between, numerics=numerics, rngs=rngs)

    def maps(
        self, images: Float[Array, "B H W 3"], *, train: bool, rngs: nnx.Rngs | None
    ) -> dict[int, Float[Array, "B h w C"]]:
        with jax.named_scope("block1"):
            x = self.block1(images, train=self.trains("block1", train))
        maps = {}
        for i, (before, after) in enumerate(zip(self.strides, self.strides[1:], strict=False), 2):
            with jax.named_scope(name := f"block{i}"):
                maps[before], x = getattr(self, name)(x, train=self.trains(name, train), rngs=rngs)
                if self.preactivation and i == len(self.strides):
                    x = nnx.relu(x)
            maps[after] = x
        return maps


class Xception41(AlignedXception):
    """26,969,560 trainable parameters for 1000 classes."""

    blocks = ENTRY + 8 * MIDDLE + EXIT


class Xception65(AlignedXception):
    """39,916,312 trainable parameters for 1000 classes."""

    blocks = ENTRY + 16 * MIDDLE + EXIT


class Xception71(AlignedXception):
    """42,338,736 trainable parameters for 1000 classes."""

    blocks = LONG_ENTRY + 16 * MIDDLE + EXIT


class Xception41p(AlignedXception):
    """26,907,752 trainable parameters for 1000 classes; with pre-activation."""

    blocks = Xception41.blocks
    preactivation = True
    default_epsilon = 1e-5


class Xception65p(AlignedXception):
    """39,819,560 trainable parameters for 1000 classes; with pre-activation."""

    blocks = Xception65.blocks
    preactivation = True
