"""NIST AI RMF 1.0, MEASURE 2.11: fairness as identified in MAP is evaluated and results are documented."""

from __future__ import annotations

from auditkit.reporting.document import ReportDocument
from auditkit.reporting.regulation.base import (
    AS_OF,
    NO_CONCLUSION,
    data_words,
    fact,
    finding_words,
    group_words,
    limit_words,
    mitigation_words,
    plan_words,
)
from auditkit.reporting.sections import RegulatoryItem, RegulatoryReport

TITLE = "NIST AI Risk Management Framework, MEASURE 2.11"


def fill(document: ReportDocument) -> RegulatoryReport:
    """The section of a run."""
    item, after = RegulatoryItem, document.after is not None
    return RegulatoryReport(
        template="nist",
        title=TITLE,
        rule_set="NIST AI 100-1 (AI RMF 1.0, January 2023); ISO/IEC TR 24027:2021 for measurement over the life cycle",
        as_of=AS_OF,
        items=(
            fact(document, "MAP", "Where these risks were identified", "map_reference"),
            fact(document, "MAP 1.1", "Intended use", "intended_use"),
            fact(document, "MAP 1.1", "Users", "users"),
            item("MEASURE 2.11", "Groups and data", f"{data_words(document)} {group_words(document)}"),
            item("MEASURE 2.11", "Metrics, chosen before the results", plan_words(document)),
            item("MEASURE 2.11", "Results", finding_words(document)),
            item("MANAGE 1.3", "Mitigation", mitigation_words(document), after),
            item("MEASURE 2.11", "Limits of the measurement", limit_words(document)),
            fact(document, "MANAGE 4.1", "Monitoring after deployment", "monitoring"),
        ),
        notes=(NO_CONCLUSION,),
    )
