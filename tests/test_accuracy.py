"""Errors and calibration by group against scikit-learn by mask and simulation."""

from __future__ import annotations

import numpy as np
import pytest

import auditkit as ak
from auditkit.accuracy import assess_calibration, tabulate_errors
from auditkit.errors import InputError


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_equal_scikit_learn_by_mask(rng: np.random.Generator, weighted: bool) -> None:
    from sklearn.metrics import mean_absolute_error, root_mean_squared_error

    scores, sex = rng.normal(5, 2, size=300), rng.choice(["f", "m"], 300)
    labels, weights = scores + rng.normal(size=300), rng.exponential(size=300)
    criteria = [ak.EER("sex", tolerance=1)]
    moments = ak.take_moments(
        scores, ak.Groups({"sex": sex}), criteria, labels=labels, weights=weights if weighted else None
    )
    for group in tabulate_errors(moments, ["sex"]):
        rows = sex == group.group
        w = weights[rows] if weighted else None
        mean = np.average((labels - scores)[rows], weights=w)
        absolute = mean_absolute_error(labels[rows], scores[rows], sample_weight=w)
        root = root_mean_squared_error(labels[rows], scores[rows], sample_weight=w)
        for figure, expected in (
            (group.mean_residual, mean), (group.mean_absolute_error, absolute), (group.root_mean_square_error, root)
        ):  # fmt: skip
            assert figure[0] == pytest.approx(expected, abs=1e-12)
            assert figure[1] < expected < figure[2]


def test_intervals_of_errors_cover() -> None:
    rng, runs, covered = np.random.default_rng(0), 400, np.zeros(3)
    truth = (0.0, np.sqrt(2 / np.pi), 1.0)
    for _ in range(runs):
        scores = rng.normal(size=80)
        moments = ak.take_moments(
            scores, ak.Groups({"g": ["a"] * 80}), [ak.EER("g", tolerance=1)], labels=scores + rng.normal(size=80)
        )
        (group,) = tabulate_errors(moments, ["g"])
        figures = (group.mean_residual, group.mean_absolute_error, group.root_mean_square_error)
        covered += [low <= t <= high for t, (_, low, high) in zip(truth, figures, strict=True)]
    assert (covered / runs >= 0.92).all()


def test_errors_without_labels_are_refused() -> None:
    moments = ak.take_moments([0.1, 0.2], ak.Groups({"g": ["a", "b"]}), [ak.ECP("g", tolerance=1)])
    with pytest.raises(InputError, match="errors by group need labels"):
        tabulate_errors(moments, ["g"])


def test_the_calibration_error_is_that_of_the_bins(rng: np.random.Generator) -> None:
    scores, sex = rng.random(1000), rng.choice(["f", "m"], 1000)
    labels = (rng.random(1000) < scores**2).astype(float)
    for group in assess_calibration(scores, labels, ak.Groups({"sex": sex}), "sex", bins=5):
        z, y = scores[sex == group.group], labels[sex == group.group]
        place = np.minimum((z * 5).astype(int), 4)
        expected = sum((place == b).mean() * abs(y[place == b].mean() - z[place == b].mean()) for b in range(5))
        assert group.calibration_error == pytest.approx(expected, abs=1e-12)
        assert group.calibration_error > 3 * group.expected_by_chance
        assert [b.count for b in group.bins] == np.bincount(place, minlength=5).tolist()


def test_calibrated_scores_err_as_much_as_chance_alone() -> None:
    rng, errors, expected = np.random.default_rng(2), [], []
    covered, n_bins = 0, 0
    for _ in range(200):
        scores = rng.random(300)
        (group,) = assess_calibration(scores, rng.random(300) < scores, ak.Groups({"g": ["a"] * 300}), "g")
        errors.append(group.calibration_error)
        expected.append(group.expected_by_chance)
        covered += sum(b.interval[0] <= 0 <= b.interval[1] for b in group.bins)
        n_bins += len(group.bins)
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.1)
    assert 0.94 <= covered / n_bins <= 0.985


@pytest.mark.parametrize(
    ("scores", "bins", "message"), [([1.5], 10, r"must lie in \[0, 1\]"), ([0.5], 0, "bins must be")]
)
def test_what_has_no_reliability_curve_is_refused(scores: list, bins: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        assess_calibration(scores, [1], ak.Groups({"g": ["a"]}), "g", bins=bins)
