"""What a certificate says, and that a damaged one is refused."""

import dataclasses
import importlib.metadata
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from xception_jax.errors import UserError
from xception_jax.evaluation import report
from xception_jax.evaluation.report import Predictions, Seen
from xception_jax.experiment import resolve
from xception_jax.models.variables import Weights
from xception_jax.parallel.mesh import data_mesh
from xception_jax.workdir import identity

FACTS = {
    "split": "test",
    "split_size": 7,
    "seen": Seen({"f/broken.jpg": "the file is empty"}, {"turned upright": 2}),
    "class_names": list("abcdef"),
    "weights_hash": "0123",
    "preprocessing": "4567",
    "pictures": {"image_size": 32, "orientation": True},
    "averaged": True,
    "step": 12,
    "model_name": "xception",
    "num_parameters": 345,
    "config": {"seed": 0, "data": {"crop_area": (0.5, 1.0)}},
}


def predictions():
    """Of six examples three right, and five among the five most probable."""
    return Predictions(
        ids=[f"e/{i}.jpg" for i in range(5)] + ["e/ü.jpg"],
        labels=np.array([0, 1, 2, 3, 4, 5], np.int32),
        top5=np.array(
            [[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [2, 0, 1, 3, 4], [0, 3, 1, 2, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]],
            np.int32,
        ),
        confidence=np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], np.float32),
        loss=np.array([0.1, 0.2, 0.3, 1.0, 2.0, 3.0], np.float32),
        own={"margin": np.array([3, 2, 1, -1, -2, -3], np.float32)},
    )


def write(folder, **facts):
    p = predictions()
    return report.write(folder, report.certificate(p, **{**FACTS, **facts}), p)


def test_figures():
    record = report.certificate(predictions(), **FACTS)
    figures = record["metrics"]
    assert figures["top1"] == 3 / 6
    assert figures["top5"] == 5 / 6
    assert figures["loss"] == pytest.approx(6.6 / 6)
    assert figures["top1_interval"] == pytest.approx((0.1876, 0.8124), abs=1e-4)
    # Each example in a bin of its own: |1 - c| where right, c where wrong.
    assert figures["ece"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.6 + 0.5 + 0.4) / 6)
    assert [c["correct"] for c in record["per_class"]] == [1, 1, 1, 0, 0, 0]
    assert (record["count"], record["split_size"]) == (6, 7)
    assert record["unreadable"] == {"f/broken.jpg": "the file is empty"}
    assert record["pictures"] == {"image_size": 32, "orientation": True, "treated": {"turned upright": 2}}


def test_top5_of_three_classes_is_all_of_them():
    p = predictions()
    few = Predictions(p.ids[:3], p.labels[:3], p.top5[:3, :3], p.confidence[:3], p.loss[:3])
    assert few.metrics()["top5"] == 1.0


def test_every_example_must_be_accounted_for():
    with pytest.raises(AssertionError, match="6 evaluated and 1 unreadable of 8"):
        report.certificate(predictions(), **{**FACTS, "split_size": 8})
    twice = dataclasses.replace(predictions(), ids=["same"] * 6)
    with pytest.raises(AssertionError, match="twice"):
        report.certificate(twice, **FACTS)


def test_what_is_written_is_read(tmp_path):
    path = write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation-test-predictions.npz", "evaluation-test.json"]
    for place in (path, tmp_path):
        record, actual = report.read(place)
        assert record["config"]["data"]["crop_area"] == [0.5, 1.0]
        assert record["weights_hash"] == "0123"
        expected = predictions()
        assert (actual.ids, actual.own.keys()) == (expected.ids, {"margin"})
        for name in ("labels", "top5", "confidence", "loss"):
            np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
            assert getattr(actual, name).dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(actual.own["margin"], expected.own["margin"])


def test_a_split_of_any_name_is_a_file(tmp_path):
    path = write(tmp_path, split="test[:50%]/x")
    assert path.parent == tmp_path
    assert report.read(tmp_path, "test[:50%]/x")[0]["split"] == "test[:50%]/x"


def test_a_loss_that_is_no_number_is_still_json(tmp_path):
    p = predictions()
    p.loss[0] = np.nan
    record = report.certificate(p, **FACTS)
    assert math.isnan(record["metrics"]["loss"])
    path = report.write(tmp_path, record, p)
    assert "NaN" not in path.read_text()
    assert report.read(path)[0]["metrics"]["loss"] is None


