"""Inception V3 (C. Szegedy et al., arXiv 1512.00567), the paper's baseline: 5 convolutions and 11 Inception blocks.

| here | Keras | torchvision | size at 299 | block |
|---|---|---|---|---|
| stem.convs1 | conv2d, conv2d_1, conv2d_2 | Conv2d_1a_3x3, Conv2d_2a_3x3, Conv2d_2b_3x3 | 147 | Stem |
| stem.convs2 | conv2d_3, conv2d_4 | Conv2d_3b_1x1, Conv2d_4a_3x3 | 71 | Stem |
| mixed0, mixed1, mixed2 | mixed0, mixed1, mixed2 | Mixed_5b, Mixed_5c, Mixed_5d | 35 | InceptionA |
| mixed3 | mixed3 | Mixed_6a | 17 | InceptionB |
| mixed4, mixed5, mixed6, mixed7 | mixed4 .. mixed7 | Mixed_6b, Mixed_6c, Mixed_6d, Mixed_6e | 17 | InceptionC |
| aux | - | AuxLogits | 17 | AuxHead |
| mixed8 | mixed8 | Mixed_7a | 8 | InceptionD |
| mixed9, mixed10 | mixed9, mixed10 | Mixed_7b, Mixed_7c | 8 | InceptionE |
| head.logits | predictions | fc | 1 | Head |

Within a block the branches have torchvision's names: torchvision's `branch1x1` is `branch1x1.units[0]` here,
`branch7x7_2` is `branch7x7.units[1]`, `branch3x3_2a` is `branch3x3_a.units[0]`. Keras creates its layers in the order
of the constructors below.

Shape legend: B batch, H height, W width, C channels in, D channels out, K classes.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xception_jax import ops
from xception_jax.errors import UserError
from xception_jax.models.backbone import Backbone
from xception_jax.models.head import Head, steps_of
from xception_jax.models.layers import (
    Numerics,
    Padding,
    batch_norm,
    check_choice,
    conv,
    scaled,
)


@dataclasses.dataclass(frozen=True)
class Flavour:
    """The differences between the published Inception V3 networks.

    Attributes:
      bn_scale: batch normalization has a gamma.
      relu_first: convolution with bias, ReLU, batch normalization, instead of convolution, batch normalization, ReLU.
      count_padding: the averages of the pool branches include padded zeros.
      pool_widths: channels of the pool branches of mixed0, mixed1 and mixed2.
      mixed7_first: channels of the first convolution of mixed7's double 7x7 branch.
      mixed8_average: mixed8 uses average pooling instead of max pooling.
      mixed10_max: mixed10's pool branch uses max pooling instead of average pooling.
    """

    bn_scale: bool = True
    relu_first: bool = False
    count_padding: bool = False
    pool_widths: tuple[int, int, int] = (32, 64, 64)
    mixed7_first: int = 192
    mixed8_average: bool = False
    mixed10_max: bool = False


FLAVOURS = {
    "torchvision": Flavour(count_padding=True),
    "keras": Flavour(bn_scale=False),
    # github.com/fchollet/deep-learning-models, inception_v3.py, August 2016.
    "paper": Flavour(relu_first=True, pool_widths=(32, 32, 32), mixed7_first=160, mixed8_average=True),
    # TensorFlow's network of December 2015, by whose features FID is defined: github.com/mseitzer/pytorch-fid,
    # inception.py. Its last max pool is a mistake of that network, kept because its weights were trained with it.
    "fid": Flavour(mixed10_max=True),
}
MIN_IMAGE_SIZE = {"imagenet": 75, "small": 32}
STEM_STRIDES = {"imagenet": (2, 4, 8), "small": (1, 1, 2)}  # strides of the maps that `Stem` returns


class ConvUnit(nnx.Module):
    """Convolution, batch normalization and ReLU, in the flavour's order."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        strides: int = 1,
        padding: Padding = "SAME",
        flavour: Flavour,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        self.relu_first = flavour.relu_first
        self.conv = conv(
            in_channels,
            out_channels,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=flavour.relu_first,
            numerics=numerics,
            rngs=rngs,
        )
        self.bn = batch_norm(out_channels, use_scale=flavour.bn_scale, numerics=numerics, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B h w D"]:
        return self.activate(self.conv(x), train=train)

    def activate(self, x: Float[Array, "B h w D"], *, train: bool) -> Float[Array, "B h w D"]:
        """Batch normalization and ReLU, in the flavour's order."""
        if self.relu_first:
            return self.bn(nnx.relu(x), use_running_average=not train)
        return nnx.relu(self.bn(x, use_running_average=not train))


class Branch(nnx.Module):
    """A sequence of convolution units.

    Each unit is given as (channels, kernel height, kernel width), which keeps the size, or with the stride as a fourth
    number, without padding. `width` multiplies the channels.
    """

    def __init__(
        self,
        in_channels: int,
        *units: tuple[int, ...],
        width: float,
        flavour: Flavour,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        chain = []
        for unit in units:
            (out_channels,) = scaled(unit[:1], width)
            chain.append(
                ConvUnit(
                    in_channels,
                    out_channels,
                    (unit[1], unit[2]),
                    strides=unit[3] if len(unit) == 4 else 1,
                    padding="VALID" if len(unit) == 4 else "SAME",
                    flavour=flavour,
                    numerics=numerics,
                    rngs=rngs,
                )
            )
            in_channels = out_channels
        self.units = nnx.List(chain)
        self.out_channels = in_channels

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B h w D"]:
        for unit in self.units:
            x = unit(x, train=train)
        return x


MakeBranch = Callable[..., Branch]  # (in_channels, *units), with the other arguments bound


def pool_branch(
    branch: Branch, x: Float[Array, "B H W C"], *, count_padding: bool, train: bool
) -> Float[Array, "B H W D"]:
    """An average over 3x3 pixels, then the branch's single 1x1 convolution unit.

    The average is taken after the convolution, whose result has a tenth to a quarter of the channels. The two commute,
    because one mixes pixels and the other channels. (With a bias, they commute if padding does not count; the flavours
    where padding counts have no bias.)
    """
    (unit,) = branch.units
    return unit.activate(ops.avg_pool(unit.conv(x), 3, 1, "SAME", count_padding=count_padding), train=train)


class Stem(nnx.Module):
    """Five convolutions and two max pools: 192 channels.

    "imagenet" halves the size three times (299 -> 149 -> 147 -> 73 -> 71 -> 35). "small", for images of 32 pixels or
    more, halves it once: every convolution keeps the size, and there is no first max pool (32 -> 15).
    """

    def __init__(self, kind: str, *, branch: MakeBranch):
        self.kind = kind
        if kind == "imagenet":
            self.convs1 = branch(3, (32, 3, 3, 2), (32, 3, 3, 1), (64, 3, 3))
            self.convs2 = branch(self.convs1.out_channels, (80, 1, 1), (192, 3, 3, 1))
        else:
            self.convs1 = branch(3, (32, 3, 3), (32, 3, 3), (64, 3, 3))
            self.convs2 = branch(self.convs1.out_channels, (80, 1, 1), (192, 3, 3))
        self.out_channels = self.convs2.out_channels

    def __call__(self, x: Float[Array, "B H W 3"], *, train: bool) -> list[Float[Array, "B h w D"]]:
        """The maps before the first pool, before the second, and after it."""
        first = self.convs1(x, train=train)
        second = self.convs2(ops.max_pool(first, 3, 2, "VALID") if self.kind == "imagenet" else first, train=train)
        return [first, second, ops.max_pool(second, 3, 2, "VALID")]


class InceptionA(nnx.Module):
    """35x35: 1x1, 5x5, two 3x3 in a row, and pool branches (figure 5 of the Inception paper)."""

    def __init__(self, in_channels: int, pool_width: int, *, branch: MakeBranch, count_padding: bool):
        self.count_padding = count_padding
        self.branch1x1 = branch(in_channels, (64, 1, 1))
        self.branch5x5 = branch(in_channels, (48, 1, 1), (64, 5, 5))
        self.branch3x3dbl = branch(in_channels, (64, 1, 1), (96, 3, 3), (96, 3, 3))
        self.branch_pool = branch(in_channels, (pool_width, 1, 1))
        branches = (self.branch1x1, self.branch5x5, self.branch3x3dbl, self.branch_pool)
        self.out_channels = sum(b.out_channels for b in branches)

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W D"]:
        maps = [b(x, train=train) for b in (self.branch1x1, self.branch5x5, self.branch3x3dbl)]
        pooled = pool_branch(self.branch_pool, x, count_padding=self.count_padding, train=train)
        return jnp.concatenate([*maps, pooled], axis=-1)


class InceptionB(nnx.Module):
    """35x35 to 17x17: 3x3, two 3x3 in a row, and a max pool (figure 10 of the Inception paper)."""

    def __init__(self, in_channels: int, *, branch: MakeBranch):
        self.branch3x3 = branch(in_channels, (384, 3, 3, 2))
        self.branch3x3dbl = branch(in_channels, (64, 1, 1), (96, 3, 3), (96, 3, 3, 2))
        self.out_channels = self.branch3x3.out_channels + self.branch3x3dbl.out_channels + in_channels

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B h w D"]:
        maps = [b(x, train=train) for b in (self.branch3x3, self.branch3x3dbl)]
        return jnp.concatenate([*maps, ops.max_pool(x, 3, 2, "VALID")], axis=-1)


class InceptionC(nnx.Module):
    """17x17, 7x7 factorised into 1x7 and 7x1: 1x1, 7x7, two 7x7 in a row, and pool branches (figure 6).

    `inner` is the width within the branches, `first` the width of the double branch's first convolution.
    """

    def __init__(self, in_channels: int, inner: int, first: int, *, branch: MakeBranch, count_padding: bool):
        self.count_padding = count_padding
        self.branch1x1 = branch(in_channels, (192, 1, 1))
        self.branch7x7 = branch(in_channels, (inner, 1, 1), (inner, 1, 7), (192, 7, 1))
        self.branch7x7dbl = branch(in_channels, (first, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7))
        self.branch_pool = branch(in_channels, (192, 1, 1))
        branches = (self.branch1x1, self.branch7x7, self.branch7x7dbl, self.branch_pool)
        self.out_channels = sum(b.out_channels for b in branches)

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W D"]:
        maps = [b(x, train=train) for b in (self.branch1x1, self.branch7x7, self.branch7x7dbl)]
        pooled = pool_branch(self.branch_pool, x, count_padding=self.count_padding, train=train)
        return jnp.concatenate([*maps, pooled], axis=-1)


class InceptionD(nnx.Module):
    """17x17 to 8x8: 3x3, 7x7 followed by 3x3, and a pool."""

    def __init__(self, in_channels: int, *, branch: MakeBranch, average: bool):
        self.average = average
        self.branch3x3 = branch(in_channels, (192, 1, 1), (320, 3, 3, 2))
        self.branch7x7x3 = branch(in_channels, (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2))
        self.out_channels = self.branch3x3.out_channels + self.branch7x7x3.out_channels + in_channels

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B h w D"]:
        maps = [b(x, train=train) for b in (self.branch3x3, self.branch7x7x3)]
        pooled = ops.avg_pool(x, 3, 2, "VALID", count_padding=False) if self.average else ops.max_pool(x, 3, 2, "VALID")
        return jnp.concatenate([*maps, pooled], axis=-1)


class InceptionE(nnx.Module):
    """8x8: 1x1, 3x3 split into parallel 1x3 and 3x1, the same after another 3x3, and pool branches (figure 7).

    With `max_pool` the pool branch begins with the maximum over 3x3 pixels, not their average.
    """

    def __init__(self, in_channels: int, *, branch: MakeBranch, count_padding: bool, max_pool: bool = False):
        self.count_padding, self.max_pool = count_padding, max_pool
        self.branch1x1 = branch(in_channels, (320, 1, 1))
        self.branch3x3 = branch(in_channels, (384, 1, 1))
        self.branch3x3_a = branch(self.branch3x3.out_channels, (384, 1, 3))
        self.branch3x3_b = branch(self.branch3x3.out_channels, (384, 3, 1))
        self.branch3x3dbl = branch(in_channels, (448, 1, 1), (384, 3, 3))
        self.branch3x3dbl_a = branch(self.branch3x3dbl.out_channels, (384, 1, 3))
        self.branch3x3dbl_b = branch(self.branch3x3dbl.out_channels, (384, 3, 1))
        self.branch_pool = branch(in_channels, (192, 1, 1))
        split = (self.branch3x3_a, self.branch3x3_b, self.branch3x3dbl_a, self.branch3x3dbl_b)
        self.out_channels = sum(b.out_channels for b in (self.branch1x1, *split, self.branch_pool))

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W D"]:
        single, double = self.branch3x3(x, train=train), self.branch3x3dbl(x, train=train)
        maps = [
            self.branch1x1(x, train=train),
            self.branch3x3_a(single, train=train),
            self.branch3x3_b(single, train=train),
            self.branch3x3dbl_a(double, train=train),
            self.branch3x3dbl_b(double, train=train),
            self._pooled(x, train=train),
        ]
        return jnp.concatenate(maps, axis=-1)

    def _pooled(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W D"]:
        if self.max_pool:
            return self.branch_pool(ops.max_pool(x, 3, 1, "SAME"), train=train)
        return pool_branch(self.branch_pool, x, count_padding=self.count_padding, train=train)


class AuxHead(nnx.Module):
    """torchvision's auxiliary classifier on the 17x17 map after mixed7: a second loss for training."""

    def __init__(self, in_channels: int, num_classes: int, *, branch: MakeBranch, numerics: Numerics, rngs: nnx.Rngs):
        self.convs = branch(in_channels, (128, 1, 1), (768, 5, 5, 1))
        self.head = Head(self.convs.out_channels, num_classes, numerics=numerics, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B K"]:
        if min(x.shape[1:3]) < 17:
            raise UserError(
                'the auxiliary head needs training images of 299 pixels or more (stem="small": 71 or more); '
                "use a larger image_size or aux_head=False"
            )
        x = ops.avg_pool(x, 5, 3, "VALID", count_padding=False)
        return self.head(self.convs(x, train=train), train=train, rngs=None)


class InceptionV3(Backbone):
    """Inception V3.

    The last map has about 1/32 of the image's size and 2048 channels: 299 -> 8. It is non-negative except in the
    "paper" flavour, where batch normalization comes last.

    Trainable parameters for 1000 classes: "torchvision" 23,834,568 (27,161,264 with the auxiliary head), "keras"
    23,817,352, "paper" 23,626,728 (as in the paper's table 3).

    Args:
      num_classes: width of the logits; 0 omits the logits layers.
      rngs: initialises the parameters (Glorot uniform, as in Keras).
      flavour: "torchvision" (also timm's), "keras", "paper" or "fid", see `Flavour`.
      stem: "imagenet" (75 pixels or more) or "small" (32 pixels or more, see `Stem`).
      aux_head: adds the auxiliary head; training then needs 299 pixels or more, 71 with the small stem.
      hidden: widths of fully connected ReLU layers before the logits; the paper's JFT networks have (4096, 4096).
      head: in place of `hidden`, all that is before the logits, see `models.head`: "max_pool, dense 128 gelu".
      dropout: dropout rate before the logits layer, 0..1; the paper's ImageNet networks have 0.5.
      width: multiplies every channel count, rounded to multiples of 8.
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
        flavour: str = "torchvision",
        stem: str = "imagenet",
        aux_head: bool = False,
        hidden: Sequence[int] = (),
        head: str = "",
        dropout: float = 0.0,
        width: float = 1.0,
        bn_epsilon: float = 1e-3,
        bn_momentum: float = 0.99,
        dtype: DTypeLike = "float32",
        param_dtype: DTypeLike = "float32",
    ):
        check_choice("flavour", flavour, FLAVOURS)
        check_choice("stem", stem, MIN_IMAGE_SIZE)
        self.min_image_size = MIN_IMAGE_SIZE[stem]
        kind = FLAVOURS[flavour]
        numerics = Numerics(bn_epsilon, bn_momentum, jnp.dtype(dtype), jnp.dtype(param_dtype))
        branch = functools.partial(Branch, width=width, flavour=kind, numerics=numerics, rngs=rngs)
        same: dict[str, Any] = {"branch": branch, "count_padding": kind.count_padding}

        self.stem = Stem(stem, branch=branch)
        self.mixed0 = InceptionA(self.stem.out_channels, kind.pool_widths[0], **same)
        self.mixed1 = InceptionA(self.mixed0.out_channels, kind.pool_widths[1], **same)
        self.mixed2 = InceptionA(self.mixed1.out_channels, kind.pool_widths[2], **same)
        self.mixed3 = InceptionB(self.mixed2.out_channels, branch=branch)
        self.mixed4 = InceptionC(self.mixed3.out_channels, 128, 128, **same)
        self.mixed5 = InceptionC(self.mixed4.out_channels, 160, 160, **same)
        self.mixed6 = InceptionC(self.mixed5.out_channels, 160, 160, **same)
        self.mixed7 = InceptionC(self.mixed6.out_channels, 192, kind.mixed7_first, **same)
        self.aux = (
            AuxHead(self.mixed7.out_channels, num_classes, branch=branch, numerics=numerics, rngs=rngs)
            if aux_head
            else None
        )
        self.mixed8 = InceptionD(self.mixed7.out_channels, branch=branch, average=kind.mixed8_average)
        self.mixed9 = InceptionE(self.mixed8.out_channels, **same)
        self.mixed10 = InceptionE(self.mixed9.out_channels, max_pool=kind.mixed10_max, **same)
        self.num_features = self.mixed10.out_channels
        between = steps_of(head, hidden=hidden, dropout=dropout)
        self.head = Head(self.num_features, num_classes, steps=between, numerics=numerics, rngs=rngs)

    def maps(
        self, images: Float[Array, "B H W 3"], *, train: bool, rngs: nnx.Rngs | None
    ) -> dict[int, Float[Array, "B h w C"]]:
        with jax.named_scope("stem"):
            *before, x = self.stem(images, train=self.trains("stem", train))
        *strides, stride = STEM_STRIDES[self.stem.kind]
        maps = dict(zip(strides, before, strict=True))
        for i in range(11):
            if i in (3, 8):
                stride *= 2
            with jax.named_scope(name := f"mixed{i}"):
                maps[stride] = x = getattr(self, name)(x, train=self.trains(name, train))
        return maps

    def __call__(  # type: ignore[override]
        self, images: Float[Array, "B H W 3"], *, train: bool | None = None, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "B K"] | tuple[Float[Array, "B K"], Float[Array, "B K"]]:
        """Logits, float32; (logits, auxiliary logits) in training mode with an auxiliary head.

        Arguments and errors as for `feature_pyramid`; `rngs` is used for dropout.
        """
        train = self._trains(train)
        *_, middle, x = self.feature_pyramid(images, train=train).values()
        with jax.named_scope("head"):
            logits = self.head(x, train=self.trains("head", train), rngs=rngs)
        if self.aux is None or not train or "aux" in self.frozen:
            return logits
        with jax.named_scope("aux"):
            return logits, self.aux(middle, train=self.trains("aux", train))
