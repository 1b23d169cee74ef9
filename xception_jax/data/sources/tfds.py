"""TensorFlow Datasets without TensorFlow: data sets prepared as ArrayRecord, read as encoded images.

tensorflow_datasets is imported on first use, so that other data sets do not have to wait for it.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xception_jax.data.sources.tfds_labels import find_labels
from xception_jax.errors import UserError, needs, suggest
from xception_jax.extension.names import or_elsewhere

FILE_NAMES = ("file_name", "image/filename")
MANUAL = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}


class TfdsSource:
    """One split of a TFDS data set of labelled images.

    Args:
      name: TFDS name, with "/config" if there are several.
      data_dir: folder of the prepared data sets; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets.
      split: TFDS name of the split, including slices such as "train[:90%]".
      label, absent: as for `tfds_labels.find_labels`.

    Raises:
      UserError: unknown data set or split, or it is not prepared as ArrayRecord; the message contains the command.
    """

    def __init__(self, name: str, data_dir: str, split: str, label: str = "", absent: str = "negative"):
        builder = find_builder(name, data_dir)
        self._image = find_image(builder.info.features, name)
        self.task, self.class_names, self._label = find_labels(builder.info.features, name, label, absent)
        try:
            self._records = records(builder, split, self._image)
        except (ValueError, KeyError):
            splits = list(builder.info.splits)
            raise UserError(f'data set "{name}" has no split "{split}"; {suggest(split, splits)}') from None
        self._name = f"{name}/{split}"
        self._read = threading.local()
        shards = {name: list(info.shard_lengths) for name, info in builder.info.splits.items()}
        usual = {"label": "", "absent": "negative"}
        chosen = {key: value for key, value in (("label", label), ("absent", absent)) if value != usual[key]}
        self._identity = json.dumps([builder.info.full_name, split, shards, *([chosen] if chosen else [])])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[bytes, Any]:
        record = self._record(index)
        return record[self._image], self._label(record)

    def example_id(self, index: int) -> str:
        """The image's file name if the data set has one, otherwise its position."""
        last, name = getattr(self._read, "last", (None, ""))
        if last != index:
            self._record(index)
            _, name = self._read.last
        return name

    def _record(self, index: int) -> Any:
        """A record, whose name is kept until the thread reads another: to ask for it reads no image again."""
        record = self._records[index]
        self._read.last = index, name_of(record) or f"{self._name}/{index}"
        return record

    def fingerprint(self) -> str:
        """A hash of name, version, shards and chosen labels: to read the examples' names is to read all images."""
        return hashlib.sha256(self._identity.encode()).hexdigest()


def records(builder: Any, split: str, image: str) -> Any:
    """The records of a split, with random access and their images encoded."""
    import tensorflow_datasets as tfds

    return builder.as_data_source(split=split, decoders={image: tfds.decode.SkipDecoding()})


def name_of(record: Mapping[str, Any]) -> str:
    """The file name that a record has for its image; "" if it has none."""
    name = next((record[feature] for feature in FILE_NAMES if feature in record), b"")
    return name.decode() if isinstance(name, bytes) else str(name)


def find_builder(name: str, data_dir: str) -> Any:
    """The TFDS builder of a data set that is prepared as ArrayRecord."""
    with needs("tfds", f'data set "{name}" is not folder, digits or synthetic; any other'):
        import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except (tfds.core.registered.DatasetNotFoundError, ValueError):
        names = [*tfds.list_builders(with_community_datasets=False), "folder", "digits", "synthetic"]
        raise UserError(f'unknown data set "{name}"; {or_elsewhere(nearest(name, names))}') from None
    except ModuleNotFoundError:  # what prepares it needs TensorFlow
        try:
            builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir or None)
        except (tfds.core.registered.DatasetNotFoundError, ValueError):
            where = f" --data_dir={data_dir}" if data_dir else ""
            raise UserError(unprepared(name, Path(data_dir or tfds.core.constants.DATA_DIR), where)) from None
    folder = Path(builder.data_dir)
    where = f" --data_dir={data_dir}" if data_dir else ""
    if not folder.exists() or not builder.info.splits:
        raise UserError(unprepared(name, Path(builder.data_dir_root), where))
    if builder.info.file_format.value != "array_record":
        if not list(folder.glob("*.array_record*")):
            raise UserError(
                f'data set "{name}" in {folder} is prepared as {builder.info.file_format.value}, which has no random '
                "access; convert it: pip install 'xception-jax[tf]' && python -m tensorflow_datasets.scripts.cli.main "
                f"convert_format --dataset_version_dir={folder} --out_file_format=array_record"
            )
        # After a conversion in place, TFDS keeps reporting the old format until told to look again.
        builder.info.set_file_format("array_record", override=True, override_if_initialized=True)
    return builder


def nearest(name: str, names: list[str]) -> str:
    """A hint with the closest data set; all 1,400 names would be too many."""
    hint = suggest(name, names)
    return hint if hint.startswith("did") else "config.data.name takes a TFDS name, folder, digits or synthetic"


def unprepared(name: str, root: Path, where: str) -> str:
    """How to prepare a data set."""
    message = f'data set "{name}" is not prepared in {root}; prepare it: '
    folder = root / "downloads" / "manual"
    missing = [file for file in MANUAL.get(name.split("/")[0], ()) if not (folder / file).exists()]
    if missing:
        message += f"put {' and '.join(missing)} (from image-net.org) into {folder}, then run: "
    return message + (
        "pip install 'xception-jax[tf]' && python -m tensorflow_datasets.scripts.cli.main build "
        f"{name} --file_format=array_record{where}"
    )


def find_image(features: Any, name: str) -> str:
    """The name of the single image of a data set's examples."""
    import tensorflow_datasets as tfds

    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    if len(images) != 1:
        raise UserError(
            f'data set "{name}" is not for image classification: it has {len(images)} images per example, but exactly '
            "one is needed"
        )
    return images[0]
