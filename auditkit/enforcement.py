"""`project`: the projection of scores onto the fairness constraint set, with the evidence for it.

    ỹ = argmin ½ Σ wᵢ (yᵢ − zᵢ)²   subject to   L ≤ T·M·y ≤ U   and, if bounds are given,   lb ≤ y ≤ ub

Source: arXiv 2605.17118. For logits the distance may be Σ wᵢ KL(σ(zᵢ) ‖ σ(yᵢ)) instead, the log-loss that is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditkit._typing import FloatArray, VectorLike
from auditkit._validation import to_numpy
from auditkit.affine_criteria import AnyCriterion, check_enforceable
from auditkit.batches import Batch, assemble_batch, to_scores
from auditkit.errors import InputError
from auditkit.groups import Groups
from auditkit.projection import DIVERGENCES, Divergence, ProjectionProblem, Solution, build_problem
from auditkit.results import Certificate, ProjectionResult, Status, certify, merge_certificates
from auditkit.solvers import solve
from auditkit.solvers.feasibility import OnInfeasible, ensure_feasible
from auditkit.solvers.strict import solve_strictly

Bounds = tuple[Any, Any] | None

LARGEST_LOGIT = 20.0
"""Beyond it the probability 1 − σ(z) has fewer than seven digits in float64."""


def project(
    scores: VectorLike,
    groups: Groups,
    criteria: AnyCriterion | Sequence[AnyCriterion],
    *,
    labels: VectorLike | None = None,
    bounds: Bounds = None,
    simplex: bool = False,
    divergence: Divergence = "euclidean",
    weights: VectorLike | None = None,
    solver: str = "newton",
    on_infeasible: OnInfeasible = "raise",
    strict: bool = False,
    warm_start: ProjectionResult | None = None,
) -> ProjectionResult:
    """The closest scores that satisfy every criterion on these rows, with a certificate.

        ỹ = argmin ½ Σ wᵢ (yᵢ − zᵢ)²   subject to   |contrast of cell means − target| ≤ ε,   lb ≤ y ≤ ub

    Args:
        scores: z, shape (n,), or (n, k) for several outputs or classes: every column is constrained.
        groups: Attributes of the same rows, known or inferred.
        criteria: One criterion or several that must hold together; `AffineCriterion` states one of your own.
        labels: y, shape (n,); needed by EER and by criteria given the label. With (n, k) scores, EER reads them as the
            classes 0 … k − 1 (column j is compared with 1[y = j]), or takes one label per column, shape (n, k).
        bounds: (lb, ub), each a number, one per row, or None.
        simplex: Whether every row of (n, k) scores must be a probability distribution; not together with bounds.
        divergence: How far scores are from where they were: "euclidean", half the squared differences, or for logits
            "log_loss", Σ w KL(σ(z) ‖ σ(y)), the log-loss that is added where the scores are calibrated. That needs
            two bounds, such as (−7, 7), and moves the rows near certainty most, so that more of the order of the rows
            stays than under equal shifts, and more of the gap of decisions too. Columns of (n, k) scores are logits of
            one output each.
        weights: Row weights, shape (n,): a row of weight 2 counts as two equal rows, in the means and in the distance.
        solver: "newton" (exact), "osqp" or "cvxpy" (general solvers at their own accuracy; "cvxpy:SCS" and the like
            choose CVXPY's backend).
        on_infeasible: "raise", or "relax" to return the scores with the least violation, marked as such.
        strict: Whether the scores must satisfy every tolerance after rounding to their dtype, when summed in float64;
            else they satisfy it to within that rounding.
        warm_start: The result of a similar problem (the same criteria and groups) to start from: it saves time and does
            not change the answer.

    Returns:
        Scores of the kind, dtype and device that came in; multipliers and certificate in float64.

    Raises:
        InputError: Wrong shapes, NaN or infinite values, labels missing.
        InfeasibleError: The criteria contradict each other or the bounds; names them and the smallest relaxation.
        SolverError: The solver did not reach its accuracy.

    Source: arXiv 2605.17118, the fairness layer.
    """
    listed = check_enforceable(criteria)
    values = to_scores(scores, groups)
    check_simplex(values, simplex=simplex, bounds=bounds)
    check_divergence(divergence, simplex=simplex, bounds=bounds, solver=solver)
    columns = values.shape[1] if values.ndim == 2 else None
    batch = assemble_batch(groups, listed, labels=labels, weights=weights, columns=columns, simplex=simplex)
    problems = [
        ensure_feasible(problem, on_infeasible=on_infeasible)
        for problem in _problems(values, batch, bounds=bounds, simplex=simplex, divergence=divergence)
    ]
    starts = _starts(warm_start, problems)
    solved = [
        solve_and_round(problem, values.dtype, solver=solver, strict=strict, start=start)
        for problem, start in zip(problems, starts, strict=True)
    ]
    output = solved[0][1] if len(solved) == 1 and values.ndim == solved[0][1].ndim else torch.stack(
        [column for _, column in solved], dim=1
    )  # fmt: skip
    parts = [certify(problem, out, sol.duals) for problem, (sol, out) in zip(problems, solved, strict=True)]
    relaxed = any(problem.system.relaxation > 0 for problem in problems)
    names = batch.systems[0]
    return ProjectionResult(
        scores=output if isinstance(scores, Tensor) else output.numpy(),
        status=Status.RELAXED if relaxed else Status.OPTIMAL,
        duals=_join([solution.duals for solution, _ in solved], columns, simplex),
        certificate=merge_certificates(parts) if len(parts) > 1 else parts[0],
        constraints=tuple(names.describe_all_columns(k) for k in range(len(names.owner) // names.columns)),
        iterations=max(solution.iterations for solution, _ in solved),
        solver=solver,
    )


def verify_certificate(
    result: ProjectionResult,
    scores: VectorLike,
    groups: Groups,
    criteria: AnyCriterion | Sequence[AnyCriterion],
    *,
    labels: VectorLike | None = None,
    bounds: Bounds = None,
    simplex: bool = False,
    divergence: Divergence = "euclidean",
    weights: VectorLike | None = None,
) -> Certificate:
    """The certificate of a result, computed once more from its scores and multipliers alone.

    Nothing that the solver knew enters: the multipliers give a lower bound on the distance of *any* feasible scores to
    the input, so a small duality gap proves that no feasible scores are much closer, whoever computed them.

    Args:
        result: What `project` returned (or was claimed to return).
        scores: The scores that were projected, shape (n,) or (n, k).
        groups: Attributes of the same rows.
        criteria: The criteria that were enforced.
        labels: As given to `project`.
        bounds: As given to `project`.
        simplex: As given to `project`.
        divergence: As given to `project`.
        weights: As given to `project`.

    Returns:
        Violation, stationarity and duality gap, in float64.

    Raises:
        InputError: Wrong shapes, or multipliers that do not belong to these criteria.
    """
    listed = check_enforceable(criteria)
    values = to_scores(scores, groups)
    claimed = to_scores(result.scores, groups)
    check_simplex(values, simplex=simplex, bounds=bounds)
    check_divergence(divergence, simplex=simplex, bounds=bounds)
    if claimed.shape != values.shape:
        raise InputError(
            f"result.scores must have shape {tuple(values.shape)}, as scores has; got {tuple(claimed.shape)}"
        )
    columns = values.shape[1] if values.ndim == 2 else None
    batch = assemble_batch(groups, listed, labels=labels, weights=weights, columns=columns, simplex=simplex)
    relaxation = result.certificate.relaxation
    systems = tuple(replace(system, relaxation=relaxation, layouts={}) for system in batch.systems)
    problems = list(
        _problems(values, replace(batch, systems=systems), bounds=bounds, simplex=simplex, divergence=divergence)
    )
    duals = _split(np.asarray(result.duals, dtype=np.float64), problems)
    outputs = [claimed] if len(problems) == 1 and (simplex or columns is None) else list(claimed.T.contiguous())
    parts = [certify(*each) for each in zip(problems, outputs, duals, strict=True)]
    return merge_certificates(parts) if len(parts) > 1 else parts[0]


def check_simplex(scores: Tensor, *, simplex: bool, bounds: Bounds) -> None:
    """Raise unless the simplex has columns to add up and no other bounds."""
    if simplex and (scores.ndim != 2 or scores.shape[1] < 2):
        raise InputError(f"simplex=True needs scores of shape (n, k) with k ≥ 2; got shape {tuple(scores.shape)}")
    if simplex and bounds is not None:
        raise InputError("simplex=True already bounds the scores by 0 and 1; pass bounds=None")


def check_divergence(divergence: Divergence, *, simplex: bool, bounds: Bounds, solver: str = "newton") -> None:
    """Raise unless the distance is a known one, and has what it needs."""
    if divergence not in DIVERGENCES:
        raise InputError(f"divergence must be one of {', '.join(map(repr, DIVERGENCES))}; got {divergence!r}")
    if divergence == "euclidean":
        return
    if simplex or solver != "newton":
        raise InputError(
            f"divergence={divergence!r} is of logits of one output each, by solver='newton'; got simplex={simplex!r} "
            f"and solver={solver!r}"
        )
    if not isinstance(bounds, Sequence) or len(bounds) != 2 or any(bound is None for bound in bounds):
        raise InputError(
            f"divergence={divergence!r} needs bounds=(lower, upper) for the logits, such as (-7, 7): without them the "
            f"rows nearest to certainty alone would carry the correction; got {bounds!r}"
        )
    if any(float(abs(to_numpy(bound)).max(initial=0.0)) > LARGEST_LOGIT for bound in bounds):
        raise InputError(
            f"divergence={divergence!r} needs bounds between ±{LARGEST_LOGIT:g}: probabilities nearer to certainty "
            f"are not told apart; got {bounds!r}"
        )


def solve_and_round(
    problem: ProjectionProblem, dtype: torch.dtype, *, solver: str, strict: bool, start: FloatArray | None = None
) -> tuple[Solution, Tensor]:
    """The solution in float64, and its scores in the dtype in which they leave."""
    if strict:
        return solve_strictly(problem, dtype, solver=solver)
    solution = solve(problem, solver=solver, start=start)
    return solution, solution.scores.to(dtype)


def _problems(
    values: Tensor, batch: Batch, *, bounds: Bounds, simplex: bool, divergence: Divergence
) -> list[ProjectionProblem]:
    if values.ndim == 1 or simplex:
        return [build_problem(values, batch.systems[0], weights=batch.weights, bounds=bounds, divergence=divergence)]
    return [
        build_problem(column, system, weights=batch.weights, bounds=bounds, divergence=divergence)
        for column, system in zip(values.T.contiguous(), batch.systems, strict=True)
    ]


def _starts(warm_start: ProjectionResult | None, problems: list[ProjectionProblem]) -> list[FloatArray | None]:
    if warm_start is None:
        return [None] * len(problems)
    return list(_split(to_numpy(warm_start.duals).astype(np.float64), problems))


def _join(duals: list[FloatArray], columns: int | None, simplex: bool) -> FloatArray:
    """Multipliers of shape (m,), or (m, k) for scores of shape (n, k)."""
    if columns is None:
        return duals[0]
    return duals[0].reshape(-1, columns) if simplex else np.stack(duals, axis=1)


def _split(duals: FloatArray, problems: list[ProjectionProblem]) -> list[FloatArray]:
    """The multipliers of every problem, from the shape that `_join` gave them."""
    size = len(problems[0].system.matrix)
    wanted = (size,) if len(problems) == 1 else (size, len(problems))
    found = duals.ravel() if len(problems) == 1 else duals
    if found.shape != wanted:
        raise InputError(
            f"result.duals must have {size} multipliers, one per constraint of these criteria; "
            f"got {len(duals)}; pass the groups and criteria that were projected"
        )
    return [found] if len(problems) == 1 else [np.ascontiguousarray(column) for column in found.T]
