"""What a projection comes back with: scores, multipliers, a status that explains itself, and a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
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
        stationarity: Largest distance of a score from clip(z − Tᵀλ/W), the form that optimality asks for.
        duality_gap: Primal minus dual objective; bounds the squared distance to the optimum.
        primal_objective: ½ Σ w (ỹ − z)².
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
        duals: One multiplier per contrast, shape (m,).
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


def certify(problem: ProjectionProblem, scores: Float[Tensor, " n"], duals: FloatArray) -> Certificate:
    """Check scores and multipliers against the problem, from the rows, in float64.

    Args:
        problem: What was to be solved.
        scores: The scores that are returned, in any dtype, shape (n,).
        duals: The multipliers, shape (m,).

    Returns:
        The certificate; it holds for any solver, since nothing of the solver's own state enters it.
    """
    system = problem.system
    exact = scores.detach().to(torch.float64)
    best = problem.explained_by(duals)
    support = float(np.maximum(duals * system.upper, duals * system.lower).sum())
    dual = problem.objective(best) + float(duals @ (system.matrix @ problem.cell_means(best))) - support
    primal = problem.objective(exact)
    return Certificate(
        max_violation=max_violation(problem, exact),
        stationarity=float((exact - best).abs().max()) if len(exact) else 0.0,
        duality_gap=primal - dual,
        primal_objective=primal,
        relaxation=system.relaxation,
    )


def max_violation(problem: ProjectionProblem, scores: Float[Tensor, " n"]) -> float:
    """Largest amount by which a constraint or a bound is broken, in score units; 0 when none is."""
    system = problem.system
    values = system.matrix @ problem.cell_means(scores)
    worst = [0.0, *(values - system.upper), *(system.lower - values)]
    if problem.is_bounded and len(scores):
        worst.append(float((scores - problem.clip(scores)).abs().max()))
    return float(max(worst))
