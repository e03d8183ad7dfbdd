"""Limits of means in [0, 1] against exact binomial limits, enumeration and published examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from auditkit.intervals import (
    INTERVAL_CORRECTION,
    TEST_CORRECTION,
    UnitMeans,
    difference_limits,
    fit_unit_means,
    ratio_limits,
    two_sided_level,
)

LEVEL = two_sided_level(0.95)


def proportions(ones: list[float], rows: list[float]) -> UnitMeans:
    n = np.array(rows, dtype=float)
    return fit_unit_means(np.array(ones) / n, np.zeros(len(n)), n, exact=np.ones(len(n), dtype=bool))


@pytest.mark.parametrize(("ones", "rows"), [(0, 20), (1, 20), (7, 20), (20, 20), (17, 900)])
def test_exact_limits_are_clopper_pearson(ones: int, rows: int) -> None:
    low, high = proportions([ones], [rows]).limits(LEVEL, correction=TEST_CORRECTION)
    expected = stats.binomtest(ones, rows).proportion_ci(0.95, method="exact")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_limits_without_correction_are_jeffreys() -> None:
    low, high = proportions([7], [20]).limits(LEVEL, correction=0.0)
    assert (low[0], high[0]) == pytest.approx(stats.beta(7.5, 13.5).ppf([0.025, 0.975]), abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "rates"), [((20, 20), (0.3, 0.1)), ((20, 500), (0.05, 0.02)), ((27, 5000), (0.1, 0.1))]
)
def test_differences_of_proportions_cover_by_enumeration(rows: tuple[int, int], rates: tuple[float, float]) -> None:
    first, second = (proportions(list(range(n + 1)), [n] * (n + 1)) for n in rows)
    a, b = (means.limits(LEVEL, correction=INTERVAL_CORRECTION) for means in (first, second))
    column = [side[:, None] for side in a]
    low, high = difference_limits(first.mean[:, None], (column[0], column[1]), second.mean, b)
    mass = np.outer(*(stats.binom.pmf(np.arange(n + 1), n, p) for n, p in zip(rows, rates, strict=True)))
    gap = rates[0] - rates[1]
    assert (mass * ((low <= gap) & (gap <= high))).sum() >= 0.94


@given(
    mean=st.floats(0, 1), rows=st.integers(1, 5000), share=st.floats(0, 1), level=st.floats(0.01, 5),
)  # fmt: skip
def test_limits_hold_their_mean_and_stay_in_the_unit_interval(
    mean: float, rows: int, share: float, level: float
) -> None:
    variance = np.array([share * mean * (1 - mean) / rows])
    means = fit_unit_means(np.array([mean]), variance, np.array([float(rows)]), exact=np.array([False]))
    (low,), (high,) = means.limits(level)
    (wider_low,), (wider_high,) = means.limits(level + 0.5)
    assert 0 <= wider_low <= low <= mean <= high <= wider_high <= 1
    assert high > low
    assert means.variance[0] > 0


def test_values_that_are_all_the_same_have_an_interval_that_shrinks_with_the_rows() -> None:
    widths = []
    for rows in (20.0, 200.0):
        means = fit_unit_means(np.array([0.5]), np.zeros(1), np.array([rows]), exact=np.array([False]))
        low, high = means.limits(LEVEL)
        widths.append(high[0] - low[0])
    assert 0.05 < widths[0] < 0.3
    assert widths[1] < widths[0] / 5


def test_a_rare_score_borrows_the_dispersion_of_the_other_cells() -> None:
    alone = fit_unit_means(np.array([0.02]), np.array([1e-6]), np.array([20.0]), exact=np.array([False]))
    beside = fit_unit_means(
        np.array([0.02, 0.1]), np.array([1e-6, 0.0001]), np.array([20.0, 200.0]), exact=np.array([False, False])
    )
    assert beside.dispersion[0] > alone.dispersion[0]
    assert beside.trials[0] < alone.trials[0]


def test_newcombe_s_interval_is_the_mover_of_wilson_limits() -> None:
    # Newcombe (1998), table II, example (a): 56/70 against 48/80, method 10
    first, second = (
        [np.array([end]) for end in stats.binomtest(x, n).proportion_ci(0.95, method="wilson")]
        for x, n in ((56, 70), (48, 80))
    )
    low, high = difference_limits(np.array([0.8]), first, np.array([0.6]), second)
    assert (low[0], high[0]) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_ratio_limits_are_where_the_difference_vanishes() -> None:
    a, b = proportions([15], [60]), proportions([40], [100])
    limits = [means.limits(LEVEL) for means in (a, b)]
    low, high = ratio_limits(a.mean, limits[0], b.mean, limits[1])
    assert low[0] < 0.625 < high[0]
    for ratio, side in ((low[0], 0), (high[0], 1)):
        scaled = (ratio * limits[1][0], ratio * limits[1][1])
        ends = difference_limits(a.mean, limits[0], ratio * b.mean, scaled)
        assert ends[side][0] == pytest.approx(0.0, abs=1e-9)


def test_a_ratio_to_a_rate_that_may_be_zero_has_no_upper_limit() -> None:
    a, b = proportions([5], [20]), proportions([0], [20])
    low, high = ratio_limits(a.mean, a.limits(LEVEL), b.mean, b.limits(LEVEL))
    assert np.isfinite(low[0])
    assert high[0] == np.inf
