"""The best single threshold of each of two cells, by looking at every pair, a range of them at a time.

    min_{i, j} a_i + b_j   subject to   L_k ≤ P_ki + Q_kj ≤ U_k   for every constraint k

Lower thresholds select more rows, so every Q_k is monotone in j: the j that go with an i are a range, the intersection
of one per constraint. Two binary searches find it, and a table of minima over ranges of lengths 2^l the best j in it.
O(n log n) for n thresholds, at every tolerance.
"""

from __future__ import annotations

import numpy as np

from auditkit._typing import FloatArray, IntArray


def find_pair(
    costs: tuple[FloatArray, FloatArray],
    sides: tuple[FloatArray, FloatArray],
    limits: tuple[FloatArray, FloatArray],
) -> tuple[int, int] | None:
    """The pair of least cost within the limits; None where no pair is.

    Args:
        costs: a, shape (p,), and b, shape (q,).
        sides: P, shape (m, p), and Q, shape (m, q), each row of Q monotone.
        limits: L and U, shape (m,).
    """
    (a, b), (fixed, moving) = costs, sides
    first, stop = np.zeros(len(a), dtype=np.int64), np.full(len(a), len(b))
    for given, values, low, high in zip(fixed, moving, *limits, strict=True):
        starts, stops = _find_range(values, low - given, high - given)
        first, stop = np.maximum(first, starts), np.minimum(stop, stops)
    possible = np.flatnonzero(first < stop)
    if not len(possible):
        return None
    partner = _find_minima(b, first[possible], stop[possible])
    best = int(np.argmin(a[possible] + b[partner]))
    return int(possible[best]), int(partner[best])


def is_monotone(values: FloatArray) -> bool:
    """Whether every row rises or every row falls, or both, along the second axis."""
    steps = np.diff(values, axis=1)
    return bool(((steps >= 0).all(axis=1) | (steps <= 0).all(axis=1)).all())


def _find_range(values: FloatArray, low: FloatArray, high: FloatArray) -> tuple[IntArray, IntArray]:
    """First position within [low, high] and the one after the last, where values rise or fall."""
    if len(values) and values[0] > values[-1]:
        values, low, high = -values, -high, -low
    return np.searchsorted(values, low, side="left"), np.searchsorted(values, high, side="right")


def _find_minima(values: FloatArray, first: IntArray, stop: IntArray) -> IntArray:
    """Position of the least value in every [first, stop), none of them empty."""
    table = [np.arange(len(values))]
    while 2 ** len(table) <= len(values):
        half = 2 ** (len(table) - 1)
        left, right = table[-1][:-half], table[-1][half:]
        table.append(np.where(values[right] < values[left], right, left))
    level = np.frexp(stop - first)[1] - 1  # ⌊log₂ length⌋
    found = np.empty(len(first), dtype=np.int64)
    for k in np.unique(level):
        at = level == k
        left, right = table[k][first[at]], table[k][stop[at] - 2**k]
        found[at] = np.where(values[right] < values[left], right, left)
    return found
