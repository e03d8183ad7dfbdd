"""The derivative of a projection, applied row by row without a solver.

    J v = D (v − W⁻¹·Bᵀ·N·B·D v)          N = Aᵀ (A·G·Aᵀ)⁺ A,   G = B·D·W⁻¹·Bᵀ

with A the active rows of T and D the derivative of the row set. Without weights J is symmetric and idempotent: it takes
off exactly what would change an active gap or a held row. J and its transpose are each other's derivative, so
derivatives of every order and both modes are two passes over the rows. Where distance is log-loss the derivative is
J·diag(σ′(z)), with a D that is no projection and changes with z: then there are first derivatives only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit.errors import SolverError
from auditkit.moment_maps import ALONE, Collective, MomentMap, add_per_cell, sum_cells
from auditkit.projection import ProjectionProblem, Solution
from auditkit.row_sets import LogisticBox


class GradientRecord:
    """How much of the last gradient a layer took off.

    Args:
        collective: What adds up over the processes that hold parts of the gradient.
    """

    def __init__(self, collective: Collective = ALONE) -> None:
        self.collective = collective
        self.squares: tuple[float, float] | None = None
        """‖(I − Jᵀ)g‖² and ‖g‖² of the last backward pass; None before the first."""
        self.duals: dict[int, tuple[Any, ...]] = {}
        """How to find the multipliers of the last forward pass, by column: a function and what it is called with; few
        callers ask, so it waits until then."""

    def note(self, removed: float, whole: float) -> None:
        """Keep ‖(I − Jᵀ)g‖² and ‖g‖², given those of this process."""
        if self.collective is not ALONE:
            removed, whole = self.collective.sum(np.array([removed, whole], dtype=np.float64)).tolist()
        self.squares = removed, whole

    @property
    def suppressed_share(self) -> float | None:
        """‖(I − Jᵀ)g‖/‖g‖ of the last backward pass; None before the first."""
        if self.squares is None:
            return None
        removed, whole = map(float, self.squares)
        return math.sqrt(removed / whole) if whole > 0 else 0.0


class Jacobian(ABC):
    """J at one solution."""

    __slots__ = ()

    @property
    def is_constant(self) -> bool:
        """Whether J is the same for all scores nearby, so that it has a derivative of zero."""
        return True

    @abstractmethod
    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v, or Jᵀ·v, in the shape and dtype of v."""

    def pull_back(self, gradient: Tensor, record: GradientRecord) -> Tensor:
        """Jᵀ·g; the record notes what is taken off."""
        product = self.multiply(gradient, transposed=True)
        whole = np.ravel(to_host(gradient))
        removed = whole - np.ravel(to_host(product))
        record.note(removed.dot(removed), whole.dot(whole))
        return product


@dataclass(eq=False, slots=True)  # made once per batch, where a frozen one would take twice as long
class CellJacobian(Jacobian):
    """J where every row lies in one cell, on the host.

    Attributes:
        index: Cell of every row, shape (n,).
        mass: W, the total row weight of every cell, shape (c,).
        weights: Row weights w, shape (n,); None is one for every row.
        free: Which rows no bound holds, shape (n,); None is every row.
        collective: What adds up over processes.
    """

    index: IntArray
    mass: FloatArray
    weights: FloatArray | None
    free: BoolArray | None
    collective: Collective

    @abstractmethod
    def answer(self, sums: FloatArray) -> FloatArray:
        """−W⁻¹·N·W⁻¹·s: what every row of a cell is given where the rows of the cells add up to s; shape (c,)."""

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v, or Jᵀ·v."""
        return as_tensor(self._apply(to_host(values), transposed), values.dtype)

    def pull_back(self, gradient: Tensor, record: GradientRecord) -> Tensor:
        """Jᵀ·g; the record notes what is taken off."""
        if self.weights is not None or self.free is not None or self.collective is not ALONE:
            return Jacobian.pull_back(self, gradient, record)
        plain, index, mass = to_host(gradient), self.index, self.mass
        # every row of a cell loses the same, so that no second pass over the rows is needed to add it up
        given = self.answer(sum_cells(plain, index, len(mass)))
        record.squares = (given * given).dot(mass), plain.dot(plain)
        return as_tensor(add_per_cell(plain, given, index), gradient.dtype)

    def _apply(self, plain: np.ndarray[Any, Any], transposed: bool) -> np.ndarray[Any, Any]:
        kept = plain if self.free is None else plain * self.free
        inside = kept if self.weights is None or transposed else kept * self.weights
        given = self.answer(self.collective.sum(sum_cells(inside, self.index, len(self.mass))))
        if self.weights is None or not transposed:
            product = add_per_cell(kept, given, self.index)
        else:
            product = (kept + given.take(self.index) * self.weights).astype(kept.dtype, copy=False)
        return product if self.free is None else product * self.free


@dataclass(eq=False, slots=True)
class MatrixJacobian(CellJacobian):
    """J where every row lies in one cell, by its matrix in the cells.

    Attributes:
        matrix: W⁻¹·N·W⁻¹, symmetric, shape (c, c).
    """

    matrix: FloatArray

    def answer(self, sums: FloatArray) -> FloatArray:
        """−W⁻¹·N·W⁻¹·s."""
        return -(self.matrix @ sums)


@dataclass(frozen=True, eq=False)
class MapJacobian(Jacobian):
    """J for any moments and row set, on any device.

    Attributes:
        moments: B.
        derivative: D.
        matrix: N, shape (q, q).
    """

    moments: MomentMap
    derivative: Any
    matrix: FloatArray

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v, or Jᵀ·v."""
        exact = values.detach().to(torch.float64)
        kept = self.derivative.apply(exact)
        if transposed:
            removed = self.moments.spread_plain(self.matrix @ self.moments.collect_plain(kept))
        else:
            removed = self.moments.spread(self.matrix @ self.moments.collect(kept))
        return (kept - self.derivative.apply(removed)).to(values.dtype)


