"""The notebook, from top to bottom, in its small form on the CPU."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "experiments" / "notebooks" / "train_and_resume.ipynb"


def run(monkeypatch, tmp_path, accelerator):
    monkeypatch.setenv("XCEPTION_JAX_ACCELERATOR", accelerator)
    monkeypatch.setenv("XCEPTION_JAX_PROJECT", str(ROOT))
    monkeypatch.setenv("XCEPTION_JAX_WORKDIR", str(tmp_path / "run"))
    monkeypatch.setenv("XCEPTION_JAX_SMALL", "1")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))


@pytest.mark.slow
def test_runs_from_top_to_bottom(monkeypatch, tmp_path):
    text = run(monkeypatch, tmp_path, "cpu")
    assert "killed" in text
    assert "Resuming from step" in text
    assert "360 of 360 test images" in text


@pytest.mark.skipif(Path("/dev/accel0").exists(), reason="this machine has a TPU")
def test_stops_without_its_accelerator(monkeypatch, tmp_path):
    with pytest.raises(CellExecutionError, match="There is no tpu here"):
        run(monkeypatch, tmp_path, "tpu")
