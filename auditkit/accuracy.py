"""How far scores are from outcomes, group by group: mean residual, absolute and squared error, and calibration.

    mean residual = Σ w (y − z) / Σ w        MAE = Σ w |y − z| / Σ w        RMSE = √(Σ w (y − z)² / Σ w)
    ECE = Σ_b share_b · |mean label_b − mean score_b|                        b: bins of the score

An ECE is above zero even for a perfectly calibrated score, since bins are small; what chance alone would make of it is
stated beside it. Standard errors are linearised, as everywhere in an audit.

Sources: Guo, Pleiss, Sun and Weinberger (2017), ICML, for the ECE; Bröcker and Smith (2007), Weather and Forecasting
22, 651–661, for reliability curves with what chance allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from auditkit._typing import FloatArray, VectorLike
from auditkit._validation import check_probability, check_vector, check_weights
from auditkit.errors import InputError
from auditkit.groups import Groups
from auditkit.intervals import difference_limits, fit_unit_means, two_sided_level
from auditkit.moments import Moments
from auditkit.squares import effective_size, sum_products

_BIN = "score bin"


@dataclass(frozen=True)
class GroupErrors:
    """Errors of the scores in one group; each figure as (value, low, high), for this group alone.

    Attributes:
        group: The group in words.
        count: Rows.
        mean_residual: Mean of y − z; positive where scores are too low.
        mean_absolute_error: MAE.
        root_mean_square_error: RMSE.
    """

    group: str
    count: int
    mean_residual: tuple[float, float, float]
    mean_absolute_error: tuple[float, float, float]
    root_mean_square_error: tuple[float, float, float]


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of one group whose scores lie in one bin.

    Attributes:
        low: Lower edge.
        high: Upper edge.
        count: Rows.
        mean_score: What was predicted.
        mean_label: What happened.
        interval: Of mean label − mean score, for this bin alone.
    """

    low: float
    high: float
    count: int
    mean_score: float
    mean_label: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class GroupReliability:
    """Calibration of the scores in one group.

    Attributes:
        group: The group in words.
        count: Rows.
        calibration_error: ECE.
        expected_by_chance: What the ECE of a perfectly calibrated score would be on average in these bins.
        bins: The reliability curve; bins without rows are left out.
    """

    group: str
    count: int
    calibration_error: float
    expected_by_chance: float
    bins: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """The curve as JSON-ready values."""
        return asdict(self)


