"""The app in a process of its own, and Chromium in front of it, for what is measured there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parent.parent
LONG = 600_000
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(folder: Path, port: int, **variables: str) -> Iterator[tuple[str, int]]:
    """The app in a process of its own, from the root of the repository as the README says: its address and process.

    Args:
        folder: Where its log goes.
        port: To listen on.
        variables: Of its environment, beside those of this process.
    """
    log = folder / "streamlit.log"
    command = [
        sys.executable, "-m", "streamlit", "run", "app", "--server.headless", "true", "--server.address", "127.0.0.1",
        "--server.port", str(port), "--browser.gatherUsageStats", "false",
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths, **variables}, stdout=out,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}/_stcore/health", process, log)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(480):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.25)
    raise RuntimeError("the app did not start\n" + log.read_text(errors="replace"))


@contextmanager
def launched() -> Iterator[Browser]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        yield browser
        browser.close()


def open_app(browser: Browser, address: str) -> Page:
    """A visitor of their own, on the start page."""
    page = browser.new_context(viewport={"width": 1100, "height": 1000}, reduced_motion="reduce").new_page()
    page.goto(address)
    page.get_by_role("heading", name="Audit a model for group fairness").wait_for(timeout=LONG)
    return page


def press(page: Page, key: str) -> None:
    """Press the button with a key; Streamlit puts the key into a class."""
    page.locator(f".st-key-{key} button").click(timeout=LONG)


def choose(page: Page, key: str, option: str) -> None:
    """Pick one option of a multiselect, by the end of its key."""
    page.locator(f"[class*='-{key}'] [data-testid=stMultiSelect] input").first.fill(option)
    page.get_by_role("option", name=option, exact=True).click(timeout=LONG)
    page.keyboard.press("Escape")
