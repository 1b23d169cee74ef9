"""Outcomes: what is refused, and the table of predictions."""

import csv

import numpy as np
import pytest

from xception_jax.errors import UserError
from xception_jax.evaluation.outcome import Outcome, columns
from xception_jax.filesystem.table_files import write_table

FILES = ("a.png", "b.png")


def test_scores_are_probabilities_at_the_temperature():
    o = Outcome("test", FILES, "single_label", ("x", "y"), np.array([0, 1]), np.array([[2.0, 0.0], [0.0, 0.0]]), None)
    np.testing.assert_allclose(o.scores[0, 0], 1 / (1 + np.exp(-2)))
    warm = Outcome(
        "test", FILES, "multi_label", ("x",), np.array([[0], [1]]), np.array([[2.0], [0.0]]), temperature=2.0
    )
    np.testing.assert_allclose(warm.scores[0, 0], 1 / (1 + np.exp(-1)))


def test_what_cannot_be_measured_is_refused_by_name():
    logits = np.array([[0.0, 1.0], [np.nan, 0.0]])
    with pytest.raises(UserError, match=r'logits of 1 of 2 images are not finite \("b.png"\): the network diverged'):
        Outcome("test", FILES, "single_label", ("x", "y"), np.array([0, 1]), logits)
    with pytest.raises(UserError, match=r'targets of 1 of 2 images are not finite \("b.png"\)'):
        Outcome("test", FILES, "regression", ("x", "y"), logits, np.zeros((2, 2)))
    with pytest.raises(UserError, match='"test" has no image'):
        Outcome("test", (), "single_label", ("x", "y"), np.zeros(0, int), np.zeros((0, 2)))
    with pytest.raises(AssertionError, match=r"targets: \(2, 1\), not \(2,\)"):
        Outcome("test", FILES, "single_label", ("x", "y"), np.zeros((2, 1), int), np.zeros((2, 2)))


def test_the_table_of_one_class_of_several_is_written_and_read(tmp_path):
    o = Outcome(
        split="test",
        files=FILES,
        task="single_label",
        class_names=("x", "y, z"),
        targets=np.array([0, 1], np.int32),
        logits=np.array([[0.0, np.log(3)], [0.0, np.log(3)]], np.float32),
        group=np.array(["p", "q"]),
        deviation=np.array([[0.5, 0.25], [0.5, 0.125]], np.float32),
    )
    write_table(tmp_path / "predictions.csv", columns(o))
    with (tmp_path / "predictions.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(r["file"], r["split"], r["group"], r["target"], r["predicted"], r["deviation"]) for r in rows] == [
        ("a.png", "test", "p", "x", "y, z", "0.25"),
        ("b.png", "test", "q", "y, z", "y, z", "0.125"),
    ]
    assert float(rows[0]["confidence"]) == float(rows[0]["score y, z"]) == pytest.approx(0.75)
    write_table(tmp_path / "predictions.parquet", columns(o))


def test_the_tables_of_labels_and_values():
    labels = Outcome("t", FILES, "multi_label", ("x", "y"), np.array([[1, 1], [0, 0]]), np.array([[1.0, -1], [-1, 1]]))
    table = columns(labels)
    assert table["target"] == ["x;y", ""]
    assert table["predicted"] == ["x", "y"]
    values = Outcome("t", FILES, "regression", ("age", "weight"), np.ones((2, 2)), np.full((2, 2), 2.0))
    assert list(columns(values)) == [
        "file",
        "split",
        "target age",
        "target weight",
        "predicted age",
        "predicted weight",
    ]
    one = Outcome("t", FILES, "regression", ("age",), np.ones((2, 1)), np.full((2, 1), 2.0))
    assert columns(one) == {"file": list(FILES), "split": ["t", "t"], "target": [1.0, 1.0], "predicted": [2.0, 2.0]}


def test_a_thousand_classes_have_no_thousand_columns():
    names = tuple(f"{i}" for i in range(1000))
    o = Outcome("test", FILES, "single_label", names, np.array([0, 1]), np.zeros((2, 1000)))
    assert list(columns(o)) == ["file", "split", "target", "predicted", "confidence"]
