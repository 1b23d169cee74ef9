"""Every mesh computes the same, on less memory a device where it says so, and checkpoints pass from one to another."""

import dataclasses
import functools
import itertools
import re

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from xception_jax import experiment as experiment_lib
from xception_jax.config import default
from xception_jax.data import UnreadableImages
from xception_jax.errors import UserError
from xception_jax.models.variables import num_bytes
from xception_jax.parallel import mesh as mesh_lib
from xception_jax.parallel.mesh import bytes_on_each_device, partition_spec
from xception_jax.training import loop
from xception_jax.training.recipe import Recipe, create_recipe
from xception_jax.training.summary import saved_bytes
from xception_jax.workdir.checkpoints import Checkpoints

MESHES = [
    *(pytest.param(*mesh, marks=pytest.mark.slow) for mesh in ((True, 1), (False, 4))),
    (True, 4),
]  # fully_sharded, model


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("weights/params/block5/sepconv1/pointwise/kernel", (1, 1, 728, 728), P(None, None, "data", None)),
        ("weights/params/block1/conv1/kernel", (3, 3, 1, 4), P()),  # small
        ("weights/params/head/logits/kernel", (4096, 17000), P("model", "data")),  # 17,000 does not divide by 16
        ("weights/params/head/logits/bias", (17000,), P("data")),
        ("averaged/params/head/hidden/1/kernel", (4096, 4096), P("data", "model")),
        ("opt_state/1/0/trace/head/hidden/1/kernel", (4096, 4096), P("data", "model")),
        ("opt_state/1/0/trace/head/hidden/1/bias", (4096,), P("model")),
        ("step", (), P()),
    ],
)
def test_rules(path, shape, expected):
    mesh = AbstractMesh((4, 16), ("data", "model"))
    assert partition_spec(path, shape, mesh, fully_sharded=True) == expected
    unsplit = partition_spec(path, shape, AbstractMesh((64, 1), ("data", "model")), fully_sharded=False)
    assert unsplit == P()


def test_model_axis_must_divide_the_devices(tiny):
    tiny.mesh.model = 3
    with pytest.raises(UserError, match=r"config\.mesh\.model=3 does not divide 8 devices; choose from: 1, 2, 4, 8"):
        experiment_lib.create(tiny)


@dataclasses.dataclass
class Run:
    """Three steps on a mesh."""

    experiment: experiment_lib.Experiment
    recipe: Recipe
    program: jax.stages.Compiled
    state_bytes: int
    losses: list[float]
    state: object


def settings(fully_sharded: bool, model: int):
    c = default()
    c.image_size, c.batch_size, c.num_steps = 32, 8, 3
    c.model.update(stem="small", width=0.01, middle_blocks=0, dropout=0.5, hidden=(64, 64))
    c.data.update(name="synthetic", num_examples=20, num_classes=8, num_threads=1)
    c.average_decay = 0.9
    c.learning_rate = 1e-4  # so low that a ReLU which rounding turns over moves no loss by the bound
    c.mesh.update(fully_sharded=fully_sharded, model=model)
    return c


@functools.cache
def first_state():
    """The state that all start from, on the host."""
    recipe = create_recipe(experiment_lib.create(settings(True, 4)))
    return jax.tree.map(np.asarray, recipe.initial_state())


@functools.cache
def run(fully_sharded: bool, model: int, num_devices: int = 8) -> Run:
    devices = jax.devices()[:num_devices]
    experiment = experiment_lib.create(settings(fully_sharded, model), devices=devices)
    recipe = create_recipe(experiment)
    state, losses = jax.device_put(first_state(), recipe.state_shardings), []
    batches = loop.batches_on_devices(experiment, 0, UnreadableImages())
    program = recipe.train_step.lower(state, next(batches)).compile()
    for batch in itertools.islice(loop.batches_on_devices(experiment, 0, UnreadableImages()), 3):
        state, metrics = program(state, batch)
        losses.append(float(metrics["loss"]))
    size = bytes_on_each_device(recipe.abstract_state, recipe.state_shardings)
    return Run(experiment, recipe, program, size, losses, state)


@pytest.fixture(autouse=True)
def split_small_arrays(monkeypatch):
    """The networks of these tests are small."""
    monkeypatch.setattr(mesh_lib, "SMALLEST_SPLIT", 64)


@pytest.mark.parametrize(("fully_sharded", "model"), MESHES)
def test_mesh_does_not_change_the_result(fully_sharded, model):
    np.testing.assert_allclose(run(fully_sharded, model).losses, run(False, 1, num_devices=1).losses, rtol=2e-4)


@pytest.mark.parametrize(("fully_sharded", "model"), MESHES)
def test_program_holds_the_part_of_the_state_that_the_summary_says(fully_sharded, model):
    """What goes in on each device, and that all of the state is donated: read from the compiled program."""
    mine = run(fully_sharded, model)
    memory = mine.program.memory_analysis()
    batch = 32 * 32 * 3 + 4  # a picture and its label on each of 8 devices
    assert memory.argument_size_in_bytes == mine.state_bytes + batch
    assert memory.alias_size_in_bytes == mine.state_bytes
    assert mine.state_bytes < num_bytes(mine.recipe.abstract_state)


@pytest.mark.parametrize(("fully_sharded", "model"), MESHES)
def test_estimate_of_memory_is_near_what_the_compiler_plans(fully_sharded, model):
    """It leaves out what the compiler needs to work in: in networks as small as these, half of it."""
    mine = run(fully_sharded, model)
    planned = mine.program.memory_analysis().temp_size_in_bytes
    assert planned / 3 < saved_bytes(mine.experiment) < planned


def test_head_is_split_and_never_gathered():
    mine = run(False, 4)
    text = mine.program.as_text()
    state = mine.state
    for tree in (state.weights.params, state.averaged.params, state.opt_state[1][0].trace):
        assert tree["head"]["hidden"][1]["kernel"].addressable_shards[0].data.shape == (64, 16)
        assert tree["head"]["logits"]["kernel"].addressable_shards[0].data.shape == (64, 2)
    gathered = {dims for dims in re.findall(r"f32\[([\d,]+)\]\S* all-gather\(", text)}
    assert gathered, "the activations are gathered"
    head = [x for x in jax.tree.leaves(state.weights.params["head"]) if x.ndim == 2]
    assert not gathered & {",".join(map(str, kernel.shape)) for kernel in head}, "no kernel is"


def test_checkpoint_passes_from_one_mesh_to_another(tmp_path):
    saved, other = run(True, 4), create_recipe(experiment_lib.create(settings(True, 1)))
    checkpoints = Checkpoints(tmp_path, saved.experiment.config.checkpoint)
    checkpoints.save(saved.state, None, {})
    checkpoints.wait()
    state = checkpoints.restore(3, other.abstract_state, other.state_shardings)
    checkpoints.close()
    for ours, theirs, where in zip(*map(jax.tree.leaves, (state, saved.state, other.state_shardings)), strict=True):
        assert ours.sharding == where
        np.testing.assert_array_equal(ours, theirs)
