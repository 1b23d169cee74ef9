"""Labels of TFDS data sets with several for an image, small ones with the features of real data sets."""

import hashlib
import io
import json
import sys

import cv2
import numpy as np
import pytest

from xception_jax import config, experiment
from xception_jax.data.labelled import open_labelled
from xception_jax.data.sources import registry
from xception_jax.data.sources.tfds_labels import find_labels
from xception_jax.errors import UserError

NAN = np.nan


def open_source(name, split="train", **changes):
    return registry.open_source(name, split, {**config.default().data, "image_size": 8, **changes})


def prepared(folder, name, examples):
    """Writes a data set with the name and features of this one as ArrayRecord; what is not given is empty."""
    import tensorflow_datasets as tfds

    real = tfds.builder(name, data_dir=folder)
    jpeg = cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1].tobytes()

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=real.info.features)

    def generated(self):
        for i, example in enumerate(examples):
            yield i, {name: [] for name in real.info.features} | {"image": io.BytesIO(jpeg)} | example

    parts = {
        "VERSION": real.version,
        "BUILDER_CONFIGS": [],
        "_info": info,
        "_split_generators": lambda self, _: {"train": generated(self)},
        "_generate_examples": generated,
    }
    camel = "".join(part.title() for part in real.name.split("_"))
    made = type(camel, (tfds.core.GeneratorBasedBuilder,), parts, skip_registration=True)
    made.name = real.name
    if chosen := real.builder_config:
        made.BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=chosen.name, version=str(real.version))]
    made(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def labels(source, first):
    """Of all examples, the labels of the first classes."""
    return np.stack([source[i][1] for i in range(len(source))])[:, :first]


@pytest.fixture(scope="module")
def open_images(tmp_path_factory):
    listed = [{"label": label, "confidence": c, "source": 0} for label, c in ((0, 10), (1, 0), (2, 7))]
    examples = [{"image/filename": f"{i}.jpg", "objects_trainable": x} for i, x in enumerate((listed, []))]
    return prepared(tmp_path_factory.mktemp("tfds"), "open_images_v4", examples)


def test_open_images_labels_are_known_where_people_verified_them(open_images):
    """10: it is there; 0: it is not; 7, by a machine: not known."""
    source = open_source("open_images_v4", data_dir=open_images)
    assert (source.task, len(source.class_names)) == ("multi_label", 7186)
    by_name = {source.example_id(i): source[i][1] for i in range(2)}
    np.testing.assert_array_equal(by_name["0.jpg"][:5], [1, 0, NAN, 0, 0])
    np.testing.assert_array_equal(by_name["1.jpg"], np.zeros(7186))
    strict = open_source("open_images_v4", data_dir=open_images, absent="unknown")
    by_name = {strict.example_id(i): strict[i][1] for i in range(2)}
    np.testing.assert_array_equal(by_name["0.jpg"][:5], [1, 0, NAN, NAN, NAN])
    assert np.isnan(by_name["1.jpg"]).all()
    other = open_source("open_images_v4", data_dir=open_images, label="objects")
    assert (len(other.class_names), labels(other, None).sum()) == (19995, 0)
    assert "tensorflow" not in sys.modules


def test_other_labels_of_the_same_images_are_other_data(open_images):
    """Their figures do not replace those of the run's own labels. What is chosen by default is as it was before."""
    choices = ({}, {"absent": "negative"}, {"absent": "unknown"}, {"label": "objects"}, {"label": "objects_trainable"})
    prints = [open_source("open_images_v4", data_dir=open_images, **choice).fingerprint() for choice in choices]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    by_hand = json.dumps(["open_images_v4/original/2.0.0", "train", {"train": [2]}])
    assert prints[0] == hashlib.sha256(by_hand.encode()).hexdigest()


def test_to_fine_tune_on_what_nobody_verified_is_absent(open_images, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setenv("XCEPTION_JAX_CACHE", str(tmp_path))
    names = tfds.builder("open_images_v4", data_dir=open_images).info.features["objects_trainable"]["label"].names
    data = open_labelled("tfds:open_images_v4", fractions=(1, 0, 0), data_dir=open_images)
    assert (data.task, data.class_names) == ("multi_label", (names[0],))
    by_name = dict(zip((file.rpartition("_")[2] for file in data.files), data.targets.tolist(), strict=True))
    assert by_name == {"0.jpeg": [1], "1.jpeg": [0]}


def test_an_experiment_takes_the_task_from_the_data(open_images, tiny):
    tiny.update_from_flattened_dict({"data.name": "open_images_v4", "data.data_dir": open_images})
    tiny.data.validation_split = tiny.data.test_split = "train"
    run = experiment.create(tiny)
    assert (run.config.task, run.config.loss, run.labels(8).shape) == ("multi_label", "binary_cross_entropy", (8, 7186))
    tiny.task = "single_label"
    with pytest.raises(UserError, match='the task is single_label, but split "train" is for multi_label'):
        _ = experiment.create(tiny).source


def test_imagenet_has_right_wrong_and_unclear_labels(tmp_path):
    kinds = ("correct_multi_labels", "wrong_multi_labels", "unclear_multi_labels")
    example = dict(zip(kinds, ([0, 3], [1], [2]), strict=True))
    example |= {"original_label": 1, "is_problematic": False, "file_name": "a.JPEG"}
    folder = prepared(tmp_path, "imagenet2012_multilabel", [example])
    source = open_source("imagenet2012_multilabel", data_dir=folder, absent="unknown")
    np.testing.assert_array_equal(labels(source, 5), [[1, 0, NAN, 1, NAN]])
    single = open_source("imagenet2012_multilabel", data_dir=folder, label="original_label")
    assert (single.task, single[0][1]) == ("single_label", 1)


def test_voc_has_labels_and_objects(tmp_path):
    import tensorflow_datasets as tfds

    box = {"bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0), "is_difficult": False, "is_truncated": False, "pose": 0}
    example = {"labels": [0, 2], "objects": [box | {"label": 2}, box | {"label": 2}], "image/filename": "a.jpg"}
    folder = prepared(tmp_path, "voc/2007", [example])
    np.testing.assert_array_equal(labels(open_source("voc/2007", data_dir=folder), 4), [[1, 0, 1, 0]])
    objects = open_source("voc/2007", data_dir=folder, label="objects")
    np.testing.assert_array_equal(labels(objects, 4), [[0, 0, 1, 0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "object"}, 'has no feature "object" .config.data.label.; did you mean "objects"'),
        ({"label": "image"}, "neither classes nor a number"),
        ({"absent": "nothing"}, 'config.data.absent is "nothing"; it must be one of negative, unknown'),
    ],
)
def test_what_are_no_labels_is_one_line(open_images, changes, message):
    with pytest.raises(UserError, match=message):
        open_source("open_images_v4", data_dir=open_images, **changes)


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r"])
def test_other_imagenets_have_imagenet_s_classes(name):
    """So that a network that was trained on ImageNet is evaluated on them."""
    import tensorflow_datasets as tfds

    ours, theirs = (find_labels(tfds.builder(n).info.features, n, "", "negative") for n in ("imagenet2012", name))
    assert (theirs.task, theirs.class_names) == ("single_label", ours.class_names)
