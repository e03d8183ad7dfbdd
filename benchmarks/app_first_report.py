"""From the first page of the app to a downloaded report, in Chromium: what has to be done, and what is waited for.

    python -m benchmarks.app_first_report [--rows 15000] [--repeats 3]

Two visitors, each in a session of their own: one audits the bundled sample, the other brings a csv of predictions. An
action is a press of a button, a choice or a file; the seconds are those in which the app works, from each action until
the next can be done. What a person reads and decides meanwhile comes on top. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.app_browser import LONG, choose, free_port, launched, open_app, press, served
from benchmarks.app_upload import write_rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Step = tuple[str, Callable[["Page"], None]]


def audit_of_the_sample() -> list[Step]:
    """What is done on the sample: titles, and what to do until the page is ready for the next."""
    return [("audit the sample model", _start_sample), *_to_the_report()]


def audit_of_a_table(table: Path) -> list[Step]:
    """The same with one's own predictions.

    Args:
        table: A csv with the columns of `write_rows`.
    """
    return [
        ("use my own table", lambda page: _press_until_heading(page, "start-table", "Data & model")),
        ("choose the file", lambda page: _bring(page, table)),
        ("choose the attribute sex", lambda page: _pick(page, "sex")),
        ("choose the attribute race", lambda page: _pick(page, "race")),
        ("take the usual criteria", lambda page: _press_until_idle(page, "usual")),
        ("go on to the audit", lambda page: _press_until_heading(page, "on-audit", "Audit")),
        ("run the audit", _run_audit),
        *_to_the_report(),
    ]


def _to_the_report() -> list[Step]:
    return [("open the report", _open_report), ("download it", _download)]


def measure(browser: Browser, address: str, steps: Sequence[Step]) -> list[float]:
    """Seconds of every step, of one visitor."""
    page = open_app(browser, address)
    seconds = []
    for _, act in steps:
        begin = time.perf_counter()
        act(page)
        seconds.append(time.perf_counter() - begin)
    page.context.close()
    return seconds


def _start_sample(page: Page) -> None:
    press(page, "start-sample")
    _wait_for_audit(page)


def _run_audit(page: Page) -> None:
    press(page, "run-audit")
    _wait_for_audit(page)


def _wait_for_audit(page: Page) -> None:
    page.get_by_text("Model as found:").wait_for(timeout=LONG)
    _wait_until_idle(page)


def _wait_until_idle(page: Page) -> None:
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(state="attached", timeout=LONG)


def _wait_for_heading(page: Page, title: str) -> None:
    page.get_by_role("heading", name=title, exact=True).wait_for(timeout=LONG)
    _wait_until_idle(page)


def _press_until_heading(page: Page, key: str, title: str) -> None:
    press(page, key)
    _wait_for_heading(page, title)


def _press_until_idle(page: Page, key: str) -> None:
    press(page, key)
    _wait_until_idle(page)


def _bring(page: Page, table: Path) -> None:
    page.locator("[data-testid=stFileUploader] input[type=file]").set_input_files(table)
    page.get_by_text("First rows of").wait_for(timeout=LONG)
    _wait_until_idle(page)


def _pick(page: Page, name: str) -> None:
    choose(page, "attributes", name)
    page.get_by_role("button", name=f"Remove {name}", exact=True).wait_for(timeout=LONG)
    _wait_until_idle(page)


def _open_report(page: Page) -> None:
    page.get_by_role("link", name="Report", exact=True).first.click()
    _wait_for_heading(page, "Report")


def _download(page: Page) -> None:
    with page.expect_download(timeout=LONG) as waiting:
        press(page, "get-report-html")
    if "<html" not in Path(waiting.value.path()).read_text(encoding="utf-8")[:500].lower():
        raise RuntimeError("what was downloaded is no page")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=15_000, help="of the table that is brought")
    parser.add_argument("--repeats", type=int, default=3, help="visitors that do the same one after another")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place, launched() as browser:
        table = Path(place) / "predictions.csv"
        write_rows(options.rows, table)
        with served(Path(place), free_port()) as (address, _):
            for title, steps in (
                ("the sample", audit_of_the_sample()),
                (f"a csv of {options.rows:,} predictions", audit_of_a_table(table)),
            ):
                _show(title, steps, [measure(browser, address, steps) for _ in range(options.repeats)])


def _show(title: str, steps: Sequence[Step], runs: Sequence[Sequence[float]]) -> None:
    console = Console(width=110)
    table: Any = Table(f"from the start to a downloaded report: {title}", "median s", "longest s")
    for (name, _), *times in zip(steps, *runs, strict=True):
        table.add_row(name, f"{statistics.median(times):.1f}", f"{max(times):.1f}")
    totals = [sum(run) for run in runs]
    table.add_row("all", f"{statistics.median(totals):.1f}", f"{max(totals):.1f}")
    console.print(table)
    console.print(f"{len(steps)} actions. Load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
