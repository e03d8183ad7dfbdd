"""`tune_head`: train a small head on frozen features, through the fairness layer.

    min_θ  mean loss( P(h_θ(x)), y )        P: projection of the batch's scores onto the fairness constraint set

Because the loss sees the projected scores, the head spends its capacity on what the projection leaves alone. The
backbone is not touched: it only supplies the features. Source: arXiv 2605.17118, end-to-end training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from auditkit._typing import IntArray, VectorLike
from auditkit._validation import check_binary, check_probability, check_vector
from auditkit.constraints import measure_gaps
from auditkit.criteria import Criterion, check_criteria
from auditkit.errors import InputError, SolverError
from auditkit.groups import Groups
from auditkit.heads import EpochRecord, FairHead, ScoreSpace, check_features
from auditkit.layer import FairnessLayer
from auditkit.progress import NullProgress, Progress

PROBABILITY_BOUNDS = (1e-3, 1 - 1e-3)
"""Bounds of projected probabilities: the log-loss of a probability of exactly 0 or 1 can be infinite."""


@dataclass(frozen=True)
class TuneConfig:
    """How a head is trained.

    Attributes:
        seed: Seed of the validation split, the initial weights and the batches.
        score_space: What the layer constrains: "probability" (in [0, 1]), "logit", or "identity" (regression).
        hidden: Width of one hidden layer; None is a linear head.
        epochs: Most passes over the rows.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        anchor: Pull towards the frozen model's scores where they are given as the start, in rows: the loss gains
            (anchor / n)·‖θ − θ₀‖² over the linear weights of the standardised features, so that few rows move the head
            less than many.
        batch_size: Rows per step; None takes all rows at once, the setting in which the constraint means most.
        validation_fraction: Share of the rows held back for early stopping.
        patience: Epochs without a better validation loss (at equal constraint) before stopping.
    """

    seed: int = 0
    score_space: ScoreSpace = "probability"
    hidden: int | None = None
    epochs: int = 300
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    anchor: float = 40.0
    batch_size: int | None = None
    validation_fraction: float = 0.2
    patience: int = 40

    def __post_init__(self) -> None:
        if self.score_space not in ("probability", "logit", "identity"):
            raise InputError(f"score_space must be 'probability', 'logit' or 'identity'; got {self.score_space!r}")
        for name in ("epochs", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; got {getattr(self, name)!r}")
        if not self.anchor >= 0:
            raise InputError(f"anchor must be at least 0; got {self.anchor!r}")
        for name in ("hidden", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, or None; got {getattr(self, name)!r}")
        check_probability("validation_fraction", self.validation_fraction)


@dataclass(frozen=True, eq=False)
class HeadRows:
    """Checked rows that a loss is taken over: features (n, d), labels (n,) and groups."""

    features: Float[Tensor, "n d"]
    labels: Float[Tensor, " n"]
    groups: Groups
    start: Float[Tensor, " n"] | None = None

    def take(self, rows: IntArray) -> HeadRows:
        """Some of the rows."""
        index = torch.as_tensor(rows)
        start = None if self.start is None else self.start[index]
        return HeadRows(self.features[index], self.labels[index], self.groups.take(rows), start)


@dataclass
class _Best:
    """The best epoch so far."""

    loss: float = float("inf")
    epoch: int = -1
    state: dict[str, Any] = field(default_factory=dict)


def tune_head(
    features: VectorLike,
    labels: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    *,
    start: VectorLike | None = None,
    config: TuneConfig | None = None,
    progress: Progress | None = None,
) -> FairHead:
    """Train a head on frozen features through the fairness layer.

    Args:
        features: Frozen features, shape (n, d).
        labels: Labels, shape (n,): 0 or 1, or any number with score_space="identity".
        groups: Attributes of the same rows.
        criteria: What the projected scores must satisfy, in units of the score space.
        start: Scores of the frozen model on these rows, shape (n,), probabilities in a binary score space; the head
            starts as their least-squares fit. None starts from random weights.
        config: How to train.
        progress: Where to report epochs; None reports nothing.

    Returns:
        The head at its best validation loss, with its history. Calling it gives scores that are not projected: apply a
        `FairnessLayer` to a batch of them, or `calibrate` them for use row by row.

    Raises:
        InputError: Wrong shapes, NaN or infinite values, labels not binary in a binary score space.
        InfeasibleError: The criteria cannot hold together on a batch.
    """
    listed, settings = check_criteria(criteria), config or TuneConfig()
    rows = check_rows(features, labels, groups, settings, start=start)
    return train(rows, _ProjectedLoss(listed, settings), listed, settings, progress or NullProgress())


class _ProjectedLoss:
    """Loss of the scores after the fairness layer."""

    def __init__(self, criteria: Sequence[Criterion], config: TuneConfig) -> None:
        bounds = PROBABILITY_BOUNDS if config.score_space == "probability" else None
        self.layer = FairnessLayer(criteria, bounds=bounds)
        self.config = config

    def __call__(self, head: FairHead, rows: HeadRows) -> Tensor:
        return prediction_loss(self.layer(head(rows.features), rows.groups, rows.labels), rows.labels, self.config)


def train(rows: HeadRows, loss: Any, criteria: Sequence[Criterion], config: TuneConfig, progress: Progress) -> FairHead:
    """Minimise a loss over a head's weights with early stopping on held-back rows.

    Args:
        rows: All rows.
        loss: Called with (head, rows); returns a differentiable scalar.
        criteria: Whose gaps the history records.
        config: How to train.
        progress: Where to report epochs.

    Returns:
        The head at its best validation loss.

    Raises:
        SolverError: No epoch had a finite validation loss.
    """
    rng = np.random.default_rng(config.seed)
    training, validation = _split(rows, rng, config)
    head = _new_head(training, config)
    pull = _anchor(head, training, config)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    best, history = _Best(), []
    with progress.stage("tuning the head", config.epochs) as advance:
        for epoch in range(config.epochs):
            training_loss = _run_epoch(head, optimizer, loss, pull, training, rng, config)
            history.append(_record(head, loss, epoch, training_loss, training, validation, criteria))
            _keep_best(best, head, history[-1])
            advance(1)
            if epoch - best.epoch >= config.patience:
                break
    if best.epoch < 0:
        raise SolverError("training diverged: no epoch had a finite validation loss; lower learning_rate")
    head.load_state_dict(best.state)
    head.history, head.best_epoch = tuple(history), best.epoch
    return head.eval()


def prediction_loss(scores: Float[Tensor, " n"], labels: Float[Tensor, " n"], config: TuneConfig) -> Tensor:
    """Mean loss: cross-entropy for probabilities and logits, squared error for "identity"."""
    if config.score_space == "probability":
        low, high = PROBABILITY_BOUNDS
        return nn.functional.binary_cross_entropy(scores.clamp(low, high), labels)
    if config.score_space == "logit":
        return nn.functional.binary_cross_entropy_with_logits(scores, labels)
    return nn.functional.mse_loss(scores, labels)


def check_rows(
    features: VectorLike, labels: VectorLike, groups: Groups, config: TuneConfig, *, start: VectorLike | None = None
) -> HeadRows:
    """Features, labels and groups of the same rows, checked."""
    x = check_features(features)
    y = check_vector("labels", labels, n_rows=groups.n_rows)
    if config.score_space != "identity":
        check_binary("labels", y)
    if len(x) != groups.n_rows:
        raise InputError(f"features must have {groups.n_rows} rows, as many as groups has; got {len(x)}")
    first = None if start is None else torch.as_tensor(check_vector("start", start, n_rows=groups.n_rows))
    return HeadRows(x, torch.as_tensor(y), groups, first)


def _split(rows: HeadRows, rng: np.random.Generator, config: TuneConfig) -> tuple[HeadRows, HeadRows]:
    order = rng.permutation(rows.groups.n_rows)
    held = max(1, round(config.validation_fraction * len(order)))
    if held >= len(order):
        raise InputError(f"labels has {len(order)} rows, too few to hold some back for validation; pass more rows")
    return rows.take(np.sort(order[held:])), rows.take(np.sort(order[:held]))


def _new_head(training: HeadRows, config: TuneConfig) -> FairHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = FairHead(training.features.shape[1], hidden=config.hidden, score_space=config.score_space)
    spread = training.features.std(dim=0, unbiased=False)
    head.get_buffer("mean").copy_(training.features.mean(dim=0))
    head.get_buffer("scale").copy_(torch.where(spread > 1e-12, spread, 1.0))
    if training.start is not None:
        head.start_from(training.features, training.start)
    return head


def _anchor(head: FairHead, training: HeadRows, config: TuneConfig) -> Callable[[FairHead], Tensor | float]:
    """The penalty that pulls the head towards its start; nothing where it starts from random weights."""
    if training.start is None or config.anchor == 0:
        return lambda _: 0.0
    strength = config.anchor / training.groups.n_rows
    origin = [parameter.detach().clone() for parameter in head.linear.parameters()]
    return lambda present: (
        strength
        * sum(
            ((parameter - first) ** 2).sum()
            for parameter, first in zip(present.linear.parameters(), origin, strict=True)
        )
    )


def _run_epoch(
    head: FairHead,
    optimizer: torch.optim.Optimizer,
    loss: Any,
    pull: Callable[[FairHead], Tensor | float],
    rows: HeadRows,
    rng: np.random.Generator,
    config: TuneConfig,
) -> float:
    total = 0.0
    for batch in _batches(rows, rng, config.batch_size):
        optimizer.zero_grad()
        value = loss(head, batch)
        (value + pull(head)).backward()
        optimizer.step()
        total += float(value.detach()) * batch.groups.n_rows
    return total / rows.groups.n_rows


def _batches(rows: HeadRows, rng: np.random.Generator, batch_size: int | None) -> Iterator[HeadRows]:
    if batch_size is None or batch_size >= rows.groups.n_rows:
        yield rows
        return
    order = rng.permutation(rows.groups.n_rows)
    for start in range(0, len(order), batch_size):
        yield rows.take(order[start : start + batch_size])


@torch.no_grad()
def _record(
    head: FairHead,
    loss: Any,
    epoch: int,
    training_loss: float,
    training: HeadRows,
    validation: HeadRows,
    criteria: Sequence[Criterion],
) -> EpochRecord:
    gaps = [
        max(measure_gaps(head(rows.features), rows.groups, criteria, labels=rows.labels).values())
        for rows in (training, validation)
    ]
    return EpochRecord(epoch, training_loss, float(loss(head, validation)), *gaps)


def _keep_best(best: _Best, head: FairHead, record: EpochRecord) -> None:
    if record.validation_loss < best.loss:
        best.loss, best.epoch = record.validation_loss, record.epoch
        best.state = {name: value.detach().clone() for name, value in head.state_dict().items()}


def describe_training(head: FairHead, config: TuneConfig) -> dict[str, Any]:
    """Configuration, best epoch and history as JSON-ready values."""
    history = [asdict(record) for record in head.history]
    return {"config": asdict(config), "best_epoch": head.best_epoch, "history": history}
