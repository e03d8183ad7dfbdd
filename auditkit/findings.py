"""Findings: the verdict on every criterion, with every gap and every group behind it.

Two questions are asked of every gap, each with its own p-value. *Is it above the tolerance?* The criterion **fails**
when Holm's adjusted p-value of one of its gaps is at most α = 1 − confidence, so that an audit in which no gap is above
its tolerance says "fail" anywhere with probability at most α. *Is it below the tolerance?* The criterion **passes**
when no group is missing and for every gap "|gap| ≥ ε" is rejected at α; since all must be rejected, no adjustment is
needed (intersection-union test) and a criterion with a gap at or above ε passes with probability at most α. Otherwise
it is **inconclusive**. Missing evidence never passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from auditkit._typing import FloatArray, IntArray
from auditkit.contrasts import Contrasts, Event
from auditkit.criteria import Criterion
from auditkit.estimates import MIN_ROWS, GapEstimates
from auditkit.event_estimates import EventEstimates
from auditkit.intervals import two_sided_level

FORESEEABLE = 100
"""A number of rows beyond this many times the present ones is not stated: the gap is as good as at the tolerance."""

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class GapFinding:
    """One gap of a criterion.

    Attributes:
        name: What is compared, e.g. ``Female − Male | label=1``.
        gap: The signed gap, in score units.
        interval: Simultaneous interval of the signed gap; None when a group has too few rows.
        pointwise_interval: The interval that covers this gap alone; None likewise.
        standard_error: Of the gap; None when a group has one row.
        verdict: Of this gap.
        p_above: P-value against "|gap| ≤ ε", not adjusted.
        p_below: P-value against "|gap| ≥ ε", not adjusted.
        p_above_adjusted: ``p_above`` adjusted over all gaps of the audit by Holm's method; "fail" looks at this one.
        q_above: ``p_above`` adjusted by Benjamini and Hochberg's method, for screening many gaps.
        detectable_gap: Smallest true |gap| that these rows would have found above ε with probability 0.8.
    """

    name: str
    gap: float
    interval: tuple[float, float] | None
    pointwise_interval: tuple[float, float] | None
    standard_error: float | None
    verdict: Verdict
    p_above: float | None
    p_below: float | None
    p_above_adjusted: float | None
    q_above: float | None
    detectable_gap: float | None


@dataclass(frozen=True)
class CellFinding:
    """One group within a stratum, as the criterion sees it.

    Attributes:
        group: The group in words.
        stratum: The stratum in words; empty without strata.
        count: Rows.
        mean_score: Mean score.
        mean_label: Mean label; None where no labels were given.
        value: What the criterion compares: mean score, or mean residual y − z.
        standard_error: Of ``value``; None for one row.
    """

    group: str
    stratum: str
    count: int
    mean_score: float
    mean_label: float | None
    value: float
    standard_error: float | None


@dataclass(frozen=True)
class Finding:
    """What an audit found for one criterion.

    Attributes:
        criterion: The criterion.
        gap: Largest absolute gap; None when no two groups could be compared.
        corrected_gap: The same less what the largest of several estimates exceeds the largest true gap by, on average;
            never below zero. None when no gap has an interval.
        interval: Simultaneous interval of the largest absolute gap; None when some gap has none.
        p_value: P-value against "every gap is at most ε" (small: evidence of a gap above ε): the smallest one that
            Holm's method gives a gap of this criterion among all gaps of the audit.
        p_equivalence: P-value against "some gap is at least ε" (small: evidence that all are below).
        verdict: "pass", "fail" or "inconclusive".
        reason: The verdict in a sentence.
        cells: Mean and size of every group within every stratum.
        gaps: Every gap.
        missing: Groups within strata that have no row at all.
        rows_needed: For an inconclusive criterion: the largest of ``rows_by_group``; None when unknown or when a gap
            sits so near the tolerance that no foreseeable number of rows would settle it.
        rows_by_group: About how many rows of every group that is short of them would settle it with probability 0.8,
            were the gaps as estimated.
        detectable_gap: Smallest true gap that these rows would have found above ε with probability 0.8, for the pair of
            groups known worst; None when some pair has no interval.
    """

    criterion: Criterion
    gap: float | None
    corrected_gap: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    p_equivalence: float | None
    verdict: Verdict
    reason: str
    cells: tuple[CellFinding, ...]
    gaps: tuple[GapFinding, ...]
    missing: tuple[str, ...]
    rows_needed: int | None
    rows_by_group: dict[str, int]
    detectable_gap: float | None

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON-ready values."""
        return {**asdict(self), "criterion": self.criterion.to_dict()}


