"""US model risk guidance (SR 26-2 / OCC 2026-13): the working checklist of a validation, filled in from a run."""

from __future__ import annotations

from auditkit.reporting.document import ReportDocument
from auditkit.reporting.regulation.base import (
    AS_OF,
    NO_CONCLUSION,
    data_words,
    fact,
    finding_words,
    limit_words,
    mitigation_words,
    model_words,
    plan_words,
    record_words,
)
from auditkit.reporting.sections import RegulatoryItem, RegulatoryReport

TITLE = "Model risk management"


def fill(document: ReportDocument) -> RegulatoryReport:
    """The section of a run."""
    item = RegulatoryItem
    return RegulatoryReport(
        template="model-risk",
        title=TITLE,
        rule_set="SR 26-2 / OCC Bulletin 2026-13 (replaces SR 11-7)",
        as_of=AS_OF,
        items=(
            fact(document, "Inventory", "Entry of the model", "inventory"),
            fact(document, "Inventory", "Owner", "owner"),
            item("Inventory", "Identity of the model", model_words(document)),
            fact(document, "Conceptual soundness", "Purpose", "intended_use"),
            item("Conceptual soundness", "Data", data_words(document)),
            item("Conceptual soundness", "Criteria and tests", plan_words(document)),
            item("Conceptual soundness", "Assumptions and limits", limit_words(document)),
            item("Outcomes analysis", "Gaps between groups", finding_words(document)),
            item("Outcomes analysis", "Change and its cost", mitigation_words(document)),
            _monitoring(document),
            fact(document, "Effective challenge", "Independent review", "challenge"),
            item("Effective challenge", "What a reviewer can compute again", record_words(document)),
        ),
        notes=(NO_CONCLUSION,),
    )


def _monitoring(document: ReportDocument) -> RegulatoryItem:
    stated = fact(document, "Ongoing monitoring", "What is watched in use", "monitoring")
    if document.stream is None:
        return stated
    stream = document.stream
    figures = f"The stream recorded beside this run released {stream['rows']} rows in {stream['batches']} batches, "
    figures += f"with {len(stream['alarms'])} alarms."
    return RegulatoryItem(
        stated.reference, stated.title, f"{stated.text} {figures}" if stated.stated else figures, True
    )
