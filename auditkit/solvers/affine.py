"""Affine corrections per observable cell, for criteria that are conditioned on a label that will not be there.

    min ½ Σ w (α_o + β_o z)²   subject to   L ≤ T·M·clip(z + α_o + β_o z) ≤ U

A row brings along its observable cell o (attributes and strata) but not its label, so its correction may depend on o
and on its own score only. Two numbers per cell can move the mean of the positives and of the negatives apart from
each other. The clip is linearised at the present correction and the QP solved again until the constraints hold. Where
the optimum has a row exactly on a bound, these steps would go back and forth over that kink; they are shortened there,
and what little violation is left is taken off by the smallest steps that do so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from auditkit._typing import FloatArray
from auditkit.errors import InfeasibleError, SolverError
from auditkit.groups import Cells
from auditkit.projection import ProjectionProblem
from auditkit.solvers.active_set import solve_reduced

MAX_STEPS = 300
VIOLATION_TOLERANCE = 1e-12
STEP_TOLERANCE = 1e-9
KINK_TOLERANCE = 1e-7
"""Shortened steps below this have found the kink."""
SHRINKS = 0.9
"""Steps that do not shrink by this factor go back and forth, or nearly."""


@dataclass(frozen=True, eq=False)
class AffineCorrection:
    """z + α_o + β_o z per observable cell.

    Attributes:
        shift: α, shape (o,).
        slope: β, shape (o,).
        scores: The corrected scores within the bounds, shape (n,).
    """

    shift: FloatArray
    slope: FloatArray
    scores: FloatArray


@dataclass(frozen=True, eq=False)
class _Basis:
    """The unknowns: a shift of the cell's mean score and a slope around it, which are orthogonal.

    Attributes:
        index: Observable cell of every row, shape (n,).
        weight: Row weights, shape (n,).
        centre: Mean score of every observable cell, shape (o,).
        offset: Score less the mean of its cell, shape (n,).
        curvature: One over the squared length of every unknown, shape (2·o,); 0 where there is none.
    """

    index: np.ndarray
    weight: FloatArray
    centre: FloatArray
    offset: FloatArray
    curvature: FloatArray


def solve_affine(problem: ProjectionProblem, cells: Cells) -> AffineCorrection:
    """Find the smallest affine corrections that satisfy the constraints.

    Args:
        problem: Scores, constraints and bounds.
        cells: The observable cells of the same rows; every cell of the constraints must lie within one of them.

    Returns:
        Shifts, slopes and corrected scores.

    Raises:
        InfeasibleError: No affine correction satisfies the constraints.
        SolverError: The linearisation did not converge.
    """
    scores = problem.scores.cpu().numpy()
    basis = _make_basis(problem, scores, cells)
    size = cells.table.n_cells
    unknown = np.zeros(2 * size)
    damping, last = 1.0, np.inf
    for _ in range(MAX_STEPS):
        place = _place(problem, basis, scores, unknown)
        step = _linear_step(problem, basis, place, unknown, anchor=np.zeros_like(unknown)) - unknown
        length = float(np.abs(step).max(initial=0.0))
        if length <= STEP_TOLERANCE or damping * length <= KINK_TOLERANCE:
            return _make_feasible(problem, basis, scores, unknown)
        damping = damping / 2 if length > SHRINKS * last else damping
        unknown, last = unknown + damping * step, length
    raise _not_converged()


def _make_feasible(
    problem: ProjectionProblem, basis: _Basis, scores: FloatArray, unknown: FloatArray
) -> AffineCorrection:
    """Take off the violation that is left, by the smallest steps from here."""
    size = len(basis.centre)
    for _ in range(MAX_STEPS):
        place = _place(problem, basis, scores, unknown)
        if _violation(problem, place.corrected) <= VIOLATION_TOLERANCE:
            slope = unknown[size:]
            return AffineCorrection(unknown[:size] - slope * basis.centre, slope, place.corrected)
        unknown = _linear_step(problem, basis, place, unknown, anchor=unknown)
    raise _not_converged()


def _not_converged() -> SolverError:
    return SolverError(
        "the affine corrections did not converge within the bounds; widen the bounds or raise the tolerances"
    )


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the rows are at some correction: before and after the bounds, shape (n,)."""

    moved: FloatArray
    corrected: FloatArray


