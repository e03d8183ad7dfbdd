"""Where a decision rule cuts the scores of a table that need not fit in memory.

The K-th highest score is found exactly, by counting: the rows are counted between pivots, and the one interval that
holds the K-th place is looked at again, until it holds few enough rows to be fetched. The pivots of the first pass are
quantiles of the first rows, so that two passes over the column of scores suffice unless those rows mislead.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from auditkit._typing import FloatArray
from auditkit.decision_rules import (
    MEDIAN,
    Cut,
    Rule,
    check_rule,
    count_places,
    cut_at,
    cut_at_median,
    cut_at_place,
    middle_places,
)
from auditkit.engines.base import Engine
from auditkit.engines.statements import Statement, number

FETCHED_ROWS = 100_000
"""An interval of at most this many rows is fetched and sorted."""

PIVOTS = 128
"""Pivots of one kind; a statement holds two kinds."""

NEARBY = 0.02
"""Half the width, in shares of the rows, of the range around the wanted place that the first pivots make finer."""


@dataclass(frozen=True)
class Place:
    """The K-th highest score.

    Attributes:
        score: It.
        above: Rows with a higher score.
        equal: Rows with that score.
    """

    score: float
    above: int
    equal: int


@dataclass(frozen=True)
class _Interval:
    """Rows with scores from ``low`` to ``high``, both of which occur."""

    count: int
    low: float
    high: float


def find_cut(engine: Engine, rows: Statement, rule: Rule, sample: FloatArray, *, refuse: Callable[[], object]) -> Cut:
    """What `auditkit.decisions.decide` finds, by counting where the rows are.

    Args:
        engine: Where the rows are.
        rows: The rows with their scores z.
        rule: A threshold, "median", "top K" or "top P%".
        sample: Scores of some of the rows.
        refuse: Called where a score is missing, NaN or infinite; raises.

    Returns:
        The cut.

    Raises:
        InputError: An unknown rule, or more places than rows.
    """
    checked = check_rule(rule)
    return _Search(engine, rows, refuse).find(checked, sample) if isinstance(checked, str) else cut_at(checked)


class _Search:
    def __init__(self, engine: Engine, rows: Statement, refuse: Callable[[], object]) -> None:
        self.engine, self.rows, self.refuse = engine, rows, refuse

    def find(self, rule: str, sample: FloatArray) -> Cut:
        whole = self._split(_first_pivots(sample, _expected_share(rule, len(sample))), None)
        n_rows = sum(part.count for part in whole)
        if rule != MEDIAN:
            places = count_places(rule, n_rows)
            found = self._find_place(places, whole)
            return cut_at_place(rule, found.score, places=places, above=found.above, equal=found.equal)
        upper, lower = middle_places(n_rows)
        first = self._find_place(upper, whole)
        second = first.score if first.above + first.equal >= lower else self._next_below(first.score)
        return cut_at_median(float(np.mean([first.score, second])))

    def _find_place(self, places: int, parts: Sequence[_Interval]) -> Place:
        above = 0
        while True:
            reached = above + np.cumsum([part.count for part in parts])
            k = int(np.searchsorted(reached, places))
            part, above = parts[k], int(reached[k]) - parts[k].count
            if part.low == part.high:
                return Place(part.low, above, part.count)
            if part.count <= FETCHED_ROWS:
                return self._fetch(part, places, above)
            parts = self._split(_pivots_within(part.low, part.high), part)

    def _split(self, pivots: Sequence[float], part: _Interval | None) -> list[_Interval]:
        """Count the rows between pivots, the highest scores first."""
        inner = f"SELECT z, {_place_among(pivots)} AS bucket FROM ({self.rows.text}) taken{_within(part)}"
        text = f"SELECT count(*), count(z), min(z), max(z) FROM ({inner}) placed GROUP BY bucket ORDER BY bucket DESC"
        found = self.engine.query(text, self.rows.parameters)
        if any(count != known or not np.isfinite([low, high]).all() for count, known, low, high in found):
            self.refuse()
        return [_Interval(int(count), float(low), float(high)) for count, _, low, high in found]

    def _fetch(self, part: _Interval, places: int, above: int) -> Place:
        text = f"SELECT z, count(*) FROM ({self.rows.text}) taken{_within(part)} GROUP BY z"
        found = np.array(self.engine.query(text, self.rows.parameters), dtype=np.float64)
        scores, index = np.unique(-found[:, 0], return_inverse=True)
        counts = np.bincount(index, weights=found[:, 1]).astype(np.int64)
        reached = above + np.cumsum(counts)
        k = int(np.searchsorted(reached, places))
        return Place(float(-scores[k]), int(reached[k] - counts[k]), int(counts[k]))

    def _next_below(self, score: float) -> float:
        text = f"SELECT max(z) FROM ({self.rows.text}) taken WHERE z < {number(score)}"
        return float(self.engine.query(text, self.rows.parameters)[0][0])


def _within(part: _Interval | None) -> str:
    return "" if part is None else f" WHERE z >= {number(part.low)} AND z <= {number(part.high)}"


def _place_among(pivots: Sequence[float]) -> str:
    """How many pivots are at or below z, by bisection; a missing z counts as above all of them."""

    def search(low: int, high: int) -> str:
        if low == high:
            return str(low)
        middle = (low + high) // 2
        return f"CASE WHEN z < {number(pivots[middle])} THEN {search(low, middle)} ELSE {search(middle + 1, high)} END"

    return search(0, len(pivots))


def _expected_share(rule: str, n_sample: int) -> float:
    """The share of the rows above the cut, as far as the rule alone tells it."""
    amount = rule.removeprefix("top ")
    if rule == MEDIAN:
        return 0.5
    return float(amount.removesuffix("%")) / 100 if amount.endswith("%") else 1 / n_sample


def _first_pivots(sample: FloatArray, share: float) -> list[float]:
    """Quantiles of the sample, finer around the one that is wanted."""
    wide = np.linspace(0, 1, PIVOTS)
    near = np.clip(np.linspace(1 - share - NEARBY, 1 - share + NEARBY, PIVOTS), 0, 1)
    return np.unique(np.quantile(sample, np.concatenate([wide, near]), method="inverted_cdf")).tolist()


def _pivots_within(low: float, high: float) -> list[float]:
    """Numbers in (low, high], half of them evenly spaced, half evenly spaced among the numbers of float64.

    The latter halve the interval however its rows are spread: it holds one number after ten passes at the latest.
    """
    first, last = _rank(low), _rank(high)
    ranked = [_unrank(first + (last - first) * step // PIVOTS) for step in range(1, PIVOTS + 1)]
    even = (low + (high / PIVOTS - low / PIVOTS) * np.arange(1, PIVOTS)).tolist()
    return sorted({value for value in (*ranked, *even) if low < value <= high})


def _rank(value: float) -> int:
    """The place of a number among those of float64."""
    bits = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)


def _unrank(rank: int) -> float:
    value = struct.unpack("<d", struct.pack("<q", abs(rank)))[0]
    return value if rank >= 0 else -value
