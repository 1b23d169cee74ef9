"""Folders of pictures in the usual layout, split/class/picture."""

import hashlib
import unicodedata
from collections import Counter
from pathlib import Path

from xception_jax.data import files
from xception_jax.data.files import printable
from xception_jax.errors import UserError, suggest

# Other names of the usual splits, upper or lower case.
ALIASES = {"validation": ("val", "valid"), "test": ("testing",), "train": ("training",)}


class Folder:
    """One split of a folder of pictures.

    The classes are the sorted names of the training split's folders that have pictures, so that labels mean the same in
    all splits. Names are compared in Unicode's composed form (NFC), in which macOS and others differ.

    Args:
      root: the folder that contains the splits.
      split: name of the split's folder, or a usual alternative: val or valid for "validation".
      train_split: the split that defines the classes.

    Attributes:
      class_names: of all splits.
      remarks: what a user should know of the folder, in sentences.

    Raises:
      UserError: a folder is missing or has no pictures, names of classes are too much alike, or a class is not in the
        training split.
    """

    def __init__(self, root: Path, split: str, train_split: str):
        self._root, folder = root, find_split(root, split)
        self.class_names, self.remarks = training_classes(find_split(root, train_split))
        by_class, passed_over = pictures_by_class(folder)
        if unknown := [name for name, paths in by_class.items() if paths and name not in self.class_names]:
            hint = f"; {suggest(unknown[0], self.class_names)}" if len(unknown) == 1 else ""
            raise UserError(
                f'split "{split}" of {printable(root)} has classes that "{train_split}" does not have: '
                f"{', '.join(unknown)}{hint}"
            )
        self._files = [file for name in self.class_names for file in by_class.get(name, [])]
        self._labels = [label for label, name in enumerate(self.class_names) for _ in by_class.get(name, [])]
        if passed_over:
            self.remarks.append(files.said(folder, passed_over))
        if not self._files:
            said = f" ({self.remarks[-1]})" if passed_over else ""
            expected = printable(folder / "CLASS" / "PICTURE")
            raise UserError(f"there are no pictures in {printable(folder)}{said}; expected {expected}{_way_on(folder)}")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return self._files[index].read_bytes(), self._labels[index]

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of each example."""
        return tuple(self._files)

    def example_id(self, index: int) -> str:
        """The file's path, from the root of the data set."""
        return printable(self._files[index].relative_to(self._root).as_posix())

    def fingerprint(self) -> str:
        """A hash of the files' paths from the root; faster than asking for each example's name."""
        start = len(str(self._root)) + 1
        names = "\n".join(str(file)[start:] for file in self._files)
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def training_classes(folder: Path) -> tuple[tuple[str, ...], list[str]]:
    """The names of a training split's classes, and a sentence about folders that are none as they have no pictures.

    Raises:
      UserError: no class has pictures.
    """
    has_pictures = {name: any(files.pictures(path)) for name, path in class_folders(folder).items()}
    names = tuple(name for name, has in has_pictures.items() if has)
    if not names:
        raise UserError(
            f"{printable(folder)} has no class folders with pictures; expected "
            f"{printable(folder / 'CLASS' / 'PICTURE')}{_way_on(folder)}"
        )
    empty = ", ".join(name for name, has in has_pictures.items() if not has)
    return names, [f"without pictures in {printable(folder)}, and so no class: {empty}"] if empty else []


def pictures_by_class(folder: Path) -> tuple[dict[str, list[Path]], Counter[str]]:
    """The pictures of each class of a split, and how many files are none or of no class, by ending."""
    passed_over = Counter[str]()
    by_class = {name: list(files.pictures(path, passed_over)) for name, path in class_folders(folder).items()}
    for path in folder.iterdir():
        if not path.is_dir() and not files.is_hidden(path.name):
            passed_over[f"{path.suffix.lower() or 'files'} outside of class folders"] += 1
    return by_class, passed_over


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without those that are not the user's."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not files.is_hidden(p.name))


def class_folders(folder: Path) -> dict[str, Path]:
    """The classes of a split, sorted, and their folders.

    Raises:
      UserError: two names differ only in how Unicode writes them, in upper and lower case, or in spaces around them.
    """
    classes: dict[str, Path] = {}
    alike: dict[str, Path] = {}
    for path in subfolders(folder):
        name = printable(unicodedata.normalize("NFC", path.name))
        other = alike.setdefault(name.strip().casefold(), path)
        if other != path:
            raise UserError(
                f"{printable(folder)} has the classes {other.name!a} and {path.name!a}, which are written almost "
                "alike: if they are one class, move the pictures into one folder; if not, rename one"
            )
        classes[name] = path
    return dict(sorted(classes.items()))


def find_split(root: Path, split: str) -> Path:
    """The folder of a split, by its name or a usual alternative, in upper or lower case."""
    if not str(root) or root == Path():
        raise UserError("data.name=folder needs a folder laid out as split/class/picture: --config.data.path=FOLDER")
    if not root.is_dir():
        raise UserError(
            f"there is no folder {printable(root)}; set config.data.path to a folder laid out as split/class/picture"
        )
    if (root / split).is_dir():
        return root / split
    there = {path.name: path for path in subfolders(root)}
    for name in (split, *ALIASES.get(split, ())):
        if matching := [path for other, path in there.items() if other.casefold() == name.casefold()]:
            return matching[0]
    raise UserError(
        f'{printable(root)} has no folder "{split}" (it contains: '
        f"{printable(', '.join(there)) or 'nothing'}); expected {printable(root)}/{split}/CLASS/PICTURE"
        + _other_split(root, split, list(there))
    )


def _other_split(root: Path, split: str, there: list[str]) -> str:
    """The way on where a split is missing, as the end of an error message."""
    usual = {alias: name for name, aliases in ALIASES.items() for alias in (name, *aliases)}
    splits = [name for name in there if name.casefold() in usual]
    if not splits:
        if any(_has_pictures(root / name) for name in there):
            return f"; if these are classes, move them into a folder train, and some of their pictures into {split}"
        return ""
    asked = usual.get(split.casefold())
    others = [name for name in splits if usual[name.casefold()] != "train"] or splits
    if asked not in ("test", "validation"):
        return f"; did you mean --config.data.train_split={splits[0]}?"
    return f"; to evaluate another split, --config.data.{asked}_split={usual[others[0].casefold()]}"


def _way_on(folder: Path) -> str:
    """The way on where a split has pictures but no classes, as the end of an error message."""
    if not _has_pictures(folder):
        return ""
    return (
        f"; its pictures have no class folders, so they can't be evaluated: set config.data.test_split or "
        "config.data.validation_split to another split, and classify them by xception-jax predict --weights=WORKDIR "
        f"{printable(folder)}"
    )


def _has_pictures(folder: Path) -> bool:
    """Whether pictures are in a folder itself."""
    return any(path.parent == folder for path in files.pictures(folder))
