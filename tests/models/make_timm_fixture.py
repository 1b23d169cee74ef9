"""Writes what timm's networks say of two pictures, for `test_timm_parity`: logits, with weights that names decide.

    python -m tests.models.make_timm_fixture

Needs PyTorch and timm, see tests/peers.py.
"""

import datetime
import importlib.metadata
from pathlib import Path

import numpy as np

from tests import peers
from xception_jax.models import list_models

PATH = Path(__file__).parent / "timm_logits.npz"
SIZE = 139


def main() -> None:
    """Writes the file."""
    logits = {name: peers.run_torch(peers.timm_model(name), peers.pictures(SIZE)) for name in list_models()}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("timm", "torch"))
    np.savez(PATH, about=f"{versions}, {datetime.date.today()}", **logits)


if __name__ == "__main__":
    main()
