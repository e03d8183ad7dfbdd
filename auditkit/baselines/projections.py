"""Methods that correct scores, of the frozen model or of a tuned head: per batch, pooled, or row by row."""

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
    calibrate_sample,
    frozen_features,
    tuned_head,
)
from auditkit.enforcement import project
from auditkit.errors import InputError
from auditkit.projection import Divergence
from auditkit.tuning.config import LOGIT_BOUNDS

BATCH_ROWS = 256
"""Rows per batch of the methods that work batch by batch."""


class Unconstrained(Method):
    """The frozen model as it was found."""

    name = "unconstrained"
    title = "Model as found"
    description = "the scores of the frozen model, unchanged"
    needs_attributes = False

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Nothing to fit."""
        return lambda sample: Prediction(sample.scores)


class Projection(Method):
    """Pooled projection of the model's scores: ỹ = P(z) on all rows at once."""

    name = "projection"
    title = "Projection of the scores"
    description = "the model's scores, projected on all rows at once; needs the whole batch"
    needs_batch = True

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Nothing to fit: the projection uses the rows it is applied to."""
        return lambda sample: Prediction(_project(sample.scores, sample, context))


class LogLossProjection(Method):
    """Pooled projection of the model's logits that adds the least log-loss: of all rows at once."""

    name = "projection_log_loss"
    title = "Projection by log-loss"
    description = (
        "the model's logits, moved on all rows at once such that least log-loss is added; needs the whole batch"
    )
    needs_batch = True

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Nothing to fit: the projection uses the rows it is applied to.

        Raises:
            InputError: The scores are no logits of two classes.
        """
        config = context.config
        if (config.score_space, config.classes) != ("logit", 2):
            raise InputError(
                f"{self.name} is for score_space 'logit' and two classes; got {config.score_space!r} and "
                f"{config.classes}; leave it out"
            )
        return lambda sample: Prediction(_project(sample.scores, sample, context, "log_loss"))


class BatchProjection(Method):
    """Projection of the model's scores, each batch by itself: parity of every batch, which is not that of their union.

    Args:
        rows: Rows per batch. The batches are drawn from the rows it is applied to, in an order of the context's seed.
    """

    needs_batch = True

    def __init__(self, rows: int = BATCH_ROWS) -> None:
        self.rows = rows
        self.name = "projection_batched"
        self.title = "Projection, batch by batch"
        self.description = f"the model's scores, projected in batches of {rows} rows, each by itself"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Nothing to fit: every batch is projected when it comes."""
        return lambda sample: Prediction(_project_batches(sample.scores, sample, context, self.rows))


class BatchLayer(BatchProjection):
    """A head tuned through the layer, with the layer applied to each batch by itself."""

    def __init__(self, rows: int = BATCH_ROWS) -> None:
        super().__init__(rows)
        self.name = "layer_batched"
        self.title = "Fairness layer, batch by batch"
        self.description = f"a head tuned through the fairness layer, with the layer applied to batches of {rows} rows"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Tune the head."""
        head, divergence = tuned_head(context), context.config.divergence

        def predict(sample: Sample) -> Prediction:
            scores = head.predict(frozen_features(sample))
            return Prediction(_project_batches(scores, sample, context, self.rows, divergence))

        return predict


class CalibratedProjection(Method):
    """The model's scores with corrections found on the calibration rows."""

    name = "calibrated_projection"
    title = "Model + calibrated correction"
    description = "the model's scores with a correction per group, found on the calibration rows and applied row by row"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Calibrate the frozen scores."""
        calibration = calibrate_sample(context.calibrate, context.calibrate.scores, context)
        return lambda sample: Prediction(calibration.apply(sample.scores, sample.groups))


class TunedHead(Method):
    """A head tuned through the layer, used without any correction: blind to the group at decision time."""

    name = "head"
    title = "Tuned head, group-blind"
    description = "a head tuned through the fairness layer, used without the layer and without the attribute"
    needs_attributes = False

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Tune the head."""
        head = tuned_head(context)
        return lambda sample: Prediction(head.predict(frozen_features(sample)))


class Layer(Method):
    """A head tuned through the layer, with the layer applied to the pooled rows."""

    name = "layer"
    title = "Fairness layer"
    description = "a head tuned through the fairness layer, with the layer applied to all rows at once"
    needs_batch = True

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Tune the head."""
        head, divergence = tuned_head(context), context.config.divergence
        return lambda sample: Prediction(_project(head.predict(frozen_features(sample)), sample, context, divergence))


class Calibrated(Method):
    """A head tuned through the layer, with corrections found on the calibration rows: what is deployed."""

    name = "calibrated"
    title = "Fairness layer, calibrated"
    description = "a head tuned through the fairness layer, with a calibrated correction per group, applied row by row"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Tune the head and calibrate it."""
        head = tuned_head(context)
        rows = context.calibrate
        calibration = context.calibration or calibrate_sample(rows, head.predict(frozen_features(rows)), context)
        return lambda sample: Prediction(calibration.apply(head.predict(frozen_features(sample)), sample.groups))


def _options(context: FitContext, divergence: Divergence) -> dict[str, Any]:
    """How scores are projected: within the bounds that were asked for, else those of the score space."""
    if divergence == "euclidean":
        return {"bounds": context.score_bounds}
    return {"bounds": context.bounds or LOGIT_BOUNDS, "divergence": divergence}


def _project(
    scores: FloatArray, sample: Sample, context: FitContext, divergence: Divergence = "euclidean"
) -> FloatArray:
    options = _options(context, divergence)
    result = project(scores, sample.groups, context.criteria, labels=sample.labels, **options)
    return np.asarray(result.scores)


def _project_batches(
    scores: FloatArray, sample: Sample, context: FitContext, size: int, divergence: Divergence = "euclidean"
) -> FloatArray:
    """Batches of rows in a seeded order, each projected by itself; where none satisfies it, the least violation."""
    order = np.random.default_rng(context.config.seed).permutation(sample.n_rows)
    corrected, options = np.empty(sample.n_rows), _options(context, divergence)
    for start in range(0, sample.n_rows, size):
        rows = order[start : start + size]
        result = project(
            scores[rows], sample.groups.take(rows), context.criteria, labels=sample.labels[rows],
            on_infeasible="relax", **options,
        )  # fmt: skip
        corrected[rows] = np.asarray(result.scores)
    return corrected
