"""Images without labels: single files and folders."""

from collections.abc import Sequence
from pathlib import Path

from xception_jax.data.decode import UnreadableImageError
from xception_jax.data.sources.folder import SUFFIXES, is_image
from xception_jax.data.storage import Patience
from xception_jax.errors import StorageError, UserError


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
        return str(self._files[index])


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Each file once: the given files, whatever their suffix, and the images in the given folders, sorted.

    Raises:
      UserError: a path does not exist, or there are no images.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no file or folder {path}")
        found |= dict.fromkeys(sorted(p for p in path.rglob("*") if is_image(p)) if path.is_dir() else [path])
    if not found:
        raise UserError(
            f"there are no images in {', '.join(map(str, paths))}; expected files with suffix {', '.join(SUFFIXES)}"
        )
    return list(found)
