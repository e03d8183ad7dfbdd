from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from auditkit.metrics import interval_of, measure_utility, subtract


def sample(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).astype(float)
    return labels, np.round(np.clip(0.3 + 0.3 * labels + rng.normal(scale=0.25, size=n), 0.01, 0.99), 2)


def test_values_equal_scikit_learn() -> None:
    labels, scores = sample(0)
    decisions = (scores >= 0.5).astype(float)
    utility = measure_utility(labels, scores=scores, decisions=decisions)
    assert utility["accuracy"].value == pytest.approx(sk.accuracy_score(labels, decisions), abs=1e-12)
    assert utility["auc"].value == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)  # ties included
    assert utility["brier"].value == pytest.approx(sk.brier_score_loss(labels, scores), abs=1e-12)
    assert utility["log_loss"].value == pytest.approx(sk.log_loss(labels, scores), abs=1e-12)


def test_influences_average_to_the_value() -> None:
    labels, scores = sample(1)
    for metric in measure_utility(labels, scores=scores, decisions=scores).values():
        assert metric.influence.mean() == pytest.approx(metric.value, abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "auc", "brier", "log_loss"])
def test_intervals_cover(name: str) -> None:
    def estimate(seed: int, n: int = 300):
        labels, scores = sample(seed, n)
        return measure_utility(labels, scores=scores, decisions=(scores >= 0.5).astype(float))[name]

    truth = np.mean([estimate(10_000 + seed, 20_000).value for seed in range(10)])
    intervals = [estimate(seed).estimate(confidence=0.95) for seed in range(400)]
    coverage = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.91 <= coverage <= 0.98


def test_a_paired_difference_is_narrower_than_its_parts_and_zero_with_itself() -> None:
    labels, scores = sample(2)
    first = measure_utility(labels, scores=scores, decisions=None)["auc"]
    second = measure_utility(labels, scores=np.clip(scores + 0.01 * labels, 0, 1), decisions=None)["auc"]
    difference = interval_of([subtract(second, first)], confidence=0.95)
    alone = first.estimate(confidence=0.95)
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)
    same = interval_of([subtract(first, first)], confidence=0.95)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_what_is_not_defined_is_none() -> None:
    labels, scores = sample(3)
    assert measure_utility(np.ones(5), scores=np.linspace(0, 1, 5), decisions=None)["auc"] is None
    beyond = measure_utility(labels, scores=scores * 3, decisions=None)
    assert (beyond["accuracy"], beyond["brier"], beyond["log_loss"]) == (None, None, None)
    assert beyond["auc"] is not None
