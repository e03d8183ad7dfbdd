"""What a command prints: verdicts, before and after, the comparison, and where the report lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from auditkit.reporting import wording
from auditkit.reporting.document import Json, Outcome, ReportDocument
from auditkit.reporting.reading import load_document

if TYPE_CHECKING:
    from pathlib import Path

    from auditkit.checks import Check

PIPE_WIDTH = 120
STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def print_run(folder: Path, *, console: Console | None = None) -> None:
    """Print what a run found, from the numbers in its folder.

    Args:
        folder: The folder of the run.
        console: Where to print; None is stdout.
    """
    target = console or _console()
    document = load_document(folder)
    target.print(_verdict_table(document))
    if document.comparison is not None:
        target.print(_method_table(document.comparison))
    for heading, text in wording.summary(document):
        target.print(Text.assemble((f"{heading}: ", "bold"), text))
    target.print(Text.assemble(("report: ", "bold"), str(folder / "report.html")), soft_wrap=True)


def print_checks(checks: Sequence[Check], *, console: Console | None = None) -> None:
    """Print what a verification found.

    Args:
        checks: The checks.
        console: Where to print; None is stdout.
    """
    table = _table("Verification")
    for title in ("check", "", "found"):
        table.add_column(title)
    for check in checks:
        sign = Text("✓", "green") if check.passed else Text("✕", "red")
        table.add_row(Text(check.name), sign, Text(check.detail))
    target = console or _console()
    target.print(table)
    failed = sum(not check.passed for check in checks)
    target.print(f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed")


def _console() -> Console:
    """Stdout; a pipe has no width, so it gets one that holds the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


def _table(title: str) -> Table:
    return Table(title=Text(title, "italic"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _verdict_table(document: ReportDocument) -> Table:
    table = _table(document.title)
    table.add_column("criterion")
    table.add_column("ε", justify="right")
    for title in ["as found", "verdict"] if document.after is None else ["as found", "verdict", "after", "verdict"]:
        table.add_column(title)
    for row in document.criteria:
        found = [*_outcome(row.before), *(_outcome(row.after) if document.after is not None else [])]
        table.add_row(Text(row.name + (" *" if row.enforced else "")), Text(wording.tolerance(row.tolerance)), *found)
    table.caption = "largest gap and its simultaneous interval" + ("; * enforced" if document.enforced else "")
    table.caption_justify = "left"
    return table


def _outcome(outcome: Outcome | None) -> list[Text]:
    if outcome is None:
        return [Text(wording.DASH)] * 2
    found = f"{wording.number(outcome.gap)} {wording.interval(outcome.interval)}"
    return [Text(found), Text(outcome.verdict, STYLES[outcome.verdict])]


def _method_table(comparison: Json) -> Table:
    table = _table("Methods on the test rows")
    names = [criterion["name"] for criterion in comparison["criteria"]]
    table.add_column("method")
    for title in (*wording.METRICS.values(), *(f"gap {name}" for name in names), "selection-rate gap"):
        table.add_column(title)
    for method in comparison["methods"]:
        utility = method.get("utility") or {}
        gaps = {gap["criterion"]: gap for gap in method["gaps"]}
        cells = [_estimate(utility.get(key)) for key in wording.METRICS]
        cells += [wording.number(gaps[name]["gap"]) if name in gaps else wording.DASH for name in names]
        cells.append("\n".join(_rate_gap(table) for table in method["decisions"]) or wording.DASH)
        table.add_row(Text(method.get("title") or method["name"]), *map(Text, cells))
    if comparison.get("intervals"):
        table.caption, table.caption_justify = Text(f"intervals {comparison['intervals']}"), "left"
    return table


def _estimate(estimate: Json | None) -> str:
    if not estimate:
        return wording.DASH
    return f"{wording.number(estimate['value'])}\n{wording.number(estimate['low'])}–{wording.number(estimate['high'])}"


def _rate_gap(table: Json) -> str:
    return f"{wording.percent(table['rate_gap'])} {'×'.join(table['attributes'])}"
