"""The group thresholds of OxonFair, where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from auditkit._extras import import_extra
from auditkit._typing import FloatArray
from auditkit.baselines.base import FitContext, Method, Prediction, Sample, protected_columns, to_probability
from auditkit.baselines.thresholds import merge_degenerate, nearest_constraint
from auditkit.errors import InputError


class OxonFair(Method):
    """OxonFair's FairPredictor on the model's scores: deterministic group thresholds of best accuracy within ε."""

    name = "oxonfair"
    title = "Group thresholds (OxonFair)"
    description = (
        "deterministic group thresholds of best accuracy whose rates differ by at most ε on the calibration rows"
    )

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Search the thresholds on the calibration rows."""
        package = import_extra("oxonfair")
        metrics = import_extra("oxonfair.utils.group_metrics")
        rows = context.calibrate
        merge = merge_degenerate(rows, protected_columns(context.criteria))
        measure = _measure(metrics, nearest_constraint(context.criteria))
        try:
            predictor = package.FairPredictor(None, _content(rows, merge, context, rows.labels))
            predictor.fit(metrics.accuracy, measure, context.tolerance)
        except (ValueError, AssertionError) as error:
            raise InputError(f"OxonFair cannot be fitted on these groups: {error}") from error

        def predict(sample: Sample) -> Prediction:
            decided = predictor.predict(_content(sample, merge, context, sample.labels))
            return Prediction(None, np.asarray(decided, dtype=np.float64).ravel())

        return predict


def _measure(metrics: ModuleType, constraint: str) -> Any:
    """OxonFair's largest difference between two groups, of the rates that the constraint is about."""
    measures = {
        "demographic_parity": metrics.pos_pred_rate.max_diff,
        "true_positive_rate_parity": metrics.true_pos_rate.max_diff,
        "equalized_odds": metrics.equalized_odds_max,
    }
    return measures[constraint]


def _content(
    sample: Sample, merge: Callable[[Sample], np.ndarray], context: FitContext, labels: FloatArray
) -> dict[str, Any]:
    """What OxonFair reads: two columns of probabilities, the outcomes and the groups."""
    chances = to_probability(sample.scores, context)
    return {
        "data": np.stack([1 - chances, chances], axis=1),
        "target": labels.astype(int),
        "groups": merge(sample).astype(str),
    }
