"""Progressive resizing: images grow in stages, and a run that resumes has those of its step."""

import itertools

import jax
import numpy as np
import pytest

from xception_jax import experiment as experiment_lib
from xception_jax.data import UnreadableImages
from xception_jax.errors import UserError
from xception_jax.training import loop
from xception_jax.training.recipe import Recipe, create_recipe
from xception_jax.training.resizing import image_sizes
from xception_jax.workdir.log import read_log

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def growing(tiny):
    """64 pixels from step 2 on, and 80 from step 4 on."""
    tiny.update(image_size=80, first_image_size=32, grow_until="4 steps")
    tiny.data.num_examples = 8
    return tiny


def test_stages_are_equally_long(growing):
    growing.grow_until = "4 epochs"  # of one step each
    sizes = image_sizes(experiment_lib.create(growing))
    assert [sizes(step) for step in range(6)] == [32, 32, 64, 64, 80, 80]


def test_batches_are_of_their_step_s_size(growing):
    run = experiment_lib.create(growing)
    from_start = list(itertools.islice(loop.batches_on_devices(run, 0, UnreadableImages()), 6))
    assert [batch["image"].shape[1] for batch in from_start] == [32, 32, 64, 64, 80, 80]
    resumed = list(itertools.islice(loop.batches_on_devices(run, 3, UnreadableImages()), 3))
    jax.tree.map(np.testing.assert_array_equal, resumed, from_start[3:])


@pytest.mark.slow
def test_a_run_grows_and_resumes(growing, tmp_path, monkeypatch):
    """It resumes with images of 64 pixels; each size is compiled once."""
    compiled = []
    original = Recipe.compiled_train_step
    monkeypatch.setattr(Recipe, "compiled_train_step", lambda self, size: compiled.append(size) or original(self, size))
    for growing.num_steps, sizes in ((3, [32, 64]), (6, [64, 80])):
        results = loop.train(growing, tmp_path)
        assert results["step"] == growing.num_steps
        assert compiled == sizes
        compiled.clear()
    assert [r["step"] for r in read_log(tmp_path) if r["kind"] == "train"] == list(range(1, 7))


def test_what_cannot_grow_is_refused(growing):
    growing.grow_until = "0 epochs"
    with pytest.raises(UserError, match="when images are to have 80 pixels"):
        create_recipe(experiment_lib.create(growing))
    growing.first_image_size = 81
    with pytest.raises(UserError, match=r"81; it must be at most image_size \(80\)"):
        experiment_lib.create(growing)
    growing.first_image_size = 8
    with pytest.raises(UserError, match="8"):
        experiment_lib.create(growing)
