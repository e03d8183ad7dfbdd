"""The layer's gradient on the host, as one autograd function, and the closed form without tracing.

The Jacobian of the rows is fixed by which constraints are active and which rows a bound holds:

    J v = D (v − B·sums(w D v))          B = W⁻¹ Aᵀ (A diag(d/W) Aᵀ)⁺ A W⁻¹,  shape (c × c)

with A the active rows of T, D the rows that no bound holds, d their share per cell, and sums the sum over every cell.
Without weights J is symmetric and idempotent. J and its transpose are each other's derivative, so derivatives of
every order and both modes are two passes over the rows. It computes what `closed_form` and the traced path compute
with torch operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit._validation import check_vector
from auditkit.errors import InputError
from auditkit.projection import ConstraintSystem, ProjectionProblem, Solution

MAX_CELLS = 256
CHUNK = 1 << 18
"""Rows handled at a time, so that float64 temporaries stay in the cache."""


@dataclass(frozen=True, eq=False)
class CellJacobian:
    """J in the form of its cells.

    Attributes:
        index: Cell of every row, shape (n,).
        matrix: B, shape (c, c), symmetric.
        weights: Row weights w, shape (n,); None is one for every row.
        free: Which rows no bound holds, shape (n,); None is every row.
    """

    index: IntArray
    matrix: FloatArray
    weights: FloatArray | None = None
    free: BoolArray | None = None

    def multiply(self, values: np.ndarray[Any, Any], *, transposed: bool) -> np.ndarray[Any, Any]:
        """J·values, or Jᵀ·values; shape (n,), in the dtype of the values."""
        kept = values if self.free is None else values * self.free
        if self.weights is None:
            return self._masked(add_per_cell(kept, -(self.matrix @ sum_cells(kept, self.index, self.size)), self.index))
        inside = kept if transposed else kept * self.weights
        removed = (self.matrix @ sum_cells(inside, self.index, self.size)).take(self.index)
        removed = removed * self.weights if transposed else removed
        return self._masked((kept - removed).astype(values.dtype, copy=False))

    @property
    def size(self) -> int:
        """Number of cells c."""
        return len(self.matrix)

    def _masked(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return values if self.free is None else values * self.free


def attach_gradient(
    scores: Float[Tensor, " n"], output: np.ndarray[Any, Any], jacobian: CellJacobian
) -> Float[Tensor, " n"]:
    """The output as a function of the scores with the given Jacobian.

    Args:
        scores: z, on the host, shape (n,).
        output: ỹ, shape (n,).
        jacobian: dỹ/dz.

    Returns:
        ỹ in the dtype of the scores.
    """
    return _Attach.apply(scores, output, jacobian)  # type: ignore[return-value]


def solution_jacobian(problem: ProjectionProblem, solution: Solution) -> CellJacobian:
    """The Jacobian at a solution, from its active constraints and held rows.

    At a kink (a constraint that is met with equality and has multiplier zero, a row exactly at its bound) the
    constraint counts as inactive and the row as held: one element of the generalised Jacobian.
    """
    system = problem.system
    weight = system.safe_weight
    free, share = None, np.ones_like(weight)
    if problem.is_bounded:
        mask = problem.free_rows(problem.explained_by(solution.duals))
        free, share = mask.numpy(), problem.cell_means(mask.to(torch.float64))
    rows = system.matrix[solution.active]
    gram = (rows * (share / weight)) @ rows.T
    matrix = (rows / weight).T @ (np.linalg.pinv(gram, rcond=1e-12, hermitian=True) @ (rows / weight))
    weights = None if problem.weights is None else problem.weights.numpy()
    return CellJacobian(system.cells.index, matrix, weights, free)


@dataclass(frozen=True, eq=False)
class HostPlan:
    """What the closed form needs to know about a batch besides its scores.

    Attributes:
        index: Cell of every row, shape (n,).
        weight: Total row weight of every cell, shape (c,).
        strata: Cells that stand together.
        target: Mean label of every cell for residuals, else zeros, shape (c,).
        tolerance: ε.
        pairwise: Whether groups are compared with each other (else each with zero).
    """

    index: IntArray
    weight: FloatArray
    strata: tuple[tuple[int, ...], ...]
    target: FloatArray
    tolerance: float
    pairwise: bool


def find_host_plan(system: ConstraintSystem) -> HostPlan | None:
    """The plan where the closed form on the host applies (one criterion, not many cells), else None."""
    if "host" not in system.layouts:
        system.layouts["host"] = _find_host_plan(system)
    return system.layouts["host"]


def _find_host_plan(system: ConstraintSystem) -> HostPlan | None:
    member = system.contrasts.cell_event
    if system.uniform_tolerance is None or len(system.criteria) != 1:
        return None
    if len(system.cell_weight) > MAX_CELLS or (member.sum(axis=1) != 1).any():
        return None
    strata: dict[object, list[int]] = {}
    for event, cell in zip(system.contrasts.events, member.argmax(axis=1).tolist(), strict=True):
        strata.setdefault(event.stratum, []).append(cell)
    criterion = system.criteria[0]
    is_residual = criterion.family == "EER" and system.label_mean is not None
    target = system.label_mean if is_residual else np.zeros(len(system.cell_weight))
    cells = tuple(tuple(stratum) for stratum in strata.values())
    weight = system.safe_weight
    assert target is not None
    return HostPlan(system.cells.index, weight, cells, target, system.uniform_tolerance, criterion.form == "pairwise")


def project_on_host(
    scores: Float[Tensor, " n"], plan: HostPlan, *, weights: FloatArray | None = None
) -> Float[Tensor, " n"]:
    """Project a batch without bounds, differentiably.

    Args:
        scores: z, float32 or float64 on the host, shape (n,).
        plan: The batch.
        weights: Row weights, shape (n,).

    Returns:
        ỹ, shape (n,).

    Raises:
        InputError: NaN or infinite scores, or scores whose sum overflows.
    """
    values = scores.detach().numpy()
    sums = sum_cells(values if weights is None else values * weights, plan.index, len(plan.weight))
    means = sums / plan.weight - plan.target
    if not np.isfinite(means).all():
        check_vector("scores", values)
        raise InputError("scores are too large: their sum over a group is not finite")
    shift, matrix = _shift_cells(means, plan)
    return attach_gradient(scores, add_per_cell(values, shift, plan.index), CellJacobian(plan.index, matrix, weights))


class _Attach(Function):
    """z ↦ ỹ, computed beforehand."""

    @staticmethod
    def forward(scores: Tensor, output: np.ndarray[Any, Any], jacobian: CellJacobian) -> Tensor:
        del jacobian
        return torch.from_numpy(output).to(scores.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.jacobian = inputs[2]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return _Multiply.apply(gradients[0], ctx.jacobian, True), None, None  # type: ignore[return-value]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Multiply.apply(tangents[0], ctx.jacobian, False)  # type: ignore[return-value]


class _Multiply(Function):
    """v ↦ J v or Jᵀ v: takes off the part that would change an active gap."""

    @staticmethod
    def forward(values: Tensor, jacobian: CellJacobian, transposed: bool) -> Tensor:
        return torch.from_numpy(jacobian.multiply(values.detach().numpy(), transposed=transposed))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.jacobian, ctx.transposed = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return _Multiply.apply(gradients[0], ctx.jacobian, not ctx.transposed), None, None  # type: ignore[return-value]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Multiply.apply(tangents[0], ctx.jacobian, ctx.transposed)  # type: ignore[return-value]


def sum_cells(values: np.ndarray[Any, Any], index: IntArray, size: int) -> FloatArray:
    """Sum over the rows of every cell in float64, shape (size,)."""
    if len(values) <= CHUNK:
        return np.bincount(index, values, size).astype(np.float64, copy=False)
    sums = np.zeros(size)
    for start in range(0, len(values), CHUNK):
        part = slice(start, start + CHUNK)
        sums += np.bincount(index[part], values[part], size)
    return sums


def add_per_cell(values: np.ndarray[Any, Any], shift: FloatArray, index: IntArray) -> np.ndarray[Any, Any]:
    """Values + shift of the row's cell, added in float64 and rounded once; shape (n,)."""
    if len(values) <= CHUNK:
        return (values + shift.take(index)).astype(values.dtype, copy=False)
    output = np.empty_like(values)
    for start in range(0, len(values), CHUNK):
        part = slice(start, start + CHUNK)
        output[part] = values[part] + shift.take(index[part])
    return output


