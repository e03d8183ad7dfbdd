"""Confidence sequences: the algebra of their state, known limits, and whole streams that rarely err."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import auditkit as ak
from auditkit.errors import InputError
from auditkit.monitoring import START_ROWS, GapMonitor, MeanSequence, asymptotic_radius, log_wealth

ALPHA = np.array(0.05)


def watch(monitor: GapMonitor, scores: np.ndarray, sex: np.ndarray, looks: int) -> list[GapMonitor]:
    states = []
    for rows in np.array_split(np.arange(len(scores)), looks):
        batch = ak.take_moments(scores[rows], ak.Groups({"sex": sex[rows]}), monitor.criteria)
        monitor = monitor.observe(batch)
        states.append(monitor)
    return states


@given(seed=st.integers(0, 10**6), shift=st.floats(-2, 2))
def test_a_change_of_shift_is_that_of_the_rows(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    z, y, w = rng.normal(size=20), rng.random(20), rng.random(20)
    cells = ak.Groups({"a": rng.integers(0, 2, 20)}).cells(("a",))
    first = ak.Moments.from_rows(z, cells, labels=y, weights=w, shift=0.7).with_shift(shift)
    direct = ak.Moments.from_rows(z, cells, labels=y, weights=w, shift=shift)
    for name in ("score", "score2", "label2", "cross", "score2_w2", "label2_w2", "cross_w2"):
        np.testing.assert_allclose(getattr(first, name), getattr(direct, name), atol=1e-10)


def test_the_wealth_is_a_martingale() -> None:
    n, mean = 12, 0.3
    total = np.arange(n + 1.0)
    from scipy.stats import binom

    assert (
        binom.pmf(total, n, mean) * np.exp(log_wealth(np.array(float(n)), total, np.array(mean)))
    ).sum() == pytest.approx(1)


def test_no_row_says_nothing_and_many_rows_say_much() -> None:
    state = MeanSequence.start(())
    assert state.limits(ALPHA) == (0.0, 1.0)
    state = state.advance(np.array(1e6), np.array(3e5), np.array(3e5), alpha=ALPHA)
    low, high = state.limits(ALPHA)
    assert 0.29 < low < 0.3 < high < 0.31


def test_the_limits_are_where_the_wealth_reaches_its_bound() -> None:
    state = MeanSequence.start(()).advance(np.array(50.0), np.array(10.0), np.array(10.0), alpha=ALPHA)
    low, high = state.limits(ALPHA)
    for end in (low, high):
        assert log_wealth(state.count, state.total, end) == pytest.approx(np.log(2 / ALPHA), abs=1e-6)


def test_a_small_variance_is_made_use_of() -> None:
    def after(square: float) -> tuple[float, float]:
        state = MeanSequence.start(())
        for _ in range(20):
            state = state.advance(np.array(500.0), np.array(150.0), np.array(square), alpha=ALPHA)
        return state.limits(ALPHA)

    binary, tight = after(150.0), after(45.0 + 500 * 0.0004)
    assert tight[1] - tight[0] < 0.4 * (binary[1] - binary[0])


def test_whole_streams_err_rarely_when_looked_at_after_every_row() -> None:
    rng, streams, rows = np.random.default_rng(0), 2000, 1000
    for values in (lambda: (rng.random(streams) < 0.05).astype(float), lambda: rng.beta(0.5, 9.5, streams)):
        state, missed = MeanSequence.start((streams,)), np.zeros(streams, dtype=bool)
        for row in range(rows):
            z = values()
            state = state.advance(np.ones(streams), z, z * z, alpha=ALPHA)
            wealth = log_wealth(state.count, state.total, np.array(0.05))
            centre, half = state.gain / state.bet, (np.log(4 / ALPHA) + state.cost) / state.bet
            missed |= (wealth >= np.log(2 / ALPHA)) | (np.abs(centre - 0.05) > half)
            if row % 100 == 99:
                low, high = state.limits(ALPHA)
                outside = (low > 0.05) | (high < 0.05)
                assert (missed >= outside).all()
        assert missed.mean() <= 0.05


@pytest.mark.parametrize("guarantee", ["exact", "asymptotic"])
def test_a_stream_passes_or_fails_in_the_end(guarantee: str) -> None:
    rng = np.random.default_rng(1)
    sex = rng.choice(["f", "m"], 40_000)
    scores = rng.beta(2, 3, 40_000)
    for shift, verdict in ((0.0, "pass"), (0.1, "fail")):
        monitor = GapMonitor((ak.ECP("sex", tolerance=0.05),), guarantee=guarantee)
        states = watch(monitor, np.clip(scores + shift * (sex == "f"), 0, 1), sex, looks=200)
        verdicts = [state.gaps()[0].verdict for state in states]
        assert verdicts[0] == "inconclusive"
        assert verdicts[-1] == verdict
        last = states[-1].gaps()[0]
        assert last.interval[0] < last.gap < last.interval[1]


def test_batches_of_any_size_add_up_to_the_same_gap(rng: np.random.Generator) -> None:
    sex, scores = rng.choice(["f", "m"], 500), rng.random(500)
    criteria = (ak.ECP("sex", tolerance=0.1),)
    gaps = [watch(GapMonitor(criteria), scores, sex, looks)[-1].gaps()[0].gap for looks in (1, 7, 100)]
    assert gaps == pytest.approx([scores[sex == "f"].mean() - scores[sex == "m"].mean()] * 3, abs=1e-12)


def test_a_group_that_appears_late_has_its_own_share_of_the_error(rng: np.random.Generator) -> None:
    sex = np.array(["f", "m"] * 100 + ["x", "f", "m"] * 100)
    states = watch(GapMonitor((ak.ECP("sex", tolerance=0.1),)), rng.random(500), sex, looks=5)
    assert [len(state.gaps()) for state in states][0::4] == [1, 3]
    assert sum(states[-1]._shares.values()) <= 0.05 + 1e-12


def test_residuals_are_monitored_too(rng: np.random.Generator) -> None:
    scores, sex = rng.random(20_000), rng.choice(["f", "m"], 20_000)
    labels = (rng.random(20_000) < scores).astype(float)
    criteria = (ak.EER("sex", tolerance=0.2),)
    monitor = GapMonitor(criteria).observe(ak.take_moments(scores, ak.Groups({"sex": sex}), criteria, labels=labels))
    for gap in monitor.gaps():
        assert gap.interval[0] < 0 < gap.interval[1]


def test_an_asymptotic_sequence_starts_when_its_groups_have_enough_rows(rng: np.random.Generator) -> None:
    sex = np.array(["f", "m"] * (START_ROWS + 10))
    monitor = GapMonitor((ak.ECP("sex", tolerance=0.1),), guarantee="asymptotic")
    states = watch(monitor, rng.normal(size=len(sex)), sex, looks=11)
    assert [state.gaps()[0].interval is None for state in states] == [True] * 9 + [False] * 2


def test_the_asymptotic_radius_is_wider_than_one_look_but_not_by_much() -> None:
    variance = np.array([1e-4])
    ratio = asymptotic_radius(variance, horizon=1e4, alpha=0.05) / (1.96 * np.sqrt(variance))
    assert 1.3 < ratio[0] < 1.7


@pytest.mark.parametrize(
    ("scores", "weights", "message"),
    [
        ([0.5, 1.5], None, r"must lie in \[0, 1\] for the exact guarantee"),
        ([0.5, 0.5], [1, 2], "weighted rows cannot be monitored"),
    ],
)
def test_what_cannot_be_monitored_is_refused(scores: list[float], weights: list[float] | None, message: str) -> None:
    criteria = (ak.ECP("sex", tolerance=0.1),)
    batch = ak.take_moments(scores, ak.Groups({"sex": ["f", "m"]}), criteria, weights=weights)
    with pytest.raises(InputError, match=message):
        GapMonitor(criteria).observe(batch)


def test_an_unknown_guarantee_is_refused() -> None:
    with pytest.raises(InputError, match='guarantee must be "exact" or "asymptotic"; got \'sure\''):
        GapMonitor((ak.ECP("sex", tolerance=0.1),), guarantee="sure")
