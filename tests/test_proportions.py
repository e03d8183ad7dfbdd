"""Score limits of differences of proportions against the likelihood, published limits, and enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special, stats

import auditkit as ak
from auditkit.contrasts import Contrasts, compile_contrasts
from auditkit.groups import CellTable
from auditkit.intervals import two_sided_level
from auditkit.joint import simulate_gaps
from auditkit.proportions import Counts, restrict_rate, score_limits, score_statistic

LEVEL = two_sided_level(0.95)
counts = st.integers(1, 300).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows)))


def log_likelihood(rate: float, first: tuple[int, int], second: tuple[int, int], gap: float) -> float:
    pairs = ((first, rate), (second, rate - gap))
    return float(sum(special.xlogy(x, p) + special.xlogy(n - x, 1 - p) for (x, n), p in pairs))


@given(first=counts, second=counts, gap=st.floats(-0.99, 0.99))
def test_the_restricted_rate_is_the_likeliest(first: tuple[int, int], second: tuple[int, int], gap: float) -> None:
    found = float(restrict_rate(first[0] / first[1], first[1], second[0] / second[1], second[1], gap))
    bounds = (max(gap, 0.0), min(1 + gap, 1.0))
    best = optimize.minimize_scalar(
        lambda rate: -log_likelihood(rate, first, second, gap),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-12},
    )
    assert bounds[0] <= found <= bounds[1]
    inside = np.clip(found, bounds[0] + 1e-12, bounds[1] - 1e-12)
    assert log_likelihood(float(inside), first, second, gap) >= -best.fun - 1e-6


def test_published_limits() -> None:
    # Newcombe (1998), table II, example (a): 56/70 against 48/80, the method of Miettinen and Nurminen
    low, high = score_limits(np.array([56.0]), 70, np.array([48.0]), 80, LEVEL)
    assert (low[0], high[0]) == pytest.approx((0.0528, 0.3382), abs=5e-5)


def test_without_a_gap_the_statistic_is_that_of_pooled_rates() -> None:
    pooled = 10 / 150
    expected = (7 / 50 - 3 / 100) / np.sqrt(pooled * (1 - pooled) * (1 / 50 + 1 / 100) * 150 / 149)
    assert float(score_statistic(7, 50, 3, 100, 0.0)) == pytest.approx(expected, rel=1e-12)


@given(first=counts, second=counts, level=st.floats(0.1, 4.5))
def test_limits_hold_the_estimate_and_invert_the_statistic(
    first: tuple[int, int], second: tuple[int, int], level: float
) -> None:
    (x, n), (y, m) = first, second
    low, high = (float(side[0]) for side in score_limits(np.array([x]), n, np.array([y]), m, level))
    assert -1 <= low <= x / n - y / m <= high <= 1
    for limit, sign in ((low, 1.0), (high, -1.0)):
        if abs(limit) < 1:
            assert sign * float(score_statistic(x, n, y, m, limit)) == pytest.approx(level, abs=1e-4)


@pytest.mark.parametrize(
    ("rows", "rates", "most"),
    [
        ((100, 100), (0.02, 0.02), 0.97),
        ((100, 100), (0.12, 0.02), 0.97),
        ((100, 1000), (0.02, 0.02), 0.97),
        ((20, 1000), (0.02, 0.02), 1.0),
        ((20, 20), (0.12, 0.02), 1.0),
    ],
)
def test_rare_decisions_are_covered_by_enumeration(
    rows: tuple[int, int], rates: tuple[float, float], most: float
) -> None:
    x, y = (np.arange(n + 1.0) for n in rows)
    low, high = score_limits(x[:, None], rows[0], y, rows[1], LEVEL)
    mass = np.outer(*(stats.binom.pmf(np.arange(n + 1), n, p) for n, p in zip(rows, rates, strict=True)))
    gap = rates[0] - rates[1]
    assert 0.94 <= (mass * ((low <= gap) & (gap <= high))).sum() <= most


def level_of(ones: list[int], rows: int, *, counted: bool, seed: int = 0) -> float:
    groups = len(ones)
    table = CellTable(("g",), np.arange(groups)[:, None], (tuple(range(groups)),))
    contrasts: Contrasts = compile_contrasts([ak.ECP("g", tolerance=0.1)], table)
    found = Counts(np.full(groups, counted), np.array(ones, dtype=float), np.full(groups, float(rows)))
    variance = found.rates * (1 - found.rates) / rows
    return simulate_gaps(
        contrasts, found.rates, np.diag(variance), np.ones(contrasts.n_contrasts, dtype=bool), confidence=0.95,
        seed=seed, counts=found,
    ).level  # fmt: skip


def test_the_level_of_rare_counts_covers_all_pairs_of_equal_rates(rng: np.random.Generator) -> None:
    level = level_of([2] * 6, 100, counted=True)
    drawn = rng.binomial(100, 2.5 / 101, size=(20_000, 6)).astype(float)
    first, second = np.triu_indices(6, 1)
    z = np.abs(score_statistic(drawn[:, first], 100, drawn[:, second], 100, 0.0)).max(axis=1)
    below, covered = (z < level * (1 - 1e-4)).mean(), (z <= level).mean()
    assert below < 0.95 + 0.01
    assert covered >= 0.95 - 0.01
    assert level < level_of([2] * 6, 100, counted=False) - 0.2


def test_the_level_of_many_positives_is_that_of_normal_estimates() -> None:
    assert level_of([40] * 5, 100, counted=True) == level_of([40] * 5, 100, counted=False)
    assert level_of([29] * 5, 100, counted=True) == pytest.approx(level_of([29] * 5, 100, counted=False), abs=0.06)


def test_the_level_is_never_below_that_of_one_gap() -> None:
    assert level_of([0, 0, 0], 20, counted=True) == pytest.approx(LEVEL)


def test_an_audit_of_decisions_states_score_limits() -> None:
    codes, decisions = np.repeat([0, 1], [70, 80]), np.r_[np.ones(56), np.zeros(14), np.ones(48), np.zeros(32)]
    gap = ak.audit(decisions, ak.Groups({"g": codes}), ak.ECP("g", tolerance=0.1)).findings[0].gaps[0]
    assert gap.interval == pytest.approx((0.0528, 0.3382), abs=5e-5)
    assert gap.pointwise_interval == pytest.approx(gap.interval, abs=1e-12)
