"""Heads: what is between a network's last map and its scores, as a chain of steps.

A head is written as text: "max_pool, dense 128 relu, batch_norm, dropout 0.3" is what comes before the logits. Steps:

    avg_pool | max_pool | flatten 3x3       first; avg_pool if it is left out. flatten: of a map of 3x3 pixels
    dense UNITS [ACTIVATION] [no_bias]
    batch_norm [EPSILON], layer_norm [EPSILON]
    dropout RATE
    ACTIVATION [NUMBER]                     relu, gelu, leaky_relu 0.2, ...

Shape legend: B batch, H height, W width, C channels of the last map, F features, K classes.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from xception_jax.errors import UserError, suggest
from xception_jax.models.initializers import glorot_uniform
from xception_jax.models.layers import BatchNorm, Numerics, batch_norm, global_average

Scores = Literal["softmax", "sigmoid", "linear"]
# What logits mean: probabilities of classes that exclude each other, of each class by itself, or values as they are.
SCORES: dict[Scores, Callable[[jax.Array], jax.Array]] = {
    "softmax": jax.nn.softmax,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda logits: logits,
}
assert set(SCORES) == set(get_args(Scores))

ACTIVATIONS: dict[str, Callable[..., jax.Array]] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_silu": jax.nn.hard_silu,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "softmax": jax.nn.softmax,
    "exponential": jnp.exp,
}
POOLS = ("avg_pool", "max_pool", "flatten")
NORM_EPSILON = 1e-3  # Keras'
OTHERS = ("dense", "batch_norm", "layer_norm", "dropout")


class Step(NamedTuple):
    """A step of a head.

    Attributes:
      kind: one of POOLS, OTHERS or ACTIVATIONS.
      number: units, epsilon, rate, or an activation's number; None: the default.
      size: of the map that is flattened, (H, W).
      bias: whether a dense step adds a bias.
    """

    kind: str
    number: float | None = None
    size: tuple[int, int] = (1, 1)
    bias: bool = True

    def __str__(self) -> str:
        if self.kind == "flatten":
            return f"flatten {self.size[0]}x{self.size[1]}"
        number = "" if self.number is None else f" {self.number:g}"
        return f"{self.kind}{number}{'' if self.bias else ' no_bias'}"


def as_text(steps: Sequence[Step]) -> str:
    """The text of which `parse` makes the steps."""
    return ", ".join(map(str, steps))


def parse(text: str) -> tuple[Step, ...]:
    """The steps of a head.

    Raises:
      UserError: a step is not known, lacks its number or is not in its place.
    """
    steps = [step for part in text.split(",") if part.strip() for step in _parse_part(part.split(), text)]
    for i, step in enumerate(steps):
        if i and step.kind in POOLS:
            raise UserError(f'head "{text}": {step.kind} must come first')
    return tuple(steps)


def _parse_part(words: list[str], text: str) -> list[Step]:
    """The steps that are written between two commas: a dense step may name its activation."""
    kind, *rest = words
    known = (*POOLS, *OTHERS, *ACTIVATIONS)
    if kind not in known:
        raise UserError(f'head "{text}": unknown step "{kind}"; {suggest(kind, known)}')
    try:
        if kind == "flatten":
            height, width = (int(n) for n in rest.pop(0).split("x"))
            step = Step(kind, size=(height, width))
        elif kind == "dense":
            step = Step(kind, int(rest.pop(0)), bias="no_bias" not in rest)
            rest = [word for word in rest if word != "no_bias"]
        elif kind == "dropout":
            step = Step(kind, float(rest.pop(0)))
        else:
            step = Step(kind, float(rest.pop(0)) if rest and kind not in POOLS else None)
    except (IndexError, ValueError):
        raise UserError(f'head "{text}": "{" ".join(words)}" lacks its number, or has a wrong one') from None
    if not rest:
        return [step]
    if kind == "dense" and rest[0] in ACTIVATIONS:
        return [step, *_parse_part(rest, text)]
    raise UserError(f'head "{text}": "{" ".join(rest)}" after {step} is not understood')


def steps_of(
    head: str = "",
    *,
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    hidden_norm: bool = False,
    hidden_dropout: float = 0.0,
) -> tuple[Step, ...]:
    """The steps that a network's options describe: those of `head`, or of hidden layers with ReLU; then dropout.

    Raises:
      UserError: the text is wrong, or both `head` and `hidden` are given.
    """
    if head and hidden:
        raise UserError(f'both head="{head}" and hidden={tuple(hidden)} are given; write hidden layers into head')
    steps = list(parse(head))
    for width in hidden:
        steps += [Step("dropout", hidden_dropout), Step("dense", width), Step("relu")]
        steps += [Step("batch_norm")] if hidden_norm else []
    steps.append(Step("dropout", dropout))
    return tuple(step for step in steps if step.kind != "dropout" or step.number)


class Head(nnx.Module):
    """A pool of the last map, the steps of `steps_of`, and the logits (paper, figure 5).

    Dense steps are `hidden`, in order, batch normalizations `hidden_norms`, layer normalizations `layer_norms`. With
    `num_classes` 0 there is no logits layer, and the output is what would be its input. The logits are computed in
    float32, whatever the network's dtype: in bfloat16 there would be few values, and probable classes would tie.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        steps: Sequence[Step] = (),
        numerics: Numerics = Numerics(),
        rngs: nnx.Rngs,
    ):
        pool, self.steps = (steps[0], tuple(steps[1:])) if steps and steps[0].kind in POOLS else (None, tuple(steps))
        self.pooling = pool or Step("avg_pool")
        features = in_features * self.pooling.size[0] * self.pooling.size[1]
        hidden: list[nnx.Linear] = []
        norms: list[BatchNorm] = []
        layer_norms: list[nnx.LayerNorm] = []
        dropouts: list[nnx.Dropout] = []

        def dense(fan_in: int, fan_out: int, bias: bool = True, dtype: Any = numerics.dtype) -> nnx.Linear:
            return nnx.Linear(
                fan_in,
                fan_out,
                use_bias=bias,
                kernel_init=glorot_uniform,
                dtype=dtype,
                param_dtype=numerics.param_dtype,
                rngs=rngs,
            )

        for step in self.steps:
            if step.kind == "dense":
                assert step.number is not None
                hidden.append(dense(features, int(step.number), step.bias))
                features = int(step.number)
            elif step.kind == "batch_norm":
                norm = numerics if step.number is None else dataclasses.replace(numerics, bn_epsilon=step.number)
                norms.append(batch_norm(features, numerics=norm, rngs=rngs))
            elif step.kind == "layer_norm":
                epsilon = NORM_EPSILON if step.number is None else step.number
                layer_norms.append(
                    nnx.LayerNorm(
                        features, epsilon=epsilon, dtype=numerics.dtype, param_dtype=numerics.param_dtype, rngs=rngs
                    )
                )
            elif step.kind == "dropout":
                assert step.number is not None
                dropouts.append(nnx.Dropout(step.number))
        self.hidden, self.hidden_norms, self.layer_norms = nnx.List(hidden), nnx.List(norms), nnx.List(layer_norms)
        self.dropouts = nnx.List(dropouts)
        self.logits = dense(features, num_classes, dtype=jnp.float32) if num_classes else None

    def __call__(self, x: Float[Array, "B H W C"], *, train: bool, rngs: nnx.Rngs | None) -> Float[Array, "B K"]:
        return self.classify(self.pool(x), train=train, drop=train, rngs=rngs)

    def pool(self, x: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        """The features: the last map's mean or maximum over its pixels, or all of it; float32.

        Raises:
          UserError: a map that is to be flattened has another size.
        """
        if self.pooling.kind == "avg_pool":
            return global_average(x)
        if self.pooling.kind == "max_pool":
            return x.max((1, 2)).astype(jnp.float32)
        if x.shape[1:3] != self.pooling.size:
            raise UserError(
                f"the head takes maps of {'x'.join(map(str, self.pooling.size))} pixels, but images of this size have "
                f"{x.shape[1]}x{x.shape[2]}; use the image size that the weights were trained with"
            )
        return x.reshape(x.shape[0], -1).astype(jnp.float32)

    def classify(
        self, x: Float[Array, "B F"], *, train: bool, drop: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "B K"]:
        """The logits of pooled features. `drop` enables dropout, `train` enables batch statistics."""
        hidden, norms = iter(self.hidden), iter(self.hidden_norms)
        layer_norms, dropouts = iter(self.layer_norms), iter(self.dropouts)
        for step in self.steps:
            if step.kind == "dense":
                x = next(hidden)(x)
            elif step.kind == "batch_norm":
                x = next(norms)(x, use_running_average=not train)
            elif step.kind == "layer_norm":
                x = next(layer_norms)(x)
            elif step.kind == "dropout":
                x = next(dropouts)(x, deterministic=not drop, rngs=rngs)
            else:
                activation = ACTIVATIONS[step.kind]
                x = activation(x) if step.number is None else activation(x, step.number)
        if self.logits is not None:
            x = self.logits(x)
        return x.astype(jnp.float32)
