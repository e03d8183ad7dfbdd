"""The projection as a sparse QP for OSQP: set up once per structure, updated for every batch, differentiated by OSQP.

    min ½ Σ w ‖y‖² − Σ w z·y   over (y, u)   subject to   B·y = u,   L ≤ T·u ≤ U,   y in the row set

The moments u are variables of their own, so the matrix has as many entries as B and T have, whatever their product is.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import osqp
import scipy.sparse as sp
import torch
from torch import Tensor

from auditkit._typing import FloatArray
from auditkit.errors import SolverError
from auditkit.jacobian import Jacobian
from auditkit.projection import ProjectionProblem, Solution
from auditkit.row_sets import Box

SETTINGS = {
    "eps_abs": 1e-10, "eps_rel": 1e-10, "max_iter": 200_000, "polishing": True, "polish_refine_iter": 10,
    "verbose": False, "scaled_termination": False,
}  # fmt: skip
KEPT_SESSIONS = 8
"""Structures that stay set up, per thread."""


@dataclass(eq=False)
class Session:
    """An OSQP solver set up for one structure.

    Attributes:
        solver: The solver, holding the last problem that it solved.
        lock: Held while the solver is used.
        serial: Number of problems solved; tells whose solution the solver holds.
    """

    solver: Any
    lock: threading.Lock = field(default_factory=threading.Lock)
    serial: int = 0


_LOCAL = threading.local()


def solve(problem: ProjectionProblem, *, start: FloatArray | None = None) -> Solution:
    """Project with OSQP.

    Args:
        problem: A feasible problem.
        start: Not used; OSQP starts from the last problem of the same structure.

    Returns:
        Scores and multipliers at OSQP's accuracy after polishing.

    Raises:
        SolverError: OSQP did not report a solution.
    """
    del start
    data = _Data.of(problem)
    session = _find_session(data)
    with session.lock:
        answer = data.run(session)
    size, first = problem.scores.numel(), len(data.scale)
    values = torch.as_tensor(np.asarray(answer.x[:size], dtype=np.float64), device=problem.scores.device)
    duals = np.asarray(answer.y[first : first + len(problem.system.matrix)], dtype=np.float64)
    gradient = OsqpJacobian(session, session.serial, data, problem.scores.shape, data.row_weight)
    return Solution(values.reshape(problem.scores.shape), duals, int(answer.info.iter), 1e-7, gradient)


@dataclass(frozen=True, eq=False)
class _Data:
    """One QP in OSQP's form.

    Attributes:
        quadratic: P.
        linear: q.
        matrix: A.
        lower: l.
        upper: u.
        scale: Factor of every moment equation, for its conditioning.
        row_weight: Weight of every entry of y.
    """

    quadratic: sp.csc_matrix
    linear: FloatArray
    matrix: sp.csc_matrix
    lower: FloatArray
    upper: FloatArray
    scale: FloatArray
    row_weight: FloatArray

    @classmethod
    def of(cls, problem: ProjectionProblem) -> _Data:
        """The QP of a projection."""
        scores = problem.scores.cpu().numpy()
        k = 1 if scores.ndim == 1 else scores.shape[1]
        weight = np.ones(len(scores)) if problem.weights is None else problem.weights.cpu().numpy()
        weight = np.repeat(weight, k)
        moments = _moment_matrix(problem)
        norm = sp.linalg.norm(moments, axis=1)
        scale = 1.0 / np.where(norm > 0, norm, 1.0)
        rows, low, high = _row_constraints(problem)
        size, contrast = len(scale), sp.csr_array(problem.system.matrix)
        blocks: list[list[Any]] = [[moments * scale[:, None], sp.diags_array(-scale)], [None, contrast], [rows, None]]
        equal = np.zeros(size)
        return cls(
            sp.csc_matrix(sp.diags_array(np.concatenate([weight, np.zeros(size)]))),
            np.concatenate([-weight * scores.ravel(), np.zeros(size)]),
            sp.csc_matrix(sp.block_array(blocks, format="csc")),
            np.concatenate([equal, problem.system.lower, low]),
            np.concatenate([equal, problem.system.upper, high]),
            scale,
            weight,
        )

    def structure(self) -> str:
        """Digest of what an update cannot change."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.quadratic, self.matrix):
            for values in (part.indptr, part.indices, part.data):
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def run(self, session: Session) -> Any:
        """Solve in a session that is locked.

        Raises:
            SolverError: OSQP did not report a solution.
        """
        session.solver.update(q=self.linear, l=self.lower, u=self.upper)
        session.serial += 1
        answer = session.solver.solve(raise_error=False)
        if answer.info.status not in ("solved", "solved inaccurate"):
            raise SolverError(f"osqp ended as {answer.info.status!r} after {answer.info.iter} iterations")
        return answer


