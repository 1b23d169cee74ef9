"""Which arrays of a PyTorch state dict are the network's, its head's and others': wrappers are PyTorch's own."""

import collections
import copy

import numpy as np
import pytest

from tests import peers
from xception_jax.errors import UserError, WeightsFileError
from xception_jax.pretrained.identify import recognize
from xception_jax.pretrained.layouts import checkpoint
from xception_jax.pretrained.layouts.timm import timm_table
from xception_jax.pretrained.layouts.torch_head import HeadLayer, head_of

CLASSES = 7


def network(name="xception", **options):
    """timm's network without memory for its arrays."""
    torch, _, timm = peers.libraries()
    with torch.device("meta"):
        return timm.create_model(peers.TIMM_NAMES.get(name, name), num_classes=CLASSES, **options)


def torchvision_s(**options):
    torch, torchvision, _ = peers.libraries()
    with torch.device("meta"):
        return torchvision.models.inception_v3(init_weights=False, num_classes=CLASSES, **options)


def arrays(module, names=None):
    """Its state dict; each array has one number, all the same, that tells it from the others. It takes no memory."""
    sizes = {name: tuple(x.shape) for name, x in (module if isinstance(module, dict) else module.state_dict()).items()}
    return {name: np.broadcast_to(np.float32(i), size) for i, (name, size) in enumerate(sizes.items())}


def of_layer(name, classes, features, bias=True):
    weight = np.broadcast_to(np.float32(1), (classes, features))
    return {f"{name}.weight": weight} | ({f"{name}.bias": np.ones(classes, np.float32)} if bias else {})


def numbers(found):
    return {name: x.reshape(-1)[0] for name, x in found.items()}


def check(module, names, model="xception", head=True, found=None):
    """The file is read as the network, each array as that whose name in the unwrapped network `names` gives."""
    tensors = found or arrays(module)
    reading = checkpoint.read(tensors, model)
    assert (reading.unexpected, reading.refusal) == ((), "")
    aux = any(name.startswith("AuxLogits") for name in reading.arrays)
    assert reading.arrays.keys() == {e.name for e in timm_table(model, head=head, aux_head=aux).entries}
    assert numbers(reading.arrays) == {name: tensors[names(name)].reshape(-1)[0] for name in reading.arrays}
    return reading


def lightning(inner, attribute):
    torch, *_ = peers.libraries()

    class Task(torch.nn.Module):
        def __init__(self):
            super().__init__()
            setattr(self, attribute, inner)
            self.criterion = torch.nn.CrossEntropyLoss(torch.ones(CLASSES))
            self.val_acc = torch.nn.BatchNorm1d(3)  # metrics have arrays, too

    return Task()


def compiled(module):
    """With the names that `torch.compile` gives; to import what it needs takes longer than all tests here."""
    torch, *_ = peers.libraries()
    wrapper = torch.nn.Module()
    wrapper._orig_mod = module
    return wrapper


@pytest.mark.slow
def test_names_of_what_is_compiled():
    torch, *_ = peers.libraries()
    assert torch.compile(network()).state_dict().keys() == compiled(network()).state_dict().keys()


def test_wrappers_of_pytorch():
    torch, *_ = peers.libraries()
    bare = network()
    check(bare, str)
    check(torch.nn.DataParallel(bare), "module.{}".format)
    check(compiled(bare), "_orig_mod.{}".format)
    check(torch.nn.DataParallel(compiled(bare)), "module._orig_mod.{}".format)
    averaged = torch.optim.swa_utils.AveragedModel(bare)
    assert "n_averaged" in averaged.state_dict()
    assert check(averaged, "module.{}".format).notes == ()


@pytest.mark.parametrize("attribute", ["model", "net", "encoder", "student", "f"])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_modules_with_losses_and_metrics(attribute, is_compiled):
    inner = compiled(network()) if is_compiled else network()
    prefix = f"{attribute}.{'_orig_mod.' * is_compiled}"
    (note,) = check(lightning(inner, attribute), lambda name: prefix + name).notes
    assert note.startswith("left out what losses and metrics have: criterion.weight, val_acc.bias, ")


def test_a_compiled_part():
    whole = network()
    whole.block3 = compiled(whole.block3)
    check(whole, lambda name: name.replace("block3.", "block3._orig_mod."))


def test_the_averaged_one_of_two():
    torch, *_ = peers.libraries()
    task = lightning(network(), "model")
    task.ema_model = torch.nn.DataParallel(network())
    reading = check(task, "ema_model.module.{}".format)
    assert reading.notes[0] == "the averaged weights, ema_model.module.*"
    plain = {name: x for name, x in arrays(task).items() if not name.startswith("ema")}
    check(None, "model.{}".format, found=plain)