def combine_verdicts(verdicts: Sequence[Verdict]) -> Verdict:
    """Give "fail" if any fails, "pass" if all pass, else "inconclusive"."""
    if "fail" in verdicts:
        return "fail"
    return "pass" if all(verdict == "pass" for verdict in verdicts) else "inconclusive"


def build_finding(position: int, contrasts: Contrasts, events: EventEstimates, gaps: GapEstimates) -> Finding:
    """The finding for one criterion.

    Args:
        position: Which of the compiled criteria.
        contrasts: What was compared.
        events: Means and standard errors per event.
        gaps: Gaps with intervals and tests.

    Returns:
        The finding.
    """
    criterion = contrasts.criteria[position]
    mine = np.flatnonzero(contrasts.criterion == position)
    cells = tuple(_cell(event, k, events) for k, event in enumerate(contrasts.events) if event.criterion == position)
    missing = tuple(_event_name(event) for event in contrasts.missing if event.criterion == position)
    gap_findings = tuple(_gap(int(k), contrasts, gaps) for k in mine)
    verdict = _verdict(gap_findings, missing)
    largest = max((abs(g.gap) for g in gap_findings), default=None)
    rows = _rows_needed(mine, contrasts, events, gaps) if verdict == "inconclusive" and not missing else {}
    detectable = gaps.detectable[mine]
    return Finding(
        criterion=criterion,
        gap=largest,
        corrected_gap=_corrected(largest, gaps, mine, position),
        interval=_worst_interval(gap_findings),
        p_value=_smallest(gaps.p_holm[mine]),
        p_equivalence=_p_equivalence(gaps.p_below[mine]),
        verdict=verdict,
        reason=_reason(verdict, criterion, gap_findings, _small_events(position, contrasts, events), missing),
        cells=cells,
        gaps=gap_findings,
        missing=missing,
        rows_needed=max(rows.values(), default=None),
        rows_by_group=rows,
        detectable_gap=_number(detectable.max()) if len(detectable) else None,
    )


def _gap(k: int, contrasts: Contrasts, gaps: GapEstimates) -> GapFinding:
    known, level = bool(gaps.adequate[k]), 1 - gaps.confidence
    verdict: Verdict = "inconclusive"
    if known and gaps.p_holm[k] <= level:
        verdict = "fail"
    elif known and gaps.p_below[k] <= level:
        verdict = "pass"
    return GapFinding(
        name=contrasts.describe(k),
        gap=float(gaps.gap[k]),
        interval=(float(gaps.low[k]), float(gaps.high[k])) if known else None,
        pointwise_interval=(float(gaps.pointwise[0][k]), float(gaps.pointwise[1][k])) if known else None,
        standard_error=_number(gaps.se[k]),
        verdict=verdict,
        p_above=_number(gaps.p_above[k]),
        p_below=_number(gaps.p_below[k]),
        p_above_adjusted=_number(gaps.p_holm[k]),
        q_above=_number(gaps.q_value[k]),
        detectable_gap=_number(gaps.detectable[k]),
    )


def _corrected(largest: float | None, gaps: GapEstimates, mine: IntArray, position: int) -> float | None:
    if largest is None or not gaps.adequate[mine].any():
        return None
    return max(0.0, largest - float(gaps.excess[position]))


def _cell(event: Event, k: int, events: EventEstimates) -> CellFinding:
    return CellFinding(
        event.group_name, event.stratum_name, int(events.count[k]), float(events.score[k]), _number(events.label[k]),
        float(events.value[k]), _number(np.sqrt(events.variance[k])),
    )  # fmt: skip


def _verdict(gaps: Sequence[GapFinding], missing: Sequence[str]) -> Verdict:
    if any(gap.verdict == "fail" for gap in gaps):
        return "fail"
    complete = gaps and not missing and all(gap.verdict == "pass" for gap in gaps)
    return "pass" if complete else "inconclusive"


