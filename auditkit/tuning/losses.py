"""What is minimised: the loss of the projected scores, and of the scores themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from auditkit._typing import FloatArray, IntArray
from auditkit.batches import BoundBatch
from auditkit.criteria import Criterion
from auditkit.groups import Groups
from auditkit.heads import FairHead
from auditkit.layer import FairnessLayer
from auditkit.tuning.config import PROBABILITY_BOUNDS, TuneConfig
from auditkit.tuning.rows import HeadRows

PullBack = Callable[[Tensor], Tensor]


def prediction_loss(scores: Float[Tensor, " n *k"], labels: Float[Tensor, " n"], config: TuneConfig) -> Tensor:
    """Mean loss: cross-entropy for probabilities and logits of two or more classes, squared error for "identity"."""
    if config.score_space == "identity":
        return nn.functional.mse_loss(scores, labels)
    low, high = PROBABILITY_BOUNDS
    if config.classes > 2:
        chosen = labels.to(torch.int64)
        if config.score_space == "logit":
            return nn.functional.cross_entropy(scores, chosen)
        return nn.functional.nll_loss(scores.clamp_min(low).log(), chosen)
    if config.score_space == "logit":
        return nn.functional.binary_cross_entropy_with_logits(scores, labels)
    return nn.functional.binary_cross_entropy(scores.clamp(low, high), labels)


class PlainLoss:
    """Loss of the scores as they are.

    Args:
        config: Which loss.
    """

    def __init__(self, config: TuneConfig) -> None:
        self.config = config

    def __call__(self, head: FairHead, rows: HeadRows) -> Tensor:
        """The loss of a head on some rows."""
        return prediction_loss(head(rows.features), rows.labels, self.config)

    def project(self, scores: Float[Tensor, " n"], rows: HeadRows) -> tuple[Tensor, PullBack]:
        """The scores, and the gradient, as they are."""
        del rows
        return scores, lambda gradient: gradient

    def settle(self, scores: Float[Tensor, " n"], rows: HeadRows) -> Tensor:
        """The scores as they are."""
        del rows
        return scores


class ProjectedLoss:
    """Loss of the scores after the fairness layer.

    Args:
        criteria: What the layer enforces.
        config: Score space and loss.
    """

    def __init__(self, criteria: Sequence[Criterion], config: TuneConfig) -> None:
        self.config = config
        self.layer = FairnessLayer(criteria, warm_start=True, **config.layer_options)
        self._last: BoundBatch | None = None

    def __call__(self, head: FairHead, rows: HeadRows) -> Tensor:
        """The loss of a head on some rows."""
        return prediction_loss(self.layer(head(rows.features), self._bind(rows)), rows.labels, self.config)

    def project(self, scores: Float[Tensor, " n"], rows: HeadRows) -> tuple[Tensor, PullBack]:
        """The projected scores in training, and the map from their gradient to that of the scores; without a graph."""
        return self.layer.solve(scores, self._bind(rows))

    def settle(self, scores: Float[Tensor, " n"], rows: HeadRows) -> Tensor:
        """The projected scores, as evaluation takes them."""
        return self.layer.solve(scores, self._bind(rows))[0]

    @property
    def suppressed_share(self) -> float | None:
        """Part of the gradient of the last step that the projection took off."""
        return self.layer.suppressed_share

    def multipliers(self, n_rows: int) -> dict[str, float]:
        """Largest multiplier of every criterion in the last step, over its rows."""
        duals = self.layer.duals
        if duals is None or self._last is None:
            return {}
        owner = np.concatenate([system.owner for system in self._last.batch.systems])
        return self._largest(owner, np.abs(duals) / n_rows)

    def _largest(self, owner: IntArray, sizes: FloatArray) -> dict[str, float]:
        return {
            str(criterion.name): float(sizes[owner == k].max(initial=0.0))
            for k, criterion in enumerate(self.layer.criteria)
        }

    def _bind(self, rows: HeadRows) -> BoundBatch:
        key = ("bound", self.layer.criteria)
        if key not in rows.derived:
            rows.derived[key] = self.layer.bind(rows.groups, rows.labels, columns=self.config.columns)
        self._last = rows.derived[key]
        return rows.derived[key]

    def state(self, kept: Sequence[Groups]) -> dict[str, Any]:
        """The multipliers that the next steps start from, of the row sets that stay."""
        return {
            str(k): {str(key[-1]): torch.as_tensor(duals) for key, duals in groups.derived.items()
                     if isinstance(key, tuple) and key[:-1] == self.layer.start_key}
            for k, groups in enumerate(kept)
        }  # fmt: skip

    def restore(self, state: dict[str, Any], kept: Sequence[Groups]) -> None:
        """Take up what `state` returned."""
        for k, groups in enumerate(kept):
            for column, duals in state[str(k)].items():
                groups.derived[(*self.layer.start_key, int(column))] = duals.numpy()