def test_two_networks_are_not_chosen_from():
    task = lightning(network(), "student")
    task.teacher = network()
    message = r"several of them, student\.\*, teacher\.\*: leave one out, --ignore='teacher\.\*'"
    with pytest.raises(WeightsFileError, match=message):
        recognize(arrays(task), "x.ckpt")
    plain = {name: x for name, x in arrays(task).items() if not name.startswith("teacher.")}
    check(None, "student.{}".format, found=plain)


@pytest.mark.parametrize(
    ("make", "model"),
    [
        (network, "xception"),
        (lambda: network("xception41"), "xception41"),
        (lambda: network("xception41p"), "xception41p"),
        (lambda: torchvision_s(aux_logits=False), "inception_v3"),
    ],
    ids=["xception", "xception41", "xception41p", "inception_v3"],
)
def test_numbered_children(make, model):
    """`nn.Sequential(*list(network.children())[:-1])`, as is usual for features, and a new head behind it."""
    torch, *_ = peers.libraries()
    bare = make()
    children = list(dict(bare.named_children()))
    body = torch.nn.Sequential(*list(bare.children())[:-1])

    def place(prefix):
        return lambda name: f"{prefix}{children.index(name.partition('.')[0])}.{name.partition('.')[2]}"

    check(body, place(""), model, head=False)
    check(lightning(body, "backbone"), place("backbone."), model, head=False)
    tensors = arrays(torch.nn.Sequential(body, torch.nn.Linear(1, 1))) | of_layer("1", CLASSES, 2048)
    kernel, bias = (e.name for e in timm_table(model).entries if e.path[:2] == ("head", "logits"))
    own = {kernel: "1.weight", bias: "1.bias"}
    check(None, lambda name: own.get(name) or place("0.")(name), model, found=tensors)


def test_numbered_children_of_two_networks_are_not_chosen_from():
    torch, *_ = peers.libraries()
    task = lightning(torch.nn.Sequential(*list(network().children())[:-1]), "a")
    task.b = copy.deepcopy(task.a)
    with pytest.raises(WeightsFileError, match=r"several of them, a\.\*, b\.\*"):
        recognize(arrays(task), "x.ckpt")


def test_numbered_children_of_another_network_are_not_matched():
    torch, *_ = peers.libraries()
    children = list(network().children())[:-1]
    children[6], children[8] = children[8], children[6]
    with pytest.raises(WeightsFileError, match="does not belong to a known network"):
        recognize(arrays(torch.nn.Sequential(*children)), "x.pth")


HEADS = ["fc", "fc.1", "last_linear", "last_linear.1", "classifier", "classifier.2", "head.fc", "logits", "model.top"]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("bias", [True, False])
def test_heads_of_any_name(name, prefix, bias):
    body = {prefix + n: x for n, x in arrays(network()).items() if not n.startswith("fc.")}
    for place in {prefix + name, name}:
        reading = checkpoint.read(body | of_layer(place, 4, 2048, bias), "xception")
        assert (reading.unexpected, reading.refusal) == ((), "")
        assert reading.arrays["fc.weight"].shape == (4, 2048)
        np.testing.assert_array_equal(reading.arrays["fc.bias"], np.full(4, bias))


def test_a_backbone_alone_has_no_classes():
    body = {n: x for n, x in arrays(network("xception", drop_rate=0.5)).items() if not n.startswith("fc.")}
    assert recognize(finite(body), "x.pth").num_classes == 0


def finite(tensors):
    """Variances that are not negative: `arrays` has only such. Small arrays in place of strided ones."""
    return {name: np.asarray(x) for name, x in tensors.items()}


def test_cadene_s_first_file():
    """`last_linear`, and pointwise kernels without 1x1."""
    tensors = {n.replace("fc.", "last_linear."): x for n, x in arrays(network()).items()}
    matrices = {n: x[:, :, 0, 0] if n.endswith("pointwise.weight") else x for n, x in tensors.items()}
    assert sum(x.ndim == 2 for x in matrices.values()) == 34 + 1
    found, expected = (checkpoint.read(x, "xception").arrays for x in (matrices, tensors))
    assert {name: x.shape for name, x in found.items()} == {name: x.shape for name, x in expected.items()}


def test_counters_may_be_missing():
    tensors = {n: x for n, x in arrays(network()).items() if not n.endswith("num_batches_tracked")}
    assert len(tensors) < len(arrays(network()))
    check(None, str, found=tensors)


# -- Heads of several layers -------------------------------------------------------------------------------------------


def norm(name, width):
    return {f"{name}.{x}": np.ones(width, np.float32) for x in ("weight", "bias", "running_mean", "running_var")}


