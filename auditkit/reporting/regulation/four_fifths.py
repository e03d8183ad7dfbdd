"""The four-fifths rule of the Uniform Guidelines (29 CFR 1607.4(D)), with the tests that practice sets beside it.

    z = (p₁ − p₂) / √( p(1 − p)(1/n₁ + 1/n₂) ),   p the pooled rate;   h = 2·asin√p₁ − 2·asin√p₂

Fisher's exact test stands in for z where a group has fewer than 30 people or an expected count is below 5.
"""

from __future__ import annotations

import math
from typing import Any

from scipy import stats

from auditkit.reporting.document import Json, ReportDocument
from auditkit.reporting.regulation.base import (
    AS_OF,
    NO_CONCLUSION,
    Category,
    audits,
    count_categories,
    data_words,
    has_columns,
)
from auditkit.reporting.sections import Cell, Column, RegulatoryItem, RegulatoryReport, RegulatoryTable
from auditkit.reporting.wording import count

TITLE = "Four-fifths rule"

FOUR_FIFTHS = 0.8
SMALL_GROUP, SMALL_COUNT = 30, 5

_COLUMNS = (
    Column("Group"),
    Column("People", "count"),
    Column("Selected", "count"),
    Column("Selection rate", "percent"),
    Column("Ratio to the highest", "ratio"),
    Column("Below 4/5"),
    Column("Difference in rates", "percent"),
    Column("Effect size h", "number"),
    Column("Test"),
    Column("z", "number"),
    Column("p", "p"),
)


def fill(document: ReportDocument) -> RegulatoryReport:
    """The section of a run."""
    tables = tuple(
        _table(audit, title, attributes) for title, audit in audits(document) for attributes in _attribute_sets(audit)
    )
    items = [RegulatoryItem("1607.4(A)", "Data", data_words(document))]
    if not tables:
        text = "The audit holds no decisions of one score per person about recorded groups; set threshold:."
        items.append(RegulatoryItem("1607.4(D)", "Rates", text, False))
    return RegulatoryReport(
        template="four-fifths",
        title=TITLE,
        rule_set="29 CFR 1607.4(D), Uniform Guidelines (1978); a rescission was at final-rule stage in July 2026",
        as_of=AS_OF,
        items=tuple(items),
        tables=tables,
        notes=(
            NO_CONCLUSION,
            (
                "The guideline takes a rate below four fifths of the highest as generally evidence of adverse impact; "
                "smaller differences may count where they are significant and of practical size, and larger ones may "
                "not where they rest on few people. Which of the two holds here is for counsel to judge."
            ),
            (
                "Every group is compared with the group of the highest rate; p-values are two-sided and not adjusted "
                "for their number. A difference of two standard deviations is |z| = 2."
            ),
        ),
    )


def _attribute_sets(audit: Json) -> list[tuple[str, ...]]:
    sets = dict.fromkeys(tuple(table["attributes"]) for table in audit["decisions"])
    known = [names for names in sets if has_columns(audit, names)]
    return [names for names in known if not set(names) & set(audit.get("inferred", ()))]


def _table(audit: Json, title: str, attributes: tuple[str, ...]) -> RegulatoryTable:
    categories, unknown = count_categories(audit, attributes)
    highest = max(categories, key=lambda category: category.rate, default=None)
    rows = tuple(_row(category, highest) for category in categories if highest is not None)
    notes = [f"Counted as selected: {audit['decision_rule']}."]
    if unknown:
        notes.append(f"{count(unknown)} people of unknown group are not in this table.")
    if not all(category.is_counted for category in categories):
        notes.append("Rows carry weights, or share places at the cut: the tests need whole people and are left out.")
    return RegulatoryTable(f"By {' × '.join(attributes)}, {title}", _COLUMNS, rows, tuple(notes))


def _row(category: Category, highest: Category) -> tuple[Cell, ...]:
    ratio = category.rate / highest.rate if highest.rate > 0 else None
    first = (category.name, category.rows, category.selected, category.rate, ratio)
    if category is highest:
        return *first, "highest", None, None, None, None, None
    below = None if ratio is None else "yes" if ratio < FOUR_FIFTHS else "no"
    effect = 2 * math.asin(math.sqrt(_unit(category.rate))) - 2 * math.asin(math.sqrt(_unit(highest.rate)))
    return *first, below, category.rate - highest.rate, effect, *compare_rates(category, highest)


def _unit(rate: float) -> float:
    return min(max(rate, 0.0), 1.0)


def compare_rates(first: Category, second: Category) -> tuple[str | None, float | None, float | None]:
    """Whether two rates differ by more than chance.

    Args:
        first: One group.
        second: Another.

    Returns:
        The test that applies, its z (None for Fisher's), and its two-sided p-value; None where rows carry weights, or
        where everybody or nobody was selected in both.
    """
    if not (first.is_counted and second.is_counted):
        return None, None, None
    n, hits = (first.rows, second.rows), (round(first.selected), round(second.selected))
    pooled = sum(hits) / sum(n)
    if pooled in (0.0, 1.0):
        return None, None, None
    expected = min(size * share for size in n for share in (pooled, 1 - pooled))
    if min(n) < SMALL_GROUP or expected < SMALL_COUNT:
        table = [[hit, size - hit] for hit, size in zip(hits, n, strict=True)]
        exact: Any = stats.fisher_exact(table)
        return "Fisher", None, float(exact.pvalue)
    z = (first.rate - second.rate) / math.sqrt(pooled * (1 - pooled) * (1 / n[0] + 1 / n[1]))
    return "z", z, float(2 * stats.norm.sf(abs(z)))
