"""Constraints that a user wrote in CVXPY, read as a matrix with two sides."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.constraints.constraint import Constraint
from cvxpy.constraints.nonpos import Inequality
from cvxpy.constraints.zero import Equality

from auditkit._typing import FloatArray
from auditkit.errors import InputError


def read_constraints(constraints: Any, variable: Any) -> tuple[sp.csr_array, FloatArray, FloatArray]:
    """A, L and U of constraints that are affine in one variable of shape (n,).

    Raises:
        InputError: Another variable, a parameter without a value, or a constraint that is not affine.
    """
    listed = [constraints] if isinstance(constraints, Constraint) else list(constraints)
    if not listed:
        raise InputError("constraints is empty; pass at least one CVXPY constraint")
    if not isinstance(variable, cp.Variable) or variable.ndim != 1:
        raise InputError(f"variable must be a cvxpy.Variable of shape (n,), the scores of the batch; got {variable!r}")
    parts = [_read_constraint(constraint, variable) for constraint in listed]
    matrix, lower, upper = zip(*parts, strict=True)
    return sp.csr_array(sp.vstack(matrix)), np.concatenate(lower), np.concatenate(upper)


def _read_constraint(constraint: cp.Constraint, variable: cp.Variable) -> tuple[sp.csr_array, FloatArray, FloatArray]:
    others = [other.name() for other in constraint.variables() if other.id != variable.id]
    if others:
        raise InputError(f"constraints may speak of the scores alone; {constraint} also holds {', '.join(others)}")
    if any(parameter.value is None for parameter in constraint.parameters()):
        raise InputError(f"every parameter needs a value before constraints are read; {constraint} has one without")
    if not isinstance(constraint, Inequality | Equality):
        raise InputError(
            f"constraints must be equalities or inequalities; got {type(constraint).__name__}: {constraint}"
        )
    expression = constraint.expr
    left, right = constraint.args if len(constraint.args) == 2 else (expression, cp.Constant(0.0))
    if isinstance(left, cp.abs) and left.args[0].is_affine() and right.is_constant():
        matrix, offset = _read_affine(left.args[0], variable)
        limit = np.broadcast_to(np.ravel(np.asarray(right.value, dtype=np.float64), order="F"), offset.shape)
        return matrix, -limit - offset, limit - offset
    if not expression.is_affine():
        raise InputError(f"constraints must be affine in the scores, or cp.abs(affine) <= number; got {constraint}")
    matrix, offset = _read_affine(expression, variable)
    lower = -offset if isinstance(constraint, Equality) else np.full(len(offset), -np.inf)
    return matrix, lower, -offset


def _read_affine(expression: Any, variable: cp.Variable) -> tuple[sp.csr_array, FloatArray]:
    """A and b of expression = A·y + b, column by column where the expression has several axes."""
    before = variable.value
    variable.value = np.zeros(variable.shape)
    try:
        offset = np.ravel(np.asarray(expression.value, dtype=np.float64), order="F")
        gradient = expression.grad.get(variable)
    finally:
        variable.value = before
    if gradient is None:
        return sp.csr_array((len(offset), variable.size)), offset
    return sp.csr_array(np.atleast_2d(gradient) if np.isscalar(gradient) else gradient).T.tocsr(), offset
