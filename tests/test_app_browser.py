"""The app in a real browser: the sample from plan to report, an upload, cancelling, and how it looks."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import auditkit as ak
from benchmarks.app_browser import free_port, press, served
from benchmarks.app_upload import measure, write_rows

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
    with served(tmp_path_factory.mktemp("server"), free_port()) as (found, _):
        yield found


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
    expect(page.get_by_role("button", name=f"Remove {option}", exact=True)).to_be_visible(timeout=LONG)


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


class Inspector:
    """Has axe look at a page in both colour schemes."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self.folder = page, folder

    def look(self, name: str) -> None:
        for scheme in ("dark", "light"):
            self.page.emulate_media(color_scheme=scheme)
            wait_until_idle(self.page)
            self.page.wait_for_timeout(400)  # colours fade over
            assert_accessible(self.page, self.folder, f"{name}-{scheme}")

    def look_at_tabs(self, name: str, *tabs: str) -> None:
        for tab in tabs:
            self.page.get_by_role("tab", name=tab, exact=True).first.click()
            self.look(f"{name}-{tab.lower()}")

    def open_all(self) -> None:
        """Unfold whatever is folded."""
        folded = self.page.locator("[data-testid=stExpander] details:not([open]) > summary:visible")
        while folded.count():
            folded.first.click(timeout=LONG)
            self.page.wait_for_timeout(300)
        wait_until_idle(self.page)


def test_axe_finds_no_serious_issue_on_empty_pages(browser: Browser, address: str, shots: Path) -> None:
    page = open_app(browser, address)
    inspector = Inspector(page, shots)
    inspector.open_all()
    inspector.look("start")
    for title in ("Data & model", "Audit", "Enforce", "Compare", "Stream", "Report"):
        open_page(page, title)
        expect(page.locator("[data-testid=stMain] h1")).to_be_visible(timeout=LONG)
        inspector.look(f"empty-{title.split()[0].lower()}")
    page.context.close()


def test_axe_finds_no_serious_issue_in_an_audit(browser: Browser, address: str, shots: Path) -> None:
    page = open_app(browser, address)
    inspector = Inspector(page, shots)
    audit_sample(page)
    inspector.open_all()
    inspector.look("audit")
    inspector.look_at_tabs("audit", "Groups")
    for view in VIEWS:
        page.get_by_test_id("stRadio").get_by_text(view, exact=True).first.click()
        wait_until_idle(page)
        inspector.open_all()
        inspector.look(f"audit-{view.lower()}")
    page.get_by_test_id("stRadio").get_by_text("Decisions", exact=True).last.click()
    inspector.look("audit-what-if-decisions")
    open_page(page, "Data & model")
    page.get_by_text("Add a criterion").click()
    expect(page.get_by_text("Form (EER only)")).to_be_visible(timeout=LONG)
    inspector.look("data-form")
    page.context.close()


def test_axe_finds_no_serious_issue_in_what_was_enforced_and_compared(
    browser: Browser, address: str, shots: Path
) -> None:
    page = open_app(browser, address)
    inspector = Inspector(page, shots)
    open_page(page, "Enforce")
    choose_option(page, "frontier", "0.1")
    press(page, "run-tune")
    wait_for_heading(page, "Before and after")
    inspector.look("enforced")
    inspector.look_at_tabs("enforced", "Decisions", "Guarantee", "Training", "Frontier")
    open_page(page, "Compare")
    for name in ("penalty", "threshold optimizer", "calibrated projection"):
        page.get_by_role("button", name=f"Remove {name}", exact=True).click()
    press(page, "run-compare")
    expect(page.locator(".st-key-cancel-compare")).to_be_visible(timeout=LONG)
    wait_for_heading(page, "Accuracy against the tolerance")
    inspector.open_all()
    inspector.look("compared")
    page.context.close()


