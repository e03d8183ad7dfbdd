"""`tune_head`: train a small head on frozen features, through the fairness layer.

    min_θ  mean loss( P(h_θ(x)), y )        P: projection of the batch's scores onto the fairness constraint set

Because the loss sees the projected scores, the head spends its capacity on what the projection leaves alone. The
backbone is not touched: it only supplies the features. Source: arXiv 2605.17118, end-to-end training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from auditkit._typing import VectorLike
from auditkit.criteria import Criterion, check_criteria
from auditkit.errors import InputError
from auditkit.feature_rows import FeatureRows
from auditkit.groups import Groups
from auditkit.heads import FairHead
from auditkit.progress import NullProgress, Progress
from auditkit.tuning.config import PROBABILITY_BOUNDS, TuneConfig
from auditkit.tuning.losses import prediction_loss
from auditkit.tuning.rows import HeadRows, check_rows
from auditkit.tuning.training import Checkpointing, make_loss, train

__all__ = [
    "PROBABILITY_BOUNDS",
    "HeadRows",
    "TuneConfig",
    "check_rows",
    "describe_training",
    "prediction_loss",
    "train",
    "tune_head",
]


def tune_head(
    features: VectorLike | FeatureRows,
    labels: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    *,
    clusters: VectorLike | None = None,
    start: VectorLike | None = None,
    config: TuneConfig | None = None,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 10,
) -> FairHead:
    """Train a head on frozen features through the fairness layer.

    Args:
        features: Frozen features, shape (n, d); float32 features are trained on in float32, without a copy in float64.
            `FeatureRows` stay in their file: training takes a working copy in float64, which a large one has in a file.
        labels: Labels, shape (n,): 0 or 1, classes 0 … k − 1 with classes=k, or any number with
            score_space="identity".
        groups: Attributes of the same rows.
        criteria: What the projected scores must satisfy, in units of the score space; with several classes, in every
            column.
        clusters: Whom each row is of, shape (n,), where several rows are of one person: those held back for validation
            are then of other people than those trained on.
        start: Scores of the frozen model on these rows, shape (n,), probabilities in a binary score space; the head
            starts as their least-squares fit. None starts from random weights.
        config: How to train.
        progress: Where to report epochs; None reports nothing.
        checkpoint: A file that always holds where the training stands. Where it exists the training goes on from it,
            and ends as if it had never been interrupted.
        checkpoint_every: Epochs between two writes of it.

    Returns:
        The head at its best validation loss, with its history. Calling it gives scores that are not projected: apply a
        `FairnessLayer` to a batch of them, or `calibrate` them for use row by row.

    Raises:
        InputError: Wrong shapes, NaN or infinite values, labels that are no classes, a checkpoint of another training.
        InfeasibleError: The criteria cannot hold together on a batch.
        SolverError: No epoch had a finite validation loss.
    """
    listed, settings = check_criteria(criteria), config or TuneConfig()
    rows = check_rows(features, labels, groups, settings, start=start, clusters=clusters)
    if checkpoint_every < 1:
        raise InputError(f"checkpoint_every must be at least 1 epoch; got {checkpoint_every!r}")
    place = None if checkpoint is None else Checkpointing(Path(checkpoint), checkpoint_every)
    loss = make_loss(listed, settings)
    return train(rows, loss, listed, settings, progress or NullProgress(), checkpoint=place)


def describe_training(head: FairHead, config: TuneConfig) -> dict[str, Any]:
    """Configuration, best epoch and history as JSON-ready values."""
    history = [asdict(record) for record in head.history]
    return {"config": asdict(config), "best_epoch": head.best_epoch, "history": history}
