"""One call, several solvers, the same answers; a solver's package is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from auditkit.errors import InputError
from auditkit.projection import ProjectionProblem, Solution

SOLVERS = {
    "cvxpy": "auditkit.solvers.cvxpy_solver",
    "newton": "auditkit.solvers.newton",
    "osqp": "auditkit.solvers.osqp_solver",
}


def solve(problem: ProjectionProblem, *, solver: str = "newton") -> Solution:
    """Solve a projection problem that is known to be feasible.

    Args:
        problem: What to solve.
        solver: "newton" (exact, no set-up, the default), "osqp" (general sparse QP) or "cvxpy" (the oracle).

    Returns:
        Scores and multipliers.

    Raises:
        InputError: An unknown solver.
        SolverError: The solver stopped without reaching its accuracy.
    """
    return find_solver(solver)(problem)


def find_solver(solver: str) -> Callable[[ProjectionProblem], Solution]:
    """The ``solve`` function of a solver by name."""
    if solver not in SOLVERS:
        raise InputError(f"solver must be one of {', '.join(map(repr, SOLVERS))}; got {solver!r}")
    return import_module(SOLVERS[solver]).solve
