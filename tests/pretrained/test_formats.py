"""Weight files that other programs wrote, and files that are written to do harm."""

import io
import json
import os
import sys
import tracemalloc
import zipfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers
from safetensors.numpy import save_file

from tests.pretrained import fuzz
from xception_jax.errors import WeightsFileError
from xception_jax.formats import detect, tensor_bundle, torch_pickle, writing
from xception_jax.formats.detect import read_tensors
from xception_jax.formats.protobuf import fields

BUNDLE = Path(__file__).parent / "fixtures" / "bundle"
MIB = 1 << 20


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert (found[name].shape, found[name].dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(found[name], x)


# -- What others wrote ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    """A Keras network with a layer of each kind, one network inside it, an optimizer's state, and random numbers."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, use_bias=False, name="block1_conv1")(image)
    x = layers.BatchNormalization(scale=False, name="block1_conv1_bn")(x)
    x = layers.SeparableConv2D(4, 3, use_bias=False, name="block2_sepconv1")(x)
    x = keras.Sequential([layers.Conv2D(4, 1, name="in1"), layers.Conv2D(4, 1, name="in2")], name="inside")(x)
    x = layers.BatchNormalization()(layers.Conv2D(5, 1)(x))
    model = keras.Model(image, layers.Dense(2, name="predictions")(layers.GlobalAveragePooling2D()(x)))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(rng.normal(size=variable.shape).astype(variable.dtype))
    return model


def keras_arrays(model):
    """{"layer/variable": array} of a Keras network's layers, those of networks within it too."""
    found = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found |= keras_arrays(layer)
        else:
            found |= {f"{layer.name}/{v.name}": np.array(v.value) for v in layer.weights}
    return found


@pytest.mark.parametrize(
    ("suffix", "save", "kind"),
    [
        (".h5", "save", "hdf5"),
        (".weights.h5", "save_weights", "hdf5"),
        (".keras", "save", "keras"),
    ],
)
def test_keras_files(network, tmp_path, suffix, save, kind):
    path = tmp_path / f"network{suffix}"
    getattr(network, save)(path)
    path = path.rename(tmp_path / "a name that says nothing")
    found, tensors, metadata = read_tensors(path)
    assert found == kind
    same(tensors, keras_arrays(network))
    if kind == "keras":
        assert metadata["metadata"]["keras_version"] == keras.__version__
        assert metadata["config"] == json.loads(network.to_json()) | metadata["config"]


def without_names(path):
    """Keras 3's files before it wrote the layers' names beside the arrays."""

    def drop(_, group):
        group.attrs.pop("name", None)

    with h5py.File(path, "r+") as file:
        file.visititems(drop)


def test_layers_names_come_from_the_config_of_older_keras_files(network, tmp_path):
    network.save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as archive:
        archive.extractall(tmp_path)
    without_names(tmp_path / "model.weights.h5")
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.write(tmp_path / name, name)
    same(read_tensors(tmp_path / "old.keras")[1], keras_arrays(network))


def test_without_layers_names_groups_are_named(network, tmp_path):
    network.save_weights(tmp_path / "old.weights.h5")
    without_names(tmp_path / "old.weights.h5")
    found, expected = read_tensors(tmp_path / "old.weights.h5")[1], keras_arrays(network)
    np.testing.assert_array_equal(found["layers/conv2d/kernel"], expected["block1_conv1/kernel"])
    np.testing.assert_array_equal(found["layers/sequential/layers/conv2d_1/bias"], expected["in2/bias"])
    assert len(found) == len(expected)


def test_long_lists_of_names_are_cut_by_keras(tmp_path):
    model = keras.Sequential([keras.Input((1,)), *(layers.Dense(1, name=f"{i:03}{'x' * 200}") for i in range(400))])
    model.save(tmp_path / "long.h5")
    with h5py.File(tmp_path / "long.h5") as file:
        assert "layer_names1" in file["model_weights"].attrs
    same(read_tensors(tmp_path / "long.h5")[1], keras_arrays(model))


def test_safetensors_of_its_own_library(tmp_path):
    tensors = fuzz.arrays() | {"half": np.full((2, 3), 1.5, ml_dtypes.bfloat16), "count": np.array(7)}
    save_file(tensors, tmp_path / "weights", {"format": "np"})
    found, ours, metadata = read_tensors(tmp_path / "weights")
    assert (found, metadata) == ("safetensors", {"format": "np"})
    same(ours, tensors)


def test_safetensors_of_arrays_that_are_not_in_order(tmp_path):
    tensors = {"fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "slice": np.arange(6)[::2]}
    (tmp_path / "weights").write_bytes(writing.safetensors(tensors))
    same(read_tensors(tmp_path / "weights")[1], tensors)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    tensors = fuzz.arrays() | {"big": np.arange(3, dtype=">f4")}
    tensors["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    with (tmp_path / "weights").open("wb") as f:
        save(f, **tensors)
    assert read_tensors(tmp_path / "weights")[0] == "npz"
    same(read_tensors(tmp_path / "weights")[1], tensors)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
def test_torch(tmp_path, wrap, zipped):
    torch = pytest.importorskip("torch")
    tensors = fuzz.arrays() | {"count": np.array(7)}
    state = {name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}
    state["half"] = torch.full((2, 3), 1.5, dtype=torch.bfloat16)
    state["view"] = state["predictions/kernel"].T
    torch.save(wrap(state), tmp_path / "weights", _use_new_zipfile_serialization=zipped)
    found, ours, _ = read_tensors(tmp_path / "weights")
    assert found == "torch"
    more = {"half": np.full((2, 3), 1.5, ml_dtypes.bfloat16), "view": tensors["predictions/kernel"].T}
    same(ours, tensors | more)


def test_without_torch_the_error_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(detect.TORCH_MAGIC + bytes(100))
    monkeypatch.setattr(torch_pickle.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsFileError, match=r"install torch, or use a \.safetensors"):
        read_tensors(tmp_path / "weights")


def test_tensor_bundle_of_tensorflow():
    """Without the optimizer's momenta and the metrics, which the bundle has too."""
    with np.load(BUNDLE / "expected.npz") as file:
        expected = dict(file)
    for path in (BUNDLE, BUNDLE / "variables" / "variables", BUNDLE / "variables" / "variables.index"):
        found, tensors, _ = read_tensors(path)
        assert found == "tensor bundle"
        same(tensors, expected)


def test_protocol_buffers():
    # From the encoding guide: field 1 = 150; field 2 = "testing"; then a fixed32 and a fixed64.
    message = bytes.fromhex("089601120774657374696e671d01000000210200000000000000")
    assert list(fields(message)) == [(1, 150), (2, b"testing"), (3, 1), (4, 2)]
    for broken in ("08", "0896", "120874657374696e67", "1d0100", "0b", "08ffffffffffffffffff7f"):
        with pytest.raises(ValueError):
            list(fields(bytes.fromhex(broken)))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "not a weight file"),
        (b"<!DOCTYPE html>", "not a weight file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
def test_what_is_no_weight_file(tmp_path, contents, message):
    (tmp_path / "weights.h5").write_bytes(contents)
    with pytest.raises(WeightsFileError, match=message):
        read_tensors(tmp_path / "weights.h5")


def test_folders_that_have_no_weights(tmp_path):
    with pytest.raises(WeightsFileError, match="does not exist"):
        read_tensors(tmp_path / "nothing")
    with pytest.raises(WeightsFileError, match="not a SavedModel"):
        read_tensors(tmp_path)
    for name in ("a.index", "b.index"):
        (tmp_path / name).write_bytes((BUNDLE / "variables" / "variables.index").read_bytes())
    with pytest.raises(WeightsFileError, match="2 checkpoints; name one"):
        read_tensors(tmp_path)
    with pytest.raises(WeightsFileError, match="data-00000-of-00001 is missing"):
        tensor_bundle.read(tmp_path / "a")


# -- What does harm ---------------------------------------------------------------------------------------------------


def refuses(path, message):
    """The reader says so, having taken little memory, here at least."""
    tracemalloc.start()
    try:
        with pytest.raises(WeightsFileError, match=message):
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


def npy_header(shape, dtype="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_zip_bombs(tmp_path):
    zeros = bytes(256 * MIB)
    zipped(tmp_path / "npz", {"x.npy": npy_header((64 * MIB,)) + zeros})
    zipped(tmp_path / "keras", {"config.json": "{}", "metadata.json": "{}", "model.weights.h5": zeros})
    zipped(tmp_path / "torch", {"archive/data.pkl": b".", "archive/data/0": zeros})
    for name in ("npz", "keras", "torch"):
        assert (tmp_path / name).stat().st_size < MIB
        if name != "torch" or "torch" in sys.modules or torch_pickle.importlib.util.find_spec("torch"):
            refuses(tmp_path / name, "zip bomb")


def test_zip_members_that_lie_over_each_other(tmp_path):
    """One member, twenty times in the directory: a bomb that no ratio of a single member shows."""
    zipped(tmp_path / "one", {"x.npy": npy_header((16 * MIB,)) + bytes(64 * MIB)})
    data = (tmp_path / "one").read_bytes()
    at = data.index(b"PK\x01\x02")
    entry, end = data[at : data.index(b"PK\x05\x06")], bytearray(data[data.index(b"PK\x05\x06") :])
    entries = b"".join(entry.replace(b"x.npy", b"%c.npy" % (65 + i)) for i in range(20))
    end[8:12], end[12:16] = 2 * (20).to_bytes(2, "little"), len(entries).to_bytes(4, "little")
    (tmp_path / "npz").write_bytes(data[:at] + entries + end)
    refuses(tmp_path / "npz", "zip bomb|Overlapped")


def test_zip_members_that_understate_their_size(tmp_path):
    """What a member states is held against the file's size: that it unfolds to more must show before it does."""
    for name, member in (("npz", "x.npy"), ("keras", "model.weights.h5")):
        zipped(tmp_path / name, {"config.json": "{}", "metadata.json": "{}"} if name == "keras" else {})
        with zipfile.ZipFile(tmp_path / name, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, npy_header((64 * MIB,)) + bytes(256 * MIB))
        data = bytearray((tmp_path / name).read_bytes())
        for field in (data.rindex(b"PK\x01\x02") + 24, data.rindex(b"PK\x03\x04") + 22):
            data[field : field + 4] = (1000).to_bytes(4, "little")
        (tmp_path / name).write_bytes(data)
        refuses(tmp_path / name, "CRC")


def test_unusual_compression_is_refused(tmp_path):
    zipped(tmp_path / "npz", {"x.npy": npy_header((1,)) + bytes(4)}, zipfile.ZIP_LZMA)
    refuses(tmp_path / "npz", "unusual")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy_header((1 << 40,)) + bytes(4), "do not match its shape"),
        (npy_header((1 << 62, 1 << 62)) + bytes(4), "do not match its shape"),
        (npy_header((-1,)) + bytes(4), "an axis has size -1"),
        (npy_header((1,) * 30) + bytes(4), "30 axes"),
        (npy_header((1,), "|O") + b"cos\nsystem\n(S'touch PWNED'\ntR.", "dtype object"),
        (b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000, "not an array"),
    ],
)
def test_npz_members_that_lie(tmp_path, data, message):
    zipped(tmp_path / "npz", {"x.npy": data})
    refuses(tmp_path / "npz", message)


def test_pickles_are_not_run(tmp_path):
    torch = pytest.importorskip("torch")

    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    for zip_file in (True, False):
        torch.save({"state_dict": Harm()}, tmp_path / "torch", _use_new_zipfile_serialization=zip_file)
        refuses(tmp_path / "torch", r"a pickle that would run posix\.mkdir")
    with (tmp_path / "npz").open("wb") as f:
        np.savez(f, x=np.array([Harm()], dtype=object))
    refuses(tmp_path / "npz", "dtype object")
    assert not (tmp_path / "harm").exists()


def test_a_small_torch_file_of_an_endless_tensor(tmp_path):
    """A view of one number as 2^40: no stride, no memory, until someone copies it."""
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.ones(1).expand(1 << 20, 1 << 20)}, tmp_path / "torch")
    refuses(tmp_path / "torch", "exceeds")