def test_layers_of_a_head_in_order():
    """The names and shapes are those of `nn.Sequential(Linear, BatchNorm1d, ReLU, Dropout, .., LayerNorm, Linear)`."""
    torch, *_ = peers.libraries()
    kinds = torch.nn
    layers = [
        *(kinds.Linear(2048, 64), kinds.BatchNorm1d(64), kinds.ReLU(), kinds.Dropout(), kinds.Linear(64, 64)),
        *(kinds.ReLU(), kinds.BatchNorm1d(64), kinds.ReLU(), kinds.Linear(64, 32), kinds.ReLU()),
        *(kinds.LayerNorm(32), kinds.Linear(32, 3, bias=False)),
    ]
    state = kinds.ModuleDict({"fc": kinds.Sequential(*layers)}).state_dict()
    tensors = {name: x.numpy() for name, x in state.items() if not name.endswith("num_batches_tracked")}
    expected = [
        HeadLayer("dense", "fc.0", 64),
        HeadLayer("batch_norm", "fc.1", 64),
        HeadLayer("dense", "fc.4", 64),
        HeadLayer("batch_norm", "fc.6", 64),
        HeadLayer("dense", "fc.8", 32),
        HeadLayer("layer_norm", "fc.10", 32),
        HeadLayer("dense", "fc.11", 3),
    ]
    for order in (list(tensors), sorted(tensors)):
        assert head_of({name: tensors[name] for name in order}, 2048) == expected


def test_layers_of_a_head_that_are_not_numbered_follow_from_their_shapes():
    out, hidden = of_layer("classifier", 3, 64), of_layer("dense", 64, 2048)
    assert head_of(out | hidden, 2048) == [HeadLayer("dense", "dense", 64), HeadLayer("dense", "classifier", 3)]
    assert head_of(of_layer("fc1", 64, 2048) | of_layer("fc2", 3, 64), 2048) == [
        HeadLayer("dense", "fc1", 64),
        HeadLayer("dense", "fc2", 3),
    ]


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        of_layer("fc", 3, 1024),  # of another network
        of_layer("a", 3, 2048) | of_layer("b", 5, 2048),  # two heads
        of_layer("in", 8, 2048) | of_layer("x", 8, 8) | of_layer("y", 8, 8) | of_layer("out", 3, 8),  # two orders
        of_layer("in", 8, 2048) | norm("bn", 8) | of_layer("x", 8, 8) | of_layer("out", 3, 8),  # the same
        of_layer("fc.0", 8, 2048) | of_layer("fc.1", 3, 9),
        of_layer("fc.0", 8, 2048) | norm("fc.1", 8),  # ends with a normalization
        {"fc.weight": np.ones((3, 2048)), "fc.bias": np.ones(4)},
        {"fc.weight": np.ones((3, 2048)), "fc.bias": np.ones(3), "fc.scale": np.ones(3)},
        {"conv.weight": np.ones((512, 2048, 1, 1))},
    ],
)
def test_what_is_no_chain_of_layers_is_no_head(tensors):
    assert head_of(tensors, 2048) is None


IN, OUT = of_layer("fc.0", 64, 2048), of_layer("fc.4", 3, 64)


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (IN | OUT, None),  # three layers between
        (IN | norm("fc.2", 64) | OUT, None),  # one on each side of the normalization
        (norm("fc.0", 2048) | of_layer("fc.2", 3, 2048), None),  # before any dense layer
        (of_layer("fc1", 64, 2048) | of_layer("fc2", 3, 64), None),
        (of_layer("fc", 64, 2048) | of_layer("out", 3, 64), None),
        (of_layer("a.0", 64, 2048) | of_layer("b.2", 3, 64), None),
        (IN | norm("fc.1", 64) | OUT, "dense 64, batch_norm 1e-05, relu"),
        (of_layer("fc.2", 64, 2048) | of_layer("fc.3", 3, 64), None),  # nothing between: is it a ModuleList?
        (norm("fc.0", 2048) | of_layer("fc.1", 3, 2048), "batch_norm 1e-05"),
    ],
)
def test_activations_are_where_the_numbers_leave_one_place(head, text):
    body = {n: x for n, x in arrays(network()).items() if not n.startswith("fc.")}
    reading = checkpoint.read(body | head, "xception")
    assert (reading.head, bool(reading.refusal)) == (text or "", text is None)
    assert bool(reading.assumed) == (text is not None)


