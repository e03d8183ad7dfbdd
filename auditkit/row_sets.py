"""Where a single row may lie, and how it answers a correction: clipped, on the probability simplex, or by log-loss.

The projection of a batch is y = Π(s − W⁻¹·Bᵀ·Tᵀ·λ), s the scores or, where distance is log-loss, their probabilities.
These few operations (Π, its derivative, the distance that it minimises) are all that distinguishes bounded from
unbounded scores, from class probabilities, and Euclidean distance from log-loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class BoxDerivative:
    """D of clipping: 1 for a row that no bound holds, else 0.

    Attributes:
        free: Which rows no bound holds, shape (n,); None is every row.
    """

    free: Bool[Tensor, " n"] | None

    def apply(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """D·v."""
        return values if self.free is None else values * self.free


@dataclass(frozen=True, eq=False)
class Box:
    """lb ≤ y ≤ ub.

    Attributes:
        lower: lb, a scalar or shape (n,); None is unbounded.
        upper: ub, likewise.
    """

    lower: Tensor | None = None
    upper: Tensor | None = None

    @property
    def is_everything(self) -> bool:
        """Whether no bound is given."""
        return self.lower is None and self.upper is None

    @property
    def is_scalar(self) -> bool:
        """Whether all rows have the same bounds."""
        return all(bound is None or bound.ndim == 0 for bound in (self.lower, self.upper))

    def project(self, values: Float[Tensor, " n"], *, reuse: bool = False) -> Float[Tensor, " n"]:
        """The values within the bounds; in the memory of the values where that may be reused."""
        if self.is_everything:
            return values
        lower, upper = self._sides(values)
        return torch.clamp(values, lower, upper, out=values if reuse else None)  # type: ignore[call-overload]

    def answer(self, moved: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Π: the nearest values; in the memory of what is given, which the caller must own."""
        return self.project(moved, reuse=True)

    def distance(self, values: Float[Tensor, " n"], scores: Float[Tensor, " n"], weights: Tensor | None) -> float:
        """½ Σ w (y − z)²."""
        return half_squares(values - scores, weights)

    def derivative(self, values: Float[Tensor, " n"]) -> BoxDerivative:
        """Which rows no bound holds; a row exactly at its bound counts as held."""
        if self.is_everything:
            return BoxDerivative(None)
        bounds = tuple(_for_comparison(bound) for bound in self._sides(values))
        return BoxDerivative(torch.as_tensor(find_free(_for_comparison(values), bounds)))

    def _sides(self, values: Tensor) -> tuple[Any, Any]:
        """The bounds, on the host as numbers where all rows have the same: torch is two to three times as fast then."""
        if not self.is_scalar or values.device.type != "cpu":
            return self.lower, self.upper
        return tuple(None if bound is None else bound.item() for bound in (self.lower, self.upper))  # type: ignore[return-value]


def find_free(values: Any, bounds: tuple[Any, ...]) -> Any:
    """Which rows no bound holds; a row exactly at its bound counts as held.

    Args:
        values: Within the bounds, shape (n,), of NumPy or torch.
        bounds: (lb, ub), each a number, shape (n,), or None; of the same kind.
    """
    lower, upper = bounds
    if lower is None:
        return np.ones(len(values), dtype=bool) if upper is None else values < upper
    return values > lower if upper is None else (values > lower) & (values < upper)


def _for_comparison(values: Any) -> Any:
    """On the host as NumPy sees them, which compares in a third of the time that torch takes."""
    return values.detach().numpy() if isinstance(values, Tensor) and values.device.type == "cpu" else values


def half_squares(moved: Tensor, weights: Tensor | None) -> float:
    """½ Σ w m²."""
    weighted = moved if weights is None else moved * weights
    return 0.5 * float(torch.dot(moved.ravel(), weighted.ravel()))


