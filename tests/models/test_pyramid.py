"""The maps of every stride: which there are, what is made of them, and that output strides only show more pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import peers
from xception_jax.errors import UserError
from xception_jax.models import variables
from xception_jax.models.layers import check_images

METHODS = ("feature_pyramid", "features", "pooled_features", "__call__")


@functools.partial(jax.jit, static_argnums=0)
def all_outputs(graphdef, weights, images):
    model = variables.merge(graphdef, weights)
    return [getattr(model, method)(images) for method in METHODS]


SOME = [
    "xception",
    "xception41p",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("inception_v3", "xception41")),
]


@pytest.mark.parametrize("name", SOME)
def test_features_and_pooled_features_are_of_the_last_map(name):
    """And so is the output of a network without logits."""
    graphdef, weights = peers.tiny(name, stem="small", num_classes=0)
    pyramid, features, *pooled = all_outputs(graphdef, weights, peers.pictures(43))
    assert list(pyramid) == ([1, 2, 4, 8] if name == "inception_v3" else [1, 2, 4, 8, 16])
    *_, last = pyramid.values()
    assert last.min() >= 0
    np.testing.assert_array_equal(features, last)
    for x in pooled:
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, np.mean(last, (1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "output_stride"),
    [
        ("xception", 97, 8),
        ("xception", 118, 16),
        ("xception41p", 118, 8),
    ],
)
def test_output_strides_show_more_pixels_of_the_same_map(name, size, output_stride):
    """With the same weights. It holds at the borders too: where the strided map is padded, the dilated one is."""
    options = {"pool_padding": "symmetric"} if name == "xception" else {}
    images, every = peers.pictures(size), 32 // output_stride
    coarse, _ = peers.run_ours(*peers.tiny(name, **options), images, "feature_pyramid")
    fine, _ = peers.run_ours(*peers.tiny(name, output_stride=output_stride, **options), images, "feature_pyramid")
    *below, highest = fine
    assert [*below, highest] == [stride for stride in (2, 4, 8, 16) if stride <= output_stride]
    for stride in below:
        np.testing.assert_allclose(fine[stride], coarse[stride], rtol=1e-5, atol=1e-5)
    assert fine[highest].shape[1] > coarse[32].shape[1]
    assert peers.error(fine[highest][:, ::every, ::every], coarse[32]) < 1e-5


def test_too_small_images_are_refused():
    graphdef, weights = peers.tiny("xception41")
    for method in ("feature_pyramid", "pooled_features"):
        with pytest.raises(UserError, match="31x31 pixels are too small"):
            peers.run_ours(graphdef, weights, np.zeros((1, 31, 31, 3), np.float32), method)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 32, 32, 3), np.uint8), r"the images are uint8, .*: model\(model.preprocess\(images\)\)"),
        (np.zeros((32, 32, 3), np.float32), r"images are \[B, H, W, 3\]; these are \[32, 32, 3\]"),
        (np.zeros((1, 3, 32, 32), np.float32), r"these are \[1, 3, 32, 32\]"),
    ],
)
def test_images_that_were_not_preprocessed_are_refused(images, message):
    """Pixels from 0 to 255 would give probabilities that look like any others.

    Asked of the check by itself: in the tests, jaxtyping refuses the call before.
    """
    with pytest.raises(UserError, match=message):
        check_images(jnp.asarray(images))
