"""The derivative of a projection, applied row by row without a solver, and the autograd functions that hold it.

    J v = D (v − W⁻¹·Bᵀ·N·B·D v)          N = Aᵀ (A·G·Aᵀ)⁺ A,   G = B·D·W⁻¹·Bᵀ

with A the active rows of T and D the derivative of the row set. Without weights J is symmetric and idempotent: it takes
off exactly what would change an active gap or a held row. J and its transpose are each other's derivative, so
derivatives of every order and both modes are two passes over the rows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit.moment_maps import ALONE, Collective, MomentMap, add_per_cell, sum_cells


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
        return self.derivative.apply(kept - removed).to(values.dtype)


@dataclass(frozen=True, eq=False)
class ColumnsJacobian(Jacobian):
    """J of (n, k) scores whose columns were projected one by one.

    Attributes:
        columns: J of every column.
    """

    columns: tuple[Jacobian, ...]

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v, or Jᵀ·v, column by column."""
        parts = zip(values.T.contiguous(), self.columns, strict=True)
        return torch.stack([jacobian.multiply(column, transposed=transposed) for column, jacobian in parts], dim=1)


class Request(Protocol):
    """One forward pass: how to solve it, and what the solution left for the backward pass.

    Attributes:
        record: Where the backward pass notes the suppressed share.
        jacobian: J, after the forward pass.
    """

    record: GradientRecord
    jacobian: Any

    def solve(self, scores: Tensor) -> Tensor:
        """The projection of the values of the scores; keeps its Jacobian."""
        ...


def attach(scores: Tensor, request: Request) -> Tensor:
    """The projection of the scores as a differentiable function of them."""
    if torch._C._are_functorch_transforms_active():
        return _TransformedProject.apply(scores, request)  # type: ignore[return-value]
    return _apply_project(torch._C._functorch.unwrap_if_dead(scores), request)  # type: ignore[attr-defined]


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


class _Project(Function):
    """z ↦ ỹ, in the form of autograd functions that costs least per call."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, request: Request) -> Tensor:
        ctx.request = request
        return request.solve(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        request = ctx.request
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return _Multiply.apply(gradients[0], request.jacobian, True, request.record), None  # type: ignore[return-value]
        return request.jacobian.pull_back(gradients[0], request.record), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Multiply.apply(tangents[0], ctx.request.jacobian, False, None)  # type: ignore[return-value]


# what `_Project.apply` comes down to outside of torch.func; finding that out takes microseconds on every call
_apply_project: Callable[[Tensor, Request], Tensor] = super(Function, _Project).apply  # type: ignore[misc]


class _TransformedProject(Function):
    """z ↦ ỹ, in the form that torch.func transforms."""

    @staticmethod
    def forward(scores: Tensor, request: Request) -> Tensor:
        return request.solve(scores)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.jacobian, ctx.record = inputs[1].jacobian, inputs[1].record

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return _Multiply.apply(gradients[0], ctx.jacobian, True, ctx.record), None  # type: ignore[return-value]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Multiply.apply(tangents[0], ctx.jacobian, False, None)  # type: ignore[return-value]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        del info
        scores, request = args
        batches = scores.movedim(in_dims[0], 0).unbind(0)
        return torch.stack([attach(batch, copy(request)) for batch in batches]), 0


class _Multiply(Function):
    """v ↦ J v or Jᵀ v."""

    @staticmethod
    def forward(values: Tensor, jacobian: Any, transposed: bool, record: GradientRecord | None) -> Tensor:
        if record is None:
            return jacobian.multiply(values, transposed=transposed)
        return jacobian.pull_back(values, record)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.jacobian, ctx.transposed = inputs[1:3]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        product = _Multiply.apply(gradients[0], ctx.jacobian, not ctx.transposed, None)
        return product, None, None, None  # type: ignore[return-value]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Multiply.apply(tangents[0], ctx.jacobian, ctx.transposed, None)  # type: ignore[return-value]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        del info
        parts = args[0].movedim(in_dims[0], 0).unbind(0)
        return torch.stack([_Multiply.apply(part, *args[1:]) for part in parts]), 0  # type: ignore[misc]