def header(description, data=bytes(8)):
    text = description if isinstance(description, bytes) else json.dumps(description).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((1 << 60).to_bytes(8, "little") + b"{}", "its header has"),
        (header(b"{" + b" " * 16 * MIB), "its header has"),
        (header(b"{" + b'"a":{' * 100_000), "damaged"),
        (header(b'{"a":' + b"[" * 100_000), "damaged"),
        (header({"a": entry(shape=(1 << 40, 1 << 40))}), "damaged"),
        (header({"a": entry(shape=(0, 1 << 40, 1 << 40), offsets=(0, 0))}, b""), "damaged"),
        (header({"a": entry(shape=(-2, -1))}), "damaged"),
        (header({"a": entry(shape=(2.0,))}), "damaged"),
        (header({"a": entry(shape=(1,) * 30 + (2,))}), "31 axes"),
        (header({"a": entry(), "b": entry()}), "damaged"),
        (header({"a": entry(offsets=(0, 1 << 40))}), "damaged"),
        (header({"a": entry(offsets=(8, 16))}), "damaged"),
        (header({"a": entry()}, bytes(9)), "damaged"),
        (header({"a": entry()}, bytes(7)), "damaged"),
        (header({"a": entry(dtype="PICKLE")}), "damaged"),
        (header({"a": entry(dtype="C64", shape=(1,))}), "dtype C64"),
        (header({"a": 3}), "damaged"),
        (header({"a": entry(), "__metadata__": {"a": 3}}), "damaged"),
        (header({str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(20_001)}, b""), "more than 20000 arrays"),
    ],
)
def test_safetensors_that_lie(tmp_path, data, message):
    (tmp_path / "weights").write_bytes(data)
    refuses(tmp_path / "weights", message)


