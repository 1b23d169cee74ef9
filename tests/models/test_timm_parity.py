"""The networks against timm's with the same weights: logits, maps of every stride, and what training does to the batch
statistics."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests import peers
from tests.models import make_timm_fixture
from xception_jax.models import list_models
from xception_jax.pretrained.layouts.table import to_ours
from xception_jax.pretrained.layouts.timm import timm_table

DEEPER = ("xception65", "xception65p")  # with more blocks of the same kinds
EACH = [
    pytest.param(name, marks=[pytest.mark.slow] if name in (*DEEPER, "xception71") else []) for name in list_models()
]


@pytest.fixture(scope="module", params=EACH)
def networks(request):
    """Name, timm's network, our weights: for one name after another."""
    twin = peers.timm_model(request.param)
    return request.param, twin, peers.same_weights(request.param, twin)


@pytest.fixture(scope="module")
def recorded():
    """What timm's networks said of two pictures when it was written down, by our networks' names."""
    with np.load(make_timm_fixture.PATH) as file:
        return {name: file[name] for name in list_models()}


@pytest.mark.parametrize("name", EACH)
def test_logits_are_timm_s(name, recorded):
    """As they were written down, so that it needs no timm."""
    logits, _ = peers.run_ours(
        peers.structure(name)[0], peers.random_weights(name), peers.pictures(make_timm_fixture.SIZE)
    )
    print(f"{name}: logits {peers.error(logits, recorded[name]):.1e}")
    assert np.ptp(recorded[name], axis=0).mean() > 0.1  # the pictures' logits differ
    assert peers.error(logits, recorded[name]) < 1e-4


def test_what_was_written_down_is_still_timm_s(networks, recorded):
    name, twin, weights = networks
    assert peers.error(peers.run_torch(twin, peers.pictures(make_timm_fixture.SIZE)), recorded[name]) < 1e-4
    for ours, theirs in zip(*map(jax.tree.leaves, (peers.random_weights(name), weights)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("networks", [n for n in list_models() if n not in DEEPER], indirect=True)
def test_pyramid_is_timm_s(networks):
    name, twin, weights = networks
    images = peers.pictures(139)
    pyramid, _ = peers.run_ours(peers.structure(name)[0], weights, images, "feature_pyramid")
    expected = timm_pyramid(name, twin, images)
    check_pyramid(pyramid, dict(zip((2, 4, 8, 16, 32), expected, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("networks", "output_stride"),
    [("xception41", 16), ("xception41p", 8)],
    indirect=["networks"],
)
def test_output_strides_are_timm_s(networks, output_stride):
    name, twin, weights = networks
    images = peers.pictures(91)
    graphdef, _ = peers.structure(name, output_stride=output_stride)
    pyramid, _ = peers.run_ours(graphdef, weights, images, "feature_pyramid")
    *inner, last = timm_pyramid(name, twin, images, output_stride=output_stride)
    # timm gives maps of the dilated blocks too.
    check_pyramid(pyramid, dict(zip((2, 4, 8, 16), inner, strict=True)) | {output_stride: last}, up_to=output_stride)


def timm_pyramid(name, twin, images, **options):
    *inner, last = peers.run_torch(peers.timm_model(name, peers.arrays(twin), features_only=True, **options), images)
    # timm's pre-activation networks apply their last ReLU after their last map, ours before.
    return [*inner, np.maximum(last, 0)]


def check_pyramid(pyramid, expected, up_to=32):
    assert list(pyramid) == [stride for stride in expected if stride <= up_to]
    errors = {stride: peers.error(x, expected[stride]) for stride, x in pyramid.items()}
    print({stride: f"{e:.1e}" for stride, e in errors.items()})
    assert max(errors.values()) < 1e-4


@pytest.mark.parametrize("networks", [pytest.param("xception41", marks=pytest.mark.slow), "xception41p"], indirect=True)
def test_training_is_timm_s(networks):
    """One network of each kind that Keras does not have.

    Of the statistics the means: PyTorch's running variances are of a sample, ours (and TensorFlow's) of the batch.
    """
    name, twin, weights = networks
    before = peers.arrays(twin)
    images = peers.pictures(107, batch=3)
    expected = peers.run_torch(twin.train(), images)
    after = to_ours(peers.arrays(twin), timm_table(name))
    peers.load(twin, before)
    logits, statistics = peers.run_ours(peers.structure(name)[0], weights, images, "__call__", True)
    print(f"{name}: training logits {peers.error(logits, expected):.1e}")
    assert peers.error(logits, expected) < 1e-4
    old, new, ours = (flatten_dict(x) for x in (weights.batch_stats, after.batch_stats, statistics))
    worst = max(peers.error(ours[p] - old[p], new[p] - old[p]) for p in old if p[-1] == "mean")
    print(f"{name}: what the means moved by, worst layer {worst:.1e}")
    assert worst < 1e-3
