"""Two cells and one constraint, on the host: the commonest of small batches, in four products with vectors.

    ỹ = z − e·q   with   q = u/‖u‖²,   e = what u·z − t exceeds ±ε by,   J = I − q·uᵀ where e ≠ 0

u holds 1/W for the rows of the first cell and −1/W for those of the second, so that u·z is the gap. A sum per cell and
a second pass that gives every row what its cell is given cost several calls more, which is all that few rows cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from auditkit._typing import FloatArray, IntArray
from auditkit._validation import check_vector
from auditkit.errors import InputError
from auditkit.jacobian import UNMOVED, GradientRecord, Jacobian, as_tensor, to_host

MAX_ROWS = 1 << 13
"""Up to here the calls cost more than the rows, and two vectors of their length are worth fewer of them."""


@dataclass(eq=False, slots=True)
class Pair:
    """The constraint |u·z − t| ≤ ε of a batch whose rows have no weights.

    Attributes:
        contrast: u, shape (n,); zero for a row of neither cell.
        step: q, shape (n,).
        square: ‖u‖².
        target: t, the gap of the mean labels for residuals; 0 for scores themselves.
        tolerance: ε.
        shift: q of every cell, shape (c,).
    """

    contrast: FloatArray
    step: FloatArray
    square: float
    target: float
    tolerance: float
    shift: FloatArray


@dataclass(eq=False, slots=True)
class PairJacobian(Jacobian):
    """J where the constraint is active."""

    pair: Pair

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v = Jᵀ·v."""
        del transposed
        plain, pair = to_host(values), self.pair
        return as_tensor(plain - plain.dot(pair.contrast) * pair.step, values.dtype)

    def pull_back(self, gradient: Tensor, record: GradientRecord) -> Tensor:
        """Jᵀ·g; the record notes what is taken off."""
        plain, pair = to_host(gradient), self.pair
        along = plain.dot(pair.contrast)
        record.squares = along * along / pair.square, plain.dot(plain)
        return as_tensor(plain - along * pair.step, gradient.dtype)


def make_pair(
    index: IntArray, mass: list[float], cells: tuple[int, ...], target: FloatArray | None, tolerance: float
) -> Pair:
    """The pair of a batch.

    Args:
        index: Cell of every row, shape (n,).
        mass: Rows of every cell, length c.
        cells: The two that are compared.
        target: Mean label of every cell, shape (c,); None for scores themselves.
        tolerance: ε.
    """
    first, second = cells
    contrast = np.zeros(len(mass))
    contrast[first], contrast[second] = 1.0 / mass[first], -1.0 / mass[second]
    square = 1.0 / mass[first] + 1.0 / mass[second]
    shift = contrast / square
    gap = 0.0 if target is None else float(target[first] - target[second])
    return Pair(contrast.take(index), shift.take(index), square, gap, tolerance, shift)


def project_pair(values: np.ndarray[Any, Any], pair: Pair) -> tuple[np.ndarray[Any, Any], FloatArray, Jacobian]:
    """Project a batch without bounds.

    Args:
        values: z, float32 or float64, shape (n,).
        pair: The batch.

    Returns:
        ỹ in float64, shape (n,), δ of every cell and the Jacobian.

    Raises:
        InputError: NaN or infinite scores, or scores whose sum overflows.
    """
    gap, tolerance = values.dot(pair.contrast).item() - pair.target, pair.tolerance
    if not math.isfinite(gap):
        check_vector("scores", values)
        raise InputError("scores are too large: their sum over a group is not finite")
    if -tolerance <= gap <= tolerance:
        return values.copy(), np.zeros(len(pair.shift)), UNMOVED
    excess = gap - math.copysign(tolerance, gap)
    return values - excess * pair.step, -excess * pair.shift, PairJacobian(pair)
