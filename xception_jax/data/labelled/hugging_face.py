"""Hugging Face data sets of images as they are stored: Parquet files with the images in them."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from xception_jax.data.files import ENDINGS, walk
from xception_jax.data.labelled.columns import LISTED, SPLIT, USUAL, Columns
from xception_jax.data.labelled.folders import has_classes
from xception_jax.data.labelled.images import our_split, our_splits
from xception_jax.data.labelled.labels import Classes
from xception_jax.data.labelled.unpacking import Packed, Row, file_name
from xception_jax.errors import UserError, needs, reason, some
from xception_jax.filesystem import paths
from xception_jax.tasks.task import TaskName

PREFIX = "hf:"
NAME = re.compile(r"hf:(?P<repository>[\w.-]+(/[\w.-]+)?)(/(?P<folder>[\w./-]+))?(@(?P<revision>[\w./-]+))?")
ENDING = (".parquet", ".pq")
SHARD = re.compile(r"[-_.]\d+(-of-\d+)?(-\w+)?$")  # of a file's name, after its split's
CONVERTED = "refs/convert/parquet"  # the branch with the hub's own conversion
AT_ONCE = 32  # rows; a row group is read for them, and is not decoded as a whole


def download(name: str) -> Path:
    """The local folder of a data set on the Hugging Face hub, in the hub's own cache.

    Args:
      name: hf:OWNER/NAME[/FOLDER][@REVISION].

    Raises:
      UserError: there is no such data set, or it cannot be fetched.
    """
    if not (found := NAME.fullmatch(name)):
        raise UserError(
            f"{name} is not the name of a data set: expected hf:OWNER/NAME, and after it /FOLDER or @REVISION"
        )
    with needs("train", f"data set {name}"):
        import huggingface_hub
        from huggingface_hub import errors

    repository, folder, revision = found["repository"], found["folder"] or "", found["revision"]
    patterns = [f"{folder}{'/' if folder else ''}*{ending}" for ending in ENDING]
    own = None if paths.cache() else paths.kept("hub")  # without a home, the hub's own cache would be ./~
    try:
        root = huggingface_hub.snapshot_download(
            repository, repo_type="dataset", revision=revision, allow_patterns=patterns, cache_dir=own
        )
    except errors.RevisionNotFoundError:
        raise UserError(f'the data set {repository} of the Hugging Face hub has no revision "{revision}"') from None
    except errors.GatedRepoError:
        raise UserError(
            f"https://huggingface.co/datasets/{repository} wants its terms to be accepted: do so there, and log in by "
            "hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the Hugging Face hub has no data set {repository}, or shows it only to some: log in by hf auth login"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{name} is not in the hub's cache on this machine, and the Hugging Face hub cannot be reached; fetch it "
            f"elsewhere, hf download {repository} --repo-type=dataset --local-dir=FOLDER, and give --data=FOLDER"
        ) from None
    except Exception as e:  # whatever network errors there are
        raise UserError(
            f"https://huggingface.co/datasets/{repository} cannot be fetched ({type(e).__name__}: {reason(e)}); fetch "
            f"it elsewhere, hf download {repository} --repo-type=dataset --local-dir=FOLDER, and give --data=FOLDER"
        ) from None
    path = Path(root) / folder
    if not path.is_dir() or not _parquet_files(path)[0]:
        raise UserError(f"{name} has no Parquet files; the hub may have converted it: hf:{repository}@{CONVERTED}")
    return path


class Shard(NamedTuple):
    """A Parquet file.

    Attributes:
      path: of the file.
      folder: where its images are unpacked, from the folder of all.
      schema: Arrow's.
      num_rows: of the file.
    """

    path: Path
    folder: PurePosixPath
    schema: Any
    num_rows: int

    def place(self) -> tuple[str, str]:
        """The folder of the data set that the file belongs to, and the name of its split, if it has one."""
        name, parent = SHARD.sub("", self.folder.name), self.folder.parent
        if parent.name and (name.isdigit() or our_split(parent.name)):
            return str(parent.parent), parent.name
        return str(parent), name


def find_packed(path: Path, name: str, columns: Columns | None) -> Packed | None:
    """The data set of a folder or a Parquet file; None if there are no images in Parquet files.

    Args:
      path: the folder or file.
      name: as the user gave it.
      columns: `file` names the column of images, if there are several.

    Raises:
      UserError: what is there is not one data set of images.
    """
    if path.is_dir():
        root, (files, pictures) = path, _parquet_files(path)
    else:
        root, files, pictures = path.parent, [path] * path.name.lower().endswith(ENDING), True
    in_classes = bool(files) and path.is_dir() and pictures and has_classes(path)
    shards = list(_opened(files, root, skip_damaged=in_classes))
    images = {shard: _image_column(shard.schema, columns.file if columns else None, name) for shard in shards}
    if not any(images.values()):
        if shards and not any(shard.num_rows for shard in shards):
            raise UserError(f"the Parquet files of {name} have 0 rows")
        if shards and not pictures:
            is_table = {column.casefold() for column in shards[0].schema.names} & {*USUAL["file"]}
            table = f"for a table of image files, give its path, such as {files[0]}"
            needed = "expected a column of images (image bytes, with or without a path), or one of image files' names"
            raise UserError(
                f"the Parquet files of {name} have no images in them: {files[0].name} has the columns "
                f"{some(shards[0].schema.names)}; {table if is_table else needed}"
            )
        return None
    places = {shard: shard.place() for shard in shards if images[shard]}
    if in_classes:
        raise UserError(
            f"{name} has both Parquet files with images in them, such as {next(iter(places)).path.relative_to(root)}, "
            "and folders of images; give the path of a Parquet file, or of a folder of one kind"
        )
    if len(sets := sorted({of for of, _ in places.values()})) > 1:
        raise UserError(
            f"{name} has several data sets, {some(sets)}; give one of them, such as {_inside(name, sets[0])}"
        )
    splits, remarks = our_splits((split for _, split in places.values()), name)
    used = {shard: splits[split] for shard, (_, split) in places.items() if split in splits}
    if len(names := sorted({images[shard] for shard in used})) > 1:
        raise UserError(f"the images of {name} are in columns of several names, {some(names)}; expected one")
    classes = _classes([shard.schema for shard in used], name)
    texts = list(dict.fromkeys(field.name for shard in used for field in shard.schema if _is_text(field.type)))

    def rows() -> Iterator[Row]:
        for shard, split in used.items():
            yield from _read(shard, split, names[0], texts, classes)

    count = sum(shard.num_rows for shard in used)
    return Packed(name, root, [shard.path for shard in used], count, names[0], classes, rows, remarks=remarks)


def _inside(name: str, folder: str) -> str:
    """A folder of a data set, as it is given."""
    given, at, revision = name.partition("@") if name.startswith(PREFIX) else (name, "", "")
    return f"{given}/{folder}{at}{revision}"


def _parquet_files(folder: Path) -> tuple[list[Path], bool]:
    """The Parquet files of a folder, and whether it has image files, too."""
    found: list[Path] = []
    pictures = False
    for entry in walk(folder):
        if entry.name.lower().endswith(ENDING):
            found.append(Path(entry.path))
        pictures = pictures or Path(entry.name).suffix.lower() in ENDINGS
    return found, pictures


def _opened(files: Sequence[Path], root: Path, *, skip_damaged: bool) -> Iterator[Shard]:
    for file in files:
        try:
            yield _open(file, root)
        except UserError:
            if not skip_damaged:
                raise


def _open(path: Path, root: Path) -> Shard:
    with needs("train", path.name):
        import pyarrow
        import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            folder = PurePosixPath(path.relative_to(root).with_suffix("").as_posix())
            return Shard(path, folder, file.schema_arrow, file.metadata.num_rows)
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise UserError(f"{path} is damaged: {reason(e)}") from None


def _features(schema: Any) -> Mapping[str, Any]:
    """What the library `datasets` writes of columns into a file; nothing if another wrote it."""
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def _image_column(schema: Any, wanted: str | None, name: str) -> str:
    """The column of images; "" if there is none, or another is wanted."""
    import pyarrow.types as types

    features = _features(schema)

    def is_image(field: Any) -> bool:
        feature = features.get(field.name)
        kind = feature.get("_type", "Image") if isinstance(feature, dict) else "Image"
        if types.is_struct(field.type):
            inner = {f.name: f.type for f in field.type}
            return kind == "Image" and "bytes" in inner and _is_binary(inner["bytes"])
        return _is_binary(field.type) and kind == "Image" and field.name in features

    images = [field.name for field in schema if is_image(field)]
    if wanted is not None:
        return wanted if wanted in images else ""
    if len(images) > 1:
        by_case = {image.casefold(): image for image in images}
        images = [by_case[usual] for usual in USUAL["file"] if usual in by_case][:1] or images
    if len(images) > 1:
        raise UserError(
            f"{name} has several columns of images, {some(images)}; choose one by --config.data.columns.file=COLUMN"
        )
    return images[0] if images else ""


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_text(kind: Any) -> bool:
    """Whether a column can be in a table of texts: one value, or a list of texts or integers."""
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        return types.is_string(kind.value_type) or types.is_integer(kind.value_type)
    return not types.is_nested(kind) and not _is_binary(kind)


def _classes(schemas: Sequence[Any], name: str) -> dict[str, Classes]:
    """The classes of the columns that have integers for them, of the files of a data set.

    Raises:
      UserError: the files name them differently.
    """
    found = {}
    listed = [{column: _class_names(feature) for column, feature in _features(schema).items()} for schema in schemas]
    for column in dict.fromkeys(column for names in listed for column in names):
        different = {names[column] for names in listed if names.get(column)}
        if len(different) > 1:
            first, second, *_ = (some(names) for names in sorted(different))
            raise UserError(
                f'the files of {name} have other classes for the numbers of column "{column}": {first}, and {second}; '
                "write them with the same classes"
            )
        tasks = {_task_of(schema.field(column).type) for schema in schemas if column in schema.names}
        if different and len(tasks) == 1 and (task := tasks.pop()):
            found[column] = Classes(task, different.pop())
    return found


def _class_names(feature: Any) -> tuple[str, ...]:
    """The names of the classes of a feature of the library `datasets`; none if it has none, or the same one twice."""
    inner = feature[0] if isinstance(feature, list) and feature else feature
    if isinstance(inner, dict) and inner.get("_type") in ("Sequence", "List", "LargeList"):
        inner = inner.get("feature")
    names = inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None
    plain = tuple(unicodedata.normalize("NFC", str(name)).strip() for name in names or ())
    return plain if len(set(plain)) == len(plain) else ()


def _task_of(kind: Any) -> TaskName | None:
    """What a column of positions of classes is for; None if it has something else."""
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        return "multi_label" if types.is_integer(kind.value_type) else None
    return "single_label" if types.is_integer(kind) else None


def _read(shard: Shard, split: str, image: str, texts: Sequence[str], classes: Mapping[str, Classes]) -> Iterator[Row]:
    """The images of a file, in order."""
    import pyarrow
    import pyarrow.parquet

    there = [name for name in texts if name in shard.schema.names]
    position = 0
    try:
        with pyarrow.parquet.ParquetFile(shard.path, pre_buffer=False) as file:
            for batch in file.iter_batches(AT_ONCE, columns=[image, *there]):
                columns = {name: batch.column(name).to_pylist() for name in there}
                for i, value in enumerate(batch.column(image).to_pylist()):
                    encoded, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, "")
                    cells = {
                        name: _cell(columns[name][i], classes.get(name)) if name in columns else "" for name in texts
                    }
                    name = file_name(str(shard.folder), position, path or "")
                    yield Row(name, encoded or b"", {**cells, SPLIT: split} if split else cells)
                    position += 1
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise UserError(f"{shard.path} is damaged after {position:,} images ({reason(e)}); fetch it again") from None


def _cell(value: Any, classes: Classes | None) -> str:
    """A value as a text, as in `Table`: of a class, its name."""
    if isinstance(value, list):
        return LISTED.join(_cell(part, classes) for part in value) or LISTED
    if value is None or value != value:  # not a number, as pandas writes that there is none
        return ""
    if classes is None:
        return str(value)
    return classes.class_names[value] if 0 <= value < len(classes.class_names) else ""