def _worst_interval(gaps: Sequence[GapFinding]) -> tuple[float, float] | None:
    """Interval of max |gap| from the simultaneous intervals of the signed gaps."""
    known = [gap.interval for gap in gaps if gap.interval is not None]
    if not known or len(known) < len(gaps):
        return None
    low = max(max(interval[0], -interval[1], 0.0) for interval in known)
    return low, max(max(-interval[0], interval[1]) for interval in known)


def _reason(
    verdict: Verdict,
    criterion: Criterion,
    gaps: Sequence[GapFinding],
    small: Sequence[str],
    missing: Sequence[str],
) -> str:
    tolerance = f"{criterion.tolerance:g}"
    if verdict == "pass":
        worst = max(gap.p_below or 0.0 for gap in gaps)
        return f"every gap was shown to be below {tolerance} (p {_p_words(worst)})"
    if verdict == "fail":
        worst = max((gap for gap in gaps if gap.verdict == "fail"), key=lambda gap: abs(gap.gap))
        p_value = _p_words(worst.p_above_adjusted or 0.0)
        signed = f"{worst.gap:+.4f}".replace("-", "−")
        return f"the gap {worst.name} is {signed} and was shown to be above {tolerance} (adjusted p {p_value})"
    parts = []
    if missing:
        parts.append(f"no rows for {', '.join(missing)}")
    if small:
        parts.append(f"fewer than {MIN_ROWS} rows for {', '.join(small)}")
    open_gaps = [gap.name for gap in gaps if gap.interval is not None and gap.verdict == "inconclusive"]
    if open_gaps:
        shown = ", ".join(open_gaps[:3]) + (f" and {len(open_gaps) - 3} more" if len(open_gaps) > 3 else "")
        parts.append(f"these rows show neither that {shown} is above {tolerance} nor that it is below")
    if not parts and gaps:
        parts.append("all values are the same, so nothing is known about their spread")
    return "; ".join(parts) or "no two groups could be compared"


def _p_words(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def _small_events(position: int, contrasts: Contrasts, events: EventEstimates) -> list[str]:
    small = (events.effective < MIN_ROWS - 1e-9) & ~events.binary
    return [_event_name(event) for k, event in enumerate(contrasts.events) if event.criterion == position and small[k]]


def _rows_needed(mine: IntArray, contrasts: Contrasts, events: EventEstimates, gaps: GapEstimates) -> dict[str, int]:
    """Rows of every group at which each open gap, were it as estimated, would be settled with probability 0.8.

    The variance that settles a gap is shared between its two groups; a group that needs less than half of it because
    it has many rows already leaves the rest to the other.
    """
    settled = {"fail": gaps.p_holm <= 1 - gaps.confidence, "pass": gaps.p_below <= 1 - gaps.confidence}
    needed: dict[str, int] = {}
    for k in mine:
        if settled["fail"][k] or settled["pass"][k]:
            continue
        above = abs(gaps.gap[k]) > contrasts.tolerance[k]
        level = (1 - gaps.confidence) / (max(int(gaps.adequate.sum()), 1) if above else 1)
        distance = abs(abs(gaps.gap[k]) - contrasts.tolerance[k])
        target = (distance / (two_sided_level(1 - 2 * level) + two_sided_level(0.6))) ** 2
        pair = [int(event) for event in (contrasts.plus[k], contrasts.minus[k]) if event >= 0]
        variance = np.diag(events.covariance)[pair]
        if not np.isfinite(variance).all() or target <= 0:
            return {}
        for event, own, other in zip(pair, variance, variance[::-1] if len(pair) > 1 else [0.0], strict=True):
            share = target - min(other, target / 2)
            rows = int(np.ceil(events.count[event] * max(own / share, 1.0)))
            if rows > FORESEEABLE * events.count[event]:
                return {}
            if own > share:
                name = _event_name(contrasts.events[event])
                needed[name] = max(rows, needed.get(name, 0))
    return needed


def _smallest(values: FloatArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.min()) if len(known) else None


def _p_equivalence(p_below: FloatArray) -> float | None:
    return float(p_below.max()) if len(p_below) and np.isfinite(p_below).all() else None


def _event_name(event: Event) -> str:
    return event.group_name + (f" ({event.stratum_name})" if event.stratum else "")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
