"""The card of a fine-tuned model, as the hub and people read it."""

import pytest

from xception_jax.finetuning.model_card import text
from xception_jax.models.variables import Weights
from xception_jax.pretrained import Pretrained


def card(task, names, licence="", **changes):
    figure = {"value": 13968.9371, "interval": [12001.25, 15500.5]}
    record = {
        "weights": "/home/me/files/legacy.safetensors",
        "task": task,
        "class_names": names,
        "temperature": 1,
        "images": {"train": 1200, "test": 40},
        "unreadable": {},
        "splits": {"test": {"count": 40, "figures": {"mae": figure}}},
    }
    return text(Pretrained("x", "xception", {}, 1, Weights({}, {}), licence=licence), record | changes, [])


def test_numbers_are_no_classes():
    """The hub has no tag for numbers of images."""
    found = card("regression", ["price"])
    assert "Trained from legacy.safetensors, for regression of price." in found
    assert "pipeline_tag" not in found
    assert "| mae | 13,969 | 12,001 to 15,500 |" in found
    assert "pipeline_tag: image-classification" in card("multi_label", ["a", "b"])
    assert "for multi label of 1 class: a." in card("multi_label", ["a"])


@pytest.mark.parametrize(("licence", "tag"), [("apache-2.0", "apache-2.0"), ("CC BY 4.0: by me", "other")])
def test_the_licence_is_one_that_the_hub_reads(licence, tag):
    found = card("single_label", ["a", "b"], licence)
    assert f"\nlicense: {tag}\n---" in found
    assert f"Licence of the weights that it began with: {licence}." in found


def test_unreadable_images_are_counted():
    assert "Images: 1,200 train, 40 test (2 could not be read)." in card("single_label", ["a"], unreadable=["x", "y"])
    assert "could not be read" not in card("single_label", ["a"])
