"""Clustered rows: variances over clusters, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

import auditkit as ak
from auditkit.errors import InputError


def draw(rng: np.random.Generator, people: int = 120, rows: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    person = np.repeat(np.arange(people), rows)
    scores = rng.normal(size=people)[person] + rng.normal(size=len(person))
    return scores, np.repeat(["f", "m"], people // 2)[person], person


def test_standard_errors_are_those_of_cluster_totals(rng: np.random.Generator) -> None:
    scores, sex, person = draw(rng)
    finding = ak.audit(scores, ak.Groups({"sex": sex}), ak.ECP("sex", tolerance=1), clusters=person).findings[0]
    for cell in finding.cells:
        mine = sex == cell.group
        totals = np.bincount(person[mine], weights=scores[mine] - scores[mine].mean())[np.unique(person[mine])]
        expected = np.sqrt((totals**2).sum() / mine.sum() ** 2 * 60 / 59)
        assert cell.standard_error == pytest.approx(expected, rel=1e-9)


def test_a_cluster_for_every_row_changes_nothing(rng: np.random.Generator) -> None:
    scores, labels, weights = rng.random(200), rng.random(200), rng.exponential(size=200)
    groups = ak.Groups({"g": rng.integers(0, 3, 200)})
    criteria = [ak.ECP("g", tolerance=0.1), ak.EER("g", tolerance=0.1)]
    plain, single = (
        ak.audit(scores, groups, criteria, labels=labels, weights=weights, clusters=c) for c in (None, np.arange(200))
    )
    for one, other in zip(plain.findings, single.findings, strict=True):
        for gap, same in zip(one.gaps, other.gaps, strict=True):
            assert same.standard_error == pytest.approx(gap.standard_error, rel=1e-9)
            assert same.interval == pytest.approx(gap.interval, rel=1e-9)


def test_people_with_rows_in_both_groups_make_the_gap_a_paired_one(rng: np.random.Generator) -> None:
    person, form = np.repeat(np.arange(100), 2), np.tile(["a", "b"], 100)
    scores = rng.normal(size=100)[person] + 0.1 * rng.normal(size=200)
    gap = ak.audit(scores, ak.Groups({"form": form}), ak.ECP("form", tolerance=1), clusters=person).findings[0].gaps[0]
    paired = scores[0::2] - scores[1::2]
    assert gap.standard_error == pytest.approx(paired.std(ddof=1) / 10, rel=1e-6)


@pytest.mark.parametrize("bounded", [False, True])
def test_intervals_of_clustered_rows_cover(bounded: bool) -> None:
    rng, covered, naive, runs = np.random.default_rng(6), 0, 0, 400
    for _ in range(runs):
        scores, sex, person = draw(rng, people=80)
        scores = 1 / (1 + np.exp(-scores)) if bounded else scores
        groups, criterion = ak.Groups({"sex": sex}), ak.ECP("sex", tolerance=1)
        gap = ak.audit(scores, groups, criterion, clusters=person).findings[0].gaps[0]
        alone = ak.audit(scores, groups, criterion).findings[0].gaps[0]
        low, high = gap.interval
        covered += low <= 0 <= high
        naive += alone.interval[0] <= 0 <= alone.interval[1]
    assert 0.92 <= covered / runs <= 0.98
    assert naive / runs < 0.85


def test_moments_of_clusters_merge_and_shift(rng: np.random.Generator) -> None:
    z, y, code = rng.normal(size=60), rng.random(60), rng.integers(0, 2, 60)
    person = np.repeat(np.arange(20), 3)
    groups = ak.Groups({"a": code})
    whole = ak.Moments.from_rows(z, groups.cells(("a",)), labels=y, clusters=person, shift=0.3)
    parts = [
        ak.Moments.from_rows(z[r], groups.take(r).cells(("a",)), labels=y[r], clusters=person[r], shift=0.3)
        for r in (np.arange(30), np.arange(30, 60))
    ]
    np.testing.assert_allclose((parts[0] + parts[1]).gram, whole.gram, atol=1e-12)
    moved = ak.Moments.from_rows(z, groups.cells(("a",)), labels=y, clusters=person, shift=0.9)
    np.testing.assert_allclose(whole.with_shift(0.9).gram, moved.gram, atol=1e-10)


@pytest.mark.parametrize(
    ("clusters", "message"),
    [([1, 2], "clusters must have 4 rows"), ([1, 2, None, 4], "clusters holds missing values")],
)
def test_wrong_clusters_are_refused(clusters: list, message: str) -> None:
    groups = ak.Groups({"sex": list("ffmm")})
    with pytest.raises(InputError, match=message):
        ak.audit([0.1, 0.2, 0.3, 0.4], groups, ak.ECP("sex", tolerance=0.1), clusters=clusters)
