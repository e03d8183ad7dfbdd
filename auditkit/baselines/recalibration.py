"""Recalibration by group: a shift of every group's mean to its labels' mean, or an isotonic curve per group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from auditkit._typing import FloatArray
from auditkit.baselines.base import (
    FitContext,
    Method,
    Prediction,
    Sample,
    from_probability,
    group_names,
    protected_columns,
    require_binary,
    to_probability,
)
from auditkit.groups import LABEL

FEWEST_ROWS = 50
"""Groups with fewer calibration rows, or with one outcome only, use the isotonic curve of all rows."""


class MeanRecalibration(Method):
    """ỹ = z + mean(y − z | group): every group's mean residual on the calibration rows becomes zero."""

    name = "recalibration_mean"
    title = "Group recalibration, mean shift"
    description = "the model's scores with every group's mean residual on the calibration rows added"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Find the shift of every group."""
        rows, columns = context.calibrate, _columns(context)
        names, index = np.unique(group_names(rows, columns), return_inverse=True)
        residual = rows.labels - _level(rows.scores, context)
        shift = dict(zip(names, np.bincount(index, weights=residual) / np.bincount(index), strict=True))
        low, high = context.score_bounds or (None, None)

        def predict(sample: Sample) -> Prediction:
            step = _look_up(shift, group_names(sample, columns))
            moved = _level(sample.scores, context) + step
            if context.config.score_space == "logit":
                return Prediction(from_probability(moved, context))
            return Prediction(moved if low is None and high is None else np.clip(moved, low, high))

        return predict


class IsotonicRecalibration(Method):
    """ỹ = f_group(z), f_group the isotonic least-squares fit of the labels on the calibration rows of the group."""

    name = "recalibration_isotonic"
    title = "Group recalibration, isotonic"
    description = "the model's scores through one increasing curve per group, fitted to the calibration rows' outcomes"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Fit one curve per group, and one of all rows for groups that are too small."""
        require_binary(context)
        rows, columns = context.calibrate, _columns(context)
        names, chances = group_names(rows, columns), to_probability(rows.scores, context)
        pooled = _isotonic(chances, rows.labels)
        curves = {
            name: _isotonic(chances[names == name], rows.labels[names == name])
            for name in np.unique(names)
            if _is_enough(rows.labels[names == name])
        }

        def predict(sample: Sample) -> Prediction:
            given, found = to_probability(sample.scores, context), group_names(sample, columns)
            fitted = pooled.predict(given)
            for name, curve in curves.items():
                mine = found == name
                fitted[mine] = curve.predict(given[mine]) if mine.any() else fitted[mine]
            return Prediction(from_probability(fitted, context))

        return predict


def _columns(context: FitContext) -> tuple[str, ...]:
    return tuple(name for name in protected_columns(context.criteria) if name != LABEL)


def _level(scores: FloatArray, context: FitContext) -> FloatArray:
    """Scores in the unit of the labels."""
    return scores if context.config.score_space == "identity" else to_probability(scores, context)


def _look_up(shift: dict[str, float], names: np.ndarray) -> FloatArray:
    """The shift of every row; none for a group without a calibration row."""
    known, index = np.unique(names, return_inverse=True)
    return np.array([shift.get(name, 0.0) for name in known])[index]


def _is_enough(labels: FloatArray) -> bool:
    return len(labels) >= FEWEST_ROWS and 0 < labels.sum() < len(labels)


def _isotonic(chances: FloatArray, labels: FloatArray) -> Any:
    from sklearn.isotonic import IsotonicRegression

    return IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(chances, labels)
