"""A run for machines and for pull requests: JSON, Markdown, HTML and JUnit XML, all from the files in its folder."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from auditkit.errors import InputError
from auditkit.reporting import wording
from auditkit.reporting.document import Json, Outcome, ReportDocument
from auditkit.reporting.reading import load_document

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️"}
_LINE_BREAKS = re.compile(r"\s+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~$@&])")
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_run(folder: str | Path, form: str) -> str:
    """A run in one of ``FORMATS``.

    Args:
        folder: The folder of the run.
        form: "json" is audit.json (audit_after.json where a head was tuned, comparison.json of a comparison); "html"
            the report; "md" a summary for a pull request; "junit" one test case per criterion.

    Returns:
        The text, ending with a line break.

    Raises:
        InputError: There is no such format or folder.
    """
    if form not in FORMATS:
        raise InputError(f"--format must be one of {', '.join(FORMATS)}; got {form!r}")
    text = FORMATS[form](Path(folder))
    return text if text.endswith("\n") else f"{text}\n"


def write_step_summary(folder: str | Path) -> None:
    """Append the Markdown summary to the file that a GitHub Actions step shows; nothing where there is none."""
    target = os.environ.get(SUMMARY_VARIABLE)
    if not target:
        return
    try:
        with Path(target).open("a", encoding="utf-8") as stream:
            stream.write(render_markdown(load_document(folder)))
    except OSError as error:
        warnings.warn(f"{SUMMARY_VARIABLE}: the summary was not written ({error})", stacklevel=2)


def render_markdown(document: ReportDocument) -> str:
    """Verdicts, gaps, reasons and decision tables as GitHub-flavoured Markdown.

    Args:
        document: The run.

    Returns:
        Markdown; what comes from the data is escaped.
    """
    verdict = document.after_verdict or document.verdict
    lines = [f"## {MARKS[verdict]} {_escape(document.title)}: {wording.VERDICTS[verdict]}", "", *_criteria(document)]
    reasons = [(row.name, row.after or row.before) for row in document.criteria]
    lines += ["", *(f"- **{_escape(name)}** — {_escape(_reason(outcome))}" for name, outcome in reasons)]
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


def render_junit(document: ReportDocument) -> str:
    """One test case per criterion: a failure where it fails, an error where the data do not settle it.

    Args:
        document: The run.

    Returns:
        JUnit XML.
    """
    audited = document.after or document.audit
    findings = audited["findings"]
    verdicts = [finding["verdict"] for finding in findings]
    counts = {"tests": len(verdicts), "failures": verdicts.count("fail"), "errors": verdicts.count("inconclusive")}
    attributes = {name: str(count) for name, count in counts.items()}
    suites = ElementTree.Element("testsuites", {"name": "auditkit", **attributes})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _text(document.title), **attributes, "skipped": "0"})
    for finding in findings:
        _test_case(suite, finding)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=False)


def _test_case(suite: ElementTree.Element, finding: Json) -> None:
    criterion = finding["criterion"]
    names = {"classname": f"auditkit.{criterion['family']}", "name": _text(criterion["name"])}
    case = ElementTree.SubElement(suite, "testcase", {**names, "time": "0"})
    properties = ElementTree.SubElement(case, "properties")
    for key, value in _scalars({"tolerance": criterion["tolerance"], **finding}):
        ElementTree.SubElement(properties, "property", {"name": key, "value": value})
    outcome = {"fail": "failure", "inconclusive": "error"}.get(finding["verdict"])
    if outcome is not None:
        attributes = {"message": _text(finding["reason"]), "type": finding["verdict"]}
        ElementTree.SubElement(case, outcome, attributes).text = _text(_gap_lines(finding))
    else:
        ElementTree.SubElement(case, "system-out").text = _text(_gap_lines(finding))


def _scalars(finding: Json) -> Iterator[tuple[str, str]]:
    """Every figure of a finding that is one value or an interval, whatever fields the audit's version has."""
    for key, value in finding.items():
        if isinstance(value, str | int | float):
            yield key, _text(str(value))
        elif key.endswith("interval") and isinstance(value, list | tuple):
            yield key, f"{value[0]} {value[1]}"


