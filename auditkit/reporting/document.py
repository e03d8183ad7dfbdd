"""The report as data: `ReportDocument` holds everything that a report states, and every renderer reads it alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from auditkit.decision_rules import MEDIAN
from auditkit.reporting.parts import AuditPart, ComparisonPart, RunPart
from auditkit.reporting.sections import (
    GuaranteeRecord,
    Paragraph,
    PlanRecord,
    RegulatoryReport,
    Representation,
    RunChanges,
)

SCHEMA = "auditkit.report/2"
RUN_SCHEMA = "auditkit.run/1"

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one audit found for one criterion.

    Attributes:
        verdict: "pass", "fail" or "inconclusive".
        gap: Largest absolute gap; None when no two groups could be compared.
        interval: Simultaneous interval of it; None when some gap has none.
        reason: The verdict in a sentence.
        rows_needed: Rows of the smaller group that would settle an inconclusive gap, where known.
        rows_by_group: The same for every group that is short of rows.
        corrected_gap: The largest gap less what the largest of several estimates exceeds it by on average.
        detectable_gap: Smallest gap that would have been found with probability 0.8.
        cells: Mean and size of every group within every stratum.
        gaps: Every gap.
    """

    verdict: str
    gap: float | None
    interval: tuple[float, float] | None
    reason: str
    rows_needed: int | None
    rows_by_group: Json
    corrected_gap: float | None
    detectable_gap: float | None
    cells: tuple[Json, ...]
    gaps: tuple[Json, ...]


@dataclass(frozen=True)
class CriterionRow:
    """One criterion with what was found before and, where a head was tuned, after.

    Attributes:
        name: What the report calls it.
        criterion: The criterion as a dictionary.
        tolerance: ε.
        enforced_tolerance: The tolerance that the head was tuned for; None when it was not tuned for this.
        before: Of the model as found.
        after: Of the tuned and calibrated scores; None without them.
    """

    name: str
    criterion: Json
    tolerance: float
    enforced_tolerance: float | None
    before: Outcome
    after: Outcome | None

    @property
    def enforced(self) -> bool:
        """Whether the head was tuned for it."""
        return self.enforced_tolerance is not None


@dataclass(frozen=True)
class DecisionPair:
    """The decisions by the groups of one set of attributes, before and after.

    Attributes:
        attributes: The columns crossed.
        output: The output of the model; None where there is one score per row.
        before: The decision table of the model as found.
        after: Of the tuned and calibrated scores; None without them.
    """

    attributes: tuple[str, ...]
    output: str | None
    before: Json
    after: Json | None


@dataclass(frozen=True)
class ReportDocument:
    """Everything a report states; the same content as its JSON.

    Attributes:
        title: Name of the audit.
        verdict: Of the model as found, over every criterion.
        after_verdict: Of the tuned scores, over the enforced criteria; None without them.
        criteria: One row per criterion of the audit.
        decisions: One pair of tables per set of attributes; empty without a threshold.
        run: run.json.
        audit: audit.json.
        after: audit_after.json, where there is one.
        comparison: comparison.json, where there is one.
        timing: timing.json, where there is one.
        stream: stream.json, the figures of a stream that runs with these criteria, where there is one.
        frontier: frontier.json, what every tolerance costs, where there is one.
        projection: projection.json, the certificate of the projection of the tuned scores, where there is one.
        summary: The report in a few paragraphs.
        representation: The groups of every attribute in the data.
        plan: Whether what was tested had been fixed beforehand.
        methods: How the figures were reached.
        guarantee: What the corrections promise beyond their rows; None without corrections.
        limitations: What the figures do not say.
        glossary: The terms of the report.
        regulations: The templates that were asked for, filled in.
        changes: What changed since an earlier run; None where none was named.
        schema: Version of this layout.
    """

    title: str
    verdict: str
    after_verdict: str | None
    criteria: tuple[CriterionRow, ...]
    decisions: tuple[DecisionPair, ...]
    run: RunPart
    audit: AuditPart
    after: AuditPart | None = None
    comparison: ComparisonPart | None = None
    timing: Json | None = None
    stream: Json | None = None
    frontier: Json | None = None
    projection: Json | None = None
    summary: tuple[Paragraph, ...] = ()
    representation: tuple[Representation, ...] = ()
    plan: PlanRecord | None = None
    methods: tuple[Paragraph, ...] = ()
    guarantee: GuaranteeRecord | None = None
    limitations: tuple[Paragraph, ...] = ()
    glossary: tuple[Paragraph, ...] = ()
    regulations: tuple[RegulatoryReport, ...] = ()
    changes: RunChanges | None = None
    schema: str = SCHEMA

    @property
    def enforced(self) -> tuple[CriterionRow, ...]:
        """The criteria that the head was tuned for."""
        return tuple(row for row in self.criteria if row.enforced)

    def to_dict(self) -> Json:
        """The document as JSON-ready values."""
        return asdict(self)


def criterion_key(criterion: Json) -> tuple[Any, ...]:
    """What makes two criteria the same question, whatever their names and tolerances."""
    return (
        criterion["family"],
        tuple(criterion["attributes"]),
        tuple(criterion.get("given") or ()),
        criterion.get("form"),
        criterion.get("label_value"),
    )


def enforced_tolerances(run: Json) -> dict[str, float]:
    """Names and tolerances of what the head was tuned for: the plan's, where a head was tuned at all."""
    if run.get("tuning") is None and run.get("calibration") is None:
        return {}
    return {spec["name"]: spec["tolerance"] for spec in (run.get("plan") or {}).get("enforce") or ()}


def combine(verdicts: list[str]) -> str:
    """The verdict over several."""
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts and all(verdict == "pass" for verdict in verdicts) else "inconclusive"


def decides_by_median(audit: Json) -> bool:
    """Whether a positive decision is a score above the median of all rows; the threshold may hold its value."""
    return audit.get("threshold") == MEDIAN or f"full-sample {MEDIAN}" in (audit.get("decision_rule") or "")
