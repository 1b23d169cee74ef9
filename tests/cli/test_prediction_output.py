"""Predictions as people read them, and names of what is written beside them."""

import dataclasses

import numpy as np

from xception_jax.cli import prediction_output
from xception_jax.cli.overrides import override
from xception_jax.cli.prediction_output import explanation_name
from xception_jax.inference.predictor import Prediction
from xception_jax.models.variables import Weights
from xception_jax.pretrained import Pretrained
from xception_jax.pretrained.pretrained import Conformal

FILES = [
    *("a/b.png", "a_b.png", "./a_b.png", "/a/b.png", "a//b.png", "_a_b.png", "a.png", "../a.png"),
    *(f"{'n' * 250}{i}.png" for i in range(3)),
    *(f"{'ü' * 120}{i}.png" for i in range(3)),
]


def test_two_files_have_two_heat_maps_with_names_that_file_systems_take():
    for name in ("cat", "tit/tat", "\u4e2d" * 200):
        names = [explanation_name(file, name) for file in FILES]
        assert len({*names}) == len(FILES)
        assert max(len(n.encode()) for n in names) <= 230  # beside what a temporary file is called
        assert not any("/" in n or n.startswith(".") for n in names)


def test_a_plain_name_stays_as_it_is():
    assert explanation_name("a.png", "cat") == "a.png.cat.png"
    assert explanation_name("x/a_b.png", "cat").startswith("x_a_b.png-")


def test_sets_are_listed_whatever_the_number_of_classes_shown(capsys):
    names = ("ape", "bear", "cat")
    weights = Pretrained("x", "xception", {}, 3, Weights({}, {}), class_names=names, conformal=Conformal(0.2, 0.1))
    columns = {name: [] for name in prediction_output.columns_of(weights)}
    for file, scores in (("a.png", [0.1, 0.6, 0.3]), ("b.png", [0.25, 0.35, 0.4])):
        row = np.zeros(3), np.zeros(1), np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1))
        prediction_output.append(columns, Prediction(file, np.array(scores), *row), weights, top=1)
    assert columns["prediction_set"] == ["bear;cat", "cat;bear;ape"]
    prediction_output.show(columns, 1, weights)
    header, *lines = capsys.readouterr().out.splitlines()
    assert "set (90 %)" in header
    assert any("bear 60.0 %" in line and "bear, cat" in line for line in lines)


def test_numbers_have_a_column_each_by_their_name(capsys):
    weights = Pretrained("x", "xception", {}, 2, Weights({}, {}), class_names=("price", "file"), scores="linear")
    for uncertainty, deviations in ((False, {}), (True, {"deviation price": [0.5], "deviation file (1)": [0.25]})):
        given = dataclasses.replace(weights, uncertainty=uncertainty)
        columns = {name: [] for name in prediction_output.columns_of(given)}
        row = np.array([0.5, 0.25]), np.zeros(1), np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1))
        prediction_output.append(columns, Prediction("0.jpg", np.array([36363.375, 1e-4]), *row), given, top=5)
        assert columns == {"file": ["0.jpg"], "price": [36363.375], "file (1)": [1e-4]} | deviations
    prediction_output.show(columns, 5, weights)
    header, line = capsys.readouterr().out.splitlines()
    assert (header.split(), line.split()) == (["file", "price", "file", "(1)"], ["0.jpg", "36,363", "0.0001000"])
    prediction_output.show(columns, 1, weights)
    assert "and 1 more number; --output=FILE.csv writes all" in capsys.readouterr().out


def test_several_labels_have_probabilities():
    weights = Pretrained("x", "xception", {}, 2, Weights({}, {}), class_names=("a", "b"), scores="sigmoid")
    assert prediction_output.columns_of(weights) == ("file", "rank", "class_index", "class_name", "probability")


def test_sets_hold_for_the_scores_they_were_found_with():
    weights = Pretrained("x", "xception", {}, 3, Weights({}, {}), conformal=Conformal(0.2, 0.1))
    assert override(weights, {}).conformal == weights.conformal
    assert override(weights, {"image_size": 99}).conformal is None
    assert "prediction_set" not in prediction_output.columns_of(dataclasses.replace(weights, conformal=None))