def _gap_lines(finding: Json) -> str:
    gaps = (
        f"{g['name']}: {g['gap']:+.6g} {wording.interval(g.get('interval'))} {g['verdict']}" for g in finding["gaps"]
    )
    return "\n".join([f"{finding['verdict']}: {finding['reason']}", *gaps])


def _criteria(document: ReportDocument) -> list[str]:
    both = document.after is not None
    titles = ["criterion", "ε", "gap", "interval", "verdict", *(["gap after", "interval", "verdict"] if both else [])]
    rows = [titles, ["---", "---:", *["---:", "---", "---"] * (1 + both)]]
    for row in document.criteria:
        outcomes = [row.before, *([row.after] if both else [])]
        found = [cell for outcome in outcomes for cell in _outcome(outcome)]
        rows.append([_escape(row.name), wording.tolerance(row.tolerance), *found])
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _outcome(outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return [wording.DASH] * 3
    interval = _escape(wording.interval(outcome.interval))
    return [wording.number(outcome.gap), interval, f"{MARKS[outcome.verdict]} {outcome.verdict}"]


def _reason(outcome: Outcome) -> str:
    needed = outcome.rows_needed
    return outcome.reason + (f" (about {needed:,} rows of the smaller group would settle it)" if needed else "")


def _decisions(table: Json) -> list[str]:
    title = " × ".join(_escape(name) for name in table["attributes"])
    rows = [[title, "rows", "selected", "impact ratio", "true positives", "false positives"], ["---", *["---:"] * 5]]
    for group in table["groups"]:
        shares = [group["selection_rate"], group["true_positive_rate"], group["false_positive_rate"]]
        selected, hits, alarms = map(wording.percent, shares)
        ratio = wording.number(group["impact_ratio"])
        rows.append([_escape(group["group"]), wording.count(group["count"]), selected, ratio, hits, alarms])
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _methods(comparison: Json) -> list[str]:
    """One row per method: utilities, gaps of the enforced criteria, and selection-rate gaps on the test rows."""
    names = [criterion["name"] for criterion in comparison["criteria"]]
    titles = ["method", *wording.METRICS.values(), *(f"gap {_escape(name)}" for name in names), "selection-rate gap"]
    rows = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for method in comparison["methods"]:
        utility, gaps = method.get("utility") or {}, {gap["criterion"]: gap["gap"] for gap in method["gaps"]}
        found = [wording.number((utility.get(key) or {}).get("value")) for key in wording.METRICS]
        found += [wording.number(gaps.get(name)) for name in names]
        rates = [f"{wording.percent(t['rate_gap'])} {_escape('×'.join(t['attributes']))}" for t in method["decisions"]]
        rows.append([_escape(method.get("title") or method["name"]), *found, ", ".join(rates) or wording.DASH])
    errors = [f"- **{_escape(m['title'])}** — {_escape(m['error'])}" for m in comparison["methods"] if m.get("error")]
    return [*(f"| {' | '.join(cells)} |" for cells in rows), *(["", *errors] if errors else [])]


def _escape(text: str) -> str:
    """Text from the data that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", _LINE_BREAKS.sub(" ", _text(text)))


def _text(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", str(text))


def _read_json(folder: Path) -> str:
    """What the command was for: the comparison of `compare`, else the audit of what would be deployed."""
    command = json.loads((folder / "run.json").read_text(encoding="utf-8"))["command"]
    names = ["comparison.json"] if command == "compare" else ["audit_after.json", "audit.json"]
    found = next(folder / name for name in names if (folder / name).is_file())
    return found.read_text(encoding="utf-8")


FORMATS: dict[str, Callable[[Path], str]] = {
    "json": _read_json,
    "md": lambda folder: render_markdown(load_document(folder)),
    "html": lambda folder: (folder / "report.html").read_text(encoding="utf-8"),
    "junit": lambda folder: render_junit(load_document(folder)),
}
"""Name → how to write it."""
