"""Where the tests find real data: the folder named by AUDITKIT_DATA, or ``shared/data`` beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[2] / "shared" / "data"


def data_path(name: str) -> Path:
    """Path of a real data file or folder; skips the test, saying why, where it is absent."""
    path = Path(os.environ.get("AUDITKIT_DATA", BESIDE)) / name
    if not path.exists():
        pytest.skip(f"real data {name} is not here; set AUDITKIT_DATA to the folder that holds it")
    return path
