"""Hundreds of damages to a small file of every format: no reader crashes, hangs, takes much memory, or raises anything
but `WeightsFileError`.

What checksums cover is never misread: .npz, .keras, PyTorch's zip files and tensor bundles give the very arrays or an
error. Safetensors, HDF5 and PyTorch's old files have none, and nothing can tell a changed number from a number: there
a damage to the numbers leaves names and shapes as they are, and one to names or shapes is for the loader to notice.
"""

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretrained import fuzz
from xception_jax.errors import WeightsFileError
from xception_jax.formats import sandbox
from xception_jax.formats.detect import read_tensors

DAMAGES = 500
FEWER = {"torch_old": 150}  # a tenth of a second each: its pickles are read in Python
CHECKED = {"npz", "npz_deflated", "bundle", "keras", "torch"}
IN_C = ("h5", "h5_groups", "h5_chunked", "torch", "torch_old")
MOST_CRASHES = 50
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def run(folder, damages=DAMAGES):
    """What came of each damage by number; "crash" is an outcome too (a hang is ended), and a new process goes on."""
    outcomes = {}
    first = 0
    while first < damages:
        # By its path: what the tests' package imports takes longer than the damages.
        command = [sys.executable, fuzz.__file__, str(folder), str(first), str(damages)]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        outcomes |= {line["number"]: line["outcome"] for line in lines if "outcome" in line}
        begun = [line["begun"] for line in lines if "begun" in line]
        if lines and "done" in lines[-1]:
            break
        assert begun, done.stderr
        outcomes[begun[-1]] = "crash"
        first = begun[-1] + 1
        assert list(outcomes.values()).count("crash") < MOST_CRASHES
    return outcomes


# The longest; chunks are h5's, and the old format is read by the same PyTorch.
LONG = ("h5_chunked", "torch_old")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in LONG)) for k in fuzz.FORMATS])
def test_damaged_files(kind, tmp_path, monkeypatch):
    if "torch" in kind:
        pytest.importorskip("torch")
    sound = fuzz.make(kind, tmp_path)
    damages = FEWER.get(kind, DAMAGES)
    outcomes = run(tmp_path, damages)
    counts = collections.Counter(outcomes.values())
    print(kind, dict(counts))
    assert len(outcomes) == damages
    assert not [x for x in counts if x.startswith("leak")]
    assert counts["error"] > damages / 10
    if kind in CHECKED:
        assert counts.keys() <= {"error", "same"}
    # What crashed a library, or made it hang, is a user's error: it has a process of its own.
    monkeypatch.setattr(sandbox, "SECONDS", 3)
    crashes = [n for n, outcome in outcomes.items() if outcome == "crash"]
    assert not crashes or kind in IN_C
    for number in crashes[:3]:
        path = fuzz.damaged_copy(sound, number, tmp_path)
        with pytest.raises(WeightsFileError, match="damaged"):
            read_tensors(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["h5", "torch_old"])
def test_damaged_files_read_in_a_process_of_their_own(kind, tmp_path):
    """As users do: an error, or the arrays, and this process goes on."""
    if "torch" in kind:
        pytest.importorskip("torch")
    sound = fuzz.make(kind, tmp_path)
    _, expected, _ = read_tensors(sound)
    # PyTorch writes addresses into its old files: which damages are errors differs from file to file.
    outcomes = run(tmp_path, 60)
    refused, read = (next(n for n, x in outcomes.items() if x in kinds) for kinds in (("error",), ("same", "numbers")))
    with pytest.raises(WeightsFileError):
        read_tensors(fuzz.damaged_copy(sound, refused, tmp_path))
    found = read_tensors(fuzz.damaged_copy(sound, read, tmp_path))[1]
    assert fuzz.compare(found, expected) == outcomes[read]


def test_damaged_numbers_leave_names_and_shapes(tmp_path):
    data = fuzz.make("safetensors", tmp_path).read_bytes()
    _, expected, _ = read_tensors(tmp_path / "weights")
    start = 8 + int.from_bytes(data[:8], "little")
    for at in range(start, len(data)):
        changed = bytearray(data)
        changed[at] ^= 0xFF
        (tmp_path / "damaged").write_bytes(changed)
        assert fuzz.compare(read_tensors(tmp_path / "damaged")[1], expected) == "numbers"
