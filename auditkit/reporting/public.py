"""A summary for the public: verdicts, gaps, and rates by group, without a count that could point at a person.

The rule, which the summary states:

- a group of fewer than k people is hidden, and so is a selection rate when fewer than k people of its group were
  selected, or fewer than k were not;
- what is left does not give any of these back by subtraction between groups, tables and totals (`suppression`);
- rates are rounded to whole percents, gaps to two decimals; a gap is hidden where one of its groups has fewer than k;
- no file name, hash, fingerprint, seed, reason or unrounded figure is in it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from auditkit._typing import FloatArray
from auditkit.decision_rules import MEDIAN
from auditkit.errors import InputError
from auditkit.groups import join_values
from auditkit.reporting.document import CriterionRow, Json, Outcome, ReportDocument, decides_by_median
from auditkit.reporting.suppression import SMALL, Sums, hide_small
from auditkit.reporting.wording import meaning

SCHEMA = "auditkit.public/1"
RULE = (
    "Groups of fewer than {k} people are hidden, and so are rates where fewer than {k} people were selected or fewer "
    "than {k} were not. Further figures are hidden so that these cannot be found by subtraction: each could still "
    "differ by {k} or more. Rates are rounded to whole percents and gaps to two decimals."
)

LIMITATIONS = (
    "The figures describe the people counted here, and say nothing about others or about groups not recorded.",
    "A difference between groups can have many sources; its size is measured here, and neither explained nor excused.",
    "Scores are not decisions: the criteria bound mean scores or mean errors, and rates depend on the decision rule.",
    "No verdict here says that a law was kept or broken.",
)


@dataclass(frozen=True)
class PublicCriterion:
    """What was found for one criterion.

    Attributes:
        name: The criterion.
        meaning: What it asks, in a sentence.
        tolerance: ε.
        verdict: Of the model as found.
        gap: Its largest gap, to two decimals; None where a group is too small to show it.
        interval: Its interval, likewise.
        after_verdict: After mitigation; None where nothing was mitigated.
        after_gap: Its largest gap then, likewise.
    """

    name: str
    meaning: str
    tolerance: float
    verdict: str
    gap: float | None
    interval: tuple[float, float] | None
    after_verdict: str | None
    after_gap: float | None


@dataclass(frozen=True)
class PublicGroup:
    """One group of a table; None is hidden.

    Attributes:
        group: The group.
        people: How many.
        rate: Share with a positive decision, to whole percents.
        ratio: That share over the highest one shown, to two decimals.
    """

    group: str
    people: int | None
    rate: float | None
    ratio: float | None


@dataclass(frozen=True)
class PublicTable:
    """People and rates by the groups of some attributes, of the model as found."""

    attributes: tuple[str, ...]
    groups: tuple[PublicGroup, ...]


@dataclass(frozen=True)
class PublicSummary:
    """Everything that is published.

    Attributes:
        title: Name of the audit.
        date: Day on which it finished; None when that is not recorded.
        people: Rows that were audited.
        confidence: Joint confidence of the intervals.
        decision_rule: What a positive decision is; None without decisions.
        criteria: What was found.
        tables: People and rates by group.
        rule: What is hidden, and why.
        limitations: What the figures do not say.
        schema: Version of this layout.
    """

    title: str
    date: str | None
    people: int
    confidence: float
    decision_rule: str | None
    criteria: tuple[PublicCriterion, ...]
    tables: tuple[PublicTable, ...]
    rule: str
    limitations: tuple[str, ...]
    schema: str = SCHEMA


def summarize_publicly(document: ReportDocument, *, smallest: int = SMALL) -> PublicSummary:
    """The public summary of a run.

    Args:
        document: The run.
        smallest: k, at least 2.

    Returns:
        The summary.

    Raises:
        InputError: An audit of fewer than k people, or k below 2.
    """
    if smallest < 2:
        raise InputError(f"smallest must be at least 2; got {smallest}")
    if document.audit["n_rows"] < smallest:
        raise InputError(f"--public: the audit is of {document.audit['n_rows']} people, fewer than {smallest}")
    return PublicSummary(
        title=document.title,
        date=str((document.timing or {}).get("finished") or "")[:10] or None,
        people=document.audit["n_rows"],
        confidence=document.audit["confidence"],
        decision_rule=_rule(document.audit),
        criteria=tuple(_criterion(row, smallest) for row in document.criteria),
        tables=_tables(document.audit, smallest),
        rule=RULE.format(k=smallest),
        limitations=LIMITATIONS,
    )


def render_public_json(summary: PublicSummary) -> str:
    """The summary as JSON."""
    return json.dumps(asdict(summary), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _rule(audit: Json) -> str | None:
    """The decision rule, without the score at a median, which may be one person's."""
    rule = audit.get("decision_rule")
    return f"a score above the full-sample {MEDIAN}" if rule and decides_by_median(audit) else rule


