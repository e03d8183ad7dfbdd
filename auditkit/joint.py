"""The joint distribution of all gaps of an audit, simulated from cell moments without looking at a row again.

The estimates of all events are jointly normal in large samples, with covariances that follow from the sums over the
cells that two events share: criteria of one audit are simulated together, not one by one. For every draw the
largest |z| over all gaps is kept; its (1 − α) quantile c makes intervals of level 2Φ(−c) cover all at once with
1 − α (max-t; the Gaussian multiplier bootstrap has the same limit but draws a number per row).

Sources: Hothorn, Bretz and Westfall (2008), Biometrical Journal 50, 346–363; Chernozhukov, Chetverikov and Kato
(2013), Annals of Statistics 41, 2786–2819.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit.criteria import Contrasts
from auditkit.intervals import two_sided_level

DRAWS = 20_000
_BIAS_DRAWS = 2_000
_CHUNK = 64
"""Draws at a time: so few that the product of a usual audit stays on one thread, which others cannot make wait."""


@dataclass(frozen=True, eq=False)
class JointGaps:
    """What the simulation yields.

    Attributes:
        level: c, the normal quantile at which all intervals cover at once.
        bias: Expected excess of the largest estimated |gap| over the largest true one, per criterion.
    """

    level: float
    bias: FloatArray


def simulate_gaps(
    contrasts: Contrasts,
    values: FloatArray,
    covariance: FloatArray,
    adequate: BoolArray,
    *,
    confidence: float,
    seed: int,
    draws: int = DRAWS,
) -> JointGaps:
    """Simulate all gaps of an audit together.

    Args:
        contrasts: Which events are compared.
        values: Estimate per event, shape (e,).
        covariance: Of the estimates, shape (e, e).
        adequate: Which contrasts have an interval, shape (m,).
        confidence: Joint confidence of all intervals.
        seed: Seed of the draws.
        draws: Number of draws for the level.

    Returns:
        The critical level and the bias of the largest gap of every criterion.
    """
    kept = np.flatnonzero(adequate)
    bias = np.zeros(len(contrasts.criteria))
    if not len(kept):
        return JointGaps(two_sided_level(confidence), bias)
    root = contrasts.contrast(square_root(np.nan_to_num(covariance)))[kept]
    centre = contrasts.contrast(_shrink(contrasts, values, np.diag(covariance)))[kept]
    owner = contrasts.criterion[kept]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    rng = np.random.default_rng(seed)
    bias[owner[starts]] = _mean_largest(rng, centre, root, starts) - np.maximum.reduceat(np.abs(centre), starts)
    level = max_t_level(root, confidence=confidence, seed=seed, draws=draws)
    return JointGaps(level, np.maximum(bias, 0.0))


def max_t_level(root: FloatArray, *, confidence: float, seed: int, draws: int = DRAWS) -> float:
    """The normal quantile c with P(max |z| ≤ c) = confidence for contrasts root·N(0, I), each over its own deviation.

    Args:
        root: Shape (m, r); the covariance of the contrasts is root·rootᵀ.
        confidence: Joint confidence.
        seed: Seed of the draws.
        draws: Number of draws.

    Returns:
        c; the usual two-sided quantile for a single contrast.
    """
    if len(root) <= 1:
        return two_sided_level(confidence)
    size = np.linalg.norm(root, axis=1, keepdims=True)
    scaled = np.divide(root, size, out=np.zeros_like(root), where=size > 0)
    rng = np.random.default_rng(seed)
    largest = [_largest(rng, scaled, min(_CHUNK, draws - start)) for start in range(0, draws, _CHUNK)]
    return float(np.quantile(np.concatenate(largest), confidence))


def joint_level(root: FloatArray, *, confidence: float, seed: int, draws: int = DRAWS) -> float:
    """The c of `max_t_level`, in closed form where no two contrasts are correlated: (2Φ(c) − 1)^m = confidence."""
    size = np.linalg.norm(root, axis=1, keepdims=True)
    scaled = np.divide(root, size, out=np.zeros_like(root), where=size > 0)
    shared = scaled @ scaled.T
    np.fill_diagonal(shared, 0.0)
    if np.abs(shared).max(initial=0.0) < 1e-9:
        return two_sided_level(confidence ** (1 / max(len(root), 1)))
    return max_t_level(root, confidence=confidence, seed=seed, draws=draws)


def _largest(rng: np.random.Generator, root: FloatArray, size: int) -> FloatArray:
    """The largest |z| over all contrasts, of every draw."""
    draws = rng.standard_normal((size, root.shape[1])) @ root.T
    return np.maximum(draws.max(axis=1), -draws.min(axis=1))


def _mean_largest(rng: np.random.Generator, centre: FloatArray, root: FloatArray, starts: IntArray) -> FloatArray:
    """The mean over the draws of the largest |gap| of every criterion."""
    draws = rng.standard_normal((_BIAS_DRAWS, root.shape[1])) @ root.T
    return np.maximum.reduceat(np.abs(centre + draws), starts, axis=1).mean(axis=0)


def square_root(covariance: FloatArray) -> FloatArray:
    """The symmetric R with R R = covariance: unlike other roots it moves by rounding only where the covariance does."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _shrink(contrasts: Contrasts, values: FloatArray, variance: FloatArray) -> FloatArray:
    """Event values pulled together so that their spread is that of the true values, not of their estimates.

    Around the raw estimates the simulated maximum would be biased upward twice. Per criterion and stratum, with τ² the
    excess of the observed spread over what sampling explains: centre + √(τ² / (τ² + mean variance)) · (value − centre).
    """
    shrunk = values.copy()
    keys = [(event.criterion, event.stratum) for event in contrasts.events]
    for key in dict.fromkeys(keys):
        mine = np.array([k for k, other in enumerate(keys) if other == key and np.isfinite(variance[k])], dtype=int)
        if not len(mine):
            continue
        absolute = contrasts.criteria[key[0]].form == "absolute"
        centre = 0.0 if absolute else float(values[mine].mean())
        observed = float(((values[mine] - centre) ** 2).sum()) / max(len(mine) - (not absolute), 1)
        share = max(observed - float(variance[mine].mean()), 0.0) / observed if observed > 0 else 0.0
        shrunk[mine] = centre + np.sqrt(share) * (values[mine] - centre)
    return shrunk
