"""The tables against the state dicts of timm's and torchvision's networks: nothing missing or left, no bit lost."""

import jax
import numpy as np
import pytest

from tests import peers
from xception_jax.errors import UserError
from xception_jax.models import list_models
from xception_jax.pretrained.layouts.table import to_foreign, to_ours
from xception_jax.pretrained.layouts.timm import timm_table


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def check_round_trip(twin, name, options, **kinds):
    state, table = peers.random_state(twin), timm_table(name, **kinds)
    weights = to_ours(state, table)
    _, abstract = peers.structure(name, **options)
    assert shapes(weights) == shapes(abstract)
    back = to_foreign(weights, table)
    assert back.keys() == state.keys()
    for key, x in back.items():
        assert x.dtype == state[key].dtype
        assert x.flags.c_contiguous
        np.testing.assert_array_equal(x, state[key])
    peers.load(twin.to_empty(device="cpu"), back)  # strict


@pytest.mark.parametrize(("name", "num_classes"), [*((name, 1000) for name in list_models()), ("xception41p", 0)])
def test_timm_s_state_dict_there_and_back(name, num_classes):
    torch, _, timm = peers.libraries()
    with torch.device("meta"):
        twin = timm.create_model(peers.TIMM_NAMES.get(name, name), num_classes=num_classes)
    options = {} if num_classes else {"num_classes": 0}
    check_round_trip(twin, name, options, head=num_classes > 0)


def test_torchvision_s_state_dict_there_and_back():
    torch, torchvision, _ = peers.libraries()
    with torch.device("meta"):
        twin = torchvision.models.inception_v3(init_weights=False)
    check_round_trip(twin, "inception_v3", {"aux_head": True}, aux_head=True)


def test_arrays_without_a_place_are_not_lost_in_silence():
    """Hidden layers, which timm does not have, and arrays that are not there."""
    _, weights = peers.tiny("xception41", hidden=(3,))
    with pytest.raises(ValueError, match="no place for head/hidden/0/bias, head/hidden/0/kernel"):
        to_foreign(weights, timm_table("xception41"))
    _, headless = peers.tiny("xception41", num_classes=0)
    with pytest.raises(KeyError, match=r"head\.fc\.weight"):
        to_ours(to_foreign(headless, timm_table("xception41", head=False)), timm_table("xception41"))


def test_unknown_networks_are_refused():
    with pytest.raises(UserError, match='timm has no equivalent of model "xception42"; did you mean "xception4'):
        timm_table("xception42")
