"""A table of a million rows brought to the app, in Chromium: how fast its pages answer meanwhile, and what it holds.

    python -m benchmarks.app_upload [--rows 1000000]

One visitor uploads the csv, audits it and asks what-if questions; another, who has audited the sample, moves a what-if
tolerance again and again. An answer is timed in the browser, from the key to the new figure; Streamlit itself waits
a fifth of a second for further keys. Memory is that of the app's process. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.app_browser import LONG, choose, free_port, launched, open_app, press, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MOVES = 10


@dataclass(frozen=True)
class Upload:
    """What was measured.

    Attributes:
        megabytes: Size of the csv.
        reading: Seconds from the choice of the file until its columns can be chosen.
        auditing: Seconds from the button until the verdicts are on the page.
        answers: When → milliseconds of every answer.
        memory: When → resident megabytes of the app's process; "most" is the peak.
    """

    megabytes: float
    reading: float
    auditing: float
    answers: dict[str, list[float]]
    memory: dict[str, float]


def write_rows(rows: int, path: Path) -> None:
    """Two attributes, a condition, an outcome and a score."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    sex, race, region = rng.integers(0, 2, rows), rng.integers(0, 5, rows), rng.integers(0, 4, rows)
    score = 1 / (1 + np.exp(-rng.normal(0.4 * sex, 1.0, rows)))
    frame = pd.DataFrame({
        "sex": np.array(["female", "male"])[sex], "race": np.array(list("abcde"))[race],
        "region": np.array(["north", "east", "south", "west"])[region],
        "hired": (rng.random(rows) < score).astype(int), "score": score.round(6),
    })  # fmt: skip
    frame.to_csv(path, index=False)


def measure(browser: Browser, address: str, process: int, table: Path) -> Upload:
    """Upload, audit and question a table, beside a visitor who questions the sample.

    Args:
        browser: Chromium.
        address: Of the app.
        process: The app's process on this machine.
        table: The csv, with the columns of `write_rows`.
    """
    beside = open_app(browser, address)
    press(beside, "start-sample")
    moves = _Moves(beside)
    answers = {"before": [moves.once() for _ in range(MOVES)]}
    memory = {"before": _resident(process)}
    page = open_app(browser, address)
    press(page, "start-table")
    page.get_by_role("heading", name="Data & model", exact=True).wait_for(timeout=LONG)
    begin = time.perf_counter()
    page.locator("[data-testid=stFileUploader] input[type=file]").set_input_files(table)
    answers["while the table is read"] = moves.until(lambda: page.get_by_text("First rows of").count() > 0)
    reading = time.perf_counter() - begin
    memory["with the table"] = _resident(process)
    for name in ("sex", "race"):
        choose(page, "attributes", name)
    press(page, "usual")
    press(page, "on-audit")
    page.get_by_role("heading", name="Audit", exact=True).wait_for(timeout=LONG)
    begin = time.perf_counter()
    press(page, "run-audit")
    answers["while it is audited"] = moves.until(lambda: page.get_by_text("Model as found:").count() > 0)
    auditing = time.perf_counter() - begin
    own = _Moves(page)
    answers["of the audit itself"] = [own.once() for _ in range(MOVES)]
    memory |= {"with the audit": _resident(process), "most": _resident(process, "VmHWM")}
    for one in (beside, page):
        one.context.close()
    return Upload(table.stat().st_size / 1e6, reading, auditing, answers, memory)


class _Moves:
    """Moves the what-if tolerance of an audit by one step, there and back, and times the answers."""

    def __init__(self, page: Page) -> None:
        page.get_by_text("Model as found:").wait_for(timeout=LONG)
        page.get_by_test_id("stRadio").get_by_text("What if", exact=True).first.click(timeout=LONG)
        self._slider = page.locator(".st-key-audit-1-tolerance input[type=range]")
        self._slider.wait_for(state="attached", timeout=LONG)
        self._page, self._place = page, 0
        page.get_by_text("against ±0.05.").first.wait_for(timeout=LONG)

    def once(self) -> float:
        """Milliseconds from the key to the figure."""
        there = self._place % 2 == 0
        self._place += 1
        self._slider.focus()
        begin = time.perf_counter()
        self._page.keyboard.press("ArrowRight" if there else "ArrowLeft")
        self._page.get_by_text("against ±0.055." if there else "against ±0.05.").first.wait_for(timeout=LONG)
        return 1e3 * (time.perf_counter() - begin)

    def until(self, is_over: Callable[[], bool]) -> list[float]:
        """The answers until something is over."""
        times = []
        while not is_over():
            times.append(self.once())
        return times


def _resident(process: int, name: str = "VmRSS") -> float:
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args(arguments).rows
    with tempfile.TemporaryDirectory() as place, launched() as browser:
        folder = Path(place)
        write_rows(rows, folder / "rows.csv")
        with served(folder, free_port()) as (address, process):
            found = measure(browser, address, process, folder / "rows.csv")
    _show(rows, found)


def _show(rows: int, found: Upload) -> None:
    console = Console(width=110)
    table: Any = Table("answers to a move of a what-if tolerance", "how many", "median ms", "longest ms")
    for name, times in found.answers.items():
        shown = (f"{statistics.median(times):.0f}", f"{max(times):.0f}") if times else ("", "")
        table.add_row(name, str(len(times)), *shown)
    console.print(table)
    memory = ", ".join(f"{name} {size:.0f}" for name, size in found.memory.items())
    console.print(
        f"{rows:,} rows, {found.megabytes:.0f} MB of csv: columns to choose after {found.reading:.1f} s, verdicts "
        f"{found.auditing:.1f} s after the button. Memory in MB: {memory}. Load {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores."
    )


if __name__ == "__main__":
    main()
