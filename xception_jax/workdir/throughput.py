"""Training speed, memory use, and profiling."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from xception_jax.errors import UserError


class Clock:
    """Measures the speed of the training steps alone, in laps."""

    def __init__(self) -> None:
        self._total_images, self._total_seconds = 0, 0.0
        self.restart()

    def restart(self) -> None:
        """Discards counts since the last lap."""
        self._since, self._steps, self._images, self._waited = time.monotonic(), 0, 0, 0.0

    def count(self, images: int) -> None:
        """Adds a step and its images."""
        self._steps += 1
        self._images += images

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside the `with` block as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Excludes the time inside the `with` block."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def lap(self) -> dict[str, float]:
        """The speed since the last lap, for `RunLog.train`; without a step, only the memory."""
        seconds, memory = time.monotonic() - self._since, memory_bytes()
        speed: dict[str, float] = {} if memory is None else {"memory_bytes": memory}
        if self._steps:
            self._total_seconds += seconds
            self._total_images += self._images
            speed["steps_per_second"] = self._steps / seconds
            speed["images_per_second"] = self._images / seconds
            speed["data_wait"] = self._waited / seconds
        self.restart()
        return speed

    def mean(self) -> float | None:
        """Images per second over all laps, or None if no step was counted."""
        self.lap()
        return self._total_images / self._total_seconds if self._total_images else None


def memory_bytes() -> int | None:
    """The peak memory use of any of this process's devices, or None if they do not report it (CPUs)."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    return max(peaks, default=None)


class Profiler:
    """Traces some training steps into a folder for XProf (or TensorBoard's profile plugin) and Perfetto.

    A run that resumes or ends among these steps traces those that it takes.

    Args:
      folder: the target folder.
      steps: the steps to trace; may be empty.
    """

    def __init__(self, folder: Path, steps: range):
        self._folder, self._steps = folder, steps
        self._tracing = False

    def missed(self, resume_step: int, total_steps: int) -> list[str]:
        """A sentence if none of the steps to trace is left.

        Args:
          resume_step: number of training steps already done.
          total_steps: length of training.

        Raises:
          UserError: training ends before the first of them.
        """
        if self._steps and self._steps[0] > total_steps:
            raise UserError(
                f"--profile asks for steps {self._steps[0]} to {self._steps[-1]}, but training ends at step "
                f"{total_steps}; choose earlier ones"
            )
        if self._steps and self._steps[-1] <= resume_step:
            return [f"--profile: steps {self._steps[0]} to {self._steps[-1]} are done already; nothing is traced"]
        return []

    @contextlib.contextmanager
    def step(self, step: int, finish: Callable[[], None]) -> Iterator[None]:
        """Traces the `with` block, if `step` is one of the steps to trace.

        Args:
          step: the training step.
          finish: called before the trace ends; returns when the devices have finished.
        """
        if step not in self._steps:
            yield
            return
        if not self._tracing:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if step == self._steps[-1]:
            finish()
            self.close()

    def close(self) -> None:
        """Ends the trace, if there is one."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()


def parse_profile(text: str | None) -> range:
    """The steps denoted by "START:COUNT".

    Raises:
      UserError: the text is invalid.
    """
    if text is None:
        return range(0)
    start, _, count = text.partition(":")
    if not (start.isdecimal() and count.isdecimal() and int(start) and int(count)):
        raise UserError(f'--profile is "{text}"; write START:COUNT, such as 100:5 for steps 100 to 104')
    return range(int(start), int(start) + int(count))
