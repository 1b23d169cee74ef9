"""What a run reports, before and after it was interrupted."""

import io
import json
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from xception_jax.errors import UserError
from xception_jax.workdir import log as log_lib
from xception_jax.workdir.curves import plot_curves
from xception_jax.workdir.log import RunLog, read_log

SPEED = {"steps_per_second": 2.0, "images_per_second": 200.0, "data_wait": 0.1, "memory_bytes": 10}


def metrics(step):
    return {"loss": 1 / step, "top1": 0.5, "learning_rate": 0.1}


def run(workdir, first, last, **options):
    """Reports training steps `first` to `last`."""
    with RunLog(workdir, 100, **{"resume_step": first - 1, "primary": True, **options}) as log:
        for step in range(first, last + 1):
            log.train(step, metrics(step), {"images_per_second": 200.0})


def test_records_have_what_was_reported(tmp_path):
    with RunLog(tmp_path, 10, resume_step=0, primary=True) as log:
        log.train(2, metrics(2), {})
        log.train(4, metrics(4), SPEED)
        log.evaluation(4, {"loss": 0.3, "top1": 0.9, "top5": 1.0}, "test")
        log.saved(2, 1.5)
        log.note("a remark")
        # Each line is on disk at once: a killed process loses none.
        assert len(read_log(tmp_path)) == 5
    records = read_log(tmp_path)
    assert all(r.pop("time") > 1.7e9 for r in records)
    assert records == [
        {"kind": "train", "step": 2, **metrics(2)},
        {"kind": "train", "step": 4, **metrics(4), **SPEED},
        {"kind": "evaluation", "step": 4, "split": "test", "loss": 0.3, "top1": 0.9, "top5": 1.0},
        {"kind": "save", "step": 2, "seconds": 1.5},
        {"kind": "note", "step": 4, "text": "a remark"},
    ]


