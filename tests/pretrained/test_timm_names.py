"""The tables against the state dicts of timm's and torchvision's networks: nothing missing or left, no bit lost."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests import peers
from xception_jax import train_state
from xception_jax.errors import UserError
from xception_jax.models import create_model, list_models
from xception_jax.pretrained.table import to_foreign, to_ours
from xception_jax.pretrained.timm_names import timm_table


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def check_round_trip(twin, state, name, options, **kinds):
    table = timm_table(name, **kinds)
    weights = to_ours(state, table)
    graphdef, abstract = nnx.eval_shape(lambda: train_state.split(create_model(name, rngs=nnx.Rngs(0), **options)))
    assert shapes(weights) == shapes(abstract)
    train_state.merge(graphdef, weights)
    back = to_foreign(weights, table)
    assert back.keys() == state.keys()
    for key, x in back.items():
        assert x.dtype == state[key].dtype
        assert x.flags.c_contiguous
        np.testing.assert_array_equal(x, state[key])
    peers.load(twin.to_empty(device="cpu"), back)  # strict


@pytest.mark.parametrize("num_classes", [7, 0])
@pytest.mark.parametrize("name", list_models())
def test_timm_s_state_dict_there_and_back(name, num_classes):
    torch, _, timm = peers.libraries()
    with torch.device("meta"):
        twin = timm.create_model(peers.TIMM_NAMES.get(name, name), num_classes=num_classes)
    state = peers.random_state(twin)
    check_round_trip(twin, state, name, {"num_classes": num_classes}, head=num_classes > 0)


def test_torchvision_s_state_dict_there_and_back():
    torch, torchvision, _ = peers.libraries()
    with torch.device("meta"):
        twin = torchvision.models.inception_v3(num_classes=7, init_weights=False)
    options = {"num_classes": 7, "aux_head": True}
    check_round_trip(twin, peers.random_state(twin), "inception_v3", options, aux_head=True)


def test_arrays_without_a_place_are_not_lost_in_silence():
    """Hidden layers, which timm does not have, and arrays that are not there."""
    options = {"num_classes": 2, "hidden": (3,), "width": 0.05}
    _, weights = train_state.split(create_model("xception41", rngs=nnx.Rngs(0), **options))
    with pytest.raises(ValueError, match="no place for head/hidden/0/bias, head/hidden/0/kernel"):
        to_foreign(weights, timm_table("xception41"))
    with pytest.raises(KeyError, match=r"head\.fc\.weight"):
        to_ours(to_foreign_without_head(), timm_table("xception41"))


def to_foreign_without_head():
    _, weights = train_state.split(create_model("xception41", rngs=nnx.Rngs(0), num_classes=0, width=0.05))
    return to_foreign(weights, timm_table("xception41", head=False))


def test_unknown_networks_are_refused():
    with pytest.raises(UserError, match='timm has no twin of model "xception42"; did you mean "xception4'):
        timm_table("xception42")
