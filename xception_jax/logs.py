"""What a run reports on its way: log.jsonl, TensorBoard events, and a line of progress."""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xception_jax import files
from xception_jax.errors import UserError

FLUSH_SECONDS = 10  # what TensorBoard may lag behind


class RunLog:
    """Writes log.jsonl and tensorboard/ in the work directory, and prints progress. Use it in a `with` block.

    What the log holds of steps after `resume_step` is dropped: those steps are about to be done again. TensorBoard
    is told to hide it.

    Args:
      workdir: the run's folder.
      total_steps: length of training.
      resume_step: optimizer steps already done.
      primary: False in all processes but one; there, nothing is written or printed.
      clock: seconds, as `time.monotonic`.

    Raises:
      UserError: the log there is damaged.
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
        self._in_place = False  # whether the cursor stands in a progress line
        self._since: tuple[int, float] = resume_step, clock()
        self._timed = False
        if not primary:
            return
        from tensorboardX import SummaryWriter

        path = _path(workdir)
        kept = [record for record in read_log(workdir) if record["step"] <= resume_step] if path.exists() else []
        files.write_atomically(path, "".join(map(_line, kept)))
        self._file = path.open("a", buffering=1)  # every line is flushed
        self._events = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=resume_step + 1,
            flush_secs=FLUSH_SECONDS,
            filename_suffix=f".{resume_step}",  # names are by the second: a quick restart would overwrite the file
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._primary:
            self._leave_line()
            self._file.close()
            self._events.close()

    def train(self, step: int, metrics: Mapping[str, float], images_per_second: float | None) -> None:
        """Reports the training metrics (loss, top1, learning_rate and others) after `step` steps, and progress.

        Args:
          images_per_second: None where it is not known yet.
        """
        if not self._primary:
            return
        speed = {} if images_per_second is None else {"images_per_second": images_per_second}
        self._record("train", step, {**metrics, **speed})
        self._add_events("train", step, {**metrics, **speed})
        text = progress_line(step, self._total, metrics, images_per_second, self._seconds_left(step))
        if not sys.stdout.isatty():
            print(text, flush=True)
            return
        # One column less than the terminal has: a wrapped line could not be overwritten.
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]}\x1b[K", end="", flush=True)
        self._in_place = True

    def evaluation(self, step: int, metrics: Mapping[str, float], split: str = "validation") -> None:
        """Reports a split's metrics (loss, top1, top5) after `step` steps."""
        if not self._primary:
            return
        self._record("evaluation", step, {"split": split, **metrics})
        self._add_events(f"evaluation/{split}", step, metrics)
        self._say(f"step {step:,}, {split}: {', '.join(f'{name} {value:.4f}' for name, value in metrics.items())}")

    def note(self, text: str) -> None:
        """Writes a remark on the run, at the step last reported."""
        if not self._primary:
            return
        self._record("note", self._step, {"text": text})
        self._say(text)

    def _record(self, kind: str, step: int, fields: Mapping[str, Any]) -> None:
        self._step = step
        self._file.write(_line({"kind": kind, "step": step, **fields, "time": time.time()}))

    def _add_events(self, group: str, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._events.add_scalar(f"{group}/{name}", value, step)

    def _say(self, text: str) -> None:
        self._leave_line()
        print(text, flush=True)

    def _leave_line(self) -> None:
        if self._in_place:
            print(flush=True)
        self._in_place = False

    def _seconds_left(self, step: int) -> float | None:
        """The time that the other steps take at the rate of this process."""
        since_step, since = self._since
        now = self._clock()
        if not self._timed:  # from here on, without the time that compilation took
            self._timed, self._since = True, (step, now)
        return (now - since) / (step - since_step) * (self._total - step) if step > since_step else None


def progress_line(
    step: int, total: int, metrics: Mapping[str, float], images_per_second: float | None, seconds_left: float | None
) -> str:
    """Step, loss, accuracy, learning rate, images a second and the time left (hh:mm:ss), as far as they are known."""
    parts = [f"step {step:,}/{total:,} {100 * step / total:.1f} %"]
    named = {"loss": "loss {:.4f}", "top1": "top-1 {:.4f}", "learning_rate": "lr {:.3g}"}
    parts += [form.format(metrics[name]) for name, form in named.items() if name in metrics]
    if images_per_second is not None:
        parts.append(f"{images_per_second:,.1f} images/s")
    if seconds_left is not None:
        minutes, seconds = divmod(round(seconds_left), 60)
        parts.append(f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02} left")
    return "  ".join(parts)


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """The records of a run's log, in the order written.

    Each has kind, step and time (seconds since 1970); kind "train" and "evaluation" their metrics (None where one was
    not finite), "evaluation" its split, "note" its text. A last line that a killed process left half-written is none.

    Raises:
      UserError: there is no log, or it is damaged.
    """
    path = _path(workdir)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {workdir} a work directory?") from None
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last end of line is nothing, or half a line
        try:
            records.append(json.loads(line))
        except ValueError as e:
            raise UserError(f"line {number} of {path} is damaged ({e}); delete the line") from None
    return records


def _path(workdir: Path) -> Path:
    return workdir / "log.jsonl"


def _line(record: Mapping[str, Any]) -> str:
    """A record as a line; None stands for numbers that are not finite, which JSON has not."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
