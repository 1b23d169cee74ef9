"""What one process finds ends all of them alike: two real ones, which compile next to nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_distributed import SETTINGS, free_port, variables
from xception_jax.errors import UserError
from xception_jax.workdir import sharing

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import sys
from pathlib import Path
import jax
from xception_jax.cli import common
from xception_jax.errors import StorageError, UserError
from xception_jax.parallel import distributed, processes
from xception_jax.parallel.preemption import Preempted, Preemption


def alone(folder):
    "The second process finds something while the first waits for it."
    if jax.process_index() == 1:
        raise UserError("the disk is upside down")
    processes.barrier("which the other one does not reach")


def well(folder):
    "Nothing is wrong."
    with Preemption(listens=True):
        assert processes.exchange(jax.process_index()) == [0, 1]


def waiting(folder):
    "The first process waits, and SIGTERM comes."
    if jax.process_index() == 0:
        with Preemption(listens=True):
            print("waiting", file=sys.stderr, flush=True)
            processes.barrier("which the other one does not reach")
    sys.stdin.read()


def stops(folder):
    "Steps that need all processes; the second one finds at its fourth that it has batches for two more."
    with Preemption(listens=True) as preemption:
        preemption.nothing_to_lose = False
        try:
            for step in range(1, 100):
                preemption.check()
                if step == 4 and jax.process_index() == 1:
                    preemption.stop(StorageError("the server is away"))
                assert processes.exchange(step) == [step, step]
        except StorageError:
            print("stopped before", step, file=sys.stderr)
            raise


with distributed.stopping_together(), common.errors_in_one_line():
    distributed.initialize()
    globals()[sys.argv[1]](Path(sys.argv[2]))
"""


def two(scenario, folder, during=lambda processes: None):
    """Exit codes and what was written to stderr."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, scenario, str(folder)],
            cwd=ROOT,
            env={**os.environ, **SETTINGS, **variables(i, 2, port)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        during(processes)
        errors = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


def test_what_one_process_finds_ends_the_others_with_its_code(tmp_path):
    codes, (first, second) = two("alone", tmp_path)
    assert codes == [2, 2]
    assert "error: process 1 ended the run: the disk is upside down\n" in first
    assert second.endswith("error: the disk is upside down\n")
    assert "Traceback" not in first + second


@pytest.mark.parametrize("sees", [True, False])
def test_the_first_process_shows_that_the_folder_is_shared(monkeypatch, tmp_path, sees):
    """This one is the second of two; the first writes into the same folder, or another."""
    (tmp_path / "theirs").mkdir()
    slept, others = [], tmp_path if sees else tmp_path / "theirs"

    def exchange(value):
        if isinstance(value, str):
            (others / "token").touch()
            return ["token", value]
        return [[True, f"{others} on host0"], value]

    monkeypatch.setattr(sharing, "exchange", exchange)
    monkeypatch.setattr(sharing, "primary", lambda: False)
    monkeypatch.setattr(sharing.jax, "process_count", lambda: 2)
    if sees:
        sharing.check_shared(tmp_path, sleep=pytest.fail)
        return
    with pytest.raises(
        UserError, match=rf"process 0 \({others} on host0\) writes is not seen by process 1 \({tmp_path} on"
    ):
        sharing.check_shared(tmp_path, sleep=slept.append)
    assert slept == list(sharing.WAITS)


def test_a_good_end_is_one(tmp_path):
    assert two("well", tmp_path)[0] == [0, 0]


def test_sigterm_ends_those_who_wait(tmp_path):
    def terminate(processes):
        assert any("waiting" in line for line in processes[0].stderr)
        processes[0].send_signal(signal.SIGTERM)

    codes, errors = two("waiting", tmp_path, terminate)
    assert codes == [os.EX_TEMPFAIL] * 2
    assert all("stopped by SIGTERM; run the same command to resume" in error for error in errors)


def test_all_stop_at_the_same_step(tmp_path):
    codes, (first, second) = two("stops", tmp_path)
    assert codes == [os.EX_TEMPFAIL] * 2
    for error in (first, second):
        assert "stopped before 6\n" in error
    assert "error: process 1: the server is away" in first
    assert "error: the server is away" in second


@pytest.mark.parametrize(("found", "waits"), [([[3, 3]], 0), ([[3, 2], [3, 2], [3, 3]], 2)])
def test_what_the_processes_see_is_waited_for(monkeypatch, found, waits):
    slept, answers = [], iter(found)
    monkeypatch.setattr(sharing, "exchange", lambda value: next(answers))
    assert sharing.agreed(lambda: 3, "checkpoints", sleep=slept.append) == 3
    assert len(slept) == waits


def test_what_they_never_see_alike_is_an_error(monkeypatch):
    monkeypatch.setattr(sharing, "exchange", lambda value: [value, None])
    with pytest.raises(UserError, match=r"do not see the same checkpoints \(process 0: 3; process 1: None\)"):
        sharing.agreed(lambda: 3, "checkpoints", sleep=lambda seconds: None)