def test_axe_finds_no_serious_issue_in_a_stream_and_its_report(browser: Browser, address: str, shots: Path) -> None:
    page = open_app(browser, address)
    inspector = Inspector(page, shots)
    audit_sample(page)
    open_page(page, "Stream")
    press(page, "run-stream")
    expect(page.locator(".st-key-get-store")).to_be_visible(timeout=LONG)
    inspector.open_all()
    inspector.look("streamed")
    open_page(page, "Report")
    choose_option(page, "rules", "Four-fifths rule")
    page.get_by_text("A public summary", exact=False).first.click()
    press(page, "run-report")
    expect(page.locator(".st-key-get-public-html")).to_be_visible(timeout=LONG)
    page.get_by_text("Show the report here").click()
    expect(page.locator("iframe")).to_be_visible(timeout=LONG)
    inspector.open_all()
    inspector.look("reported")  # axe looks into the frame as well
    page.context.close()


def ink(page: Page) -> set[str]:
    """The colours of the text in the charts."""
    return set(
        page.evaluate("[...document.querySelectorAll('.js-plotly-plot text')].map(one => getComputedStyle(one).fill)")
    )


def test_charts_follow_a_change_of_theme(browser: Browser, address: str) -> None:
    page = open_app(browser, address)
    audit_sample(page)
    assert ink(page) == {"rgb(13, 20, 27)"}
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(1000)
    assert ink(page) == {"rgb(232, 237, 242)"}
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(1000)
    assert ink(page) == {"rgb(13, 20, 27)"}
    page.context.close()


def test_a_page_left_while_a_stream_runs_leaves_the_next_one_whole(browser: Browser, address: str) -> None:
    page = open_app(browser, address)
    audit_sample(page)
    for _ in range(4):
        open_page(page, "Stream")
        press(page, "run-stream")
        wait_for_heading(page, "Multipliers")
        press(page, "on-report")
        wait_for_heading(page, "Report")
        wait_until_idle(page)
        expect(page.locator(".st-key-get-report-html")).to_be_visible(timeout=LONG)
        open_page(page, "Stream")
        expect(page.locator(".st-key-get-store")).to_be_visible(timeout=LONG)
    page.context.close()


def test_a_restart_of_the_app_loses_nothing_where_sessions_are_kept(browser: Browser, tmp_path: Path) -> None:
    port, table = free_port(), write_predictions(tmp_path)
    settings = {"AUDITKIT_APP_SESSIONS": str(tmp_path / "sessions"), "TMPDIR": str(tmp_path)}
    with served(tmp_path, port, **settings) as (address, _):
        page = open_app(browser, address)
        press(page, "start-table")
        wait_for_heading(page, "Data & model")  # the page Start has a place for files as well
        page.locator("[data-testid=stFileUploader] input[type=file]").set_input_files(table)
        choose_option(page, "attributes", "group")
        press(page, "usual")
        press(page, "on-audit")
        wait_for_heading(page, "Audit")
        press(page, "run-audit")
        wait_for_audit(page)
        found = page.get_by_text("As found:").first.inner_text()
    with served(tmp_path, port, **settings):
        page.reload()
        wait_for_audit(page)
        assert page.get_by_text("As found:").first.inner_text() == found
        other = open_app(browser, address)
        open_page(other, "Audit")
        expect(other.get_by_text("Model as found:")).to_have_count(0)
    with served(tmp_path, port, TMPDIR=str(tmp_path)):
        page.reload()
        expect(page.get_by_text("The session of this address is no longer here")).to_be_visible(timeout=LONG)
    assert not list(tmp_path.glob("auditkit-app-*")), "what is not kept goes with the app"
    for one in (page, other):
        one.context.close()


def test_a_million_rows_leave_the_app_responsive(browser: Browser, tmp_path: Path) -> None:
    """The figures that the docs quote come from `python -m benchmarks.app_upload`; here, that nothing stands still."""
    with served(tmp_path, free_port()) as (own, process):
        write_rows(1_000_000, tmp_path / "rows.csv")
        found = measure(browser, own, process, tmp_path / "rows.csv")
    for times in found.answers.values():
        assert not times or np.median(times) < 5_000
    assert found.memory["most"] < 2_000


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
