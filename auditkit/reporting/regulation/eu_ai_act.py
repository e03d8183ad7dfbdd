"""Regulation (EU) 2024/1689: what Annex IV and Articles 9, 10, 13 and 15 ask to be documented of a run like this."""

from __future__ import annotations

from auditkit.reporting.document import Json, ReportDocument
from auditkit.reporting.regulation.base import (
    AS_OF,
    NO_CONCLUSION,
    data_words,
    fact,
    finding_words,
    group_words,
    limit_words,
    mitigation_words,
    model_words,
    plan_words,
    record_words,
)
from auditkit.reporting.sections import Column, RegulatoryItem, RegulatoryReport, RegulatoryTable

TITLE = "EU AI Act, technical documentation"

_RULES = (
    "Regulation (EU) 2024/1689, Annex IV; the duties of Annex III systems apply from 2 December 2027 under Regulation "
    "(EU) 2026/1744"
)
_PERFORMANCE = "See the tables below; errors and reliability by group stand under Accuracy."
_RATES = {
    "selection_rate": "Selection rate",
    "true_positive_rate": "True positive rate",
    "false_positive_rate": "False positive rate",
    "precision": "Precision",
    "accuracy": "Accuracy",
}


def fill(document: ReportDocument) -> RegulatoryReport:
    """The section of a run."""
    return RegulatoryReport(
        template="eu-ai-act",
        title=TITLE,
        rule_set=_RULES,
        as_of=AS_OF,
        items=_items(document),
        tables=_tables(document),
        notes=(
            NO_CONCLUSION,
            "Annex IV asks for more than a run can show; this section covers the parts that concern groups of people.",
        ),
    )


def _items(document: ReportDocument) -> tuple[RegulatoryItem, ...]:
    item = RegulatoryItem
    tuned = document.after is not None
    signed = "The sign-off block at the end of this report is to be dated and signed by the responsible persons."
    return (
        fact(document, "Annex IV 1(a)", "Intended purpose", "intended_use"),
        item("Annex IV 1(c)", "System and version", model_words(document)),
        fact(document, "Annex IV 1(c)", "Version of the system", "version"),
        fact(document, "Annex IV 2(a)", "Parts trained by others", "pretrained_parts"),
        item("Annex IV 2(a)", "How they were modified", mitigation_words(document)),
        fact(document, "Annex IV 2(b)", "Design choices and trade-offs", "trade_offs"),
        item("Annex IV 2(d)", "Data", data_words(document)),
        fact(document, "Annex IV 2(d)", "Where the data come from", "data_explanation"),
        fact(document, "Annex IV 2(e)", "Human oversight", "human_oversight"),
        item("Annex IV 2(g)", "Test procedure, metrics and thresholds", plan_words(document)),
        item("Annex IV 2(g)", "Results, including gaps between groups", finding_words(document)),
        item("Annex IV 2(g)", "Test logs and reports", record_words(document)),
        item("Annex IV 2(g)", "Date and signature", signed, False),
        item("Annex IV 3", "Capabilities and limits", limit_words(document)),
        item("Article 9(8)", "Metrics and thresholds defined beforehand", plan_words(document)),
        item("Article 10(2)(f)", "Examination of gaps between groups", finding_words(document)),
        item("Article 10(2)(g)", "Measures to detect, prevent and mitigate", mitigation_words(document), tuned),
        fact(document, "Article 10(2)(h)", "Gaps in the data, and how they are addressed", "data_gaps"),
        item("Article 10(3)", "Representativeness by group", group_words(document)),
        item("Article 13(3)(b)(v)", "Performance for specific groups", _PERFORMANCE, bool(document.decisions)),
        fact(document, "Article 15(4)", "Feedback loops", "feedback_loops"),
    )


def _tables(document: ReportDocument) -> tuple[RegulatoryTable, ...]:
    tables = []
    for pair in document.decisions:
        for title, table in (("as found", pair.before), ("after mitigation", pair.after)):
            if table is not None:
                output = "" if pair.output is None else f", output {pair.output}"
                tables.append(_table(table, f"Performance by {' × '.join(pair.attributes)}{output}, {title}"))
    return tuple(tables)


def _table(table: Json, title: str) -> RegulatoryTable:
    rows = tuple((group["group"], group["count"], *(group[rate] for rate in _RATES)) for group in table["groups"])
    columns = (Column("Group"), Column("People", "count"), *(Column(name, "percent") for name in _RATES.values()))
    return RegulatoryTable(title, columns, rows)
