"""The gradient of a head's loss in closed form: the same numbers as autograd's, without a graph.

    g = Jᵀ ∂ℓ/∂ỹ ∘ ∂s/∂z        ∂W = (gᵀX − (Σg) μᵀ)/σ        ∂b = Σg

with X the features as they are, μ and σ the head's standardisation, z its output, s = σ(z) or z its score and J the
Jacobian of the projection. On small batches most of a step is the bookkeeping of small operations; this is less of it,
and NumPy's operations have less of it than torch's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditkit.heads import FairHead
from auditkit.jacobian import to_host
from auditkit.tuning.config import PROBABILITY_BOUNDS, TuneConfig
from auditkit.tuning.losses import PlainLoss, ProjectedLoss
from auditkit.tuning.primal_dual import PrimalDualLoss
from auditkit.tuning.rows import HeadRows

LOSSES = (PlainLoss, ProjectedLoss, PrimalDualLoss)

Array = np.ndarray[Any, Any]
"""float32 or float64, as the head and its features are."""


def find_gradient(head: Any, loss: Any, config: TuneConfig) -> HeadGradient | None:
    """The closed form where it is known: heads of one output and the losses of this package; else None."""
    known = type(head) is FairHead and head.outputs == 1 and type(loss) in LOSSES  # another class may compute otherwise
    if not known or config.optimizer != "adamw" or not all(weight.requires_grad for weight in head.parameters()):
        return None
    return HeadGradient(head, loss, config)


class HeadGradient:
    """The closed form for one head and loss.

    Args:
        head: Linear, or with one hidden layer, on the host; its weights may change, and stay where they are in memory.
            The gradient is left in the ``grad`` of every weight.
        loss: Of the scores, or of their projection.
        config: Score space.
    """

    def __init__(self, head: FairHead, loss: PlainLoss | ProjectedLoss, config: TuneConfig) -> None:
        self.loss, self.config = loss, config
        self.is_chance = config.score_space == "probability"
        self.is_within = isinstance(loss, ProjectedLoss)  # the layer has these bounds
        self.mean, self.scale = head.get_buffer("mean").numpy(), head.get_buffer("scale").numpy()
        self.linear = _Weights(head.linear)
        self.deep = None if head.deep is None else (_Weights(head.deep[0]), _Weights(head.deep[2]))

    def __call__(self, rows: HeadRows) -> tuple[float, Array]:
        """The loss on some rows as training takes it, and the scores before the projection, shape (n,)."""
        features = self._features(rows)
        output, hidden = self._run(features)
        scores = self._score(output)
        fair, pull_back = self.loss.project(torch.from_numpy(scores), rows)
        value, slope = self._lose(fair, rows)
        slope = pull_back(torch.from_numpy(slope)).numpy()
        self._spread(features, hidden, slope * scores * (1 - scores) if self.is_chance else slope)
        return value, scores

    def evaluate(self, rows: HeadRows) -> tuple[float, Array]:
        """The loss on some rows as validation takes it, and the scores before the projection, shape (n,)."""
        scores = self._score(self._run(self._features(rows))[0])
        fair = self.loss.settle(torch.from_numpy(scores), rows)
        return self._lose(fair, rows)[0], scores

    def _lose(self, fair: Tensor, rows: HeadRows) -> tuple[float, Array]:
        return loss_and_slope(to_host(fair), rows.labels.numpy(), self.config, is_within=self.is_within)

    def _features(self, rows: HeadRows) -> Array:
        features = rows.features.numpy()
        return features if features.dtype == self.mean.dtype else features.astype(self.mean.dtype)

    def _score(self, output: Array) -> Array:
        return torch.from_numpy(output).sigmoid_().numpy() if self.is_chance else output

    def _run(self, features: Array) -> tuple[Array, Array | None]:
        """The output of every row, and the hidden layer where there is one."""
        weight = self.linear.weight[0] / self.scale
        output = features @ weight
        output += self.linear.bias[0] - weight @ self.mean
        if self.deep is None:
            return output, None
        first, last = self.deep
        weights = first.weight / self.scale
        hidden = features @ weights.T
        hidden += first.bias - weights @ self.mean
        np.maximum(hidden, 0, out=hidden)
        output += hidden @ last.weight[0]
        output += last.bias[0]
        return output, hidden

    def _spread(self, features: Array, hidden: Array | None, slope: Array) -> None:
        """From the slope of the output to that of every weight."""
        total = slope.sum()
        self.linear.set_slope((slope @ features - total * self.mean) / self.scale, total)
        if hidden is None or self.deep is None:
            return
        first, last = self.deep
        last.set_slope(slope @ hidden, total)
        passed = (hidden > 0).astype(hidden.dtype)
        sums = slope @ passed * last.weight[0]  # by the product, which adds float32 up more exactly than `sum(0)`
        passed *= slope[:, None]
        inner = passed.T @ features * last.weight[0][:, None]
        first.set_slope((inner - sums[:, None] * self.mean) / self.scale, sums)


class _Weights:
    """A linear layer's weights and their gradients as NumPy sees them, in the same memory."""

    def __init__(self, layer: Any) -> None:
        for weight in layer.parameters():
            weight.grad = torch.zeros_like(weight)
        self.weight, self.bias = (part.detach().numpy() for part in (layer.weight, layer.bias))
        self._slopes = [part.grad.numpy() for part in (layer.weight, layer.bias)]

    def set_slope(self, weight: Array, bias: Any) -> None:
        self._slopes[0][:], self._slopes[1][:] = weight, bias


def loss_and_slope(scores: Array, labels: Array, config: TuneConfig, *, is_within: bool = False) -> tuple[float, Array]:
    """ℓ and ∂ℓ/∂s of `auditkit.tuning.losses.prediction_loss` for scores of one column.

    Args:
        scores: s, shape (n,).
        labels: y, shape (n,).
        config: Which loss.
        is_within: Whether probabilities are known to keep to `PROBABILITY_BOUNDS`.
    """
    n_rows = len(scores)
    if config.score_space == "identity":
        apart = scores - labels
        return float(np.dot(apart, apart)) / n_rows, apart * (2 / n_rows)
    if config.score_space == "logit":
        logits = torch.from_numpy(scores)
        value = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels))
        return float(value), (logits.sigmoid().numpy() - labels) / n_rows
    if is_within:
        signed = scores - (1 - labels)  # ± the chance of the label that is
        slope = (-1 / n_rows) / signed
    else:
        low, high = (scores.dtype.type(bound) for bound in PROBABILITY_BOUNDS)  # rounded as the scores at them are
        kept = np.minimum(np.maximum(scores, low), high)
        signed = kept - (1 - labels)
        slope = (kept == scores) / (-n_rows * signed)
    return -float(np.log(np.abs(signed)).sum()) / n_rows, slope