@dataclass(frozen=True, eq=False)
class LogisticJacobian(Jacobian):
    """J of logits whose probabilities are moved.

    Attributes:
        inner: J of the probabilities.
        slope: σ′(z), shape (n,).
    """

    inner: Jacobian
    slope: Tensor

    @property
    def is_constant(self) -> bool:
        """Never: σ′ changes with the scores."""
        return False

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v, or Jᵀ·v."""
        exact = values.detach().to(torch.float64)
        if transposed:
            product = self.slope * self.inner.multiply(exact, transposed=True)
        else:
            product = self.inner.multiply(self.slope * exact, transposed=False)
        return product.to(values.dtype)


@dataclass(frozen=True, eq=False)
class ColumnsJacobian(Jacobian):
    """J of (n, k) scores whose columns were projected one by one.

    Attributes:
        columns: J of every column.
    """

    columns: tuple[Jacobian, ...]

    @property
    def is_constant(self) -> bool:
        """Whether that of every column is."""
        return all(column.is_constant for column in self.columns)

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v, or Jᵀ·v, column by column."""
        parts = zip(values.T.contiguous(), self.columns, strict=True)
        return torch.stack([jacobian.multiply(column, transposed=transposed) for column, jacobian in parts], dim=1)


def find_jacobian(problem: ProjectionProblem, solution: Solution) -> Any:
    """J at a solution, from its active constraints and held rows."""
    if solution.extra is not None:
        return solution.extra
    explained = solution.scores
    if not solution.is_explained:
        explained = problem.explained_by(solution.duals)
        _check_explained(problem, solution, explained)
    derivative: Any = problem.row_set.derivative(explained)
    gram = problem.moments.gram(derivative)
    rows = problem.system.matrix[solution.active]
    answer = (rows * gram) @ rows.T if gram.ndim == 1 else rows @ gram @ rows.T
    inner = rows.T @ np.linalg.pinv(answer, rcond=1e-12, hermitian=True) @ rows
    system = problem.system
    if isinstance(problem.row_set, LogisticBox):
        moved = MapJacobian(problem.moments, derivative, inner)
        return LogisticJacobian(moved, problem.scores * (1 - problem.scores))
    if system.is_cellwise and problem.scores.ndim == 1 and problem.scores.device.type == "cpu":
        weights = None if problem.weights is None else problem.weights.numpy()
        free = None if derivative.free is None else derivative.free.numpy()
        mass = system.safe_weight
        return MatrixJacobian(system.index, mass, weights, free, system.collective, inner / np.outer(mass, mass))
    return MapJacobian(problem.moments, derivative, inner)


def _check_explained(problem: ProjectionProblem, solution: Solution, explained: Tensor) -> None:
    """Raise when multipliers and scores disagree: then there is no knowing which constraints are active."""
    difference = float((explained - solution.scores).abs().max()) if solution.scores.numel() else 0.0
    difference = problem.system.collective.max(difference)  # so that all processes raise, or none
    if difference > 1e-5 * problem.scale:
        raise SolverError(
            f"the multipliers and the scores of the solver disagree by {difference:.2e}, so there is no reliable "
            "gradient; use solver='newton'"
        )


def to_host(values: Tensor) -> np.ndarray[Any, Any]:
    """The values as NumPy sees them, in a dtype that it has."""
    dtype = values.dtype
    if dtype is not torch.float64 and dtype is not torch.float32:
        values = values.detach().to(torch.float32)
    return values.numpy(force=True)


def as_tensor(values: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
    """The values as a tensor of a dtype, not copied where they have it."""
    tensor = torch.from_numpy(values)
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
