"""The fairness layer and `project`: the Euclidean projection of scores onto the fairness constraint set.

    ỹ = argmin ½ Σ wᵢ (yᵢ − zᵢ)²   subject to   L ≤ T·M·y ≤ U   and, if bounds are given,   lb ≤ y ≤ ub

The forward pass finds which constraints and bounds are active; the result is then computed once more from that
knowledge by differentiable operations, so that autograd yields J = D − D Aᵀ (A D Aᵀ)⁺ A D (A: active rows of T·M, D:
rows that no bound holds) without a solver in the backward pass. Source: arXiv 2605.17118.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from auditkit._typing import FloatArray, VectorLike
from auditkit._validation import check_vector
from auditkit.criteria import Criterion, check_criteria
from auditkit.errors import InputError, SolverError
from auditkit.groups import Groups
from auditkit.projection import (
    ConstraintSystem,
    ProjectionProblem,
    Solution,
    build_constraints,
    build_problem,
    check_row_inputs,
)
from auditkit.results import Certificate, ProjectionResult, Status, certify
from auditkit.solvers import solve
from auditkit.solvers.closed_form import StratumLayout, closed_form_shift, find_layout
from auditkit.solvers.feasibility import OnInfeasible, ensure_feasible
from auditkit.solvers.host_path import attach_gradient, find_host_plan, project_on_host, solution_jacobian
from auditkit.solvers.strict import solve_strictly

Bounds = tuple[Any, Any] | None


def project(
    scores: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    bounds: Bounds = None,
    weights: VectorLike | None = None,
    solver: str = "newton",
    on_infeasible: OnInfeasible = "raise",
    strict: bool = False,
) -> ProjectionResult:
    """The closest scores that satisfy every criterion on these rows, with a certificate.

        ỹ = argmin ½ Σ wᵢ (yᵢ − zᵢ)²   subject to   |contrast of cell means − target| ≤ ε,   lb ≤ y ≤ ub

    Args:
        scores: z, shape (n,).
        groups: Attributes of the same rows.
        criteria: One criterion or several that must hold together.
        labels: y, shape (n,); needed by EER and by criteria given the label.
        bounds: (lb, ub), each a number, one per row, or None.
        weights: Row weights, shape (n,): a row of weight 2 counts as two equal rows, in the means and in the distance.
        solver: "newton" (exact), "osqp" or "cvxpy" (general solvers at their own accuracy).
        on_infeasible: "raise", or "relax" to return the scores with the least violation, marked as such.
        strict: Whether the scores must satisfy every tolerance after rounding to their dtype, when summed in float64;
            else they satisfy it to within that rounding.

    Returns:
        Scores of the kind, dtype and device that came in; multipliers and certificate in float64.

    Raises:
        InputError: Wrong shapes, NaN or infinite values, labels missing.
        InfeasibleError: The criteria contradict each other or the bounds; names them and the smallest relaxation.
        SolverError: The solver did not reach its accuracy.

    Source: arXiv 2605.17118, the fairness layer.
    """
    listed = check_criteria(criteria)
    vector = _as_tensor(scores, groups)
    checked_labels, checked_weights = check_row_inputs(groups, listed, labels, weights)
    system = build_constraints(groups, listed, labels=checked_labels, weights=checked_weights)
    problem = ensure_feasible(
        build_problem(vector, system, weights=checked_weights, bounds=bounds), on_infeasible=on_infeasible
    )
    solution, output = _solve_and_round(problem, vector.dtype, solver=solver, strict=strict)
    return ProjectionResult(
        scores=output if isinstance(scores, Tensor) else output.numpy(),
        status=Status.RELAXED if problem.system.relaxation > 0 else Status.OPTIMAL,
        duals=solution.duals,
        certificate=certify(problem, output, solution.duals),
        constraints=tuple(system.contrasts.describe(k) for k in range(system.contrasts.n_contrasts)),
        iterations=solution.iterations,
        solver=solver,
    )


def verify_certificate(
    result: ProjectionResult,
    scores: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    bounds: Bounds = None,
    weights: VectorLike | None = None,
) -> Certificate:
    """The certificate of a result, computed once more from its scores and multipliers alone.

    Nothing that the solver knew enters: the multipliers give a lower bound on the distance of *any* feasible scores to
    the input, so a small duality gap proves that no feasible scores are much closer, whoever computed them.

    Args:
        result: What `project` returned (or was claimed to return).
        scores: The scores that were projected, shape (n,).
        groups: Attributes of the same rows.
        criteria: The criteria that were enforced.
        labels: As given to `project`.
        bounds: As given to `project`.
        weights: As given to `project`.

    Returns:
        Violation, stationarity and duality gap, in float64.

    Raises:
        InputError: Wrong shapes, or multipliers that do not belong to these criteria.
    """
    listed = check_criteria(criteria)
    checked_labels, checked_weights = check_row_inputs(groups, listed, labels, weights)
    system = build_constraints(groups, listed, labels=checked_labels, weights=checked_weights)
    duals = check_vector("result.duals", result.duals)
    if len(duals) != len(system.matrix):
        raise InputError(
            f"result.duals must have {len(system.matrix)} multipliers, one per constraint of these criteria; "
            f"got {len(duals)}; pass the groups and criteria that were projected"
        )
    system = replace(system, relaxation=result.certificate.relaxation)
    problem = build_problem(_as_tensor(scores, groups), system, weights=checked_weights, bounds=bounds)
    return certify(problem, _as_tensor(result.scores, groups), duals)


class FairnessLayer(nn.Module):
    """Projection of a batch of scores onto the fairness constraint set, as the last module of a network.

        ỹ = argmin ½‖y − z‖²   subject to   |contrast of cell means − target| ≤ ε for every criterion,   lb ≤ y ≤ ub

    The guarantee is about the batch it is given: parity on every batch is not parity on their union. A group without
    a row in the batch has no mean and is not constrained there. The layer holds no parameters and no state across
    batches.

    Args:
        criteria: One criterion or several that must hold together.
        bounds: (lb, ub), each a number or None.
        solver: "newton", "osqp" or "cvxpy"; which constraints are active is taken from its answer.
        on_infeasible: "raise", or "relax" for the scores with the least violation.
        strict: Whether the output must satisfy every tolerance after rounding to its dtype, when summed in float64.

    Raises:
        InputError: No criterion, or something that is not one.

    Source: arXiv 2605.17118, the fairness layer and its gradient.
    """

    def __init__(
        self,
        criteria: Criterion | Sequence[Criterion],
        *,
        bounds: Bounds = None,
        solver: str = "newton",
        on_infeasible: OnInfeasible = "raise",
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.criteria = check_criteria(criteria)
        self.bounds = bounds
        self.solver = solver
        self.on_infeasible: OnInfeasible = on_infeasible
        self.strict = strict

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        return f"{', '.join(c.name for c in self.criteria)}, bounds={self.bounds}, solver={self.solver!r}"

    def forward(
        self,
        scores: Float[Tensor, " n"],
        groups: Groups,
        labels: VectorLike | None = None,
        *,
        weights: VectorLike | None = None,
    ) -> Float[Tensor, " n"]:
        """Project a batch.

        Args:
            scores: z, shape (n,); gradients flow back through it.
            groups: Attributes of the same rows.
            labels: y, shape (n,); needed by EER and by criteria given the label.
            weights: Row weights, shape (n,).

        Returns:
            ỹ, shape (n,), dtype and device of ``scores``.

        Raises:
            InputError: Wrong shapes, NaN or infinite values, labels missing.
            InfeasibleError: The criteria contradict each other or the bounds.
        """
        _check_form(scores, groups)
        system, checked_weights = self._constraints(groups, labels, weights)
        on_host = _is_on_host(scores)
        if self.bounds is None and self.solver == "newton" and not self.strict:
            plan = find_host_plan(system) if on_host else None
            if plan is not None:
                return project_on_host(scores, plan, weights=checked_weights)
            layout = find_layout(system, scores.device)
            if layout is not None:
                _check_finite(scores)
                return _project_closed_form(scores, system, layout, checked_weights)
        _check_finite(scores)
        _check_solvable(scores)
        problem = build_problem(scores, system, weights=checked_weights, bounds=self.bounds)
        problem = ensure_feasible(problem, on_infeasible=self.on_infeasible)
        solution, rounded = _solve_and_round(problem, scores.dtype, solver=self.solver, strict=self.strict)
        if self.strict:
            traced = _replay(scores, problem, solution)
            return rounded + (traced - traced.detach())  # the value of the first, the gradient of the second
        _check_explained(problem, solution)
        if on_host:
            return attach_gradient(scores, solution.scores.numpy(), solution_jacobian(problem, solution))
        return _replay(scores, problem, solution)

    def _constraints(
        self, groups: Groups, labels: VectorLike | None, weights: VectorLike | None
    ) -> tuple[ConstraintSystem, FloatArray | None]:
        if weights is None and not any(criterion.needs_labels for criterion in self.criteria):
            if self.criteria not in groups.derived:
                groups.derived[self.criteria] = build_constraints(groups, self.criteria)
            return groups.derived[self.criteria], None
        checked_labels, checked_weights = check_row_inputs(groups, self.criteria, labels, weights)
        system = build_constraints(groups, self.criteria, labels=checked_labels, weights=checked_weights)
        return system, checked_weights


def _project_closed_form(
    scores: Float[Tensor, " n"], system: ConstraintSystem, layout: StratumLayout, weights: FloatArray | None
) -> Float[Tensor, " n"]:
    index = system.cells.index_on(scores.device)
    weight = torch.as_tensor(system.cell_weight, device=scores.device)
    shift = closed_form_shift(_cell_means(scores, index, weight, weights), weight, system, layout)
    return (scores.to(torch.float64) + shift[index]).to(scores.dtype)


def _cell_means(
    values: Float[Tensor, " n"], index: Tensor, weight: Float[Tensor, " c"], weights: FloatArray | None
) -> Float[Tensor, " c"]:
    exact = values.to(torch.float64)
    if weights is not None:
        exact = exact * torch.as_tensor(weights, device=exact.device)
    sums = torch.zeros_like(weight).index_add(0, index, exact)
    return sums / torch.where(weight > 0, weight, 1.0)


def _solve_and_round(
    problem: ProjectionProblem, dtype: torch.dtype, *, solver: str, strict: bool
) -> tuple[Solution, Tensor]:
    """The solution in float64, and its scores in the dtype in which they leave."""
    if strict:
        return solve_strictly(problem, dtype, solver=solver)
    solution = solve(problem, solver=solver)
    return solution, solution.scores.to(dtype)


def _is_on_host(scores: Tensor) -> bool:
    """Whether NumPy may look at the scores: on the host, in a dtype it has, and no operations being traced."""
    if scores.device.type != "cpu" or scores.dtype not in (torch.float32, torch.float64):
        return False
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def _check_solvable(scores: Tensor) -> None:
    """Raise inside a torch.func transform, whose tensors no solver can look into."""
    if torch._C._are_functorch_transforms_active():
        raise InputError(
            "torch.func transforms work through one criterion without bounds; for several criteria, bounds or "
            f"strict mode use torch.autograd (got scores of type {type(scores).__name__} inside a transform)"
        )


def _check_explained(problem: ProjectionProblem, solution: Solution) -> None:
    """Raise when multipliers and scores disagree: then there is no knowing which constraints are active."""
    if not len(solution.scores):
        return
    difference = float((problem.explained_by(solution.duals) - solution.scores).abs().max())
    if difference > 1e-5 * max(1.0, float(problem.scores.abs().max())):
        raise SolverError(
            f"the multipliers and the scores of the solver disagree by {difference:.2e}, so there is no reliable "
            "gradient; use solver='newton'"
        )


def _replay(scores: Float[Tensor, " n"], problem: ProjectionProblem, solution: Solution) -> Float[Tensor, " n"]:
    """The solution from its active constraints and held rows, by torch operations that can be traced."""
    free = problem.free_rows(problem.explained_by(solution.duals))
    exact = scores.to(torch.float64)
    held = torch.where(free, exact, problem.clip(solution.scores))
    shift = _active_shift(problem, held, free, solution)
    return torch.where(free, exact + shift[problem.index], held).to(scores.dtype)


def _active_shift(problem: ProjectionProblem, held: Tensor, free: Tensor, solution: Solution) -> Float[Tensor, " c"]:
    """δ = −W⁻¹ Aᵀν with (A D W⁻¹ Aᵀ) ν = A·(cell means) − side, A the active rows of T."""
    system, device, active = problem.system, held.device, solution.active
    if not active.size:
        return torch.zeros(len(system.cell_weight), dtype=torch.float64, device=device)
    weight = torch.as_tensor(system.safe_weight, device=device)
    rows = torch.as_tensor(system.matrix[active], device=device)
    upper_side = solution.duals[active] > 0
    side = torch.as_tensor(np.where(upper_side, system.upper[active], system.lower[active]), device=device)
    share = problem.cell_sums(free.to(torch.float64)) / weight
    gram = (rows * (share / weight)) @ rows.T
    inverse = torch.linalg.pinv(gram, hermitian=True, rtol=1e-12)
    return -(rows.T @ (inverse @ (rows @ (problem.cell_sums(held) / weight) - side))) / weight


def _as_tensor(scores: VectorLike, groups: Groups) -> Tensor:
    if isinstance(scores, Tensor):
        _check_form(scores, groups)
        _check_finite(scores)
        return scores.detach()
    if isinstance(scores, np.ndarray) and scores.dtype == np.float32:
        return torch.as_tensor(check_vector("scores", scores, n_rows=groups.n_rows).astype(np.float32))
    return torch.as_tensor(check_vector("scores", scores, n_rows=groups.n_rows))


def _check_form(scores: Tensor, groups: Groups) -> None:
    if not isinstance(groups, Groups):
        raise InputError(f'groups must be an auditkit.Groups, e.g. Groups({{"sex": sex}}); got {type(groups).__name__}')
    if scores.ndim != 1 or not scores.is_floating_point():
        raise InputError(
            f"scores must be floating-point of shape (n,); got {scores.dtype} of shape {tuple(scores.shape)}"
        )
    if len(scores) != groups.n_rows:
        raise InputError(f"scores must have {groups.n_rows} rows, as many as groups has; got {len(scores)}")


def _check_finite(scores: Tensor) -> None:
    """Refuse NaN and infinite scores; in compiled code they pass through to the output, where they are seen."""
    if torch.compiler.is_compiling():
        return
    if not bool(torch.isfinite(scores.detach()).all()):
        bad = torch.nonzero(~torch.isfinite(scores.detach())).flatten()
        raise InputError(
            f"scores hold {len(bad)} NaN or infinite values (first at row {int(bad[0])}); drop or mend them"
        )
