"""Images without labels: single files and folders."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from xception_jax.data.decode import UnreadableImageError
from xception_jax.data.files import pictures, printable, said
from xception_jax.data.storage import Patience
from xception_jax.errors import StorageError, UserError
from xception_jax.filesystem.paths import local

PACKED = (
    "Parquet files with images are read by finetune and evaluate (--data), predict takes image files: those that "
    "they unpack are in data/ of $XCEPTION_JAX_CACHE or ~/.cache/xception_jax"
)


class ImageFiles:
    """Image files as a source; all labels are 0. One that storage does not give is as unreadable as a damaged one."""

    class_names: tuple[str, ...] = ("",)

    def __init__(self, files: Sequence[Path]):
        self._files, self._patience = files, Patience()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        try:
            return self._patience(self._files[index].read_bytes, lambda: self.example_id(index)), 0
        except (StorageError, UserError) as e:
            raise UnreadableImageError(str(e)) from None

    def example_id(self, index: int) -> str:
        """The file's path, as given."""
        return printable(self._files[index])


def find_images(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Each file once: the given files, whatever their name, and the pictures in the given folders, sorted.

    Returns:
      The files, and a sentence for each folder in which files were passed over.

    Raises:
      UserError: a path does not exist or is remote, or there are no pictures.
    """
    found: dict[Path, None] = {}
    remarks, packed = [], False
    for path in map(local, paths):
        if not path.exists():
            raise UserError(f"there is no file or folder {printable(path)}")
        passed_over = Counter[str]()
        found |= dict.fromkeys(pictures(path, passed_over) if path.is_dir() else [path])
        if passed_over:
            remarks.append(said(path, passed_over))
            packed |= ".parquet" in passed_over
    if not found:
        where = ", ".join(printable(path) for path in paths)
        raise UserError("; ".join([f"there are no pictures in {where}", *remarks, *([PACKED] if packed else [])]))
    return list(found), remarks
