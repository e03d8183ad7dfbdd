"""The parts of a report that are made of words and of counts, as typed data: every renderer shows the same ones."""

from __future__ import annotations

from dataclasses import dataclass

Cell = str | int | float | None
"""What a cell of a regulatory table holds; a column's kind says how it is shown."""


@dataclass(frozen=True)
class Paragraph:
    """A few sentences under a heading.

    Attributes:
        heading: What they are about.
        text: The sentences.
    """

    heading: str
    text: str


@dataclass(frozen=True)
class GroupShare:
    """How much of the data one group is.

    Attributes:
        value: The group.
        rows: Its rows among all rows of the data.
        share: Of all rows; None where there are none.
        audited_rows: Its rows among those that the audit rests on; None where the criteria do not name the attribute.
        reference_share: Its share in the population the plan compares with; None when the plan gives none.
        difference: ``share`` less ``reference_share``; None likewise.
    """

    value: str
    rows: int
    share: float | None
    audited_rows: int | None
    reference_share: float | None
    difference: float | None


@dataclass(frozen=True)
class Representation:
    """The groups of one attribute in the data.

    Attributes:
        attribute: The column.
        groups: One entry per value, and one for every value of the reference population that no row has.
    """

    attribute: str
    groups: tuple[GroupShare, ...]


@dataclass(frozen=True)
class PlanRecord:
    """Whether what was tested had been fixed before the data were read.

    Attributes:
        followed: Whether the audit did what the frozen plan says; None when no plan was frozen.
        frozen_at: When it was frozen (UTC, ISO 8601).
        hash: SHA-256 of the plan.
        differences: Where the audit departed from it, in words.
        text: All of this in a sentence.
    """

    followed: bool | None
    frozen_at: str | None
    hash: str | None
    differences: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class GuaranteeRecord:
    """What the corrections promise beyond the rows they were set on.

    Attributes:
        confidence: Joint confidence of the guarantee; None when no margin was taken off the tolerances.
        held: Comparisons that carry it.
        total: All comparisons.
        rows_needed: Rows of the smaller group at which the others would carry it, where known.
        text: All of this in words.
    """

    confidence: float | None
    held: int
    total: int
    rows_needed: int | None
    text: str


@dataclass(frozen=True)
class Column:
    """A column of a regulatory table.

    Attributes:
        title: Its heading.
        kind: How its cells are shown: "text", "count", "percent", "ratio", "number" or "p".
    """

    title: str
    kind: str = "text"


@dataclass(frozen=True)
class RegulatoryTable:
    """A table that a rule asks for.

    Attributes:
        title: What it shows.
        columns: Its columns.
        rows: Its cells; None is shown as a dash.
        notes: What must be said beside it.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RegulatoryItem:
    """One thing that a rule asks to be documented.

    Attributes:
        reference: Where the rule asks for it, e.g. ``Article 10(3)``.
        title: What it asks for.
        text: What this run has to say about it.
        stated: Whether the run or its audit file says anything about it.
    """

    reference: str
    title: str
    text: str
    stated: bool = True


@dataclass(frozen=True)
class RegulatoryReport:
    """What a set of rules asks for, filled in from a run; facts and computed figures, never a legal conclusion.

    Attributes:
        template: Name of the template.
        title: Of the section.
        rule_set: The rules and their version.
        as_of: The date up to which the rules were read (ISO 8601).
        items: What is documented.
        tables: The tables.
        notes: What must be said about all of it.
    """

    template: str
    title: str
    rule_set: str
    as_of: str
    items: tuple[RegulatoryItem, ...] = ()
    tables: tuple[RegulatoryTable, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GapChange:
    """One gap in an earlier run and in this one.

    Attributes:
        name: What is compared.
        earlier: The signed gap then.
        later: The signed gap now.
        change: ``later`` less ``earlier``.
        interval: Of the change, at once with those of all other gaps; None where one of the two has none.
        said: "closer to zero", "farther from zero", "changed sign", "no change shown" or "not comparable".
    """

    name: str
    earlier: float
    later: float
    change: float
    interval: tuple[float, float] | None
    said: str


@dataclass(frozen=True)
class CriterionChange:
    """One criterion in an earlier run and in this one.

    Attributes:
        name: The criterion.
        earlier_verdict: Then.
        verdict: Now.
        earlier_tolerance: ε then.
        tolerance: ε now.
        gaps: Every gap that both runs have.
        only_earlier: Comparisons that only the earlier run has.
        only_later: Comparisons that only this one has.
    """

    name: str
    earlier_verdict: str
    verdict: str
    earlier_tolerance: float
    tolerance: float
    gaps: tuple[GapChange, ...]
    only_earlier: tuple[str, ...]
    only_later: tuple[str, ...]


@dataclass(frozen=True)
class RunChanges:
    """What changed from an earlier run to this one.

    Attributes:
        title: Name of the earlier audit.
        finished: When it finished (UTC, ISO 8601); None when it did not record it.
        rows: Its rows.
        same_rows: Whether both rest on the same data file.
        confidence: Joint confidence of the intervals of all changes.
        basis: How the intervals were reached, and when they may be read so.
        settings: What else differs between the runs.
        criteria: Every criterion that both asked.
        only_earlier: Criteria that only the earlier run asked.
        only_later: Criteria that only this one asks.
    """

    title: str
    finished: str | None
    rows: int
    same_rows: bool
    confidence: float
    basis: str
    settings: tuple[str, ...]
    criteria: tuple[CriterionChange, ...]
    only_earlier: tuple[str, ...]
    only_later: tuple[str, ...]
