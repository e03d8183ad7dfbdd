"""Clusters of rows: the several rows of one person, which are one observation and stay together.

    se² = K/(K − 1) · Σ_k (Σ_{i ∈ k} (ψ_i − ψ̄))² / n²        K = n² / Σ_k n_k²

is the variance of a mean of n influences ψ over clusters k of n_k rows; K is the number of clusters of equal size that
would say as much. Source: Liang and Zeger (1986), Biometrika 73, 13–22, for the mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from auditkit._typing import BoolArray, FloatArray, IntArray, VectorLike
from auditkit.categories import MISSING, factorize
from auditkit.errors import InputError


def check_clusters(clusters: VectorLike | None, *, n_rows: int) -> IntArray | None:
    """The code of every row's cluster, shape (n,); None where no clusters were given.

    Args:
        clusters: Whom each row is of, shape (n,); any hashable values.
        n_rows: n.

    Raises:
        InputError: Another number of rows, or a row without its person.
    """
    if clusters is None:
        return None
    codes, categories = factorize("clusters", clusters)
    if len(codes) != n_rows:
        raise InputError(f"clusters must have {n_rows} rows, as many as groups has; got {len(codes)}")
    if MISSING in categories:
        raise InputError("clusters holds missing values; give every row the person that it is of")
    return codes


def estimate_error(influence: FloatArray, clusters: IntArray | None) -> tuple[float, float]:
    """Standard error of the mean of influences, and the degrees of freedom that it was estimated with.

    Args:
        influence: Per-row values, shape (n,).
        clusters: Code of every row's cluster, shape (n,); None takes the rows as independent.

    Returns:
        The standard error, and K − 1; infinite degrees of freedom for independent rows.
    """
    if clusters is None:
        return float(influence.std(ddof=1) / np.sqrt(len(influence))), np.inf
    sizes = np.bincount(clusters).astype(np.float64)
    totals = np.bincount(clusters, weights=influence - influence.mean())
    effective = len(influence) ** 2 / float(sizes @ sizes)
    scale = effective / (effective - 1) if effective > 1 else np.nan
    return float(np.sqrt(scale * float(totals @ totals)) / len(influence)), effective - 1


def count_clusters(clusters: IntArray, membership: Any, events: BoolArray) -> FloatArray:
    """Clusters that have a row in an event: expected ones, where rows are in cells with a probability.

    Args:
        clusters: Code of every row's cluster, shape (n,).
        membership: Share of every row in every cell, shape (n, c), sparse: 1 or 0 where attributes are known.
        events: Which cells an event is made of, shape (e, c).

    Returns:
        Σ_k max_{i ∈ k} share of row i in the event, shape (e,).
    """
    order = np.argsort(clusters, kind="stable")
    ordered = clusters[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    inside = membership.tocsr()[order]
    return np.array([np.maximum.reduceat(inside @ cells, first).sum() for cells in events.astype(np.float64)])


def deal_folds(n_rows: int, *, folds: int, seed: int, clusters: IntArray | None = None) -> IntArray:
    """Fold of every row by chance, shape (n,), as even as whole clusters allow.

    Args:
        n_rows: n.
        folds: How many.
        seed: Seed of the chance.
        clusters: Code of every row's cluster, shape (n,), all of whose rows are in one fold; None deals single rows.
    """
    rng = np.random.default_rng(seed)
    if clusters is None:
        return rng.permutation(n_rows) % folds
    _, codes = np.unique(clusters, return_inverse=True)
    return (rng.permutation(int(codes.max(initial=-1)) + 1) % folds)[codes]
