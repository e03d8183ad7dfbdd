"""The projection problem: what is solved, and the form of every solution; no solving here.

    ỹ = argmin ½ Σ wᵢ (yᵢ − zᵢ)²   subject to   L ≤ T·M·y ≤ U   and, if bounds are given,   lb ≤ y ≤ ub

M takes the weighted mean of the rows of every cell, T (m × c) takes contrasts of cell means.
Source: arXiv 2605.17118, the fairness layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import check_vector, check_weights
from auditkit.criteria import Contrasts, Criterion, columns_of, compile_contrasts
from auditkit.errors import InputError
from auditkit.groups import Cells, Groups


@dataclass(frozen=True, eq=False)
class ConstraintSystem:
    """The constraints L ≤ T·(cell means) ≤ U of one batch.

    Attributes:
        criteria: What the constraints come from.
        cells: The cell of every row.
        contrasts: What every row of ``matrix`` compares.
        cell_weight: Total row weight of every cell, shape (c,).
        matrix: T, shape (m, c).
        target: What every contrast is compared with, shape (m,): zero for ECP, label contrasts for EER.
        label_mean: Mean label of every cell, shape (c,); None where no labels were given.
        relaxation: Added to every tolerance; zero unless the caller asked for the least-violating point.
        margin: Taken off the tolerances, shape (m,); None takes nothing off.
        layouts: What the closed form derived from the constraints, by device.
    """

    criteria: tuple[Criterion, ...]
    cells: Cells
    contrasts: Contrasts
    cell_weight: FloatArray
    matrix: FloatArray
    target: FloatArray
    label_mean: FloatArray | None = None
    relaxation: float = 0.0
    margin: FloatArray | None = None
    layouts: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def tolerance(self) -> FloatArray:
        """ε of every contrast with the relaxation added and the margin taken off, shape (m,)."""
        tolerance = self.contrasts.tolerance + self.relaxation
        return tolerance if self.margin is None else np.maximum(tolerance - self.margin, 0.0)

    @cached_property
    def uniform_tolerance(self) -> float | None:
        """The one tolerance that all contrasts have; None where they differ, 0 where there are none."""
        if not len(self.matrix):
            return 0.0
        first = float(self.tolerance[0])
        return first if bool((self.tolerance == first).all()) else None

    @cached_property
    def safe_weight(self) -> FloatArray:
        """Total row weight of every cell, 1 where it is zero, so that it can be divided by; shape (c,)."""
        return np.where(self.cell_weight > 0, self.cell_weight, 1.0)

    @cached_property
    def lower(self) -> FloatArray:
        """L, shape (m,)."""
        return self.target - self.tolerance

    @cached_property
    def upper(self) -> FloatArray:
        """U, shape (m,)."""
        return self.target + self.tolerance


def build_constraints(
    groups: Groups,
    criteria: Sequence[Criterion],
    *,
    labels: FloatArray | None = None,
    weights: FloatArray | None = None,
) -> ConstraintSystem:
    """Assemble the constraints of one batch.

    Args:
        groups: Attributes of the n rows.
        criteria: The criteria.
        labels: Labels, shape (n,); needed by EER and by criteria given the label.
        weights: Row weights, shape (n,).

    Returns:
        The constraints; contrasts with a group that has no row in the batch are left out, since it has no mean.

    Raises:
        InputError: Labels are needed and were not given.
        SchemaError: A criterion names a column that groups does not have.
    """
    require_labels(criteria, labels)
    cells = groups.cells(columns_of(criteria), labels=labels)
    size = cells.table.n_cells
    cell_weight = np.bincount(cells.index, weights=weights, minlength=size).astype(np.float64)
    contrasts = compile_contrasts(criteria, cells.table, cell_weights=cell_weight)
    matrix = contrasts.contrast(contrasts.event_mean_matrix(cell_weight))
    target = np.zeros(contrasts.n_contrasts)
    label_mean = None
    if labels is not None:
        mass = labels if weights is None else labels * weights
        label_sum = np.bincount(cells.index, weights=mass, minlength=size)
        label_mean = label_sum / np.where(cell_weight > 0, cell_weight, 1.0)
        target = np.where(contrasts.residual, matrix @ label_mean, 0.0)
    return ConstraintSystem(tuple(criteria), cells, contrasts, cell_weight, matrix, target, label_mean)


def measure_gaps(
    scores: VectorLike,
    groups: Groups,
    criteria: Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    weights: VectorLike | None = None,
) -> dict[str, float]:
    """The largest absolute gap of every criterion on these rows, without intervals.

    Args:
        scores: z, shape (n,).
        groups: Attributes of the same rows.
        criteria: The criteria.
        labels: y, shape (n,), where a criterion needs them.
        weights: Row weights, shape (n,).

    Returns:
        Criterion name → gap in score units; NaN where no two groups could be compared.
    """
    z = check_vector("scores", scores, n_rows=groups.n_rows)
    y, w = check_row_inputs(groups, criteria, labels, weights)
    system = build_constraints(groups, criteria, labels=y, weights=w)
    sums = np.bincount(system.cells.index, weights=z if w is None else z * w, minlength=len(system.cell_weight))
    gaps = np.abs(system.matrix @ (sums / np.where(system.cell_weight > 0, system.cell_weight, 1.0)) - system.target)
    owner = system.contrasts.criterion
    return {c.name: float(gaps[owner == k].max(initial=-np.inf)) if (owner == k).any() else float("nan")
            for k, c in enumerate(criteria)}  # fmt: skip


def require_labels(criteria: Sequence[Criterion], labels: object) -> None:
    """Raise when a criterion needs labels that were not given."""
    needing = [criterion.name for criterion in criteria if criterion.needs_labels]
    if needing and labels is None:
        raise InputError(f"labels are needed by {', '.join(needing)}; pass labels=, one per row")


@dataclass(frozen=True, eq=False)
class ProjectionProblem:
    """One projection, ready to be solved.

    Attributes:
        system: The constraints.
        scores: z in float64, shape (n,).
        index: Cell of every row, shape (n,).
        weights: Row weights w, shape (n,); None is one for every row.
        lower_bound: lb, a scalar or shape (n,); None is unbounded.
        upper_bound: ub, likewise.
    """

    system: ConstraintSystem
    scores: Float[Tensor, " n"]
    index: Int[Tensor, " n"]
    weights: Float[Tensor, " n"] | None = None
    lower_bound: Tensor | None = None
    upper_bound: Tensor | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether any bound is given."""
        return self.lower_bound is not None or self.upper_bound is not None

    def cell_sums(self, values: Float[Tensor, " n"]) -> Float[Tensor, " c"]:
        """Weighted sum of a row quantity over every cell."""
        weighted = values if self.weights is None else values * self.weights
        sums = torch.zeros(len(self.system.cell_weight), dtype=torch.float64, device=values.device)
        return sums.index_add(0, self.index, weighted)

    def cell_means(self, values: Float[Tensor, " n"]) -> FloatArray:
        """Weighted mean of a row quantity over every cell; zero for a cell without weight."""
        return self.cell_sums(values).cpu().numpy() / self.system.safe_weight

    def clip(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The values within the bounds."""
        return torch.clamp(values, self.lower_bound, self.upper_bound) if self.is_bounded else values

    def shifted(self, shift: FloatArray) -> Float[Tensor, " n"]:
        """clip(zᵢ + δ_cell(i)): the only form that a solution can have."""
        return self.clip(self.scores + torch.as_tensor(shift, device=self.scores.device)[self.index])

    def explained_by(self, duals: FloatArray) -> Float[Tensor, " n"]:
        """clip(z − Tᵀλ/W): the scores that minimise the Lagrangian at these multipliers."""
        return self.shifted(self.shift_of(duals))

    def shift_of(self, duals: FloatArray) -> FloatArray:
        """δ = −Tᵀλ/W of every cell, shape (c,)."""
        return -(self.system.matrix.T @ duals) / self.system.safe_weight

    def free_rows(self, values: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which rows no bound holds at these scores."""
        free = torch.ones_like(values, dtype=torch.bool)
        if self.lower_bound is not None:
            free &= values > self.lower_bound
        if self.upper_bound is not None:
            free &= values < self.upper_bound
        return free

    def objective(self, values: Float[Tensor, " n"]) -> float:
        """½ Σ wᵢ (yᵢ − zᵢ)²."""
        square = (values - self.scores) ** 2
        return 0.5 * float((square if self.weights is None else square * self.weights).sum())


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver returns.

    Attributes:
        scores: ỹ in float64, shape (n,).
        duals: One multiplier per contrast, shape (m,): positive where the upper side is active, negative at the lower.
        iterations: Steps taken.
        dual_accuracy: A multiplier below this share of the largest one is numerically zero.
    """

    scores: Float[Tensor, " n"]
    duals: FloatArray
    iterations: int
    dual_accuracy: float = 1e-13

    @property
    def active(self) -> IntArray:
        """Positions of the contrasts whose multiplier is not zero."""
        size = np.abs(self.duals)
        return np.flatnonzero(size > self.dual_accuracy * (1.0 + size.max(initial=0.0)))


def build_problem(
    scores: Float[Tensor, " n"],
    system: ConstraintSystem,
    *,
    weights: FloatArray | None = None,
    bounds: tuple[Any, Any] | None = None,
) -> ProjectionProblem:
    """Put scores and constraints together.

    Args:
        scores: z, shape (n,).
        system: The constraints of the same rows.
        weights: Row weights, shape (n,).
        bounds: (lb, ub), each a number, shape (n,), or None.

    Returns:
        The problem, in float64, on the device of the scores.

    Raises:
        InputError: Bounds that are not a pair, cross, or are not finite.
    """
    lower, upper = check_bounds(bounds, n_rows=len(scores), device=scores.device)
    return ProjectionProblem(
        system,
        scores.detach().to(torch.float64),
        system.cells.index_on(scores.device),
        None if weights is None else torch.as_tensor(weights, device=scores.device),
        lower,
        upper,
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


def _bound(name: str, value: Any, n_rows: int, device: torch.device) -> Tensor | None:
    if value is None:
        return None
    if np.ndim(value) == 0:
        if not np.isfinite(float(value)):
            raise InputError(f"the {name} bound must be finite; pass None for no bound; got {value!r}")
        return torch.tensor(float(value), dtype=torch.float64, device=device)
    return torch.as_tensor(check_vector(f"the {name} bound", value, n_rows=n_rows), device=device)


def check_row_inputs(
    groups: Groups, criteria: Sequence[Criterion], labels: Any, weights: Any
) -> tuple[FloatArray | None, FloatArray | None]:
    """Labels and weights as checked arrays; labels only where a criterion reads them."""
    require_labels(criteria, labels)
    needed = any(criterion.needs_labels for criterion in criteria)
    checked = check_vector("labels", labels, n_rows=groups.n_rows) if needed else None
    return checked, check_weights(weights, n_rows=groups.n_rows)
