"""One criterion, every row in one cell, on the host: the shortest path through NumPy, with bounds and without.

The constraints of a stratum say that the means of its cells lie in a window [t, t + ε] (pairwise), or in [−ε, ε] around
the mean label (absolute residuals). The rows of a cell move by one number δ_c and are clipped to their bounds. The mean
of a cell answers to δ_c with the share d_c of its weight that no bound holds, so a Newton step solves

    Σ_c (W_c/d_c) (t − v_c)₊ = Σ_c (W_c/d_c) (v_c − t − ε)₊

for t, a piecewise linear function of one unknown; v_c is the mean that the present slope foretells at δ_c = 0. Without
bounds d = 1 and one step is exact. Where a step does not settle, the general solver takes over. Derived in
docs/projection.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from auditkit._typing import FloatArray, IntArray
from auditkit._validation import check_vector
from auditkit.constraints import ConstraintSystem
from auditkit.errors import InputError
from auditkit.jacobian import CellJacobian, Jacobian
from auditkit.moment_maps import ALONE, Collective, add_per_cell, sum_cells
from auditkit.row_sets import find_free
from auditkit.solvers.pairs import MAX_ROWS, Bound, Pair, clip, make_pair, project_pair, project_pair_within

MAX_CELLS = 256
MAX_STEPS = 40
ACCURACY = 1e-13
"""How far a mean may be from its goal: the rounding error of a sum over some thousand rows, several times over."""
LEAST_SHARE = 1e-6
"""Share of free rows that a cell without any is given, so that it moves a little and then answers."""


@dataclass(frozen=True, eq=False)
class LevelPlan:
    """What the path needs to know about a batch besides its scores.

    Attributes:
        index: Cell of every row, shape (n,).
        weight: Total row weight of every cell, positive, shape (c,).
        strata: Cells that stand together.
        target: Mean label of every cell for residuals, shape (c,); None for scores themselves.
        tolerance: ε.
        pairwise: Whether groups are compared with each other (else each with zero).
        collective: What adds up over processes.
    """

    index: IntArray
    weight: FloatArray
    strata: tuple[tuple[int, ...], ...]
    target: FloatArray | None
    tolerance: float
    pairwise: bool
    collective: Collective

    @cached_property
    def mass(self) -> list[float]:
        """The weights as numbers."""
        return self.weight.tolist()

    @cached_property
    def pair(self) -> Pair | None:
        """The batch as a pair where it is two cells of few rows in one process, else None."""
        lone = len(self.strata) == 1 and len(self.strata[0]) == 2 and self.pairwise
        if not lone or self.collective is not ALONE or len(self.index) > MAX_ROWS:
            return None
        return make_pair(self.index, self.mass, self.strata[0], self.target, self.tolerance)


class Move(NamedTuple):
    """Where the cells of a batch go. Cells are few: lists are faster here than arrays.

    Attributes:
        shift: δ of every cell, length c; zero for a cell that need not move.
        moved: The cells of every stratum that move.
        windows: Lower and upper end of what the means (less their targets) of every stratum must lie in; a cell that
            rises ends at the lower one, a cell that falls at the upper one.
    """

    shift: list[float]
    moved: list[list[int]]
    windows: list[tuple[float, float]]


@dataclass(eq=False, slots=True)
class LevelJacobian(CellJacobian):
    """J of this path, by what it does to sums per cell.

    With answers a = d·W, the matrix W⁻¹·N·W⁻¹ is diag(1/a) − (1/d)(1/d)ᵀ/Σ(W/d) over the moved cells of a stratum. A
    moved cell all of whose rows are held keeps the window where it is, so that nothing is given to the window.

    Attributes:
        plan: The batch.
        moved: The cells of every stratum that move.
        inverse: 1/d of every cell, length c, zero where all rows are held; None is one for all.
    """

    plan: LevelPlan
    moved: list[list[int]]
    inverse: list[float] | None

    def answer(self, sums: FloatArray) -> FloatArray:
        """−W⁻¹·N·W⁻¹·s."""
        plan, inverse, value = self.plan, self.inverse, sums.tolist()
        mass, given = plan.mass, [0.0] * len(value)
        for cells in self.moved:
            level = self._level(cells, value) if plan.pairwise and cells else 0.0
            for cell in cells:
                given[cell] = level - value[cell] / mass[cell]
        return np.array(given) if inverse is None else np.array(given) * inverse

    def _level(self, cells: list[int], value: list[float]) -> float:
        """What is given to the window of a stratum."""
        mass, inverse, given, total = self.plan.mass, self.inverse, 0.0, 0.0
        for cell in cells:  # a comprehension is a call of its own, which is much for two cells
            share = 1.0 if inverse is None else inverse[cell]
            if share == 0.0:
                return 0.0
            given += share * value[cell]
            total += share * mass[cell]
        return given / total


def find_plan(system: ConstraintSystem) -> LevelPlan | None:
    """The plan where this path applies (one criterion, one cell per row, not many cells), else None."""
    layouts = system.layouts
    if "levels" not in layouts:
        layouts["levels"] = _find_plan(system)
    return layouts["levels"]


def _find_plan(system: ConstraintSystem) -> LevelPlan | None:
    if system.strata is None or len(system.cell_weight) > MAX_CELLS:
        return None
    criterion = system.named[0]
    return LevelPlan(
        system.index,
        system.safe_weight,
        system.strata,
        system.label_mean if criterion.family == "EER" else None,
        system.uniform_tolerance or 0.0,
        criterion.form == "pairwise",
        system.collective,
    )


def project_levels(
    values: np.ndarray[Any, Any], plan: LevelPlan, *, weights: FloatArray | None = None
) -> tuple[np.ndarray[Any, Any], FloatArray, Jacobian]:
    """Project a batch without bounds.

    Args:
        values: z, float32 or float64, shape (n,).
        plan: The batch.
        weights: Row weights, shape (n,).

    Returns:
        ỹ, shape (n,), δ of every cell and the Jacobian.

    Raises:
        InputError: NaN or infinite scores, or scores whose sum overflows.
    """
    if weights is None and plan.pair is not None:
        return project_pair(values, plan.pair)
    index, weight = plan.index, plan.weight
    means = _residual_means(values, plan, weights).tolist()
    if not math.isfinite(sum(means)):
        check_vector("scores", values)
        raise InputError("scores are too large: their sum over a group is not finite")
    move = _move_cells(means, plan.mass, plan)
    shift = np.array(move.shift)
    jacobian = LevelJacobian(index, weight, weights, None, plan.collective, plan, move.moved, None)
    return add_per_cell(values, shift, index), shift, jacobian


def project_levels_within(
    values: np.ndarray[Any, Any], plan: LevelPlan, *, bounds: tuple[Bound, Bound], weights: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, Jacobian] | None:
    """Project a batch within bounds.

    Args:
        values: z, float32 or float64, shape (n,).
        plan: The batch.
        bounds: (lb, ub), each a number, shape (n,), or None.
        weights: Row weights, shape (n,).

    Returns:
        ỹ in float64, δ of every cell and the Jacobian; None where the general solver has to look: no such scores
        exist, or the steps do not settle.

    Raises:
        InputError: NaN or infinite scores, or scores whose sum overflows.
    """
    if weights is None and plan.pair is not None:
        found = project_pair_within(values, plan.pair, bounds)
        if found is not None:
            return found
    if not math.isfinite(values.sum(dtype=np.float64)):
        check_vector("scores", values)
        raise InputError("scores are too large: their sum is not finite")
    if not _fits(plan, bounds, weights, len(values)):
        return None
    shift, moved = np.zeros(len(plan.weight)), values
    move: Move | None = None
    for _ in range(MAX_STEPS):
        output = clip(moved, bounds)
        means = _residual_means(output, plan, weights)
        if move is not None and _is_settled(move, means, plan):
            return output, shift, _bounded_jacobian(output, move, plan, bounds, weights)
        share = np.maximum(_cell_means(output == moved, plan, weights), LEAST_SHARE)
        move = _move_cells((means - share * shift).tolist(), (plan.weight / share).tolist(), plan)
        shift = np.array(move.shift) / share
        moved = values + shift.take(plan.index)
    return None


def _cell_means(values: np.ndarray[Any, Any], plan: LevelPlan, weights: FloatArray | None) -> FloatArray:
    sums = sum_cells(values if weights is None else values * weights, plan.index, len(plan.weight))
    return (sums if plan.collective is ALONE else plan.collective.sum(sums)) / plan.weight


def _residual_means(values: np.ndarray[Any, Any], plan: LevelPlan, weights: FloatArray | None) -> FloatArray:
    means = _cell_means(values, plan, weights)
    return means if plan.target is None else means - plan.target


def _fits(plan: LevelPlan, bounds: tuple[Bound, Bound], weights: FloatArray | None, n_rows: int) -> bool:
    """Whether the bounds leave every stratum a window."""
    scalar = all(bound is None or np.ndim(bound) == 0 for bound in bounds)
    if scalar and plan.pairwise and plan.target is None:
        return True
    low, high = (
        np.full(len(plan.weight), default) if bound is None
        else _residual_means(np.broadcast_to(np.asarray(bound, np.float64), (n_rows,)), plan, weights)
        for bound, default in zip(bounds, (-np.inf, np.inf), strict=True)
    )  # fmt: skip
    epsilon = plan.tolerance
    if not plan.pairwise:
        touched = [cell for cells in plan.strata for cell in cells]
        return bool((low[touched] <= epsilon).all() and (high[touched] >= -epsilon).all())
    return all(low[list(cells)].max() <= high[list(cells)].min() + epsilon for cells in plan.strata if cells)


def _move_cells(value: list[float], mass: list[float], plan: LevelPlan) -> Move:
    """The least movement of cell means that satisfies the constraints when every cell weighs its mass."""
    epsilon, pairwise = plan.tolerance, plan.pairwise
    shift, moved, windows = [0.0] * len(value), [], []
    for cells in plan.strata:
        bottom = _find_bottom(value, mass, cells, epsilon) if pairwise else -epsilon
        top, away = bottom + epsilon if pairwise else epsilon, []
        for cell in cells:
            here = value[cell]
            if here < bottom:
                shift[cell] = bottom - here
            elif here > top:
                shift[cell] = top - here
            else:
                continue
            away.append(cell)
        moved.append(away)
        windows.append((bottom, top))
    return Move(shift, moved, windows)


def _find_bottom(value: list[float], mass: list[float], cells: tuple[int, ...], epsilon: float) -> float:
    """Lower end of the window [t, t + ε] of one stratum."""
    if len(cells) == 2:  # the commonest case by far
        first, second = cells
        if value[first] > value[second]:
            first, second = second, first
        low, fall = value[first], value[second] - epsilon
        return low if fall <= low else (low * mass[first] + fall * mass[second]) / (mass[first] + mass[second])
    values = [value[cell] for cell in cells]
    bottom = min(values, default=0.0)
    if max(values, default=0.0) - bottom <= epsilon:
        return bottom
    return _find_level(values, [mass[cell] for cell in cells], epsilon)


def _is_settled(move: Move, means: FloatArray, plan: LevelPlan) -> bool:
    """Whether the means are where the move wanted them: on their goals, and within the windows where they had none."""
    values, shift = means.tolist(), move.shift
    slack = ACCURACY * max(1.0, max(values), -min(values))
    for cells, (bottom, top) in zip(plan.strata, move.windows, strict=True):
        for cell in cells:  # a loop costs half of `all` here
            low, high = top if shift[cell] < 0 else bottom, bottom if shift[cell] > 0 else top
            if not low - slack <= values[cell] <= high + slack:
                return False
    return True


def _bounded_jacobian(
    output: FloatArray, move: Move, plan: LevelPlan, bounds: tuple[Bound, Bound], weights: FloatArray | None
) -> CellJacobian:
    free = find_free(output, bounds)
    share = _cell_means(free, plan, weights)
    inverse = np.divide(1.0, share, out=np.zeros_like(share), where=share > 0).tolist()
    return LevelJacobian(plan.index, plan.weight, weights, free, plan.collective, plan, move.moved, inverse)


def _find_level(values: list[float], masses: list[float], tolerance: float) -> float:
    """The t that balances the mass that rises to t with the mass that falls to t + ε.

    The imbalance D(t) = Σ W (t − u)₊ − Σ W (u − ε − t)₊ is increasing and linear between breakpoints, with slope and
    intercept from the cells that move there. A walk up the breakpoints finds the piece on which it is zero.
    """
    falls = [value - tolerance for value in values]
    leaving, joining = ((fall, -w) for fall, w in zip(falls, masses, strict=True)), zip(values, masses, strict=True)
    breaks = sorted([*leaving, *joining])
    mass, moment = sum(masses), sum([fall * w for fall, w in zip(falls, masses, strict=True)])
    low, high = breaks[0][0], math.inf
    for position, change in breaks:
        if moment <= mass * position:
            high = position
            break
        low, mass, moment = position, mass + change, moment + change * position
    # summed anew, since what is left of a running sum has the rounding error of all that went through it
    below = [(u, w) for u, w in zip(values, masses, strict=True) if u <= low]
    above = [(fall, w) for fall, w in zip(falls, masses, strict=True) if fall >= high]
    level = sum([u * w for u, w in below + above]) / sum([w for _, w in below + above])
    return min(max(level, low), high)
