"""Reads HDF5 and PyTorch files, whose libraries are written in C, in a separate process. See `sandbox.py`.

    python -P sandbox_child.py hdf5|torch FILE OUTPUT LIMIT SECONDS

writes the file's arrays, at most LIMIT bytes in total, to OUTPUT as safetensors. If it rejects the file, it prints the
reason and exits with 3. It imports nothing from this package, to start quickly.
"""

import json
import math
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

REFUSED = 3
MEMORY = 1 << 30  # in addition to the file's size and to what the libraries take to load
MAX_TENSORS, MAX_RANK, MAX_DEPTH, MAX_ATTRIBUTE = 20_000, 8, 16, 16 << 20
DTYPES = {
    "float64", "float32", "float16", "bfloat16", "bool",
    "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8",
}  # fmt: skip

Tensors = dict[str, np.ndarray]


class Refused(Exception):
    """The file is damaged, or contains something that weights never need."""


class Budget:
    """The number of bytes that may still be read."""

    def __init__(self, num_bytes: int):
        self.limit = self.left = num_bytes
        self.tensors = 0

    def take(self, name: str, shape: tuple[int, ...], itemsize: int) -> None:
        self.left -= math.prod(shape) * itemsize
        self.tensors += 1
        if self.left < 0 or len(shape) > MAX_RANK or self.tensors > MAX_TENSORS:
            raise Refused(f"{name} of shape {list(shape)} exceeds the {self.limit} bytes allowed for the file's size")


def read_hdf5(path: str, budget: Budget) -> tuple[Tensors, dict[str, Any]]:
    """The arrays of a Keras file, as "layer/variable", and its layout:

    - "legacy": groups with the attributes `layer_names` and `weight_names` (Keras 1 and 2's, and Keras 3's .h5),
    - "groups": by their paths "layers/conv2d/vars/0" (Keras 3's .weights.h5), with the layers' names if present.

    `model_config` and `keras_version` are included if the file has them.
    """
    import h5py

    _check_end(path)
    with h5py.File(path, "r") as file:
        root = _child(file, "model_weights") if "model_weights" in file else file
        metadata = {key: _text(file, key) or _text(root, key) for key in ("model_config", "keras_version")}
        if any(key in root.attrs for key in ("layer_names", "layer_names0")):
            return _legacy(root, budget), metadata | {"layout": "legacy"}
        names: dict[str, str] = {}
        tensors = {}
        for name, dataset in _datasets(file, "", names, 0, budget):
            tensors[name] = _dataset(name, dataset, budget)
        return tensors, metadata | {"layout": "groups", "layer_names": names}


def _check_end(path: str) -> None:
    """Raises Refused unless the file has the size it states: the library notices only files that are too short."""
    with Path(path).open("rb") as f:
        start = f.read(48)
    at = {0: 40, 1: 44, 2: 28, 3: 28}.get(start[8]) if len(start) == 48 else None
    if at is None:
        raise Refused("not an HDF5 file of a known version")
    end, size = int.from_bytes(start[at : at + 8], "little"), Path(path).stat().st_size
    if at != 44 and end != size:
        raise Refused(f"damaged: it has {size} bytes, but states {end}")


def _child(group: Any, path: str) -> Any:
    """The object at a path below a group. Only hard links are followed: others may lead to another file."""
    import h5py

    for name in path.split("/"):
        if not isinstance(group, h5py.Group) or name not in group:
            raise Refused(f"damaged: {path!r} is missing")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise Refused(f"{group.name}/{name} is a link, perhaps to another file; links are not followed")
        group = group[name]
    return group


def _attribute(owner: Any, name: str) -> list[str]:
    """An attribute that is a list of strings."""
    import h5py

    if name not in owner.attrs:
        return []
    attribute = owner.attrs.get_id(name)
    is_text = h5py.check_string_dtype(attribute.dtype) is not None or attribute.dtype.kind == "S"
    if math.prod(attribute.shape or ()) == 0:
        return []
    if not is_text or attribute.get_storage_size() > MAX_ATTRIBUTE:
        raise Refused(f"damaged: attribute {name} is not a list of strings")
    return [x.decode() if isinstance(x, bytes) else str(x) for x in np.atleast_1d(owner.attrs[name]).ravel()]


def _text(owner: Any, name: str) -> str:
    return "".join(_attribute(owner, name)[:1])


def _texts(owner: Any, name: str) -> list[str]:
    """A list that Keras may have split into several attributes, name0, name1, ..., as the size of one is limited."""
    found = _attribute(owner, name)
    for i in range(MAX_TENSORS):
        if f"{name}{i}" not in owner.attrs:
            return found
        found += _attribute(owner, f"{name}{i}")
    raise Refused("damaged: too many names")


