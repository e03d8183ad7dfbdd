"""Where a single row may lie: within bounds, or on the probability simplex; and the derivative of going there.

The projection of a batch is y = Π(z − W⁻¹·Bᵀ·Tᵀ·λ) with Π the projection onto the row set, so these few operations are
all that distinguishes bounded from unbounded scores and from class probabilities.
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

    def project(self, values: Float[Tensor, "n k"], *, reuse: bool = False) -> Float[Tensor, "n k"]:
        """The nearest probabilities: max(x − τ, 0) with the τ that makes them add up to 1; in memory of their own.

        Source: Held, Wolfe and Crowder (1974), Mathematical Programming 6, 62–88.
        """
        ordered = values.sort(dim=1, descending=True).values
        excess = ordered.cumsum(dim=1) - 1.0
        rank = torch.arange(1, values.shape[1] + 1, dtype=values.dtype, device=values.device)
        count = (ordered * rank > excess).sum(dim=1, keepdim=True).clamp_min(1)
        level = excess.gather(1, count - 1) / count
        return (values - level).clamp_min(0.0)

    def derivative(self, values: Float[Tensor, "n k"]) -> SimplexDerivative:
        """The classes of positive probability; a probability of exactly zero counts as held."""
        return SimplexDerivative((values > 0).to(torch.float64))
