"""How far scores are from outcomes, group by group: mean residual, absolute and squared error, and calibration.

    mean residual = Σ w (y − z) / Σ w        MAE = Σ w |y − z| / Σ w        RMSE = √(Σ w (y − z)² / Σ w)
    ECE = Σ_b share_b · |mean label_b − mean score_b|                        b: bins of the score

An ECE is above zero even for a perfectly calibrated score, since bins are small; what chance alone would make of it is
stated beside it. Standard errors are linearised, as everywhere in an audit.

Sources: Guo, Pleiss, Sun and Weinberger (2017), ICML, for the ECE; Bröcker and Smith (2007), Weather and Forecasting
22, 651–661, for reliability curves with what chance allows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from scipy import special

from auditkit._typing import FloatArray, VectorLike
from auditkit._validation import check_probability, check_vector, check_weights
from auditkit.errors import InputError
from auditkit.groups import Groups
from auditkit.intervals import difference_limits, fit_unit_means, two_sided_level
from auditkit.margins import SCORE_BIN, SCORE_BINS, marginal
from auditkit.moments import Moments
from auditkit.squares import effective_size, sum_products

Figure: TypeAlias = "tuple[float, float | None, float | None]"
"""A value with the ends of its interval."""


Entry = TypeVar("Entry")


@dataclass(frozen=True)
class GroupTable(Generic[Entry]):
    """What is stated of the groups of one set of attributes.

    Attributes:
        attributes: The columns crossed.
        output: The output of the model; None where there is one score per row.
        groups: One entry per group that occurs.
    """

    attributes: tuple[str, ...]
    output: Hashable
    groups: tuple[Entry, ...]

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class GroupErrors:
    """Errors of the scores in one group; each figure as (value, low, high), for this group alone.

    The ends are None where the group has one row, and those of the last two where its rows are clustered.

    Attributes:
        group: The group in words.
        count: Rows.
        mean_residual: Mean of y − z; positive where scores are too low.
        mean_absolute_error: MAE.
        root_mean_square_error: RMSE.
    """

    group: str
    count: int
    mean_residual: Figure
    mean_absolute_error: Figure
    root_mean_square_error: Figure


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
    check_probability("confidence", confidence)
    names, member = moments.table.unions(attributes)
    mass = member @ moments.weight
    mean = (member @ (moments.label - moments.score)) / mass
    square = member @ (moments.score2 + moments.label2 - 2 * moments.cross)
    square_w2 = member @ (moments.score2_w2 + moments.label2_w2 - 2 * moments.cross_w2)
    level = two_sided_level(confidence)
    size = effective_size(moments, member)

    def half_width(square: FloatArray) -> FloatArray:
        """From Σ w² (v − v̄)²."""
        t = -special.stdtrit(np.maximum(size - 1, 1.0), special.ndtr(-level))
        factor = np.divide(size, size - 1, out=np.full_like(size, np.inf), where=size > 1)
        return t * np.sqrt(np.maximum(square, 0.0) * factor) / mass

    def spread(value: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
        """Σ w² (v − v̄)² from Σ w² v and Σ w² v², of independent rows."""
        return second - 2 * value * first + value**2 * (member @ moments.weight2)

    centred = {"w": -mean[:, None] * member, "z": -member, "y": member}
    residual = mean, half_width(np.diag(sum_products(moments, centred)))
    absolute = (member @ moments.absolute) / mass
    squared = np.maximum(square / mass, 0.0)
    unknown = np.full_like(mass, np.nan)
    tied = moments.gram is not None
    of_absolute = unknown if tied else half_width(spread(absolute, member @ moments.absolute_w2, square_w2))
    of_squared = unknown if tied else half_width(spread(squared, square_w2, member @ moments.quartic_w2))
    counts = member @ moments.count
    return tuple(
        GroupErrors(
            name, round(float(counts[k])), _ends(residual, k), _ends((absolute, of_absolute), k, 0.0),
            _roots(_ends((squared, of_squared), k, 0.0)),
        )
        for k, name in enumerate(names)
    )  # fmt: skip


def _ends(figure: tuple[FloatArray, FloatArray], k: int, least: float = -np.inf) -> Figure:
    value, half = float(figure[0][k]), float(figure[1][k])
    return (value, max(value - half, least), value + half) if np.isfinite(half) else (value, None, None)


def _roots(values: Figure) -> Figure:
    root, low, high = (None if value is None else float(np.sqrt(value)) for value in values)
    assert root is not None
    return root, low, high


def assess_calibration(
    scores: VectorLike,
    labels: VectorLike,
    groups: Groups,
    attributes: str | Sequence[str],
    *,
    bins: int = SCORE_BINS,
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
    binned = Groups({**{name: groups.values(name) for name in names}, SCORE_BIN: place})
    moments = Moments.from_rows(
        z, binned.cells((*names, SCORE_BIN)), labels=y, weights=check_weights(weights, n_rows=groups.n_rows)
    )
    return tabulate_reliability(moments, names, bins=bins, confidence=confidence)


def tabulate_reliability(
    moments: Moments, attributes: Sequence[str], *, bins: int = SCORE_BINS, confidence: float = 0.95
) -> tuple[GroupReliability, ...]:
    """`assess_calibration` from moments that are told apart by the bin of the score.

    Args:
        moments: Sums per cell, with labels, over columns that hold the attributes and `SCORE_BIN`.
        attributes: The columns crossed.
        bins: Number of bins.
        confidence: Confidence of every bin's interval, for it alone.

    Returns:
        One entry per group that occurs.
    """
    moments = marginal(moments, (*attributes, SCORE_BIN))
    names, member = moments.table.unions(attributes)
    low, high, deviation = _bin_intervals(moments, confidence)
    gap = moments.label_mean - moments.score_mean
    place = np.array([moments.table.value(cell, SCORE_BIN) for cell in range(moments.table.n_cells)], dtype=np.int64)
    curves = []
    for name, cells in zip(names, member.astype(bool), strict=True):
        share = moments.weight[cells] / moments.weight[cells].sum()
        curve = tuple(
            ReliabilityBin(
                float(place[c] / bins), float((place[c] + 1) / bins), round(float(moments.count[c])),
                float(moments.score_mean[c]), float(moments.label_mean[c]), (float(low[c]), float(high[c])),
            )
            for c in np.flatnonzero(cells)
        )  # fmt: skip
        chance = float((share * deviation[cells]).sum() * np.sqrt(2 / np.pi))
        error = float((share * np.abs(gap[cells])).sum())
        curves.append(GroupReliability(name, round(float(moments.count[cells].sum())), error, chance, curve))
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
