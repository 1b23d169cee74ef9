"""Data sets by name."""

import collections
import io
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from xception_jax import config, experiment
from xception_jax.data.decode import decode
from xception_jax.data.sources import registry
from xception_jax.data.sources.relabelled import Relabelled
from xception_jax.errors import UserError
from xception_jax.evaluation.evaluator import Evaluator
from xception_jax.tasks.task import TASKS, task_of


def open_source(name, split, size=8, **changes):
    return registry.open_source(name, split, {**config.default().data, "image_size": size, **changes})


def jpeg(value: int, shape: tuple[int, int] = (40, 50)) -> bytes:
    return cv2.imencode(".jpg", np.full((*shape, 3), value, np.uint8))[1].tobytes()


def make_folder(root, classes=("cat", "dog"), splits=("train", "validation", "test"), suffix=".jpg"):
    for split in splits:
        for c, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(c + 1):
                (folder / f"{i}{suffix}").write_bytes(jpeg(100 * c + i))
            (folder / ".hidden.jpg").write_bytes(b"")
            (folder / "notes.txt").write_text("no picture")


def test_folder_has_sorted_classes_and_named_examples(tmp_path):
    make_folder(tmp_path, classes=("b dog", "a cat"), suffix=".JPG")
    source = open_source("folder", "test", path=str(tmp_path))
    assert source.class_names == ("a cat", "b dog")
    assert [(source.example_id(i), source[i][1]) for i in range(len(source))] == [
        ("test/a cat/0.JPG", 0),
        ("test/a cat/1.JPG", 0),
        ("test/b dog/0.JPG", 1),
    ]
    assert decode(source[2][0]).shape == (40, 50, 3)


def test_folder_finds_val_for_validation(tmp_path):
    make_folder(tmp_path, splits=("train", "val"))
    source = open_source("folder", "validation", path=str(tmp_path))
    assert source.example_id(0) == "val/cat/0.jpg"


def test_label_is_the_training_split_s(tmp_path):
    """A class that a split lacks does not move the others."""
    make_folder(tmp_path, classes=("a", "b", "c"), splits=("train",))
    make_folder(tmp_path, classes=("b", "c"), splits=("test",))
    source = open_source("folder", "test", path=str(tmp_path))
    assert [source[i][1] for i in range(len(source))] == [1, 2, 2]


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda root: None, "there is no folder"),
        (lambda root: make_folder(root, splits=("test",)), 'has no folder "train" \\(it contains: test\\)'),
        (lambda root: [(root / "train" / c).mkdir(parents=True) for c in "ab"], "no class folders with pictures"),
    ],
)
def test_folder_says_what_is_missing(tmp_path, arrange, message):
    root = tmp_path / "data"
    arrange(root)
    with pytest.raises(UserError, match=message):
        open_source("folder", "train", path=str(root))


def test_class_unknown_to_training_is_refused(tmp_path):
    make_folder(tmp_path, splits=("train",))
    make_folder(tmp_path, classes=("cat", "zebra"), splits=("test",))
    with pytest.raises(UserError, match="zebra"):
        open_source("folder", "test", path=str(tmp_path))


def test_digits_splits_share_nothing_and_leave_nothing_out():
    splits = [open_source("digits", s) for s in ("train", "validation", "test")]
    assert [len(s) for s in splits] == [1257, 180, 360]
    names = [s.example_id(i) for s in splits for i in range(len(s))]
    assert sorted(names) == sorted(f"digits/{i}" for i in range(1797))
    table = load_digits()
    for source in splits:
        picture, label = source[5]
        row = int(source.example_id(5).split("/")[1])
        assert label == table.target[row]
        np.testing.assert_allclose(picture[..., 1], table.images[row] * 255 / 16, atol=0.51)


def test_fingerprint_of_a_folder_is_of_its_files_wherever_they_are(tmp_path):
    """Also of names that are not UTF-8; another file makes another one."""
    prints = []
    for root in (tmp_path / "here", tmp_path / "there" / "deeper"):
        make_folder(root)
        odd = os.fsencode(root / "train" / "cat") + b"/\xff.jpg"
        Path(os.fsdecode(odd)).write_bytes(jpeg(1))
        prints.append(open_source("folder", "train", path=str(root)).fingerprint())
    assert prints[0] == prints[1]
    (root / "train" / "cat" / "new.jpg").write_bytes(jpeg(2))
    assert open_source("folder", "train", path=str(root)).fingerprint() != prints[0]


def test_synthetic_images_are_functions_of_their_position():
    data = {"num_examples": 5, "num_classes": 3, "size": 16}
    a, b = (open_source("synthetic", "train", **data) for _ in range(2))
    np.testing.assert_array_equal(a[4][0], b[4][0])
    assert a[4][0].shape == (16, 16, 3)
    assert not np.array_equal(a[4][0], a[3][0])
    assert not np.array_equal(a[4][0], open_source("synthetic", "test", **data)[4][0])