def test_resuming_drops_later_steps_and_half_a_line(tmp_path):
    run(tmp_path, 1, 5)
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text() + '{"kind": "train", "st')
    assert [r["step"] for r in read_log(tmp_path)] == [1, 2, 3, 4, 5]
    run(tmp_path, 4, 6)
    assert [r["step"] for r in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["log.jsonl", "tensorboard"]


def test_a_run_that_left_no_checkpoint_starts_its_log_anew(tmp_path):
    run(tmp_path, 1, 3)
    run(tmp_path, 1, 1)
    assert [r["step"] for r in read_log(tmp_path)] == [1]


def test_what_is_not_finite_is_null(tmp_path):
    with RunLog(tmp_path, 10, resume_step=0, primary=True) as log:
        log.evaluation(1, {"loss": float("nan"), "top1": 0.5, "top5": float("inf")})
    (record,) = read_log(tmp_path)
    assert (record["loss"], record["top5"], record["top1"]) == (None, None, 0.5)


def test_a_damaged_or_missing_log_is_named(tmp_path):
    with pytest.raises(UserError, match=r"log\.jsonl is missing"):
        read_log(tmp_path)
    run(tmp_path, 1, 2)
    path = tmp_path / "log.jsonl"
    path.write_text("{?\n" + path.read_text())
    with pytest.raises(UserError, match=r"line 1 of .* is damaged"):
        read_log(tmp_path)


def test_other_processes_write_nothing(tmp_path, capsys):
    with RunLog(tmp_path / "run", 10, resume_step=0, primary=False) as log:
        log.train(1, metrics(1), {})
        log.evaluation(1, metrics(1))
        log.note("a remark")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def events(workdir):
    """TensorBoard's events of a work directory, in the order of its files."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # TFRecord: length, its checksum, contents, their checksum
            (length,) = struct.unpack_from("<Q", data, at)
            contents = data[at + 12 : at + 12 + length]
            assert data[at + 8 : at + 12] == struct.pack("<I", masked_crc32c(data[at : at + 8]))
            assert data[at + 12 + length : at + 16 + length] == struct.pack("<I", masked_crc32c(contents))
            yield Event.FromString(contents)
            at += 16 + length


def test_tensorboard_events(tmp_path):
    run(tmp_path, 1, 3)
    with RunLog(tmp_path, 100, resume_step=2, primary=True) as log:
        log.evaluation(3, {"top1": 0.75})
    found = list(events(tmp_path))
    assert found[0].file_version == "brain.Event:2"
    assert all(e.wall_time > 1.7e9 for e in found)
    scalars = {(e.step, v.tag): v.simple_value for e in found for v in e.summary.value}
    assert scalars[3, "train/loss"] == np.float32(1 / 3)
    assert scalars[2, "train/images_per_second"] == 200
    assert scalars[3, "evaluation/validation/top1"] == 0.75
    # TensorBoard hides what was written before a start of session at or after its step: nothing, then step 3.
    assert [e.step for e in found if e.session_log.status] == [1, 3]


def test_plain_lines_and_the_time_left(tmp_path, capsys):
    seconds = iter([0.0, 60.0, 65.0, 67.0])  # a first step with compilation, five of a second, one of two
    with RunLog(tmp_path, 4006, resume_step=1000, primary=True, clock=lambda: next(seconds)) as log:
        log.train(1001, metrics(4), {})
        log.train(1006, metrics(4), {"steps_per_second": 1.234, "images_per_second": 123.44, "data_wait": 0.25})
        log.train(1007, {"loss": 0.5}, {"images_per_second": 32.0, "data_wait": 0.01})
    assert capsys.readouterr().out.splitlines() == [
        "step 1,001/4,006 25.0 %  loss 0.2500  top-1 0.5000  lr 0.1  50:05:00 left",
        "step 1,006/4,006 25.1 %  loss 0.2500  top-1 0.5000  lr 0.1  1.23 steps/s  123.4 images/s  "
        "25 % waiting for data  00:50:00 left",
        "step 1,007/4,006 25.1 %  loss 0.5000  32.0 images/s  00:58:19 left",
    ]


def test_numbers_have_the_digits_that_tell_something(tmp_path, capsys):
    """Of a regression on prices, and of a loss that is nearly 0."""
    seconds = iter([0.0, 1.0])
    with RunLog(tmp_path, 10, resume_step=0, primary=True, clock=lambda: next(seconds)) as log:
        log.train(1, {"loss": 0.0012344, "mae": 36363.4567}, {})
        log.evaluation(1, {"loss": 2.345678, "rmse": 45678.9})
    assert capsys.readouterr().out.splitlines() == [
        "step 1/10 10.0 %  loss 0.001234  MAE 36,363  00:00:09 left",
        "step 1, validation: loss 2.346, rmse 45,679",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminals_line_is_overwritten_and_left_for_others(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(log_lib.sys, "stdout", Terminal())
    with RunLog(tmp_path, 10, resume_step=0, primary=True) as log:
        log.train(1, metrics(1), {})
        log.train(2, metrics(2), {})
        log.note("a remark")
        log.train(3, metrics(3), {})
    lines = log_lib.sys.stdout.getvalue().split("\n")
    assert len(lines) == 4
    assert lines[0].split("\r")[2].startswith("step 2/10")
    assert lines[1] == "a remark"
    assert lines[2].startswith("\rstep 3/10")
    drawn = [part.removesuffix("\x1b[K") for line in lines for part in line.split("\r")]
    assert max(map(len, drawn)) == 29  # a full line would wrap


@pytest.mark.parametrize("with_evaluations", [False, True])
def test_curves_are_drawn(tmp_path, with_evaluations):
    run(tmp_path, 1, 5)
    bare = plot_curves(tmp_path, "title").read_bytes()
    with RunLog(tmp_path, 10, resume_step=5, primary=True) as log:
        if with_evaluations:
            log.evaluation(5, {"loss": float("nan"), "top1": 0.5, "top5": 1.0})
    drawn = plot_curves(tmp_path, "title")
    assert drawn == tmp_path / "curves.png"
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert (drawn.read_bytes() != bare) == with_evaluations
