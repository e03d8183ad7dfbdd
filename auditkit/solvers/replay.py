"""The projection as a differentiable function of everything: scores, labels, tolerances, bounds and weights.

A solver finds out which constraints are active and which rows are held. Given that, the solution is a formula,

    ỹ = y₀ − D·W⁻¹·Bᵀ·Aᵀ·μ,     A·G·Aᵀ·μ = A·B·y₀ − side,     y₀: the rows with no constraint, held where they are held

which is computed here once more by torch operations, so that autograd differentiates it any number of times. At a kink
a constraint that is met with multiplier zero counts as inactive and a row exactly at its bound as held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from auditkit._typing import FloatArray
from auditkit.affine_criteria import AnyCriterion
from auditkit.constraints import ConstraintSystem, membership_of, with_labels
from auditkit.contrasts import Contrasts
from auditkit.criteria import Criterion
from auditkit.errors import InputError
from auditkit.projection import ProjectionProblem, build_problem
from auditkit.row_sets import Box, SimplexDerivative
from auditkit.solvers import solve
from auditkit.solvers.feasibility import OnInfeasible, ensure_feasible


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the projection depends on, as tensors.

    Attributes:
        scores: z, shape (n,), or (n, k) for probabilities.
        tolerances: ε of every criterion in order, shape (criteria,); None takes those of the criteria.
        labels: y, shape (n,) or (n, k); None where none are needed.
        weights: Row weights, positive, shape (n,); None is one for every row.
        lower: lb, scalar or shape (n,); None is unbounded.
        upper: ub, likewise.
    """

    scores: Float[Tensor, " n *k"]
    tolerances: Tensor | None = None
    labels: Tensor | None = None
    weights: Tensor | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Numbers:
    """The linear maps of a batch as torch operations, differentiable in the weights.

    Attributes:
        share: Share of every row in every cell and rows of affine criteria, shape (q, n), unweighted.
        cells: Number of cells; the rows of ``share`` after them belong to affine criteria.
        weights: Row weights, shape (n,).
    """

    share: Tensor
    cells: int
    weights: Tensor

    @property
    def mass(self) -> Float[Tensor, " c"]:
        """Total weight of every cell."""
        return self.share[: self.cells] @ self.weights

    @property
    def moment_matrix(self) -> Float[Tensor, "q n"]:
        """B."""
        means = self.share[: self.cells] * self.weights / self.mass[:, None]
        return torch.cat([means, self.share[self.cells :]])

    def contrast_matrix(self, contrasts: Contrasts) -> Float[Tensor, "m c"]:
        """The rows of T that belong to contrasts."""
        member = torch.as_tensor(contrasts.cell_event.astype(np.float64), device=self.share.device)
        mass = member * self.mass
        means = mass / mass.sum(dim=1, keepdim=True)
        second = torch.as_tensor((contrasts.minus >= 0).astype(np.float64), device=self.share.device)
        minus = torch.as_tensor(np.maximum(contrasts.minus, 0), device=self.share.device)
        plus = torch.as_tensor(contrasts.plus, device=self.share.device)
        return means[plus] - means[minus] * second[:, None]


def replay(
    inputs: Inputs, system: ConstraintSystem, *, solver: str = "newton", on_infeasible: OnInfeasible = "raise"
) -> Float[Tensor, " n *k"]:
    """Project, differentiably in every input.

    Args:
        inputs: The tensors.
        system: The cells and contrasts of the rows; its tolerances, targets and weights are replaced by the inputs.
        solver: What finds the active constraints.
        on_infeasible: "raise" or "relax".

    Returns:
        ỹ in the dtype of the scores.

    Raises:
        InputError: Weights that are not positive.
        InfeasibleError: The criteria contradict each other or the bounds.
    """
    located = _Locate.apply(*_tensors(inputs), _Locator(system, solver, on_infeasible))
    free, at_upper, sign, relaxation = located  # type: ignore[misc]
    device, scores = inputs.scores.device, inputs.scores.to(torch.float64)
    columns = 1 if scores.ndim == 1 else scores.shape[1]
    share = np.vstack([membership_of(system.cells).T.toarray(), *(c.matrix.toarray() for c in system.affine)])
    weights = torch.ones(len(scores), dtype=torch.float64, device=device)
    weights = weights if inputs.weights is None else inputs.weights.to(torch.float64)
    numbers = _Numbers(torch.as_tensor(share, device=device), len(system.cell_weight), weights)
    contrast, moments = numbers.contrast_matrix(system.contrasts), numbers.moment_matrix
    size = share.shape[0] - numbers.cells
    matrix = torch.block_diag(contrast, torch.eye(size, dtype=torch.float64, device=device)) if size else contrast
    side = _sides(inputs, system, contrast, moments[: numbers.cells], sign, relaxation)
    base = _base_rows(inputs, scores, free, at_upper)
    if columns == 1:
        return _solve_box(base, free, moments, weights, matrix * sign.abs()[:, None], side).to(inputs.scores.dtype)
    kron = torch.kron(matrix, torch.eye(columns, dtype=torch.float64, device=device)) * sign.abs()[:, None]
    return _solve_simplex(base, free, moments, weights, kron, side).to(inputs.scores.dtype)


