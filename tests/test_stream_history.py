"""What is read from a ledger must be what the stream itself reported when it stood there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import auditkit as ak


def run(stream: ak.OnlineEnforcer, *, batches: int, labels: bool) -> list[dict[str, Any]]:
    rng = np.random.default_rng(4)
    reports = []
    for batch in range(batches):
        sex = rng.choice(["f", "m", "x"], 40)
        scores = np.clip(rng.normal(0.4 + 0.2 * (sex == "m"), 0.1), 0, 1)
        stream.step(scores, {"sex": sex}, batch_id=str(batch))
        reports.append(stream.report().to_dict())
        if labels:
            stream.observe((rng.random(40) < scores).astype(float), batch_id=str(batch))
            reports.append(stream.report().to_dict())
    return reports


@pytest.mark.parametrize("labels", [False, True])
def test_the_ledger_tells_the_gaps_that_were_reported(tmp_path: Path, labels: bool) -> None:
    criteria = [ak.ECP("sex", tolerance=0.02), *([ak.EER("sex", tolerance=0.05)] if labels else [])]
    with ak.OnlineEnforcer(criteria, store=tmp_path / "s.db", bounds=(0, 1)) as stream:
        reports = run(stream, batches=12, labels=labels)
        direct = ak.describe_stream(stream)
    found = ak.describe_stream(tmp_path / "s.db", points=1000)
    json.dumps(found, allow_nan=False)
    assert {**direct, "compared": [], "history": []} == {**found, "compared": [], "history": []}
    assert len(found["history"]) == len(reports)
    for point, report in zip(found["history"], reports, strict=True):
        assert point["rows"] == report["rows"]
        told = {(gap["criterion"], gap["name"]): gap["gap"] for gap in report["gaps"]}
        for which, gap in zip(found["compared"], point["gaps"], strict=True):
            known = told.get((which["criterion"], which["name"]))
            assert gap == pytest.approx(known) if gap is not None else known is None or not np.isfinite(known)


def test_corrections_are_the_plan_that_the_bound_is_about(tmp_path: Path) -> None:
    with ak.OnlineEnforcer(ak.ECP("sex", tolerance=0.02), store=tmp_path / "s.db") as stream:
        run(stream, batches=20, labels=False)
        found = ak.describe_stream(stream)
        state = stream.state
    shift = {row["group"]: row["shift"] for row in found["corrections"]}
    means = {key[0]: sums.raw / sums.rows + shift[str(key[0])] for key, sums in state.total.items()}
    cells = state.total.values()
    spread = np.sqrt(sum(sums.square - sums.raw**2 / sums.rows for sums in cells) / state.rows)
    assert max(means.values()) - min(means.values()) == pytest.approx(0.02 - 0.4 * spread / np.sqrt(state.rows))


def test_points_are_thinned_and_the_last_is_kept(tmp_path: Path) -> None:
    with ak.OnlineEnforcer(ak.ECP("sex", tolerance=0.02), store=tmp_path / "s.db") as stream:
        run(stream, batches=23, labels=False)
    found = ak.describe_stream(tmp_path / "s.db", points=5)
    assert len(found["history"]) <= 5
    assert found["history"][-1]["rows"] == found["rows"] == 920


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ak.AuditkitError, match="there is no store"):
        ak.describe_stream(tmp_path / "none.db")
    with ak.OnlineEnforcer(ak.ECP("sex", tolerance=0.02)) as stream:
        assert ak.describe_stream(stream)["rows"] == 0
        with pytest.raises(ak.AuditkitError, match="read from a ledger"):
            ak.describe_stream(stream, points=3)
        with pytest.raises(ak.AuditkitError, match="points must be at least 0"):
            ak.describe_stream(stream, points=-1)
