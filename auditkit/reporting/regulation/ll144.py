"""New York City Local Law 144 (6 RCNY 5-300 to 5-304): rates and impact ratios by sex, race/ethnicity, and both.

    selection rate = people moved forward / people        scoring rate = people above the full-sample median / people
    impact ratio   = rate of the category / highest rate of any category

The rule sets no mark that a ratio must reach, and none is printed.
"""

from __future__ import annotations

from auditkit.reporting.document import Json, ReportDocument, decides_by_median
from auditkit.reporting.facts import report_fact, report_options
from auditkit.reporting.regulation.base import (
    AS_OF,
    NO_CONCLUSION,
    Category,
    audits,
    count_categories,
    data_words,
    fact,
    has_columns,
)
from auditkit.reporting.sections import Column, RegulatoryItem, RegulatoryReport, RegulatoryTable
from auditkit.reporting.wording import count, moment, percent

TITLE = "New York City Local Law 144"

SMALL_SHARE = 0.02
"""Categories below this share of the data may be left out of the impact ratios (6 RCNY 5-301(d))."""

_GUESSES = {"sex": ("sex", "gender"), "race": ("race", "ethnicity", "race_ethnicity", "race/ethnicity")}


def fill(document: ReportDocument) -> RegulatoryReport:
    """The section of a run."""
    columns = {role: _column(document, role) for role in _GUESSES}
    tables = tuple(
        table
        for title, audit in audits(document)
        for roles in (("sex",), ("race",), ("sex", "race"))
        if (table := _table(document, audit, title, [columns[role] for role in roles], roles)) is not None
    )
    return RegulatoryReport(
        template="ll144",
        title=TITLE,
        rule_set="NYC Admin. Code 20-870 ff.; 6 RCNY 5-300 to 5-304 (effective 5 July 2023)",
        as_of=AS_OF,
        items=_items(document, columns),
        tables=tables,
        notes=(
            NO_CONCLUSION,
            "The rule sets no mark that an impact ratio must reach; none is printed.",
            "Categories are those recorded in the data. None was inferred or imputed.",
        ),
    )


def _column(document: ReportDocument, role: str) -> str | None:
    """The column of a role: as the audit file says, else the attribute of that name."""
    named = (report_options(document).get("columns") or {}).get(role)
    known = list((document.run.get("data") or {}).get("attributes") or document.audit["moments"]["columns"])
    return named or next((name for name in known if name.lower() in _GUESSES[role]), None)


def _items(document: ReportDocument, columns: dict[str, str | None]) -> tuple[RegulatoryItem, ...]:
    finished = (document.timing or {}).get("finished")
    items = [
        RegulatoryItem(
            "5-303(a)(1)", "Date of the audit", moment(finished) if finished else "Not recorded.", bool(finished)
        ),
        RegulatoryItem("5-302", "Data used", data_words(document)),
        fact(document, "5-303(a)(1)", "Source and explanation of the data", "data_explanation"),
        fact(document, "5-302(a)", "Historical or test data", "data_kind"),
        fact(document, "5-303(a)(2)", "Distribution date of the tool", "distribution_date"),
    ]
    if report_fact(document, "data_kind") == "test":
        items.append(fact(document, "5-302(b)", "Why test data, and how obtained", "test_data_reason"))
    return (*items, *_gaps(document, columns))


def _gaps(document: ReportDocument, columns: dict[str, str | None]) -> list[RegulatoryItem]:
    """Why a table is missing."""
    items, words = [], {"sex": "sex", "race": "race/ethnicity"}
    if not list(audits(document)):
        text = "The audit holds no decisions of one score per person; set threshold: to a number or to median."
        items.append(RegulatoryItem("5-301", "Tables", text, False))
    for role, name in columns.items():
        if name is None:
            text = f"No column is named as {words[role]} (report.columns.{role}); its tables are left out."
        elif name in document.audit.get("inferred", ()):
            text = f"{name} is inferred; this template takes recorded categories only, and its tables are left out."
        elif not has_columns(document.audit, [name]):
            text = f"No criterion of the audit names {name}; add one, so that the sums tell its categories apart."
        else:
            continue
        items.append(RegulatoryItem("5-301", f"Tables by {words[role]}", text, False))
    return items


def _table(
    document: ReportDocument, audit: Json, title: str, names: list[str | None], roles: tuple[str, ...]
) -> RegulatoryTable | None:
    columns = [name for name in names if name is not None]
    inferred = set(columns) & set(audit.get("inferred", ()))
    if len(columns) < len(names) or inferred or not has_columns(audit, columns):
        return None
    categories, unknown = count_categories(audit, columns)
    if not categories:
        return None
    scored = decides_by_median(audit)
    rate, chosen = ("Scoring rate", "Above the median") if scored else ("Selection rate", "Selected")
    words = {"sex": "Sex", "race": "Race/ethnicity"}
    exclude = bool(report_options(document).get("exclude_small"))
    headings = ("People", "count"), ("Share of the data", "percent"), (chosen, "count"), (rate, "percent")
    return RegulatoryTable(
        title=f"{' × '.join(words[role] for role in roles)}, {title}",
        columns=(
            Column(" × ".join(words[role] for role in roles)),
            *(Column(*heading) for heading in headings),
            Column("Impact ratio", "ratio"),
        ),
        rows=tuple(_row(category, categories, exclude) for category in categories),
        notes=_notes(audit, categories, unknown, exclude),
    )


def _row(category: Category, categories: tuple[Category, ...], exclude: bool) -> tuple[str | float | None, ...]:
    kept = [each for each in categories if not (exclude and _is_small(each, categories))]
    highest = max((each.rate for each in kept), default=0.0)
    ratio = category.rate / highest if category in kept and highest > 0 else None
    return category.name, category.rows, _share(category, categories), category.selected, category.rate, ratio


def _share(category: Category, categories: tuple[Category, ...]) -> float:
    return category.rows / sum(each.rows for each in categories)


def _is_small(category: Category, categories: tuple[Category, ...]) -> bool:
    return _share(category, categories) < SMALL_SHARE


def _notes(audit: Json, categories: tuple[Category, ...], unknown: int, exclude: bool) -> tuple[str, ...]:
    small = [each.name for each in categories if _is_small(each, categories)]
    notes = [
        f"Counted as positive: {audit['decision_rule']}.",
        f"{count(unknown)} people are of unknown category and are not in this table.",
    ]
    if small and exclude:
        notes.append(
            f"Left out of the impact ratios, each being under {percent(SMALL_SHARE, 0)} of the data, where a rate "
            f"rests on few people: {', '.join(small)}. Their counts and rates are shown."
        )
    elif small:
        notes.append(f"Under {percent(SMALL_SHARE, 0)} of the data: {', '.join(small)}. Their ratios are shown.")
    if not all(each.is_counted for each in categories):
        notes.append("Rates are shares of the rows' weights, or places at the cut were shared between equal scores.")
    return tuple(notes)
