"""The penalty baseline: a regulariser on the gaps instead of a constraint."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditkit._typing import FloatArray, IntArray
from auditkit.baselines.base import (
    FitContext,
    Method,
    Prediction,
    Sample,
    frozen_features,
    group_names,
    protected_columns,
    to_start,
)
from auditkit.clusters import check_clusters, deal_folds
from auditkit.constraints import build_constraints
from auditkit.criteria import Criterion
from auditkit.feature_rows import FeatureRows
from auditkit.finetuning import HeadRows, TuneConfig, check_rows, prediction_loss, train
from auditkit.heads import FairHead
from auditkit.progress import NullProgress
from auditkit.tuning.losses import PlainLoss

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Weights that the penalty baseline chooses from."""

STRICT_PENALTY = 1e4
"""Weight of the strict penalty, which is not chosen."""

FOLDS = 3
"""Folds of the cross-validation that chooses the weight."""

Encode = Callable[[Sample], FloatArray | FeatureRows]


class PenalizedHead(Method):
    """A head trained with loss + λ·penalty, λ chosen by cross-validation on the tuning rows, then refitted on all.

    The weight taken is the one of least loss among those whose gaps on the held-out folds are within ε, but for one
    standard error; where none is, the one that comes nearest.

    Args:
        blind: Whether the head sees the frozen features only; else it also sees which group a row belongs to, as the
            projection and the calibrated corrections do.
    """

    weights: tuple[float, ...] = PENALTIES

    def __init__(self, *, blind: bool) -> None:
        self.blind = blind
        self.needs_attributes = not blind

    @abstractmethod
    def make_loss(self, context: FitContext, weight: float) -> Any:
        """The loss for one weight, called with (head, rows)."""

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Choose the weight and train the head."""
        encode = frozen_features if self.blind else _encoder(context)
        weight = self.choose_weight(context, encode)
        head = train_plainly(context.tune, self.make_loss(context, weight), context, encode=encode)
        return lambda sample: Prediction(head.predict(encode(sample)))

    def choose_weight(self, context: FitContext, encode: Encode) -> float:
        """The weight by cross-validation; the only one without."""
        if len(self.weights) == 1:
            return self.weights[0]
        rows = context.tune
        clusters = check_clusters(rows.clusters, n_rows=rows.n_rows)
        folds = deal_folds(rows.n_rows, folds=FOLDS, seed=context.config.seed, clusters=clusters)
        ranks = {}
        with context.progress.stage(f"cross-validating: {self.title.lower()}", len(self.weights)) as advance:
            for weight in self.weights:
                ranks[weight] = rank(_predict_out_of_fold(self, weight, context, encode, folds), context)
                advance(1)
        return min(ranks, key=ranks.__getitem__)


class Penalty(PenalizedHead):
    """A head trained with loss + λ·Σ(|gap| − ε)₊², λ by cross-validation.

    Args:
        blind: Whether the head sees the frozen features only.
    """

    def __init__(self, *, blind: bool) -> None:
        super().__init__(blind=blind)
        self.name = "penalty_blind" if blind else "penalty"
        self.title = "Penalty, group-blind" if blind else "Penalty"
        inputs = "the features" if blind else "the features and the group"
        self.description = f"a head on {inputs}, trained with a penalty on the gaps whose weight is cross-validated"

    def make_loss(self, context: FitContext, weight: float) -> Any:
        """Prediction loss with the squared excess of the gaps."""
        return _PenaltyLoss(context.criteria, context.config, weight)


class StrictPenalty(Penalty):
    """The penalty with one large weight: the gaps come first, whatever it costs."""

    weights = (STRICT_PENALTY,)

    def __init__(self) -> None:
        super().__init__(blind=False)
        self.name = "penalty_strict"
        self.title = "Strict penalty"
        self.description = f"a head on the features and the group, trained with a penalty weight of {STRICT_PENALTY:g}"


def train_plainly(rows: Sample, loss: Any, context: FitContext, *, encode: Encode = frozen_features) -> FairHead:
    """A head trained with any loss on a sample, from the least-squares fit of the model's scores."""
    start = to_start(rows.scores, context)
    checked = check_rows(encode(rows), rows.labels, rows.groups, context.config, start=start, clusters=rows.clusters)
    return train(checked, loss, context.criteria, context.config, NullProgress())


