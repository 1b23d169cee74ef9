"""TensorBoard's event files, written without a thread: on a full disk the thread would end and the loop would hang.

The messages are those of tensorflow/core/util/event.proto and framework/summary.proto. Libraries that provide them
import TensorFlow or PyTorch if installed, which takes seconds.
"""

import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from xception_jax.formats.crc32c import masked_crc32c
from xception_jax.formats.protobuf import field
from xception_jax.workdir.small_files import PatientFile

# Fields of the messages Event, SessionLog, Summary and Summary.Value.
WALL_TIME, STEP, FILE_VERSION, SUMMARY, SESSION_LOG = 1, 2, 3, 5, 7
STATUS, START = 1, 1
VALUE = 1
TAG, SIMPLE_VALUE = 1, 2


class EventFile:
    """A new event file in `folder`. Steps from `first_step` on in older files are hidden."""

    def __init__(self, folder: Path, first_step: int):
        # TensorBoard reads the files in order of their names; two runs can start within one second.
        self._file = PatientFile(folder / f"events.out.tfevents.{time.time():.6f}.{first_step - 1}")
        self._write(field(FILE_VERSION, "brain.Event:2"))
        self._write(field(STEP, first_step) + field(SESSION_LOG, field(STATUS, START)))

    def add_scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers under `group`/name."""
        scalars = (field(TAG, f"{group}/{name}") + field(SIMPLE_VALUE, np.float32(x)) for name, x in values.items())
        self._write(field(STEP, step) + field(SUMMARY, b"".join(field(VALUE, scalar) for scalar in scalars)))

    def _write(self, event: bytes) -> None:
        """Appends an event as a TFRecord."""
        data = field(WALL_TIME, time.time()) + event
        length = struct.pack("<Q", len(data))
        crc, data_crc = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        self._file.append(length + crc + data + data_crc)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
