"""Writing files that other frameworks load."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from safetensors.numpy import save

from xception_jax.formats import hdf5

Tensors = Mapping[str, np.ndarray]


def safetensors(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """A .safetensors file (huggingface.co/docs/safetensors), with texts of one's own as metadata."""
    arrays = {name: np.asarray(x, order="C") for name, x in tensors.items()}  # the library ignores strides
    return save(arrays, None if metadata is None else dict(metadata))


def keras_h5(tensors: Tensors, layers: Sequence[str]) -> bytes:
    """A Keras HDF5 file of weights, which Keras 2 and 3 load with `model.load_weights("NAME.h5")`.

    Args:
      tensors: by "layer/variable".
      layers: in the order of `model.layers`, by which Keras loads them.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = np.array(layers, "S")
        file.attrs["backend"] = np.bytes_("tensorflow")
        for layer in layers:
            names = [name for name in tensors if name.rpartition("/")[0] == layer]
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{name}:0" for name in names], "S")
            for name in names:
                group[f"{name}:0"] = tensors[name]
    return buffer.getvalue()


def npz(tensors: Tensors) -> bytes:
    """An .npz file with arrays named "layer.variable"."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name.replace("/", "."): x for name, x in tensors.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def keras_archive(
    config: Mapping[str, Any], metadata: Mapping[str, Any], tensors: Tensors, groups: Mapping[str, str]
) -> bytes:
    """A .keras file, which Keras 3 opens with `keras.models.load_model`: a zip of configuration and arrays.

    Args:
      config: of the network, as `keras_config` makes it.
      metadata: about the file; Keras does not read it.
      tensors: by "layer/variable", a layer's in the order in which Keras has them.
      groups: where the file has each layer's arrays.
    """
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for name, group in groups.items():
            variables = file.create_group(f"{group}/vars")
            variables.attrs["name"] = name
            arrays = [x for tensor, x in tensors.items() if tensor.rpartition("/")[0] == name]
            for i, x in enumerate(arrays):
                variables[str(i)] = x
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # not compressed, as Keras writes it; dated 1980, the same each time
        for name, text in ((hdf5.METADATA, metadata), (hdf5.CONFIG, config)):
            archive.writestr(zipfile.ZipInfo(name), json.dumps(text))
        archive.writestr(zipfile.ZipInfo(hdf5.WEIGHTS), weights.getvalue())
    return buffer.getvalue()