def _legacy(root: Any, budget: Budget) -> Tensors:
    tensors: Tensors = {}
    for layer in _texts(root, "layer_names"):
        group = _child(root, layer)
        weights = _texts(group, "weight_names")
        own = [weight.split("/")[-1] for weight in weights]
        # If a layer is itself a network, its weights are named after that network's layers.
        nested = len(set(own)) < len(own)
        for weight, variable in zip(weights, own, strict=True):
            scope = weight.split("/")[-2] if nested and "/" in weight else layer
            name = f"{scope}/{variable.removesuffix(':0')}"
            if name in tensors:
                raise Refused(f"damaged: two arrays are called {name}")
            tensors[name] = _dataset(name, _child(group, weight), budget)
    return tensors


def _datasets(group: Any, path: str, names: dict[str, str], depth: int, budget: Budget) -> Iterator[tuple[str, Any]]:
    """All arrays below a group except the optimizer's; adds the layers' names stored next to them to `names`."""
    import h5py

    if depth > MAX_DEPTH:
        raise Refused("damaged: its groups are nested too deeply")
    if text := _text(group, "name"):
        names[path.removesuffix("/vars")] = text
    for name in group:
        where = f"{path}/{name}" if path else name
        if where == "optimizer":
            continue
        budget.take(where, (), 0)
        child = _child(group, name)
        if isinstance(child, h5py.Group):
            yield from _datasets(child, where, names, depth + 1, budget)
        else:
            yield where, child


def _dataset(name: str, dataset: Any, budget: Budget) -> np.ndarray:
    """An array, if it consists of numbers stored in the file itself."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise Refused(f"damaged: {name} is not an array")
    plist = dataset.id.get_create_plist()
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if plist.get_external_count() or plist.get_layout() == h5py.h5d.VIRTUAL:
        raise Refused(f"{name} is stored in another file, which is not read")
    if not filters <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}:
        raise Refused(f"{name} is compressed in an unusual way")
    if dataset.dtype.name not in DTYPES:
        raise Refused(f"{name} has dtype {dataset.dtype}, which is not supported for weights")
    if dataset.shape is None:
        raise Refused(f"{name} is empty")
    budget.take(name, dataset.shape, dataset.dtype.itemsize)
    if plist.get_layout() == h5py.h5d.CONTIGUOUS and dataset.id.get_storage_size() != dataset.nbytes:
        raise Refused(f"damaged: {name} of shape {list(dataset.shape)} is incomplete")
    return dataset[()].astype(dataset.dtype.newbyteorder("<"), copy=False)


def read_torch(path: str, budget: Budget) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a state dict, or of the state dict under "state_dict", "model_state_dict", "model" or the like."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:  # its message advises running the file's code
        called = re.search(r"GLOBAL (\S+)", str(e))
        what = f"it is a pickle that would run {called[1]}" if called else "damaged, or contains more than weights"
        raise Refused(what) from None
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise Refused("it has no state dict")
    tensors = {str(name): x for name, x in found.items() if isinstance(x, torch.Tensor)}
    for name, x in tensors.items():
        if x.layout != torch.strided or x.is_quantized or str(x.dtype).removeprefix("torch.") not in DTYPES:
            raise Refused(f"{name} is of a kind not supported for weights ({x.dtype}, {x.layout})")
        budget.take(name, tuple(x.shape), x.element_size())
    return {name: _numpy(x) for name, x in tensors.items()}, {}


def _numpy(x: Any) -> np.ndarray:
    """A tensor as a NumPy array. PyTorch cannot convert bfloat16 to NumPy."""
    import ml_dtypes
    import torch

    x = x.detach()
    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


def write(tensors: Tensors, metadata: dict[str, Any], path: str) -> None:
    """The arrays as safetensors."""
    ordered = {name: np.asarray(x, order="C") for name, x in tensors.items()}  # the library ignores strides
    save_file(ordered, path, {"json": json.dumps(metadata)})


def limit_memory(num_bytes: int) -> None:
    """Limits this process's memory to its current use plus `num_bytes`, if the system supports it."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):  # not Linux
        pass


def limit_time(seconds: int) -> None:
    """Limits this process's CPU time, which ends it even if its parent is gone, and disables core dumps."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):  # Windows
        pass


def main() -> int:
    reader, path, output, limit, seconds = sys.argv[1:]
    limit_time(int(seconds))
    if reader == "torch":
        import torch  # noqa: F401
    else:
        import h5py  # noqa: F401
    budget = Budget(int(limit))
    limit_memory(MEMORY + 3 * budget.limit)
    try:
        write(*(read_torch if reader == "torch" else read_hdf5)(path, budget), output)
    except Refused as e:
        print(e, file=sys.stderr)
        return REFUSED
    except Exception as e:  # a library's error for an invalid file
        print(f"damaged: {' '.join(str(e).split())[:300] or type(e).__name__}", file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
