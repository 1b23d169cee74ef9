"""What a run records of itself, and what it says if that has changed."""

import json
import subprocess
from importlib import metadata

import numpy as np
import pytest

from xception_jax.errors import UserError
from xception_jax.workdir import identity


class Named:
    """Examples of these names."""

    def __init__(self, names, class_names=("a", "b")):
        self._names, self.class_names = names, class_names

    def __len__(self):
        return len(self._names)

    def __getitem__(self, index):
        return np.zeros((1, 1, 3), np.uint8), 0

    def example_id(self, index):
        return self._names[index]


class Fingerprinted(Named):
    """Whose names nobody asks for."""

    def example_id(self, index):
        raise AssertionError

    def fingerprint(self):
        return "shards 1 to 7"


def test_the_same_data_is_the_same():
    a, b = (identity.of_source(Named(["x", "y"])) for _ in range(2))
    assert identity.differences(a, b) == []
    assert identity.of_source(Fingerprinted(["x"]))["examples"] == "shards 1 to 7"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Named(["x", "z"]), "the same number of examples, but different ones"),
        (Named(["y", "x"]), "the same number of examples, but different ones"),
        (Named(["x"]), "2 examples then, 1 now"),
        (Named(["x", "y"], ("a", "c")), "different classes (without b; with c)"),
        (Named(["x", "y"], ("b", "a")), "the same classes in another order"),
    ],
)
def test_what_differs_is_said(other, said):
    (difference,) = identity.differences(identity.of_source(Named(["x", "y"])), identity.of_source(other))
    assert difference == said


def test_other_evaluation_data_is_a_remark_and_other_training_data_an_error(tmp_path):
    splits = {name: identity.of_source(Named([name, "y"])) for name in ("train", "test")}
    assert identity.compare(tmp_path, splits, "train") == []  # a new run
    identity.record(tmp_path, splits, 0)
    assert identity.compare(tmp_path, splits, "train") == []
    changed = splits | {"test": identity.of_source(Named(["x"]))}
    (remark,) = identity.compare(tmp_path, changed, "train")
    assert 'split "test" has changed' in remark
    with pytest.raises(UserError, match=r'split "train" has changed since .* use another --workdir'):
        identity.compare(tmp_path, splits | {"train": identity.of_source(Named(["x"]))}, "train")


SPLITS = {"train": {"num_examples": 1, "class_names": ["a"], "examples": "0123"}}
START = {"code": {"commit": None, "dirty": None}, "versions": {"xception_jax": "0.1.0", "jax": "0.4.0"}}


@pytest.mark.parametrize(
    "contents",
    [
        {},
        [],
        None,
        "text",
        {"data": SPLITS},
        {"data": [], "starts": []},
        {"data": {"train": {}}, "starts": []},
        {"data": {"train": 3}, "starts": []},
        {"data": {"train": SPLITS["train"] | {"num_examples": "1"}}, "starts": []},
        {"data": {"train": SPLITS["train"] | {"class_names": [["a"]]}}, "starts": []},
        {"data": SPLITS, "starts": {}},
        {"data": SPLITS, "starts": [{}]},
        {"data": SPLITS, "starts": [START | {"code": {}}]},
        {"data": SPLITS, "starts": [START | {"code": {"commit": 1, "dirty": True}}]},
        {"data": SPLITS, "starts": [START | {"versions": []}]},
    ],
    ids=str,
)
def test_what_is_not_the_record_of_a_run_is_refused(contents, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(contents))
    for use in (
        lambda: identity.compare(tmp_path, SPLITS, "train"),
        lambda: identity.recorded(tmp_path, "train"),
        lambda: identity.record(tmp_path, SPLITS, 1),
    ):
        with pytest.raises(UserError, match=r"run\.json is damaged: it is not the record of a run"):
            use()


def test_other_versions_are_said_where_there_is_no_checkout(tmp_path, monkeypatch):
    """As in an environment that has the package installed."""
    monkeypatch.setattr(identity, "code", lambda: {"commit": None, "dirty": None})
    (tmp_path / "run.json").write_text(json.dumps({"data": SPLITS, "starts": [START]}))
    (remark,) = identity.compare(tmp_path, SPLITS, "train")
    ours = f"xception_jax was 0.1.0, now it is {metadata.version('xception-jax')}"
    assert remark == f"{ours}; jax was 0.4.0, now it is {metadata.version('jax')}"
    identity.record(tmp_path, SPLITS, 12)
    assert identity.compare(tmp_path, SPLITS, "train") == []


def test_code_is_a_commit_and_whether_it_was_changed(tmp_path, monkeypatch):
    """Of a repository made for it; the run that another commit resumes says so."""
    monkeypatch.setattr(identity, "CHECKOUT", tmp_path)
    monkeypatch.setattr(identity, "code", identity.code.__wrapped__)  # as in a new process each time
    assert identity.code() == {"commit": None, "dirty": None}
    for key, value in (("GIT_AUTHOR", "a"), ("GIT_COMMITTER", "b")):
        monkeypatch.setenv(f"{key}_NAME", value)
        monkeypatch.setenv(f"{key}_EMAIL", f"{value}@example.com")

    def git(*arguments):
        done = subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(text):
        (tmp_path / "file").write_text(text)
        git("add", "file")
        git("commit", "-m", text)
        return git("rev-parse", "HEAD")

    git("init")
    assert identity.code() == {"commit": None, "dirty": None}  # without a commit
    first = commit("one")
    assert identity.code() == {"commit": first, "dirty": False}
    splits = {"train": identity.of_source(Named(["x"]))}
    identity.record(tmp_path / "run", splits, 0)
    (tmp_path / "file").write_text("two")
    assert identity.code() == {"commit": first, "dirty": True}
    (remark,) = identity.compare(tmp_path / "run", splits, "train")
    assert remark == f"the code was commit {first[:10]}, now it is commit {first[:10]} with changes"
    second = commit("three")
    identity.record(tmp_path / "run", splits, 12)
    starts = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert [(s["code"]["commit"], s["step"]) for s in starts] == [(first, 0), (second, 12)]
