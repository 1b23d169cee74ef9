"""Xception, as in figure 5 of the paper (F. Chollet, arXiv 1610.02357): 36 convolutions in 14 modules.

22,855,952 trainable parameters for 1000 classes, the paper's table 3. The graph is the Keras reference's, layer by
layer; `bn_epsilon=1e-5, pool_padding="symmetric"` makes it timm's `legacy_xception`.

Shape legend: B batch, H height, W width, C channels in, D channels out, K classes.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xception_jax import ops
from xception_jax.models.layers import (
    Head,
    Numerics,
    Padding,
    SeparableConv,
    batch_norm,
    check_choice,
    check_image_size,
    conv,
    scaled,
)

BETWEEN: dict[str, Callable[[jax.Array], jax.Array] | None] = {"none": None, "relu": nnx.relu, "elu": nnx.elu}
POOL_PADDING: dict[str, Padding] = {"same": "SAME", "symmetric": ((1, 1), (1, 1))}
MIN_IMAGE_SIZE = {"imagenet": 71, "small": 32}

# Blocks of the main path: name, widths of its separable convolutions, stride.
ENTRY = (("block2", (128, 128), 2), ("block3", (256, 256), 2), ("block4", (728, 728), 2))
MIDDLE = tuple((f"block{i}", (728, 728, 728), 1) for i in range(5, 13))
EXIT = (("block13", (728, 1024), 2),)


class Stem(nnx.Module):
    """Module 1: two 3x3 convolutions, 32 and 64 channels, each with batch normalization and ReLU.

    "imagenet" halves the size and pads nothing (299 -> 149 -> 147); "small" keeps it, for pictures from 32 pixels.
    """

    def __init__(self, kind: str, widths: tuple[int, int], *, numerics: Numerics, rngs: nnx.Rngs):
        strides, padding = (2, "VALID") if kind == "imagenet" else (1, "SAME")
        self.conv1 = conv(3, widths[0], (3, 3), strides=strides, padding=padding, numerics=numerics, rngs=rngs)
        self.conv1_bn = batch_norm(widths[0], numerics=numerics, rngs=rngs)
        self.conv2 = conv(widths[0], widths[1], (3, 3), padding=padding, numerics=numerics, rngs=rngs)
        self.conv2_bn = batch_norm(widths[1], numerics=numerics, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"], *, train: bool) -> Float[Array, "B h w D"]:
        x = nnx.relu(self.conv1_bn(self.conv1(x), use_running_average=not train))
        return nnx.relu(self.conv2_bn(self.conv2(x), use_running_average=not train))


class Block(nnx.Module):
    """Modules 2 to 13: separable convolutions, each after a ReLU, a 3x3 max pool where the size halves, and a
    residual connection: a strided 1x1 convolution where the shape changes, the identity otherwise.

    The leading ReLU acts on the main path only; the shortcut takes the raw sum.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        stride: int,
        *,
        leading_relu: bool,
        residual: bool,
        between: Callable[[jax.Array], jax.Array] | None,
        pool_padding: Padding,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        self.stride, self.leading_relu, self.residual, self.pool_padding = stride, leading_relu, residual, pool_padding
        sepconvs, norms = [], []
        channels = in_channels
        for width in widths:
            sepconvs.append(SeparableConv(channels, width, between=between, numerics=numerics, rngs=rngs))
            norms.append(batch_norm(width, numerics=numerics, rngs=rngs))
            channels = width
        self.sepconvs, self.norms = nnx.List(sepconvs), nnx.List(norms)
        if residual and (stride != 1 or in_channels != channels):
            self.shortcut: nnx.Conv | None = conv(
                in_channels, channels, (1, 1), strides=stride, numerics=numerics, rngs=rngs
            )
            self.shortcut_bn: nnx.BatchNorm | None = batch_norm(channels, numerics=numerics, rngs=rngs)
        else:
            self.shortcut = self.shortcut_bn = None

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B h w D"]:
        y = x
        for i, (sepconv, norm) in enumerate(zip(self.sepconvs, self.norms, strict=True)):
            if i > 0 or self.leading_relu:
                y = nnx.relu(y)
            y = norm(sepconv(y), use_running_average=not train)
        if self.stride != 1:
            y = ops.max_pool(y, 3, self.stride, self.pool_padding)
        if not self.residual:
            return y
        if self.shortcut is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn(self.shortcut(x), use_running_average=not train)
        return y + x