def _solve_box(
    base: Tensor, free: Tensor, moments: Tensor, weights: Tensor, active: Tensor, side: Tensor
) -> Float[Tensor, " n"]:
    gram = (moments * (free / weights)) @ moments.T
    multiplier = _solve_active(active @ gram @ active.T, active @ (moments @ base) - side)
    return base - free * ((active.T @ multiplier) @ moments) / weights


def _solve_simplex(
    base: Tensor, free: Tensor, moments: Tensor, weights: Tensor, active: Tensor, side: Tensor
) -> Float[Tensor, "n k"]:
    size, columns = moments.shape[0], base.shape[1]
    derivative = SimplexDerivative(free)
    block = torch.diag_embed(free) - free[:, :, None] * free[:, None, :] / derivative.count[:, :, None]
    gram = torch.einsum("an,bn,nij->aibj", moments, moments / weights, block).reshape(size * columns, size * columns)
    multiplier = _solve_active(active @ gram @ active.T, active @ (moments @ base).reshape(-1) - side)
    push = moments.T @ (active.T @ multiplier).reshape(size, columns)
    return base - derivative.apply(push / weights[:, None])


def _solve_active(gram: Float[Tensor, "m m"], value: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """The active constraints' multipliers; inactive rows are zero, and repeated constraints share one."""
    return torch.linalg.pinv(gram, hermitian=True, rtol=1e-12) @ value


def _base_rows(inputs: Inputs, scores: Tensor, free: Tensor, at_upper: Tensor) -> Tensor:
    """y₀: the rows where no constraint is active and the held rows are held."""
    if scores.ndim == 2:
        kept = scores * free
        return kept - free * ((kept.sum(1, keepdim=True) - 1.0) / free.sum(1, keepdim=True))
    if inputs.lower is None and inputs.upper is None:
        return scores
    zero = torch.zeros((), dtype=torch.float64, device=scores.device)
    lower = zero if inputs.lower is None else inputs.lower.to(torch.float64)
    upper = zero if inputs.upper is None else inputs.upper.to(torch.float64)
    return torch.where(free > 0, scores, torch.where(at_upper > 0, upper, lower))


def _sides(
    inputs: Inputs, system: ConstraintSystem, contrast: Tensor, means: Tensor, sign: Tensor, relaxation: Tensor
) -> Float[Tensor, " m"]:
    """The side that every active constraint is at; zero where it is inactive."""
    contrasts, device = system.contrasts, sign.device
    columns = 1 if inputs.scores.ndim == 1 else inputs.scores.shape[1]
    target = torch.zeros(contrasts.n_contrasts * columns, dtype=torch.float64, device=device)
    if inputs.labels is not None and contrasts.residual.any():
        labels = contrast @ (means @ inputs.labels.to(torch.float64))
        residual = torch.as_tensor(contrasts.residual.repeat(columns), device=device)
        target = torch.where(residual, labels.reshape(-1), target)
    tolerance = torch.as_tensor(contrasts.tolerance.repeat(columns), device=device)
    if inputs.tolerances is not None:
        owner = torch.as_tensor(system.owner[: contrasts.n_contrasts * columns], device=device)
        tolerance = inputs.tolerances.to(torch.float64)[owner]
    size = len(target)
    named = target + sign[:size] * (tolerance + relaxation)
    above, below = (
        torch.as_tensor(np.where(np.isfinite(values), values, 0.0)[size:], device=device)
        for values in (system.upper, system.lower)
    )
    own = torch.where(sign[size:] > 0, above, below) + sign[size:] * relaxation
    return torch.cat([named, own]) * sign.abs()


@dataclass(frozen=True, eq=False)
class _Locator:
    """Finds the active set at given numbers."""

    system: ConstraintSystem
    solver: str
    on_infeasible: OnInfeasible

    def locate(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Free rows, rows at the upper bound, sides of the active constraints and the relaxation."""
        problem = ensure_feasible(self._problem(inputs), on_infeasible=self.on_infeasible)
        solution = solve(problem, solver=self.solver)
        explained = problem.explained_by(solution.duals)
        sign = np.zeros(len(solution.duals))
        sign[solution.active] = np.sign(solution.duals[solution.active])
        derivative: Any = problem.row_set.derivative(explained)
        device = problem.scores.device
        at_upper = torch.zeros_like(explained)
        if isinstance(problem.row_set, Box):
            free = torch.ones_like(explained) if derivative.free is None else derivative.free.to(torch.float64)
            if problem.row_set.upper is not None:
                at_upper = (explained >= problem.row_set.upper).to(torch.float64)
        else:
            free = derivative.support
        relaxation = torch.tensor(problem.system.relaxation, dtype=torch.float64, device=device)
        return free, at_upper, torch.as_tensor(sign, device=device), relaxation

    def _problem(self, inputs: Inputs) -> ProjectionProblem:
        weights = None if inputs.weights is None else _numbers(inputs.weights)
        if weights is not None and (weights <= 0).any():
            raise InputError("weights must be positive where they are differentiated; drop the rows of weight 0")
        system = _with_numbers(self.system, inputs, weights)
        lower, upper = (None if bound is None else _numbers(bound) for bound in (inputs.lower, inputs.upper))
        bounds = None if lower is None and upper is None else (lower, upper)
        return build_problem(inputs.scores, system, weights=weights, bounds=bounds)


def _with_numbers(system: ConstraintSystem, inputs: Inputs, weights: FloatArray | None) -> ConstraintSystem:
    contrasts = system.contrasts
    if inputs.tolerances is not None:
        values = _numbers(inputs.tolerances)
        named = [k for k, criterion in enumerate(system.criteria) if isinstance(criterion, Criterion)]
        moved = tuple(system.criteria[k].with_tolerance(float(values[k])) for k in named)  # type: ignore[union-attr]
        contrasts = replace(contrasts, criteria=moved)
    weight = np.ones(len(inputs.scores)) if weights is None else weights
    changed = replace(system, contrasts=contrasts, cell_weight=membership_of(system.cells).T @ weight, layouts={})
    return changed if inputs.labels is None else with_labels(changed, _numbers(inputs.labels), weights=weight)


def _numbers(values: Tensor) -> FloatArray:
    return values.detach().cpu().to(torch.float64).numpy()


def _tensors(inputs: Inputs) -> tuple[Any, ...]:
    return inputs.scores, inputs.tolerances, inputs.labels, inputs.weights, inputs.lower, inputs.upper


class _Locate(Function):
    """The active set as tensors; it does not change where the projection has a derivative."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return arguments[-1].locate(Inputs(*arguments[:-1]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        del inputs
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, ...]:
        del ctx, gradients
        return (None,) * 7

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[None, ...]:
        del ctx, tangents
        return (None,) * 4

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        slices = [
            _Locate.apply(*(
                value if dim is None else value.select(dim, k) for value, dim in zip(arguments, in_dims, strict=True)
            ))
            for k in range(info.batch_size)
        ]  # fmt: skip
        return tuple(torch.stack(parts) for parts in zip(*slices, strict=True)), (0, 0, 0, 0)  # type: ignore[arg-type]


def requires_grad(labels: Any, weights: Any, bounds: Any) -> bool:
    """Whether a gradient or tangent flows through any of the inputs besides the scores."""
    if labels is None and weights is None and bounds is None:
        return False
    values = (labels, weights, *(bounds if isinstance(bounds, Sequence) else ()))
    return any(
        isinstance(value, Tensor)
        and (
            value.requires_grad
            or torch.autograd.forward_ad.unpack_dual(value).tangent is not None
            or torch._C._functorch.is_functorch_wrapped_tensor(value)  # type: ignore[attr-defined]
        )
        for value in values
    )


def as_inputs(
    scores: Tensor, labels: Any, weights: Any, bounds: Any, tolerances: Any, criteria: Sequence[AnyCriterion]
) -> Inputs:
    """Everything that a gradient may flow to, as tensors."""

    def tensor(values: Any) -> Tensor | None:
        if values is None or isinstance(values, Tensor):
            return values
        return torch.as_tensor(np.asarray(values, dtype=np.float64), device=scores.device)

    lower, upper = (None, None) if bounds is None else bounds
    epsilon = tensor(tolerances)
    if epsilon is not None:
        if epsilon.ndim == 0:
            epsilon = epsilon.expand(len(criteria))
        if epsilon.shape != (len(criteria),):
            raise InputError(
                f"tolerances must be one number or {len(criteria)}, one per criterion; got shape {tuple(epsilon.shape)}"
            )
    y = tensor(labels)
    if y is not None and scores.ndim == 2 and y.ndim == 1:
        y = torch.nn.functional.one_hot(y.long(), scores.shape[1])
    return Inputs(scores, epsilon, y, tensor(weights), tensor(lower), tensor(upper))


def column_of(inputs: Inputs, column: int) -> Inputs:
    """The inputs of one column of (n, k) scores."""
    labels = inputs.labels
    return replace(inputs, scores=inputs.scores[:, column], labels=None if labels is None else labels[:, column])
