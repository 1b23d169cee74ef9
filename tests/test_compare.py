"""Comparisons of two evaluations, and the command."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.test_certificate import FACTS
from xception_jax.compare import show_all
from xception_jax.errors import UserError
from xception_jax.evaluation import report
from xception_jax.evaluation.comparison import compare, compare_all, verdict
from xception_jax.evaluation.predictions import Scored
from xception_jax.evaluation.report import Predictions, Seen
from xception_jax.evaluation.statistics import McNemar, holm
from xception_jax.tasks.task import REGRESSION

N, NAMES = 100, ["[bold]cat", "dog", "newt"]
LABELS = np.arange(N, dtype=np.int32) % 3


def evaluated(folder, wrong, *, order=None, labels=LABELS, ids=None, **facts):
    """Writes the certificate of a network that is wrong about the examples `wrong`."""
    order = np.arange(N) if order is None else order
    top5 = (LABELS[:, None] + np.arange(3, dtype=np.int32)) % 3
    top5[list(wrong)] = np.roll(top5[list(wrong)], -1, axis=1)
    ids = [f"{i}.jpg" for i in range(N)] if ids is None else ids
    confidence, loss = np.full(N, 0.9, np.float32), np.full(N, 0.5, np.float32)
    p = Predictions([ids[i] for i in order], labels[order], top5[order], confidence, loss)
    facts = {**FACTS, "split_size": N, "seen": Seen({}), "class_names": NAMES, **facts}
    report.write(folder, report.certificate(p, **facts), p)
    return folder


@pytest.fixture
def a(tmp_path):
    """Wrong about twenty cats and one dog."""
    return evaluated(tmp_path / "a", [*range(0, 60, 3), 1])


@pytest.fixture
def b(tmp_path):
    """Wrong about one cat that A has right, and one dog that A has wrong; in another order."""
    return evaluated(tmp_path / "b", [63, 1], order=np.arange(N)[::-1])


def test_examples_are_matched_by_name(a, b):
    result = compare(a, b)
    assert (result["only_a"], result["only_b"]) == (1, 20)
    assert result["p_value"] == pytest.approx(2 * 22 / 2**21)
    assert result["difference"] == pytest.approx(0.19)
    low, high = result["difference_interval"]
    assert 0.1 < low < 0.19 < high < 0.3
    assert result["verdict"] == "B is better by 19.00 points (p < 0.0001)."
    assert result["classes"] == [{"name": "[bold]cat", "count": 34, "correct_a": 14, "correct_b": 33}]
    assert compare(b, a)["verdict"].startswith("A is better by 19.00")


def test_each_of_many_is_tested_against_the_first(tmp_path, a, b):
    third = evaluated(tmp_path / "third", [0, 1, 2, *range(3, 60, 3)])
    result = compare_all([a, b, third])
    assert [run["path"] for run in result["runs"]] == [str(a), str(b), str(third)]
    to_b, to_third = result["against_first"]
    alone = compare(a, b)
    assert {name: alone[name] for name in ("p_value", "difference")}.items() <= to_b.items()
    assert to_b["holm_p_value"] == 2 * to_b["p_value"]  # the smaller of two
    assert to_third["difference"] == pytest.approx(-0.01)  # newt 2 alone
    assert to_third["holm_p_value"] == to_third["p_value"] == 1


def test_runs_on_several_numbers_are_listed(tmp_path, capsys):
    """Their mean absolute error is the mean over the numbers."""
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(30, 2)).astype(np.float32)
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        logits = targets + rng.normal(size=targets.shape).astype(np.float32)
        loss = np.square(logits - targets).mean(axis=1)
        p = Scored([f"{i}.jpg" for i in range(30)], targets, logits, loss, task=REGRESSION)
        facts = {**FACTS, "split_size": 30, "seen": Seen({}), "class_names": ["x", "y"]}
        report.write(folder, report.certificate(p, **facts), p)
    result = compare_all(folders)
    show_all(result)
    table = capsys.readouterr().out
    assert "MAE" in table
    assert f"{np.abs(logits - targets).mean():.4f}" in table


def test_p_values_are_corrected_as_by_hand():
    """Four tests: the smallest times 4, the next times 3, and no less than the one before it."""
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1, 1]


def test_verdict_follows_the_test():
    assert verdict(McNemar(4, 6, 0.75), 1000) == "No significant difference: B - A is +0.20 points (p = 0.75)."
    assert verdict(McNemar(0, 8, 0.0078), 1000) == "B is better by 0.80 points (p = 0.0078)."


def test_a_network_does_not_differ_from_itself(a):
    result = compare(a, a)
    assert (result["p_value"], result["difference"], result["classes"]) == (1.0, 0.0, [])
    assert result["verdict"].startswith("No significant difference")


def test_what_was_seen_differently_is_told(tmp_path, a, b):
    """Not how many pictures were turned, which are A's and B's alike; nor if a certificate of 0.1.0 does not tell."""
    seen = {"image_size": 32, "orientation": False}
    other = evaluated(tmp_path / "other", [63, 1], pictures=seen, seen=Seen({}, {"turned upright": 9}))
    assert compare(a, other)["seen_differently"] == {"orientation": [True, False]}
    assert compare(a, b)["seen_differently"] == {}
    path = other / "evaluation-test.json"
    record = json.loads(path.read_text())
    del record["pictures"], record["unreadable"]
    path.write_text(json.dumps(record))
    assert compare(a, other)["seen_differently"] == {}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"split": "validation"}, 'A is of split "test" but B of split "validation"'),
        ({"class_names": ["cat", "dog", "newt"]}, "have different classes"),
        ({"ids": [f"{i}.png" for i in range(N)]}, "100 only in A .*100 only in B"),
        (
            {"labels": np.where(np.arange(N) == 5, 0, LABELS).astype(np.int32)},
            r"different labels for 1 examples.*5\.jpg",
        ),
    ],
)
def test_what_is_not_comparable_is_refused(tmp_path, a, other, message):
    with pytest.raises(UserError, match=message):
        compare(a, evaluated(tmp_path / "other", [], **other))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "xception_jax.compare", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_prints_plain_text_and_writes_json(tmp_path, a, b):
    certificate_b = b / "evaluation-test.json"
    evaluated(a, [], split="validation")
    done = command(a, certificate_b, "--split=test", f"--json={tmp_path / 'out.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    rows = {line[:24].strip(): line.split()[-4:] for line in done.stdout.splitlines()}
    assert rows["top-1 (95 % interval)"] == ["%", "(93.00", "to", "99.45)"]
    assert "B is better by 19.00 points (p < 0.0001)." in done.stdout.splitlines()
    assert "[bold]cat" in done.stdout  # a name, not markup
    expected = compare(a, certificate_b, "test")
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(expected))


def test_command_says_what_is_wrong_in_one_line(tmp_path, a):
    for arguments, message in [
        ((a,), "usage: python -m xception_jax.compare A B"),
        ((a, a, "--splitt=test"), "Unknown command line flag 'splitt'"),
        ((a, tmp_path / "absent"), "there is neither a certificate nor a work directory"),
        ((a, a, f"--json={a}"), "cannot be used"),
    ]:
        done = command(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
