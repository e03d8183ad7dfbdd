"""What the templates share: people counted by category from the stored sums, and facts that may be missing."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from auditkit.categories import MISSING
from auditkit.groups import join_values
from auditkit.reporting.document import Json, ReportDocument
from auditkit.reporting.facts import report_fact
from auditkit.reporting.sections import RegulatoryItem
from auditkit.reporting.wording import DASH, VERDICTS, count, interval, join, number, plural, tolerance

AS_OF = "2026-11-23"
"""The date up to which the rules were read."""

NO_CONCLUSION = "This section states facts and computed figures. It draws no legal conclusion and is no legal advice."


@dataclass(frozen=True)
class Category:
    """People of one category.

    Attributes:
        name: The category in words.
        rows: People.
        weight: Σ w; the number of people where rows carry no weights.
        selected: Σ w over those with a positive decision.
    """

    name: str
    rows: int
    weight: float
    selected: float

    @property
    def rate(self) -> float:
        """Share with a positive decision."""
        return self.selected / self.weight

    @property
    def is_counted(self) -> bool:
        """Whether weight and selection are numbers of people, so that exact tests apply."""
        return self.weight == self.rows and abs(self.selected - round(self.selected)) < 1e-9


def count_categories(audit: Json, attributes: Sequence[str]) -> tuple[tuple[Category, ...], int]:
    """People by category, from the sums that an audit stores.

    Args:
        audit: audit.json, with decisions.
        attributes: The columns crossed; all among the columns of the stored sums.

    Returns:
        The categories in the order of the sums, and the number of people for whom one of the columns is missing.
    """
    sums = audit["moments"]
    columns = [sums["columns"][name] for name in attributes]
    totals: dict[tuple[Hashable, ...], list[float]] = {}
    unknown = 0
    cells = zip(*columns, sums["count"], sums["weight"], sums["selected"], strict=True)
    for *values, rows, weight, selected in cells:
        if MISSING in values:
            unknown += int(rows)
            continue
        total = totals.setdefault(tuple(values), [0.0, 0.0, 0.0])
        for position, amount in enumerate((rows, weight, selected)):
            total[position] += amount
    named = {join_values(values): total for values, total in totals.items()}
    return tuple(Category(name, int(t[0]), t[1], t[2]) for name, t in named.items() if t[0]), unknown


def has_columns(audit: Json, attributes: Sequence[str]) -> bool:
    """Whether the stored sums tell people apart by these columns."""
    return all(name in audit["moments"]["columns"] for name in attributes)


def audits(document: ReportDocument) -> Iterator[tuple[str, Json]]:
    """The audits of a run that hold decisions of one score per person, with what each is of."""
    for title, audit in (("as found", document.audit), ("after mitigation", document.after)):
        if audit is not None and audit.get("decision_rule") is not None and not audit.get("outputs"):
            yield title, audit


def fact(document: ReportDocument, reference: str, title: str, name: str) -> RegulatoryItem:
    """What the audit file states under ``report.facts``; listed as not stated where it does not."""
    text = report_fact(document, name)
    if text is None:
        return RegulatoryItem(reference, title, f"Not stated in the audit file (report.facts.{name}).", False)
    return RegulatoryItem(reference, title, text)


def model_words(document: ReportDocument) -> str:
    """Which model it was."""
    model = document.run.get("model")
    if not model:
        return "No model was loaded; the table of predictions holds its scores."
    frozen = f"Model {model['name']}, fingerprint {model['fingerprint']}; it was read and not changed."
    return frozen if document.after is None else f"{frozen} A new last layer was tuned on its frozen features."


def data_words(document: ReportDocument) -> str:
    """Which data they were."""
    data = document.run.get("data") or {}
    source = f" ({data['source']})" if data.get("source") else ""
    return f"{data.get('name')}{source}, {count(data.get('rows'))} rows, SHA-256 {data.get('sha256')}."


def group_words(document: ReportDocument) -> str:
    """How large every group is in the data."""
    parts = []
    for each in document.representation:
        shares = [
            f"{g.value} {count(g.rows)}"
            + ("" if g.reference_share is None else f" (population {100 * g.reference_share:.1f} %)")
            for g in each.groups
        ]
        parts.append(f"{each.attribute}: {join(shares)}")
    return f"{'; '.join(parts)}." if parts else "The data hold no protected attribute."


def plan_words(document: ReportDocument) -> str:
    """What was fixed beforehand."""
    criteria = join(f"{row.name} with tolerance {tolerance(row.tolerance)}" for row in document.criteria)
    record = document.plan.text if document.plan is not None else ""
    return f"{criteria}; joint confidence {document.audit['confidence']:.0%}. {record}"


def finding_words(document: ReportDocument) -> str:
    """What was found for every criterion, before and after."""
    parts = []
    for row in document.criteria:
        text = f"{row.name}: {_outcome(row.before.gap, row.before.interval, row.before.verdict)}"
        if row.after is not None:
            text += f", after mitigation {_outcome(row.after.gap, row.after.interval, row.after.verdict)}"
        parts.append(text)
    return f"{'; '.join(parts)}."


def _outcome(gap: float | None, ends: tuple[float, float] | None, verdict: str) -> str:
    shown = DASH if gap is None else f"{number(gap)} {interval(ends)}"
    return f"largest gap {shown}, {VERDICTS[verdict]}"


def mitigation_words(document: ReportDocument) -> str:
    """What was changed, and what it cost."""
    wanted = ("What was done", "What changed", "What it cost")
    return " ".join(part.text for part in document.summary if part.heading in wanted)


def limit_words(document: ReportDocument) -> str:
    """Where it stands what the figures do not say, by its headings."""
    headings = join(part.heading[:1].lower() + part.heading[1:] for part in document.limitations)
    return f"The section Limits states them: {headings}."


def record_words(document: ReportDocument) -> str:
    """What of the run is stored, and how it can be checked."""
    files = len(document.run.get("files") or ())
    return (
        f"The run folder holds {plural(files, 'file')} of figures and artefacts beside the report, and a manifest of "
        "SHA-256; `auditkit verify DIR` compares every byte and computes the findings again from the stored sums."
    )