@dataclass(frozen=True, eq=False)
class OsqpJacobian(Jacobian):
    """J by OSQP's adjoint derivative: with q = −w·z, ∂/∂z = −w·∂/∂q.

    Attributes:
        session: The solver.
        serial: Which of its problems this is the Jacobian of.
        data: That problem, to be solved again where the session has moved on.
        shape: Shape of the scores.
        row_weight: Weight of every entry of y.
    """

    session: Session
    serial: int
    data: _Data
    shape: tuple[int, ...]
    row_weight: FloatArray

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v or Jᵀ·v; W·J is symmetric, so both come from the adjoint."""
        flat = values.detach().cpu().numpy().astype(np.float64).ravel()
        weight = self.row_weight
        product = weight * self._adjoint(flat) if transposed else self._adjoint(weight * flat)
        return torch.as_tensor(product.reshape(self.shape), device=values.device).to(values.dtype)

    def _adjoint(self, direction: FloatArray) -> FloatArray:
        with self.session.lock:
            if self.session.serial != self.serial:
                self.data.run(self.session)
            solver = self.session.solver
            padded = np.concatenate([direction, np.zeros(len(self.data.linear) - len(direction))])
            solver.adjoint_derivative_compute(dx=padded, dy=np.zeros(len(self.data.lower)))
            linear, _, _ = solver.adjoint_derivative_get_vec()
        return -np.asarray(linear)[: len(direction)]


def _find_session(data: _Data) -> Session:
    """A solver that is set up for the structure, from the last few that were used in this thread."""
    if not hasattr(_LOCAL, "sessions"):
        _LOCAL.sessions = OrderedDict()
    sessions: OrderedDict[str, Session] = _LOCAL.sessions
    key = data.structure()
    if key not in sessions:
        solver = osqp.OSQP()
        solver.setup(P=data.quadratic, q=data.linear, A=data.matrix, l=data.lower, u=data.upper, **SETTINGS)
        sessions[key] = Session(solver)
    sessions.move_to_end(key)
    while len(sessions) > KEPT_SESSIONS:
        sessions.popitem(last=False)
    return sessions[key]


def _moment_matrix(problem: ProjectionProblem) -> sp.csr_array:
    """B of all columns, shape (q, n·k)."""
    matrix = problem.system.moment_matrix(None if problem.weights is None else problem.weights.cpu().numpy())
    k = problem.system.columns
    return matrix if k == 1 else sp.csr_array(sp.kron(matrix, sp.eye_array(k)))


def _row_constraints(problem: ProjectionProblem) -> tuple[sp.csr_array, FloatArray, FloatArray]:
    size = problem.scores.numel()
    if isinstance(problem.row_set, Box):
        low = _row_bounds(problem.row_set.lower, -np.inf, size)
        return sp.csr_array(sp.eye_array(size)), low, _row_bounds(problem.row_set.upper, np.inf, size)
    n_rows, k = problem.scores.shape
    sums = sp.kron(sp.eye_array(n_rows), np.ones((1, k)))
    low = np.concatenate([np.zeros(size), np.ones(n_rows)])
    high = np.concatenate([np.full(size, np.inf), np.ones(n_rows)])
    return sp.csr_array(sp.vstack([sp.eye_array(size), sums])), low, high


def _row_bounds(bound: Tensor | None, default: float, n_rows: int) -> FloatArray:
    value = default if bound is None else bound.cpu().numpy()
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (n_rows,)).copy()
