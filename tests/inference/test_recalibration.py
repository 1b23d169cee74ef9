"""Statistics of normalization for other images, against NumPy in float64."""

import cv2
import numpy as np
import pytest
from flax import nnx

from xception_jax.convert import recalibrate
from xception_jax.data import UnreadableImages
from xception_jax.errors import UserError
from xception_jax.inference.recalibration import recalibrated
from xception_jax.inputs.spec import InputSpec
from xception_jax.models import build_network, variables
from xception_jax.models.backbone import Backbone
from xception_jax.models.head import Head
from xception_jax.models.layers import Numerics, batch_norm, conv
from xception_jax.pretrained import Pretrained

CHANNELS, EPSILON = 4, 1e-3


NAME = f"{__name__}:TwoLayers"


class TwoLayers(Backbone):
    """Twice a pointwise convolution, normalization and ReLU, with dropout between them."""

    num_features = CHANNELS

    def __init__(self, num_classes, *, rngs):
        numerics = Numerics(bn_epsilon=EPSILON)
        self.conv1 = conv(3, CHANNELS, (1, 1), numerics=numerics, rngs=rngs)
        self.norm1 = batch_norm(CHANNELS, numerics=numerics, rngs=rngs)
        self.dropout = nnx.Dropout(0.9)
        self.conv2 = conv(CHANNELS, CHANNELS, (1, 1), numerics=numerics, rngs=rngs)
        self.norm2 = batch_norm(CHANNELS, numerics=numerics, rngs=rngs)
        self.head = Head(CHANNELS, num_classes, rngs=rngs)

    def maps(self, images, *, train, rngs):
        x = nnx.relu(self.norm1(self.conv1(images), use_running_average=not train))
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        return {1: nnx.relu(self.norm2(self.conv2(x), use_running_average=not train))}


def reference(params, batches):
    """Mean and variance of each normalization's inputs over all batches, each normalized by itself, in float64."""
    kernels = [np.float64(params[name]["kernel"])[0, 0] for name in ("conv1", "conv2")]
    seen = [], []
    for batch in batches:
        x = batch / 127.5 - 1
        for kernel, inputs in zip(kernels, seen, strict=True):
            x = x.reshape(-1, x.shape[-1]) @ kernel
            inputs.append(x)
            x = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON), 0)
    everything = [np.concatenate(inputs) for inputs in seen]
    return [(x.mean(0), x.var(0)) for x in everything]


@pytest.fixture(scope="module")
def weights():
    _, weights = variables.split(build_network(NAME, num_classes=0, rngs=nnx.Rngs(0)))
    return Pretrained("test", NAME, {}, 0, weights, InputSpec(8, 1.0, resize="squash"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten pictures of other brightness and colour each, and their files, one of which cannot be read."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    images = np.stack([rng.integers((low, low + 10, low + 20), low + 60, (8, 8, 3)) for low in range(0, 190, 20)])
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i}.png"), image.astype(np.uint8)[..., ::-1])
    (folder / "broken.png").write_bytes(b"no picture")
    return images.astype(np.float64), sorted(folder.glob("*.png"))


@pytest.mark.parametrize(("batch_size", "sizes"), [(4, (4, 4, 2)), (100, (10,))])
def test_statistics_are_those_of_all_that_a_layer_sees(weights, pictures, batch_size, sizes):
    images, files = pictures
    broken = UnreadableImages()
    found = recalibrated(weights, files, broken, batch_size=batch_size)
    expected = reference(weights.weights.params, np.split(images, np.cumsum(sizes)[:-1]))
    for layer, (mean, variance) in zip(("norm1", "norm2"), expected, strict=True):
        statistics = found.weights.batch_stats[layer]
        np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(statistics["var"], variance, rtol=1e-4)
    assert [name.rpartition("/")[2] for name in broken.reasons] == ["broken.png"]
    assert found.weights.params is weights.weights.params


def test_the_command_names_what_it_could_not_read(weights, pictures, capsys):
    found = recalibrate(weights, pictures[1][0].parent)
    assert found.source == "test, statistics of 10 images"
    assert "broken.png: text, not a picture" in capsys.readouterr().out


def test_images_that_cannot_be_read_are_not_enough(weights, pictures):
    with pytest.raises(UserError, match="none of the images"):
        recalibrated(weights, pictures[1][-1:], UnreadableImages())
