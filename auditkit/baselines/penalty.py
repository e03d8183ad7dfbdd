"""The penalty baseline: a regulariser on the gaps instead of a constraint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from auditkit._typing import FloatArray
from auditkit.baselines.base import (
    FitContext,
    Method,
    Prediction,
    Sample,
    frozen_features,
    group_names,
    protected_columns,
)
from auditkit.constraints import build_constraints, measure_gaps
from auditkit.criteria import Criterion
from auditkit.finetuning import HeadRows, TuneConfig, check_rows, prediction_loss, train
from auditkit.heads import FairHead
from auditkit.progress import NullProgress

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Weights that the penalty baseline chooses from."""


class Penalty(Method):
    """A head trained with loss + λ·Σ(|gap| − ε)₊², λ chosen on the calibration rows.

    Args:
        blind: Whether the head sees the frozen features only; else it also sees which group a row belongs to, as the
            projection and the calibrated corrections do.
    """

    def __init__(self, *, blind: bool) -> None:
        self.blind = blind
        self.needs_attributes = not blind
        self.name = "penalty_blind" if blind else "penalty"
        self.title = "Penalty, group-blind" if blind else "Penalty"
        inputs = "the features" if blind else "the features and the group"
        self.description = f"a head on {inputs}, trained with the penalty weight of best loss that meets the tolerances"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Train one head per weight and keep the best: the least excess gap first, then the least loss."""
        encode = frozen_features if self.blind else _encoder(context)
        with context.progress.stage(f"fitting: {self.title.lower()}", len(PENALTIES)) as advance:
            candidates = []
            for weight in PENALTIES:
                candidates.append(_penalized(weight, context, encode))
                advance(1)
        head = min(candidates, key=lambda candidate: candidate[0])[1]
        return lambda sample: Prediction(head.predict(encode(sample)))


def _encoder(context: FitContext) -> Callable[[Sample], FloatArray]:
    """Features with one indicator per group seen in tuning beside them."""
    columns = protected_columns(context.criteria)
    known = np.unique(group_names(context.tune, columns))

    def encode(sample: Sample) -> FloatArray:
        return np.hstack([frozen_features(sample), group_names(sample, columns)[:, None] == known])

    return encode


def _penalized(
    weight: float, context: FitContext, encode: Callable[[Sample], FloatArray]
) -> tuple[tuple[float, float], FairHead]:
    """The head for one penalty weight and its rank on the calibration rows: excess gap, then loss."""
    tune, held = context.tune, context.calibrate
    rows = check_rows(encode(tune), tune.labels, tune.groups, context.config, start=tune.scores)
    loss = _PenaltyLoss(context.criteria, context.config, weight)
    head = train(rows, loss, context.criteria, context.config, NullProgress())
    scores = head.predict(encode(held))
    gaps = measure_gaps(scores, held.groups, context.criteria, labels=held.labels)
    excess = max(gaps[criterion.name] - criterion.tolerance for criterion in context.criteria)
    value = prediction_loss(torch.as_tensor(scores), torch.as_tensor(held.labels), context.config)
    return (max(0.0, excess), float(value)), head


class _PenaltyLoss:
    """Prediction loss + λ·Σ(|gap| − ε)₊² over the contrasts."""

    def __init__(self, criteria: Sequence[Criterion], config: TuneConfig, weight: float) -> None:
        self.criteria, self.config, self.weight = tuple(criteria), config, weight

    def __call__(self, head: FairHead, rows: HeadRows) -> Tensor:
        scores = head(rows.features)
        system = build_constraints(rows.groups, self.criteria, labels=rows.labels.numpy())
        weight = torch.as_tensor(np.where(system.cell_weight > 0, system.cell_weight, 1.0))
        sums = torch.zeros_like(weight).index_add(0, system.known_cells.index_on(scores.device), scores)
        gaps = torch.as_tensor(system.matrix) @ (sums / weight) - torch.as_tensor(system.target)
        excess = (gaps.abs() - torch.as_tensor(system.tolerance)).clamp_min(0)
        return prediction_loss(scores, rows.labels, self.config) + self.weight * (excess**2).sum()
