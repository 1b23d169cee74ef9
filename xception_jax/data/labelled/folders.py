"""Labelled images in folders of their classes."""

from pathlib import Path

from xception_jax.data import files
from xception_jax.data.labelled.columns import TABLES
from xception_jax.data.labelled.images import SPLIT_NAMES, SPLITS, Labelled, from_labels, reordered
from xception_jax.data.labelled.labels import read_labels
from xception_jax.data.sources.folder import pictures_by_class, subfolders
from xception_jax.errors import UserError, some
from xception_jax.tasks.task import TaskName


def read_folder(root: Path, task: TaskName | None) -> Labelled:
    """The images of class folders; the split is "" if there are no folders of splits."""
    if task not in (None, "single_label"):
        raise UserError(
            f"{root} has a class for each folder, which is not for {task}; a table has several labels or numbers"
        )
    there = subfolders(root)
    splits = _split_folders(root, there)
    places = [(split, splits[split]) for split in SPLITS if split in splits] or [("", root)]
    remarks = ["The task is single_label, because images are in folders of their classes."]
    besides = [path.name for path in sorted(root.iterdir()) if splits and path not in splits.values()]
    if others := [name for name in besides if not files.is_hidden(name)]:
        remarks.append(f"Passed over, because they are not folders of splits: {some(others)} ({len(others):,}).")
    rows: list[tuple[str, str, str]] = []
    empty: set[str] = set()
    for split, folder in places:
        by_class, passed_over = pictures_by_class(folder)
        for name, paths in by_class.items():
            names = [path.relative_to(root).as_posix() for path in paths]
            utf8 = [file for file in names if _is_utf8(file)]
            if len(utf8) < len(names):
                passed_over["with names that are not UTF-8"] = len(names) - len(utf8)
            rows += [(file, name, split) for file in utf8]
            empty |= set() if utf8 else {name}
        if passed_over:
            remarks.append(f"Files {files.said(folder, passed_over)}.")
    classes = [name for _, name, _ in rows]
    if empty := empty - set(classes):
        remarks.append(f"Not classes, because their folders have no images: {some(sorted(empty))}.")
    if len(set(classes)) < 2:
        tables = [p.name for p in sorted(root.iterdir()) if p.suffix.lower() in TABLES]
        hint = f"; for the table, give its path, {root / tables[0]}" if tables else ""
        raise UserError(
            f"{root} has {len(set(classes))} folders with images, but at least 2 classes are needed; expected "
            f"{root}/CLASS/IMAGE or {root}/train/CLASS/IMAGE{hint}"
        )
    names = [file for file, _, _ in rows]
    labels = read_labels({"folder": classes}, names, task="single_label")
    data = from_labels(root, names, labels, split=[split for _, _, split in rows], remarks=remarks)
    return reordered(data, sorted(data.class_names))  # as in `Folder`, on which checkpoints rely: "10" is before "2"


def has_classes(root: Path) -> bool:
    """Whether a folder has images of two classes or more, as `read_folder` reads them."""
    there = subfolders(root)
    found: set[str] = set()
    for place in [folder for folder in there if _split_of(folder)] or [root]:
        for folder in subfolders(place):
            found |= {folder.name} if any(files.pictures(folder)) else set()
            if len(found) > 1:  # without a look at all the others
                return True
    return False


def _split_folders(root: Path, there: list[Path]) -> dict[str, Path]:
    """The folders of splits, by the split's name.

    Raises:
      UserError: two folders are for one split.
    """
    splits: dict[str, Path] = {}
    for folder in there:
        if split := _split_of(folder):
            if split in splits:
                raise UserError(
                    f'{root} has two folders for {split}, "{splits[split].name}" and "{folder.name}"; join them'
                )
            splits[split] = folder
    return splits


def _split_of(folder: Path) -> str | None:
    """The split whose folder it is; without folders in it, it is a class of that name."""
    return SPLIT_NAMES.get(folder.name.casefold()) if subfolders(folder) else None


def _is_utf8(name: str) -> bool:
    """Whether a file's name can be written into a table."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
