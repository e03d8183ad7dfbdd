"""A seeded part of benchmarks/coverage.py: the grid's own code says what the audit says, and its promises hold."""

from __future__ import annotations

import numpy as np
import pytest

import auditkit as ak
from auditkit.intervals import INTERVAL_CORRECTION, two_sided_level
from benchmarks.coverage import Case, Samples, simulate

RUNS = 1500
NOISE = 3 * np.sqrt(0.05 * 0.95 / RUNS)


def test_the_simulation_s_intervals_are_those_of_the_audit(rng: np.random.Generator) -> None:
    case, codes = Case(3, "40", 0.2, "residual", 0.1), np.repeat([0, 1, 2], 40)
    scores = rng.beta(1, 4, size=120)
    labels = (rng.random(120) < scores).astype(float)
    sums = {
        name: np.bincount(codes, values)[None]
        for name, values in {
            "score": scores, "score2": scores**2, "label": labels, "label2": labels, "cross": labels * scores
        }.items()
    }  # fmt: skip
    low, high = Samples.estimate(case, sums).limits(np.array([two_sided_level(0.95)]), INTERVAL_CORRECTION)
    finding = ak.audit(scores, ak.Groups({"g": codes}), case.criterion, labels=labels).findings[0]
    for k, gap in enumerate(finding.gaps):
        assert gap.pointwise_interval == pytest.approx((low[0, k], high[0, k]), rel=1e-9)


@pytest.mark.parametrize("kind", ["binary", "beta 5", "residual"])
@pytest.mark.parametrize(("groups", "sizes", "rate"), [(2, "20", 0.02), (2, "100", 0.3), (5, "100", 0.3)])
def test_coverage_and_false_verdicts(groups: int, sizes: str, rate: float, kind: str) -> None:
    found = simulate(Case(groups, sizes, rate, kind, 0.1), RUNS, seed=1)
    assert found["simultaneous"] >= 0.95 - NOISE
    if sizes == "100":
        assert found["simultaneous"] <= 0.97 + NOISE
    for name in ("pass at", "pass above", "fail at", "fail below"):
        assert found[name] <= 0.05 + NOISE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "beta 20"])
def test_fourteen_groups_of_twenty_rows(kind: str) -> None:
    found = simulate(Case(14, "20", 0.02, kind, 0.1), RUNS, seed=2)
    assert found["simultaneous"] >= 0.95 - NOISE
    assert found["fail at"] <= 0.05 + NOISE
    assert abs(found["worst corrected"]) <= max(abs(found["worst"]), 0.08)
