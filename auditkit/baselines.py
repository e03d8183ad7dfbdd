"""Every method behind one interface: fit on the tuning (and calibration) rows, then apply to rows it has not seen.

All methods get the same frozen features, the same splits and the same criteria; each is tuned in its own best way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from auditkit._typing import FloatArray, IntArray
from auditkit.criteria import Criterion, columns_of
from auditkit.deployment import Calibration, calibrate
from auditkit.errors import InputError
from auditkit.finetuning import FairHead, HeadRows, TuneConfig, check_rows, prediction_loss, train, tune_head
from auditkit.groups import LABEL, Groups
from auditkit.layer import project
from auditkit.progress import NullProgress, Progress
from auditkit.projection import build_constraints, measure_gaps

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Weights that the penalty baseline chooses from."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows that methods are fitted on or applied to.

    Attributes:
        scores: Scores of the frozen model (probabilities), shape (n,).
        labels: 0 or 1, shape (n,).
        groups: Attributes of the same rows.
        features: Frozen features, shape (n, d); None when only scores are known.
    """

    scores: FloatArray
    labels: FloatArray
    groups: Groups
    features: FloatArray | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.scores)

    def take(self, rows: IntArray) -> Sample:
        """Some of the rows."""
        features = None if self.features is None else self.features[rows]
        return Sample(self.scores[rows], self.labels[rows], self.groups.take(rows), features)


@dataclass(frozen=True, eq=False)
class FitContext:
    """What a method is fitted with.

    Attributes:
        tune: Rows that heads are trained on.
        calibrate: Rows that corrections and thresholds are found on.
        criteria: What to enforce.
        config: How heads are trained.
        confidence: Of the population guarantee of calibrated corrections; None takes no margin off.
        progress: Where to report long steps.
        head: A head tuned through the layer for these criteria, if the caller has one already.
        calibration: Its calibration, likewise.
    """

    tune: Sample
    calibrate: Sample
    criteria: tuple[Criterion, ...]
    config: TuneConfig
    confidence: float | None = 0.95
    progress: Progress = field(default_factory=NullProgress)
    head: FairHead | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a method predicts.

    Attributes:
        scores: Probabilities, shape (n,); None for a method that gives decisions only.
        decisions: Probability of a positive decision, shape (n,); None where the comparison's threshold decides.
    """

    scores: FloatArray | None
    decisions: FloatArray | None = None


class Method(ABC):
    """A way to obtain fairer predictions from a frozen model.

    Attributes:
        name: What audit files call it.
        title: What reports call it.
        description: What it does, in a sentence.
        needs_attributes: Whether it reads the protected attribute at decision time.
        needs_batch: Whether it needs the other rows of a batch at decision time.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    needs_attributes: ClassVar[bool] = True
    needs_batch: ClassVar[bool] = False

    @abstractmethod
    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Fit on the context's rows and return the function that predicts for new rows."""


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
        head = _head(context)
        return lambda sample: Prediction(head.predict(_features(sample)))


class Layer(Method):
    """A head tuned through the layer, with the layer applied to the pooled rows."""

    name = "layer"
    title = "Fairness layer"
    description = "a head tuned through the fairness layer, with the layer applied to all rows at once"
    needs_batch = True

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Tune the head."""
        head = _head(context)
        return lambda sample: Prediction(_project(head.predict(_features(sample)), sample, context))


class Calibrated(Method):
    """A head tuned through the layer, with corrections found on the calibration rows: what is deployed."""

    name = "calibrated"
    title = "Fairness layer, calibrated"
    description = "a head tuned through the fairness layer, with a calibrated correction per group, applied row by row"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Tune the head and calibrate it."""
        head = _head(context)
        rows = context.calibrate
        calibration = context.calibration or calibrate_sample(rows, head.predict(_features(rows)), context)
        return lambda sample: Prediction(calibration.apply(head.predict(_features(sample)), sample.groups))


