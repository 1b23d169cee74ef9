"""Saving runs. If a save fails, the run continues and the save is retried."""

import math
import time
from collections.abc import Callable
from typing import Any

from xception_jax.errors import TrainingError, reason
from xception_jax.parallel.processes import any_of
from xception_jax.workdir.checkpoints import Checkpoints, State
from xception_jax.workdir.log import RunLog
from xception_jax.workdir.status import Status

# After the n-th consecutive failure the next try waits for 2**(n-1) calls of `due`; after the last, for a regular save.
MOST_TRIES = 6
LAST_WAITS = (1, 2, 4, 8, 16)  # seconds before each retry to save the final state


class Saver:
    """Saves the state of one run in the background, and logs the outcome of each save.

    All processes must call the same methods at the same steps; they agree on the outcome of a save.

    Args:
      checkpoints: the run's checkpoints.
      log, status: of the run.
      run: the description of the run, for JSON.
      sleep: `time.sleep`.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        log: RunLog,
        status: Status,
        run: dict[str, Any],
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._checkpoints, self._log, self._status, self._run, self._sleep = checkpoints, log, status, run, sleep
        self._saved = checkpoints.latest
        self._best = checkpoints.best_score
        self._under_way: tuple[int, float, float | None] | None = None  # step, start time and score
        self._failures = 0  # consecutive
        self._calls_to_wait = 0

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Whether an evaluation is better than those of all checkpoints, so that the state should be saved now."""
        score = self._checkpoints.score(metrics)
        scores = (self._best, self._under_way[2] if self._under_way else None)
        return math.isfinite(score) and all(other is None or score > other for other in scores)

    def save(self, state: State, metrics: dict[str, float] | None) -> None:
        """Starts a save after the previous one has ended. Arguments as for `Checkpoints.save`."""
        self._settle()
        step = int(state.step)
        if step == self._saved:
            return
        if self._failures:  # a thread of Orbax may have written on after the failure
            self._checkpoints.discard_unfinished()
        score = None if metrics is None else self._checkpoints.score(metrics)
        self._under_way = step, time.monotonic(), score
        try:
            self._checkpoints.save(state, metrics, self._run)
        except Exception as e:  # any error of the storage: a failed save must not end the run
            self._end(e)

    def due(self) -> bool:
        """Whether the last save failed and should be retried now. Called periodically during training."""
        if self._under_way is not None and not any_of(self._checkpoints.in_progress):
            self._settle()
        self._calls_to_wait -= 1
        return 0 < self._failures < MOST_TRIES and self._calls_to_wait <= 0

    def finish(self, state: State, metrics: dict[str, float] | None) -> None:
        """Saves `state` if it is not yet saved, and waits until it is on disk.

        Raises:
          TrainingError: the state could not be saved after several tries.
        """
        for wait in (0, *LAST_WAITS):
            self._sleep(wait)
            self.save(state, metrics)
            self._settle()
            if not self._failures:
                self._checkpoints.discard_unfinished()  # a thread of Orbax may have written on after an earlier failure
                return
        raise TrainingError(
            f"step {int(state.step)} could not be saved; {self._kept()}. Fix the cause, then run the same command "
            "to resume from there"
        )

    def _settle(self) -> None:
        """Waits for the save in progress."""
        if self._under_way is None:
            return
        error: Exception | None = None
        try:
            self._checkpoints.wait()
        except Exception as e:  # as above
            error = e
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        assert self._under_way is not None
        step, began, score = self._under_way
        self._under_way = None
        if not any_of(error is not None and not self._checkpoints.holds(step)):
            self._saved, self._failures, seconds = step, 0, time.monotonic() - began
            self._best = max((s for s in (self._best, score) if s is not None and math.isfinite(s)), default=None)
            self._log.saved(step, seconds)
            self._status.update(saved_step=step, save_seconds=seconds, failed_saves=0)
            return
        self._failures += 1
        self._status.update(failed_saves=self._failures)
        self._calls_to_wait = 2 ** (self._failures - 1)
        self._checkpoints.discard_unfinished()
        why = "in another process" if error is None else reason(error)
        self._log.note(f"the save of step {step} failed ({why}); {self._kept()}; it will be retried")

    def _kept(self) -> str:
        latest = self._checkpoints.latest
        return "there is no checkpoint yet" if latest is None else f"the checkpoint of step {latest} is kept"