def _place(problem: ProjectionProblem, basis: _Basis, scores: FloatArray, unknown: FloatArray) -> _Place:
    size = len(basis.centre)
    moved = scores + unknown[:size][basis.index] + unknown[size:][basis.index] * basis.offset
    return _Place(moved, _clip(problem, moved))


def _make_basis(problem: ProjectionProblem, scores: FloatArray, cells: Cells) -> _Basis:
    weight = np.ones_like(scores) if problem.weights is None else problem.weights.cpu().numpy()
    size = cells.table.n_cells
    mass = np.bincount(cells.index, weights=weight, minlength=size)
    centre = np.bincount(cells.index, weights=weight * scores, minlength=size) / np.where(mass > 0, mass, 1.0)
    offset = scores - centre[cells.index]
    spread = np.bincount(cells.index, weights=weight * offset**2, minlength=size)
    length = np.concatenate([mass, spread])
    curvature = np.divide(1.0, length, out=np.zeros_like(length), where=length > 1e-12)
    return _Basis(cells.index, weight, centre, offset, curvature)


def _linear_step(
    problem: ProjectionProblem, basis: _Basis, place: _Place, unknown: FloatArray, *, anchor: FloatArray
) -> FloatArray:
    """The point nearest to ``anchor`` that satisfies the constraints, linearised at ``unknown``."""
    system = problem.system
    free = basis.weight * (place.corrected == place.moved)
    response = np.hstack([_response(problem, basis, free), _response(problem, basis, free * basis.offset)])
    matrix = system.matrix @ response
    values = system.matrix @ _cell_means(problem, basis, place.corrected) - matrix @ (unknown - anchor)
    duals = solve_reduced(matrix, system.lower - values, system.upper - values, np.maximum(basis.curvature, 1e-300))
    if duals is None:
        names = " and ".join(criterion.name for criterion in system.criteria)
        raise InfeasibleError(
            f"no correction that uses group and score alone satisfies {names}; "
            "raise the tolerances or widen the bounds",
            criteria=tuple(criterion.name for criterion in system.criteria),
        )
    return anchor - basis.curvature * (matrix.T @ duals)


def _response(problem: ProjectionProblem, basis: _Basis, values: FloatArray) -> FloatArray:
    """How the mean of every constraint cell answers to the unknown of every observable cell, shape (c, o)."""
    n_cells, size = len(problem.system.cell_weight), len(basis.centre)
    pair = problem.system.index * size + basis.index
    sums = np.bincount(pair, weights=values, minlength=n_cells * size).reshape(n_cells, size)
    return sums / np.where(problem.system.cell_weight > 0, problem.system.cell_weight, 1.0)[:, None]


def _cell_means(problem: ProjectionProblem, basis: _Basis, values: FloatArray) -> FloatArray:
    weight = problem.system.cell_weight
    sums = np.bincount(problem.system.index, weights=basis.weight * values, minlength=len(weight))
    return sums / np.where(weight > 0, weight, 1.0)


def _clip(problem: ProjectionProblem, values: FloatArray) -> FloatArray:
    return problem.row_set.project(torch.from_numpy(values)).numpy()


def _violation(problem: ProjectionProblem, corrected: FloatArray) -> float:
    system = problem.system
    weight = np.ones_like(corrected) if problem.weights is None else problem.weights.cpu().numpy()
    sums = np.bincount(system.index, weights=weight * corrected, minlength=len(system.cell_weight))
    values = system.matrix @ (sums / np.where(system.cell_weight > 0, system.cell_weight, 1.0))
    return float(max([0.0, *(values - system.upper), *(system.lower - values)]))
