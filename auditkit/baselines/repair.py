"""Repair of the score distributions towards their Wasserstein barycentre.

    ỹ = (1 − α)·z + α·Q̄(F_g(z)),   Q̄(u) = Σ_g p_g Q_g(u)

F_g and Q_g are the distribution and the quantile function of the scores of group g, p_g its share of the rows. At α = 1
all groups have the distribution with quantile function Q̄, which is the barycentre of theirs and costs the least squared
change. Sources: Chzhen, Denis, Hebiri, Oneto, Pontil (2020), Fair regression with Wasserstein barycenters; Gordaliza,
del Barrio, Gamboa, Loubes (2019), Obtaining fairness using optimal transport theory (partial repair α).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from auditkit._typing import FloatArray
from auditkit.baselines.base import FitContext, Method, Prediction, Sample, group_names, protected_columns
from auditkit.constraints import measure_gaps


@dataclass(frozen=True, eq=False)
class Barycentre:
    """Sorted scores of every group, and the share of each.

    Attributes:
        sorted_scores: Group → its scores in increasing order.
        shares: Group → p_g; they sum to 1.
    """

    sorted_scores: Mapping[str, FloatArray]
    shares: Mapping[str, float]

    def repair(self, scores: FloatArray, names: np.ndarray) -> FloatArray:
        """Q̄(F_g(z)) of every row, shape (n,); rows of a group that was not seen keep their score.

        F_g is the share of the group's scores below z plus half of those equal to z, continuous between scores; Q_g its
        inverse, so that the repair of one group alone changes nothing.

        Args:
            scores: z, shape (n,).
            names: Group of every row, shape (n,).
        """
        repaired = np.array(scores, dtype=np.float64)
        for name, known in self.sorted_scores.items():
            mine = names == name
            level = _distribution(known, repaired[mine])
            repaired[mine] = sum(
                share * _quantile(self.sorted_scores[other], level) for other, share in self.shares.items()
            )
        return repaired


class WassersteinRepair(Method):
    """Scores moved towards the barycentre of the groups' distributions, as far as ε asks."""

    name = "wasserstein_repair"
    title = "Wasserstein-barycentre repair"
    description = "the model's scores moved towards the barycentre of the groups' distributions, as far as ε asks"

    def fit(self, context: FitContext) -> Callable[[Sample], Prediction]:
        """Sort the calibration scores of every group, and find how far to go."""
        rows, columns = context.calibrate, protected_columns(context.criteria)
        barycentre = find_barycentre(rows.scores, group_names(rows, columns))
        full = barycentre.repair(rows.scores, group_names(rows, columns))
        amount = _least_amount(rows, full, context)

        def predict(sample: Sample) -> Prediction:
            repaired = barycentre.repair(sample.scores, group_names(sample, columns))
            return Prediction((1 - amount) * sample.scores + amount * repaired)

        return predict


def find_barycentre(scores: FloatArray, names: np.ndarray) -> Barycentre:
    """The barycentre of the groups' score distributions.

    Args:
        scores: z, shape (n,).
        names: Group of every row, shape (n,).
    """
    known, counts = np.unique(names, return_counts=True)
    ordered = {name: np.sort(scores[names == name]) for name in known}
    return Barycentre(ordered, dict(zip(known, (counts / len(names)).tolist(), strict=True)))


def _least_amount(rows: Sample, full: FloatArray, context: FitContext) -> float:
    """The least α in [0, 1] at which the calibration gaps are within ε; 1 where none is.

    Every gap is a convex function of α (a largest absolute value of linear ones), so those within ε form an interval.
    """
    amounts = np.linspace(0.0, 1.0, 101)
    for amount in amounts:
        mixed = (1 - amount) * rows.scores + amount * full
        gaps = measure_gaps(mixed, rows.groups, context.criteria, labels=rows.labels)
        if all(gaps[criterion.name] <= criterion.tolerance for criterion in context.criteria):
            return float(amount)
    return 1.0


def _distribution(known: FloatArray, scores: FloatArray) -> FloatArray:
    """Mid-distribution function of sorted scores, linear between them."""
    values, counts = np.unique(known, return_counts=True)
    middle = (np.cumsum(counts) - 0.5 * counts) / len(known)
    return np.interp(scores, values, middle)


def _quantile(known: FloatArray, levels: FloatArray) -> FloatArray:
    """The inverse of `_distribution`."""
    values, counts = np.unique(known, return_counts=True)
    middle = (np.cumsum(counts) - 0.5 * counts) / len(known)
    return np.interp(levels, middle, values)
