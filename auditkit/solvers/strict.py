"""Scores that satisfy the tolerance *after* they are rounded to the dtype in which they leave.

Rounding moves every cell mean a little, so scores that meet ε exactly in float64 may miss it in float32 or bfloat16.
Here the tolerance of the solve is tightened by what the rounding could do, the rounded scores are checked in float64,
and what they still miss is taken off again. The check includes a guard for the order in which a reader sums the rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from auditkit._typing import FloatArray, IntArray
from auditkit.errors import SolverError
from auditkit.moment_maps import CellMap, sum_cells
from auditkit.projection import ProjectionProblem, Solution
from auditkit.row_sets import Box
from auditkit.solvers import solve

MAX_ROUNDS = 25
SUMMATION_GUARD = 64 * float(np.finfo(np.float64).eps)


def solve_strictly(problem: ProjectionProblem, dtype: torch.dtype, *, solver: str) -> tuple[Solution, Tensor]:
    """Project such that the rounded scores, summed in float64, satisfy every tolerance and bound.

    Args:
        problem: A feasible problem.
        dtype: What the scores are rounded to.
        solver: As in `solve`.

    Returns:
        The solution at the tightened tolerance (float64), and its scores rounded to ``dtype``.

    Raises:
        SolverError: No such scores were found, as when ε is zero or below what the dtype can express.
    """
    scale = problem.scale
    guard = SUMMATION_GUARD * scale
    widest = (problem.system.upper - problem.system.lower) / 2
    margin = np.full(len(problem.system.matrix), guard + _rounding_margin(problem, dtype, scale))
    excess = np.zeros(0)
    for attempt in range(MAX_ROUNDS):
        tightened = replace(problem, system=replace(problem.system, margin=margin, layouts={}))
        solution = solve(tightened, solver=solver)
        rounded = _round_within_bounds(problem, solution.scores, dtype)
        if attempt > 0 and isinstance(problem.moments, CellMap):
            rounded = _balance(problem, solution.scores, rounded)
        excess = _excess(problem, rounded) + guard
        if (excess <= 0).all():
            return solution, rounded
        margin = np.minimum(margin + np.where(excess > 0, 1.5**attempt * (1.5 * excess + guard), 0.0), widest)
    missed = float(excess.max(initial=0.0))
    raise SolverError(
        f"no {str(dtype).removeprefix('torch.')} scores near the solution satisfy the tolerances exactly "
        f"(missed by {missed:.1e}); raise the tolerances or use a wider dtype"
    )


def _rounding_margin(problem: ProjectionProblem, dtype: torch.dtype, scale: float) -> float:
    """What rounding can do to a contrast at worst, as long as that is small beside the tolerances."""
    worst = float(torch.finfo(dtype).eps) * scale
    smallest = float((problem.system.upper - problem.system.lower).min(initial=np.inf)) / 2
    return worst if worst <= 0.01 * smallest else 0.0


def _excess(problem: ProjectionProblem, rounded: Tensor) -> FloatArray:
    """By how much every value of the rounded scores is off its sides (negative: within them), shape (m,)."""
    values = problem.values_of(rounded.to(torch.float64))
    return np.maximum(values - problem.system.upper, problem.system.lower - values)


def _round_within_bounds(problem: ProjectionProblem, scores: Tensor, dtype: torch.dtype) -> Tensor:
    rounded, row_set = scores.to(dtype), problem.row_set
    if not isinstance(row_set, Box):
        return rounded.clamp(0.0, 1.0)  # probabilities add up to 1 to within their rounding
    if row_set.lower is not None:
        rounded = torch.maximum(rounded, _inside(row_set.lower, dtype, torch.inf))
    if row_set.upper is not None:
        rounded = torch.minimum(rounded, _inside(row_set.upper, dtype, -torch.inf))
    return rounded


def _balance(problem: ProjectionProblem, exact: Tensor, rounded: Tensor) -> Tensor:
    """Round some rows the other way, so that the rounding errors of every cell add up to almost nothing.

    What is left is at most half a unit in the last place of one row, over the size of the cell.
    """
    error = rounded.double() - exact
    other = torch.nextafter(rounded, torch.where(error > 0, -torch.inf, torch.inf).to(rounded.dtype))
    step = (other.double() - rounded.double()).cpu().numpy()
    step[(other.double() != problem.row_set.project(other.double())).cpu().numpy()] = 0.0
    weights = np.ones_like(step) if problem.weights is None else problem.weights.cpu().numpy()
    flipped = np.zeros(len(step), dtype=bool)
    index = problem.system.index
    totals = sum_cells((error.cpu().numpy() * weights), index, len(problem.system.cell_weight))
    for cell, total in enumerate(totals.tolist()):
        rows = np.flatnonzero((index == cell) & (step * total < 0))
        flipped[rows[_choose(-np.sign(total) * step[rows] * weights[rows], abs(total))]] = True
    return torch.where(torch.as_tensor(flipped, device=rounded.device), other, rounded)


def _choose(sizes: FloatArray, total: float) -> IntArray:
    """Positions whose sizes add up to about ``total``: the largest while they fit, then the one that fits best."""
    order = np.argsort(-sizes, kind="stable")
    running = np.cumsum(sizes[order])
    fitting = int(np.searchsorted(running, total, side="right"))
    chosen, rest = order[:fitting], order[fitting:]
    left = total - (running[fitting - 1] if fitting else 0.0)
    best = rest[np.abs(sizes[rest] - left) < left]
    nearest = best[np.argsort(np.abs(sizes[best] - left), kind="stable")[:1]]
    return np.concatenate([chosen, nearest])


def _inside(bound: Tensor, dtype: torch.dtype, towards: float) -> Tensor:
    """The nearest number of the dtype on the inner side of a bound."""
    nearest = bound.to(dtype)
    outside = nearest.double() < bound if towards > 0 else nearest.double() > bound
    return torch.where(outside, torch.nextafter(nearest, torch.full_like(nearest, towards)), nearest)
