"""Every operator with a form of its own for GPUs, on this device, against float64: `kernels.py [PART OF A NAME]`.

Values and all gradients, in float32 (with and without TF32) and bfloat16, for odd sizes too. The reference is the plain
lowering in float64 on the CPU, given the same rounded inputs. Exit code 1 if one is wrong.

Where there is no GPU, Pallas kernels are interpreted, and all else is compiled for the CPU in its form for GPUs.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xception_jax import ops
from xception_jax.ops.gpu import depthwise_backward, depthwise_forward
from xception_jax.ops.normalization import batch_norm
from xception_jax.ops.reference import Settings

ON_GPU = jax.default_backend() == "gpu"
# The largest error of a result, as a share of its norm: a few roundings, to 8 bits in bfloat16, to 11 in TF32.
BOUNDS = {"bfloat16": 1e-2, "tf32": 3e-3, "float32": 2e-5}
Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """A differentiable function of arrays and its arguments, in float64; those in `wide` stay float32 at least."""

    name: str
    function: Callable[..., Any]
    arguments: Arrays
    wide: tuple[int, ...] = ()

    def rounded(self, dtype: Any) -> Arrays:
        """The arguments as the function gets them."""
        return tuple(a.astype(np.float32 if i in self.wide else dtype) for i, a in enumerate(self.arguments))


def noise(*shapes: tuple[int, ...], seed: int = 0) -> Arrays:
    """Normal noise of each shape."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape) for shape in shapes)


def cases() -> Iterator[Case]:
    """The operators, in the sizes of networks and in odd ones."""
    for shape, channels, relu, dilation in (
        ((8, 19, 19, 728), 728, True, 1),  # Xception's middle flow
        ((2, 74, 74, 128), 256, True, 1),
        ((2, 5, 4, 3), 5, True, 1),
        ((1, 37, 35, 130), 66, True, 4),
        ((1, 3, 17, 64), 64, False, 2),
        ((1, 1, 1, 65), 1, True, 1),
    ):
        c = shape[-1]
        arguments = noise(shape, (c,), (c,), (3, 3, 1, c), (1, 1, c, channels))
        call = functools.partial(ops.normalized_separable_conv, relu=relu, dilation=dilation)
        yield Case(f"separable {shape} to {channels}, dilation {dilation}", call, arguments, wide=(1, 2))
    for shape, window, stride, padding in (
        ((4, 37, 37, 728), 3, 2, "SAME"),
        ((2, 13, 11, 5), 3, 2, "VALID"),
        ((1, 9, 8, 70), 2, 2, "SAME"),
        ((1, 17, 17, 33), 3, 1, ((1, 1), (1, 1))),
    ):
        c = shape[-1]
        pool = functools.partial(ops.affine_max_pool, window=window, stride=stride, padding=padding)
        yield Case(f"max pool {window}x{window}/{stride} {shape}", pool, noise(shape, (c,), (c,)), wide=(1, 2))
    for shape in ((8, 35, 35, 192), (3, 7, 5, 9)):
        c = shape[-1]
        normalize = functools.partial(batch_norm, epsilon=1e-3)
        yield Case(f"batch norm {shape}", normalize, noise(shape, (c,), (c,)), wide=(1, 2))
    for shape, kernel, stride, padding in (
        ((4, 37, 37, 128), (1, 1, 128, 256), 2, "SAME"),
        ((2, 9, 8, 5), (1, 1, 5, 7), 2, "SAME"),
        ((2, 35, 35, 48), (5, 5, 48, 64), 1, "SAME"),
    ):
        convolve = functools.partial(_convolve, stride=stride, padding=padding)
        yield Case(f"convolution {kernel[:2]}/{stride} {shape}", convolve, noise(shape, kernel))


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: str) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return ops.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers)


def kernel_cases() -> Iterator[tuple[Case, Callable[..., Any]]]:
    """The Pallas kernels by themselves, and their plain forms."""
    for shape, relu, dilation in (
        ((2, 5, 4, 3), True, 1),
        ((1, 3, 17, 64), False, 2),
        ((1, 37, 35, 130), True, 4),
        ((1, 1, 1, 65), True, 1),
        ((2, 70, 9, 8), True, 1),
    ):
        c, settings = shape[-1], Settings(relu, dilation)
        arguments = noise(shape, (c,), (c,), (3, 3, 1, c), shape)
        for name, plain, module, count in (
            ("forward", depthwise_forward.shifted_products, depthwise_forward, 4),
            ("backward", depthwise_backward.plain_backward, depthwise_backward, 5),
        ):
            kernel = functools.partial(module.in_one_kernel, settings=settings, interpret=not ON_GPU)
            case = f"depthwise {name} {shape}, dilation {dilation}"
            yield Case(case, functools.partial(plain, settings=settings), arguments[:count], wide=(1, 2)), kernel


def with_gradients(function: Callable[..., Any], cotangents: Any, *arguments: Any) -> Any:
    """The function's results and the gradients of all its arguments."""
    results, pull = jax.vjp(function, *arguments)
    return results, pull(cotangents)


def exact(function: Callable[..., Any], arguments: Any) -> list[np.ndarray]:
    """The results in float64, on the CPU, by plain operators."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]), ops.use(ops.Lowering("reference", "cpu")):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), arguments)
        return [np.asarray(r) for r in jax.tree.leaves(jax.jit(lambda *a: function(*a))(*wide))]


def error(ours: Any, expected: np.ndarray) -> float:
    """|ours - expected| / |expected|; infinite where something is not a number."""
    distance = np.linalg.norm(np.asarray(ours, np.float64).ravel() - expected.ravel())
    return float(distance / (np.linalg.norm(expected) or 1)) if np.isfinite(distance) else np.inf


def check(name: str, ours: Callable[..., Any], plain: Callable[..., Any], arguments: Arrays, precision: str) -> bool:
    """Prints a line; whether all results are within bounds."""
    began = time.perf_counter()
    expected = exact(plain, arguments)
    with (
        ops.use(ops.Lowering("fast", "gpu")),
        jax.default_matmul_precision("highest" if precision == "float32" else "default"),
    ):
        compiled = jax.jit(lambda *a: ours(*a)).lower(*arguments).compile()
    errors = [error(r, e) for r, e in zip(jax.tree.leaves(compiled(*arguments)), expected, strict=True)]
    right = max(errors) <= BOUNDS[precision]
    by = "Triton" if "gpu.triton" in compiled.as_text() else ""
    took = time.perf_counter() - began
    print(f"{'ok   ' if right else 'WRONG'} {max(errors):8.1e} {precision:8} {name} {by} [{took:.1f} s]", flush=True)
    return right


def main(part: str = "") -> int:
    """Checks the operators with `part` in their name; 1 if something is wrong."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: largest relative error")
    right = []
    for precision in ("bfloat16", "float32", "tf32"):
        dtype = jnp.bfloat16 if precision == "bfloat16" else np.float32
        for case in (case for case in cases() if part in case.name):
            arguments = case.rounded(dtype)
            results = jax.eval_shape(case.function, *arguments)
            cotangents = jax.tree.map(lambda r: noise(r.shape, seed=1)[0].astype(r.dtype), results)
            both = functools.partial(with_gradients, case.function)
            right.append(check(case.name, both, both, (cotangents, *arguments), precision))
        for case, kernel in ((case, kernel) for case, kernel in kernel_cases() if part in case.name):
            right.append(check(case.name, kernel, case.function, case.rounded(dtype), precision))
    print(f"{sum(right)} of {len(right)} right")
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
