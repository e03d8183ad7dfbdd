"""A run as Markdown: a summary for a pull request, or the whole report; what comes from the data is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from auditkit.reporting import wording
from auditkit.reporting.document import Json, Outcome, ReportDocument
from auditkit.reporting.sections import Paragraph, RegulatoryReport, RunChanges

MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️"}
MOST_SUBGROUPS = 20
_LINE_BREAKS = re.compile(r"\s+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~$@&])")
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_markdown(document: ReportDocument) -> str:
    """Verdicts, gaps, reasons and decision tables as GitHub-flavoured Markdown.

    Args:
        document: The run.

    Returns:
        Markdown; what comes from the data is escaped.
    """
    verdict = document.after_verdict or document.verdict
    lines = [f"## {MARKS[verdict]} {escape(document.title)}: {wording.VERDICTS[verdict]}", "", *_criteria(document)]
    reasons = [(row.name, row.after or row.before) for row in document.criteria]
    lines += ["", *(f"- **{escape(name)}** — {escape(_reason(outcome))}" for name, outcome in reasons)]
    for pair in document.decisions:
        lines += ["", *_decisions(pair.after or pair.before)]
    if document.comparison is not None:
        lines += ["", *_methods(document.comparison)]
    rows = document.audit["n_rows"]
    lines += [
        "",
        f"{wording.count(rows)} rows; intervals hold together with {document.audit['confidence']:.0%} confidence.",
    ]
    return "\n".join([*lines, ""])


def render_whole_markdown(document: ReportDocument) -> str:
    """Every section of the report as GitHub-flavoured Markdown.

    Args:
        document: The run.

    Returns:
        Markdown; what comes from the data is escaped.
    """
    lines = [render_markdown(document).rstrip()]
    for title, section in (
        ("Summary", _paragraphs(document.summary)),
        ("Scope", _scope(document)),
        ("Plan", [] if document.plan is None else [escape(document.plan.text)]),
        ("Methods", _paragraphs(document.methods)),
        ("Errors by group", _errors(document.audit)),
        ("Reliability by group", _reliability(document.audit)),
        ("Subgroups", _subgroups(document.audit)),
        ("Who is ahead", [] if document.comparison is None else _standings(document.comparison)),
        ("Accuracy against the tolerance", _method_frontier(document.comparison)),
        ("Guarantee", [] if document.guarantee is None else [escape(document.guarantee.text)]),
        ("Certificate of the projection", _certificate(document.projection)),
        ("Against the earlier run", [] if document.changes is None else _changes(document.changes)),
        ("Frontier", _frontier(document.frontier)),
        ("Stream", _stream(document.stream)),
        *((escape(each.title), _rules(each)) for each in document.regulations),
        ("Limits", _paragraphs(document.limitations)),
        ("Glossary", _paragraphs(document.glossary)),
        ("Reproduction", _reproduction(document)),
        ("Sign-off", ["Prepared by, reviewed by, accepted by: name, role, date, signature"]),
    ):
        if section:
            lines += ["", f"### {title}", "", *section]
    return "\n".join([*lines, ""])


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, text: int = 1) -> list[str]:
    """A table; its first ``text`` columns are set to the left, the others to the right."""
    rule = ["---"] * text + ["---:"] * (len(titles) - text)
    return [f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows)]


def _criteria(document: ReportDocument) -> list[str]:
    both = document.after is not None
    titles = ["criterion", "ε", "gap", "interval", "verdict", *(["gap after", "interval", "verdict"] if both else [])]
    rows = [titles, ["---", "---:", *["---:", "---", "---"] * (1 + both)]]
    for row in document.criteria:
        outcomes = [row.before, *([row.after] if both else [])]
        found = [cell for outcome in outcomes for cell in _outcome(outcome)]
        rows.append([escape(row.name), wording.tolerance(row.tolerance), *found])
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _outcome(outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return [wording.DASH] * 3
    interval = escape(wording.interval(outcome.interval))
    return [wording.number(outcome.gap), interval, f"{MARKS[outcome.verdict]} {outcome.verdict}"]


def _reason(outcome: Outcome) -> str:
    needed = outcome.rows_needed
    return outcome.reason + (f" (about {needed:,} rows of the smaller group would settle it)" if needed else "")


def _decisions(table: Json) -> list[str]:
    title = " × ".join(escape(name) for name in table["attributes"])
    rows = [[title, "rows", "selected", "impact ratio", "true positives", "false positives"], ["---", *["---:"] * 5]]
    for group in table["groups"]:
        shares = [group["selection_rate"], group["true_positive_rate"], group["false_positive_rate"]]
        selected, hits, alarms = map(wording.percent, shares)
        ratio = wording.number(group["impact_ratio"])
        rows.append([escape(group["group"]), wording.count(group["count"]), selected, ratio, hits, alarms])
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _methods(comparison: Json) -> list[str]:
    """One row per method: utilities, gaps of the enforced criteria, and selection-rate gaps on the test rows."""
    names = [criterion["name"] for criterion in comparison["criteria"]]
    titles = ["method", *wording.METRICS.values(), *(f"gap {escape(name)}" for name in names), "selection-rate gap"]
    rows = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for method in comparison["methods"]:
        utility, gaps = method.get("utility") or {}, {gap["criterion"]: gap["gap"] for gap in method["gaps"]}
        found = [wording.number((utility.get(key) or {}).get("value")) for key in wording.METRICS]
        found += [wording.number(gaps.get(name)) for name in names]
        rates = [f"{wording.percent(t['rate_gap'])} {escape('×'.join(t['attributes']))}" for t in method["decisions"]]
        rows.append([escape(method.get("title") or method["name"]), *found, ", ".join(rates) or wording.DASH])
    errors = [f"- **{escape(m['title'])}** — {escape(m['error'])}" for m in comparison["methods"] if m.get("error")]
    intervals = [f"Intervals are taken {escape(comparison['intervals'])}."] if comparison.get("intervals") else []
    return [
        *(f"| {' | '.join(cells)} |" for cells in rows), *(["", *errors] if errors else []),
        *(["", *intervals] if intervals else []),
    ]  # fmt: skip


def _standings(comparison: Json) -> list[str]:
    """Who is ahead among the methods whose gaps are not shown to exceed the tolerances."""
    rows = [[*map(escape, row)] for row in wording.standings(comparison)]
    return table(["by", "gaps of", "not shown to exceed", "finding"], rows, text=4) if rows else []


def _method_frontier(comparison: Json | None) -> list[str]:
    """Every method at every further tolerance."""
    if comparison is None or not comparison.get("frontier"):
        return []
    names = [f"gap {escape(criterion['name'])}" for criterion in comparison["criteria"]]
    rows = [
        [
            escape(title), wording.tolerance(epsilon),
            escape(error) if error else wording.percent((accuracy or {}).get("value")), *map(wording.number, gaps),
        ]
        for epsilon, title, accuracy, gaps, error in wording.frontier_rows(comparison)
    ]  # fmt: skip
    return table(["method", "ε", "accuracy", *names], rows)


def _certificate(projection: Json | None) -> list[str]:
    if projection is None:
        return []
    found = projection["certificate"]
    if found is None:
        return [f"None: the projection did not reach its accuracy ({escape(projection['explanation'])})."]
    titles = {
        "max_violation": "largest excess over a constraint", "duality_gap": "duality gap",
        "stationarity": "stationarity", "primal_objective": "objective", "relaxation": "relaxation of the tolerances",
    }  # fmt: skip
    figures = [f"- {title}: {found[name]:.3g}" for name, title in titles.items()]
    return [f"{wording.count(projection['rows'])} calibration rows: {escape(projection['explanation'])}.", "", *figures]


def _paragraphs(parts: Iterable[Paragraph]) -> list[str]:
    return [f"- **{escape(part.heading)}**: {escape(part.text)}" for part in parts]


def _scope(document: ReportDocument) -> list[str]:
    model, data = document.run.get("model") or {}, document.run.get("data") or {}
    name, rows = escape(data.get("name") or ""), wording.count(data.get("rows"))
    lines = [
        f"- Model: {escape(model['name'])}, fingerprint `{model['fingerprint']}`" if model else "- Model: not loaded",
        f"- Data: {name}, {rows} rows, SHA-256 `{data.get('sha256')}`",
    ]
    if document.run.get("reference"):
        lines.insert(1, f"- Model as found: {escape(document.run['reference'])}")
    for each in document.representation:
        titles = [escape(each.attribute), "rows", "share", "audited", "population", "difference"]
        rows = [
            [
                escape(group.value), wording.count(group.rows), wording.percent(group.share),
                wording.count(group.audited_rows), wording.percent(group.reference_share),
                wording.percent(group.difference),
            ]
            for group in each.groups
        ]  # fmt: skip
        lines += ["", *table(titles, rows)]
    return lines


def _with_ends(figure: Sequence[float | None]) -> str:
    value, *ends = figure
    return wording.number(value) + ("" if ends[0] is None else f" {escape(wording.interval(ends))}")


def _of(entry: Json) -> str:
    output = "" if entry["output"] is None else f", output {entry['output']}"
    return escape(f"{' × '.join(entry['attributes'])}{output}")


def _errors(audit: Json) -> list[str]:
    lines: list[str] = []
    names = ("mean_residual", "mean_absolute_error", "root_mean_square_error")
    for entry in audit["errors"]:
        titles = [_of(entry), "rows", *(name.replace("_", " ") for name in names)]
        rows = [
            [escape(group["group"]), wording.count(group["count"]), *(_with_ends(group[name]) for name in names)]
            for group in entry["groups"]
        ]
        lines += ["", *table(titles, rows)]
    return lines[1:]


def _reliability(audit: Json) -> list[str]:
    lines: list[str] = []
    for entry in audit["reliability"]:
        rows = [
            [
                escape(group["group"]), wording.count(group["count"]), wording.number(group["calibration_error"]),
                wording.number(group["expected_by_chance"]),
            ]
            for group in entry["groups"]
        ]  # fmt: skip
        lines += ["", *table([_of(entry), "rows", "calibration error", "by chance alone"], rows)]
    return lines[1:]


def _subgroups(audit: Json) -> list[str]:
    lines: list[str] = []
    for search in audit["subgroups"]:
        what = "mean score" if search["family"] == "ECP" else "mean error"
        rows = [
            [
                escape(" × ".join(map(str, each["values"].values()))), wording.count(each["count"]),
                f"{wording.signed(each['gap'])} {escape(wording.interval(each['interval']))}",
                "not tested" if each["q_value"] is None else "yes" if each["found"] else "no",
            ]
            for each in search["subgroups"][:MOST_SUBGROUPS]
        ]  # fmt: skip
        lines += ["", *table([f"subgroup, by {what}", "rows", "gap to all others", "found"], rows)]
        left = len(search["subgroups"]) - MOST_SUBGROUPS
        lines += [f"\nThe other {left} are in audit.json."] if left > 0 else []
    return lines[1:]


def _changes(changes: RunChanges) -> list[str]:
    lines = [escape(changes.basis)]
    for criterion in changes.criteria:
        verdicts = f"{criterion.earlier_verdict} → {criterion.verdict}"
        rows = [
            [
                escape(gap.name), wording.signed(gap.earlier), wording.signed(gap.later),
                f"{wording.signed(gap.change)} {escape(wording.interval(gap.interval))}", gap.said,
            ]
            for gap in criterion.gaps
        ]  # fmt: skip
        lines += ["", f"**{escape(criterion.name)}**: {verdicts}", ""]
        lines += table(["comparison", "earlier", "now", "change", "what it shows"], rows)
    return lines


def _frontier(frontier: Json | None) -> list[str]:
    if frontier is None:
        return []
    names = ("quality", "loss", "gap", "head_gap")
    rows = [
        [wording.tolerance(point["tolerance"]), *(wording.number(point[name]) for name in names)]
        for point in frontier["points"]
    ]
    return table(["tolerance", frontier["measure"], "loss", "gap, projected", "gap of the head itself"], rows)


def _stream(stream: Json | None) -> list[str]:
    if stream is None:
        return []
    rows = [
        [
            escape(gap["name"]), wording.tolerance(gap["tolerance"]), wording.signed(gap["gap"]),
            wording.number(gap["bound"]), escape(wording.interval(gap["interval"])),
        ]
        for gap in stream["gaps"]
    ]  # fmt: skip
    alarms = "; ".join(alarm["message"] for alarm in stream["alarms"]) or "none"
    lead = (
        f"{wording.count(stream['rows'])} rows in {wording.count(stream['batches'])} batches; alarms: {escape(alarms)}"
    )
    return [lead, "", *table(["comparison", "ε", "pooled gap", "provably at most", "interval"], rows)]


def _rules(report: RegulatoryReport) -> list[str]:
    lines = [f"Rules: {escape(report.rule_set)}; read as of {report.as_of}.", ""]
    lines += [f"- {escape(note)}" for note in report.notes]
    lines += [
        f"- **{escape(item.title)}** ({escape(item.reference)}){'' if item.stated else ' — open'}: {escape(item.text)}"
        for item in report.items
    ]
    for each in report.tables:
        kinds = [column.kind for column in each.columns]
        rows = [[escape(wording.cell(v, kind)) for v, kind in zip(row, kinds, strict=True)] for row in each.rows]
        lines += ["", f"**{escape(each.title)}**", "", *table([escape(c.title) for c in each.columns], rows), ""]
        lines += [f"- {escape(note)}" for note in each.notes]
    return lines


def _reproduction(document: ReportDocument) -> list[str]:
    run = document.run
    hashes = [f"- SHA-256 of the {name}: `{value}`" for name, value in (run.get("hashes") or {}).items() if value]
    versions = ", ".join(f"{name} {version}" for name, version in (run.get("versions") or {}).items())
    return [
        f"- `auditkit verify DIR`; `auditkit {run['command']}`, seed {run['seed']}",
        *hashes,
        f"- auditkit {run['auditkit']}, {escape(versions)}",
    ]


def escape(text: str) -> str:
    """Text from the data that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", _LINE_BREAKS.sub(" ", replace_unprintable(text)))


def replace_unprintable(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", str(text))
