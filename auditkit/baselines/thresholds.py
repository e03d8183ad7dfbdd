"""fairlearn's post-processing of decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from auditkit._typing import FloatArray
from auditkit.baselines.base import (
    FitContext,
    Method,
    Prediction,
    Sample,
    group_names,
    protected_columns,
    to_probability,
)
from auditkit.criteria import Criterion
from auditkit.errors import InputError
from auditkit.groups import LABEL


class Threshold(Method):
    """fairlearn's ThresholdOptimizer on the model's scores: randomised group thresholds, decisions only.

    Args:
        relaxed: Whether decision rates may differ by ε on the calibration rows; else they are equal there.
    """

    def __init__(self, *, relaxed: bool = False) -> None:
        self.relaxed = relaxed
        self.name = "threshold_optimizer_relaxed" if relaxed else "threshold_optimizer"
        self.title = f"ThresholdOptimizer (fairlearn{', within ε' if relaxed else ''})"
        done = "keep decision rates within ε of each other" if relaxed else "equalise decision rates"
        self.description = f"randomised group thresholds on the model's scores that {done} on the calibration rows"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Find the thresholds on the calibration rows."""
        from fairlearn.postprocessing import ThresholdOptimizer

        rows, columns = context.calibrate, protected_columns(context.criteria)
        chance = to_probability(rows.scores, context)[:, None]
        merge = merge_degenerate(rows, columns)
        optimizer = ThresholdOptimizer(
            estimator=_score_classifier(), constraints=nearest_constraint(context.criteria),
            objective="accuracy_score", prefit=True, predict_method="predict_proba",
            tol=context.tolerance if self.relaxed else None,
        )  # fmt: skip
        try:
            with np.errstate(divide="ignore", invalid="ignore"):
                optimizer.fit(chance, rows.labels, sensitive_features=merge(rows))
        except ValueError as error:
            raise InputError(f"fairlearn's ThresholdOptimizer cannot be fitted on these groups: {error}") from error

        def predict(sample: Sample) -> Prediction:
            given = to_probability(sample.scores, context)[:, None]
            chances = optimizer._pmf_predict(given, sensitive_features=merge(sample))
            return Prediction(None, np.asarray(chances)[:, 1])

        return predict


def merge_degenerate(rows: Sample, columns: Sequence[str]) -> Callable[[Sample], np.ndarray]:
    """The group of every row as text, with groups that fairlearn cannot fit merged into one.

    ThresholdOptimizer takes one partition of the rows and refuses a group whose labels are all equal. Such groups share
    one pair of thresholds here, and the largest group's when even together their labels are all equal.
    """
    names = group_names(rows, columns)
    known, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    positives = np.bincount(index, weights=rows.labels)
    degenerate = (positives == 0) | (positives == counts)
    largest, total = known[np.argmax(counts)], positives[degenerate].sum()
    pooled = "(merged)" if 0 < total < counts[degenerate].sum() else largest
    target = {name: pooled if bad else name for name, bad in zip(known, degenerate, strict=True)}
    return lambda sample: np.array([target.get(name, largest) for name in group_names(sample, columns)], dtype=object)


def nearest_constraint(criteria: Sequence[Criterion]) -> Any:
    """The constraint on decisions that is nearest to the criteria, as fairlearn names it.

    Raises:
        InputError: Every criterion is one of residuals, which decisions do not have.
    """
    if all(criterion.family == "EER" for criterion in criteria):
        raise InputError("criteria are all EER, which says nothing about decisions; leave this method out")
    conditioned = [criterion for criterion in criteria if LABEL in criterion.given]
    if not conditioned:
        return "demographic_parity"
    positives_only = all(criterion.label_value is not None for criterion in conditioned)
    return "true_positive_rate_parity" if positives_only else "equalized_odds"


def _score_classifier() -> Any:
    """The frozen model's scores as a fitted scikit-learn classifier whose only feature is the score itself."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class ScoreClassifier(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def fit(self, features: Any, labels: Any) -> ScoreClassifier:
            return self

        def predict_proba(self, features: Any) -> FloatArray:
            score = np.asarray(features, dtype=np.float64)[:, 0]
            return np.stack([1 - score, score], axis=1)

    return ScoreClassifier()
