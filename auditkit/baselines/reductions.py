"""fairlearn's reduction to weighted classification, on the frozen features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from auditkit.baselines.base import (
    FitContext,
    Method,
    Prediction,
    Sample,
    frozen_features,
    protected_columns,
    require_binary,
)
from auditkit.baselines.thresholds import merge_degenerate, nearest_constraint
from auditkit.errors import InputError

LEAST_SLACK = 1e-4
"""fairlearn's algorithm bounds its multipliers by one over its slack, which must not be zero."""


class Reduction(Method):
    """fairlearn's ExponentiatedGradient: a randomised logistic regression on the features, trained for ε."""

    name = "exponentiated_gradient"
    title = "ExponentiatedGradient (fairlearn)"
    description = "a randomised logistic regression on the features whose decision rates differ by at most ε in tuning"
    needs_attributes = False

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Train on the tuning rows, with the constraint on decisions that is nearest to the criteria."""
        from fairlearn.reductions import ExponentiatedGradient
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        require_binary(context)
        rows = context.tune
        scaler = StandardScaler().fit(frozen_features(rows))
        reduction = ExponentiatedGradient(
            LogisticRegression(max_iter=500), _moment(context), eps=max(context.tolerance / 2, LEAST_SLACK)
        )
        groups = merge_degenerate(rows, protected_columns(context.criteria))(rows)
        try:
            reduction.fit(scaler.transform(frozen_features(rows)), rows.labels.astype(int), sensitive_features=groups)
        except ValueError as error:
            raise InputError(f"fairlearn's ExponentiatedGradient cannot be fitted on these rows: {error}") from error

        def predict(sample: Sample) -> Prediction:
            chances = reduction._pmf_predict(scaler.transform(frozen_features(sample)))
            return Prediction(None, np.asarray(chances)[:, 1])

        return predict


def _moment(context: FitContext) -> Any:
    """Fairlearn's moment for the constraint; it bounds each group against all rows, two groups differ by twice that."""
    from fairlearn import reductions

    moments = {
        "demographic_parity": reductions.DemographicParity,
        "true_positive_rate_parity": reductions.TruePositiveRateParity,
        "equalized_odds": reductions.EqualizedOdds,
    }
    return moments[nearest_constraint(context.criteria)](difference_bound=context.tolerance / 2)
