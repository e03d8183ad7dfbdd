"""The closed form on the host, as one autograd function: two passes over the rows forward, two backward.

Forward, the cell sums give the level of every stratum (by bisection over its breakpoints) and one shift per cell.
Backward, the Jacobian of the rows is J = I − M with M_{ii'} = B_{cell(i), cell(i')}, where B (c × c) is fixed by which
cells were clamped; the second term belongs to the pairwise form only:

    B = Σ_s diag(1/W over moved cells) − 11ᵀ / Σ_moved W

J is symmetric and idempotent, so the derivative of J·g is J again: higher derivatives and forward mode come for free.
It computes what `closed_form` computes with torch operations; this is the fast way where no tracing is going on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from auditkit._typing import FloatArray, IntArray
from auditkit._validation import check_vector
from auditkit.errors import InputError
from auditkit.projection import ConstraintSystem

MAX_CELLS = 256
CHUNK = 1 << 18
"""Rows handled at a time, so that float64 temporaries stay in the cache."""


@dataclass(frozen=True, eq=False)
class HostPlan:
    """What the closed form needs to know about a batch besides its scores.

    Attributes:
        index: Cell of every row, shape (n,).
        weight: Rows of every cell, shape (c,).
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
    if len(system.criteria) != 1 or len(system.cell_weight) > MAX_CELLS or (member.sum(axis=1) != 1).any():
        return None
    strata: dict[object, list[int]] = {}
    for event, cell in zip(system.contrasts.events, member.argmax(axis=1).tolist(), strict=True):
        strata.setdefault(event.stratum, []).append(cell)
    criterion = system.criteria[0]
    is_residual = criterion.family == "EER" and system.label_mean is not None
    target = system.label_mean if is_residual else np.zeros(len(system.cell_weight))
    cells = tuple(tuple(stratum) for stratum in strata.values())
    weight = np.where(system.cell_weight > 0, system.cell_weight, 1.0)
    assert target is not None
    return HostPlan(system.cells.index, weight, cells, target, criterion.tolerance, criterion.form == "pairwise")


def project_on_host(scores: Float[Tensor, " n"], plan: HostPlan) -> Float[Tensor, " n"]:
    """Project a batch without bounds or weights, differentiably.

    Args:
        scores: z, float32 or float64 on the host, shape (n,).
        plan: The batch.

    Returns:
        ỹ, shape (n,).

    Raises:
        InputError: NaN or infinite scores, or scores whose sum overflows.
    """
    output, _ = _Project.apply(scores, plan)  # type: ignore[misc]
    return output


class _Project(Function):
    """z ↦ ỹ, and the matrix B of its Jacobian."""

    @staticmethod
    def forward(scores: Tensor, plan: HostPlan) -> tuple[Tensor, FloatArray]:
        values = scores.detach().numpy()
        means = _cell_sums(values, plan) / plan.weight - plan.target
        if not np.isfinite(means).all():
            check_vector("scores", values)
            raise InputError("scores are too large: their sum over a group is not finite")
        shift, matrix = _shift_cells(means, plan)
        return torch.from_numpy(_add_per_cell(values, shift, plan)), matrix

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.plan, ctx.matrix = inputs[1], output[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return _Suppress.apply(gradients[0], ctx.plan, ctx.matrix), None  # type: ignore[return-value]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None]:
        return _Suppress.apply(tangents[0], ctx.plan, ctx.matrix), None  # type: ignore[return-value]


class _Suppress(Function):
    """g ↦ J g: takes off the part of a gradient that would change an active gap."""

    @staticmethod
    def forward(gradient: Tensor, plan: HostPlan, matrix: FloatArray) -> Tensor:
        values = gradient.detach().numpy()
        removed = -(matrix @ _cell_sums(values, plan))
        return torch.from_numpy(_add_per_cell(values, removed, plan))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.plan, ctx.matrix = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return _Suppress.apply(gradients[0], ctx.plan, ctx.matrix), None, None  # type: ignore[return-value]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Suppress.apply(tangents[0], ctx.plan, ctx.matrix)  # type: ignore[return-value]


def _cell_sums(values: np.ndarray[Any, Any], plan: HostPlan) -> FloatArray:
    """Sum over the rows of every cell in float64."""
    size = len(plan.weight)
    if len(values) <= CHUNK:
        return np.bincount(plan.index, values, size).astype(np.float64, copy=False)
    sums = np.zeros(size)
    for start in range(0, len(values), CHUNK):
        part = slice(start, start + CHUNK)
        sums += np.bincount(plan.index[part], values[part], size)
    return sums


def _add_per_cell(values: np.ndarray[Any, Any], shift: FloatArray, plan: HostPlan) -> np.ndarray[Any, Any]:
    """Values + shift of the row's cell, added in float64 and rounded once."""
    if len(values) <= CHUNK:
        return (values + shift.take(plan.index)).astype(values.dtype, copy=False)
    output = np.empty_like(values)
    for start in range(0, len(values), CHUNK):
        part = slice(start, start + CHUNK)
        output[part] = values[part] + shift.take(plan.index[part])
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