class ExitBlock(nnx.Module):
    """Module 14: separable convolutions, each followed by batch normalization and ReLU; no residual connection."""

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int],
        *,
        between: Callable[[jax.Array], jax.Array] | None,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        self.sepconv1 = SeparableConv(in_channels, widths[0], between=between, numerics=numerics, rngs=rngs)
        self.sepconv1_bn = batch_norm(widths[0], numerics=numerics, rngs=rngs)
        self.sepconv2 = SeparableConv(widths[0], widths[1], between=between, numerics=numerics, rngs=rngs)
        self.sepconv2_bn = batch_norm(widths[1], numerics=numerics, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W D"]:
        x = nnx.relu(self.sepconv1_bn(self.sepconv1(x), use_running_average=not train))
        return nnx.relu(self.sepconv2_bn(self.sepconv2(x), use_running_average=not train))


class Xception(nnx.Module):
    """Xception.

    Args:
      num_classes: width of the logits; 0 leaves the logits layer out.
      rngs: initialises the parameters (Glorot uniform, as Keras).
      stem: "imagenet" (from 71 pixels) or "small" (from 32 pixels; the first convolution keeps the size).
      residual: False removes every residual connection (paper, section 4.6).
      between: activation between depthwise and pointwise: "none", "relu" or "elu" (paper, section 4.7).
      hidden: widths of fully connected ReLU layers before the logits; the paper's JFT networks have (4096, 4096).
      dropout: share of the logits layer's inputs dropped in training, 0..1; the paper's ImageNet networks have 0.5.
      width: multiplies every channel count, rounded to multiples of 8.
      pool_padding: "same" (TensorFlow, Keras) or "symmetric" (PyTorch, timm) padding of the max pools.
      bn_epsilon, bn_momentum: batch normalization constants.
      dtype: computation dtype, "float32" or "bfloat16".
      param_dtype: parameter dtype.

    Raises:
      UserError: an option has a value it cannot have.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        rngs: nnx.Rngs,
        stem: str = "imagenet",
        residual: bool = True,
        between: str = "none",
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        width: float = 1.0,
        pool_padding: str = "same",
        bn_epsilon: float = 1e-3,
        bn_momentum: float = 0.99,
        dtype: DTypeLike = "float32",
        param_dtype: DTypeLike = "float32",
    ):
        check_choice("stem", stem, MIN_IMAGE_SIZE)
        check_choice("between", between, BETWEEN)
        check_choice("pool_padding", pool_padding, POOL_PADDING)
        self.min_image_size = MIN_IMAGE_SIZE[stem]
        numerics = Numerics(bn_epsilon, bn_momentum, jnp.dtype(dtype), jnp.dtype(param_dtype))

        first, channels = scaled((32, 64), width)
        self.block1 = Stem(stem, (first, channels), numerics=numerics, rngs=rngs)
        for name, widths, stride in ENTRY + MIDDLE + EXIT:
            block = Block(
                channels,
                scaled(widths, width),
                stride,
                leading_relu=name != "block2",
                residual=residual,
                between=BETWEEN[between],
                pool_padding=POOL_PADDING[pool_padding],
                numerics=numerics,
                rngs=rngs,
            )
            setattr(self, name, block)
            channels = scaled(widths, width)[-1]
        last, self.num_features = scaled((1536, 2048), width)
        self.block14 = ExitBlock(
            channels, (last, self.num_features), between=BETWEEN[between], numerics=numerics, rngs=rngs
        )
        self.head = Head(self.num_features, num_classes, hidden=hidden, dropout=dropout, numerics=numerics, rngs=rngs)

    def features(self, images: Float[Array, "B H W 3"], *, train: bool = False) -> Float[Array, "B h w D"]:
        """The last feature map, 1/32 of the size, 2048 channels: 299 -> 10, non-negative.

        Args:
          images: values in [-1, 1].
          train: normalize with the batch's statistics and update the running ones.
        """
        check_image_size(images.shape, self.min_image_size)
        x = images
        for i in range(1, 15):
            with jax.named_scope(f"block{i}"):
                x = getattr(self, f"block{i}")(x, train=train)
        return x

    def __call__(
        self, images: Float[Array, "B H W 3"], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B K"]:
        """Logits, float32. Arguments as in `features`; `rngs` draws the dropout masks when training."""
        x = self.features(images, train=train)
        with jax.named_scope("head"):
            return self.head(x, train=train, rngs=rngs)
