"""tf.data: the input pipeline of TensorFlow's ImageNet examples, which decodes only what the crop needs."""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import tensorflow as tf
from protocol import LeftOut, Work, batches_of, serve


def view(path: Any, image_size: int) -> Any:
    """A random crop of 8 to 100 % of the area, resized, mirrored with probability 1/2, uint8."""
    encoded = tf.io.read_file(path)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(encoded),
        bounding_boxes=tf.zeros([1, 0, 4]),
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    (y, x, _), (height, width, _) = tf.unstack(begin), tf.unstack(size)
    image = tf.image.decode_and_crop_jpeg(encoded, tf.stack([y, x, height, width]), channels=3)
    image = tf.image.random_flip_left_right(image)
    return tf.cast(tf.image.resize(image, [image_size, image_size]), tf.uint8)


def prepare(task: dict[str, Any]) -> Work:
    """A stream of batches."""
    if task["recipe"] != "plain":
        raise LeftOut("TensorFlow has no RandAugment")
    files = sorted(str(p) for p in Path(task["data"]).rglob("*.jp*g"))
    dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    dataset = dataset.map(lambda path: view(path, task["image_size"]), tf.data.AUTOTUNE, deterministic=False)
    stream = dataset.batch(task["batch"], drop_remainder=True).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
    return batches_of(stream, {"versions": {"tensorflow": tf.__version__}})


if __name__ == "__main__":
    serve(prepare)
