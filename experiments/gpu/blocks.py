"""The fastest blocks of the depthwise convolution's kernels on this GPU: `python experiments/gpu/blocks.py`.

For each separable convolution of Xception, in bfloat16: the time of every choice of blocks, of XLA's own form, and what
it would take to read and write the same maps.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from xception_jax.ops.gpu import depthwise_backward, depthwise_forward
from xception_jax.ops.gpu.strips import Blocks
from xception_jax.ops.reference import Settings

SHAPES = ((147, 128), (74, 256), (37, 728), (19, 728), (10, 1536))  # pixels a side, channels
CHOICES = [
    Blocks(*numbers)
    for numbers in (
        (2, 64, 32, 2, 1),
        (2, 64, 32, 2, 2),
        (4, 64, 32, 4, 1),
        (4, 64, 32, 4, 2),
        (4, 64, 32, 2, 1),
        (4, 64, 32, 2, 2),
        (8, 64, 32, 8, 1),
        (8, 64, 32, 4, 1),
        (4, 32, 32, 2, 1),
        (2, 128, 32, 4, 1),
        (4, 128, 32, 8, 1),
        (4, 64, 16, 4, 1),
        (4, 64, 64, 4, 1),
        (4, 64, 160, 4, 1),
    )
]
SETTINGS = Settings(relu=True, dilation=1)
# Each kernel: its module, its plain form, and how many maps it reads and writes.
KERNELS = {
    "forward": (depthwise_forward, depthwise_forward.shifted_products, 2),
    "backward": (depthwise_backward, depthwise_backward.plain_backward, 3),
}


def milliseconds(function: Callable[..., Any], arguments: tuple, runs: int) -> float:
    """The median time of a compiled function."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        jax.block_until_ready([function(*arguments) for _ in range(5)])
        times.append((time.perf_counter() - began) / 5)
    return 1000 * statistics.median(times)


def compiled(function: Callable[..., Any], arguments: tuple) -> Any:
    """The compiled function, or the error."""
    try:
        return jax.jit(function).lower(*arguments).compile()
    except Exception as e:
        return e


def arguments_of(name: str, batch: int, side: int, channels: int) -> tuple:
    """Random maps and parameters."""
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = ((batch, side, side, channels), (channels,), (channels,), (3, 3, 1, channels))
    dtypes = (jnp.bfloat16, jnp.float32, jnp.float32, jnp.bfloat16)
    arguments = [jax.random.normal(k, s, d) for k, s, d in zip(keys, shapes, dtypes, strict=False)]
    if name == "backward":
        arguments.append(jax.random.normal(keys[4], shapes[0], jnp.bfloat16))
    return tuple(arguments)


def main() -> None:
    """Prints a line for each kernel and shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--interpret", action="store_true", help="where there is no GPU: the script, not the speed")
    flags = parser.parse_args()
    rows = []
    for name, (module, plain, maps) in KERNELS.items():
        for side, channels in SHAPES[-1:] if flags.interpret else SHAPES:
            arguments = arguments_of(name, flags.batch, side, channels)
            choices = CHOICES[:1] if flags.interpret else CHOICES
            programs: dict[str, Callable[..., Any]] = {
                "x".join(map(str, blocks)): lambda *a, b=blocks, kernel=module.in_one_kernel: kernel(
                    *a, SETTINGS, b, interpret=flags.interpret
                )
                for blocks in choices
            }
            programs["XLA"] = lambda *a, plain=plain: plain(*a, SETTINGS)
            programs["maps"] = (lambda x, *_: x + 1) if maps == 2 else (lambda x, *a: x + a[-1])
            with ThreadPoolExecutor() as pool:
                ready = list(pool.map(lambda f, a=arguments: compiled(f, a), programs.values()))
            times = {}
            for choice, program in zip(programs, ready, strict=True):
                if isinstance(program, Exception):
                    print(f"{choice}: {type(program).__name__}: {str(program).splitlines()[0]}", file=sys.stderr)
                else:
                    times[choice] = round(milliseconds(program, arguments, flags.runs), 4)
            rows.append({"kernel": name, "side": side, "channels": channels, "batch": flags.batch, "ms": times})
            ordered = sorted(times.items(), key=lambda item: item[1])
            print(f"{name} {side}x{side}x{channels}:", ", ".join(f"{c} {ms:.3f}" for c, ms in ordered), flush=True)
            if flags.json:
                flags.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
