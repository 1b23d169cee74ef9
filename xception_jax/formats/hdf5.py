"""Keras' HDF5 files: .h5, .weights.h5, and the one inside a .keras file, a zip that also has the network's config.

Keras 3 stores arrays by number, in groups named after the layers' classes: layers/conv2d_1/vars/0. The layers' names
are in the config or, in recent files, next to the arrays; the variables' names follow from the class.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xception_jax.errors import WeightsFileError
from xception_jax.formats import sandbox
from xception_jax.formats.zips import ERRORS, open_zip, read_member

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_DEPTH = 16
# Variables by class (as in group names) and number of variables.
VARIABLES = {
    ("conv2d", 1): "kernel",
    ("conv2d", 2): "kernel bias",
    ("dense", 1): "kernel",
    ("dense", 2): "kernel bias",
    ("depthwise_conv2d", 1): "kernel",
    ("depthwise_conv2d", 2): "kernel bias",
    ("separable_conv2d", 2): "depthwise_kernel pointwise_kernel",
    ("separable_conv2d", 3): "depthwise_kernel pointwise_kernel bias",
    ("normalization", 3): "mean variance count",
    ("layer_normalization", 2): "gamma beta",
    ("batch_normalization", 2): "moving_mean moving_variance",
    ("batch_normalization", 3): "beta moving_mean moving_variance",
    ("batch_normalization", 4): "gamma beta moving_mean moving_variance",
}
Tensors = dict[str, np.ndarray]


def read_hdf5(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The arrays of an .h5 or .weights.h5 file as "layer/variable", and the file's metadata.

    If a .weights.h5 file does not have the layers' names, "layer" is the group's path, e.g. "layers/conv2d_1".

    Raises:
      WeightsFileError: the file is damaged, or its arrays are in another file.
    """
    tensors, metadata = sandbox.read("hdf5", path, path)
    if metadata["layout"] == "groups":
        tensors = _named(tensors, metadata["layer_names"], path)
    return tensors, metadata


def read_keras(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The arrays of a .keras file as "layer/variable", and {"config": the network's, "metadata": the file's}.

    Raises:
      WeightsFileError: the file is damaged.
    """
    try:
        with open_zip(path) as archive, tempfile.TemporaryDirectory() as folder:
            config, metadata = (json.loads(read_member(archive, name)) for name in (CONFIG, METADATA))
            weights = Path(folder) / WEIGHTS
            weights.write_bytes(read_member(archive, WEIGHTS))
            tensors, found = sandbox.read("hdf5", weights, path)
    except WeightsFileError:
        raise
    except (*ERRORS, KeyError, RecursionError) as e:
        raise WeightsFileError(f"{path} is damaged, or not a .keras file: {e}") from None
    try:
        names = dict(_layers(config, "", 0))
    except (AttributeError, KeyError, TypeError) as e:
        raise WeightsFileError(f"{path} is damaged: its {CONFIG} does not describe a network ({e!r})") from None
    return _named(tensors, names | found["layer_names"], path), {"config": config, "metadata": metadata}


def _layers(network: Mapping[str, Any], path: str, depth: int) -> Iterator[tuple[str, str]]:
    """The layers of a network: each layer's group, as Keras names it, and its name."""
    if depth > MAX_DEPTH:
        raise KeyError("networks are nested too deeply")
    counts: dict[str, int] = {}
    for layer in network["config"]["layers"]:
        kind = _snake_case(layer["class_name"])
        count = counts[kind] = counts.get(kind, -1) + 1
        group = f"{path}layers/{kind}_{count}" if count else f"{path}layers/{kind}"
        yield group, str(layer["config"]["name"])
        if "layers" in layer["config"]:
            yield from _layers(layer, f"{group}/", depth + 1)


def _snake_case(class_name: str) -> str:
    """Snake case as in Keras: "SeparableConv2D" becomes "separable_conv2d"."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _named(tensors: Tensors, layer_names: Mapping[str, str], path: Path) -> Tensors:
    """Renames arrays from group and number to "layer/variable"."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, x in tensors.items():
        group, _, number = name.rpartition("/vars/")
        groups.setdefault(group, {})[number] = x
    named: Tensors = {}
    for group, arrays in groups.items():
        kind = re.sub(r"_\d+$", "", group.rpartition("/")[2])
        variables = VARIABLES.get((kind, len(arrays)), " ".join(map(str, range(len(arrays))))).split()
        if sorted(arrays, key=lambda n: (len(n), n)) != [str(i) for i in range(len(arrays))]:
            raise WeightsFileError(f"{path} is damaged: the arrays of {group or 'the file'} are not numbered from 0")
        for i, variable in enumerate(variables):
            name = f"{layer_names.get(group, group)}/{variable}"
            if name in named:
                raise WeightsFileError(
                    f"{path} has two arrays called {name}; layers of nested networks need distinct names"
                )
            named[name] = arrays[str(i)]
    return named
