"""Full disks, directories that can't be written to, damaged files, broken pictures, and two runs in one place."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest

from xception_jax import manifest, training
from xception_jax.errors import TrainingError, UserError
from xception_jax.saving import Saver
from xception_jax.status import Status, read_status


class Storage:
    """Stands for `Checkpoints`: the saves of the steps in `failing` fail, in the background."""

    in_progress = False
    latest = None

    def __init__(self, failing):
        self.failing, self.saved, self.tried, self.error = set(failing), set(), [], None

    def save(self, state, metrics, run):
        self.tried.append(int(state.step))
        if int(state.step) in self.failing:
            self.error = OSError("the storage is away")
        else:
            self.saved.add(int(state.step))

    def wait(self):
        error, self.error = self.error, None
        if error:
            raise error

    def holds(self, step):
        return step in self.saved

    def discard_unfinished(self):
        pass


class Silence:
    """Stands for a log and a status."""

    def __getattr__(self, name):
        return lambda *arguments, **fields: None


class State:
    def __init__(self, step):
        self.step = step


def test_failed_saves_are_tried_again_ever_later():
    storage = Storage(range(10, 1000))
    saver = Saver(storage, Silence(), Silence(), {})
    for step in range(10, 100):
        if step == 10 or saver.due():
            saver.save(State(step), None)
    waits = np.diff(storage.tried)
    assert list(waits) == [1, 2, 4, 8, 16]  # and then it is left to the regular saves
    storage.failing.clear()
    saver.save(State(200), None)
    assert not saver.due()
    assert storage.saved == {200}


def test_the_end_is_tried_several_times():
    slept = []
    storage = Storage([7])
    saver = Saver(storage, Silence(), Silence(), {}, sleep=slept.append)
    with pytest.raises(TrainingError, match="step 7 could not be saved; there is no checkpoint yet"):
        saver.finish(State(7), None)
    assert len(storage.tried) == len(slept) == 6
    assert slept == sorted(slept)


@pytest.mark.parametrize("kind", ["bit", "cut", "emptied", "deleted"])
def test_damage_to_any_file_is_recognised(tmp_path, kind):
    """At a random place of each file in turn, the hashes included."""
    rng = random.Random(kind)
    contents = {"a": b"12345", "d/b": bytes(range(256)) * 40, "d/e/c": b"{}  "}
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    manifest.write(tmp_path)
    assert manifest.damage(tmp_path) is None
    for path in [tmp_path / name for name in contents] + [tmp_path / manifest.NAME]:
        data = path.read_bytes()
        at = rng.randrange(
            len(data) - 2
        )  # without its last two bytes, "}" and a new line, the hashes may be as they were
        if kind == "deleted":
            path.unlink()
        elif kind == "bit":
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
        else:
            path.write_bytes(data[:at] if kind == "cut" else b"")
        assert manifest.damage(tmp_path) is not None, path
        path.write_bytes(data)


HOLD = """
import sys, pathlib
from xception_jax.status import Status
with Status(pathlib.Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_and_a_dead_one_is_not_in_the_way(tiny, tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "mine\n"
    with pytest.raises(UserError, match=rf"process {owner.pid} on .* is at work in"):
        training.train(tiny, tmp_path)
    owner.kill()
    owner.communicate()
    assert read_status(tmp_path)["state"] == "starting"  # it had no time to say that it ended
    with Status(tmp_path, sleep=pytest.fail):
        pass
    assert read_status(tmp_path)["state"] == "finished"


@pytest.mark.parametrize("alive", [True, False])
def test_an_owner_on_another_host_is_told_by_its_heartbeat(tmp_path, alive):
    path = tmp_path / "status.json"
    theirs = {"state": "training", "host": "elsewhere", "pid": 7, "heartbeat": 1.0}
    path.write_text(json.dumps(theirs))

    def beat(seconds):
        if alive:
            path.write_text(json.dumps(theirs | {"heartbeat": 2.0}))

    if alive:
        with pytest.raises(UserError, match="process 7 on elsewhere is at work"):
            Status(tmp_path, sleep=beat)
    else:
        with Status(tmp_path, sleep=beat):
            assert read_status(tmp_path)["pid"] == os.getpid()
