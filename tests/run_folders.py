"""Runs of generated predictions, for the tests of the report and of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

HOSTILE = "</script><script>alert(1)</script>"
MARKED = '<b>Other & "co"</b> {{ 7 * 7 }}'

Run = Callable[..., tuple[int, str, str]]
"""A command run: exit code, stdout and stderr."""


def predictions(*, rows: int = 1200, gap: float = 0.2, hostile: bool = False, seed: int = 0) -> pd.DataFrame:
    """Scores with a known gap between two groups, labels drawn from scores without it, and numeric features."""
    rng = np.random.default_rng(seed)
    first = rng.random(rows) < 0.5
    signal = rng.normal(size=rows)
    base = 1 / (1 + np.exp(-signal))
    scores = np.clip(0.15 + 0.6 * base + np.where(first, gap / 2, -gap / 2), 0, 1)
    names = (HOSTILE, MARKED) if hostile else ("Female", "Male")
    return pd.DataFrame(
        {
            "sex": np.where(first, *names),
            "region": rng.choice(["north", "south"], rows),
            "score": scores,
            "outcome": (rng.random(rows) < base).astype(int),
            "signal": signal,
            "proxy": first + rng.normal(size=rows),
        }
    )


def plan(**changes: Any) -> dict[str, Any]:
    """An audit file for `predictions`."""
    parity = {"family": "ECP", "attributes": "sex", "tolerance": 0.05}
    return {
        "name": "Test audit",
        "data": {
            "path": "predictions.csv",
            "attributes": ["sex"],
            "strata": ["region"],
            "label": "outcome",
            "score": "score",
            "features": ["signal", "proxy"],
        },
        "criteria": [parity, {"family": "equalized_odds", "attributes": "sex", "tolerance": 0.05}],
        "enforce": None if "criteria" in changes else [parity],
        "tune": {"epochs": 20},
        "methods": ["unconstrained", "calibrated", "head", "threshold_optimizer"],
        **changes,
    }


def write_case(folder: Path, frame: pd.DataFrame | None = None, **changes: Any) -> Path:
    """The table and its audit file in a folder; the path of the audit file."""
    (predictions() if frame is None else frame).to_csv(folder / "predictions.csv", index=False)
    file = folder / "audit.yaml"
    file.write_text(yaml.safe_dump(plan(**changes), allow_unicode=True), encoding="utf-8")
    return file