def _criterion(row: CriterionRow, smallest: int) -> PublicCriterion:
    gap, ends = _shown_gap(row.before, smallest)
    return PublicCriterion(
        name=row.name,
        meaning=meaning(row.criterion),
        tolerance=row.tolerance,
        verdict=row.before.verdict,
        gap=gap,
        interval=ends,
        after_verdict=None if row.after is None else row.after.verdict,
        after_gap=None if row.after is None else _shown_gap(row.after, smallest)[0],
    )


def _shown_gap(outcome: Outcome, smallest: int) -> tuple[float | None, tuple[float, float] | None]:
    if outcome.gap is None or any(cell["count"] < smallest for cell in outcome.cells):
        return None, None
    ends = outcome.interval
    return round(outcome.gap, 2), None if ends is None else (round(ends[0], 2), round(ends[1], 2))


def _tables(audit: Json, smallest: int) -> tuple[PublicTable, ...]:
    columns = audit["moments"]["columns"]
    if audit.get("outputs") or audit.get("inferred"):
        return ()  # cells then do not count people
    sets = list(dict.fromkeys(tuple(finding["criterion"]["attributes"]) for finding in audit["findings"]))
    known = [names for names in sets if all(name in columns for name in names)]
    if not known:
        return ()
    names, people, chosen = _sums(audit["moments"], known)
    small = people.values < smallest
    hidden = hide_small(people, small, smallest=smallest)
    rates_hidden = np.ones_like(hidden)
    if audit.get("decision_rule") is not None:
        few = (chosen.values < smallest) | (people.values - chosen.values < smallest)
        rates_hidden = hide_small(chosen, hidden | few, smallest=smallest)
    return tuple(
        _table(known[t], [k for k in range(len(names)) if people.tables[k] == t], names, people.values, chosen.values,
               hidden, rates_hidden)
        for t in range(len(known))
    )  # fmt: skip


def _sums(sums: Json, sets: list[tuple[str, ...]]) -> tuple[list[str], Sums, Sums]:
    """Every group of every table: its name, its people and how many of them were selected."""
    counts = np.asarray(sums["count"], dtype=np.float64)
    weight = np.asarray(sums["weight"], dtype=np.float64)
    # of weighted rows the share that was selected stands for the number
    selected = np.asarray(sums["selected"], dtype=np.float64) * np.divide(
        counts, weight, out=np.ones_like(counts), where=weight > 0
    )
    names, members, tables = [], [], []
    for number, attributes in enumerate(sets):
        keys = list(zip(*(sums["columns"][name] for name in attributes), strict=True))
        for key in dict.fromkeys(keys):
            names.append(join_values(key))
            members.append([float(each == key) for each in keys])
            tables.append(number)
    matrix, numbers = np.array(members), np.array(tables)
    people = Sums(matrix, matrix @ counts, numbers, float(counts.sum()))
    return names, people, Sums(matrix, matrix @ selected, numbers, float(selected.sum()))


def _table(
    attributes: tuple[str, ...],
    mine: list[int],
    names: list[str],
    people: FloatArray,
    selected: FloatArray,
    hidden: np.ndarray,
    rates_hidden: np.ndarray,
) -> PublicTable:
    rates = {k: round(float(selected[k] / people[k]), 2) for k in mine if not rates_hidden[k]}
    highest = max(rates.values(), default=0.0)
    groups = tuple(
        PublicGroup(
            names[k],
            None if hidden[k] else int(people[k]),
            rates.get(k),
            round(rates[k] / highest, 2) if k in rates and highest > 0 else None,
        )
        for k in mine
    )
    return PublicTable(attributes, groups)
