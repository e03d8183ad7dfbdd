"""A run for machines and for pull requests: JSON, Markdown, HTML and JUnit XML, all from the files in its folder."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from auditkit.errors import InputError
from auditkit.reporting import wording
from auditkit.reporting.document import Json, ReportDocument
from auditkit.reporting.markdown import render_markdown, replace_unprintable
from auditkit.reporting.reading import load_document

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"


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
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": replace_unprintable(document.title), **attributes, "skipped": "0"}
    )
    for finding in findings:
        _test_case(suite, finding)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=False)


def _test_case(suite: ElementTree.Element, finding: Json) -> None:
    criterion = finding["criterion"]
    names = {"classname": f"auditkit.{criterion['family']}", "name": replace_unprintable(criterion["name"])}
    case = ElementTree.SubElement(suite, "testcase", {**names, "time": "0"})
    properties = ElementTree.SubElement(case, "properties")
    for key, value in _scalars({"tolerance": criterion["tolerance"], **finding}):
        ElementTree.SubElement(properties, "property", {"name": key, "value": value})
    outcome = {"fail": "failure", "inconclusive": "error"}.get(finding["verdict"])
    if outcome is not None:
        attributes = {"message": replace_unprintable(finding["reason"]), "type": finding["verdict"]}
        ElementTree.SubElement(case, outcome, attributes).text = replace_unprintable(_gap_lines(finding))
    else:
        ElementTree.SubElement(case, "system-out").text = replace_unprintable(_gap_lines(finding))


def _scalars(finding: Json) -> Iterator[tuple[str, str]]:
    """Every figure of a finding that is one value or an interval, whatever fields the audit's version has."""
    for key, value in finding.items():
        if isinstance(value, str | int | float):
            yield key, replace_unprintable(str(value))
        elif key.endswith("interval") and isinstance(value, list | tuple):
            yield key, f"{value[0]} {value[1]}"


def _gap_lines(finding: Json) -> str:
    gaps = (
        f"{g['name']}: {g['gap']:+.6g} {wording.interval(g.get('interval'))} {g['verdict']}" for g in finding["gaps"]
    )
    return "\n".join([f"{finding['verdict']}: {finding['reason']}", *gaps])


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
