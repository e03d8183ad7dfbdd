"""Methods that correct scores, of the frozen model or of a tuned head: per batch, pooled, or row by row."""

from __future__ import annotations

from collections.abc import Callable

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
from auditkit.finetuning import PROBABILITY_BOUNDS


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
        head = tuned_head(context)
        return lambda sample: Prediction(_project(head.predict(frozen_features(sample)), sample, context))


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


def _project(scores: FloatArray, sample: Sample, context: FitContext) -> FloatArray:
    result = project(scores, sample.groups, context.criteria, labels=sample.labels, bounds=PROBABILITY_BOUNDS)
    return np.asarray(result.scores)
