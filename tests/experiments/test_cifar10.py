"""CIFAR-10's binary version, made of PNG files that another library wrote."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.cifar10 import data
from experiments.cifar10.config import VARIANTS, get_config
from xception_jax.config import validate
from xception_jax.errors import UserError

ROWS = 3  # pictures in each file


@pytest.fixture
def small_files(tmp_path, monkeypatch):
    """The npm package with three pictures in each file: its folder, the pictures and their labels."""
    monkeypatch.setattr(data, "PER_FILE", ROWS)
    monkeypatch.setattr(data, "SPLITS", {"train": (0, 12), "validation": (12, 15), "test": (15, 18)})
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (18, 32, 32, 3), np.uint8), rng.integers(0, 10, 18)
    for name, of_file in zip(data.FILES, np.split(pictures, 6), strict=True):
        Image.fromarray(of_file.reshape(ROWS, 1024, 3)).save(tmp_path / f"{name}.png")
    (tmp_path / "train_lables.json").write_text(json.dumps(labels[:15].tolist()))
    (tmp_path / "test_lables.json").write_text(json.dumps(labels[15:].tolist()))
    return tmp_path, pictures, labels


def test_pictures_labels_and_splits_come_through(small_files):
    folder, pictures, labels = small_files
    data.write_binary(folder, folder)
    first = (folder / "data_batch_1.bin").read_bytes()  # as the data set's page describes it
    assert first[0] == labels[0]
    assert first[1 : 1 + 1024] == pictures[0, :, :, 0].tobytes()  # the red pixels come first
    for split, (begin, end) in data.SPLITS.items():
        source = data.open_split(split, path=str(folder))
        assert len(source) == end - begin
        for i in range(len(source)):
            image, label = source[i]
            np.testing.assert_array_equal(image, pictures[begin + i])
            assert label == labels[begin + i]
    assert data.open_split("test", path=str(folder)).example_id(2) == "test_batch/2"


def test_what_is_wrong_with_the_files_is_said(small_files):
    folder, *_ = small_files
    with pytest.raises(UserError, match=r"data_batch_1.bin does not exist; set --config.data.path"):
        data.open_split("train", path=str(folder))
    data.write_binary(folder, folder)
    with pytest.raises(UserError, match='no split "tset" here; did you mean "test"'):
        data.open_split("tset", path=str(folder))
    (folder / "test_batch.bin").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"test_batch\.bin has 7 bytes"):
        data.open_split("test", path=str(folder))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_valid_config(variant):
    validate(get_config(variant))


def test_an_unknown_variant_is_named():
    with pytest.raises(UserError, match='no variant "no_residuals"; did you mean "no_residual"'):
        get_config("no_residuals")
