"""The default solver: exact in the cells without bounds, semismooth Newton on the dual with them.

Without bounds the correction is constant within a cell, so the problem is a QP in as many variables as there are cells.
With bounds yᵢ = clip(zᵢ + δ_cell(i)) with δ = −Tᵀλ/W. The dual

    q(λ) = ½ Σ wᵢ (yᵢ(λ) − zᵢ)² + λᵀ T F(λ) − σ(λ),      F = cell means of y(λ),   σ(λ) = Σ max(λU, λL)

is concave and piecewise quadratic. A step replaces F by its linearisation (d_c: share of the cell's weight that no
bound holds), solves that reduced QP exactly, and searches along the line to the QP's multipliers. Each evaluation is
one pass over the rows. Source: METHOD §2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from auditkit._typing import FloatArray
from auditkit.errors import SolverError
from auditkit.projection import ProjectionProblem, Solution
from auditkit.solvers import closed_form
from auditkit.solvers.active_set import solve_reduced
from auditkit.solvers.closed_form import find_layout

MAX_STEPS = 200
MAX_HALVINGS = 60
TOLERANCE = 1e-14
LARGEST_DAMPING = 0.5
SMALLEST_DAMPING = 1e-9


@dataclass(frozen=True, eq=False)
class _Point:
    """The dual function at one λ, from one pass over the rows."""

    duals: FloatArray
    means: FloatArray
    free: FloatArray
    scores: torch.Tensor
    smooth: float


def solve(problem: ProjectionProblem) -> Solution:
    """Project with the default solver.

    Args:
        problem: A feasible problem.

    Returns:
        Scores and multipliers; violations at the level of float64 rounding.

    Raises:
        SolverError: Newton's method did not reach that level.
    """
    layout = None if problem.is_bounded else find_layout(problem.system, problem.scores.device)
    if layout is not None:
        return closed_form.solve(problem, layout)
    point = _evaluate(problem, np.zeros(len(problem.system.matrix)))
    for step in range(MAX_STEPS):
        if _is_solved(problem, point):
            return Solution(point.scores, point.duals, step)
        nearer = _step(problem, point)
        if nearer is None:
            break
        point = nearer
    if _is_solved(problem, point, slack=50.0):
        return Solution(point.scores, point.duals, MAX_STEPS)
    raise SolverError(
        f"newton stopped at a residual of {_residual(problem, point):.2e} on {len(point.duals)} constraints; "
        "try solver='osqp', or report the problem"
    )


def _evaluate(problem: ProjectionProblem, duals: FloatArray) -> _Point:
    scores = problem.explained_by(duals)
    means = problem.cell_means(scores)
    return _Point(duals, means, _free_share(problem, scores), scores, problem.objective(scores))


def _free_share(problem: ProjectionProblem, scores: torch.Tensor) -> FloatArray:
    if not problem.is_bounded:
        return np.ones(len(problem.system.cell_weight))
    return problem.cell_means(problem.free_rows(scores).to(torch.float64))


def _step(problem: ProjectionProblem, point: _Point) -> _Point | None:
    """One Newton step, damped more and more until it helps; None when no damping helps.

    A cell whose rows are all held by a bound does not answer at all; the damping stands in for its answer. It shrinks
    with the residual, so that it does not spoil the last steps.
    """
    damping = min(LARGEST_DAMPING, _residual(problem, point))
    while True:
        target = _newton_duals(problem, point, damping)
        nearer = None if target is None else _search(problem, point, target)
        if nearer is not None or damping >= LARGEST_DAMPING:
            return nearer
        damping = min(LARGEST_DAMPING, max(1e-6, 30.0 * damping))


def _newton_duals(problem: ProjectionProblem, point: _Point, damping: float) -> FloatArray | None:
    """Multipliers of the QP in which every cell answers linearly, with its present share of free rows."""
    system = problem.system
    weight = np.where(system.cell_weight > 0, system.cell_weight, 1.0)
    share = np.maximum(point.free, max(damping, SMALLEST_DAMPING))
    shift = -(system.matrix.T @ point.duals) / weight
    base = system.matrix @ (point.means - share * shift)
    try:
        return solve_reduced(system.matrix, system.lower - base, system.upper - base, share / weight)
    except SolverError:  # cells that hardly answer make the QP ill-conditioned; more damping mends that
        return None


def _search(problem: ProjectionProblem, point: _Point, target: FloatArray) -> _Point | None:
    """The first point on the way to ``target`` that is nearer to the solution; None when none is.

    Nearer means a higher dual function (Armijo), or a smaller residual: close to the solution the dual function
    changes by less than its rounding error, while the residual is still known to many digits.
    """
    direction = target - point.duals
    values = problem.system.matrix @ point.means
    predicted = float(values @ direction) - _support(problem, target) + _support(problem, point.duals)
    here, residual = _dual_value(problem, point), _residual(problem, point)
    length = 1.0
    for _ in range(MAX_HALVINGS):
        trial = _evaluate(problem, point.duals + length * direction)
        gain = _dual_value(problem, trial) - here
        rounding = 1e-13 * max(1.0, abs(here))
        if gain > max(1e-4 * length * predicted, rounding):
            return trial
        if gain >= -rounding and _residual(problem, trial) <= 0.9 * residual:
            return trial
        length *= 0.5
    return None


def _support(problem: ProjectionProblem, duals: FloatArray) -> float:
    return float(np.maximum(duals * problem.system.upper, duals * problem.system.lower).sum())


def _dual_value(problem: ProjectionProblem, point: _Point) -> float:
    linear = float(point.duals @ (problem.system.matrix @ point.means))
    return point.smooth + linear - _support(problem, point.duals)


def _residual(problem: ProjectionProblem, point: _Point) -> float:
    """How far λ is from explaining F: distance of λ to the multipliers that T·F allows, 0 at the solution.

    For every constraint the smaller of two evils counts: its value being off the side that its multiplier points at.
    """
    system = problem.system
    if not len(system.matrix):
        return 0.0
    values = system.matrix @ point.means
    outside = np.maximum(np.maximum(values - system.upper, system.lower - values), 0.0)
    slack = np.where(point.duals > 0, system.upper - values, values - system.lower)
    scale = problem.system.cell_weight.max()
    return float(np.maximum(outside, np.minimum(np.abs(point.duals) / scale, np.maximum(slack, 0.0))).max())


def _is_solved(problem: ProjectionProblem, point: _Point, slack: float = 1.0) -> bool:
    scale = max(1.0, float(np.abs(point.means).max(initial=0.0)))
    return _residual(problem, point) <= slack * TOLERANCE * scale