def hdf5_file(path, add):
    """A file in Keras' legacy layout whose only array `add(group)` makes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        group = file.create_group("layer")
        group.attrs["weight_names"] = [b"kernel:0"]
        add(group)


def test_hdf5_that_reads_other_files(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.ones(4, np.float32)
    virtual = h5py.VirtualLayout((4,), np.float32)
    virtual[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))

    def external_link(group):
        group["kernel:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")

    def soft_link(group):
        group["kernel:0"] = h5py.SoftLink("/layer")

    def external_storage(group):
        group.create_dataset("kernel:0", (4,), np.float32, external=[(str(secret), 0, 16)])

    def virtual_dataset(group):
        group.create_virtual_dataset("kernel:0", virtual)

    for add, message in (
        (external_link, "link"),
        (soft_link, "link"),
        (external_storage, "another file"),
        (virtual_dataset, "another file"),
    ):
        hdf5_file(tmp_path / "weights", add)
        refuses(tmp_path / "weights", message)


def test_hdf5_that_asks_for_much(tmp_path):
    def bomb(group):
        group.create_dataset("kernel:0", (1 << 14, 1 << 14), np.float32, compression="gzip", chunks=(1 << 10, 1 << 10))

    def unwritten(group):
        group.create_dataset("kernel:0", (1 << 10, 1 << 10), np.float32)

    def absurd(group):
        group.create_dataset("kernel:0", (1 << 60,), np.float32, chunks=(1 << 10,))

    def objects(group):
        group.create_dataset("kernel:0", (3,), h5py.string_dtype())

    def references(group):
        group.create_dataset("kernel:0", (3,), h5py.ref_dtype)

    def group_instead(group):
        group.create_group("kernel:0")

    def nothing(group):
        pass

    for add, message in (
        (bomb, "exceeds"),
        (unwritten, "incomplete"),
        (absurd, "exceeds"),
        (objects, "dtype object"),
        (references, "dtype object"),
        (group_instead, "not an array"),
        (nothing, "missing"),
    ):
        hdf5_file(tmp_path / "weights", add)
        refuses(tmp_path / "weights", message)


def test_hdf5_groups_without_an_end(tmp_path):
    with h5py.File(tmp_path / "weights", "w") as file:
        group = file.create_group("layers")
        group["again"] = group
    refuses(tmp_path / "weights", "nested too deeply")


def test_hdf5_of_a_name_with_a_path_out_of_it(tmp_path):
    with h5py.File(tmp_path / "weights", "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        group = file.create_group("layer")
        group.attrs["weight_names"] = [b"../../etc/passwd"]
    refuses(tmp_path / "weights", "missing")


def test_keras_files_whose_config_is_nonsense(tmp_path):
    fuzz.make("keras", tmp_path)
    weights = (tmp_path / "h5").read_bytes()
    for config in ("[" * 100_000, "[]", "{}", '{"config": {"layers": [3]}}', '{"config": {"layers": 3}}', "\xff"):
        zipped(tmp_path / "keras", {"config.json": config, "metadata.json": "{}", "model.weights.h5": weights})
        refuses(tmp_path / "keras", "damaged|too many")


def test_bundles_whose_checksums_are_wrong(tmp_path):
    prefix = tmp_path / "model"
    data = bytearray((BUNDLE / "variables" / "variables.data-00000-of-00001").read_bytes())
    (tmp_path / "model.index").write_bytes((BUNDLE / "variables" / "variables.index").read_bytes())
    for at in range(0, len(data), 97):
        changed = bytearray(data)
        changed[at] ^= 1
        (tmp_path / "model.data-00000-of-00001").write_bytes(changed)
        if 536 <= at < 1068:  # the optimizer's and the metrics', which aren't read; the object graph comes after them
            same(tensor_bundle.read(prefix), tensor_bundle.read(BUNDLE))
        else:
            refuses(prefix, "checksum")
    (tmp_path / "model.data-00000-of-00001").write_bytes(data + b"more")
    refuses(prefix, "its index states")
