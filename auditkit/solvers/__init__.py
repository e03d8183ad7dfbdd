"""One call, several solvers, the same answers; a solver's package is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

from auditkit._typing import FloatArray
from auditkit.errors import InputError
from auditkit.projection import ProjectionProblem, Solution

SOLVERS = {
    "cvxpy": "auditkit.solvers.cvxpy_solver",
    "newton": "auditkit.solvers.newton",
    "osqp": "auditkit.solvers.osqp_solver",
}


def solve(problem: ProjectionProblem, *, solver: str = "newton", start: FloatArray | None = None) -> Solution:
    """Solve a projection problem that is known to be feasible.

    Args:
        problem: What to solve.
        solver: "newton" (exact, no set-up, the default), "osqp" (general sparse QP), or "cvxpy" (the oracle; with
            Clarabel, or "cvxpy:NAME" with another solver that CVXPY knows).
        start: Multipliers to start from, shape (m,); None starts from nothing. It changes the time, not the answer.

    Returns:
        Scores and multipliers.

    Raises:
        InputError: An unknown solver.
        SolverError: The solver stopped without reaching its accuracy.
    """
    return find_solver(solver)(problem, start=start)


def find_solver(solver: str) -> Callable[..., Solution]:
    """The ``solve`` function of a solver by name."""
    name, _, backend = solver.partition(":")
    if name not in SOLVERS or (backend and name != "cvxpy"):
        raise InputError(f"solver must be one of {', '.join(map(repr, SOLVERS))}; got {solver!r}")
    function = import_module(SOLVERS[name]).solve
    return partial(function, backend=backend.upper()) if backend else function