@pytest.mark.parametrize("name", TASKS)
def test_synthetic_labels_are_of_the_task(name):
    source = open_source("synthetic", "train", num_examples=20, num_classes=4, task=name)
    assert task_of(source).name == name
    labels = np.stack([np.asarray(Relabelled(source, source.class_names, "train")[i][1]) for i in range(20)])
    assert labels.shape == (20, *TASKS[name].shape(4))
    assert len(np.unique(labels, axis=0)) > 3


@pytest.fixture
def imagenet(tmp_path):
    """A small data set with imagenet2012's name and features, prepared as ArrayRecord without TensorFlow."""
    import tensorflow_datasets as tfds

    version = str(tfds.builder("imagenet2012", data_dir=tmp_path).version)

    class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=1000),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(6), "validation": self._generate_examples(3)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": io.BytesIO(jpeg(10 * i)), "label": 100 + i, "file_name": f"n{i}.JPEG"}

    builder = Imagenet2012(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    return tmp_path


def test_imagenet_is_read_without_tensorflow(imagenet):
    source = open_source("imagenet2012", "train", data_dir=str(imagenet))
    assert "tensorflow" not in sys.modules
    assert len(source) == 6
    assert len(source.class_names) == 1000
    found = {}
    for i in range(6):
        encoded, label = source[i]
        found[source.example_id(i)] = label
        assert decode(encoded).mean() == pytest.approx(10 * (label - 100), abs=1)
    assert found == {f"n{i}.JPEG": 100 + i for i in range(6)}


class Counted:
    """Records, and how often each was read."""

    def __init__(self, records):
        self.records, self.reads = records, collections.Counter()

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.records[index]


def test_one_class_is_not_enough_to_train(tiny, tmp_path):
    make_folder(tmp_path / "data", classes=("one",))
    tiny.update_from_flattened_dict({"data.name": "folder", "data.path": str(tmp_path / "data")})
    with pytest.raises(UserError, match=r"has 1 classes \(one\), but at least 2 are needed"):
        experiment.create(tiny)


def test_an_evaluation_reads_each_record_once(imagenet, tiny):
    """Although the names of its pictures, which the predictions are listed by, are in the records."""
    tiny.update_from_flattened_dict({"data.name": "imagenet2012", "data.data_dir": str(imagenet)})

    def step(weights, batch):
        zeros = np.zeros(len(batch["label"]), np.float32)
        others = {name: column for name, column in batch.items() if name != "image"}
        return others | {"top5": np.zeros((len(zeros), 5), np.int32), "confidence": zeros, "loss": zeros}

    run = experiment.create(tiny)
    assert not run.input.decoding.orientation  # pixels as published
    evaluator = Evaluator(run, "validation", step)
    source = evaluator.source._source  # in which labels are those of the run
    records = source._records = Counted(source._records)
    predictions, seen = evaluator.predict(weights=None)
    found = dict(zip(predictions.ids, predictions.labels.tolist(), strict=True))
    assert (found, seen.unreadable) == ({f"n{i}.JPEG": 100 + i for i in range(3)}, {})
    assert records.reads == {0: 1, 1: 1, 2: 1}


def test_unknown_split_names_those_there_are(imagenet):
    with pytest.raises(UserError, match='no split "validaton"; did you mean "validation"'):
        open_source("imagenet2012", "validaton", data_dir=str(imagenet))


def test_unprepared_data_set_says_how_to_prepare_it(tmp_path):
    with pytest.raises(UserError) as error:
        open_source("cifar10", "train", data_dir=str(tmp_path))
    assert f"build cifar10 --file_format=array_record --data_dir={tmp_path}" in str(error.value)


def test_fingerprint_reads_no_image(imagenet):
    """Of 1.3 million, whenever a run starts."""
    train, again, other = (
        open_source("imagenet2012", s, data_dir=str(imagenet)) for s in ("train", "train", "train[:1]")
    )
    for source in (train, again, other):
        source._records = None
    assert train.fingerprint() == again.fingerprint() != other.fingerprint()


def test_other_formats_are_converted_in_place(imagenet):
    """`tfds convert_format` leaves the first format's name in the data set's description, and adds its own files."""
    data = {"data_dir": str(imagenet)}
    (description,) = imagenet.rglob("dataset_info.json")
    description.write_text(description.read_text().replace('"array_record"', '"tfrecord"'))
    assert len(open_source("imagenet2012", "train", **data)[0][0]) > 0
    for shard in description.parent.glob("*.array_record*"):
        shard.unlink()
    with pytest.raises(UserError, match=f"convert_format --dataset_version_dir={description.parent} "):
        open_source("imagenet2012", "train", **data)
