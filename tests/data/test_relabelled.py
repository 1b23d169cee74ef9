"""Whose labels a split has, and what is no label."""

import numpy as np
import pytest

from xception_jax.data.sources.relabelled import Relabelled
from xception_jax.errors import UserError


class Split:
    """Examples whose only pixel is their label as the data set counts it."""

    def __init__(self, class_names, labels):
        self.class_names, self.labels = class_names, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return np.full((1, 1, 3), max(0, self.labels[index]), np.uint8), self.labels[index]

    def example_id(self, index):
        return f"picture {index}"

    def fingerprint(self):
        return "mine"


def test_classes_are_matched_by_name():
    """The data set lacks a class, and counts the others in another order."""
    split = Relabelled(Split(("dog", "ant"), [0, 1, 0]), ("ant", "bee", "cat", "dog"), "test")
    assert [label for _, label in (split[i] for i in range(3))] == [3, 0, 3]
    assert split.class_names == ("ant", "bee", "cat", "dog")
    assert (len(split), split.example_id(1), split.fingerprint()) == (3, "picture 1", "mine")
    assert not hasattr(split, "files")


@pytest.mark.parametrize(
    ("theirs", "ours", "unknown"),
    [
        (("apple", "cat"), ("cat", "dog"), "apple; the run has cat, dog"),
        (("cat", "dog"), ("cat", "cat", "dog"), "cat; the run has cat, cat, dog"),  # which of the two?
        (tuple("abcdefg"), ("x", "y"), "a, b, c, d, e and 2 more; the run has x, y"),
    ],
)
def test_a_class_that_the_run_does_not_have_is_refused(theirs, ours, unknown):
    with pytest.raises(UserError, match=f'split "test" has classes that .* by name: {unknown}.*predict'):
        Relabelled(Split(theirs, [0, 1]), ours, "test")


@pytest.mark.parametrize("label", [-1, 2])
def test_what_is_no_label_is_found_when_the_split_is_opened_or_the_example_is_read(label):
    with pytest.raises(UserError, match=rf'picture 0 of split "test" has label {label}, but labels are 0 to 1'):
        Relabelled(Split(("a", "b"), [label] * 100), ("a", "b"), "test")
    one = Relabelled(Split(("a", "b"), [0, 1, label, 0, *[1] * 96]), ("a", "b"), "test")
    with pytest.raises(UserError, match=rf'picture 2 of split "test" has label {label}'):
        one[2]