def tabulate_errors(
    moments: Moments, attributes: Sequence[str], *, confidence: float = 0.95
) -> tuple[GroupErrors, ...]:
    """Errors of every group, from the moments alone.

    Args:
        moments: Sums per cell, with labels, over columns that hold the attributes.
        attributes: The columns crossed.
        confidence: Confidence of each interval.

    Returns:
        One entry per group that occurs.

    Raises:
        InputError: The moments hold no labels.
    """
    if not moments.has_labels:
        raise InputError("errors by group need labels; take the moments with labels=")
    if moments.gram is not None:
        raise InputError(
            "errors by group of clustered rows have no standard errors here; take the moments without them"
        )
    check_probability("confidence", confidence)
    names, member = moments.table.unions(attributes)
    mass = member @ moments.weight
    mean = (member @ (moments.label - moments.score)) / mass
    square = member @ (moments.score2 + moments.label2 - 2 * moments.cross)
    square_w2 = member @ (moments.score2_w2 + moments.label2_w2 - 2 * moments.cross_w2)
    level = two_sided_level(confidence)

    def figure(value: FloatArray, first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
        """A weighted mean with its half-width, from Σ w² v and Σ w² v²."""
        size = effective_size(moments, member)
        spread = np.maximum(second - 2 * value * first + value**2 * (member @ moments.weight2), 0.0)
        freedom = np.maximum(size - 1, 1.0)
        t = -special.stdtrit(freedom, special.ndtr(-level))
        return value, np.where(size > 1, t * np.sqrt(spread * size / freedom) / mass, np.inf)

    residual = figure(mean, member @ (moments.label_w2 - moments.score_w2), square_w2)
    absolute = figure((member @ moments.absolute) / mass, member @ moments.absolute_w2, square_w2)
    squared = figure(np.maximum(square / mass, 0.0), square_w2, member @ moments.quartic_w2)
    counts = member @ moments.count
    return tuple(
        GroupErrors(name, int(counts[k]), _ends(residual, k), _ends(absolute, k, 0.0), _roots(_ends(squared, k, 0.0)))
        for k, name in enumerate(names)
    )


def _ends(figure: tuple[FloatArray, FloatArray], k: int, least: float = -np.inf) -> tuple[float, float, float]:
    value, half = float(figure[0][k]), float(figure[1][k])
    return value, max(value - half, least), value + half


def _roots(values: tuple[float, float, float]) -> tuple[float, float, float]:
    return float(np.sqrt(values[0])), float(np.sqrt(values[1])), float(np.sqrt(values[2]))


def assess_calibration(
    scores: VectorLike,
    labels: VectorLike,
    groups: Groups,
    attributes: str | Sequence[str],
    *,
    bins: int = 10,
    weights: VectorLike | None = None,
    confidence: float = 0.95,
) -> tuple[GroupReliability, ...]:
    """Reliability curve and calibration error of every group.

    Args:
        scores: z in [0, 1], shape (n,).
        labels: y in [0, 1], shape (n,).
        groups: Attributes of the same rows.
        attributes: One attribute, or several that are crossed.
        bins: Number of bins of equal width.
        weights: Row weights, shape (n,).
        confidence: Confidence of every bin's interval, for it alone.

    Returns:
        One entry per group that occurs.

    Raises:
        InputError: Scores or labels outside [0, 1], or fewer than one bin.
    """
    z, y = (check_vector(name, v, n_rows=groups.n_rows) for name, v in (("scores", scores), ("labels", labels)))
    if ((z < 0) | (z > 1)).any() or ((y < 0) | (y > 1)).any():
        raise InputError("scores and labels must lie in [0, 1] for a reliability curve")
    if bins < 1:
        raise InputError(f"bins must be at least 1; got {bins}")
    check_probability("confidence", confidence)
    names = (attributes,) if isinstance(attributes, str) else tuple(attributes)
    place = np.minimum((z * bins).astype(np.int64), bins - 1)
    binned = Groups({**{name: groups.values(name) for name in names}, _BIN: place})
    moments = Moments.from_rows(
        z, binned.cells((*names, _BIN)), labels=y, weights=check_weights(weights, n_rows=groups.n_rows)
    )
    return _reliability(moments, names, bins, confidence)


def _reliability(
    moments: Moments, attributes: tuple[str, ...], bins: int, confidence: float
) -> tuple[GroupReliability, ...]:
    names, member = moments.table.unions(attributes)
    low, high, deviation = _bin_intervals(moments, confidence)
    gap = moments.label_mean - moments.score_mean
    place = np.array([moments.table.value(cell, _BIN) for cell in range(moments.table.n_cells)], dtype=np.int64)
    curves = []
    for name, cells in zip(names, member.astype(bool), strict=True):
        share = moments.weight[cells] / moments.weight[cells].sum()
        curve = tuple(
            ReliabilityBin(
                float(place[c] / bins), float((place[c] + 1) / bins), int(moments.count[c]),
                float(moments.score_mean[c]), float(moments.label_mean[c]), (float(low[c]), float(high[c])),
            )
            for c in np.flatnonzero(cells)
        )  # fmt: skip
        chance = float((share * deviation[cells]).sum() * np.sqrt(2 / np.pi))
        error = float((share * np.abs(gap[cells])).sum())
        curves.append(GroupReliability(name, int(moments.count[cells].sum()), error, chance, curve))
    return tuple(curves)


def _bin_intervals(moments: Moments, confidence: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Interval of mean label − mean score in every cell, and its standard deviation were scores calibrated."""
    size = effective_size(moments, np.eye(moments.table.n_cells))
    score, label = moments.score_mean, moments.label_mean
    binary = np.isclose(moments.label2_w2 + 2 * moments.shift * moments.label_w2 - moments.shift**2 * moments.weight2,
                        moments.label_w2)  # fmt: skip
    exact = binary & np.isclose(size, moments.count, rtol=1e-9)
    centred = {"w": -np.diag(label - moments.shift), "y": np.eye(len(label))}
    variance = np.maximum(np.diag(sum_products(moments, centred)), 0.0) / moments.weight**2
    labels = fit_unit_means(label, variance * size / np.maximum(size - 1, 1.0), size, exact=exact)
    level = two_sided_level(confidence)
    # the scores of a bin are known, and hardly differ; what is uncertain is how often the label is 1
    low, high = difference_limits(label, labels.limits(level), score, (score, score))
    return low, high, np.sqrt(score * (1 - score) / np.maximum(size, 1.0))
