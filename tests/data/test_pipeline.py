"""Batches: pure functions of seed and step in training, every example once in evaluation."""

import itertools
import os
import tempfile
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xception_jax.data import UnreadableImages, evaluation_batches, open_source, pipeline, train_batch, train_batches
from xception_jax.data.augmentation import Augmentation
from xception_jax.errors import UserError
from xception_jax.inputs.spec import InputSpec

GOLDEN = Path(__file__).parent / "batch.npz"


class Numbers:
    """Pictures whose every pixel is their position."""

    class_names = ("even", "odd")

    def __init__(self, length: int, broken: tuple[int, ...] = ()):
        self._length, self._broken = length, broken

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int):
        if index in self._broken:
            return b"\xff\xd8 no picture", index % 2
        return np.full((6, 5, 3), index, np.uint8), index % 2

    def example_id(self, index: int) -> str:
        return f"number {index}"


SPEC = InputSpec(image_size=4)


def training(source, steps, *, start=0, seed=3, batch_size=8, process=(0, 1), augmentation=None, broken=None):
    batches = train_batches(
        source,
        SPEC,
        augmentation or Augmentation(),
        batch_size=batch_size,
        seed=seed,
        start_step=start,
        broken=broken or UnreadableImages(),
        threads=2,
        process_index=process[0],
        process_count=process[1],
    )
    return list(itertools.islice(batches, steps))


def evaluated(source, batch_size, process=(0, 1), broken=None):
    return list(
        evaluation_batches(
            source,
            SPEC,
            batch_size=batch_size,
            broken=broken or UnreadableImages(),
            threads=2,
            process_index=process[0],
            process_count=process[1],
        )
    )


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_batch_is_a_function_of_seed_and_step():
    source = open_source("digits", "train", {})
    from_start = training(source, 9)
    from_seven = training(source, 2, start=7)
    alone = train_batch(source, SPEC, Augmentation(), batch_size=8, seed=3, step=8, broken=UnreadableImages())
    assert_equal(from_start[7], from_seven[0])
    assert_equal(from_start[8], from_seven[1])
    assert_equal(from_start[8], alone)
    assert not np.array_equal(from_start[0]["index"], training(source, 1, seed=4)[0]["index"])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_make_the_same_batch(processes):
    source = open_source("digits", "train", {})
    whole = training(source, 3, start=2)
    parts = [training(source, 3, start=2, process=(i, processes)) for i in range(processes)]
    for step in range(3):
        joined = {k: np.concatenate([part[step][k] for part in parts]) for k in whole[step]}
        assert_equal(joined, whole[step])


def test_epochs_are_permutations_and_differ():
    """20 examples in batches of 8: five batches are two epochs, and the third crosses from one to the other."""
    order = np.concatenate([b["index"] for b in training(Numbers(20), 5)])
    assert sorted(order[:20]) == sorted(order[20:]) == list(range(20))
    assert list(order[:20]) != list(order[20:])


def test_examples_are_drawn_in_proportion_to_their_weights():
    """Ten epochs of 20 examples of weights 0 to 4: each epoch has 20 w / 40 of an example, rounded down or up."""
    source = Numbers(20)
    source.weights = np.arange(20, dtype=np.float32) % 5
    order = np.concatenate([b["index"] for b in training(source, 25)]).reshape(10, 20)
    counts = np.stack([np.bincount(epoch, minlength=20) for epoch in order])
    expected = source.weights / 2
    assert (np.floor(expected) <= counts).all()
    assert (counts <= np.ceil(expected)).all()
    odd = counts[:, source.weights == 1].mean()
    assert 0.2 < odd < 0.8  # half of the epochs have it
    assert list(order[0]) != sorted(order[0])


def test_repeated_examples_are_in_other_views_and_not_neighbours():
    """Three views of four examples a batch: five batches are an epoch of 20."""
    augmentation = Augmentation(repeats=3, augment=(lambda view, rng: view + np.uint8(rng.integers(1, 99)),))
    batches = training(Numbers(20), 7, batch_size=12, augmentation=augmentation)
    for batch in batches:
        index = batch["index"].reshape(3, 4)
        assert (index == index[0]).all()
        assert len(set(index[0])) == 4
        assert (batch["label"] == batch["index"] % 2).all()
    assert sorted(np.concatenate([b["index"][:4] for b in batches[:5]])) == list(range(20))
    uneven = training(Numbers(20), 1, batch_size=10, augmentation=augmentation)[0]["index"]
    assert (len(set(uneven)), uneven[:4].tolist()) == (4, uneven[4:8].tolist())
    views = np.stack([b["image"].reshape(3, 4, -1) for b in batches])
    assert np.mean(views[:, 0] != views[:, 1]) > 0.9
    alone = training(Numbers(20), 1, start=6, batch_size=12, augmentation=augmentation, process=(1, 2))
    assert_equal(alone[0], {k: v[6:] for k, v in batches[6].items()})


def golden_batch(folder):
    """The third batch from seed 3 of a folder of lossless pictures: crops, mirrored by halves."""
    y, x = np.mgrid[:20, :28]
    for i, name in enumerate(f"{c}/{i}" for c in ("cat", "dog") for i in range(5)):
        path = folder / "train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.stack([9 * x, 12 * y, 25 * i + 0 * x], -1).astype(np.uint8))
    source = open_source("folder", "train", {"path": str(folder), "train_split": "train"})
    spec = InputSpec(image_size=8)
    return train_batch(source, spec, Augmentation(), batch_size=4, seed=3, step=2, broken=UnreadableImages())