def fit_unconstrained(context: FitContext) -> FairHead:
    """A head trained on the tuning rows for the prediction loss alone, with the budget of a head with the layer.

    Such a head starts from the scores of this one, so this one too is trained a second time, from its own scores; of
    the two the one of less validation loss is taken.
    """
    rows, config = context.tune, context.config
    loss = PlainLoss(config)
    checked = check_rows(frozen_features(rows), rows.labels, rows.groups, config, clusters=rows.clusters)
    first = train(checked, loss, context.criteria, config, context.progress)
    second = train_plainly(replace(rows, scores=first.predict(frozen_features(rows))), loss, context)
    return min((first, second), key=_validation_loss)


def _validation_loss(head: FairHead) -> float:
    return min(record.validation_loss for record in head.history)


def rank(scores: FloatArray, context: FitContext) -> tuple[float, float]:
    """Rank of predictions for the tuning rows, less is better: excess of the gaps over ε and one error, then loss."""
    rows = context.tune
    system = build_constraints(rows.groups, context.criteria, labels=rows.labels)
    cells, count = system.known_cells, np.maximum(system.cell_weight, 1.0)
    # one error of independent rows, also where persons have several: it ranks weights, and promises nothing
    spread = scores - rows.labels if all(criterion.family == "EER" for criterion in context.criteria) else scores

    def means(values: FloatArray) -> FloatArray:
        return np.bincount(cells.index, weights=values, minlength=len(count)) / count

    variance = np.maximum(means(spread**2) - means(spread) ** 2, 0.0) / count
    error = np.sqrt(system.matrix**2 @ variance)
    excess = np.abs(system.matrix @ means(scores) - system.target) - system.tolerance - error
    loss = prediction_loss(torch.as_tensor(scores), torch.as_tensor(rows.labels), context.config)
    return max(0.0, float(excess.max(initial=0.0))), float(loss)


def _predict_out_of_fold(
    method: PenalizedHead, weight: float, context: FitContext, encode: Encode, folds: IntArray
) -> FloatArray:
    """Predictions for every tuning row by a head that did not see its fold."""
    scores = np.empty(context.tune.n_rows)
    for fold in range(FOLDS):
        seen, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        head = train_plainly(context.tune.take(seen), method.make_loss(context, weight), context, encode=encode)
        scores[held] = head.predict(encode(context.tune.take(held)))
    return scores


def _encoder(context: FitContext) -> Encode:
    """Features with one indicator per group seen in tuning beside them."""
    columns = protected_columns(context.criteria)
    known = np.unique(group_names(context.tune, columns))

    def encode(sample: Sample) -> FloatArray | FeatureRows:
        features, group = frozen_features(sample), group_names(sample, columns)[:, None] == known
        return features.with_beside(group) if isinstance(features, FeatureRows) else np.hstack([features, group])

    return encode


class _PenaltyLoss:
    """Prediction loss + λ·Σ(|gap| − ε)₊² over the contrasts."""

    def __init__(self, criteria: Sequence[Criterion], config: TuneConfig, weight: float) -> None:
        self.criteria, self.config, self.weight = tuple(criteria), config, weight

    def __call__(self, head: FairHead, rows: HeadRows) -> Tensor:
        scores = head(rows.features)
        index, weight, matrix, target, tolerance = self._system(rows)
        sums = torch.zeros_like(weight).index_add(0, index, scores.to(weight.dtype))
        excess = ((matrix @ (sums / weight) - target).abs() - tolerance).clamp_min(0)
        return prediction_loss(scores, rows.labels, self.config) + self.weight * (excess**2).sum()

    def _system(self, rows: HeadRows) -> tuple[Tensor, ...]:
        """The contrasts of these rows in float64, built once for the same groups and labels."""
        key = ("penalty", self.criteria)
        if key not in rows.derived:
            system = build_constraints(rows.groups, self.criteria, labels=rows.labels.numpy())
            weight = np.where(system.cell_weight > 0, system.cell_weight, 1.0)
            arrays = (system.known_cells.index, weight, system.matrix, system.target, system.tolerance)
            rows.derived[key] = tuple(torch.as_tensor(array) for array in arrays)
        return rows.derived[key]
