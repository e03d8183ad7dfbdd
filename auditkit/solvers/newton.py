"""The default solver: exact in the cells without bounds, semismooth Newton on the dual with them.

Without bounds the correction is constant within a cell, so the problem is a QP in as many variables as there are cells.
With bounds yᵢ = clip(zᵢ + δ_cell(i)) with δ = −Tᵀλ/W. The dual

    q(λ) = ½ Σ wᵢ (yᵢ(λ) − zᵢ)² + λᵀ T F(λ) − σ(λ),      F = cell means of y(λ),   σ(λ) = Σ max(λU, λL)

is concave and piecewise quadratic. A step replaces F by its linearisation (d_c: share of the cell's weight that no
bound holds), solves that reduced QP exactly, and searches along the line to the QP's multipliers. Each evaluation is
one pass over the rows. Derived in docs/projection.md.
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
    """The dual function at one λ, from one pass over the rows.

    Attributes:
        duals: λ, shape (m,).
        means: F, shape (c,).
        values: T·F, shape (m,).
        free: d, shape (c,).
        scores: y(λ), shape (n,).
        dual: q(λ).
        residual: How far λ is from explaining F, 0 at the solution.
    """

    duals: FloatArray
    means: FloatArray
    values: FloatArray
    free: FloatArray
    scores: torch.Tensor
    dual: float
    residual: float


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
        if _is_solved(point):
            return Solution(point.scores, point.duals, step)
        nearer = _step(problem, point)
        if nearer is None:
            break
        point = nearer
    if _is_solved(point, slack=50.0):
        return Solution(point.scores, point.duals, MAX_STEPS)
    raise SolverError(
        f"newton stopped at a residual of {point.residual:.2e} on {len(point.duals)} constraints; "
        "try solver='osqp', or report the problem"
    )


def _evaluate(problem: ProjectionProblem, duals: FloatArray) -> _Point:
    scores = problem.explained_by(duals)
    means = problem.cell_means(scores)
    values = problem.system.matrix @ means
    dual = problem.objective(scores) + float(duals @ values) - _support(problem, duals)
    residual = _residual(problem, duals, values)
    return _Point(duals, means, values, _free_share(problem, scores), scores, dual, residual)


def _free_share(problem: ProjectionProblem, scores: torch.Tensor) -> FloatArray:
    if not problem.is_bounded:
        return np.ones(len(problem.system.cell_weight))
    return problem.cell_means(problem.free_rows(scores).to(torch.float64))


def _step(problem: ProjectionProblem, point: _Point) -> _Point | None:
    """One Newton step, damped more and more until it helps; None when no damping helps.

    A cell whose rows are all held by a bound does not answer at all; the damping stands in for its answer. It shrinks
    with the residual, so that it does not spoil the last steps.
    """
    damping = min(LARGEST_DAMPING, point.residual)
    while True:
        target = _newton_duals(problem, point, damping)
        nearer = None if target is None else _search(problem, point, target)
        if nearer is not None or damping >= LARGEST_DAMPING:
            return nearer
        damping = min(LARGEST_DAMPING, max(1e-6, 30.0 * damping))


def _newton_duals(problem: ProjectionProblem, point: _Point, damping: float) -> FloatArray | None:
    """Multipliers of the QP in which every cell answers linearly, with its present share of free rows."""
    system = problem.system
    weight = system.safe_weight
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
    predicted = float(point.values @ direction) - _support(problem, target) + _support(problem, point.duals)
    length = 1.0
    for _ in range(MAX_HALVINGS):
        trial = _evaluate(problem, point.duals + length * direction)
        gain = trial.dual - point.dual
        rounding = 1e-13 * max(1.0, abs(point.dual))
        if gain > max(1e-4 * length * predicted, rounding):
            return trial
        if gain >= -rounding and trial.residual <= 0.9 * point.residual:
            return trial
        length *= 0.5
    return None


def _support(problem: ProjectionProblem, duals: FloatArray) -> float:
    return float(np.maximum(duals * problem.system.upper, duals * problem.system.lower).sum())


def _residual(problem: ProjectionProblem, duals: FloatArray, values: FloatArray) -> float:
    """Distance of λ to the multipliers that T·F allows.

    For every constraint the smaller of two evils counts: its multiplier, or its value being off the side that the
    multiplier points at; and never less than what the value breaks.
    """
    system = problem.system
    if not len(values):
        return 0.0
    above, below = values - system.upper, system.lower - values
    slack = -np.where(duals > 0, above, below)
    mass = system.cell_weight.max()
    evil = np.minimum(np.abs(duals) / mass, slack)
    return float(max(evil.max(), above.max(), below.max(), 0.0))


def _is_solved(point: _Point, slack: float = 1.0) -> bool:
    return point.residual <= slack * TOLERANCE * max(1.0, float(np.abs(point.means).max(initial=0.0)))
