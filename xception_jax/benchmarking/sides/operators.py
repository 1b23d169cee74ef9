"""The operators that a network uses, each as a separate program.

Shape legend: B batch, H height, W width, C channels in, D channels out.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from xception_jax import ops
from xception_jax.models import variables
from xception_jax.models.layers import Numerics, batch_norm

DIRECTIONS = {
    "convolution": ("forward", "input gradient", "kernel gradient"),
    "pointwise": ("forward", "input gradient", "kernel gradient"),
    "depthwise": ("forward", "input gradient", "kernel gradient"),
    "separable": ("forward", "forward and gradient"),
    "max pool": ("forward", "forward and gradient"),
    "batch norm": ("forward", "forward and gradient"),
}


def in_training(kind: str, direction: str) -> bool:
    """Whether training time includes this direction: "forward" may already be part of "forward and gradient"."""
    return direction != "forward" or "forward and gradient" not in DIRECTIONS[kind]


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator as a network uses it.

    Attributes:
      kind: a key of DIRECTIONS.
      shape: of its input, (B, H, W, C).
      channels: D.
      window, strides, dilation: in pixels, (vertical, horizontal).
      padding: ((top, bottom), (left, right)).
      groups: number of channel groups.
    """

    kind: str
    shape: tuple[int, ...]
    channels: int
    window: tuple[int, ...] = (1, 1)
    strides: tuple[int, ...] = (1, 1)
    padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    def __str__(self) -> str:
        _, height, width, channels = self.shape
        window = "" if self.kind == "batch norm" else f" {self.window[0]}x{self.window[1]}"
        stride = f"/{self.strides[0]}" if self.strides[0] != 1 else ""
        to = f" to {self.channels}" if self.channels != channels else ""
        return f"{self.kind}{window}{stride} {height}x{width}x{channels}{to}"


def used(make: Callable[[], tuple[nnx.GraphDef, Any]], task: dict[str, Any]) -> list[dict[str, Any]]:
    """The operators of a network's forward pass, in order: the fields of Operator, `name`, `count` and `directions`.

    Batch normalization is assumed to follow every convolution that mixes channels, as in all networks here. Where
    operators are fused, "separable" (`ops.normalized_separable_conv` with a ReLU) is listed in addition to its parts.
    """
    fused = ops.current().fuses
    graphdef, weights = nnx.eval_shape(make)
    size = task["image_size"]
    images = jax.ShapeDtypeStruct((task["batch"], size, size, 3), jnp.float32)
    with ops.as_reference():
        jaxpr = jax.make_jaxpr(lambda w, x: variables.merge(graphdef, w)(x))(weights, images)
    counts: collections.Counter[Operator] = collections.Counter()
    before: Operator | None = None
    for equation, times in _equations(jaxpr.jaxpr):
        for operator in _operators(equation):
            counts[operator] += times
            if fused and before and before.kind == "depthwise" and operator.kind == "pointwise":
                counts[dataclasses.replace(before, kind="separable", channels=operator.channels)] += times
            before = operator
    return [
        {**dataclasses.asdict(o), "name": str(o), "count": n, "directions": DIRECTIONS[o.kind]}
        for o, n in counts.items()
    ]


def _equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """All equations, including those of inner programs, and how often each is computed."""
    for equation in jaxpr.eqns:
        yield equation, times
        inner_times = times * equation.params.get("length", 1)
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from _equations(value.jaxpr, inner_times)


def _operators(equation: Any) -> Iterator[Operator]:
    """The operator of an equation, if it is one of those measured."""
    p, name = equation.params, equation.primitive.name
    if name == "conv_general_dilated":
        lhs, rhs, out = (v.aval.shape for v in (*equation.invars, *equation.outvars))
        groups, window = p["feature_group_count"], rhs[:2]
        kind = "depthwise" if groups == lhs[3] > 1 else "pointwise" if window == (1, 1) else "convolution"
        padding = tuple((int(before), int(after)) for before, after in p["padding"])
        yield Operator(kind, lhs, out[3], window, p["window_strides"], padding, p["rhs_dilation"], groups)
        if kind != "depthwise":
            yield Operator("batch norm", out, out[3])
    elif name == "reduce_window_max":
        shape, (_, *window, _), (_, *strides, _) = (
            equation.invars[0].aval.shape,
            p["window_dimensions"],
            p["window_strides"],
        )
        yield Operator("max pool", shape, shape[3], tuple(window), tuple(strides), tuple(p["padding"][1:3]))


