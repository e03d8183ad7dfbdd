"""Affine criteria of one's own: L ≤ A·y ≤ U, from a matrix or from CVXPY constraints.

They are enforced together with the named criteria. They speak of the very rows that they were made for, not of groups
in a population, so they can be projected onto but not audited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse

from auditkit._typing import FloatArray
from auditkit._validation import to_numpy
from auditkit.criteria import Criterion
from auditkit.errors import InputError


@dataclass(frozen=True, eq=False)
class AffineCriterion:
    """L ≤ A·y ≤ U for the n rows of one batch.

    Args:
        matrix: A, shape (m, n), dense or scipy sparse; a row of it is one constraint.
        lower: L, one number or shape (m,); −∞ is no lower side.
        upper: U, likewise; L = U is an equality.
        name: What messages call it.

    Raises:
        InputError: Not a matrix of finite numbers, sides of another length, or sides that cross.

    Source: arXiv 2605.17118, affine fairness constraints.
    """

    matrix: Any
    lower: Any = -np.inf
    upper: Any = np.inf
    name: str = field(default="affine", kw_only=True)

    def __post_init__(self) -> None:
        matrix = _check_matrix(self.matrix)
        object.__setattr__(self, "matrix", matrix)
        for side in ("lower", "upper"):
            object.__setattr__(self, side, _check_side(side, getattr(self, side), len(matrix.indptr) - 1))
        crossing = np.flatnonzero(self.lower > self.upper)
        if crossing.size:
            k = int(crossing[0])
            raise InputError(
                f"the sides of {self.name!r} cross in row {k}: lower is {self.lower[k]:g} and upper {self.upper[k]:g}"
            )

    @property
    def n_constraints(self) -> int:
        """Number of constraints m."""
        return len(self.lower)

    @property
    def needs_labels(self) -> bool:
        """Labels do not enter."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """The criterion in words: its name and size; the matrix belongs to rows and stays with them."""
        return {"name": self.name, "family": "affine", "constraints": self.n_constraints, "rows": self.matrix.shape[1]}

    @classmethod
    def from_cvxpy(cls, constraints: Any, variable: Any, *, name: str = "cvxpy") -> AffineCriterion:
        """The criterion that CVXPY constraints on one variable state.

        Args:
            constraints: CVXPY equalities and inequalities, one or a list, that are affine in ``variable``, and
                ``cp.abs(affine) <= number``.
            variable: The scores of the batch, a ``cvxpy.Variable`` of shape (n,).
            name: What messages call it.

        Returns:
            The same constraints as a matrix: they are read once, so the result can be reused for every batch of n rows.

        Raises:
            InputError: Another variable, a parameter without a value, or a constraint that is not affine.
        """
        read_constraints = import_module("auditkit.cvxpy_constraints").read_constraints
        matrix, lower, upper = read_constraints(constraints, variable)
        return cls(matrix, lower, upper, name=name)


AnyCriterion = Criterion | AffineCriterion


def check_enforceable(criteria: AnyCriterion | Sequence[AnyCriterion]) -> tuple[AnyCriterion, ...]:
    """Return the criteria as a tuple.

    Raises:
        InputError: Not criteria, or none at all.
    """
    listed = (criteria,) if isinstance(criteria, Criterion | AffineCriterion) else tuple(criteria)
    if not listed:
        raise InputError('criteria is empty; pass at least one, e.g. [ECP("sex", tolerance=0.02)]')
    for criterion in listed:
        if not isinstance(criterion, Criterion | AffineCriterion):
            raise InputError(
                f"criteria must hold Criterion objects (made by ECP, EER, …) or AffineCriterion; got {criterion!r}"
            )
    return listed


def _check_matrix(matrix: Any) -> csr_array:
    try:
        sparse = csr_array(matrix if issparse(matrix) else np.atleast_2d(to_numpy(matrix)), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"matrix must be a dense or sparse matrix of shape (m, n); {error}") from error
    if len(sparse.indptr) < 2:
        raise InputError("matrix must have shape (m, n), one row per constraint; got no row")
    if not np.isfinite(sparse.data).all():
        raise InputError("matrix holds NaN or infinite entries")
    return sparse


def _check_side(name: str, value: Any, size: int) -> FloatArray:
    side = np.asarray(to_numpy(value), dtype=np.float64)
    if np.isnan(side).any() or side.ndim > 1:
        raise InputError(f"{name} must be a number or one per constraint, not NaN; got shape {side.shape}")
    if side.ndim and len(side) != size:
        raise InputError(f"{name} must have {size} entries, as many as matrix has rows; got {len(side)}")
    return np.broadcast_to(side, (size,)).copy()
