"""Findings: the verdict on every criterion, with every gap and every group behind it.

A criterion *fails* when the simultaneous interval of one of its gaps lies above the tolerance, *passes* when the
intervals of all its gaps lie within the tolerance and no group is missing, and is *inconclusive* otherwise. Missing
evidence never passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from auditkit._typing import FloatArray
from auditkit.criteria import Contrasts, Criterion, Event
from auditkit.estimates import MIN_ROWS, EventEstimates, GapEstimates

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
        standard_error: Of the gap; None when a group has one row.
        verdict: Of this gap alone.
        p_above: P-value against "|gap| ≤ ε", not adjusted.
        p_below: P-value against "|gap| ≥ ε", not adjusted.
    """

    name: str
    gap: float
    interval: tuple[float, float] | None
    standard_error: float | None
    verdict: Verdict
    p_above: float | None
    p_below: float | None


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
        interval: Simultaneous interval of the largest absolute gap; None when some gap has none.
        p_value: P-value against "every gap is at most ε" (small: evidence of a gap above ε), Bonferroni over the gaps.
        p_equivalence: P-value against "some gap is at least ε" (small: evidence that all are below).
        verdict: "pass", "fail" or "inconclusive".
        reason: The verdict in a sentence.
        cells: Mean and size of every group within every stratum.
        gaps: Every gap.
        missing: Groups within strata that have no row at all.
        rows_needed: For an inconclusive gap: about how many rows in its smaller group would settle it; None when
            unknown or when it sits so near the tolerance that no foreseeable number would.
    """

    criterion: Criterion
    gap: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    p_equivalence: float | None
    verdict: Verdict
    reason: str
    cells: tuple[CellFinding, ...]
    gaps: tuple[GapFinding, ...]
    missing: tuple[str, ...]
    rows_needed: int | None

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
    gap_findings = tuple(_gap(int(k), contrasts, gaps, criterion.tolerance) for k in mine)
    verdict = _verdict(gap_findings, missing)
    return Finding(
        criterion=criterion,
        gap=max((abs(g.gap) for g in gap_findings), default=None),
        interval=_worst_interval(gap_findings),
        p_value=_p_value(gaps.p_above[mine]),
        p_equivalence=_p_equivalence(gaps.p_below[mine]),
        verdict=verdict,
        reason=_reason(verdict, criterion, gap_findings, cells, missing),
        cells=cells,
        gaps=gap_findings,
        missing=missing,
        rows_needed=_rows_needed(verdict, mine, contrasts, events, gaps),
    )


def _gap(k: int, contrasts: Contrasts, gaps: GapEstimates, tolerance: float) -> GapFinding:
    interval = (float(gaps.low[k]), float(gaps.high[k])) if gaps.adequate[k] else None
    verdict: Verdict = "inconclusive"
    if interval is not None and max(interval[0], -interval[1]) > tolerance:
        verdict = "fail"
    elif interval is not None and max(-interval[0], interval[1]) <= tolerance:
        verdict = "pass"
    return GapFinding(
        contrasts.describe(k), float(gaps.gap[k]), interval, _number(gaps.se[k]), verdict,
        _number(gaps.p_above[k]), _number(gaps.p_below[k]),
    )  # fmt: skip


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
    cells: Sequence[CellFinding],
    missing: Sequence[str],
) -> str:
    tolerance = f"{criterion.tolerance:g}"
    if verdict == "pass":
        return f"every gap is within {tolerance}, with its whole interval"
    if verdict == "fail":
        worst = max((gap for gap in gaps if gap.verdict == "fail"), key=lambda gap: abs(gap.gap))
        return f"the gap {worst.name} is {worst.gap:+.4f}; its interval lies outside ±{tolerance}"
    parts = []
    if missing:
        parts.append(f"no rows for {', '.join(missing)}")
    small = [f"{cell.group}{f' ({cell.stratum})' if cell.stratum else ''}" for cell in cells if cell.count < MIN_ROWS]
    if small:
        parts.append(f"fewer than {MIN_ROWS} rows for {', '.join(small)}")
    open_gaps = [gap.name for gap in gaps if gap.interval is not None and gap.verdict == "inconclusive"]
    if open_gaps:
        shown = ", ".join(open_gaps[:3]) + (f" and {len(open_gaps) - 3} more" if len(open_gaps) > 3 else "")
        parts.append(f"the interval of {shown} reaches both sides of {tolerance}")
    return "; ".join(parts) or "no two groups could be compared"


def _rows_needed(
    verdict: Verdict, mine: np.ndarray, contrasts: Contrasts, events: EventEstimates, gaps: GapEstimates
) -> int | None:
    """Rows of the smaller group of the most open gap at which its interval would shrink to its distance from ε."""
    if verdict != "inconclusive":
        return None
    needed = []
    for k in mine:
        distance = abs(abs(gaps.gap[k]) - contrasts.tolerance[k])
        half = (gaps.high[k] - gaps.low[k]) / 2
        rows = contrasts.contrast_min(events.count)[k]
        if not np.isfinite(half) or distance == 0:
            return None
        needed.append(rows * max(1.0, (half / distance) ** 2))
    present = contrasts.contrast_min(events.count)[mine].max(initial=1.0)
    return int(np.ceil(max(needed))) if needed and max(needed) <= FORESEEABLE * present else None


def _p_value(p_above: FloatArray) -> float | None:
    known = p_above[np.isfinite(p_above)]
    return float(min(1.0, known.min() * len(known))) if len(known) else None


def _p_equivalence(p_below: FloatArray) -> float | None:
    return float(p_below.max()) if len(p_below) and np.isfinite(p_below).all() else None


def _event_name(event: Event) -> str:
    return event.group_name + (f" ({event.stratum_name})" if event.stratum else "")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
