"""Files that other frameworks load."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

Tensors = Mapping[str, np.ndarray]
SAFETENSORS_DTYPES = {"float32": "F32", "int64": "I64"}


def safetensors(tensors: Tensors) -> bytes:
    """A .safetensors file (huggingface.co/docs/safetensors): the length of a JSON header, the header, the arrays."""
    header: dict[str, dict] = {}
    offset = 0
    for name, x in tensors.items():
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[x.dtype.name],
            "shape": list(x.shape),
            "data_offsets": [offset, offset + x.nbytes],
        }
        offset += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(x.tobytes() for x in tensors.values())


def keras_h5(tensors: Tensors, layers: Sequence[str]) -> bytes:
    """Keras' HDF5 file of weights, which Keras 2 and 3 load by `model.load_weights("NAME.h5")`.

    Args:
      tensors: by "layer/variable".
      layers: in the order of `model.layers`, by which Keras goes.
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
    """NumPy's archive, arrays by "layer.variable"."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name.replace("/", "."): x for name, x in tensors.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()