@dataclass(frozen=True, eq=False)
class LogisticDerivative:
    """D of the way from a probability to its logit.

    Attributes:
        free: 1/(p(1 − p)) of a row that no bound holds, else 0; shape (n,).
    """

    free: Float[Tensor, " n"]

    def apply(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """D·v."""
        return values * self.free


@dataclass(frozen=True, eq=False)
class LogisticBox(Box):
    """Logits lb ≤ y ≤ ub whose distance from z is the log-loss that they add: KL(σ(z) ‖ σ(y)).

    A correction moves the probability of a row, Π(p) = logit(clip(p)), in place of its logit. Both bounds are given:
    without them the rows nearest to certainty alone would carry every correction, out to infinity.
    """

    def answer(self, moved: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Π: the logits of moved probabilities, within the bounds."""
        low, high = (torch.sigmoid(bound) for bound in self._ends)
        inside = torch.logit(torch.clamp(moved, low, high))
        inside = torch.where(moved <= low, self._ends[0], torch.where(moved >= high, self._ends[1], inside))
        return self.project(inside, reuse=True)  # a logit rounds to either side of its bound

    def distance(self, values: Float[Tensor, " n"], scores: Float[Tensor, " n"], weights: Tensor | None) -> float:
        """Σ w KL(p ‖ σ(y)) with p the probabilities that are moved."""
        xlogy = torch.special.xlogy
        lost = torch.nn.functional.softplus(values) - scores * values
        lost += xlogy(scores, scores) + xlogy(1 - scores, 1 - scores)
        return float(lost.sum() if weights is None else lost @ weights)

    def derivative(self, values: Float[Tensor, " n"]) -> LogisticDerivative:  # type: ignore[override]
        """The slope of every row that no bound holds."""
        chance, (low, high) = torch.sigmoid(values), self._ends
        return LogisticDerivative(((values > low) & (values < high)) / (chance * (1 - chance)))

    @property
    def scale(self) -> float:
        """Size of the farthest bound, at least 1."""
        return max(1.0, *(float(bound.abs().max()) for bound in self._ends))

    @property
    def _ends(self) -> tuple[Tensor, Tensor]:
        assert self.lower is not None
        assert self.upper is not None
        return self.lower, self.upper


@dataclass(frozen=True, eq=False)
class SimplexDerivative:
    """D of the projection onto the simplex: diag(s) − s·sᵀ/|s| with s the classes of positive probability.

    Attributes:
        support: s of every row, shape (n, k).
    """

    support: Float[Tensor, "n k"]

    @property
    def count(self) -> Float[Tensor, "n 1"]:
        """|s| of every row."""
        return self.support.sum(dim=1, keepdim=True)

    def apply(self, values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """D·v: within the support, less the mean over it."""
        kept = values * self.support
        return kept - self.support * (kept.sum(dim=1, keepdim=True) / self.count)

    def entry(self, first: int, second: int) -> Float[Tensor, " n"]:
        """One entry of D for every row."""
        both = self.support[:, first] * self.support[:, second]
        share = both / self.count[:, 0]
        return both - share if first == second else -share


@dataclass(frozen=True)
class Simplex:
    """y ≥ 0 and Σ_k y_k = 1 in every row."""

    @property
    def is_everything(self) -> bool:
        """Never."""
        return False

    def project(self, values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """The nearest probabilities: max(x − τ, 0) with the τ that makes them add up to 1.

        Source: Held, Wolfe and Crowder (1974), Mathematical Programming 6, 62–88.
        """
        ordered = values.sort(dim=1, descending=True).values
        excess = ordered.cumsum(dim=1) - 1.0
        rank = torch.arange(1, values.shape[1] + 1, dtype=values.dtype, device=values.device)
        count = (ordered * rank > excess).sum(dim=1, keepdim=True).clamp_min(1)
        level = excess.gather(1, count - 1) / count
        return (values - level).clamp_min(0.0)

    def answer(self, moved: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Π: the nearest probabilities."""
        return self.project(moved)

    def distance(self, values: Float[Tensor, "n k"], scores: Float[Tensor, "n k"], weights: Tensor | None) -> float:
        """½ Σ w ‖y − z‖²."""
        return half_squares(values - scores, None if weights is None else weights.unsqueeze(1))

    def derivative(self, values: Float[Tensor, "n k"]) -> SimplexDerivative:
        """The classes of positive probability; a probability of exactly zero counts as held."""
        return SimplexDerivative((values > 0).to(torch.float64))
