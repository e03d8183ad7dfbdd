"""Cross-fitting: a head for use, and scores of its own training rows by heads that did not see them.

    h = (1/K) Σ_k h₋ₖ,     s_i = h₋ₖ(x_i) for i in fold k        h₋ₖ = argmin_θ loss over the rows outside of fold k

with h in logits. A correction found on s reads every row, where one found on held-back rows reads a part of them and
the head is trained on the rest. Heads trained on other rows differ by chance, in the gaps between groups too; their
mean differs less from what s shows than one more head would. Source: Chernozhukov et al. (2018), cross-fitting,
arXiv 1608.00060.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit.clusters import deal_folds
from auditkit.criteria import Criterion, check_criteria
from auditkit.errors import InputError
from auditkit.groups import Groups
from auditkit.heads import FairHead
from auditkit.progress import NullProgress, Progress
from auditkit.tuning.config import TuneConfig
from auditkit.tuning.losses import PlainLoss
from auditkit.tuning.rows import HeadRows, SourceRows, check_rows
from auditkit.tuning.training import make_loss, train


@dataclass(frozen=True, eq=False)
class CrossFit:
    """A head, and out-of-fold scores of the rows that it was trained on.

    Attributes:
        head: The mean of the heads of the folds, as one head.
        scores: s, shape (n,) or (n, k): of every row, by the head of its fold.
        fold: Fold of every row, shape (n,).
        heads: One per fold, trained on the other folds.
    """

    head: FairHead
    scores: FloatArray
    fold: IntArray
    heads: tuple[FairHead, ...]


def cross_fit(
    features: VectorLike,
    labels: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion] = (),
    *,
    folds: int = 5,
    clusters: VectorLike | None = None,
    start: CrossFit | None = None,
    config: TuneConfig | None = None,
    progress: Progress | None = None,
) -> CrossFit:
    """Train a head per fold on the rows outside of it.

    `auditkit.calibrate` and `calibrate_decisions` take ``scores`` and correct ``head``. The scores are those of the
    single heads, so that a margin at ``confidence`` holds up to their difference from the mean; an audit of further
    rows tells.

    Args:
        features: Frozen features, shape (n, d).
        labels: Labels, as for `tune_head`.
        groups: Attributes of the same rows.
        criteria: What the heads are tuned through; none trains for the loss alone.
        folds: How many, at least 2.
        clusters: Whom each row is of, shape (n,), where several rows are of one person: those are in one fold.
        start: Heads of the same rows and folds that every training starts from.
        config: How every head is trained; its seed also deals the folds.
        progress: Where to report the heads.

    Raises:
        InputError: Wrong rows, fewer than two folds or more than rows (or persons), or a start of other rows.
        InfeasibleError: The criteria cannot hold together on a batch.
    """
    listed, settings = check_criteria(criteria) if criteria else (), config or TuneConfig()
    rows = check_rows(features, labels, groups, settings, clusters=clusters)
    unit = "rows" if rows.clusters is None else "persons"
    most = groups.n_rows if rows.clusters is None else len(np.unique(rows.clusters))
    if not 2 <= folds <= most:
        raise InputError(f"folds must be from 2 to the number of {unit}, {most}; got {folds}")
    fold = deal_folds(groups.n_rows, folds=folds, seed=settings.seed, clusters=rows.clusters)
    if start is not None and not (len(start.heads) == folds and np.array_equal(start.fold, fold)):
        raise InputError("start was made of other rows, folds or another seed; make it by cross_fit of the same ones")
    begins = (None,) * folds if start is None else start.heads
    heads = []
    with (progress or NullProgress()).stage("cross-fitting the head", folds) as advance:
        for k, begin in enumerate(begins):
            heads.append(_fit(rows.take(np.flatnonzero(fold != k)), listed, settings, begin))
            advance(1)
    return CrossFit(average_heads(heads), _score_folds(heads, rows, fold), fold, tuple(heads))


@torch.no_grad()
def average_heads(heads: Sequence[FairHead]) -> FairHead:
    """The head whose logits are the mean of those of other heads of one form; a hidden layer holds all of theirs.

    Raises:
        InputError: No head, or heads of different forms.
    """
    forms = {(head.n_features, head.hidden, head.score_space, head.outputs) for head in heads}
    if len(forms) != 1:
        raise InputError(
            f"heads must be of one form (features, hidden, score_space, outputs); got {sorted(map(str, forms))}"
        )
    first, count = heads[0], len(heads)
    hidden = None if first.hidden is None else count * first.hidden
    mean = FairHead(first.n_features, hidden=hidden, score_space=first.score_space, outputs=first.outputs)
    _set(mean.linear, *(sum(parts) / count for parts in zip(*(_on_raw(h, h.linear) for h in heads), strict=True)))
    deep = [head.deep for head in heads if head.deep is not None]
    if mean.deep is not None:
        weights, biases = zip(*(_on_raw(h, d[0]) for h, d in zip(heads, deep, strict=True)), strict=True)
        _set(mean.deep[0], torch.cat(weights), torch.cat(biases))
        last = [(d[2].get_parameter("weight").double(), d[2].get_parameter("bias").double()) for d in deep]
        _set(mean.deep[2], torch.cat([w for w, _ in last], dim=1) / count, sum(b for _, b in last) / count)
    return mean.eval()


def _on_raw(head: FairHead, layer: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Weights and bias of a layer with the head's standardisation folded in."""
    weight = layer.get_parameter("weight").double() / head.get_buffer("scale").double()
    return weight, layer.get_parameter("bias").double() - weight @ head.get_buffer("mean").double()


def _set(layer: torch.nn.Module, weight: Tensor | float, bias: Tensor | float) -> None:
    layer.get_parameter("weight").copy_(torch.as_tensor(weight))
    layer.get_parameter("bias").copy_(torch.as_tensor(bias))


def _fit(rows: HeadRows, criteria: tuple[Criterion, ...], config: TuneConfig, start: FairHead | None) -> FairHead:
    loss = make_loss(criteria, config) if criteria else PlainLoss(config)
    initial = None if start is None else {name: value.detach().clone() for name, value in start.state_dict().items()}
    return train(rows, loss, criteria, config, NullProgress(), initial=initial)


def _score_folds(heads: Sequence[FairHead], rows: SourceRows, fold: IntArray) -> FloatArray:
    scored = [head.predict(rows.features) for head in heads]
    return np.stack(scored)[fold, np.arange(len(fold))]
