"""The relaxed post-processing of error-parity, where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from auditkit._typing import FloatArray
from auditkit.baselines.base import (
    FitContext,
    Method,
    Prediction,
    Sample,
    protected_columns,
    to_probability,
)
from auditkit.baselines.thresholds import merge_degenerate, nearest_constraint
from auditkit.errors import InputError, MissingExtraError


class ErrorParity(Method):
    """error-parity's RelaxedThresholdOptimizer on the model's scores: randomised group thresholds of least error."""

    name = "error_parity"
    title = "Relaxed thresholds (error-parity)"
    description = "randomised group thresholds of least error whose rates differ by at most ε on the calibration rows"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Solve error-parity's linear program on the calibration rows."""
        package, rows = _import(), context.calibrate
        chances = to_probability(rows.scores, context)
        merge = merge_degenerate(rows, protected_columns(context.criteria))
        known, index = np.unique(merge(rows).astype(str), return_inverse=True)
        optimizer = package.RelaxedThresholdOptimizer(
            predictor=np.asarray, constraint=nearest_constraint(context.criteria), tolerance=context.tolerance,
            seed=context.config.seed,
        )  # fmt: skip
        try:
            optimizer.fit(chances, rows.labels.astype(int), group=index)
        except ValueError as error:
            raise InputError(f"error-parity cannot be fitted on these groups: {error}") from error
        rules = {name: optimizer._realized_classifier.group_to_clf[code] for code, name in enumerate(known)}

        def predict(sample: Sample) -> Prediction:
            given, names = to_probability(sample.scores, context), merge(sample).astype(str)
            decisions = np.zeros(sample.n_rows)
            for name, rule in rules.items():
                mine = names == name
                decisions[mine] = _chance(rule, given[mine])
            return Prediction(None, decisions)

        return predict


def _chance(rule: Any, scores: FloatArray) -> FloatArray:
    """Probability that a randomised rule decides positively; error-parity itself draws the decisions."""
    if not hasattr(rule, "classifiers"):
        return np.asarray(rule(scores), dtype=np.float64)
    parts = zip(rule.probabilities, rule.classifiers, strict=True)
    return np.clip(sum(share * np.asarray(each(scores), dtype=np.float64) for share, each in parts), 0.0, 1.0)


def _import() -> ModuleType:
    """error-parity, and the solver it asks CVXPY for."""
    try:
        import_module("ecos")
        return import_module("error_parity")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is needed here and is not installed; error-parity's release asks for numpy < 2, so run: "
            "pip install --no-deps error-parity ecos"
        ) from error
