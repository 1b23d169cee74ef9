"""Xception, as in figure 5 of the paper (F. Chollet, arXiv 1610.02357): 36 convolutions in 14 modules.

22,855,952 trainable parameters for 1000 classes, as in the paper's table 3. The graph matches the Keras reference layer
by layer; with `bn_epsilon=1e-5, pool_padding="symmetric"` it matches timm's `legacy_xception`.

Shape legend: B batch, H height, W width, C channels in, D channels out, K classes.
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xception_jax import ops
from xception_jax.errors import UserError
from xception_jax.models.backbone import Backbone
from xception_jax.models.head import Head, steps_of
from xception_jax.models.layers import (
    BatchNorm,
    Numerics,
    Padding,
    Pool,
    SeparableConv,
    atrous,
    batch_norm,
    check_choice,
    conv,
    drop_path_rates,
    scaled,
    stochastic_depth,
)

BETWEEN: dict[str, Callable[[jax.Array], jax.Array] | None] = {"none": None, "relu": nnx.relu, "elu": nnx.elu}
POOL_PADDING: dict[str, Padding] = {"same": "SAME", "symmetric": ((1, 1), (1, 1))}
MIN_IMAGE_SIZE = {"imagenet": 71, "small": 32}
STEM_STRIDE = {"imagenet": 2, "small": 1}

# Blocks of the main path: name, widths of the separable convolutions, stride.
ENTRY = (("block2", (128, 128), 2), ("block3", (256, 256), 2), ("block4", (728, 728), 2))
MIDDLE = tuple((f"block{i}", (728, 728, 728), 1) for i in range(5, 13))
EXIT = (("block13", (728, 1024), 2),)


class Stem(nnx.Module):
    """Module 1: two 3x3 convolutions, 32 and 64 channels, each with batch normalization and ReLU.

    "imagenet" halves the size, without padding (299 -> 149 -> 147); "small" keeps it, for images of 32 pixels or more.
    """

    def __init__(self, kind: str, widths: tuple[int, int], *, numerics: Numerics, rngs: nnx.Rngs):
        padding = "VALID" if kind == "imagenet" else "SAME"
        self.conv1 = conv(
            3, widths[0], (3, 3), strides=STEM_STRIDE[kind], padding=padding, numerics=numerics, rngs=rngs
        )
        self.conv1_bn = batch_norm(widths[0], numerics=numerics, rngs=rngs)
        self.conv2 = conv(widths[0], widths[1], (3, 3), padding=padding, numerics=numerics, rngs=rngs)
        self.conv2_bn = batch_norm(widths[1], numerics=numerics, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"], *, train: bool) -> Float[Array, "B h w D"]:
        x = nnx.relu(self.conv1_bn(self.conv1(x), use_running_average=not train))
        return nnx.relu(self.conv2_bn(self.conv2(x), use_running_average=not train))


class Block(nnx.Module):
    """Modules 2 to 13: separable convolutions, each after a ReLU, a 3x3 max pool where the size halves, and a
    residual connection: a strided 1x1 convolution if the shape changes, otherwise the identity.

    The leading ReLU is on the main path only; the shortcut takes the raw sum. With `stride` 1, a block that would halve
    the size (`halving`) keeps it: neither the shortcut nor the max pool is strided.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        stride: int,
        *,
        halving: bool,
        dilation: int,
        leading_relu: bool,
        residual: bool,
        drop_rate: float,
        segments: int | None,
        between: Callable[[jax.Array], jax.Array] | None,
        pool_padding: Padding,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        self.halving, self.leading_relu, self.residual = halving, leading_relu, residual
        self.pool = Pool(3, stride, pool_padding if stride != 1 else "SAME", dilation)
        sepconvs, norms = [], []
        channels = in_channels
        for width in widths:
            sepconvs.append(
                SeparableConv(
                    channels,
                    width,
                    segments=segments,
                    between=between,
                    dilation=dilation,
                    numerics=numerics,
                    rngs=rngs,
                )
            )
            norms.append(batch_norm(width, numerics=numerics, rngs=rngs))
            channels = width
        self.sepconvs, self.norms = nnx.List(sepconvs), nnx.List(norms)
        if residual and (halving or in_channels != channels):
            self.shortcut: nnx.Conv | None = conv(
                in_channels, channels, (1, 1), strides=stride, numerics=numerics, rngs=rngs
            )
            self.shortcut_bn: nnx.BatchNorm | None = batch_norm(channels, numerics=numerics, rngs=rngs)
        else:
            self.shortcut = self.shortcut_bn = None
        self.drop_path = stochastic_depth(drop_rate)

    def __call__(
        self, x: Float[Array, "B H W C"], *, train: bool, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B h w D"]:
        y = (self._fused_main_path if fuses(self.sepconvs, train) else self._main_path)(x, train)
        if not self.residual:
            return y
        if self.shortcut is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn(self.shortcut(x), use_running_average=not train)
        return checkpoint_name(self.drop_path(y, deterministic=not train, rngs=rngs) + x, "sum")

    def _main_path(self, x: jax.Array, train: bool) -> jax.Array:
        for i, (sepconv, norm) in enumerate(zip(self.sepconvs, self.norms, strict=True)):
            if i > 0 or self.leading_relu:
                x = nnx.relu(x)
            x = sepconv(x)
            if self.halving and i == len(self.norms) - 1:
                return norm.max_pool(x, self.pool, use_running_average=not train)
            x = norm(x, use_running_average=not train)
        return x

    def _fused_main_path(self, x: jax.Array, train: bool) -> jax.Array:
        layers = zip(self.sepconvs, self.norms, strict=True)
        x, scale, shift = fused_separable_convs(x, layers, leading_relu=self.leading_relu, train=train)
        return ops.affine_max_pool(x, scale, shift, *self.pool) if self.halving else ops.affine(x, scale, shift)


def fuses(sepconvs: Iterable[SeparableConv], train: bool) -> bool:
    """Whether to trace all that is between two batch normalizations as one operator.

    Always on GPUs; on TPUs in training, as their operator computes the batch's statistics anyway.
    """
    lowering = ops.current()
    return all(sepconv.is_plain for sepconv in sepconvs) and (
        lowering.fast("separable", on="gpu") or (lowering.fuses and train)
    )


def fused_separable_convs(
    x: Float[Array, "B H W C"], layers: Iterable[tuple[SeparableConv, BatchNorm]], *, leading_relu: bool, train: bool
) -> tuple[Float[Array, "B H W D"], Float[Array, " D"], Float[Array, " D"]]:
    """Separable convolutions, each with the normalization before it, and with a ReLU in between.

    Returns:
      The last one's result, and the scale and the shift that normalize it.
    """
    scale, shift = jnp.ones(x.shape[-1]), jnp.zeros(x.shape[-1])
    for i, (sepconv, norm) in enumerate(layers):
        x, *statistics = sepconv.normalized(x, scale, shift, relu=i > 0 or leading_relu)
        if train:
            norm.update(*statistics)
        else:
            statistics = [norm.mean[...], norm.var[...]]
        scale, shift = norm.scale_and_shift(*statistics)
    return x, scale, shift


class ExitBlock(nnx.Module):
    """Module 14: separable convolutions, each followed by batch normalization and ReLU; no residual connection."""

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int],
        *,
        segments: int | None,
        between: Callable[[jax.Array], jax.Array] | None,
        dilation: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        sepconv = functools.partial(
            SeparableConv, segments=segments, between=between, dilation=dilation, numerics=numerics, rngs=rngs
        )
        self.sepconv1 = sepconv(in_channels, widths[0])
        self.sepconv1_bn = batch_norm(widths[0], numerics=numerics, rngs=rngs)
        self.sepconv2 = sepconv(widths[0], widths[1])
        self.sepconv2_bn = batch_norm(widths[1], numerics=numerics, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W D"]:
        plain = self.sepconv1.is_plain and self.sepconv2.is_plain
        if plain and ops.current().fast("separable", on="gpu"):
            layers = (self.sepconv1, self.sepconv1_bn), (self.sepconv2, self.sepconv2_bn)
            return nnx.relu(ops.affine(*fused_separable_convs(x, layers, leading_relu=False, train=train)))
        x = nnx.relu(self.sepconv1_bn(self.sepconv1(x), use_running_average=not train))
        return nnx.relu(self.sepconv2_bn(self.sepconv2(x), use_running_average=not train))


class Xception(Backbone):
    """Xception.

    The last map is non-negative and has 1/32 of the image's size and 2048 channels: 299 -> 10.

    Args:
      num_classes: width of the logits; 0 omits the logits layer.
      rngs: initialises the parameters (Glorot uniform, as in Keras).
      stem: "imagenet" (71 pixels or more) or "small" (32 pixels or more; the first convolution keeps the size).
      output_stride: 32, 16 or 8. Where the stride would exceed it, blocks and their max pools keep the size, and later
        convolutions and pools are dilated. With symmetric pool padding, every 2nd (4th) pixel of the last map is the
        map at stride 32. "same" padding shifts strided pools of even sizes by one pixel, but not these. The parameters
        are the same.
      middle_blocks: number of middle flow blocks, 0 to 8; fewer than eight omit the last ones.
      residual: False removes every residual connection (paper, section 4.6).
      segments: of the channels, over which each 3x3 convolution of a separable one is: None, one a channel (depthwise);
        1, a regular convolution; 3 or 4, Inception modules of that many towers (paper, sections 1.1 and 1.2). Layers
        with fewer channels are depthwise. Of segments of different widths if it does not divide the channels.
      between: activation between depthwise and pointwise: "none", "relu" or "elu" (paper, section 4.7).
      hidden: widths of fully connected ReLU layers before the logits; the paper's JFT networks have (4096, 4096).
      hidden_norm: batch normalization after the ReLU of each hidden layer, as in Slideflow's pathology models.
      hidden_dropout: dropout rate before each hidden layer, 0..1.
      head: in place of `hidden`, all that is before the logits, see `models.head`: "max_pool, dense 128 gelu".
      dropout: dropout rate before the logits layer, 0..1; the paper's ImageNet networks have 0.5.
      drop_path: stochastic depth, probability of dropping a block's main path for an image in training, 0..1; it
        increases linearly from 0 in block2 to this value in block14, which has no residual connection and is never
        dropped.
      width: multiplies every channel count, rounded to multiples of 8.
      pool_padding: "same" (TensorFlow, Keras) or "symmetric" (PyTorch, timm) padding of the max pools.
      bn_epsilon, bn_momentum: batch normalization constants.
      dtype: computation dtype, "float32" or "bfloat16".
      param_dtype: parameter dtype.

    Raises:
      UserError: an option has an invalid value.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        rngs: nnx.Rngs,
        stem: str = "imagenet",
        output_stride: int = 32,
        middle_blocks: int = len(MIDDLE),
        residual: bool = True,
        segments: int | None = None,
        between: str = "none",
        hidden: Sequence[int] = (),
        hidden_norm: bool = False,
        hidden_dropout: float = 0.0,
        head: str = "",
        dropout: float = 0.0,
        drop_path: float = 0.0,
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
        if drop_path and not residual:
            raise UserError(f"drop_path is {drop_path} without residual connections; use residual=True or drop_path=0")
        self.min_image_size = MIN_IMAGE_SIZE[stem]
        numerics = Numerics(bn_epsilon, bn_momentum, jnp.dtype(dtype), jnp.dtype(param_dtype))
        blocks = ENTRY + MIDDLE[:middle_blocks] + EXIT
        self.block_names = tuple(name for name, *_ in blocks)
        *steps, last_step = atrous([*(stride for *_, stride in blocks), 1], output_stride, before=STEM_STRIDE[stem])
        self.strides = (STEM_STRIDE[stem], *(step.output_stride for step in steps))

        first, channels = scaled((32, 64), width)
        self.block1 = Stem(stem, (first, channels), numerics=numerics, rngs=rngs)
        rates = drop_path_rates(drop_path, len(blocks) + 1)
        for (name, widths, stride), step, rate in zip(blocks, steps, rates, strict=False):
            block = Block(
                channels,
                scaled(widths, width),
                step.stride,
                halving=stride != 1,
                dilation=step.dilation,
                leading_relu=name != "block2",
                residual=residual,
                drop_rate=rate,
                segments=segments,
                between=BETWEEN[between],
                pool_padding=POOL_PADDING[pool_padding],
                numerics=numerics,
                rngs=rngs,
            )
            setattr(self, name, block)
            channels = scaled(widths, width)[-1]
        last, self.num_features = scaled((1536, 2048), width)
        self.block14 = ExitBlock(
            channels,
            (last, self.num_features),
            segments=segments,
            between=BETWEEN[between],
            dilation=last_step.dilation,
            numerics=numerics,
            rngs=rngs,
        )
        before_logits = steps_of(
            head, hidden=hidden, dropout=dropout, hidden_norm=hidden_norm, hidden_dropout=hidden_dropout
        )
        self.head = Head(self.num_features, num_classes, steps=before_logits, numerics=numerics, rngs=rngs)

    def maps(
        self, images: Float[Array, "B H W 3"], *, train: bool, rngs: nnx.Rngs | None
    ) -> dict[int, Float[Array, "B h w C"]]:
        """The maps, each after the leading ReLU of the next block."""
        with jax.named_scope("block1"):
            x = self.block1(images, train=self.trains("block1", train))
        maps = {self.strides[0]: x}
        for name, stride in zip(self.block_names, self.strides[1:], strict=True):
            with jax.named_scope(name):
                maps[stride] = x = getattr(self, name)(x, train=self.trains(name, train), rngs=rngs)
        with jax.named_scope("block14"):
            maps[stride] = self.block14(x, train=self.trains("block14", train))
        return {stride: nnx.relu(x) for stride, x in maps.items()}