def test_batch_is_the_recorded_one(tmp_path):
    """The order, each picture's crop and its mirroring: that a run goes on with them is a promise to runs of last year.

    OpenCV's versions may round a pixel otherwise; another crop is another picture. Refresh with
    `python -m tests.data.test_pipeline`, and say in the commit why it changed.
    """
    batch = golden_batch(tmp_path)
    with np.load(GOLDEN) as golden:
        np.testing.assert_array_equal(batch["index"], golden["index"])
        np.testing.assert_array_equal(batch["label"], golden["label"])
        np.testing.assert_allclose(batch["image"].astype(int), golden["image"].astype(int), atol=2)
        assert len({picture.tobytes() for picture in golden["image"]}) == 4


def test_images_and_labels_belong_to_their_index():
    for batch in training(Numbers(20), 3):
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
        np.testing.assert_array_equal(batch["label"], batch["index"] % 2)
        assert batch["image"].shape == (8, 4, 4, 3)
        assert batch["image"].dtype == np.uint8


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 23), st.sampled_from([4, 8, 12]), st.sampled_from([1, 2, 4]))
def test_evaluation_sees_every_example_once(length, batch_size, processes):
    parts = [evaluated(Numbers(length), batch_size, (i, processes)) for i in range(processes)]
    assert len({len(part) for part in parts}) == 1, "every process must take part in every step"
    seen = [int(i) for part in parts for b in part for i in b["index"][b["mask"]]]
    assert sorted(seen) == list(range(length))


def test_unreadable_image_is_replaced_and_named():
    broken = UnreadableImages()
    batches = training(Numbers(20, broken=(3, 4)), 5, broken=broken)
    order = np.concatenate([b["index"] for b in batches])
    assert broken.names == {"number 3", "number 4"}
    assert not {3, 4} & set(order)
    assert (order == 5).sum() == 6  # its own two times, and for 3 and 4 in two epochs


def test_unreadable_image_is_masked_in_evaluation():
    broken = UnreadableImages()
    batches = evaluated(Numbers(10, broken=(3,)), 4, broken=broken)
    kept = np.concatenate([b["index"][b["mask"]] for b in batches])
    assert list(kept) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert broken.names == {"number 3"}


@pytest.mark.parametrize("most", [0, 2])
def test_one_unreadable_image_too_many_ends_the_run(most):
    source = Numbers(20, broken=tuple(range(most + 1)))
    with pytest.raises(UserError, match=rf"image number \d .*With {most} others, .*config.data.max_unreadable"):
        training(source, 5, broken=UnreadableImages(most))
    training(source, 5, broken=UnreadableImages(most + 1))


def test_nothing_but_unreadable_images_ends_the_run():
    with pytest.raises(UserError, match="none of the 20 images can be read"):
        training(Numbers(20, broken=tuple(range(20))), 1)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((6, 5, 3), np.float32), r"float32 \[6, 5, 3\]"),
        (np.zeros((6, 5), np.uint8), r"uint8 \[6, 5\]"),
        (np.zeros((6, 5, 1), np.uint8), r"uint8 \[6, 5, 1\]"),
        ("0.png", "a str"),
    ],
)
@pytest.mark.parametrize("batches", [lambda source: training(source, 1), lambda source: evaluated(source, 4)])
def test_pixels_of_another_kind_are_refused(image, found, batches):
    """Values from 0 to 1, for one, would be trained on as nearly black pictures."""
    source = Numbers(20)
    source.__class__ = type("Own", (Numbers,), {"__getitem__": lambda self, index: (image, 0)})
    with pytest.raises(UserError, match=f"the data set gives {found} for an image; it must give the bytes"):
        batches(source)


def test_truncated_jpeg_in_a_folder(tmp_path):
    """A real file, cut in the middle of its header."""
    for split, name in itertools.product(("train", "test"), ("cat", "dog")):
        (tmp_path / split / name).mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(tmp_path / split / name / f"{i}.jpg"), np.full((20, 30, 3), 50 * i, np.uint8))
    victim = tmp_path / "test" / "cat" / "1.jpg"
    victim.write_bytes(victim.read_bytes()[:100])
    source = open_source("folder", "test", {"path": str(tmp_path), "train_split": "train"})
    broken = UnreadableImages()
    batches = evaluated(source, 4, broken=broken)
    assert broken.names == {"test/cat/1.jpg"}
    assert list(batches[0]["mask"]) == [True, False, True, True]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        np.savez_compressed(GOLDEN, **golden_batch(Path(temporary)))


class Asked(Numbers):
    """Counts how many images it was asked for."""

    asked = 0

    def __getitem__(self, index: int):
        self.asked += 1  # a thread may miss another's: the count is at most what was asked for
        return super().__getitem__(index % 256)


@pytest.mark.parametrize(("limit", "most"), [(2**30, 2 * (32 + 192) + 4 * 32), (64 * 4 * 4 * 3, 64 + 4 * 32)])
def test_reading_ahead_is_bounded(monkeypatch, limit, most):
    """On 192 cores: some batches, not two for each core; and no more examples than memory is meant for them."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(192)), raising=False)
    monkeypatch.setattr(pipeline, "READ_AHEAD_BYTES", limit)
    source = Asked(100_000)
    stream = train_batches(source, SPEC, Augmentation(), batch_size=32, seed=0, start_step=0, broken=UnreadableImages())
    next(stream)
    asked = -1
    while asked != source.asked:  # until the threads have nothing more to do
        asked = source.asked
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(0.05)
    assert 32 <= asked <= most


def test_threads_follow_the_affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    assert pipeline.cores() == 3
