"""Files as PyTorch programs save them: checkpoints of training programs, hub folders, and what is no state dict."""

import argparse
import collections
import datetime
import json
import os
import pathlib
import pickle
import types

import jax
import numpy as np
import pytest
from flax import nnx

from tests import peers
from tests.pretrained import fuzz
from xception_jax.errors import UserError, WeightsFileError
from xception_jax.formats import sandbox, sandbox_child
from xception_jax.formats.detect import read_tensors
from xception_jax.models import variables
from xception_jax.models.head import Head, parse
from xception_jax.models.variables import Weights
from xception_jax.pretrained import load
from xception_jax.pretrained.layouts.table import to_foreign
from xception_jax.pretrained.layouts.timm import timm_table

CLASSES = 5


@pytest.fixture(autouse=True)
def read_in_this_process(monkeypatch):
    """To import PyTorch once, not for every file; test_formats reads as users do."""
    peers.libraries()
    monkeypatch.setattr(sandbox, "read", fuzz.read_here)


@pytest.fixture(scope="module")
def weights():
    """Of a narrow Xception."""
    return peers.tiny("xception", num_classes=CLASSES)[1]


@pytest.fixture(scope="module")
def state(weights):
    """Its state dict."""
    torch, *_ = peers.libraries()
    arrays = to_foreign(weights, timm_table("xception"))
    return {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()}


def doubled(state):
    """Other arrays under the same names."""
    return {name: 2 * x for name, x in state.items()}


def prefixed(prefix, state):
    return {prefix + name: x for name, x in state.items()}


def check(found, weights, times=1):
    assert (found.model, found.num_classes) == ("xception", CLASSES)
    assert jax.tree.structure(found.weights) == jax.tree.structure(weights)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, times * np.asarray(b)), found.weights, weights)


