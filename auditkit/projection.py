"""The projection problem: what is solved, and the form of every solution; no solving here.

    ỹ = argmin ½ Σ wᵢ ‖yᵢ − zᵢ‖²   subject to   L ≤ T·B·y ≤ U   and   yᵢ in the row set

B takes the moments of the rows (cell means, or A·y of an affine criterion), T (m × q) takes contrasts of moments, the
row set is everything, an interval, or the probability simplex. Source: arXiv 2605.17118, the fairness layer. For logits
the distance may be the log-loss that is added, Σ wᵢ KL(σ(zᵢ) ‖ σ(yᵢ)), in place of half the squares: the Bregman
projection of the softplus function (Bregman, 1967, USSR Comp. Math. 7, 200–217).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from auditkit._typing import FloatArray, IntArray
from auditkit._validation import check_vector
from auditkit.constraints import ConstraintSystem
from auditkit.errors import InputError
from auditkit.moment_maps import ColumnMap, MomentMap
from auditkit.row_sets import Box, LogisticBox, Simplex

Divergence = Literal["euclidean", "log_loss"]
"""How far scores are from where they were: half the squared differences, or the log-loss that is added."""
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)


@dataclass(frozen=True, eq=False)
class ProjectionProblem:
    """One projection, ready to be solved.

    Attributes:
        system: The constraints.
        scores: What a correction is added to, in float64: z, shape (n,), or (n, k) for probabilities of k classes; σ(z)
            where the distance is log-loss.
        moments: B of these rows.
        row_set: Where a row may lie, and how far it is from where it was.
        weights: Row weights w, shape (n,); None is one for every row.
    """

    system: ConstraintSystem
    scores: Float[Tensor, " n *k"]
    moments: MomentMap
    row_set: Box | Simplex
    weights: Float[Tensor, " n"] | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether the row set constrains anything."""
        return not self.row_set.is_everything

    def values_of(self, scores: Float[Tensor, " n *k"]) -> FloatArray:
        """T·B·y, what the sides are compared with; shape (m,)."""
        return self.system.matrix @ self.moments.collect(scores)

    def explained_by(self, duals: FloatArray) -> Float[Tensor, " n *k"]:
        """Π(z − W⁻¹·Bᵀ·Tᵀ·λ): the scores that minimise the Lagrangian at these multipliers."""
        moved = self.moments.spread(self.system.matrix.T @ duals).neg_().add_(self.scores)  # memory of its own
        return self.row_set.answer(moved)

    def objective(self, values: Float[Tensor, " n *k"]) -> float:
        """½ Σ wᵢ ‖yᵢ − zᵢ‖², or the log-loss that is added."""
        total = self.row_set.distance(values, self.scores, self.weights)
        return float(self.system.collective.sum(np.array([total]))[0])

    def support(self, duals: FloatArray) -> float:
        """Σ max(λU, λL), where a side at infinity has no multiplier."""
        upper = np.where(duals > 0, duals * np.where(duals > 0, self.system.upper, 0.0), 0.0)
        return float((upper + np.where(duals < 0, duals * np.where(duals < 0, self.system.lower, 0.0), 0.0)).sum())

    @cached_property
    def scale(self) -> float:
        """Size of the largest score, at least 1: what rounding errors are relative to."""
        if isinstance(self.row_set, LogisticBox):
            return self.row_set.scale
        largest = float(self.scores.abs().max()) if self.scores.numel() else 0.0
        return max(1.0, self.system.collective.max(largest))


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver returns.

    Attributes:
        scores: ỹ in float64, of the shape of z.
        duals: One multiplier per constraint, shape (m,): positive where the upper side is active, negative at the
            lower.
        iterations: Steps taken.
        dual_accuracy: A multiplier below this share of the largest one is numerically zero.
        extra: What the solver needs for its own gradient.
        is_explained: Whether the scores were computed from the multipliers, by `ProjectionProblem.explained_by`.
    """

    scores: Float[Tensor, " n *k"]
    duals: FloatArray
    iterations: int
    dual_accuracy: float = 1e-13
    extra: Any = None
    is_explained: bool = False

    @property
    def active(self) -> IntArray:
        """Positions of the constraints whose multiplier is not zero."""
        size = np.abs(self.duals)
        return np.flatnonzero(size > self.dual_accuracy * (1.0 + size.max(initial=0.0)))


def build_problem(
    scores: Float[Tensor, " n *k"],
    system: ConstraintSystem,
    *,
    weights: FloatArray | None = None,
    bounds: tuple[Any, Any] | None = None,
    divergence: Divergence = "euclidean",
) -> ProjectionProblem:
    """Put scores and constraints together.

    Args:
        scores: z, shape (n,), or (n, k): then every row is projected onto the probability simplex as well.
        system: The constraints of the same rows; of all k columns for (n, k) scores.
        weights: Row weights, shape (n,).
        bounds: (lb, ub), each a number, shape (n,), or None; only for scores of shape (n,).
        divergence: What the distance is; with "log_loss" the scores are logits within two bounds.

    Returns:
        The problem, in float64, on the device of the scores.

    Raises:
        InputError: Bounds that are not a pair, cross, or are not finite.
    """
    device, exact = scores.device, scores.detach().to(torch.float64)
    moments: MomentMap = system.moment_map(weights, device)
    if scores.ndim == 2:
        moments = ColumnMap(moments, scores.shape[1])  # type: ignore[arg-type]
        row_set: Box | Simplex = Simplex()
    else:
        sides = check_bounds(bounds, n_rows=len(scores), device=device)
        row_set = Box(*sides) if divergence == "euclidean" else LogisticBox(*sides)
    return ProjectionProblem(
        system,
        exact if divergence == "euclidean" else torch.sigmoid(exact),
        moments,
        row_set,
        None if weights is None else torch.as_tensor(weights, device=device),
    )


def check_bounds(
    bounds: tuple[Any, Any] | None, *, n_rows: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Bounds as float64 tensors, scalar or one per row."""
    if bounds is None:
        return None, None
    if not isinstance(bounds, Sequence) or len(bounds) != 2:
        raise InputError(f"bounds must be a pair (lower, upper), each a number, one per row, or None; got {bounds!r}")
    lower, upper = (_bound(name, value, n_rows, device) for name, value in zip(("lower", "upper"), bounds, strict=True))
    if lower is not None and upper is not None and bool((lower > upper).any()):
        raise InputError(f"bounds cross: a lower bound is above its upper bound; got {bounds!r}")
    return lower, upper


def bounds_on_host(bounds: tuple[Any, Any] | None, n_rows: int) -> tuple[Any, Any]:
    """Bounds as numbers and arrays."""
    if isinstance(bounds, tuple) and len(bounds) == 2 and all(type(bound) in (int, float) for bound in bounds):
        lower, upper = bounds
        if math.isfinite(lower) and math.isfinite(upper) and lower <= upper:
            return bounds
    checked = check_bounds(bounds, n_rows=n_rows, device=torch.device("cpu"))
    lower, upper = (None if b is None else float(b) if b.ndim == 0 else b.numpy() for b in checked)
    return lower, upper


def _bound(name: str, value: Any, n_rows: int, device: torch.device) -> Tensor | None:
    if value is None:
        return None
    if np.ndim(value) == 0:
        if not np.isfinite(float(value)):
            raise InputError(f"the {name} bound must be finite; pass None for no bound; got {value!r}")
        return torch.tensor(float(value), dtype=torch.float64, device=device)
    return torch.as_tensor(check_vector(f"the {name} bound", value, n_rows=n_rows), device=device)