def costs(operator: Operator, direction: str, dtype: str) -> dict[str, int]:
    """The minimum cost: `flops` of the products and sums, `bytes` of arguments and results, each counted once."""
    arrays = jax.eval_shape(lambda: program(operator, direction, dtype)[1])
    outputs = jax.eval_shape(program(operator, direction, dtype)[0], *arrays)
    unused = {"input gradient": 0, "kernel gradient": 1}.get(direction)
    used = [x for i, x in enumerate(arrays) if i != unused]
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((used, outputs)))
    if operator.kind == "separable":
        pixels, channels = math.prod(operator.shape[:3]), operator.shape[3]
        once = 2 * pixels * channels * (math.prod(operator.window) + operator.channels)
        return {"flops": once if direction == "forward" else 3 * once, "bytes": size}
    if operator.kind not in ("convolution", "pointwise", "depthwise"):
        return {"flops": 0, "bytes": size}
    output = outputs if direction == "forward" else arrays[2]
    per_element = 2 * math.prod(operator.window) * operator.shape[3] // operator.groups
    return {"flops": output.size * per_element, "bytes": size}


def program(operator: Operator, direction: str, dtype: str) -> tuple[Callable, tuple]:
    """A function that computes the operator or its gradient, and random arguments for it."""
    function, parameters = _function(operator, dtype)
    x = _noise(0, operator.shape, dtype)
    if direction == "forward":
        return function, (x, parameters)
    y = jax.eval_shape(function, x, parameters)
    cotangent = jax.tree.map(lambda a: _noise(2, a.shape, a.dtype), y)
    if direction == "forward and gradient":

        def both(x: Any, parameters: Any, cotangent: Any) -> Any:
            y, gradient = jax.vjp(function, x, parameters)
            return y, gradient(cotangent)

        return both, (x, parameters, cotangent)
    which = ("input gradient", "kernel gradient").index(direction)

    def gradient(x: Any, parameters: Any, cotangent: Any) -> Any:
        return jax.vjp(function, x, parameters)[1](cotangent)[which]

    return gradient, (x, parameters, cotangent)


def _function(operator: Operator, dtype: str) -> tuple[Callable, Any]:
    """The operator as (input, parameters) -> output, and random parameters."""
    o = operator
    if o.kind == "max pool":
        return lambda x, _: ops.max_pool(x, o.window[0], o.strides[0], o.padding), ()
    if o.kind == "batch norm":
        numerics = Numerics(1e-3, 0.99, jnp.dtype(dtype), jnp.dtype("float32"))
        graphdef, weights = variables.split(batch_norm(o.channels, numerics=numerics, rngs=nnx.Rngs(0)))

        def normalize(x: Any, params: Any) -> Any:
            layer = nnx.merge(graphdef, params, weights.batch_stats)
            return layer(x, use_running_average=False)

        return normalize, weights.params

    if o.kind == "separable":
        channels = o.shape[3]
        vectors = [_noise(i, (channels,), "float32") for i in (3, 4)]
        kernels = _noise(5, (*o.window, 1, channels), dtype), _noise(6, (1, 1, channels, o.channels), dtype)

        def separable(x: Any, parameters: Any) -> Any:
            return ops.normalized_separable_conv(x, *parameters, relu=True, dilation=o.dilation[0])

        return separable, (*vectors, *kernels)

    def convolve(x: Any, kernel: Any) -> Any:
        return ops.conv_general_dilated(
            x,
            kernel,
            o.strides,
            o.padding,
            rhs_dilation=o.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=o.groups,
        )

    return convolve, _noise(1, (*o.window, o.shape[3] // o.groups, o.channels), dtype)


def _noise(seed: int, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)
