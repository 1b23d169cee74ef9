"""A network of one's own is fine-tuned as ours are, though no file may choose its code."""

import numpy as np
import pytest
from flax import nnx

from xception_jax import create_model
from xception_jax.config import default
from xception_jax.data.decode import decode
from xception_jax.errors import UserError
from xception_jax.finetuning import results, run
from xception_jax.inference.activations import diff
from xception_jax.inputs.spec import InputSpec
from xception_jax.models import Backbone, variables
from xception_jax.models.head import Head
from xception_jax.models.layers import batch_norm, conv
from xception_jax.pretrained import Pretrained, load
from xception_jax.pretrained.conversion import caveats, convert
from xception_jax.pretrained.layouts import native

pytestmark = pytest.mark.usefixtures("one_device")
NAME = "tests.finetuning.test_own_network:Small"


class Small(Backbone):
    min_image_size = 16

    def __init__(self, num_classes, *, rngs, channels=3):
        self.stem = conv(3, channels, (3, 3), strides=2, rngs=rngs)
        self.stem_bn = batch_norm(channels, rngs=rngs)
        self.head = Head(channels, num_classes, steps=(), rngs=rngs)
        self.num_features = channels

    def maps(self, images, *, train, rngs):
        return {2: nnx.relu(self.stem_bn(self.stem(images), use_running_average=not train))}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of the network, with an option that is not its default."""
    _, arrays = variables.split(create_model(NAME, num_classes=0, channels=6))
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    spec = InputSpec(32, 1.0, resize="squash")
    path.write_bytes(native.write(Pretrained("random", NAME, {"channels": 6}, 0, arrays, spec)))
    return path


def settings(weights, data):
    config = default()
    config.image_size = None
    config.model.name, config.model.weights, config.data.path = NAME, str(weights), str(data)
    return config


@pytest.fixture(scope="module")
def finished(one_device, weights, digits, tmp_path_factory):
    """A work directory of a network that was unfrozen, too, and the results."""
    workdir, config = tmp_path_factory.mktemp("run"), settings(weights, digits)
    config.finetune.unfreeze, config.num_steps, config.batch_size = "stem", 1, 16
    return workdir, run.finetune(config, workdir)


def test_it_is_unfrozen_with_the_options_of_its_weights(finished):
    workdir, found = finished
    assert set(found["candidates"]) == {"frozen", "unfrozen from stem"}
    assert load(workdir / "unfrozen").weights.params["stem"]["kernel"].shape == (3, 3, 3, 6)


def test_what_is_said_of_its_use_is_true(finished, digits):
    workdir, _ = finished
    (_, command), (_, python) = results.next_steps(workdir, load(workdir / "model", NAME))
    assert command == f"xception-jax predict --weights={workdir}/model --model={NAME} IMAGES-OR-FOLDERS"
    assert f"--model={NAME}" in (workdir / "model" / "README.md").read_text()
    images = [decode(file.read_bytes()) for file in sorted((digits / "test").rglob("*.png"))]
    lines = {"images": images}
    exec(python, lines)
    assert lines["logits"].shape == (24, 4)
    assert lines["model"].class_names == tuple(f"digit {i}" for i in range(4))


def test_its_file_is_read_only_if_it_is_named(finished, weights, digits, tmp_path):
    model = finished[0] / "model"
    for other in (None, "xception", f"{NAME}er"):
        with pytest.raises(UserError, match=f"--model={NAME}"):
            load(model, other)
    config = settings(weights, digits)
    config.model.name = "xception"
    with pytest.raises(UserError, match=f"--config.model.name={NAME}"):
        run.finetune(config, tmp_path / "run")


def test_it_is_converted(finished, tmp_path):
    """A work directory names its network; the file that is made of it says what it needs."""
    unfrozen, output = finished[0] / "unfrozen", tmp_path / "model.safetensors"
    written = convert(str(unfrozen), "native", output)
    assert f"--model={NAME}" in caveats(written, "native", output)[0]
    convert(str(output), "native", tmp_path / "again.safetensors", model=NAME)
    layers = diff(str(unfrozen), str(tmp_path / "again.safetensors"), model=NAME)
    np.testing.assert_array_equal([difference for _, difference in layers], 0)


def test_a_head_that_it_has_no_option_for_is_refused_at_once(weights, digits, tmp_path):
    config = settings(weights, digits)
    config.finetune.head = "dense 8 relu"
    with pytest.raises(UserError, match=f'model "{NAME}" has no option "head"'):
        run.finetune(config, tmp_path / "run")
    assert not (tmp_path / "run" / "features").exists()
