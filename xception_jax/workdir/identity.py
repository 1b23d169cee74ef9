"""The identity of a run: its code, data, versions and device. Recorded at each start, compared when it is resumed."""

import datetime
import functools
import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from xception_jax.data import Source
from xception_jax.errors import UserError
from xception_jax.filesystem import atomic
from xception_jax.version import __version__
from xception_jax.workdir import small_files

NAME = "run.json"
SCHEMA = 1
COMPARED = ("xception_jax", "jax")  # versions
CHECKOUT = Path(__file__).resolve().parents[2]
GIT_SECONDS = 10


def environment() -> dict[str, Any]:
    """The environment: code, versions by name (None if not installed), and device (platform, kind, count)."""
    versions: dict[str, str | None] = {"xception_jax": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    versions |= {"orbax": _version("orbax-checkpoint")}
    versions |= {"opencv": _version("opencv-python-headless") or _version("opencv-python")}
    device = jax.devices()[0]
    return {
        "code": code(),
        "versions": versions,
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
    }


@functools.cache
def code() -> dict[str, Any]:
    """The code's commit, and whether tracked files differ from it (dirty); None outside a git checkout.

    Of the first call in a process: its code is loaded, whatever becomes of the files.
    """
    unknown = {"commit": None, "dirty": None}
    if not (CHECKOUT / ".git").exists():
        return unknown
    command = ["git", "-C", str(CHECKOUT), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        status = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return unknown
    commit = re.search(r"^# branch\.oid (\w+)$", status, re.MULTILINE)  # none before the first commit: "(initial)"
    dirty = any(not line.startswith("#") for line in status.splitlines())
    return {"commit": commit[1], "dirty": dirty} if commit else unknown


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def of_source(source: Source) -> dict[str, Any]:
    """The identity of a split: num_examples, class_names, and a SHA-256 of the examples' names.

    A source with a cheaper fingerprint than all of its examples' names has a method `fingerprint`.
    """
    if hasattr(source, "fingerprint"):
        examples = source.fingerprint()
    else:
        digest = hashlib.sha256()
        for i in range(len(source)):
            digest.update(f"{source.example_id(i)}\n".encode(errors="surrogateescape"))
        examples = digest.hexdigest()
    return {"num_examples": len(source), "class_names": list(source.class_names), "examples": examples}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The differences between two identities of a split, as phrases; empty if they are the same data."""
    phrases = []
    if old["num_examples"] != new["num_examples"]:
        phrases.append(f"{old['num_examples']:,} examples then, {new['num_examples']:,} now")
    elif old["examples"] != new["examples"]:
        phrases.append("the same number of examples, but different ones")
    return phrases + class_differences(old["class_names"], new["class_names"])


def class_differences(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """The difference between two lists of classes, as at most one phrase."""
    if list(old) == list(new):
        return []
    gone, added = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    changes = [f"{what} {', '.join(names[:5])}" for what, names in (("without", gone), ("with", added)) if names]
    return [f"different classes ({'; '.join(changes)})" if changes else "the same classes in another order"]


def compare(workdir: Path, splits: dict[str, dict[str, Any]], train_split: str) -> list[str]:
    """The changes since the run was started, as sentences.

    Args:
      workdir: the run's folder.
      splits: `of_source` of each split, by its name.
      train_split: the split that must be the same.

    Raises:
      UserError: the training data has changed, or run.json is damaged.
    """
    if (record := read(workdir)) is None:
        return []
    sentences = []
    for name, identity in splits.items():
        if (old := record["data"].get(name)) and (phrases := differences(old, identity)):
            what = f'split "{name}" has changed since {workdir} was started: {"; ".join(phrases)}'
            if name == train_split:
                raise UserError(f"{what}; restore the data, or use another --workdir")
            sentences.append(what)
    for start in record["starts"][-1:]:
        sentences += _changes_of_code(start)
    return sentences


def _changes_of_code(start: dict[str, Any]) -> list[str]:
    """How the code and the versions that matter differ from those of an earlier start: a sentence, or none."""
    then, now = start["versions"], environment()["versions"]
    was = {"the code": _describe(start["code"])} | {name: then.get(name) for name in COMPARED}
    phrases = [
        f"{what} was {was[what]}, now it is {found}"
        for what, found in {"the code": _describe(code()), **{name: now[name] for name in COMPARED}}.items()
        if was[what] != found
    ]
    return ["; ".join(phrases)] if phrases else []


def recorded(workdir: Path, split: str) -> dict[str, Any] | None:
    """`of_source` of a split at the run's first start, or None if that is not recorded; errors as of `read`."""
    record = read(workdir)
    return record["data"].get(split) if record else None


def read(workdir: Path) -> dict[str, Any] | None:
    """The contents of run.json, or None if there is none: the run is new, or was written by an earlier version.

    Raises:
      UserError: the file is damaged.
    """
    path = workdir / NAME
    if not path.exists():
        return None
    contents = small_files.read_json(path)
    if not _is_record(contents):
        raise UserError(f"{path} is damaged: it is not the record of a run. Delete it, or use another work directory")
    return contents


def _is_record(contents: Any) -> bool:
    """Whether JSON has the form of run.json, as far as it is read."""
    return (
        isinstance(contents, dict)
        and isinstance(contents.get("data"), dict)
        and isinstance(contents.get("starts"), list)
        and all(map(_is_split, contents["data"].values()))
        and all(map(_is_start, contents["starts"]))
    )


def _is_split(found: Any) -> bool:
    """Whether it is what `of_source` returns."""
    types = {"num_examples": int, "class_names": list, "examples": str}
    return (
        isinstance(found, dict)
        and all(isinstance(found.get(key), kind) for key, kind in types.items())
        and all(isinstance(name, str) for name in found["class_names"])
    )


def _is_start(found: Any) -> bool:
    """Whether it has the code and the versions of a start, as `environment` returns them."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("versions"), dict)
        and isinstance(found.get("code"), dict)
        and {"commit", "dirty"} <= found["code"].keys()
        and isinstance(found["code"]["commit"], str | None)
    )


def _describe(code: dict[str, Any]) -> str:
    if code["commit"] is None:
        return "an installed version"
    return f"commit {code['commit'][:10]}" + (" with changes" if code["dirty"] else "")


def record(workdir: Path, splits: dict[str, dict[str, Any]], step: int) -> None:
    """Writes run.json: the data at the first start, and each start of the run with its step; errors as of `read`."""
    old = read(workdir) or {"data": {}, "starts": []}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    starts = [*old["starts"], {"date": date, "step": step, **environment()}]
    contents = {"schema": SCHEMA, "data": splits | old["data"], "starts": starts}
    atomic.write_atomically(workdir / NAME, json.dumps(contents, indent=2) + "\n")
