"""The accuracy–ε frontier: one head per tolerance, from loose to tight, each started from the one before.

ε ↦ min_θ  mean loss( P_ε(h_θ(x)), y )
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from auditkit._typing import FloatArray, VectorLike
from auditkit.criteria import Criterion, check_criteria
from auditkit.errors import InputError
from auditkit.feature_rows import FeatureRows
from auditkit.groups import Groups
from auditkit.heads import FairHead
from auditkit.layer import FairnessLayer
from auditkit.progress import NullProgress, Progress
from auditkit.tuning.config import TuneConfig
from auditkit.tuning.gaps import LargestGap
from auditkit.tuning.losses import prediction_loss
from auditkit.tuning.rows import SourceRows, check_rows
from auditkit.tuning.training import Checkpointing, make_loss, train

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "auditkit.frontier/1"


@dataclass(frozen=True, eq=False)
class FrontierPoint:
    """One tolerance.

    Attributes:
        tolerance: ε of every criterion.
        loss: Mean loss of the projected scores on the evaluation rows.
        quality: Accuracy of the projected scores' classes, or R² in the score space "identity".
        gap: Largest gap of the projected scores on those rows, at most ε.
        head_gap: The same of the head's own scores, before the projection.
        epochs: Epochs that the head was trained for.
        best_epoch: The one that was kept; −1 is the start.
        head: The head.
    """

    tolerance: float
    loss: float
    quality: float
    gap: float
    head_gap: float
    epochs: int
    best_epoch: int
    head: FairHead


@dataclass(frozen=True, eq=False)
class Frontier:
    """What fairness costs: quality as a function of ε.

    Attributes:
        points: One per tolerance, from loose to tight.
        criteria: What was enforced, at the first tolerance.
        config: How every head was trained.
        measure: What ``quality`` is: "accuracy" or "R²".
    """

    points: tuple[FrontierPoint, ...]
    criteria: tuple[Criterion, ...]
    config: TuneConfig
    measure: str

    def to_dict(self) -> dict[str, Any]:
        """The frontier as JSON-ready values, without the heads."""
        return {
            "schema": SCHEMA,
            "criteria": [criterion.to_dict() for criterion in self.criteria],
            "config": asdict(self.config),
            "measure": self.measure,
            "points": [_row(point) for point in self.points],
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per tolerance."""
        import pandas as pd

        return pd.DataFrame([_row(point) for point in self.points])


def sweep(
    features: VectorLike | FeatureRows,
    labels: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    tolerances: Sequence[float],
    *,
    held_out: tuple[VectorLike | FeatureRows, VectorLike, Groups],
    clusters: VectorLike | None = None,
    start: VectorLike | None = None,
    initial: FairHead | None = None,
    config: TuneConfig | None = None,
    progress: Progress | None = None,
    checkpoints: str | Path | None = None,
) -> Frontier:
    """Train one head per tolerance, each started from the weights of the one before.

    Args:
        features: Frozen features, shape (n, d).
        labels: Labels, as for `tune_head`.
        groups: Attributes of the same rows.
        criteria: What to enforce; their own tolerances are replaced.
        tolerances: ε, one per point; trained from the largest to the smallest.
        held_out: Features, labels and groups of the rows that the frontier is measured on, pooled into one batch.
        clusters: Whom each row is of, as for `tune_head`.
        start: Scores of the frozen model, as for `tune_head`.
        initial: A head whose weights the first training starts from, of the form that ``config`` describes; None starts
            from ``start``, or from the seed.
        config: How to train every head.
        progress: Where to report the tolerances.
        checkpoints: A folder for one checkpoint per tolerance; a sweep that was interrupted goes on from them.

    Returns:
        The frontier, from loose to tight.

    Raises:
        InputError: No tolerance, one that is negative or not finite, wrong rows, or an initial head of another form.
        InfeasibleError: The criteria cannot hold together at one of the tolerances.
    """
    listed, settings = check_criteria(criteria), config or TuneConfig()
    ordered = _check_tolerances(tolerances)
    rows = check_rows(features, labels, groups, settings, start=start, clusters=clusters)
    measured = check_rows(*held_out, settings)
    folder = None if checkpoints is None else Path(checkpoints)
    points: list[FrontierPoint] = []
    weights = None if initial is None else _weights_of(initial, rows, settings)
    with (progress or NullProgress()).stage("sweeping the tolerances", len(ordered)) as advance:
        for epsilon in ordered:
            at = [criterion.with_tolerance(epsilon) for criterion in listed]
            place = None if folder is None else Checkpointing(folder / f"{epsilon!r}.safetensors")
            loss = make_loss(at, settings)
            head = train(rows, loss, at, settings, NullProgress(), checkpoint=place, initial=weights)
            weights = _copy_weights(head)
            points.append(_measure(head, measured, at, epsilon, settings))
            advance(1)
    measure = "R²" if settings.score_space == "identity" else "accuracy"
    first = tuple(criterion.with_tolerance(ordered[0]) for criterion in listed)
    return Frontier(tuple(points), first, settings, measure)


def _weights_of(head: FairHead, rows: SourceRows, config: TuneConfig) -> dict[str, Tensor]:
    """Weights of a head that training can start from."""
    form = (head.n_features, head.hidden, head.score_space, head.outputs)
    wanted = (rows.features.shape[1], config.hidden, config.score_space, config.outputs)
    if form != wanted:
        raise InputError(
            "initial must be a head of the form that config describes, with (features, hidden, score_space, outputs) = "
            f"{wanted}; got {form}"
        )
    return _copy_weights(head)


def _copy_weights(head: FairHead) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in head.state_dict().items()}


def _check_tolerances(tolerances: Sequence[float]) -> list[float]:
    values = [float(value) for value in tolerances]
    if not values:
        raise InputError("tolerances is empty; pass at least one, e.g. [0.1, 0.05, 0.02]")
    if not all(np.isfinite(value) and value >= 0 for value in values):
        raise InputError(f"tolerances must be finite and ≥ 0, in the unit of the scores; got {values}")
    return sorted(set(values), reverse=True)


@torch.no_grad()
def _measure(
    head: FairHead, rows: SourceRows, criteria: Sequence[Criterion], epsilon: float, config: TuneConfig
) -> FrontierPoint:
    scores = torch.from_numpy(head.predict(rows.features))
    layer = FairnessLayer(criteria, **config.layer_options)
    labels = rows.labels.double()
    fair, largest = layer(scores, rows.groups, labels), LargestGap(rows, criteria, config)
    return FrontierPoint(
        tolerance=epsilon,
        loss=float(prediction_loss(fair, labels, config)),
        quality=_quality(fair.numpy(), labels.numpy(), config),
        gap=largest(fair),
        head_gap=largest(scores),
        epochs=len(head.history),
        best_epoch=0 if head.best_epoch is None else head.best_epoch,
        head=head,
    )


def _quality(scores: FloatArray, labels: FloatArray, config: TuneConfig) -> float:
    if config.score_space == "identity":
        return float(1.0 - np.square(labels - scores).sum() / np.square(labels - labels.mean()).sum())
    if scores.ndim == 2:
        return float((scores.argmax(axis=1) == labels).mean())
    return float(((scores >= (0.5 if config.score_space == "probability" else 0.0)) == labels).mean())


def _row(point: FrontierPoint) -> dict[str, Any]:
    return {name: value for name, value in vars(point).items() if name != "head"}
