"""The default solver: exact in the moments without a row set, semismooth Newton on the dual with one.

Without bounds the correction is constant within a cell, so the problem is a QP in as many variables as there are cells.
With bounds, or probabilities on the simplex, y(λ) = Π(z − W⁻¹·Bᵀ·Tᵀ·λ). The dual

    q(λ) = ½ Σ wᵢ ‖yᵢ(λ) − zᵢ‖² + λᵀ·T·u(λ) − σ(λ),      u = B·y(λ),   σ(λ) = Σ max(λU, λL)

is concave and piecewise quadratic. A step replaces u by its linearisation (G = B·D·W⁻¹·Bᵀ, D the derivative of Π; for
cells and bounds, the share of each cell's weight that no bound holds), solves that reduced QP exactly, and searches
along the line to the QP's multipliers. Each evaluation is one pass over the rows. Where distance is log-loss, y(λ) is
logit(clip(σ(z) − …)), D its slope and q smooth in pieces; the steps are the same. Derived in docs/projection.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
ROUNDING = 1e-12
"""Relative error of the dual function, a sum over all rows."""
LARGEST_DAMPING = 0.5
SMALLEST_DAMPING = 1e-9


@dataclass(frozen=True, eq=False)
class _Point:
    """The dual function at one λ, from one pass over the rows.

    Attributes:
        duals: λ, shape (m,).
        moments: u, shape (q,).
        values: T·u, shape (m,).
        scores: y(λ).
        dual: q(λ).
        residual: How far λ is from explaining u, 0 at the solution.
        newton: Whose point this is.
    """

    duals: FloatArray
    moments: FloatArray
    values: FloatArray
    scores: torch.Tensor
    dual: float
    residual: float
    newton: _Newton

    @cached_property
    def gram(self) -> FloatArray:
        """G, shape (q, q), or its diagonal; another pass over the rows, which the solution does not need."""
        return self.newton.gram_at(self.scores)


def solve(problem: ProjectionProblem, *, start: FloatArray | None = None) -> Solution:
    """Project with the default solver.

    Args:
        problem: A feasible problem.
        start: Multipliers to start from, shape (m,), such as those of a similar problem; None starts at zero.

    Returns:
        Scores and multipliers; violations at the level of float64 rounding.

    Raises:
        SolverError: Newton's method did not reach that level.
    """
    layout = None if problem.is_bounded else find_layout(problem.system, problem.scores.device)
    if layout is not None:
        return closed_form.solve(problem, layout)
    return _Newton(problem, problem.moments.gram(None)).run(start)


@dataclass(frozen=True, eq=False)
class _Newton:
    """Newton's method on one problem.

    Attributes:
        problem: What is solved.
        full_gram: G if the row set held nothing.
    """

    problem: ProjectionProblem
    full_gram: FloatArray

    @cached_property
    def mass(self) -> float:
        """Largest mass behind a moment: what makes a multiplier comparable with a score."""
        diagonal = self.full_gram if self.full_gram.ndim == 1 else np.diag(self.full_gram)
        return 1.0 / max(float(diagonal[diagonal > 0].min(initial=np.inf)), 1e-300)

    def run(self, start: FloatArray | None) -> Solution:
        """Step until the multipliers explain the scores."""
        point = self._evaluate(np.zeros(len(self.problem.system.matrix)) if start is None else start)
        for step in range(MAX_STEPS):
            if _is_solved(point):
                return Solution(point.scores, point.duals, step, is_explained=True)
            nearer = self._step(point)
            if nearer is None:
                break
            point = nearer
        # criteria that nearly contradict each other push scores far away, and rounding is relative to where they are
        farthest = float(point.scores.abs().max()) if point.scores.numel() else 0.0
        if point.residual <= 100.0 * TOLERANCE * max(1.0, self.problem.system.collective.max(farthest)):
            return Solution(point.scores, point.duals, MAX_STEPS, is_explained=True)
        raise SolverError(
            f"newton stopped at a residual of {point.residual:.2e} on {len(point.duals)} constraints; "
            "try solver='osqp', or report the problem"
        )

    def _evaluate(self, duals: FloatArray) -> _Point:
        problem = self.problem
        scores = problem.explained_by(duals)
        moments = problem.moments.collect(scores)
        values = problem.system.matrix @ moments
        dual = problem.objective(scores) + float(duals @ values) - problem.support(duals)
        return _Point(duals, moments, values, scores, dual, self._residual(duals, values), self)

    def gram_at(self, scores: torch.Tensor) -> FloatArray:
        """G where these rows are held and those are not."""
        problem = self.problem
        return problem.moments.gram(problem.row_set.derivative(scores)) if problem.is_bounded else self.full_gram

    def _step(self, point: _Point) -> _Point | None:
        """One Newton step, damped more and more until it helps; None when no damping helps.

        A moment whose rows are all held does not answer at all; the damping stands in for its answer. It shrinks with
        the residual, so that it does not spoil the last steps.
        """
        damping = min(LARGEST_DAMPING, point.residual)
        while True:
            target = self._newton_duals(point, damping)
            nearer = None if target is None else self._search(point, target)
            if nearer is not None or damping >= LARGEST_DAMPING:
                return nearer
            damping = min(LARGEST_DAMPING, max(1e-6, 30.0 * damping))

    def _newton_duals(self, point: _Point, damping: float) -> FloatArray | None:
        """Multipliers of the QP in which every moment answers linearly, as it does at present."""
        system, gram = self.problem.system, point.gram
        if self.problem.is_bounded:
            least = max(damping, SMALLEST_DAMPING) * self.full_gram
            gram = np.maximum(gram, least) if gram.ndim == 1 else gram + least
        push = system.matrix.T @ point.duals
        base = system.matrix @ (point.moments + (gram * push if gram.ndim == 1 else gram @ push))
        try:
            return solve_reduced(system.matrix, system.lower - base, system.upper - base, gram)
        except SolverError:  # moments that hardly answer make the QP ill-conditioned; more damping mends that
            return None

    def _search(self, point: _Point, target: FloatArray) -> _Point | None:
        """The first point on the way to ``target`` that is nearer to the solution; None when none is.

        Nearer means a higher dual function (Armijo). Close to the solution that function changes by less than its
        rounding error, while the residual and the slope are still known to many digits: there a smaller residual
        counts, or a slope that still points onwards, since a concave function has only risen up to such a point.
        """
        direction = target - point.duals
        support = self.problem.support
        predicted = float(point.values @ direction) - support(target) + support(point.duals)
        length = 1.0
        for _ in range(MAX_HALVINGS):
            trial = self._evaluate(point.duals + length * direction)
            gain = trial.dual - point.dual
            rounding = ROUNDING * max(1.0, abs(point.dual))
            if gain > max(1e-4 * length * predicted, rounding):
                return trial
            if gain >= -rounding and (
                trial.residual <= 0.9 * point.residual or self._slope(trial, direction) > 0.1 * predicted > 0
            ):
                return trial
            length *= 0.5
        return None

    def _slope(self, point: _Point, direction: FloatArray) -> float:
        """Derivative of the dual function at a point, along the direction that led there."""
        system = self.problem.system
        came_from_above = (point.duals > 0) | ((point.duals == 0) & (direction < 0))
        side = np.where(came_from_above, system.upper, system.lower)
        moved = direction != 0  # the others may have a side at infinity
        return float((point.values - side)[moved] @ direction[moved])

    def _residual(self, duals: FloatArray, values: FloatArray) -> float:
        """Distance of λ to the multipliers that T·u allows.

        For every constraint the smaller of two evils counts: its multiplier, or its value being off the side that the
        multiplier points at; and never less than what the value breaks.
        """
        system = self.problem.system
        if not len(values):
            return 0.0
        above, below = values - system.upper, system.lower - values
        slack = -np.where(duals > 0, above, below)
        evil = np.minimum(np.abs(duals) / self.mass, slack)
        return float(max(evil.max(), above.max(), below.max(), 0.0))


def _is_solved(point: _Point) -> bool:
    return point.residual <= TOLERANCE * max(1.0, float(np.abs(point.moments).max(initial=0.0)))
