"""Full disks, directories that can't be written to, damaged files, broken pictures, and two runs in one place."""

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from xception_jax.errors import TrainingError, UserError
from xception_jax.training import loop
from xception_jax.workdir import checksums
from xception_jax.workdir.checkpoints import Checkpoints
from xception_jax.workdir.log import read_log
from xception_jax.workdir.saver import Saver
from xception_jax.workdir.status import Status, read_status

pytestmark = pytest.mark.usefixtures("one_device")
needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str):
    """A file system in `folder`."""
    folder.mkdir(exist_ok=True)
    mount(*arguments, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def notes(workdir: Path) -> str:
    return "\n".join(r["text"] for r in read_log(workdir) if r["kind"] == "note")


def wait_for(path: Path) -> None:
    """Returns when there is such a file: a save in the background has ended."""
    while not path.exists():
        pass


def at_step(monkeypatch, step: int, action) -> None:
    """Does something in the middle of a run: when it is about to report `step`."""
    report = loop.RunLog.train

    def train(log, at, *arguments):
        if at == step:
            action()
        report(log, at, *arguments)

    monkeypatch.setattr(loop.RunLog, "train", train)


@pytest.mark.slow
@needs_mounts
def test_full_disk_in_the_middle_of_a_run(tiny, tmp_path, monkeypatch):
    """The run says so, goes on, and saves again when there is room; what it could not log is logged then."""
    workdir, filling = tmp_path / "run", tmp_path / "run" / "filling"
    tiny.num_steps = 12

    def fill():
        wait_for(workdir / "checkpoints" / "2")
        with contextlib.suppress(OSError), filling.open("wb", buffering=0) as f:
            while True:
                f.write(bytes(4096))

    def make_room():
        assert loop.Checkpoints(workdir, tiny.checkpoint, read_only=True).find("last") == 2
        filling.unlink()

    at_step(monkeypatch, 3, fill)
    at_step(monkeypatch, 10, make_room)
    with mounted(workdir, "-t", "tmpfs", "-o", "size=40m", "none"):
        loop.train(tiny, workdir)
        assert Checkpoints(workdir, tiny.checkpoint, read_only=True).find("last") == 12
        assert "the save of step 4 failed" in notes(workdir)
        assert "No space left" in notes(workdir)
        assert "the checkpoint of step 2 is kept" in notes(workdir)
        assert [r["step"] for r in read_log(workdir) if r["kind"] == "train"] == list(range(1, 13))
        assert not list((workdir / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
@needs_mounts
def test_checkpoints_become_read_only_and_stay_so(tiny, tmp_path, monkeypatch):
    """The run goes on to its end, tries again there, says that it could not save, and fails. What was saved is kept."""
    folder = tmp_path / "checkpoints"
    monkeypatch.setattr("xception_jax.workdir.saver.LAST_WAITS", (0, 0))
    with contextlib.ExitStack() as stack:

        def make_read_only():
            wait_for(folder / "2")
            stack.enter_context(mounted(folder, "--bind", str(folder)))
            mount("-o", "remount,bind,ro", str(folder))

        at_step(monkeypatch, 3, make_read_only)
        with pytest.raises(TrainingError, match=r"step 6 could not be saved; the checkpoint of step 2 is kept"):
            loop.train(tiny, tmp_path)
        assert "the save of step 4 failed ([Errno 30] Read-only file system" in notes(tmp_path)
        assert read_status(tmp_path)["state"] == "failed"
        assert Checkpoints(tmp_path, tiny.checkpoint, read_only=True).find("last") == 2


class Storage:
    """Stands for `Checkpoints`: the saves of the steps in `failing` fail, in the background."""

    in_progress = False
    latest = best_score = None

    def score(self, metrics):
        return metrics["top1"]

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
    checksums.write(tmp_path)
    assert checksums.damage(tmp_path) is None
    for path in [tmp_path / name for name in contents] + [tmp_path / checksums.NAME]:
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
        assert checksums.damage(tmp_path) is not None, path
        path.write_bytes(data)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tiny, tmp_path, capsys):
    loop.train(tiny, tmp_path)
    before = (tmp_path / "evaluation-validation.json", tmp_path / "evaluation-validation-predictions.npz")
    predictions = before[1].read_bytes()
    victim = max((tmp_path / "checkpoints" / "6" / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert Checkpoints(tmp_path, tiny.checkpoint, read_only=True).find("last") == 4
    assert "the checkpoint of step 6 is damaged" in capsys.readouterr().out
    loop.train(tiny, tmp_path)
    assert "Resuming from step 4" in capsys.readouterr().out
    assert f"it was moved to {tmp_path / 'damaged' / '6.0'}" in notes(tmp_path)
    assert (tmp_path / "damaged" / "6.0" / "state").is_dir()
    assert before[1].read_bytes() == predictions


HOLD = """
import sys, pathlib
from xception_jax.workdir.status import Status
with Status(pathlib.Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_and_a_dead_one_is_not_in_the_way(tiny, tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "mine\n"
    with pytest.raises(UserError, match=rf"process {owner.pid} on .* is using"):
        loop.train(tiny, tmp_path)
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
        with pytest.raises(UserError, match="process 7 on elsewhere is using"):
            Status(tmp_path, sleep=beat)
    else:
        with Status(tmp_path, sleep=beat):
            assert read_status(tmp_path)["pid"] == os.getpid()


@pytest.mark.slow
def test_unreadable_images_are_listed_and_bounded(tiny, tmp_path):
    for split in ("train", "validation"):
        for i in range(12):
            path = tmp_path / "pictures" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((32, 32, 3), 20 * i, np.uint8))
            if split == "train" and i in (3, 4):
                path.write_bytes(path.read_bytes()[:40])
    tiny.data.name, tiny.data.path, tiny.data.max_unreadable = "folder", str(tmp_path / "pictures"), 1
    with pytest.raises(UserError, match=r"image train/./\d.png cannot be read .*With 1 others"):
        loop.train(tiny, tmp_path / "run")
    tiny.data.max_unreadable = 2
    results = loop.train(tiny, tmp_path / "run")
    assert list(results["unreadable"]) == ["train/a/4.png", "train/b/3.png"]
    assert all("PNG picture that is cut off" in reason for reason in results["unreadable"].values())
    assert read_status(tmp_path / "run")["unreadable"] == 2
