"""A pathology model's folder as TensorFlow wrote it, `make_savedmodel_fixture.py`, against what TensorFlow computed."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from xception_jax.errors import WeightsFileError
from xception_jax.inference.mc_dropout import monte_carlo_dropout
from xception_jax.inputs import stain
from xception_jax.models import build_network, variables
from xception_jax.models.backbone import Backbone
from xception_jax.models.head import Head, parse
from xception_jax.pretrained.layouts import slideflow

FOLDER = Path(__file__).parent / "fixtures" / "pathology"


@pytest.fixture(scope="module")
def expected():
    with np.load(FOLDER / "expected.npz") as file:
        return dict(file)


@pytest.fixture
def copy(tmp_path):
    """The folder, to be changed."""
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


def filled(pathology):
    """Our network with a model's weights: every array has one of the same shape."""
    model = build_network("xception", num_classes=pathology.num_classes, rngs=nnx.Rngs(0), **pathology.options)
    graphdef, fresh = variables.split(model)
    return variables.merge(graphdef, jax.tree.map(lambda ours, x: x.reshape(ours.shape), fresh, pathology.weights))


def change_params(folder, **changes):
    params = json.loads((folder / "params.json").read_text())
    hp = changes.pop("hp", {})
    (folder / "params.json").write_text(json.dumps(params | changes | {"hp": params["hp"] | hp}))


def test_outputs_are_tensorflow_s(expected):
    model = filled(slideflow.read(FOLDER))
    images = np.stack([stain.standardize(x) for x in expected["pictures"]])
    np.testing.assert_allclose(images, expected["standardized"], atol=1e-5)
    features, logits = jax.jit(lambda x: (model.pooled_features(x), model(x)))(images)
    for name, ours, bound in (("features", features, 1e-4), ("logits", logits, 1e-4)):
        error = np.linalg.norm(ours - expected[name]) / np.linalg.norm(expected[name])
        print(f"{name}: {error:.1e}")
        assert error < bound
    np.testing.assert_allclose(jax.nn.softmax(logits), expected["probabilities"], atol=1e-4)


def test_what_params_json_says():
    found = slideflow.read(FOLDER)
    assert found.options == {
        "hidden": (20, 20), "hidden_norm": True, "hidden_dropout": 0.1, "dropout": 0.1, "width": 24 / 2048,
    }  # fmt: skip
    assert (found.num_classes, found.scores, found.uncertainty) == (2, "softmax", True)
    assert found.class_names == ("Adenocarcinoma", "Squamous")
    assert (found.tile_px, found.tile_um) == (299, 302)
    assert found.stain == stain.PRESETS["v1"]


def test_the_repository_s_layout_is_found_too(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "lung-adeno-squam-v1")
    (tmp_path / "lung-adeno-squam-v1" / "params.json").rename(tmp_path / "params.json")
    assert slideflow.read(tmp_path).class_names == ("Adenocarcinoma", "Squamous")


def test_a_linear_model_with_an_older_fit(copy):
    change_params(
        copy, model_type="linear", outcome_labels=None, norm_fit=None, norm_mean=[[1, 2, 3]], norm_std=[4, 5, 6]
    )
    found = slideflow.read(copy)
    assert (found.scores, found.class_names) == ("linear", ())
    assert found.stain == stain.Reinhard((1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "cph"}, "cph"),
        ({"hp": {"pooling": "max"}}, "max"),
        ({"hp": {"normalizer": "macenko"}}, "macenko"),
        ({"hp": {"hidden_layers": 1}}, "3 dense layers"),
        ({"hp": {"dropout": "a lot"}}, "a lot"),
        ({"outcome_labels": {"0": "only one"}}, "names 1 classes, but the network has 2"),
        ({"norm_fit": {"target_means": [1, 2], "target_stds": [1, 2, 3]}}, "fit"),
    ],
)
def test_params_that_do_not_fit_are_refused(copy, changes, message):
    change_params(copy, **changes)
    with pytest.raises(WeightsFileError, match=message):
        slideflow.read(copy)


def test_a_network_s_uncertainty_is_that_of_its_head_s_masks(expected):
    model = filled(slideflow.read(FOLDER))
    images, key = expected["standardized"], jax.random.key(3)
    found = jax.jit(lambda x: monte_carlo_dropout(model.head, model.pooled_features(x), key, passes=400))(images)
    assert np.all(found.std > 1e-3)
    # The same in float64 NumPy, with masks of its own: the two agree as far as 400 draws let them.
    mean, std = reference_uncertainty(slideflow.read(FOLDER).tensors, expected["features"], 4000)
    assert np.all(np.abs(found.mean - mean) < 5 * std / np.sqrt(400) + 1e-6)
    np.testing.assert_allclose(found.std, std, rtol=0.2)


class HeadAlone(Backbone):
    """A network of whose features the test makes up."""

    def __init__(self):
        self.head = Head(4, 3, steps=parse("dropout 0.5, dense 5 relu, dropout 0.5"), rngs=nnx.Rngs(0))


def test_a_picture_s_uncertainty_is_its_own():
    """The same in another row of a batch of another size."""
    model, features = HeadAlone(), np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    uncertain = jax.jit(lambda x: monte_carlo_dropout(model.head, x, jax.random.key(0), passes=3))
    three, two = uncertain(features), uncertain(features[[2, 0]])
    assert np.all(np.asarray(three.std) > 1e-3)
    for ours, theirs in zip(two, three, strict=True):
        np.testing.assert_allclose(ours, theirs[np.array([2, 0])], rtol=1e-5)


def reference_uncertainty(tensors, features, passes, rate=0.1):
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(passes):
        x = features.astype(np.float64)
        for i in (0, 1):
            x = x * (rng.random(x.shape) >= rate) / (1 - rate)
            x = np.maximum(x @ tensors[f"hidden_{i}/kernel"] + tensors[f"hidden_{i}/bias"], 0)
            gamma, beta, mean, var = (
                tensors[f"batch_normalization_{4 + i}/{v}"] for v in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            x = (x - mean) / np.sqrt(var + 1e-3) * gamma + beta
        x = x * (rng.random(x.shape) >= rate) / (1 - rate)
        e = np.exp(x @ tensors["prelogits/kernel"] + tensors["prelogits/bias"])
        draws.append(e / e.sum(1, keepdims=True))
    return np.mean(draws, 0), np.std(draws, 0)


@pytest.mark.slow
def test_without_dropout_there_is_no_uncertainty(expected):
    pathology = slideflow.read(FOLDER)
    pathology.options.update(dropout=0.0, hidden_dropout=0.0)
    model = filled(pathology)
    features = model.pooled_features(expected["standardized"])
    found = monte_carlo_dropout(model.head, features, jax.random.key(0), passes=3)
    np.testing.assert_allclose(found.std, 0, atol=1e-7)
    np.testing.assert_allclose(found.mean, expected["probabilities"], atol=1e-4)


def test_the_published_models_have_as_many_parameters():
    options = {"hidden": (1024, 1024), "hidden_norm": True}
    model = nnx.eval_shape(lambda: build_network("xception", num_classes=2, rngs=nnx.Rngs(0), **options))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat)))) == 24_019_498
