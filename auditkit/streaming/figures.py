"""What a stream reports of itself: pooled gaps, their bounds, intervals for the population, and alarms.

Three kinds of figures, none in place of another:

- the *pooled gap* over all rows released so far (over all labelled rows where a criterion needs labels), which an
  auditor would measure; with its a-posteriori bound |gap| ≤ ε + |T(α − A/N)|, an identity proved in `pooled`;
- the *weighted-average violation* Σ b_t (gap_t − ε) / Σ b_t of the batches by themselves, which the paper's theorem is
  about; for the scalar rule with its bound λ_{T+1}/(η_T Σ b_t);
- an *interval for the gap in the population*: a confidence sequence for the average over the rows so far of what each
  row's expected score was, given the corrections in force when it came; valid at every look, all gaps at once,
  asymptotically (`monitoring.asymptotic_radius`). The r-th group to appear in a criterion takes 1/(r(r + 1)) of the
  error, shared by the pairs that it makes, so that groups may appear at any time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from auditkit.monitoring import START_ROWS, asymptotic_radius
from auditkit.streaming.layout import Layout, pooled_gaps, split_layouts
from auditkit.streaming.planning import Plan, make_plan
from auditkit.streaming.scalar import scalar_bound
from auditkit.streaming.state import CellSums, Key, LabelSums, StreamConfig, StreamState

ALARM_ROWS = 1000
"""Rows from which on a pooled gap outside ε + band/√N is an alarm."""

SMALLEST_TOLERANCE = 1e-3
"""The intervals are tightest where a gap of this size, or of ε, can be told from zero."""


@dataclass(frozen=True)
class StreamGap:
    """One gap as the stream stands.

    Attributes:
        criterion: Name of the criterion.
        name: What is compared.
        gap: Signed pooled gap of what was released (of residuals for EER); None where a group has no rows.
        tolerance: ε.
        rows: Rows behind it; labelled ones where the criterion needs labels.
        recent_gap: The same with older rows weighing less; equal to ``gap`` without a window.
        bound: What |recent_gap| provably does not exceed; None under the scalar rule, and before enough labels.
        interval: For the gap in the population; None before `monitoring.START_ROWS` rows per group.
    """

    criterion: str
    name: str
    gap: float | None
    tolerance: float
    rows: int
    recent_gap: float | None
    bound: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Alarm:
    """A bound that was crossed.

    Attributes:
        kind: "pooled" (a pooled gap outside ε + band/√N), "population" (the interval excludes every gap within ε), or
            "conflict" (the criteria contradict each other on these rows).
        criterion: Name of the criterion; empty for a conflict.
        message: What was found, in words.
    """

    kind: str
    criterion: str
    message: str


@dataclass(frozen=True)
class StreamReport:
    """A stream in figures.

    Attributes:
        rows: Rows released.
        batches: Batches released.
        labelled_rows: Rows whose label has arrived.
        rule: By which corrections are found.
        gaps: Every gap.
        weighted_violation: Σ b_t (gap_t − ε)/Σ b_t over batches by themselves; None where no criterion applies yet.
        late_violation: The same of the criteria that need labels.
        dual: λ of the scalar rule.
        dual_bound: What the weighted-average violation of the batches that updated λ cannot exceed; None when pooled.
        relaxation: What had to be added to the tolerances in the last plan.
        alarms: Bounds that are crossed now.
    """

    rows: int
    batches: int
    labelled_rows: int
    rule: str
    gaps: tuple[StreamGap, ...]
    weighted_violation: float | None
    late_violation: float | None
    dual: float
    dual_bound: float | None
    relaxation: float
    alarms: tuple[Alarm, ...]

    @property
    def worst_excess(self) -> float:
        """max_k (|gap_k| − ε_k) over the pooled gaps; −∞ where there are none."""
        known = [abs(gap.gap) - gap.tolerance for gap in self.gaps if gap.gap is not None]
        return max(known, default=-math.inf)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return asdict(self)


def describe(state: StreamState, config: StreamConfig) -> StreamReport:
    """Every figure of a stream.

    Args:
        state: What the stream knows.
        config: What is enforced.

    Returns:
        The report.
    """
    gaps: list[StreamGap] = []
    if state.cells:
        plan = make_plan(config, state.cells, state.labelled) if config.rule == "pooled" else None
        released, labelled = split_layouts(config, state)
        gaps += _gaps(released, state.total, state.cells, plan, config)
        gaps += _gaps(labelled, state.labelled_total, state.labelled, plan, config)
    order = {criterion.name: position for position, criterion in enumerate(config.criteria)}
    gaps.sort(key=lambda gap: order[gap.criterion])
    return StreamReport(
        state.rows, state.batches, round(sum(sums.rows for sums in state.labelled_total.values())), config.rule,
        tuple(gaps), state.violation / state.weight if state.weight else None,
        state.late_violation / state.late_weight if state.late_weight else None, state.dual,
        scalar_bound(state, config) if config.rule == "scalar" else None, state.relaxation,
        tuple(_alarms(state, config, gaps)),
    )  # fmt: skip


Table = Mapping[Key, CellSums] | Mapping[Key, LabelSums]


def _gaps(layout: Layout, total: Table, recent: Table, plan: Plan | None, config: StreamConfig) -> list[StreamGap]:
    if not layout.plus:
        return []
    now, late = pooled_gaps(layout, total), pooled_gaps(layout, recent)
    rows = np.array([total[key].rows for key in layout.keys])
    events = layout.contrasts.cell_event.astype(np.float64) @ rows
    smallest = layout.contrasts.contrast_min(events)
    count = layout.contrasts.contrast_sum(events)
    variance = _variance(layout, total)
    share = _shares(layout, len(config.criteria))
    bounds = [None] * len(now) if plan is None else _bounds(layout, recent, plan, config)
    found = []
    for k, gap in enumerate(now):
        criterion = config.criteria[layout.owner[k]]
        interval = None
        if smallest[k] >= START_ROWS and variance[k] > 0:
            horizon = (3 / max(criterion.tolerance, SMALLEST_TOLERANCE)) ** 2
            alpha = (1 - config.confidence) * share[k]
            half = float(asymptotic_radius(variance[k], horizon=horizon, alpha=alpha))
            interval = (gap - half, gap + half)
        found.append(StreamGap(
            criterion.name, layout.contrasts.describe(k), gap, criterion.tolerance, round(count[k]), late[k], bounds[k],
            interval,
        ))  # fmt: skip
    return found


def _variance(layout: Layout, table: Table) -> Any:
    """Squared standard error of every gap: the variance of what is averaged, within every event, over its rows."""
    sums = [table[key] for key in layout.keys]
    member = layout.contrasts.cell_event.astype(np.float64)
    rows = member @ np.array([value.rows for value in sums])

    def of(first: list[float], second: list[float]) -> Any:
        mean = member @ np.array(first) / rows
        return np.maximum(member @ np.array(second) / rows - mean**2, 0.0) / rows

    plain = layout.contrasts.contrast_sum(of([v.released for v in sums], [v.released2 for v in sums]))
    if not layout.has_residuals:
        return plain
    late = [value for value in sums if isinstance(value, LabelSums)]
    residual = of([v.label - v.released for v in late], [v.residual2 for v in late])
    return np.where(layout.residual, layout.contrasts.contrast_sum(residual), plain)


def _shares(layout: Layout, criteria: int) -> list[float]:
    """The share of the error of every gap, by when the later of its groups appeared; they add up to at most 1."""
    place: dict[int, int] = {}
    for event in sorted(range(len(layout.events)), key=lambda e: min(layout.events[e])):
        owner = layout.contrasts.events[event].criterion
        place[event] = sum(layout.contrasts.events[other].criterion == owner for other in place) + 1
    shares = []
    for plus, minus in zip(layout.plus, layout.minus, strict=True):
        last = max(place[plus], place.get(minus, 0))
        pairs = 1 if minus < 0 else last - 1
        shares.append(1.0 / (criteria * last * (last + 1) * pairs))
    return shares


def _bounds(layout: Layout, recent: Table, plan: Plan, config: StreamConfig) -> list[float | None]:
    """ε + relaxation + |T(planned − given corrections)|; None for contrasts that are not enforced yet."""
    rows, differences = [], []
    for key in layout.keys:
        sums = recent[key]
        cell = key[: len(config.columns)]
        planned = plan.shift.get(cell, 0.0)
        if isinstance(sums, LabelSums) and plan.slope:
            planned += plan.slope.get(cell, 0.0) * (sums.raw / sums.rows - plan.centre.get(cell, 0.0))
        rows.append(sums.rows)
        differences.append(planned * sums.rows - sums.correction)
    events = layout.contrasts.cell_event.astype(np.float64) @ np.array(rows)
    least = config.min_labels if any(c.needs_labels for c in layout.contrasts.criteria) else 0
    enforced = layout.contrasts.contrast_min(events) >= least
    off = layout.contrast(layout.event_means(rows, differences))
    return [
        tolerance + plan.relaxation + abs(difference) if flag else None
        for tolerance, difference, flag in zip(layout.tolerance, off, enforced.tolist(), strict=True)
    ]


def _alarms(state: StreamState, config: StreamConfig, gaps: list[StreamGap]) -> list[Alarm]:
    found = []
    if state.relaxation > 0:
        found.append(Alarm("conflict", "", f"the criteria contradict each other on these rows; every tolerance was "
                           f"widened by {state.relaxation:.4g}, the least that helps"))  # fmt: skip
    for gap in gaps:
        if gap.gap is None or not math.isfinite(gap.gap):
            continue
        allowed = gap.tolerance + config.band / math.sqrt(max(gap.rows, 1))
        if gap.rows >= ALARM_ROWS and abs(gap.gap) > allowed:
            found.append(Alarm("pooled", gap.criterion, f"the pooled gap of {gap.name} is {gap.gap:.4g} after "
                               f"{gap.rows} rows, outside ±{allowed:.4g}"))  # fmt: skip
        if gap.interval is not None and max(gap.interval[0], -gap.interval[1]) > gap.tolerance:
            low, high = gap.interval
            found.append(Alarm("population", gap.criterion, f"the gap of {gap.name} in the population lies in "
                               f"[{low:.4g}, {high:.4g}], outside ±{gap.tolerance:.4g}"))  # fmt: skip
    return found
