"""The projection as a differentiable function: the autograd functions that hold its Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from auditkit.errors import InputError
from auditkit.jacobian import GradientRecord

ONCE = "divergence='log_loss' has first derivatives only; use divergence='euclidean' for derivatives of a gradient"


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


class _Project(Function):
    """z ↦ ỹ, in the form of autograd functions that costs least per call."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, request: Request) -> Tensor:
        ctx.request = request
        output = request.solve(scores)
        _keep(ctx, scores, request.jacobian)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        request = ctx.request
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return _multiply(ctx, gradients[0], request.jacobian, request.record), None
        return request.jacobian.pull_back(gradients[0], request.record), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _multiply(ctx, tangents[0], ctx.request.jacobian)


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
        _keep(ctx, inputs[0], ctx.jacobian)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return _multiply(ctx, gradients[0], ctx.jacobian, ctx.record), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _multiply(ctx, tangents[0], ctx.jacobian)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        del info
        scores, request = args
        batches = scores.movedim(in_dims[0], 0).unbind(0)
        return torch.stack([attach(batch, copy(request)) for batch in batches]), 0


def _keep(ctx: Any, scores: Tensor, jacobian: Any) -> None:
    """Keep the scores where the Jacobian changes with them."""
    if not jacobian.is_constant:
        ctx.save_for_backward(scores)
        ctx.save_for_forward(scores)


def _multiply(ctx: Any, values: Tensor, jacobian: Any, record: GradientRecord | None = None) -> Tensor:
    """Jᵀ·v where there is a record of what a gradient loses, else J·v; differentiable as far as J is known."""
    if jacobian.is_constant:
        return _Multiply.apply(values, jacobian, record is not None, record)  # type: ignore[return-value]
    return _MultiplyOnce.apply(values, *ctx.saved_tensors, jacobian, record is not None, record)  # type: ignore[return-value]


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


class _MultiplyOnce(Function):
    """v ↦ J v or Jᵀ v where J changes with the scores: knows that it does, and refuses to be differentiated."""

    @staticmethod
    def forward(
        values: Tensor, scores: Tensor, jacobian: Any, transposed: bool, record: GradientRecord | None
    ) -> Tensor:
        del scores  # an input so that a second derivative with respect to them is asked for here
        return _Multiply.forward(values, jacobian, transposed, record)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> None:
        raise InputError(ONCE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        raise InputError(ONCE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        del info
        pairs = zip(args[:2], in_dims[:2], strict=True)
        whole = [None if place is None else given.movedim(place, 0).unbind(0) for given, place in pairs]
        size = next(len(parts) for parts in whole if parts is not None)
        values, scores = (
            [given] * size if parts is None else parts for given, parts in zip(args[:2], whole, strict=True)
        )
        found = [_MultiplyOnce.apply(*each, *args[2:]) for each in zip(values, scores, strict=True)]
        return torch.stack(found), 0  # type: ignore[arg-type]
