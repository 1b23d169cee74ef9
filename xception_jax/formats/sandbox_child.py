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


# Where training programs keep the network's arrays in what they save: averaged over training's steps, or as they are.
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "params_ema", "ema_model", "ema")
PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module")
CLASS_NAMES = ("classes", "class_names", "label_names", "labels", "class_to_idx")
# What training programs save beside the arrays. None of these is imported: each becomes an empty `StandIn`.
STAND_INS = (
    "argparse.Namespace", "types.SimpleNamespace",
    *(f"pathlib{sub}.{kind}" for sub in ("", "._local") for kind in (
        "Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool")),
    "collections.deque", "datetime.date", "datetime.datetime", "datetime.timedelta", "datetime.timezone",
    "decimal.Decimal", "fractions.Fraction", "uuid.UUID", "typing.Any",
    "numpy.dtype", "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.dtypes.{name}DType" for name in (
        "Bool", "Float16", "Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32",
        "UInt64", "Bytes", "Str")),
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.Metadata",
    "omegaconf.base.ContainerMetadata", *(f"omegaconf.nodes.{kind}Node" for kind in (
        "Any", "String", "Integer", "Float", "Boolean", "Path")),
    "torch.torch_version.TorchVersion",
)  # fmt: skip
STAND_IN_DICTS = (
    "collections.defaultdict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)


class StandIn:
    """In place of an object that a file has beside its arrays: takes and does nothing."""

    def __new__(cls, *_: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class StandInDict(StandIn):
    """In place of a kind of dictionary: a plain one."""

    def __new__(cls, *_: Any) -> Any:
        return {}


def _stand_in(name: str, kind: type) -> type:
    """A stand-in for the class of this full name, as PyTorch looks it up."""
    module, _, own = name.rpartition(".")
    return type(own, (kind,), {"__module__": module, "__qualname__": own})


def read_torch(path: str, budget: Budget) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a state dict, or of the one in what a training program saved: the averaged one if there is one.

    Metadata: "averaged", under which name the averaged arrays were, or ""; "class_names", [] if there are none.
    """
    import torch

    if hasattr(torch.serialization, "add_safe_globals"):
        kinds = ((STAND_INS, StandIn), (STAND_IN_DICTS, StandInDict))
        torch.serialization.add_safe_globals([_stand_in(name, kind) for names, kind in kinds for name in names])
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:  # its message advises running the file's code
        called = re.search(r"GLOBAL (\S+)", str(e))
        what = f"it is a pickle that would run {called[1]}" if called else "damaged, or contains more than weights"
        raise Refused(what) from None
    state, averaged = _state_dict(saved)
    tensors = {str(name): x for name, x in state.items() if isinstance(x, torch.Tensor)}
    for name, x in tensors.items():
        if x.layout != torch.strided or x.is_quantized or str(x.dtype).removeprefix("torch.") not in DTYPES:
            raise Refused(f"{name} is of a kind not supported for weights ({x.dtype}, {x.layout})")
        budget.take(name, tuple(x.shape), x.element_size())
    metadata = {"averaged": averaged, "class_names": _class_names(saved)}
    return {name: _numpy(x) for name, x in tensors.items()}, metadata


def _state_dict(saved: Any) -> tuple[dict[Any, Any], str]:
    """The state dict in what a program saved, and its key if it is an averaged one, else ""."""
    averaged = ""
    for _ in range(MAX_DEPTH):
        keys = [key for key in AVERAGED + PLAIN if isinstance(saved, dict) and _holds_tensors(saved.get(key))]
        if not keys:
            break
        saved = saved[keys[0]]
        averaged = averaged or (keys[0] if keys[0] in AVERAGED else "")
    if not _holds_tensors(saved):
        has = ", ".join(str(key)[:40] for key in list(saved)[:8]) if isinstance(saved, dict) else type(saved).__name__
        raise Refused(f"it has no state dict, but {has or 'nothing'}")
    return saved, averaged


def _holds_tensors(x: Any, depth: int = 3) -> bool:
    """Whether it is a dictionary that has tensors, or one that has them, and so on."""
    import torch

    if depth == 0 or not isinstance(x, dict):
        return False
    return any(isinstance(value, torch.Tensor) for value in x.values()) or any(
        _holds_tensors(x.get(key), depth - 1) for key in AVERAGED + PLAIN
    )


def _class_names(saved: Any) -> list[str]:
    """The names of classes that a program saved beside its arrays: a list, or numbers by name."""
    for found in [saved.get(key) for key in CLASS_NAMES] if isinstance(saved, dict) else []:
        if isinstance(found, dict) and all(type(number) is int for number in found.values()):
            numbers: dict[Any, int] = found
            found = sorted(numbers, key=lambda name: numbers[name])
            found = found if sorted(numbers.values()) == [*range(len(numbers))] else None
        if isinstance(found, list | tuple) and found and all(isinstance(name, str) for name in found):
            return list(found)
    return []


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
