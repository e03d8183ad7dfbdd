"""The app in a real browser: the sample from plan to report, an upload, cancelling, and how it looks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import auditkit as ak

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]

ROOT = Path(__file__).parent.parent
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
VIEWS = ("Decisions", "Distributions", "Errors", "Reliability", "Subgroups", "What if")
WIDTHS = {"phone": 390, "tablet": 820, "desktop": 1440}
LONG = 300_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app, served from the repository's root as the README says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "streamlit.log"
    command = [
        sys.executable, "-m", "streamlit", "run", "app", "--server.headless", "true", "--server.address", "127.0.0.1",
        "--server.port", str(port), "--browser.gatherUsageStats", "false",
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, stdout=out, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}/_stcore/health", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=20)


def _wait_until_healthy(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(120):
        if server.poll() is not None:
            pytest.fail(log.read_text(errors="replace"))
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.25)
    pytest.fail("the app did not start\n" + log.read_text(errors="replace"))


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Chromium without a window."""
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go; they stay for the person who runs the tests with ``--basetemp``."""
    return tmp_path_factory.mktemp("screenshots")


def open_app(browser: Browser, address: str, *, width: int = 1100, scheme: str = "light") -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": 1000}, color_scheme=scheme, accept_downloads=True, reduced_motion="reduce"
    )  # pyright: ignore[reportArgumentType]
    page = context.new_page()
    page.goto(address)
    expect(page.get_by_role("heading", name="Audit a model for group fairness")).to_be_visible(timeout=LONG)
    return page


def press(page: Page, key: str) -> None:
    """Press the button with a key; Streamlit puts the key into a class."""
    page.locator(f".st-key-{key} button").click(timeout=LONG)


def wait_for_heading(page: Page, name: str) -> None:
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible(timeout=LONG)


def wait_until_idle(page: Page) -> None:
    expect(page.locator("[data-testid=stApp][data-test-script-state=notRunning]")).to_be_attached(timeout=LONG)


def shoot(page: Page, folder: Path, name: str) -> None:
    """The page as it is, in full, at three widths."""
    wait_until_idle(page)
    page.wait_for_timeout(500)
    for title, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight") + 80
        page.set_viewport_size({"width": width, "height": min(int(height), 6000)})
        page.wait_for_timeout(400)
        page.screenshot(path=folder / f"{name}-{title}.png")
    page.set_viewport_size({"width": 1100, "height": 1000})


def audit_sample(page: Page) -> None:
    press(page, "start-sample")
    wait_for_audit(page)


def wait_for_audit(page: Page) -> None:
    wait_for_heading(page, "Audit")
    expect(page.get_by_text("Model as found:")).to_be_visible(timeout=LONG)
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible(timeout=LONG)
    wait_until_idle(page)


def open_page(page: Page, title: str) -> None:
    page.get_by_role("link", name=title, exact=True).first.click()
    wait_until_idle(page)


def assert_accessible(page: Page, folder: Path, name: str) -> None:
    """axe-core finds nothing that it calls serious or critical."""
    wait_until_idle(page)
    found = axe.Axe().run(page).response["violations"]
    (folder / f"axe-{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    grave = [
        f"{one['id']}: {node['target']} {node.get('failureSummary', '')[:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
    assert not grave, name + ": " + "\n".join(grave)


def test_sample_from_plan_to_report(browser: Browser, address: str, shots: Path, tmp_path: Path) -> None:
    page = open_app(browser, address)
    shoot(page, shots, "0-start")
    audit_sample(page)
    expect(page.get_by_text("outside tolerance").first).to_be_visible()
    shoot(page, shots, "2-audit")
    for view in VIEWS:
        page.get_by_test_id("stRadio").get_by_text(view, exact=True).first.click()
        wait_until_idle(page)
        shoot(page, shots, f"2-audit-{view.lower().replace(' ', '-')}")
    page.reload()
    wait_for_audit(page)
    press(page, "on-enforce")
    wait_for_heading(page, "Enforce")
    expect(page.get_by_text("Parity on a batch is not parity on the union of batches.")).to_be_visible()
    press(page, "run-tune")
    wait_for_heading(page, "Before and after")
    wait_until_idle(page)
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible(timeout=LONG)
    shoot(page, shots, "3-enforce")
    press(page, "on-compare")
    wait_for_heading(page, "Compare methods")
    press(page, "run-compare")
    wait_for_heading(page, "On the test rows")
    wait_until_idle(page)
    shoot(page, shots, "4-compare")
    press(page, "on-stream")
    wait_for_heading(page, "Stream")
    press(page, "run-stream")
    wait_for_heading(page, "Multipliers")
    expect(page.get_by_text("No bound is crossed now.").or_(page.get_by_text("Looks at which")).first).to_be_visible(
        timeout=LONG
    )
    shoot(page, shots, "6-stream")
    press(page, "on-report")
    wait_for_heading(page, "Report")
    shoot(page, shots, "5-report")
    check_downloads(page, tmp_path)
    page.context.close()


def check_downloads(page: Page, folder: Path) -> None:
    for key, name in {
        "get-report-html": "report.html",
        "get-audit-json": "audit.json",
        "get-folder": "run.zip",
    }.items():
        with page.expect_download(timeout=LONG) as waiting:
            press(page, key)
        waiting.value.save_as(folder / name)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Adult income" in report
    assert "<html" in report[:500].lower()
    assert json.loads((folder / "audit.json").read_text(encoding="utf-8"))["schema"] == "auditkit.audit/3"
    with zipfile.ZipFile(folder / "run.zip") as archive:
        assert {"run.json", "audit.json", "audit_after.json", "comparison.json", "report.html"} <= set(
            archive.namelist()
        )


def write_predictions(folder: Path) -> Path:
    rng = np.random.default_rng(5)
    group = rng.choice(["a", "b"], 900)
    frame = pd.DataFrame({"group": group, "score": np.clip(rng.normal(0.5, 0.15, 900) + (group == "b") * 0.1, 0, 1)})
    frame.to_csv(folder / "predictions.csv", index=False)
    return folder / "predictions.csv"


def choose_option(page: Page, key_end: str, option: str) -> None:
    """Pick one option of a multiselect, by the end of its key."""
    box = page.locator(f"[class*='-{key_end}'] [data-testid=stMultiSelect] input")
    box.fill(option)
    page.get_by_role("option", name=option, exact=True).click()
    page.keyboard.press("Escape")


def test_upload_of_predictions(browser: Browser, address: str, shots: Path, tmp_path: Path) -> None:
    table = write_predictions(tmp_path)
    (tmp_path / "broken.csv").write_text("a,b\n1,2\n3\n", encoding="utf-8")
    page = open_app(browser, address)
    press(page, "start-table")
    wait_for_heading(page, "Data & model")
    chooser = page.locator("[data-testid=stFileUploader] input[type=file]")
    chooser.set_input_files(tmp_path / "broken.csv")
    expect(page.get_by_role("alert")).to_contain_text("broken", timeout=LONG)
    shoot(page, shots, "1-refused")
    page.locator("[data-testid=stFileUploader] input[type=file]").set_input_files(table)
    choose_option(page, "attributes", "group")
    press(page, "usual")
    wait_until_idle(page)
    shoot(page, shots, "1-upload")
    press(page, "on-audit")
    wait_for_heading(page, "Audit")
    press(page, "run-audit")
    wait_for_audit(page)
    expect(page.get_by_text("a − b").first).to_be_visible()
    frame = pd.read_csv(table)
    outcome = ak.audit(
        frame["score"], ak.Groups({"group": frame["group"]}), ak.ECP("group", tolerance=0.05), threshold=0.5
    )
    expect(page.get_by_text(outcome.findings[0].reason).first).to_be_visible()
    page.context.close()


def test_cancelling_and_reloading_leave_a_working_app(browser: Browser, address: str) -> None:
    page = open_app(browser, address)
    page.get_by_role("link", name="Enforce", exact=True).first.click()
    wait_for_heading(page, "Enforce")
    press(page, "run-tune")
    expect(page.get_by_text("tuning the head")).to_be_visible(timeout=LONG)
    press(page, "cancel-tune")
    expect(page.get_by_text("Cancelled. Nothing of that run was kept")).to_be_visible(timeout=LONG)
    wait_until_idle(page)
    page.get_by_role("link", name="Compare", exact=True).first.click()  # takes longer than the page needs to load again
    wait_for_heading(page, "Compare methods")
    press(page, "run-compare")
    expect(page.locator(".st-key-cancel-compare")).to_be_visible(timeout=LONG)
    page.reload()
    wait_for_heading(page, "Compare methods")
    expect(page.locator(".st-key-cancel-compare")).to_be_visible(timeout=LONG)
    wait_for_heading(page, "On the test rows")
    page.context.close()


def test_dark_theme(browser: Browser, address: str, shots: Path) -> None:
    page = open_app(browser, address, scheme="dark")
    audit_sample(page)
    shoot(page, shots, "9-dark-audit")
    background = page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
    assert background == "rgb(2, 4, 6)"
    page.context.close()


def test_a_reload_keeps_and_another_visitor_sees_nothing(browser: Browser, address: str) -> None:
    page = open_app(browser, address)
    audit_sample(page)
    assert "session=" in page.url
    page.reload()
    wait_for_audit(page)
    other = open_app(browser, address)
    open_page(other, "Audit")
    expect(other.get_by_text("Model as found:")).to_have_count(0)
    assert other.url != page.url
    page.context.close()
    other.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_issue(browser: Browser, address: str, shots: Path, scheme: str) -> None:
    page = open_app(browser, address, scheme=scheme)
    assert_accessible(page, shots, f"start-{scheme}")
    audit_sample(page)
    assert_accessible(page, shots, f"audit-{scheme}")
    for title in ("Data & model", "Enforce", "Compare", "Stream", "Report"):
        open_page(page, title)
        expect(page.locator("[data-testid=stMain] h1")).to_be_visible(timeout=LONG)
        assert_accessible(page, shots, f"{title.split()[0].lower()}-{scheme}")
    page.context.close()


def test_the_audit_can_be_run_by_keyboard(browser: Browser, address: str) -> None:
    page = open_app(browser, address)
    wait_until_idle(page)  # a page that is still being drawn moves the focus
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.st-key-start-sample') !== null"):
            break
    else:
        pytest.fail("40 steps by Tab do not reach the button")
    page.keyboard.press("Enter")
    wait_for_audit(page)
    page.context.close()
