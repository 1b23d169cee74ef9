"""Reads damaged weight files, one after another, in a process that may crash without harm.

    python tests/pretrained/fuzz.py FOLDER FIRST LAST

prints lines of JSON: the number of each damage before it is read, and what came of it:

- "error": the reader refused the file,
- "same": the arrays are those of the undamaged file, bit by bit,
- "numbers": the arrays have the same names, shapes and dtypes, but other numbers,
- "other": names, shapes or dtypes differ,
- "leak: ..": anything else was raised.

Readers that use a process of their own read in this one, so that a thousand files are done in seconds.
"""

import argparse
import json
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from xception_jax.errors import WeightsFileError
from xception_jax.formats import sandbox, sandbox_child
from xception_jax.formats.detect import read_tensors
from xception_jax.formats.limits import max_expansion

BUNDLE = Path(__file__).parent / "fixtures" / "bundle"
MEMORY = 1 << 30  # beside what the libraries take
SECONDS = 5  # of processor time for a file of a few kilobytes
FORMATS = (
    "safetensors", "npz", "npz_deflated", "bundle", "h5", "h5_groups", "h5_chunked", "keras", "torch", "torch_old",
)  # fmt: skip


def arrays():
    rng = np.random.default_rng(0)
    return {
        "block1_conv1/kernel": rng.normal(size=(3, 3, 3, 4)).astype(np.float32),
        "block1_conv1_bn/gamma": rng.normal(size=4).astype(np.float32),
        "predictions/kernel": rng.normal(size=(4, 2)).astype(np.float16),
        "predictions/bias": rng.normal(size=2),
    }


def make(kind: str, folder: Path) -> Path:
    """Writes a sound file of a format into a folder. A bundle is a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weights"
    if kind == "bundle":
        shutil.copytree(BUNDLE / "variables", path / "variables", copy_function=shutil.copy)
    elif kind == "safetensors":
        save_file(arrays() | {"half": np.ones((2, 2), ml_dtypes.bfloat16)}, path, {"format": "np"})
    elif kind.startswith("npz"):
        with path.open("wb") as f:
            (np.savez_compressed if kind == "npz_deflated" else np.savez)(f, **arrays())
    elif kind.startswith("torch"):
        import torch

        state = {name: torch.from_numpy(x) for name, x in arrays().items()}
        beside = {"args": argparse.Namespace(folder=Path("/data")), "best": np.float64(0.5), "epoch": 3}
        torch.save({"state_dict": state, **beside}, path, _use_new_zipfile_serialization=kind == "torch")
    elif kind == "keras":
        make_keras(path, folder)
    else:
        make_h5(path, kind)
    return path


def make_h5(path: Path, kind: str) -> None:
    """Keras' legacy layout; "h5_chunked" compressed; "h5_groups" Keras 3's."""
    options = {"chunks": True, "compression": "gzip", "shuffle": True} if kind == "h5_chunked" else {}
    with h5py.File(path, "w") as file:
        if kind == "h5_groups":
            for group, xs in groups().items():
                for i, x in enumerate(xs):
                    file[f"{group}/vars/{i}"] = x
            return
        layers = list(dict.fromkeys(name.split("/")[0] for name in arrays()))
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            names = [name for name in arrays() if name.startswith(f"{layer}/")]
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                group.create_dataset(f"{name}:0", data=arrays()[name], **options)


def groups():
    kernel, gamma, head, bias = arrays().values()
    return {"layers/conv2d": [kernel], "layers/batch_normalization": [gamma] * 4, "layers/dense": [head, bias]}


def make_keras(path: Path, folder: Path) -> None:
    make_h5(folder / "h5", "h5_groups")
    names = {"Conv2D": "block1_conv1", "BatchNormalization": "block1_conv1_bn", "Dense": "predictions"}
    layers = [{"class_name": kind, "config": {"name": name}} for kind, name in names.items()]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": layers}}))
        archive.write(folder / "h5", "model.weights.h5")


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """A copy with one kind of damage; it differs from the data."""
    x = bytearray(data)
    at = int(rng.integers(len(x)))
    match rng.integers(7):
        case 0:  # a bit
            x[at] ^= 1 << int(rng.integers(8))
        case 1:  # some bytes
            for i in rng.integers(0, len(x), int(rng.integers(1, 9))):
                x[i] = int(rng.integers(256))
        case 2:  # too short
            del x[at:]
        case 3:  # too long
            x += rng.bytes(int(rng.integers(1, 4096)))
        case 4:  # a piece of it elsewhere, in place of what was there or between
            piece = x[at : at + int(rng.integers(1, 256))]
            to = int(rng.integers(len(x)))
            x[to : to + (len(piece) if rng.integers(2) else 0)] = piece
        case 5:  # an absurd number
            size = int(rng.choice([1, 2, 4, 8]))
            number = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
            x[at : at + size] = bytes([0xFF if number == 0x7F else number]) * (size - 1) + bytes([number])
        case 6:  # a piece is gone
            del x[at : at + int(rng.integers(1, 256))]
    if bytes(x) == data:
        x[at] ^= 0xFF
    return bytes(x)


def damaged_copy(sound: Path, number: int, folder: Path) -> Path:
    """Damage `number`, always the same, of a sound file or of one of a folder's files."""
    rng = np.random.default_rng([number, 17])
    copy = folder / "damaged"
    if sound.is_dir():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(sound, copy)
        files = sorted(p for p in copy.rglob("*") if p.is_file())
        victim = files[int(rng.integers(len(files)))]
    else:
        victim = copy
    source = sound / victim.relative_to(copy) if sound.is_dir() else sound
    victim.write_bytes(damage(source.read_bytes(), rng))
    return copy


def compare(found, sound) -> str:
    def form(tensors):
        return {name: (x.shape, x.dtype) for name, x in tensors.items()}

    if form(found) != form(sound):
        return "other"
    return "same" if all(found[name].tobytes() == x.tobytes() for name, x in sound.items()) else "numbers"


def read_here(reader, path, source):
    """`guarded.read`, without a process."""
    budget = sandbox_child.Budget(max_expansion(path.stat().st_size))
    try:
        return (sandbox_child.read_torch if reader == "torch" else sandbox_child.read_hdf5)(str(path), budget)
    except Exception as e:  # as `sandbox_child.main`
        raise WeightsFileError(str(e)) from None


def main() -> None:
    folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sandbox.read = read_here
    sound = folder / "weights"
    _, expected, _ = read_tensors(sound)
    sandbox_child.limit_memory(MEMORY)
    for number in range(first, last):
        print(json.dumps({"begun": number}), flush=True)
        path = damaged_copy(sound, number, folder)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # what hangs, in C too, is ended by SIGPROF
        try:
            outcome = compare(read_tensors(path)[1], expected)
        except WeightsFileError:
            outcome = "error"
        except BaseException as e:  # what must not happen is reported, not hidden
            outcome = f"leak: {e!r}"
        print(json.dumps({"number": number, "outcome": outcome}), flush=True)
    print(json.dumps({"done": True}), flush=True)


if __name__ == "__main__":
    main()
