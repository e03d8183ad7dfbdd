"""The gradient of a head's loss in closed form: the same numbers as autograd's, without a graph.

    g = Jᵀ ∂ℓ/∂ỹ ∘ ∂s/∂z        ∂W = (gᵀX − (Σg) μᵀ)/σ        ∂b = Σg

with X the features as they are, μ and σ the head's standardisation, z its output, s = σ(z) or z its score and J the
Jacobian of the projection. On small batches most of a step is the bookkeeping of small operations; this is less of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from auditkit.heads import FairHead
from auditkit.tuning.config import PROBABILITY_BOUNDS, TuneConfig
from auditkit.tuning.losses import PlainLoss, ProjectedLoss
from auditkit.tuning.primal_dual import PrimalDualLoss
from auditkit.tuning.rows import HeadRows

Gradient = Callable[[HeadRows], tuple[float, Tensor]]
"""From rows to the loss and the head's scores; the gradient is left in the ``grad`` of every weight."""
LOSSES = (PlainLoss, ProjectedLoss, PrimalDualLoss)


def find_gradient(head: Any, loss: Any, config: TuneConfig) -> Gradient | None:
    """The closed form where it is known: heads of one output and the losses of this package; else None."""
    known = type(head) is FairHead and head.outputs == 1 and type(loss) in LOSSES  # another class may compute otherwise
    if not known or config.optimizer != "adamw" or not all(weight.requires_grad for weight in head.parameters()):
        return None
    return HeadGradient(head, loss, config)


class HeadGradient:
    """The closed form for one head and loss.

    Args:
        head: Linear, or with one hidden layer.
        loss: Of the scores, or of their projection.
        config: Score space.
    """

    def __init__(self, head: FairHead, loss: PlainLoss | ProjectedLoss, config: TuneConfig) -> None:
        self.loss, self.config = loss, config
        self.is_chance = config.score_space == "probability"
        self.mean, self.scale = head.get_buffer("mean"), head.get_buffer("scale")
        self.linear = head.linear
        self.deep: tuple[Any, Any] | None = None if head.deep is None else (head.deep[0], head.deep[2])

    @torch.no_grad()
    def __call__(self, rows: HeadRows) -> tuple[float, Tensor]:
        """The loss on some rows, and the scores before the projection."""
        features = rows.features.to(self.mean.dtype)
        output, hidden = self._run(features)
        scores = output.sigmoid() if self.is_chance else output
        fair, pull_back = self.loss.project(scores, rows)
        value, slope = loss_and_slope(fair, rows.labels, self.config)
        slope = pull_back(slope)
        self._spread(features, hidden, slope * scores * (1 - scores) if self.is_chance else slope)
        return value, scores

    def _run(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        weight = self.linear.weight[0] / self.scale
        output = torch.mv(features, weight).add_(self.linear.bias - torch.dot(weight, self.mean))
        if self.deep is None:
            return output, None
        first, last = self.deep
        weights = first.weight / self.scale
        hidden = torch.addmm(first.bias - weights @ self.mean, features, weights.T).relu_()
        return output.add_(torch.mv(hidden, last.weight[0])).add_(last.bias), hidden

    def _spread(self, features: Tensor, hidden: Tensor | None, slope: Tensor) -> None:
        total = slope.sum().reshape(1)
        _set(self.linear, ((torch.mv(features.T, slope) - total * self.mean) / self.scale).unsqueeze(0), total)
        if hidden is None or self.deep is None:
            return
        first, last = self.deep
        _set(last, torch.mv(hidden.T, slope).unsqueeze(0), total.clone())
        inner = torch.outer(slope, last.weight[0]).mul_(hidden > 0)
        sums = inner.sum(0)
        _set(first, (inner.T @ features - torch.outer(sums, self.mean)) / self.scale, sums)


def loss_and_slope(
    scores: Float[Tensor, " n"], labels: Float[Tensor, " n"], config: TuneConfig
) -> tuple[float, Float[Tensor, " n"]]:
    """ℓ and ∂ℓ/∂s of `auditkit.tuning.losses.prediction_loss` for scores of one column."""
    n_rows = len(scores)
    if config.score_space == "identity":
        apart = scores - labels
        return float(torch.dot(apart, apart)) / n_rows, apart * (2 / n_rows)
    if config.score_space == "logit":
        value = nn.functional.binary_cross_entropy_with_logits(scores, labels)
        return float(value), (scores.sigmoid() - labels) / n_rows
    kept = scores.clamp(*PROBABILITY_BOUNDS)
    signed = kept - (1 - labels)  # ± the chance of the label that is
    slope = signed.reciprocal().mul_(kept == scores).div_(-n_rows)
    return -float(signed.abs_().log_().sum()) / n_rows, slope


def _set(layer: Any, weight: Tensor, bias: Tensor) -> None:
    layer.weight.grad, layer.bias.grad = weight, bias
