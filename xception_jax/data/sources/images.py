"""Pictures without labels: files, and all pictures in folders."""

from collections.abc import Sequence
from pathlib import Path

from xception_jax.data.sources.folder import SUFFIXES, is_picture
from xception_jax.errors import UserError


class Pictures:
    """Files as a source; their label is 0."""

    class_names: tuple[str, ...] = ("",)

    def __init__(self, files: Sequence[Path]):
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return self._files[index].read_bytes(), 0

    def example_id(self, index: int) -> str:
        """The file's path, as it was given."""
        return str(self._files[index])


def find_pictures(paths: Sequence[Path]) -> list[Path]:
    """Each file once: those given, whatever they are called, and the pictures in the folders given, sorted.

    Raises:
      UserError: a path does not exist, or there are no pictures.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no file or folder {path}")
        found |= dict.fromkeys(sorted(p for p in path.rglob("*") if is_picture(p)) if path.is_dir() else [path])
    if not found:
        raise UserError(f"there are no pictures in {', '.join(map(str, paths))}, named {', '.join(SUFFIXES)}")
    return list(found)
