"""Two cells and one constraint, on the host: the commonest of small batches, in a few products with vectors.

    ỹ = z − e·q   with   q = u/‖u‖²,   e = what u·z − t exceeds ±ε by,   J = I − q·uᵀ where e ≠ 0

u holds 1/W for the rows of the first cell and −1/W for those of the second, so that u·z is the gap. A sum per cell and
a second pass that gives every row what its cell is given cost several calls more, which is all that few rows cost.

Within bounds ỹ = clip(z − λ·u): the gap falls with λ, a piecewise linear function of one unknown, and Newton's steps
end on the exact piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit._validation import check_vector
from auditkit.errors import InputError
from auditkit.jacobian import GradientRecord, Jacobian, as_tensor, to_host
from auditkit.row_sets import find_free

MAX_ROWS = 1 << 13
"""Up to here the calls cost more than the rows, and two vectors of their length are worth fewer of them."""
MAX_STEPS = 20
ACCURACY = 1e-13
"""How far the gap may be from its goal: the rounding error of a sum over some thousand rows, several times over."""

Bound = float | FloatArray | None


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
    """J = D − D·u·uᵀ·D/(uᵀ·D·u); D alone where the constraint is inactive, or all its rows are held.

    Attributes:
        contrast: D·u, shape (n,); None where the constraint takes nothing off.
        square: uᵀ·D·u.
        free: The diagonal of D, which rows no bound holds, shape (n,); None is every row.
    """

    contrast: FloatArray | None
    square: float = 1.0
    free: BoolArray | None = None

    def multiply(self, values: Tensor, *, transposed: bool) -> Tensor:
        """J·v = Jᵀ·v, since rows have no weights."""
        del transposed
        return as_tensor(self._apply(to_host(values)), values.dtype)

    def pull_back(self, gradient: Tensor, record: GradientRecord) -> Tensor:
        """Jᵀ·g; the record notes what is taken off."""
        plain = to_host(gradient)
        product = self._apply(plain)
        removed = plain - product
        record.squares = removed.dot(removed), plain.dot(plain)
        return as_tensor(product, gradient.dtype)

    def _apply(self, plain: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        kept = plain if self.free is None else plain * self.free
        if self.contrast is None:
            return kept.copy()
        return kept - plain.dot(self.contrast) / self.square * self.contrast


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
    gap, tolerance = _find_gap(values, pair), pair.tolerance
    if -tolerance <= gap <= tolerance:
        return values.copy(), np.zeros(len(pair.shift)), PairJacobian(None)
    excess = gap - math.copysign(tolerance, gap)
    return values - excess * pair.step, -excess * pair.shift, PairJacobian(pair.contrast, pair.square)


def project_pair_within(
    values: np.ndarray[Any, Any], pair: Pair, bounds: tuple[Bound, Bound]
) -> tuple[FloatArray, FloatArray, Jacobian] | None:
    """Project a batch within bounds.

    Args:
        values: z, float32 or float64, shape (n,).
        pair: The batch.
        bounds: (lb, ub), each a number, shape (n,), or None.

    Returns:
        ỹ in float64, shape (n,), δ of every cell and the Jacobian; None where the steps do not settle, as where no such
        scores exist.

    Raises:
        InputError: NaN or infinite scores, or scores whose sum overflows.
    """
    _find_gap(values, pair)  # bounds would hide an infinite score
    contrast, tolerance, target = pair.contrast, pair.tolerance, pair.target
    output = clip(values, bounds)
    gap = output.dot(contrast).item() - target
    if -tolerance <= gap <= tolerance:
        own = output.copy() if output is values else output  # without bounds on either side
        return own, np.zeros(len(pair.shift)), PairJacobian(None, free=find_free(output, bounds))
    goal, slack = math.copysign(tolerance, gap), ACCURACY * max(1.0, abs(gap))
    multiplier, moved = 0.0, values
    for _ in range(MAX_STEPS):
        if -slack <= gap - goal <= slack:
            free = find_free(output, bounds)
            kept = contrast * free
            square = kept.dot(kept).item()
            shift = -multiplier * pair.square * pair.shift
            return output, shift, PairJacobian(kept if square else None, square, free)
        slope = contrast.dot(contrast * (output == moved)).item()
        if slope == 0.0:
            return None
        multiplier += (gap - goal) / slope
        moved = values - multiplier * contrast
        output = clip(moved, bounds)
        gap = output.dot(contrast).item() - target
    return None


def clip(values: FloatArray, bounds: tuple[Bound, Bound]) -> FloatArray:
    """The values within bounds, each a number, shape (n,), or None."""
    lower, upper = bounds
    clipped = values if lower is None else np.maximum(values, lower)
    if upper is None:
        return clipped
    is_own = clipped is not values and clipped.dtype == np.float64  # so that nothing is rounded to fit in
    return np.minimum(clipped, upper, out=clipped if is_own else None)


def _find_gap(values: np.ndarray[Any, Any], pair: Pair) -> float:
    gap = values.dot(pair.contrast).item() - pair.target
    if not math.isfinite(gap):
        check_vector("scores", values)
        raise InputError("scores are too large: their sum over a group is not finite")
    return gap
