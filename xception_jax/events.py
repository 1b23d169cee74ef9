"""TensorBoard's event files, written without a thread: a full disk would end it, and the loop would wait for it."""

import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from xception_jax.files import PatientFile


class EventFile:
    """A new event file in `folder`. What older files there say of steps from `first_step` on is hidden."""

    def __init__(self, folder: Path, first_step: int):
        # TensorBoard reads the files in the order of their names; two runs can start within a second.
        self._file = PatientFile(folder / f"events.out.tfevents.{time.time():.6f}.{first_step - 1}")
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add_scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers under `group`/name."""
        scalars = [Summary.Value(tag=f"{group}/{name}", simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=scalars)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        crc, data_crc = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        self._file.append(length + crc + data + data_crc)  # a TFRecord

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
