"""A run's log: log.jsonl, TensorBoard events, and a progress line."""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xception_jax.errors import UserError
from xception_jax.filesystem import atomic
from xception_jax.tasks.task import FIGURES, TASKS
from xception_jax.terminal.words import significant
from xception_jax.workdir.small_files import PatientFile

OF_BATCHES = ("loss", *(name for task in TASKS.values() for name in task.of_batches))
SPEED = {
    "learning_rate": "lr {:.3g}",
    "steps_per_second": "{:.3g} steps/s",
    "images_per_second": "{:,.1f} images/s",
}
WORTH_A_WORD = 0.05  # fraction of time spent waiting for data above which the progress line shows it


class RunLog:
    """Writes log.jsonl and tensorboard/ in the work directory, and prints progress. Use it in a `with` block.

    Records of steps after `resume_step` are dropped from the log and hidden in TensorBoard, because these steps are
    about to be repeated.

    Args:
      workdir: the run's folder.
      total_steps: length of training.
      resume_step: number of optimizer steps already done.
      primary: False in all processes but one; the others do not write or print anything.
      clock: returns seconds, like `time.monotonic`.

    Attributes:
      seconds_left: estimate at the last report of a training step, or None.
      evaluations: their metrics, by step, also of earlier starts; only in the process that writes.

    Raises:
      UserError: the existing log is damaged.
    """

    def __init__(
        self,
        workdir: Path,
        total_steps: int,
        *,
        resume_step: int,
        primary: bool,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._step, self._primary, self._clock = total_steps, resume_step, primary, clock
        self._in_place = False  # whether the cursor is in a progress line
        self._since: tuple[int, float] = resume_step, clock()
        self._timed = False
        self.evaluations: dict[int, Mapping[str, Any]] = {}
        self.seconds_left: float | None = None
        if not primary:
            return
        from xception_jax.workdir.tensorboard import EventFile

        path = _path(workdir)
        kept = [record for record in read_log(workdir) if record["step"] <= resume_step] if path.exists() else []
        atomic.write_atomically(path, "".join(map(_line, kept)))
        self.evaluations = {record["step"]: record for record in kept if record["kind"] == "evaluation"}
        self._file = PatientFile(path)
        self._events = EventFile(workdir / "tensorboard", first_step=resume_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._primary:
            self._leave_line()
            self._file.close()
            self._events.close()

    def train(self, step: int, metrics: Mapping[str, float], speed: Mapping[str, float]) -> None:
        """Reports the training metrics (loss, learning_rate, the task's and others) after `step` steps, and progress.

        Args:
          speed: known values of steps_per_second, images_per_second, data_wait (fraction of time that the loop waited
            for images) and memory_bytes (peak memory use of any device).
        """
        if not self._primary:
            return
        self._record("train", step, {**metrics, **speed})
        self._events.add_scalars("train", step, {**metrics, **speed})
        self.seconds_left = self._seconds_left(step)
        text = progress_line(step, self._total, metrics, speed, self.seconds_left)
        if not sys.stdout.isatty():
            print(text, flush=True)
            return
        # One column less than the terminal's width: a wrapped line could not be overwritten.
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]}\x1b[K", end="", flush=True)
        self._in_place = True

    def evaluation(self, step: int, metrics: Mapping[str, float], split: str = "validation") -> None:
        """Reports a split's metrics (loss and the task's, as top1) after `step` steps."""
        if not self._primary:
            return
        self.evaluations[step] = metrics
        self._record("evaluation", step, {"split": split, **metrics})
        self._events.add_scalars(f"evaluation/{split}", step, metrics)
        self._say(
            f"step {step:,}, {split}: {', '.join(f'{name} {significant(value)}' for name, value in metrics.items())}"
        )

    def saved(self, step: int, seconds: float) -> None:
        """Reports that the state after `step` steps is on disk, `seconds` after its save started."""
        if not self._primary:
            return
        self._record("save", step, {"seconds": seconds})
        self._events.add_scalars("save", step, {"seconds": seconds})

    def note(self, text: str) -> None:
        """Writes a remark on the run, at the last reported step."""
        if not self._primary:
            return
        self._record("note", self._step, {"text": text})
        self._say(text)

    def _record(self, kind: str, step: int, fields: Mapping[str, Any]) -> None:
        self._step = max(self._step, step)  # a save may finish during a later step
        self._file.append(_line({"kind": kind, "step": step, **fields, "time": time.time()}).encode())

    def _say(self, text: str) -> None:
        self._leave_line()
        print(text, flush=True)

    def _leave_line(self) -> None:
        if self._in_place:
            print(flush=True)
        self._in_place = False

    def _seconds_left(self, step: int) -> float | None:
        """The time for the remaining steps, at the speed of this process."""
        since_step, since = self._since
        now = self._clock()
        if not self._timed:  # start timing here, to exclude compilation
            self._timed, self._since = True, (step, now)
        return (now - since) / (step - since_step) * (self._total - step) if step > since_step else None


def progress_line(
    step: int, total: int, metrics: Mapping[str, float], speed: Mapping[str, float], seconds_left: float | None
) -> str:
    """Step, loss, accuracy, learning rate, speed and the time left (hh:mm:ss), as far as known."""
    parts = [f"step {step:,}/{total:,} {100 * step / total:.1f} %"]
    values = {**metrics, **speed}
    parts += [f"{FIGURES[name].title} {significant(values[name])}" for name in OF_BATCHES if name in values]
    parts += [form.format(values[name]) for name, form in SPEED.items() if name in values]
    if values.get("data_wait", 0) >= WORTH_A_WORD:
        parts.append(f"{100 * values['data_wait']:.0f} % waiting for data")
    if seconds_left is not None:
        minutes, seconds = divmod(round(seconds_left), 60)
        parts.append(f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02} left")
    return "  ".join(parts)


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """The records of a run's log, in the order written.

    Each has kind, step and time (seconds since 1970). Kinds "train" and "evaluation" have metrics (None if not finite),
    "train" also the speed, "evaluation" the split, "save" the seconds, "note" the text. An incomplete last line, left
    by a killed process, is ignored.

    Raises:
      UserError: there is no log, or it is damaged.
    """
    path = _path(workdir)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {workdir} a work directory?") from None
    records = []
    for number, line in enumerate(
        lines[:-1], start=1
    ):  # after the last newline there is nothing, or an incomplete line
        try:
            records.append(json.loads(line))
        except ValueError as e:
            raise UserError(f"line {number} of {path} is damaged ({e}); delete the line") from None
    return records


def _path(workdir: Path) -> Path:
    return workdir / "log.jsonl"


def _line(record: Mapping[str, Any]) -> str:
    """A record as a line; numbers that are not finite become None, because JSON does not have them."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
