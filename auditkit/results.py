"""What a projection comes back with: scores, multipliers, a status that explains itself, and a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from auditkit._typing import FloatArray
from auditkit.projection import ProjectionProblem


class Status(Enum):
    """How a projection ended; every member explains itself in a sentence."""

    OPTIMAL = "the scores satisfy every criterion and are the closest such scores to the input"
    RELAXED = "no scores satisfy every criterion; these violate them least, as on_infeasible='relax' asked for"

    @property
    def explanation(self) -> str:
        """The sentence."""
        return self.value


@dataclass(frozen=True)
class Certificate:
    """Evidence that a result is what it claims, recomputed in float64 from the scores that are returned.

    Attributes:
        max_violation: Largest amount by which a constraint or a bound is broken; 0 when none is.
        stationarity: Largest distance of a score from Π(z − W⁻¹·Bᵀ·Tᵀ·λ), the form that optimality asks for (of σ(z)
            in place of z where distance is log-loss).
        duality_gap: Primal minus dual objective; bounds the squared distance to the optimum, or the log-loss between.
        primal_objective: ½ Σ w (ỹ − z)², or the log-loss that is added.
        relaxation: How much every tolerance was enlarged; 0 unless the caller asked for it.
    """

    max_violation: float
    stationarity: float
    duality_gap: float
    primal_objective: float
    relaxation: float


@dataclass(frozen=True, eq=False)
class ProjectionResult:
    """Projected scores with the evidence for them.

    Attributes:
        scores: ỹ, of the kind, dtype and device of the scores that were passed.
        status: How it ended.
        duals: One multiplier per constraint, shape (m,), or (m, k) for scores of shape (n, k).
        certificate: Violation, stationarity and duality gap, recomputed from ``scores``.
        constraints: What every dual belongs to, in words, length m.
        iterations: Steps the solver took.
        solver: Which one.
    """

    scores: Any
    status: Status
    duals: FloatArray
    certificate: Certificate
    constraints: tuple[str, ...]
    iterations: int
    solver: str


def certify(problem: ProjectionProblem, scores: Float[Tensor, " n *k"], duals: FloatArray) -> Certificate:
    """Check scores and multipliers against the problem, from the rows, in float64.

    Args:
        problem: What was to be solved.
        scores: The scores that are returned, in any dtype, shape (n,).
        duals: The multipliers, shape (m,).

    Returns:
        The certificate; it holds for any solver, since nothing of the solver's own state enters it.
    """
    exact = scores.detach().to(torch.float64)
    best = problem.explained_by(duals)
    dual = problem.objective(best) + float(duals @ problem.values_of(best)) - problem.support(duals)
    primal = problem.objective(exact)
    largest = problem.system.collective.max
    return Certificate(
        max_violation=max_violation(problem, exact),
        stationarity=largest(_largest_difference(exact, best)),
        duality_gap=primal - dual,
        primal_objective=primal,
        relaxation=problem.system.relaxation,
    )


def max_violation(problem: ProjectionProblem, scores: Float[Tensor, " n *k"]) -> float:
    """Largest amount by which a constraint or the row set is broken, in score units; 0 when neither is."""
    system, values = problem.system, problem.values_of(scores)
    worst = max((values - system.upper).max(initial=0.0), (system.lower - values).max(initial=0.0))
    outside = _largest_difference(scores, problem.row_set.project(scores)) if problem.is_bounded else 0.0
    return max(float(worst), system.collective.max(outside))


def merge_certificates(parts: Sequence[Certificate]) -> Certificate:
    """One certificate for columns that were projected one by one: the worst violation, the sum of the objectives."""
    return Certificate(
        max_violation=max(part.max_violation for part in parts),
        stationarity=max(part.stationarity for part in parts),
        duality_gap=sum(part.duality_gap for part in parts),
        primal_objective=sum(part.primal_objective for part in parts),
        relaxation=max(part.relaxation for part in parts),
    )


def _largest_difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max()) if first.numel() else 0.0