def timm_s(state):
    """As timm's `CheckpointSaver` writes it."""
    return {
        "epoch": 1, "arch": "legacy_xception", "state_dict": state, "version": 2, "metric": np.float64(71.3),
        "optimizer": {"state": {0: {"momentum_buffer": state["conv1.weight"]}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(lr=0.1, betas=None, output=pathlib.Path("/data")), "amp_scaler": {"scale": 65536.0},
    }  # fmt: skip


def torchvision_s(state):
    """As torchvision's references/classification/train.py writes it."""
    torch, *_ = peers.libraries()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], 0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    args = argparse.Namespace(device="cuda", auto_augment=None, clip=[1.0], path=pathlib.PurePosixPath("/x"))
    return {
        "model": state, "optimizer": optimizer.state_dict(), "lr_scheduler": scheduler.state_dict(), "epoch": 4,
        "args": args,
    }  # fmt: skip


def lightning_s(state, hyper_parameters):
    """As Lightning's trainer writes it."""
    best = {"monitor": "val_loss", "best_model_score": state["fc.bias"][0], "dirpath": pathlib.Path("/data")}
    return {
        "epoch": 3, "global_step": 40, "pytorch-lightning_version": "2.4.0", "loops": {"fit_loop": {"state_dict": {}}},
        "state_dict": prefixed("model.", state) | {"criterion.weight": state["fc.bias"]}, "lr_schedulers": [],
        "callbacks": {"Checkpoint": best}, "optimizer_states": [{"state": {}, "param_groups": []}],
        "hyper_parameters": hyper_parameters,
    }  # fmt: skip


KINDS = {
    "timm": timm_s,
    "torchvision": torchvision_s,
    "lightning": lambda state: lightning_s(state, {"lr": 0.1, "root": pathlib.PosixPath("/data")}),
    "defaultdict": lambda state: lightning_s(state, collections.defaultdict(dict, {"a": {"b": 1}})),
    "namespace": lambda state: lightning_s(state, types.SimpleNamespace(a=np.arange(3), b=np.dtype("f2"))),
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.3},
    "accelerate": lambda state: state,
    "deepspeed": lambda state: {"module": prefixed("module.", state), "global_steps": 3},
    "other keys": lambda state: {"weights": state, "best_acc": np.float64(0.9), "rng": b"bytes"},
    "nested": lambda state: {"model": {"state_dict": prefixed("net.", state)}, "date": datetime.date(2020, 1, 1)},
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_of_training_programs(kind, zipped, state, weights, tmp_path):
    torch, *_ = peers.libraries()
    torch.save(KINDS[kind](state), tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    check(load(tmp_path / "last.ckpt"), weights)


@pytest.mark.parametrize(
    ("key", "wrap"),
    [
        ("state_dict_ema", lambda ema: ema),
        ("model_ema", lambda ema: prefixed("module.", ema) | {"n_averaged": ema["fc.bias"][0]}),
        ("ema_state_dict", lambda ema: prefixed("_orig_mod.", ema)),
    ],
)
def test_averaged_weights_come_first_and_are_said_so(key, wrap, state, weights, tmp_path):
    torch, *_ = peers.libraries()
    torch.save(timm_s(state) | {key: wrap(doubled(state))}, tmp_path / "x.pth")
    found = load(tmp_path / "x.pth")
    check(found, weights, 2)
    assert found.source == f"{tmp_path / 'x.pth'} (the averaged weights, {key})"
    torch.save(timm_s(state) | {key: None}, tmp_path / "x.pth")  # as timm writes it without averaging
    found = load(tmp_path / "x.pth")
    check(found, weights)
    assert found.source == str(tmp_path / "x.pth")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, state, weights, tmp_path):
    torch, *_ = peers.libraries()
    half = {name: x.to(getattr(torch, dtype)) if x.is_floating_point() else x for name, x in state.items()}
    torch.save(half, tmp_path / "x.pth")
    found = load(tmp_path / "x.pth").weights
    expected = jax.tree.map(
        lambda x: np.asarray(torch.from_numpy(np.array(x)).to(getattr(torch, dtype)).float()), weights
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("beside", "names"),
    [
        ({"classes": list("abcde")}, "abcde"),
        ({"class_to_idx": {"e": 4, "a": 0, "c": 2, "b": 1, "d": 3}}, "abcde"),
        ({"class_names": tuple("abcd")}, ""),
        ({"classes": 5}, ""),
        ({"class_to_idx": {"a": 0, "b": 2}, "labels": [1, 2, 3, 4, 5]}, ""),
    ],
)
def test_class_names_in_a_checkpoint(beside, names, state, tmp_path):
    torch, *_ = peers.libraries()
    torch.save({"state_dict": state} | beside, tmp_path / "x.pth")
    assert load(tmp_path / "x.pth").class_names == tuple(names)


def test_what_is_ignored_is_said(state, weights, tmp_path):
    torch, *_ = peers.libraries()
    torch.save(state | {"proj.weight": torch.ones(3, 3, 1, 1)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"unexpected: proj\.weight\); --ignore=PATTERN"):
        load(tmp_path / "x.pth")
    found = load(tmp_path / "x.pth", ignore=["proj.*"])
    check(found, weights)
    assert found.source.endswith("x.pth (ignored 1 arrays: proj.weight)")
    assert load(tmp_path / "x.pth", ignore=["proj.weight", "fc.*"]).num_classes == 0


HEADS = {
    "dense 16, relu": lambda nn, width: [nn.Linear(width, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, CLASSES)],
    "dense 16 no_bias, batch_norm 1e-05, relu, dense 12, relu, layer_norm 1e-05": lambda nn, width: [
        *(nn.Flatten(), nn.Dropout(), nn.Linear(width, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(16, 12), nn.ReLU(), nn.LayerNorm(12), nn.Linear(12, CLASSES)),
    ],
}


@pytest.mark.parametrize("text", HEADS)
def test_heads_of_several_layers_compute_what_pytorch_computes(text, state, weights, tmp_path):
    torch, *_ = peers.libraries()
    torch.manual_seed(0)
    width = state["bn4.weight"].shape[0]
    head = torch.nn.Sequential(*HEADS[text](torch.nn, width)).eval()
    for name, x in head.state_dict().items():
        if x.is_floating_point():
            x.copy_(torch.rand_like(x) + 0.5 if name.endswith("running_var") else torch.randn_like(x))
    body = {name: x for name, x in state.items() if not name.startswith("fc.")}
    torch.save(prefixed("model.", body | prefixed("fc.", head.state_dict())), tmp_path / "x.pth")
    found = load(tmp_path / "x.pth")
    assert (found.options["head"], found.num_classes) == (text, CLASSES)
    assert [line.partition(" (--head says otherwise)")[1] for line in found.assumed] == [" (--head says otherwise)"]
    ours = Head(width, CLASSES, steps=parse(text), rngs=nnx.Rngs(0))
    graphdef, _ = variables.split(ours)
    ours = variables.merge(graphdef, Weights(found.weights.params["head"], found.weights.batch_stats.get("head", {})))
    features = torch.rand(4, width)
    expected = head(features).detach().numpy()
    np.testing.assert_allclose(
        ours.classify(features.numpy(), train=False, drop=False, rngs=None), expected, rtol=1e-3, atol=1e-4
    )


# -- What is refused ---------------------------------------------------------------------------------------------------


def test_without_a_state_dict_the_keys_are_named(tmp_path):
    torch, *_ = peers.libraries()
    for saved, has in (
        ({"epoch": 3, "generator": {}}, "epoch, generator"),
        ([1, 2], "list"),
        ({}, "nothing"),
        ({"model": {"model": {}}}, "model"),
    ):
        torch.save(saved, tmp_path / "x.pth")
        with pytest.raises(WeightsFileError, match=f"it has no state dict, but {has}"):
            load(tmp_path / "x.pth")
    endless: dict = {}
    endless |= {"model": endless, "state_dict": endless}
    torch.save(endless, tmp_path / "x.pth")
    with pytest.raises(WeightsFileError, match="it has no state dict"):
        load(tmp_path / "x.pth")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_whole_networks_are_refused_with_what_converts_them(zipped, tmp_path, monkeypatch):
    """The lines are run, and what they save is read."""
    torch, *_ = peers.libraries()
    monkeypatch.chdir(tmp_path)
    network = torch.nn.Sequential(torch.nn.Linear(2, 3))
    for saved in (network, {"state_dict": network.state_dict(), "model": network}):
        torch.save(saved, "x.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsFileError, match="a whole network in it, which is code, not a state dict") as error:
            load("x.pth")
        exec(str(error.value).partition("where it runs: ")[2])
        np.testing.assert_array_equal(read_tensors("weights.pth")[1]["0.bias"], network[0].bias.detach().numpy())


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_refused_with_what_converts_it(tmp_path, monkeypatch):
    torch, *_ = peers.libraries()
    monkeypatch.chdir(tmp_path)
    network = torch.nn.Sequential(torch.nn.Linear(2, 3))
    torch.jit.save(torch.jit.trace(network, torch.ones(1, 2)), "x.pt")
    with pytest.raises(WeightsFileError, match="a TorchScript program, which is code, not a state dict") as error:
        load("x.pt")
    exec(str(error.value).partition("where it runs: ")[2])
    np.testing.assert_array_equal(read_tensors("weights.pth")[1]["0.bias"], network[0].bias.detach().numpy())


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("wrap", [
    lambda harm: {"state_dict": harm},
    lambda harm: {"args": argparse.Namespace(x=harm)},
    lambda harm: {"args": Call(pathlib.PosixPath, harm)},
    lambda harm: {"args": collections.defaultdict(dict, {"a": harm})},
    lambda harm: {"args": Call(dict, [harm])},
])  # fmt: skip
@pytest.mark.parametrize("function", [os.mkdir, eval, getattr, pickle.loads, __import__])
def test_no_code_is_run_wherever_it_is(wrap, function, state, tmp_path):
    torch, *_ = peers.libraries()
    harm = Call(function, str(tmp_path / "harm") if function is os.mkdir else f"open({str(tmp_path / 'harm')!r}, 'w')")
    for zipped in (True, False):
        torch.save({"model": state} | wrap(harm), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsFileError, match=r"a pickle that would run \S*(mkdir|eval|getattr|loads|import)"):
            load(tmp_path / "x.pth")
    assert not (tmp_path / "harm").exists()


def test_what_is_beside_the_arrays_is_never_made(state, weights, tmp_path):
    """Of the classes that are allowed, none is called: the arguments would make each of them fail, or take memory."""
    torch, *_ = peers.libraries()
    bad = [
        Call(pathlib.PosixPath, 3, [], {}), Call(argparse.Namespace, 1, 2), Call(np.dtype, "no such type"),
        Call(np.dtype("f4").__reduce__()[0], b"x", []), Call(list, 5), Call(types.SimpleNamespace, 1, 2, 3),
    ]  # fmt: skip
    torch.save({"state_dict": state, "args": bad}, tmp_path / "x.pth")
    check(load(tmp_path / "x.pth"), weights)
    for name in (*sandbox_child.STAND_INS, *sandbox_child.STAND_IN_DICTS):
        kind = sandbox_child.StandInDict if name in sandbox_child.STAND_IN_DICTS else sandbox_child.StandIn
        made = sandbox_child._stand_in(name, kind)(1, 2, 3)
        assert type(made) is dict or (isinstance(made, sandbox_child.StandIn) and not vars(made))


# -- Folders -----------------------------------------------------------------------------------------------------------


def write(path, tensors):
    from safetensors.torch import save_file

    torch, *_ = peers.libraries()
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)


def write_parts(folder, state, suffix):
    """As `save_pretrained(max_shard_size=..)` of Hugging Face's libraries."""
    names = sorted(state)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    places = {}
    for i, chosen in enumerate((names[:40], names[40:41], names[41:])):
        file = f"{stem}-0000{i + 1}-of-00003{suffix}"
        write(folder / file, {name: state[name] for name in chosen})
        places |= dict.fromkeys(chosen, file)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "best.pth", "whatever.safetensors"])
def test_folders_with_a_file(name, state, weights, tmp_path):
    write(tmp_path / name, state)
    (tmp_path / "README.md").write_text("a model")
    (tmp_path / "config.json").write_text(json.dumps({"label_names": list("abcde"), "num_classes": CLASSES}))
    found = load(tmp_path)
    check(found, weights)
    assert found.class_names == tuple("abcde")
    write(tmp_path / "optimizer.bin", {"x": state["fc.bias"]})
    if name in ("model.safetensors", "pytorch_model.bin"):
        check(load(tmp_path), weights)
    else:
        with pytest.raises(WeightsFileError, match=rf"has 2 weight files; name one: .*{name}"):
            load(tmp_path)


def test_a_run_of_lightning_is_not_one_of_ours(state, weights, tmp_path):
    folder = tmp_path / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    (tmp_path / "version_0" / "hparams.yaml").write_text("lr: 0.1")
    write(folder / "epoch=3-step=40.ckpt", lightning_s(state, {}))
    check(load(tmp_path / "version_0"), weights)
    write(folder / "last.ckpt", lightning_s(state, {}))
    with pytest.raises(
        WeightsFileError, match=r"checkpoints has 2 weight files; name one: epoch=3-step=40\.ckpt, last"
    ):
        load(tmp_path / "version_0")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_folders_with_an_index_of_parts(suffix, state, weights, tmp_path):
    index = write_parts(tmp_path, state, suffix)
    check(load(tmp_path), weights)
    check(load(index), weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places: places.update(more="../x.safetensors"), "names a file that is not beside it"),
        (lambda places: places.update(more="/etc/passwd"), "names a file that is not beside it"),
        (lambda places: places.update(more=3), "names a file that is not beside it"),
        (lambda places: places.update(more=".."), "names a file that is not beside it"),
        (lambda places: places.update(more="other.safetensors"), "other.safetensors does not exist"),
        (lambda places: places.update(more=places["fc.bias"]), "does not have the arrays that its index lists: more"),
        (lambda places: places.pop("fc.bias"), "does not have the arrays that its index lists: fc.bias"),
        (lambda places: places.clear(), "lists 0 arrays in 0 files"),
        (lambda places: places.update(more="model.safetensors.index.json"), "not a part of weights"),
    ],
)
def test_indices_that_lie(change, message, state, tmp_path):
    index = write_parts(tmp_path, state, ".safetensors")
    content = json.loads(index.read_text())
    change(content["weight_map"])
    index.write_text(json.dumps(content))
    with pytest.raises(WeightsFileError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": []}', "{" * 100_000])
def test_indices_that_are_none(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsFileError, match="is damaged, or not an index"):
        load(tmp_path)
