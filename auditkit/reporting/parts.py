"""The layout of the files of a run that a report carries whole, for its published schema and for reading it back.

A report holds them as they are, as JSON objects; `Shaped` tells pydantic what their keys are. Keys that are not named
here are kept: they hold what a later release of the same schema version adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

import pydantic
from pydantic_core import CoreSchema
from typing_extensions import TypedDict

Json = dict[str, Any]
Number = int | float
Value = str | int | float | bool | None
Verdict = Literal["pass", "fail", "inconclusive"]
Interval = list[Number]
_OPEN = pydantic.ConfigDict(extra="allow")


@dataclass(frozen=True)
class Shaped:
    """Marks a JSON object as having the keys of a typed dictionary.

    Attributes:
        shape: The typed dictionary.
    """

    shape: Any

    def __get_pydantic_core_schema__(self, _source: Any, handler: pydantic.GetCoreSchemaHandler) -> CoreSchema:
        """The schema of the typed dictionary in place of that of any object."""
        return handler.generate_schema(self.shape)


class Open(TypedDict):
    """An object that may hold more keys than are named."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]


class Hashes(Open):
    """SHA-256 of what a run rests on."""

    model: str | None
    data: str | None
    plan: str


class DataRecord(Open):
    """What run.json says of the data; counts by attribute and value."""

    name: str
    source: str
    sha256: str | None
    rows: Number
    attributes: dict[str, dict[str, Number]]


class RunFile(Open):
    """run.json."""

    schema: str
    command: str
    auditkit: str
    versions: dict[str, str]
    seed: int
    hashes: Hashes
    plan: Json
    model: Json | None
    data: DataRecord
    split: dict[str, Number] | None
    tuning: Json | None
    calibration: Json | None
    files: dict[str, str]


class CriterionRecord(Open):
    """A criterion and its tolerance."""

    name: str
    family: str
    attributes: list[str]
    given: list[str]
    form: str | None
    label_value: Value
    tolerance: Number


class Finding(Open):
    """What was found for one criterion."""

    criterion: CriterionRecord
    verdict: Verdict
    reason: str
    gap: Number | None
    corrected_gap: Number | None
    interval: Interval | None
    p_value: Number | None
    p_equivalence: Number | None
    rows_needed: Number | None
    rows_by_group: Json
    detectable_gap: Number | None
    cells: list[Json]
    gaps: list[Json]
    missing: list[Any]


class DecisionTable(Open):
    """Decisions by the groups of one set of attributes."""

    attributes: list[str]
    output: Value
    groups: list[Json]
    rate_gap: Number | None
    worst_impact_ratio: Number | None


class GroupTable(Open):
    """Errors, or reliability, by the groups of one set of attributes."""

    attributes: list[str]
    output: Value
    groups: list[Json]


class SubgroupSearch(Open):
    """A screening of subgroups."""

    family: str
    subgroups: list[Json]


class MomentsRecord(Open):
    """Sums by cell, from which every finding is computed again."""

    columns: dict[str, list[Value]]
    count: list[Number]
    weight: list[Number]


class AuditFileContent(Open):
    """audit.json and audit_after.json."""

    schema: str
    verdict: Verdict
    n_rows: Number
    confidence: Number
    threshold: str | Number | None
    decision_rule: str | None
    seed: int
    outputs: list[Value]
    inferred: list[str]
    plan: Json | None
    findings: list[Finding]
    decisions: list[DecisionTable]
    errors: list[GroupTable]
    reliability: list[GroupTable]
    subgroups: list[SubgroupSearch]
    moments: MomentsRecord


class EstimateRecord(Open):
    """A figure with its interval."""

    value: Number
    low: Number
    high: Number


class MethodRecord(Open):
    """One method of a comparison."""

    name: str
    title: str
    description: str
    level: Literal["scores", "decisions"]
    needs_attributes: bool
    needs_labels: bool
    needs_batch: bool
    error: str
    gaps: list[Json]
    decisions: list[DecisionTable]
    utility: dict[str, EstimateRecord | None]
    difference: dict[str, EstimateRecord | None]


class WinnerRecord(Open):
    """Who is ahead by one utility, if anybody is."""

    utility: str
    level: Literal["scores", "decisions"]
    eligible: list[str]
    winner: str | None
    statement: str


class FrontierMethod(Open):
    """One method at a further tolerance."""

    name: str
    error: str
    score_gaps: list[Json]
    decision_gaps: list[Json]
    utility: dict[str, EstimateRecord | None]


class FrontierLevel(Open):
    """Every method at a further tolerance."""

    tolerance: Number
    methods: list[FrontierMethod]


class ComparisonFile(Open):
    """comparison.json."""

    schema: str
    threshold: str | Number | None
    confidence: Number
    seeds: list[int]
    criteria: list[CriterionRecord]
    audited: list[CriterionRecord]
    rows: dict[str, Number]
    split: NotRequired[Json]
    intervals: NotRequired[str]
    methods: list[MethodRecord]
    pairs: NotRequired[list[Json]]
    winners: NotRequired[list[WinnerRecord]]
    frontier: NotRequired[list[FrontierLevel]]


RunPart = Annotated[Json, Shaped(RunFile)]
AuditPart = Annotated[Json, Shaped(AuditFileContent)]
ComparisonPart = Annotated[Json, Shaped(ComparisonFile)]
