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

    Attributes:
        suppressed_share: ‖(I − Jᵀ)g‖/‖g‖ of the last backward pass; None before the first.
    """

    suppressed_share: float | None = None

    def note(self, removed: float, total: float, collective: Collective = ALONE) -> None:
        """Keep the share, from the squared lengths of the removed part and of the gradient on this process."""
        if collective is not ALONE:
            removed, total = collective.sum(np.array([removed, total])).tolist()
        self.suppressed_share = math.sqrt(max(removed, 0.0) / total) if total > 0 else 0.0


@dataclass(frozen=True, eq=False)
class CellJacobian:
    """J where every row lies in one cell, on the host.

    Attributes:
        index: Cell of every row, shape (n,).
        matrix: W⁻¹·N·W⁻¹ in the cells, symmetric: an array of shape (c, c), or anything that multiplies like one.
        weights: Row weights w, shape (n,); None is one for every row.
        free: Which rows no bound holds, shape (n,); None is every row.
        collective: What adds up over processes.
        squares: Σ w² over the free rows of every cell of this process, shape (c,); None has it summed when needed.
    """

    index: IntArray
    matrix: Any
    weights: FloatArray | None = None
    free: BoolArray | None = None
    collective: Collective = ALONE
    squares: FloatArray | None = None

    def multiply(self, values: Tensor, *, transposed: bool, record: GradientRecord | None = None) -> Tensor:
        """J·v, or Jᵀ·v; notes in the record what was taken off."""
        plain = to_host(values)
        kept = plain if self.free is None else plain * self.free
        inside = kept if self.weights is None or transposed else kept * self.weights
        sums = self.collective.sum(sum_cells(inside, self.index, len(self.matrix)))
        removed = self.matrix @ sums
        if record is not None:
            self._note(record, plain, kept, removed)
        product = self._subtract(kept, removed, transposed)
        output = torch.from_numpy(product)
        return output if output.dtype == values.dtype else output.to(values.dtype)

    def _subtract(self, kept: np.ndarray[Any, Any], removed: FloatArray, transposed: bool) -> np.ndarray[Any, Any]:
        if self.weights is None or not transposed:
            product = add_per_cell(kept, -removed, self.index)
        else:
            product = (kept - removed.take(self.index) * self.weights).astype(kept.dtype, copy=False)
        return product if self.free is None else product * self.free

    def _note(
        self, record: GradientRecord, plain: np.ndarray[Any, Any], kept: np.ndarray[Any, Any], removed: FloatArray
    ) -> None:
        """The removed part is orthogonal to what a bound took: its length comes from the cells, not from the rows."""
        total = float(np.dot(plain, plain))
        held = 0.0 if self.free is None else total - float(np.dot(kept, kept))
        squares = self._sum_squares() if self.squares is None else self.squares
        record.note(held + float(np.dot(removed * removed, squares)), total, self.collective)

    def _sum_squares(self) -> FloatArray:
        if self.weights is None:
            factor = self.free
        else:
            factor = self.weights**2 if self.free is None else self.weights**2 * self.free
        return np.bincount(self.index, factor, len(self.matrix)).astype(np.float64)


@dataclass(frozen=True, eq=False)
class MapJacobian:
    """J for any moments and row set, on any device.

    Attributes:
        moments: B.
        derivative: D.
        matrix: N, shape (q, q).
        collective: What adds up over processes.
    """

    moments: MomentMap
    derivative: Any
    matrix: FloatArray
    collective: Collective = ALONE

    def multiply(self, values: Tensor, *, transposed: bool, record: GradientRecord | None = None) -> Tensor:
        """J·v, or Jᵀ·v; notes in the record what was taken off."""
        exact = values.detach().to(torch.float64)
        kept = self.derivative.apply(exact)
        if transposed:
            removed = self.moments.spread_plain(self.matrix @ self.moments.collect_plain(kept))
        else:
            removed = self.moments.spread(self.matrix @ self.moments.collect(kept))
        product = self.derivative.apply(kept - removed)
        if record is not None:
            record.note(float((exact - product).square().sum()), float(exact.square().sum()), self.collective)
        return product.to(values.dtype)


@dataclass(frozen=True, eq=False)
class ColumnsJacobian:
    """J of (n, k) scores whose columns were projected one by one.

    Attributes:
        columns: J of every column.
    """

    columns: tuple[Any, ...]

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v, or Jᵀ·v, column by column."""
        parts = zip(values.T.contiguous(), self.columns, strict=True)
        return torch.stack([jacobian.multiply(column, transposed=transposed) for column, jacobian in parts], dim=1)


@dataclass(eq=False)
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
    plain = values.detach()
    if plain.dtype not in (torch.float32, torch.float64):
        plain = plain.to(torch.float32)
    return plain.numpy()


def _multiply(values: Tensor, jacobian: Any, transposed: bool, record: GradientRecord | None) -> Tensor:
    if record is None:
        return jacobian.multiply(values, transposed=transposed)
    if isinstance(jacobian, CellJacobian | MapJacobian):
        return jacobian.multiply(values, transposed=transposed, record=record)
    product = jacobian.multiply(values, transposed=transposed)
    exact = values.detach().to(torch.float64)
    record.note(float((exact - product).square().sum()), float(exact.square().sum()))
    return product


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
