"""Folders of images in the usual layout, split/class/image."""

import hashlib
from pathlib import Path

from xception_jax.errors import UserError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
ALIASES = {"validation": ("val", "valid"), "test": ("testing",), "train": ("training",)}


class Folder:
    """One split of a folder of images.

    The classes are the sorted folder names of the training split, so that labels mean the same in all splits. Files
    without an image suffix are ignored.

    Args:
      root: the folder that contains the splits.
      split: name of the split's folder; for "validation", val and valid are tried, too.
      train_split: the split that defines the classes.

    Raises:
      UserError: a folder is missing or has no images, or a class is not in the training split.
    """

    def __init__(self, root: Path, split: str, train_split: str):
        self._root = root
        folder = find_split(root, split)
        self.class_names = tuple(class_folders(find_split(root, train_split)))
        unknown = sorted(set(class_folders(folder)) - set(self.class_names))
        if unknown:
            raise UserError(
                f'split "{split}" of {root} has classes that "{train_split}" does not have: {", ".join(unknown)}'
            )
        self._files: list[Path] = []
        self._labels: list[int] = []
        for label, name in enumerate(self.class_names):
            files = sorted(p for p in (folder / name).rglob("*") if is_image(p)) if (folder / name).is_dir() else []
            self._files += files
            self._labels += [label] * len(files)
        if not self._files:
            raise UserError(
                f"there are no images in {folder}; expected {folder}/CLASS/IMAGE with suffix {', '.join(SUFFIXES)}"
            )

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
        return self._files[index].relative_to(self._root).as_posix()

    def fingerprint(self) -> str:
        """A hash of the files' paths from the root; faster than asking for each example's name."""
        start = len(str(self._root)) + 1
        names = "\n".join(str(file)[start:] for file in self._files)
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def is_image(path: Path) -> bool:
    """Whether a file name has an image suffix."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, without hidden ones."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def class_folders(folder: Path) -> list[str]:
    """The classes of a split."""
    names = subfolders(folder)
    if len(names) < 2:
        raise UserError(
            f"{folder} has {len(names)} class folders, but at least 2 are needed; expected {folder}/CLASS/IMAGE"
        )
    return names


def find_split(root: Path, split: str) -> Path:
    """The folder of a split, by its name or a usual alternative."""
    if not str(root) or root == Path():
        raise UserError("data.name=folder needs a folder laid out as split/class/image: --config.data.path=FOLDER")
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; set config.data.path to a folder laid out as split/class/image")
    for name in (split, *ALIASES.get(split, ())):
        if (root / name).is_dir():
            return root / name
    there = ", ".join(subfolders(root)) or "nothing"
    raise UserError(f'{root} has no folder "{split}" (it contains: {there}); expected {root}/{split}/CLASS/IMAGE')