class Penalty(Method):
    """A head trained with loss + λ·Σ(gap − ε)₊², λ chosen on the calibration rows."""

    name = "penalty"
    title = "Penalty"
    description = "a head trained with a penalty on the gaps; its weight is the one with the best loss that meets ε"
    needs_attributes = False

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Train one head per weight and keep the best."""
        with context.progress.stage("fitting the penalty baseline", len(PENALTIES)) as advance:
            candidates = [self._candidate(weight, context, advance) for weight in PENALTIES]
        head = min(candidates, key=lambda candidate: candidate[0])[1]
        return lambda sample: Prediction(head.predict(_features(sample)))

    @staticmethod
    def _candidate(
        weight: float, context: FitContext, advance: Callable[..., None]
    ) -> tuple[tuple[float, float], FairHead]:
        """The head for one weight and its rank: excess gap first, loss second, on the calibration rows."""
        tune = context.tune
        rows = check_rows(_features(tune), tune.labels, tune.groups, context.config, start=tune.scores)
        loss = _PenaltyLoss(context.criteria, context.config, weight)
        head = train(rows, loss, context.criteria, context.config, NullProgress())
        held = context.calibrate
        scores = head.predict(_features(held))
        gaps = measure_gaps(scores, held.groups, context.criteria, labels=held.labels)
        excess = max(gaps[criterion.name] - criterion.tolerance for criterion in context.criteria)
        value = prediction_loss(torch.as_tensor(scores), torch.as_tensor(held.labels), context.config)
        advance(1)
        return (max(0.0, excess), float(value)), head


class _PenaltyLoss:
    """Prediction loss + λ·Σ(|gap| − ε)₊² over the contrasts."""

    def __init__(self, criteria: Sequence[Criterion], config: TuneConfig, weight: float) -> None:
        self.criteria, self.config, self.weight = tuple(criteria), config, weight

    def __call__(self, head: FairHead, rows: HeadRows) -> Tensor:
        scores = head(rows.features)
        system = build_constraints(rows.groups, self.criteria, labels=rows.labels.numpy())
        weight = torch.as_tensor(np.where(system.cell_weight > 0, system.cell_weight, 1.0))
        sums = torch.zeros_like(weight).index_add(0, system.cells.index_on(scores.device), scores)
        gaps = torch.as_tensor(system.matrix) @ (sums / weight) - torch.as_tensor(system.target)
        excess = (gaps.abs() - torch.as_tensor(system.tolerance)).clamp_min(0)
        return prediction_loss(scores, rows.labels, self.config) + self.weight * (excess**2).sum()


class Threshold(Method):
    """fairlearn's ThresholdOptimizer on the model's scores: randomised group thresholds, decisions only."""

    name = "threshold_optimizer"
    title = "ThresholdOptimizer (fairlearn)"
    description = (
        "randomised group thresholds on the model's scores that equalise decision rates on the calibration rows"
    )

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Find the thresholds on the calibration rows."""
        from fairlearn.postprocessing import ThresholdOptimizer

        rows, columns = context.calibrate, _attributes(context.criteria)
        merge = _merge_degenerate(rows, columns)
        optimizer = ThresholdOptimizer(
            estimator=_score_classifier(), constraints=_threshold_constraint(context.criteria),
            objective="accuracy_score", prefit=True, predict_method="predict_proba",
        )  # fmt: skip
        try:
            with np.errstate(divide="ignore", invalid="ignore"):
                optimizer.fit(rows.scores[:, None], rows.labels, sensitive_features=merge(rows))
        except ValueError as error:
            raise InputError(f"fairlearn's ThresholdOptimizer cannot be fitted on these groups: {error}") from error

        def predict(sample: Sample) -> Prediction:
            chances = optimizer._pmf_predict(sample.scores[:, None], sensitive_features=merge(sample))
            return Prediction(None, np.asarray(chances)[:, 1])

        return predict


def _merge_degenerate(rows: Sample, columns: Sequence[str]) -> Callable[[Sample], np.ndarray]:
    """The group of every row as text, with groups that fairlearn cannot fit merged into one.

    ThresholdOptimizer takes one partition of the rows and refuses a group whose labels are all equal. Such groups share
    one pair of thresholds here, and the largest group's when even together their labels are all equal.
    """
    names = _sensitive(rows, columns)
    known, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    positives = np.bincount(index, weights=rows.labels)
    degenerate = (positives == 0) | (positives == counts)
    largest, total = known[np.argmax(counts)], positives[degenerate].sum()
    pooled = "(merged)" if 0 < total < counts[degenerate].sum() else largest
    target = {name: pooled if bad else name for name, bad in zip(known, degenerate, strict=True)}
    return lambda sample: np.array([target.get(name, largest) for name in _sensitive(sample, columns)], dtype=object)


def _threshold_constraint(criteria: Sequence[Criterion]) -> Any:
    """The constraint of ThresholdOptimizer that is nearest to the criteria."""
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


METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Unconstrained, Layer, Calibrated, TunedHead, Projection, CalibratedProjection, Penalty, Threshold,
    )
}  # fmt: skip


def find_method(name: str) -> Method:
    """A method by its name.

    Raises:
        InputError: No such method.
    """
    if name not in METHODS:
        raise InputError(f"methods must be among {', '.join(map(repr, METHODS))}; got {name!r}")
    return METHODS[name]()


def calibrate_sample(rows: Sample, scores: FloatArray, context: FitContext) -> Calibration:
    """Calibrate scores on the calibration rows; contrasts that cannot be guaranteed are held to a gap of zero."""
    return calibrate(
        scores, rows.groups, context.criteria, labels=rows.labels, bounds=(0.0, 1.0), confidence=context.confidence,
        on_insufficient="equalize", on_unseen="keep", seed=context.config.seed,
    )  # fmt: skip


def share_head(context: FitContext) -> FitContext:
    """The context with a head tuned through the layer and its calibration, for several methods to use."""
    if context.tune.features is None:
        return context
    head = tune_head(
        context.tune.features, context.tune.labels, context.tune.groups, context.criteria,
        start=context.tune.scores, config=context.config, progress=context.progress,
    )  # fmt: skip
    scores = head.predict(_features(context.calibrate))
    return replace(context, head=head, calibration=calibrate_sample(context.calibrate, scores, context))


def _head(context: FitContext) -> FairHead:
    shared = context if context.head is not None else share_head(context)
    if shared.head is None:
        raise InputError(
            "a head needs frozen features; give a model with features, or leave out the methods with a head"
        )
    return shared.head


def _project(scores: FloatArray, sample: Sample, context: FitContext) -> FloatArray:
    result = project(scores, sample.groups, context.criteria, labels=sample.labels, bounds=(0.0, 1.0))
    return np.asarray(result.scores)


def _features(sample: Sample) -> FloatArray:
    if sample.features is None:
        raise InputError(
            "features are missing; this method needs the frozen features of the model, not its scores alone"
        )
    return sample.features


def _attributes(criteria: Sequence[Criterion]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in columns_of(criteria) if name != LABEL))


def _sensitive(sample: Sample, columns: Sequence[str]) -> np.ndarray:
    """One string per row that names its combination of attribute values."""
    cells = sample.groups.cells(columns)
    names = [" × ".join(str(cells.table.value(c, name)) for name in columns) for c in range(cells.table.n_cells)]
    return np.array(names, dtype=object)[cells.index]