def test_a_head_of_several_layers_can_be_said():
    body = {n: x for n, x in arrays(network()).items() if not n.startswith("fc.")}
    head = of_layer("fc", 64, 2048) | norm("bn", 64) | of_layer("out", 3, 64, bias=False)
    message = (
        r"fc \(dense, 64\), bn \(batch norm, 64\), out \(dense, 3\); if it is ReLU .* --head=\"dense 64, relu, batch"
    )
    with pytest.raises(WeightsFileError, match=message):
        recognize(body | head, "x.pth")
    found = recognize(finite(body | head), "x.pth", head="dense 64, batch_norm 1e-3, gelu, dropout 0.5")
    assert (found.num_classes, found.assumed) == (3, ())
    assert found.options["head"] == "dense 64, batch_norm 0.001, gelu, dropout 0.5"
    assert found.weights.params["head"]["hidden"][0]["kernel"].shape == (2048, 64)
    for other in ("dense 32, batch_norm", "dense 64", "batch_norm, dense 64", "dense 64, batch_norm, dense 3"):
        reading = checkpoint.read(body | head, "xception", other)
        assert (reading.unexpected, reading.refusal, reading.head) == ((), "", "")
        assert "fc.weight" not in reading.arrays
        assert reading.notes == (
            f'left out the head, fc (dense, 64), bn (batch norm, 64), out (dense, 3): not "{other}"',
        )


# -- The auxiliary head ------------------------------------------------------------------------------------------------


def test_the_auxiliary_head_is_kept_where_it_has_the_same_classes():
    tensors = arrays(torchvision_s())
    assert check(None, str, "inception_v3", found=tensors).notes == ()
    moved = {n.replace("fc.", "fc.1.") if ".fc." in n else n: x for n, x in tensors.items()}
    names = {"AuxLogits.fc.weight": "AuxLogits.fc.1.weight", "AuxLogits.fc.bias": "AuxLogits.fc.1.bias"}
    check(None, lambda name: names.get(name, name), "inception_v3", found=moved)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda t: t.update(of_layer("AuxLogits.fc", 1000, 768)), "left out the auxiliary head for 1000 classes"),
        (lambda t: t.pop("AuxLogits.conv1.bn.bias"), "left out the auxiliary head for 7 classes"),
        (lambda t: [t.pop(n) for n in list(t) if n.startswith("AuxLogits.fc")], "left out the auxiliary head"),
        (lambda t: [t.pop(n) for n in list(t) if n.startswith("fc.")], "left out the auxiliary head for 7 classes"),
    ],
)
def test_an_auxiliary_head_that_does_not_fit_is_left_out(change, note):
    tensors = arrays(torchvision_s())
    change(tensors)
    reading = checkpoint.read(tensors, "inception_v3")
    assert (reading.notes, reading.unexpected) == ((note,), ())
    assert not any(name.startswith("AuxLogits") for name in reading.arrays)


# -- What has no place -------------------------------------------------------------------------------------------------


def test_arrays_without_a_place_are_listed_by_the_file_s_names_and_can_be_ignored():
    tensors = finite({f"backbone.{n}": x for n, x in arrays(network()).items()})
    tensors |= {f"backbone.adjust_channel.{i}.weight": np.ones((2, 2048, 1, 1), np.float32) for i in range(6)}
    tensors["normalize.mean"] = np.ones((1, 3, 1, 1), np.float32)
    listed = r"unexpected: backbone\.adjust_channel\.0\.weight, .*\.4\.weight and 2 more\); --ignore=PATTERN loads"
    with pytest.raises(WeightsFileError, match=listed):
        recognize(tensors, "x.pth")
    found = recognize(tensors, "x.pth", ["*.adjust_channel.*", "normalize.mean"])
    assert (found.model, found.num_classes) == ("xception", CLASSES)
    assert found.notes[0].startswith("ignored 7 arrays: backbone.adjust_channel.0.weight, ")
    with pytest.raises(UserError, match=r"--ignore=nomralize\.\* matches none of the arrays of x\.pth"):
        recognize(tensors, "x.pth", ["nomralize.*"])


def test_two_heads_are_not_chosen_from():
    body = {n: x for n, x in arrays(network()).items() if not n.startswith("fc.")}
    two = finite(body | of_layer("age", 3, 2048) | of_layer("sex", 2, 2048))
    with pytest.raises(WeightsFileError, match=r"unexpected: age\.bias, age\.weight, sex\.bias, sex\.weight"):
        recognize(two, "x.pth")
    assert recognize(two, "x.pth", ["age.*"]).num_classes == 2


def test_fid_s_network_is_known_by_its_outputs():
    tensors = finite(arrays(torchvision_s(aux_logits=False)))
    tensors |= of_layer("fc", 1008, 2048)
    found = recognize(tensors, "pt_inception-2015-12-05-6726825d.pth")
    assert (found.options, found.num_classes) == ({"flavour": "fid"}, 1008)
    assert (found.notes, found.assumed) == (("FID's Inception V3, as it has 1008 outputs",), ())
    alone = recognize({n: x for n, x in tensors.items() if not n.startswith("fc.")}, "x.pth")
    assert alone.options == {"flavour": "torchvision"}
    assert alone.assumed == (
        "torchvision's network: FID's has the same arrays (config.model.flavour=fid says otherwise)",
    )
    counts = collections.Counter(x.ndim for x in tensors.values())
    assert counts[4] == 94
