"""Many tests at once: adjusted p-values, each to be compared with the level itself."""

from __future__ import annotations

import numpy as np

from auditkit._typing import FloatArray, IntArray


def adjust_holm(p_values: FloatArray) -> FloatArray:
    """Holm's adjusted p-values: rejecting those ≤ α errs anywhere with probability ≤ α, whatever the dependence.

        p̃₍ᵢ₎ = max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎)

    Args:
        p_values: Shape (m,); NaN is no test and stays NaN.

    Returns:
        Adjusted p-values, shape (m,).

    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65–70.
    """
    order = _order(p_values)
    left = len(order) - np.arange(len(order))
    return _place(p_values, order, np.maximum.accumulate(p_values[order] * left))


def adjust_benjamini_hochberg(p_values: FloatArray) -> FloatArray:
    """Benjamini and Hochberg's q-values: of those ≤ q, at most the share q is expected to be false.

        q₍ᵢ₎ = min_{j ≥ i} min(1, m p₍ⱼ₎ / j)

    Holds for independent and for positively dependent tests.

    Args:
        p_values: Shape (m,); NaN is no test and stays NaN.

    Returns:
        Adjusted p-values, shape (m,).

    Source: Benjamini and Hochberg (1995), Journal of the Royal Statistical Society B 57, 289–300.
    """
    order = _order(p_values)
    share = len(order) / (np.arange(len(order)) + 1)
    return _place(p_values, order, np.minimum.accumulate((p_values[order] * share)[::-1])[::-1])


def _order(p_values: FloatArray) -> IntArray:
    """Positions of the tests that were made, smallest p-value first."""
    known = np.flatnonzero(np.isfinite(p_values))
    return known[np.argsort(p_values[known], kind="stable")]


def _place(p_values: FloatArray, order: IntArray, adjusted: FloatArray) -> FloatArray:
    placed = np.full(len(p_values), np.nan)
    placed[order] = np.minimum(adjusted, 1.0)
    return placed
