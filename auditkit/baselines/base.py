"""What every method is given and gives back, and the steps that several share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import expit, logit

from auditkit._typing import FloatArray, IntArray
from auditkit.criteria import Criterion, columns_of
from auditkit.deployment import Calibration, calibrate
from auditkit.errors import InputError
from auditkit.feature_rows import FeatureRows
from auditkit.finetuning import PROBABILITY_BOUNDS, TuneConfig, tune_head
from auditkit.groups import LABEL, Groups
from auditkit.heads import FairHead
from auditkit.progress import NullProgress, Progress


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows that methods are fitted on or applied to.

    Attributes:
        scores: Scores of the frozen model, in the score space of the comparison, shape (n,).
        labels: 0 or 1, or any number in the score space "identity", shape (n,).
        groups: Attributes of the same rows.
        features: Frozen features, shape (n, d), as an array or as rows of a file; None when only scores are known.
        clusters: Whom each row is of, shape (n,), any hashable values, where several rows are of one person; None takes
            the rows as independent.
    """

    scores: FloatArray
    labels: FloatArray
    groups: Groups
    features: FloatArray | FeatureRows | None = None
    clusters: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.scores)

    def take(self, rows: IntArray) -> Sample:
        """Some of the rows."""
        features = None if self.features is None else self.features[rows]
        clusters = None if self.clusters is None else np.asarray(self.clusters)[rows]
        return Sample(self.scores[rows], self.labels[rows], self.groups.take(rows), features, clusters)


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
        bounds: Bounds of corrected scores; None takes those of the score space.
    """

    tune: Sample
    calibrate: Sample
    criteria: tuple[Criterion, ...]
    config: TuneConfig
    confidence: float | None = 0.95
    progress: Progress = field(default_factory=NullProgress)
    head: FairHead | None = None
    calibration: Calibration | None = None
    bounds: tuple[float | None, float | None] | None = None

    @property
    def score_bounds(self) -> tuple[float | None, float | None] | None:
        """What corrected scores keep to: the bounds asked for, else (almost) [0, 1] for probabilities."""
        if self.bounds is not None:
            return self.bounds
        return PROBABILITY_BOUNDS if self.config.score_space == "probability" else None

    @property
    def tolerance(self) -> float:
        """The smallest ε among the criteria, for methods that know only one."""
        return min(criterion.tolerance for criterion in self.criteria)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a method predicts.

    Attributes:
        scores: In the score space of the context, shape (n,); None for a method that gives decisions only.
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

    name: str
    title: str
    description: str
    needs_attributes: bool = True
    needs_batch: bool = False

    @abstractmethod
    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Fit on the context's rows and return the function that predicts for new rows."""


def calibrate_sample(rows: Sample, scores: FloatArray, context: FitContext) -> Calibration:
    """Calibrate scores on the calibration rows; contrasts that cannot be guaranteed are held to a gap of zero."""
    return calibrate(
        scores, rows.groups, context.criteria, labels=rows.labels, clusters=rows.clusters, bounds=context.score_bounds,
        confidence=context.confidence, on_insufficient="equalize", on_unseen="keep", seed=context.config.seed,
    )  # fmt: skip


def share_head(context: FitContext) -> FitContext:
    """The context with a head tuned through the layer and its calibration, for several methods to use."""
    if context.tune.features is None:
        return context
    head = tuned_head(context)
    scores = head.predict(frozen_features(context.calibrate))
    return replace(context, head=head, calibration=calibrate_sample(context.calibrate, scores, context))


def tuned_head(context: FitContext) -> FairHead:
    """The context's shared head, or a head tuned through the layer now."""
    if context.head is not None:
        return context.head
    rows = context.tune
    if rows.features is None:
        raise InputError(
            "a head needs frozen features; give a model with features, or leave out the methods with a head"
        )
    return tune_head(
        rows.features, rows.labels, rows.groups, context.criteria,
        clusters=rows.clusters, start=to_start(rows.scores, context), config=context.config, progress=context.progress,
    )  # fmt: skip


def frozen_features(sample: Sample) -> FloatArray | FeatureRows:
    """Features of a sample that must have them."""
    if sample.features is None:
        raise InputError(
            "features are missing; this method needs the frozen features of the model, not its scores alone"
        )
    return sample.features


def protected_columns(criteria: Sequence[Criterion]) -> tuple[str, ...]:
    """Every column that the criteria look at, but for the label."""
    return tuple(dict.fromkeys(name for name in columns_of(criteria) if name != LABEL))


def group_names(sample: Sample, columns: Sequence[str]) -> np.ndarray:
    """One string per row that names its combination of attribute values."""
    cells = sample.groups.cells(columns)
    names = [" × ".join(str(cells.table.value(c, name)) for name in columns) for c in range(cells.table.n_cells)]
    return np.array(names, dtype=object)[cells.index]


def to_probability(scores: FloatArray, context: FitContext) -> FloatArray:
    """Scores of a binary score space as probabilities.

    Raises:
        InputError: The comparison is one of regressions.
    """
    require_binary(context)
    return scores if context.config.score_space == "probability" else expit(scores)


def to_start(scores: FloatArray, context: FitContext) -> FloatArray:
    """The model's scores as a head's start takes them: probabilities where outcomes are binary."""
    return scores if context.config.score_space == "identity" else to_probability(scores, context)


def from_probability(chances: FloatArray, context: FitContext) -> FloatArray:
    """Probabilities in the score space of the context; logits keep as far from infinity as bounded probabilities."""
    return chances if context.config.score_space == "probability" else logit(np.clip(chances, *PROBABILITY_BOUNDS))


def require_binary(context: FitContext) -> None:
    """Raise for a method that knows binary outcomes only.

    Raises:
        InputError: The score space is "identity".
    """
    if context.config.score_space == "identity":
        raise InputError("score_space is 'identity', and this method knows binary outcomes only; leave it out")
