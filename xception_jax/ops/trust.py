"""Whether this device's kernels can be trusted: each is compared with plain `lax` there, and timed, once.

An operator that has kernels of its own is checked on random maps, its values and all gradients, before its first use on
a kind of device with its driver, this JAX and this code. What was found is kept beside the compiled programs.

Shape legend: B batch, H height, W width, C channels.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from xception_jax.filesystem import atomic
from xception_jax.ops.lowering import Lowering, Operator, Platform, use
from xception_jax.ops.pooling import affine_max_pool
from xception_jax.ops.separable import normalized_separable_conv
from xception_jax.parallel import processes
from xception_jax.parallel.mesh import data_mesh

# The largest error of a result, as a share of its norm. Results are rounded a few times, in bfloat16 to 8 bits;
# products of float32 may be rounded to 11 bits (TF32).
BOUNDS = {"bfloat16": 8e-3, "float32": 3e-3}
# So much slower than the plain form may be noise.
SLOWER = 1.1
RUNS, CALLS = 5, 4
MAP = (32, 37, 37, 256)  # [B, H, W, C] of a check: large enough to be timed
PLATFORMS: tuple[Platform, ...] = ("gpu", "tpu")


class Verdict(NamedTuple):
    """What was found about an operator's kernels.

    Attributes:
      operator: its name.
      dtype: of its maps.
      error: the largest relative error of its values and gradients; infinite if something is not a number.
      speedup: how many times faster than the plain form it is, its gradient included.
      failure: why it could not be compiled or run; empty if it could.
    """

    operator: Operator
    dtype: str
    error: float = 0.0
    speedup: float = 1.0
    failure: str = ""

    @property
    def word(self) -> str:
        """ "ok", "wrong", "slower" or "failed"."""
        if self.failure:
            return "failed"
        if not self.error <= BOUNDS[self.dtype]:
            return "wrong"
        return "slower" if self.speedup < 1 / SLOWER else "ok"

    def __str__(self) -> str:
        reason = {
            "ok": f"{self.speedup:.2f} times as fast as the plain form, error {self.error:.1e}",
            "wrong": f"its error is {self.error:.1e}, and may be {BOUNDS[self.dtype]:.1e}",
            "slower": f"{self.speedup:.2f} times as fast as the plain form",
            "failed": self.failure,
        }
        return f"{self.operator}, {self.dtype}: {self.word} ({reason[self.word]})"


def trusted(lowering: Lowering, dtype: Any) -> Lowering:
    """The lowering, without the kernels that fail, are wrong or are slower on this device; a warning names each.

    Checks what was not checked before, which takes some seconds. All processes of a run get the same lowering; they
    must call this at the same point of the program. Lowerings of a given platform are for devices that may be absent:
    they stay as they are, and so do those that are not "auto".
    """
    if lowering.choice != "auto" or lowering.platform is not None or lowering.target not in PLATFORMS:
        return lowering
    if (dtype := str(jnp.dtype(dtype))) not in BOUNDS:
        return dataclasses.replace(lowering, without=frozenset(OPERATORS))
    bad = [verdict for verdict in verdicts(dtype) if verdict.word != "ok"]
    for verdict in bad:
        logging.warning("the kernels of an operator are replaced by its plain form: %s", verdict)
    # All processes have to run the same program.
    names: Any = processes.gather(verdict.operator for verdict in bad)
    return dataclasses.replace(lowering, without=frozenset(names))


def verdicts(dtype: str) -> list[Verdict]:
    """What is known about the kernels for maps of a dtype, on this device; checks those that are not known."""
    return [_known(operator, dtype) or _remember(measure(operator, dtype)) for operator in OPERATORS]


def measure(
    operator: Operator, dtype: str, platform: Platform | None = None, shape: tuple[int, int, int, int] = MAP
) -> Verdict:
    """Checks an operator's kernels now.

    Args:
      operator: a key of OPERATORS.
      dtype: a key of BOUNDS.
      platform: whose form is checked, on the default device; None: its own.
      shape: of the map, [B, H, W, C].
    """
    function = OPERATORS[operator]
    arguments = _arguments(function, shape, dtype)
    mesh = data_mesh(jax.local_devices()[:1])
    fast, plain = Lowering("fast", platform), Lowering("reference", platform)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compile_ = functools.partial(_compile, function)
        try:
            ours = compile_(fast, arguments)
            results = jax.block_until_ready(ours(*arguments))
        except Exception as e:  # whatever a compiler or a driver may raise: the plain form does not need the kernel
            return Verdict(operator, dtype, failure=f"{type(e).__name__}: {str(e).strip().partition(chr(10))[0]}")
        theirs = compile_(plain, arguments)
        wide = jax.tree.map(lambda a: a.astype(jnp.float32), arguments)
        with jax.default_matmul_precision("highest"):
            exact = compile_(plain, wide)(*wide)
    errors = map(_error, jax.tree.leaves(results), jax.tree.leaves(exact))
    ratios = [_seconds(theirs, arguments) / _seconds(ours, arguments) for _ in range(RUNS)]
    return Verdict(operator, dtype, max(errors), statistics.median(ratios))


def _compile(function: Callable[..., Any], lowering: Lowering, arguments: tuple) -> Any:
    """The function with its gradient; the last argument holds the cotangents."""

    def both(*arguments: Any) -> Any:
        *inputs, cotangents = arguments
        with use(lowering):
            results, pull = jax.vjp(function, *inputs)
            return results, pull(jax.tree.map(lambda c, r: c.astype(r.dtype), cotangents, results))

    return jax.jit(both).lower(*arguments).compile()


def _arguments(function: Callable[..., Any], shape: tuple[int, ...], dtype: str) -> tuple:
    """Random inputs for an operator, and cotangents of its results."""
    channels = shape[-1]
    shapes = (shape, (channels,), (channels,), (3, 3, 1, channels), (1, 1, channels, channels))
    dtypes = (dtype, "float32", "float32", dtype, dtype)
    rng = np.random.default_rng(0)
    count = 5 if function is OPERATORS["separable"] else 3
    inputs = [jnp.asarray(rng.normal(size=s), d) for s, d in zip(shapes[:count], dtypes[:count], strict=True)]
    results = jax.eval_shape(function, *inputs)
    return *inputs, jax.tree.map(lambda r: jnp.asarray(rng.normal(size=r.shape), r.dtype), results)


def _error(ours: jax.Array, exact: jax.Array) -> float:
    """|ours - exact| / |exact|; infinite if something is not a number."""
    difference, norm = (float(jnp.linalg.norm(x.ravel())) for x in (ours.astype(exact.dtype) - exact, exact))
    return difference / norm if np.isfinite(difference) and norm else np.inf


def _seconds(compiled: Callable[..., Any], arguments: tuple) -> float:
    jax.block_until_ready(compiled(*arguments))
    began = time.perf_counter()
    jax.block_until_ready([compiled(*arguments) for _ in range(CALLS)])
    return time.perf_counter() - began


OPERATORS: dict[Operator, Callable[..., Any]] = {
    "separable": functools.partial(normalized_separable_conv, relu=True),
    "max pool": functools.partial(affine_max_pool, window=3, stride=2, padding="SAME"),
}


def _store() -> Path | None:
    """Where verdicts of this device, driver, JAX and code are kept; None if compiled programs are not kept."""
    if not (folder := jax.config.jax_compilation_cache_dir):  # type: ignore[attr-defined]
        return None
    device = jax.local_devices()[0]
    driver = Path("/proc/driver/nvidia/version")
    code = sorted(Path(__file__).parent.rglob("*.py"))
    parts: Iterable[bytes] = (
        *(text.encode() for text in (device.device_kind, device.client.platform_version, jax.__version__)),
        driver.read_bytes() if driver.exists() else b"",
        *(file.read_bytes() for file in code),
    )
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return Path(folder) / f"kernels-{digest}.json"


def _read() -> list[Verdict]:
    try:
        file = _store()
        return [Verdict(**entry) for entry in json.loads(file.read_text())] if file else []
    except (OSError, ValueError, TypeError):  # none yet, or unreadable: check again
        return []


def _known(operator: Operator, dtype: str) -> Verdict | None:
    return next((v for v in _read() if (v.operator, v.dtype) == (operator, dtype)), None)


def _remember(verdict: Verdict) -> Verdict:
    """Keeps a verdict, if the folder can be written; not a failure, which another program may be the cause of."""
    if not verdict.failure and (file := _store()):
        with contextlib.suppress(OSError):
            contents = json.dumps([v._asdict() for v in [*_read(), verdict]])
            atomic.write_atomically(file, contents, durable=False)
    return verdict