def damage_predictions(folder):
    file = folder / "evaluation-test-predictions.npz"
    file.write_bytes(file.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_predictions, r"predictions\.npz is damaged"),
        (lambda d: (d / "evaluation-test-predictions.npz").unlink(), "cannot be read.*evaluate again"),
        (lambda d: (d / "evaluation-test.json").write_text('{"split": "te'), "damaged"),
        (lambda d: (d / "evaluation-test.json").write_text('{"split": "test"}'), "not an evaluation certificate"),
        (lambda d: (d / "evaluation-test.json").write_text("[]"), "not an evaluation certificate"),
        (lambda d: (d / "evaluation-test.json").write_bytes(b"\xff\xfe"), "damaged"),
        (lambda d: (d / "evaluation-test.json").unlink(), "write it with xception-jax evaluate --workdir="),
        (lambda d: write(d, split="validation"), "choose one with --split: test, validation"),
    ],
)
def test_what_cannot_be_believed_is_refused(tmp_path, damage, message):
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        report.read(tmp_path)


def test_the_split_asked_for_is_the_one_read(tmp_path):
    write(tmp_path)
    path = write(tmp_path, split="validation")
    assert report.read(tmp_path, "validation")[0]["split"] == "validation"
    with pytest.raises(UserError, match='did you mean "test"'):
        report.read(tmp_path, "tst")
    with pytest.raises(UserError, match='is of split "validation", not "test"'):
        report.read(path, "test")
    with pytest.raises(UserError, match="there is neither a certificate nor a work directory"):
        report.read(tmp_path / "absent")


def weights(kernel, mean=0.0):
    return Weights({"b": {"kernel": kernel}, "a": {"bias": jnp.zeros(2)}}, {"a": {"mean": jnp.full(3, mean)}})


def test_hash_knows_values_shapes_dtypes_and_names_alone():
    kernel = jnp.arange(16.0).reshape(8, 2)
    same = report.hash_weights(weights(kernel))
    sharded = jax.device_put(kernel, NamedSharding(data_mesh(), PartitionSpec(data_mesh().axis_names[0])))
    assert len(sharded.sharding.device_set) == 8
    assert report.hash_weights(weights(sharded)) == same
    assert report.hash_weights(weights(np.asfortranarray(kernel))) == same
    others = [
        weights(kernel.at[0, 0].set(-0.0)),
        weights(kernel.reshape(2, 8)),
        weights(kernel.astype(jnp.bfloat16)),
        weights(kernel, mean=1.0),
        Weights(weights(kernel).params, {"c": weights(kernel).batch_stats["a"]}),
    ]
    assert len({same, *map(report.hash_weights, others)}) == 6


def test_environment_names_versions_and_devices():
    environment = json.loads(json.dumps(identity.environment()))
    assert environment["versions"]["flax"] == importlib.metadata.version("flax")
    assert environment["versions"].keys() >= {"python", "jaxlib", "optax", "orbax", "numpy", "opencv", "xception_jax"}
    assert environment["device"] == {"platform": "cpu", "kind": "cpu", "count": 8}


@pytest.mark.parametrize(
    ("change", "source", "expected"),
    [
        ({}, {}, "test"),
        ({"path": "/mounted/elsewhere/pets"}, {}, "test"),  # the same pictures
        ({}, {"examples": "others"}, "test-pets-"),
        ({"path": "/data/photographs"}, {"examples": "others"}, "test-photographs-"),
        ({"name": "mine.data:open"}, {"examples": "others"}, "test-mine.data:open-"),
        ({"crop_fraction": 0.5}, {}, "test-pets-"),
    ],
)
def test_other_data_has_another_name(tiny, tmp_path, change, source, expected):
    """Whether it is other data is told by the examples' names, or if a run did not record them, by its settings."""
    own_source = {"num_examples": 3, "class_names": ["a", "b"], "examples": "own"}
    own = resolve(tiny, None)
    own.data.update(name="folder", path="/data/pets")
    (tmp_path / "run.json").write_text(json.dumps({"data": {"test": own_source}, "starts": []}))
    asked = own.copy_and_resolve_references()
    asked.data.update(change)
    name = report.name_of(tmp_path, own, asked, "test", own_source | source)
    assert name == expected if expected == "test" else re.fullmatch(re.escape(expected) + "[0-9a-f]{8}", name)
    (tmp_path / "run.json").unlink()
    name = report.name_of(tmp_path, own, asked, "test", own_source | source)
    assert (name == "test") == (not change)


def test_another_loss_has_another_name(tiny, tmp_path):
    """The run's own certificate has the loss that it was trained with."""
    own = resolve(tiny, None)
    own.loss = "mine:ce"
    asked = own.copy_and_resolve_references()
    assert report.name_of(tmp_path, own, asked, "test", {}) == "test"
    asked.loss = "mine:ce(scale=3.0)"
    assert re.fullmatch("test-synthetic-[0-9a-f]{8}", report.name_of(tmp_path, own, asked, "test", {}))
