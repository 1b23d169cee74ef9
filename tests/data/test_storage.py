"""Storage that fails: for a moment, for good, or for one file."""

import errno

import numpy as np
import pytest

from xception_jax.data import UnreadableImages, evaluation_batches, pipeline, train_batch
from xception_jax.data.augmentation import Augmentation
from xception_jax.data.duplicates import shared_files
from xception_jax.data.sources.image_files import ImageFiles
from xception_jax.data.storage import WAITS, Patience
from xception_jax.errors import StorageError, UserError
from xception_jax.inputs.spec import InputSpec

SPEC = InputSpec(image_size=4)


class Storage:
    """Reads that fail some times."""

    def __init__(self, failures, number):
        self.failures, self.number = failures, number

    def __call__(self):
        if self.failures:
            self.failures -= 1
            raise OSError(self.number, "said so")
        return "contents"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE])
def test_what_passes_is_waited_for(number):
    slept = []
    patience = Patience(sleep=slept.append)
    assert patience(Storage(3, number), lambda: "x") == "contents"
    assert slept == list(WAITS[:3])
    with pytest.raises(StorageError, match=r"x cannot be read \(said so\), nor after 6 more tries"):
        patience(Storage(99, number), lambda: "x")
    assert slept == [*WAITS[:3], *WAITS]
    with pytest.raises(StorageError):  # it is known to be away: the next file is not waited for
        patience(Storage(1, number), lambda: "y")
    assert slept == [*WAITS[:3], *WAITS]
    assert patience(Storage(0, number), lambda: "y") == "contents"  # it is back
    assert patience(Storage(1, number), lambda: "x") == "contents"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ELOOP])
def test_what_stays_is_not_waited_for(number):
    with pytest.raises(UserError, match="x cannot be read: said so"):
        Patience(sleep=pytest.fail)(Storage(1, number), lambda: "x")


class Flaky:
    """Images whose every pixel is their position; one of them cannot be read at first."""

    class_names = ("even", "odd")

    def __init__(self, index=None, failures=1):
        self.index, self.failures = index, failures

    def __len__(self):
        return 20

    def __getitem__(self, index):
        if index == self.index and self.failures:
            self.failures -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return np.full((6, 5, 3), index, np.uint8), index % 2

    def example_id(self, index):
        return f"image {index}"


def training(source, broken):
    return train_batch(source, SPEC, Augmentation(), batch_size=8, seed=0, step=0, broken=broken)


def test_an_error_that_passes_changes_no_batch():
    broken, right = UnreadableImages(), training(Flaky(), UnreadableImages())
    got = training(Flaky(int(right["index"][3])), broken)
    np.testing.assert_array_equal(got["image"], right["image"])
    np.testing.assert_array_equal(got["index"], right["index"])
    batches = evaluation_batches(Flaky(2), SPEC, batch_size=8, broken=broken)
    assert sum(int(batch["mask"].sum()) for batch in batches) == 20
    assert broken.names == set()


def test_an_error_that_does_not_pass_is_no_unreadable_image(monkeypatch):
    monkeypatch.setattr(pipeline, "Patience", lambda: Patience(waits=()))
    broken = UnreadableImages()
    with pytest.raises(StorageError, match="image 2 cannot be read"):
        list(evaluation_batches(Flaky(2, 99), SPEC, batch_size=8, broken=broken))
    assert broken.names == set()


def test_predictions_of_the_other_images_are_made(tmp_path):
    """A file that is gone is reported as one that cannot be read."""
    there = tmp_path / "a.bmp"
    there.write_bytes(
        b"BM:\0\0\0\0\0\0\x006\0\0\0(\0\0\0\1\0\0\0\1\0\0\0\1\0\x18\0\0\0\0\0\4\0\0\0" + bytes(16) + b"\1\2\3\0"
    )
    broken = UnreadableImages()
    source = ImageFiles([there, tmp_path / "gone.bmp"])
    (batch,) = evaluation_batches(source, SPEC, batch_size=2, broken=broken)
    assert list(batch["mask"]) == [True, False]
    assert broken.names == {str(tmp_path / "gone.bmp")}


def test_images_in_two_splits_are_found_by_their_bytes(tmp_path):
    contents = {"train/a": b"one", "train/b": b"two", "train/c": b"three", "test/x": b"owt", "test/y": b"two"}
    contents |= {"test/z": b"as long as none"}
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    train, test = (sorted((tmp_path / split).iterdir()) for split in ("train", "test"))
    seen = []
    assert shared_files(train, test, seen.append) == {tmp_path / "test" / "y": tmp_path / "train" / "b"}
    assert seen == test
