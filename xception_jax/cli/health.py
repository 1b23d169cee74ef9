"""What `xception-jax doctor` looks at. Each check yields findings: what was found, and what mends it if it is wrong."""

import contextlib
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from xception_jax.benchmarking.output import processor, versions
from xception_jax.benchmarking.photographs import photographs
from xception_jax.data import UnreadableImages, train_batches
from xception_jax.data.augmentation import Augmentation
from xception_jax.data.pipeline import cores
from xception_jax.errors import UserError
from xception_jax.filesystem import paths
from xception_jax.inputs.spec import InputSpec
from xception_jax.ops import trust
from xception_jax.pretrained import hub
from xception_jax.terminal.console import size
from xception_jax.version import __version__

HUB = "https://huggingface.co"
SECONDS = 3.0  # of reading images, and of waiting for the hub
DISK_BYTES = 64 * 2**20
LEAST_FREE, LEAST_WRITE_SPEED = 5e9, 20e6


class Finding(NamedTuple):
    """What a check found.

    Attributes:
      about: its subject.
      found: in words.
      mend: what to do about it; empty if nothing is wrong.
    """

    about: str
    found: str
    mend: str = ""


def programs() -> Iterator[Finding]:
    """Versions of what computes."""
    yield Finding("versions", ", ".join(f"{k} {v}" for k, v in {"xception-jax": __version__, **versions()}.items()))


def devices() -> Iterator[Finding]:
    """The devices and their memory."""
    found = jax.local_devices()
    kinds = {device.device_kind: sum(d.device_kind == device.device_kind for d in found) for device in found}
    limit = (found[0].memory_stats() or {}).get("bytes_limit")
    memory = f", {size(limit)} of memory each for JAX" if limit else ""
    listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    yield Finding("devices", f"{listed} ({jax.default_backend()}){memory}", _missing_accelerator())
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    yield Finding("host", f"{processor()}, {cores()} cores for this process, {size(host)} of memory")


def _missing_accelerator() -> str:
    """What to do if there is a GPU that JAX does not use."""
    if jax.default_backend() != "cpu" or not Path("/proc/driver/nvidia/version").exists():
        return ""
    return 'this machine has an NVIDIA GPU that JAX does not use: pip install "jax[cuda12]" (or cuda13)'


def kernels() -> Iterator[Finding]:
    """Every operator with kernels of its own: right, and faster than its plain form."""
    if jax.default_backend() not in trust.PLATFORMS:
        yield Finding("kernels", "none on this platform: its operators are plain XLA")
        return
    for dtype in trust.BOUNDS:
        for verdict in trust.verdicts(dtype):
            mend = {
                "ok": "",
                "slower": "its plain form is used; a newer JAX or driver may help",
                "wrong": "its plain form is used; please report this, with the versions above",
                "failed": "its plain form is used; end what else uses the device and try again, or report this",
            }
            yield Finding("kernels", str(verdict), mend[verdict.word])


class Photographs:
    """Images in memory, as a source of data."""

    class_names: tuple[str, ...] = ("photograph",)

    def __init__(self, count: int):
        self._encoded = list(photographs(count))

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return self._encoded[index], 0

    def example_id(self, index: int) -> str:
        """The image's number."""
        return str(index)


def input_rate() -> Iterator[Finding]:
    """How many images a second are decoded, cropped and resized."""
    settings: dict[str, Any] = {"batch_size": 32, "seed": 0, "start_step": 0, "broken": UnreadableImages()}
    stream = train_batches(Photographs(32), InputSpec(image_size=299), Augmentation(), **settings)
    next(stream)
    began, count = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < SECONDS:
        count += len(next(stream)["label"])
    yield Finding("input", f"{count / took:,.0f} training images a second, from JPEG files of 500x375 pixels")


def disk(folder: Path) -> Iterator[Finding]:
    """Space and speed of the disk that runs are written to."""
    existing = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    try:
        with tempfile.NamedTemporaryFile(dir=existing) as f:
            began = time.perf_counter()
            f.write(os.urandom(DISK_BYTES))
            f.flush()
            os.fsync(f.fileno())
            speed = DISK_BYTES / (time.perf_counter() - began)
    except OSError as e:
        yield Finding("disk", f"{existing} cannot be written: {e.strerror}", "choose another --workdir")
        return
    mend = "free some space, or choose another --workdir" if free < LEAST_FREE else ""
    if speed < LEAST_WRITE_SPEED:
        mend = mend or "checkpoints will take long: choose a faster disk, or save less often (config.checkpoint.every)"
    yield Finding("disk", f"{existing}: {size(free)} free, written at {size(speed)}/s", mend)


def compiled_programs() -> Iterator[Finding]:
    """Whether compiled programs are kept between runs."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not folder:
        yield Finding(
            "cache",
            "compiled programs are not kept",
            "set JAX_COMPILATION_CACHE_DIR to a folder that can be written, and starts take less",
        )
        return
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        yield Finding(
            "cache", f"{folder} cannot be written: {e.strerror}", "set JAX_COMPILATION_CACHE_DIR to a folder that can"
        )
        return
    kept = [file.stat().st_size for file in path.iterdir() if file.is_file()]
    yield Finding("cache", f"compiled programs are kept in {folder}: {len(kept):,} files, {size(sum(kept))}")


def weights() -> Iterator[Finding]:
    """Whether published weights can be downloaded, and which are there already."""
    try:
        hub.cache()
    except UserError as e:
        yield Finding("weights", "nowhere to keep them", str(e))
        return
    if not paths.writable(hub.cache()):
        yield Finding("weights", f"{hub.cache()} cannot be written", "set XCEPTION_JAX_CACHE to a folder that can be")
        return
    here = sorted(p.name for p in hub.cache().iterdir()) if hub.cache().is_dir() else []
    kept = f"in {hub.cache()}: {', '.join(here) if here else 'none yet'}"
    try:
        with contextlib.closing(urllib.request.urlopen(HUB, timeout=SECONDS)):
            answer = "can be downloaded"
    except (OSError, urllib.error.URLError, ValueError) as e:
        answer = f"cannot be downloaded ({HUB}: {getattr(e, 'reason', e)}), but read from files, see docs/weights.md"
    yield Finding("weights", f"{answer}; {kept}")


def checks(folder: Path) -> list[Callable[[], Iterator[Finding]]]:
    """All checks, in the order in which they are shown."""
    return [programs, devices, kernels, input_rate, lambda: disk(folder), compiled_programs, weights]
