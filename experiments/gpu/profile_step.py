"""Where a training step's time goes on this device: `python experiments/gpu/profile_step.py xception 128 FOLDER`.

Writes the step's optimized program (`NAME.hlo.txt.gz`) and each kernel's time a step (`NAME.json`), and prints the
largest, added up by what they are for.
"""

import collections
import gzip
import json
import os
import re
import sys
import tempfile
from pathlib import Path

# Otherwise what is launched together has one name.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_enable_command_buffer="

import jax

from xception_jax.benchmarking.sides import jax_side

STEPS = 3


def kernels(trace: Path) -> dict[str, float]:
    """Milliseconds of each kernel in a trace, all its runs together, from the GPU's own streams."""
    times: collections.Counter[str] = collections.Counter()
    (file,) = trace.rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if line.name.startswith("Stream"):
                for event in line.events:
                    stats = dict(event.stats)
                    times[str(stats.get("hlo_op") or event.name)] += event.duration_ns / 1e6
    return dict(times)


def main(name: str, batch: int, folder: Path) -> None:
    """Traces some steps."""
    task = {"model": name, "batch": batch, "image_size": 299, "dtype": "bfloat16", "options": {}}
    if jax.default_backend() == "cpu":
        task |= {"image_size": 71, "options": {"width": 0.1}}
    program, make_arguments = jax_side.train_program(task)
    state, data = make_arguments()
    compiled = program.lower(state, data).compile()
    (folder / f"{name}.hlo.txt.gz").write_bytes(gzip.compress(compiled.as_text().encode()))
    for _ in range(2):
        state, metrics = compiled(state, data)
    jax.block_until_ready(metrics)
    with tempfile.TemporaryDirectory() as trace:
        with jax.profiler.trace(trace):
            for _ in range(STEPS):
                state, metrics = compiled(state, data)
            jax.block_until_ready(metrics)
        times = {op: ms / STEPS for op, ms in kernels(Path(trace)).items()}
    (folder / f"{name}.json").write_text(json.dumps(dict(sorted(times.items(), key=lambda i: -i[1])), indent=0))
    print(f"{name}, batch {batch}: {sum(times.values()):.1f} ms of kernels a step")
    kinds: collections.Counter[str] = collections.Counter()
    for op, ms in times.items():
        kinds[re.sub(r"[._\d]+$", "", op)] += ms
    for kind, ms in kinds.most_common(12):
        print(f"  {ms:8.2f} ms  {kind}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