def _shift_cells(means: FloatArray, plan: HostPlan) -> tuple[FloatArray, FloatArray]:
    """δ of every cell and the matrix B."""
    shift, matrix = np.zeros(len(means)), np.zeros((len(means), len(means)))
    for cells in plan.strata:
        values, masses = [float(means[cell]) for cell in cells], [float(plan.weight[cell]) for cell in cells]
        level, top = -plan.tolerance, plan.tolerance
        if plan.pairwise:
            if max(values) - min(values) <= plan.tolerance:
                continue
            level = _find_level(values, masses, plan.tolerance)
            top = level + plan.tolerance
        moved = [k for k, value in enumerate(values) if not level <= value <= top]
        for k in moved:
            shift[cells[k]] = (level if values[k] < level else top) - values[k]
            matrix[cells[k], cells[k]] = 1.0 / masses[k]
        if plan.pairwise and moved:
            chosen = [cells[k] for k in moved]
            matrix[np.ix_(chosen, chosen)] -= 1.0 / sum(masses[k] for k in moved)
    return shift, matrix


def _find_level(values: list[float], masses: list[float], tolerance: float) -> float:
    """The t that balances the mass that rises to t with the mass that falls to t + ε.

    The imbalance D(t) = Σ W (t − u)₊ − Σ W (u − ε − t)₊ is increasing and linear between breakpoints: the last
    breakpoint where it is not positive is found by bisection, and t from the sums of the cells that move just above
    it.
    """
    pairs = list(zip(values, masses, strict=True))
    breaks = sorted(values + [value - tolerance for value in values])
    first, last = 0, len(breaks) - 1
    while first < last:
        middle = (first + last + 1) // 2
        if _imbalance(pairs, breaks[middle], tolerance) <= 0:
            first = middle
        else:
            last = middle - 1
    low, high = breaks[first], breaks[first + 1] if first + 1 < len(breaks) else float("inf")
    below = [(u, w) for u, w in pairs if u <= low]
    above = [(u - tolerance, w) for u, w in pairs if u - tolerance >= high]
    return sum(u * w for u, w in below + above) / sum(w for _, w in below + above)


def _imbalance(pairs: list[tuple[float, float]], level: float, tolerance: float) -> float:
    rise = sum(w * (level - u) for u, w in pairs if u < level)
    fall = sum(w * (u - tolerance - level) for u, w in pairs if u - tolerance > level)
    return rise - fall
