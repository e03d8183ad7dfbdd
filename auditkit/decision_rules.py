"""Decision rules: a threshold, the full-sample median, or the highest scores; what each of them means, in one place.

    d = 1[z > t] + s·1[z = t]        t: the cut, s: the share of the scores equal to it that is positive

A threshold has s = 1 and the median s = 0. Of K places for the highest scores, those equal to the K-th highest share
what the higher ones leave. Row weights do not count: a place is a row's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from auditkit.errors import InputError

Rule: TypeAlias = "float | str"
"""A threshold, "median", "top 100" or "top 5%"."""

MEDIAN = "median"


@dataclass(frozen=True)
class Cut:
    """Where a rule cuts the scores.

    Attributes:
        threshold: t.
        share: s.
        rule: The rule in words.
    """

    threshold: float
    share: float
    rule: str


def check_rule(rule: Rule) -> Rule:
    """A rule as it was given; text that is a number becomes one.

    Raises:
        InputError: It is none.
    """
    if not isinstance(rule, str):
        return _finite(rule, rule)
    if rule == MEDIAN:
        return rule
    try:
        return _finite(float(rule), rule)
    except ValueError:
        _parse_places(rule)
    return rule


def count_places(rule: str, n_rows: int) -> int:
    """How many rows the rule "top K" or "top P%" selects.

    Args:
        rule: The rule.
        n_rows: Rows there are.

    Returns:
        K, in 1…n_rows.

    Raises:
        InputError: An unknown rule, or more places than rows.
    """
    amount, is_share = _parse_places(rule, n_rows)
    places = round(n_rows * amount / 100) if is_share else amount
    if not 1 <= places <= n_rows:
        raise _unknown(rule, n_rows)
    return int(places)


def middle_places(n_rows: int) -> tuple[int, int]:
    """Places, from the highest, of the two scores whose mean is the median; the same place twice for an odd number."""
    return n_rows // 2 + n_rows % 2, n_rows // 2 + 1


def cut_at(threshold: float) -> Cut:
    """The cut of a number."""
    return Cut(float(threshold), 1.0, f"a score of {threshold:g} or more")


def cut_at_median(median: float) -> Cut:
    """The cut of "median"."""
    return Cut(median, 0.0, f"a score above the full-sample median ({median:g})")


def cut_at_place(rule: str, score: float, *, places: int, above: int, equal: int) -> Cut:
    """The cut of "top K" and "top P%".

    Args:
        rule: The rule.
        score: The K-th highest score.
        places: K.
        above: Rows with a higher score.
        equal: Rows with that score.
    """
    return Cut(score, (places - above) / equal, f"one of the {places} highest scores ({rule})")


def _finite(value: float, given: Rule) -> float:
    if isinstance(value, bool) or not math.isfinite(value):
        raise _unknown(given)
    return float(value)


def _parse_places(rule: str, n_rows: int | None = None) -> tuple[float, bool]:
    """The number in "top K" or "top P%", and whether it is a percentage."""
    word, _, amount = rule.partition(" ")
    is_share = amount.endswith("%")
    try:
        value = float(amount.removesuffix("%")) if word == "top" else math.nan
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0 and (value <= 100 if is_share else value.is_integer())):
        raise _unknown(rule, n_rows)
    return value, is_share


def _unknown(rule: Rule, n_rows: int | None = None) -> InputError:
    places = 'such as "top 100"' if n_rows is None else f"with 1 ≤ K ≤ {n_rows} rows"
    return InputError(f'threshold must be a number, "median", "top K" {places}, or "top P%"; got {rule!r}')
