"""The derivative of a projection, applied row by row without a solver, and the autograd functions that hold it.

    J v = D (v − W⁻¹·Bᵀ·N·B·D v)          N = Aᵀ (A·G·Aᵀ)⁺ A,   G = B·D·W⁻¹·Bᵀ

with A the active rows of T and D the derivative of the row set. Without weights J is symmetric and idempotent: it takes
off exactly what would change an active gap or a held row. J and its transpose are each other's derivative, so
derivatives of every order and both modes are two passes over the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit.moment_maps import ALONE, Collective, MomentMap, add_per_cell, sum_cells


class Jacobian(Protocol):
    """J at one solution."""

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v, or Jᵀ·v, in the shape and dtype of v."""
        ...


class GradientRecord:
    """How much of the last gradient a layer took off.

    Args:
        collective: What adds up over the processes that hold parts of the gradient.
    """

    def __init__(self, collective: Collective = ALONE) -> None:
        self.collective = collective
        self.suppressed_share: float | None = None
        """‖(I − Jᵀ)g‖/‖g‖ of the last backward pass; None before the first."""
        self.duals: dict[int, Callable[[], FloatArray]] = {}
        """How to find the multipliers of the last forward pass, by column; few callers ask, so they wait until then."""

    def note(self, removed: float, whole: float) -> None:
        """Keep the share, from ‖(I − Jᵀ)g‖² and ‖g‖² on this process."""
        if self.collective is not ALONE:
            removed, whole = self.collective.sum(np.array([removed, whole], dtype=np.float64)).tolist()
        self.suppressed_share = math.sqrt(removed / whole) if whole > 0 else 0.0


@dataclass(eq=False, slots=True)  # made once per batch, where a frozen one would take twice as long
class CellJacobian:
    """J where every row lies in one cell, on the host.

    Attributes:
        index: Cell of every row, shape (n,).
        matrix: W⁻¹·N·W⁻¹ in the cells, symmetric: an array of shape (c, c), or anything that multiplies like one.
        mass: W, the total row weight of every cell, shape (c,).
        weights: Row weights w, shape (n,); None is one for every row.
        free: Which rows no bound holds, shape (n,); None is every row.
        collective: What adds up over processes.
    """

    index: IntArray
    matrix: Any
    mass: FloatArray
    weights: FloatArray | None = None
    free: BoolArray | None = None
    collective: Collective = ALONE

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v, or Jᵀ·v."""
        return as_tensor(self._apply(to_host(values), transposed), values.dtype)

    def pull_back(self, gradient: Tensor) -> tuple[Tensor, float, float]:
        """Jᵀ·g, ‖(I − Jᵀ)·g‖² and ‖g‖²."""
        plain = to_host(gradient)
        if self.weights is not None or self.free is not None or self.collective is not ALONE:
            product = self._apply(plain, True)
            return as_tensor(product, gradient.dtype), *_measure(plain, product)
        # every row of a cell loses the same, so that no second pass over the rows is needed to add it up
        removed = self.matrix @ sum_cells(plain, self.index, len(self.mass))
        product = add_per_cell(plain, -removed, self.index)
        lost = float(np.dot(removed * removed, self.mass))
        return as_tensor(product, gradient.dtype), lost, float(np.dot(plain, plain))

    def _apply(self, plain: np.ndarray[Any, Any], transposed: bool) -> np.ndarray[Any, Any]:
        kept = plain if self.free is None else plain * self.free
        inside = kept if self.weights is None or transposed else kept * self.weights
        removed = self.matrix @ self.collective.sum(sum_cells(inside, self.index, len(self.mass)))
        if self.weights is None or not transposed:
            product = add_per_cell(kept, -removed, self.index)
        else:
            product = (kept - removed.take(self.index) * self.weights).astype(kept.dtype, copy=False)
        return product if self.free is None else product * self.free


@dataclass(frozen=True, eq=False)
class MapJacobian:
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
class ColumnsJacobian:
    """J of (n, k) scores whose columns were projected one by one.

    Attributes:
        columns: J of every column.
    """

    columns: tuple[Jacobian, ...]

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v, or Jᵀ·v, column by column."""
        parts = zip(values.T.contiguous(), self.columns, strict=True)
        return torch.stack([jacobian.multiply(column, transposed=transposed) for column, jacobian in parts], dim=1)


@dataclass(eq=False, slots=True)
class Request:
    """One forward pass: how to solve it, and what the solution left for the backward pass.

    Attributes:
        solve: From plain scores to their projection and its Jacobian.
        record: Where the backward pass notes the suppressed share.
        jacobian: J, after the forward pass.
    """

    solve: Callable[[Tensor], tuple[Tensor, Any]]
    record: GradientRecord
    jacobian: Any = None


def attach(scores: Tensor, request: Request) -> Tensor:
    """The projection of the scores as a differentiable function of them."""
    if torch._C._are_functorch_transforms_active():
        return _TransformedProject.apply(scores, request)  # type: ignore[return-value]
    return _Project.apply(scores, request)  # type: ignore[return-value]


def to_host(values: Tensor) -> np.ndarray[Any, Any]:
    """The values as NumPy sees them, in a dtype that it has."""
    plain = values.detach() if values.requires_grad else values
    dtype = plain.dtype
    if dtype is not torch.float64 and dtype is not torch.float32:
        plain = plain.to(torch.float32)
    return plain.numpy()


def pull_back(gradient: Tensor, *, jacobian: Jacobian, record: GradientRecord) -> Tensor:
    """Jᵀ·g; the record notes what is taken off."""
    return _multiply(gradient, jacobian, True, record)


def _multiply(values: Tensor, jacobian: Jacobian, transposed: bool, record: GradientRecord | None) -> Tensor:
    if record is None:
        return jacobian.multiply(values, transposed=transposed)
    if isinstance(jacobian, CellJacobian):
        product, removed, whole = jacobian.pull_back(values)
    else:
        product = jacobian.multiply(values, transposed=transposed)
        removed, whole = _measure(*(np.ravel(to_host(part.cpu())) for part in (values, product)))
    record.note(removed, whole)
    return product


def _measure(gradient: np.ndarray[Any, Any], product: np.ndarray[Any, Any]) -> tuple[float, float]:
    """‖g − Jᵀg‖² and ‖g‖²."""
    removed = gradient - product
    return float(np.dot(removed, removed)), float(np.dot(gradient, gradient))


def as_tensor(values: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
    """The values as a tensor of a dtype, not copied where they have it."""
    tensor = torch.from_numpy(values)
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


class _Project(Function):
    """z ↦ ỹ, in the form of autograd functions that costs least per call."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, request: Request) -> Tensor:
        output, ctx.jacobian = request.solve(scores.detach())
        ctx.record = request.record
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return _Multiply.apply(gradients[0], ctx.jacobian, True, ctx.record), None  # type: ignore[return-value]
        return _multiply(gradients[0], ctx.jacobian, True, ctx.record), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Multiply.apply(tangents[0], ctx.jacobian, False, None)  # type: ignore[return-value]


class _TransformedProject(Function):
    """z ↦ ỹ, in the form that torch.func transforms."""

    @staticmethod
    def forward(scores: Tensor, request: Request) -> Tensor:
        output, request.jacobian = request.solve(scores.detach())
        return output

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
        return torch.stack([attach(batch, replace(request)) for batch in batches]), 0


class _Multiply(Function):
    """v ↦ J v or Jᵀ v."""

    @staticmethod
    def forward(values: Tensor, jacobian: Any, transposed: bool, record: GradientRecord | None) -> Tensor:
        return _multiply(values, jacobian, transposed, record)

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
