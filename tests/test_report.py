from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from auditkit import FairHead, certificates, jobs, project, verify_certificate
from auditkit.config import load_config, make_config
from auditkit.errors import InputError, SchemaError, SolverError
from auditkit.finetuning import PROBABILITY_BOUNDS
from auditkit.progress import NullProgress
from auditkit.reporting import (
    html,
    load_document,
    read_document,
    render_html,
    report_schema,
    verify_run,
    wording,
    write_report,
)
from auditkit.reporting.charts import DARK
from auditkit.reporting.markdown import render_whole_markdown
from auditkit.reporting.reading import read_part
from auditkit.reporting.static_charts import draw_svg
from auditkit.reporting.verification import recompute
from auditkit.reporting.wording import interval, signed
from auditkit.run_folder import Clock
from auditkit.splitting import split_subject
from auditkit.subjects import load_subject
from tests.run_folders import HOSTILE, MARKED, predictions, write_case

LAUNCH = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything a report can hold, of groups whose names try to leave the page."""
    folder = tmp_path_factory.mktemp("full")
    file = write_case(folder, predictions(rows=2000, hostile=True), name=f"Audit {HOSTILE}", frontier=[0.1, 0.02])
    return jobs.run_compare(load_config(file), out=folder / "run").folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that only audits, without decisions."""
    folder = tmp_path_factory.mktemp("plain")
    criteria = [
        {"family": "EER", "attributes": "sex", "tolerance": 0.05},
        {"family": "ECP", "attributes": "sex", "given": "region", "tolerance": 0.05},
    ]
    file = write_case(folder, predictions(rows=800), criteria=criteria, threshold=None)
    return jobs.run_audit(load_config(file), out=folder / "run").folder


@pytest.fixture
def copy(full: Path, tmp_path: Path) -> Path:
    """A copy of the full run, to be damaged."""
    return Path(shutil.copytree(full, tmp_path / "run"))


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, its text, and the content of its scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(full: Path) -> Page:
    return Page((full / "report.html").read_text(encoding="utf-8"))


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (text for inner in value.values() for text in strings(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in strings(inner))
    elif isinstance(value, str):
        yield value


def test_runs_made_before_a_key_was_known_are_shown(full: Path) -> None:
    content = load_document(full).to_dict()
    del content["comparison"]["split"], content["comparison"]["intervals"]
    for contrast in content["run"]["calibration"]["contrasts"]:
        del contrast["counted"]
    page = render_html(read_document(json.dumps(content)))
    assert "rows it never saw (1 split). A method is called better" in page
    assert "Rows needed in the smaller group" in page


def test_document_is_json(full: Path) -> None:
    document = load_document(full)
    content = json.loads(json.dumps(document.to_dict(), allow_nan=False))
    assert content["schema"] == "auditkit.report/2"
    assert [row["name"] for row in content["criteria"]] == ["ECP(sex)", "equalized odds(sex)"]
    assert [row["enforced_tolerance"] for row in content["criteria"]] == [0.05, None]
    assert document.after_verdict == document.enforced[0].after.verdict  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("run", "seed"), "zero"), (("run", "files"), []), (("audit", "findings", 0, "verdict"), "maybe"),
        (("audit", "findings", 0, "interval"), "wide"), (("audit", "moments", "count"), None),
        (("comparison", "methods", 0, "needs_batch"), "perhaps"), (("comparison", "frontier"), {"tolerance": 0.1}),
        (("after", "decisions", 0, "attributes"), "sex"),
    ],
)  # fmt: skip
def test_the_parts_of_a_report_are_typed(full: Path, place: tuple[Any, ...], value: Any) -> None:
    content = load_document(full).to_dict()
    assert json_values(read_document(json.dumps(content)).to_dict()) == json_values(content)
    jsonschema.validate(json_values(content), report_schema())
    wrong = json_values(content)
    part = wrong
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(SchemaError, match=re.escape(".".join(map(str, place)))):
        read_document(json.dumps(wrong))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, report_schema())


def json_values(content: Any) -> Any:
    return json.loads(json.dumps(content))


def test_every_gap_and_every_group_is_stated(full: Path, page: Page) -> None:
    for name in ("audit.json", "audit_after.json"):
        audit = read_part(full / name, "auditkit.audit/3")
        assert audit is not None
        for finding in audit["findings"]:
            assert finding["criterion"]["name"] in page.text
            assert wording.number(finding["gap"]) in page.text
            assert all(wording.signed(gap["gap"]) in page.text for gap in finding["gaps"])
            assert all(wording.number(cell["mean_score"]) in page.text for cell in finding["cells"])
            for gap in finding["gaps"]:
                assert f"above ε, adjusted: p {wording.p_value(gap['p_above_adjusted'])}" in page.text
                assert f"below ε: p {wording.p_value(gap['p_below'])}" in page.text
        for table in audit["decisions"]:
            assert all(wording.percent(group["selection_rate"]) in page.text for group in table["groups"])
    assert page.text.count(HOSTILE) > 10
    assert page.text.count(MARKED) > 10


def test_charts_leave_room_for_the_numbers_of_their_axis(full: Path) -> None:
    charts = html.build_charts(load_document(full)).values()
    shown = [chart.figure["layout"] for chart in charts if chart.figure["layout"]["yaxis"].get("visible", True)]
    assert len(shown) >= 3
    assert all(layout["margin"]["l"] >= 56 for layout in shown)


def test_who_is_ahead_and_every_paired_difference_are_stated(full: Path, page: Page) -> None:
    comparison = load_document(full).comparison
    assert comparison is not None
    titles = {method["name"]: method["title"] for method in comparison["methods"]}
    for winner in comparison["winners"]:
        finding = winner["statement"].split(": ")[1]
        for name, title in titles.items():
            finding = finding.replace(f"'{name}'", f"“{title}”")
        assert finding in page.text
        assert ("; ".join(titles[name] for name in winner["eligible"]) or "none") in page.text
    assert len(comparison["pairs"]) == 6
    for pair in comparison["pairs"]:
        assert f"{titles[pair['first']]} − {titles[pair['second']]}" in page.text
        found = pair["accuracy"]
        assert f"{signed(found['value'], 4)} {interval((found['low'], found['high']), 4)}" in page.text


def test_every_method_at_every_further_tolerance_is_stated(full: Path, page: Page) -> None:
    document = load_document(full)
    comparison = document.comparison
    assert comparison is not None
    assert [level["tolerance"] for level in comparison["frontier"]] == [0.1, 0.02]
    chart = html.build_charts(document)["method-frontier"]
    traces = {trace["name"]: trace for trace in chart.figure["data"]}
    for method in comparison["methods"]:
        found = [
            next(one for one in level["methods"] if one["name"] == method["name"])
            for level in sorted(comparison["frontier"], key=lambda level: level["tolerance"])
        ]
        values = [one["utility"]["accuracy"]["value"] for one in found]
        assert traces[method["title"]]["x"] == [0.02, 0.1]
        assert traces[method["title"]]["y"] == pytest.approx(values)
        for one in found:
            shown = interval((one["utility"]["accuracy"]["low"], one["utility"]["accuracy"]["high"]))
            assert shown in page.text
    assert "Accuracy against the tolerance" in page.text
    static = html.render_html(document, static=True)
    assert "Every method at every tolerance" in static
    assert draw_svg(chart) in static, "in print it is a drawing"
    assert "### Accuracy against the tolerance" in render_whole_markdown(document)


def test_the_certificate_is_that_of_the_projection(full: Path, page: Page) -> None:
    """Computed once more from the head that the run holds and the rows that it was calibrated on."""
    document = load_document(full)
    stored = document.projection
    assert stored is not None
    config = make_config(document.run["plan"], folder=full.parent)
    subject = load_subject(config, progress=NullProgress(), clock=Clock())
    parts = split_subject(config, subject)
    rows = subject.sample.take(parts["calibrate"])
    assert rows.features is not None
    scores = FairHead.load(full / "head").predict(rows.features)
    assert hashlib.sha256(scores.astype("<f8").tobytes()).hexdigest() == stored["scores_sha256"]
    enforced = config.build_enforced()
    result = project(scores, rows.groups, enforced, labels=rows.labels, bounds=PROBABILITY_BOUNDS)
    checked = verify_certificate(result, scores, rows.groups, enforced, labels=rows.labels, bounds=PROBABILITY_BOUNDS)
    assert stored["certificate"] == pytest.approx(asdict(checked), abs=1e-12)
    assert stored["certificate"]["max_violation"] <= 1e-9
    assert [one["multiplier"] for one in stored["constraints"]] == pytest.approx(result.duals.tolist())
    assert f"{stored['certificate']['primal_objective']:.6g}" in page.text
    assert "Certificate of the projection" in page.text
    assert "### Certificate of the projection" in render_whole_markdown(document)
    said = [check for check in verify_run(full) if check.name == "projection.json: certificate"]
    assert [check.passed for check in said] == [True]
    assert "not computed again" in said[0].detail


def test_a_projection_that_fails_loses_nothing_and_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SolverError("newton stopped at a residual of 1e-3 <b>")

    monkeypatch.setattr(certificates, "project", fail)
    config = load_config(write_case(tmp_path, predictions(rows=1000)))
    result = jobs.run_tune(config, out=tmp_path / "run")
    assert (result.folder / "head" / "head.safetensors").is_file()
    document = load_document(result.folder)
    assert document.projection is not None
    assert (document.projection["status"], document.projection["certificate"]) == ("failed", None)
    assert document.projection["corrected"][0]["gap"] >= 0
    text = "did not reach its accuracy (newton stopped at a residual of 1e-3"
    assert f"{text} &lt;b&gt;)" in render_html(document)
    assert text in render_whole_markdown(document)
    said = next(check for check in verify_run(result.folder) if check.name == "projection.json: certificate")
    assert said.detail == "there is none: the projection did not reach its accuracy"


def test_comparison_guarantee_and_provenance_are_stated(full: Path, page: Page) -> None:
    run, comparison = load_document(full).run, load_document(full).comparison
    assert comparison is not None
    for method in comparison["methods"]:
        assert method["title"] in page.text
        estimate = method["utility"]["accuracy"]
        assert (
            f"{wording.number(estimate['value'])} {wording.interval([estimate['low'], estimate['high']])}" in page.text
        )
    assert all(contrast["name"] in page.text for contrast in run["calibration"]["contrasts"])
    assert all(digest in page.text for digest in [*run["files"].values(), run["hashes"]["data"], run["hashes"]["plan"]])
    for phrase in (
        "Scores are not decisions",
        "A batch is not the whole",
        "differential treatment",
        "group-blind",
        "signature",
    ):
        assert phrase in page.text


def test_report_of_an_audit_alone(plain: Path) -> None:
    page = Page((plain / "report.html").read_text(encoding="utf-8"))
    ids = {attributes.get("id") for attributes in page.find("section")}
    assert {"summary", "scope", "plan", "findings", "limits", "reproduction", "sign-off"} <= ids
    assert not ids & {"decisions", "mitigation", "comparison", "guarantee"}
    assert "Nothing about it was changed." in page.text
    assert "region=north" in page.text
    assert {attributes["href"] for attributes in page.find("a")} <= {
        f"#{attributes.get('id')}" for _, attributes in page.elements
    }


def test_names_from_the_data_stay_text(page: Page) -> None:
    kinds = [attributes.get("type") for attributes in page.find("script")]
    assert kinds == ["application/json", None, None]
    assert not page.find("b")
    stored = json.loads(page.scripts[0])
    assert "<" not in page.scripts[0]
    words = set(strings(stored["figures"]))
    assert any("&lt;/script&gt;" in text for text in words)
    assert not any("<script" in text or "<b>" in text for text in words)
    policy = next(a["content"] for a in page.find("meta") if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    assert set(re.findall(r"sha256-[\w+/=]+", policy)) == {html._policy_hash(script) for script in page.scripts[1:]}


def test_page_asks_for_nothing(page: Page) -> None:
    asking = [
        attributes
        for _, attributes in page.elements
        if {"src", "srcset", "data", "action", "poster"} & attributes.keys()
    ]
    assert not asking
    assert not page.find("link")
    assert all((attributes["href"] or "").startswith("#") for attributes in page.find("a"))


def test_page_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.find("html")[0]["lang"] == "en"
    assert len(page.find("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(attributes.get("scope") in {"row", "col"} for attributes in page.find("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    plots = [attributes for attributes in page.find("div") if attributes.get("class") == "plot"]
    assert plots
    for plot in plots:
        assert plot["role"] == "img"
        assert plot["tabindex"] == "0"
        assert {plot["aria-labelledby"], plot["aria-describedby"]} <= set(ids)
    named = [attributes for attributes in page.find("div") if attributes.get("class") == "scroll"]
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in named)


def test_words_are_neutral(page: Page) -> None:
    assert not re.search(r"violat|illegal|unlawful|discriminat|\bbias|unfair|compliant", page.text, re.IGNORECASE)


def test_same_numbers_give_the_same_page(full: Path) -> None:
    assert render_html(load_document(full)) == (full / "report.html").read_text(encoding="utf-8")


def test_a_report_that_fails_leaves_the_old_one(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (copy / "report.html").read_bytes()

    def stop(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(copy)
    assert (copy / "report.html").read_bytes() == before
    assert not list(copy.glob(".report-*"))


def test_folders_that_hold_no_run(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        load_document(tmp_path / "missing")
    (copy / "audit.json").write_text("{", encoding="utf-8")
    with pytest.raises(SchemaError, match=r"audit\.json is not JSON"):
        load_document(copy)
    (copy / "audit.json").write_text('{"schema": "auditkit.audit/9"}', encoding="utf-8")
    with pytest.raises(SchemaError, match=r"audit/9.*this release reads 'auditkit\.audit/3'"):
        load_document(copy)
    (copy / "audit.json").write_text('{"schema": "auditkit.audit/3"}', encoding="utf-8")
    with pytest.raises(SchemaError, match="lack what a report needs"):
        load_document(copy)
    (copy / "audit.json").unlink()
    with pytest.raises(InputError, match=r"holds no audit\.json"):
        load_document(copy)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1234, "0.123"), (-0.5, "−0.500"), (1e-4, "1.0e−04"), (0.0, "0.000"), (None, "—"), (float("nan"), "—")],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert wording.number(value) == shown


@pytest.mark.parametrize(
    ("metric", "value", "low", "high", "said"),
    [
        ("accuracy", 0.02, 0.01, 0.03, "better"),
        ("accuracy", -0.02, -0.03, -0.01, "worse"),
        ("accuracy", 0.02, -0.01, 0.05, "no difference shown"),
        ("accuracy", 0.02, 0.0, 0.05, "no difference shown"),
        ("log_loss", 0.02, 0.01, 0.03, "worse"),
        ("brier", -0.02, -0.03, -0.01, "better"),
    ],
)
def test_claims_need_an_interval_that_excludes_zero(
    metric: str, value: float, low: float, high: float, said: str
) -> None:
    assert wording.claim(metric, {"value": value, "low": low, "high": high}) == said


def test_a_criterion_that_got_worse_is_named(copy: Path) -> None:
    audit = json.loads((copy / "audit.json").read_text(encoding="utf-8"))
    after = json.loads((copy / "audit_after.json").read_text(encoding="utf-8"))
    audit["findings"][1]["verdict"], after["findings"][1]["verdict"] = "pass", "fail"
    (copy / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
    (copy / "audit_after.json").write_text(json.dumps(after), encoding="utf-8")
    said = dict(wording.summary(load_document(copy)))
    assert "equalized odds(sex) was within tolerance and is now outside tolerance" in said["What changed"]
    assert "Still outside tolerance: equalized odds(sex)." in said["What remains open"]


def test_colours_have_a_dark_counterpart(full: Path) -> None:
    colours = set()
    for chart in html.build_charts(load_document(full)).values():
        colours |= {text for text in strings(chart.figure) if re.fullmatch(r"#[0-9a-f]{6}", text)}
    assert colours
    assert colours <= DARK.keys()


def test_verification_recomputes_every_finding(full: Path, plain: Path) -> None:
    for folder in (full, plain):
        checks = verify_run(folder)
        assert all(check.passed for check in checks), [check for check in checks if not check.passed]
    assert {check.name for check in verify_run(full)} >= {
        "audit.json", "audit.json: ECP(sex)", "audit_after.json: equalized odds(sex)", "comparison.json",
    }  # fmt: skip


def test_recomputed_audit_is_the_audit(full: Path) -> None:
    stored = read_part(full / "audit.json", "auditkit.audit/3")
    assert stored is not None
    again = json.loads(json.dumps(recompute(stored).to_dict()))
    assert again["decisions"] == stored["decisions"]
    assert again["moments"] == stored["moments"]
    assert again["verdict"] == stored["verdict"]


@pytest.mark.parametrize("key", ["gap", "interval", "verdict", "p_value"])
def test_verification_finds_a_changed_figure(key: str, copy: Path) -> None:
    audit = json.loads((copy / "audit.json").read_text(encoding="utf-8"))
    finding = audit["findings"][0]
    finding[key] = {"gap": 0.01, "interval": [0.0, 0.01], "verdict": "pass", "p_value": 0.9}[key]
    (copy / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
    failed = {check.name: check.detail for check in verify_run(copy) if not check.passed}
    assert "audit.json" in failed
    assert key in failed["audit.json: ECP(sex)"]


@pytest.mark.parametrize("place", [0, 1, 500, -2])
def test_verification_finds_a_flipped_bit_of_any_file(place: int, copy: Path) -> None:
    """Also where it leaves a file that is no JSON any more."""
    write_report(copy)
    files = [path for path in copy.rglob("*") if path.is_file() and path.name != "manifest.json"]
    for path in files:
        before = path.read_bytes()
        after = bytearray(before)
        after[place % len(before)] ^= 1
        path.write_bytes(after)
        name = path.relative_to(copy).as_posix()
        if name == "run.json":
            with contextlib.suppress(SchemaError):
                assert any(not check.passed for check in verify_run(copy))
        else:
            failed = [f"{check.name} {check.detail}" for check in verify_run(copy) if not check.passed]
            assert any(name in one for one in failed), name
        path.write_bytes(before)
    assert all(check.passed for check in verify_run(copy))


def test_verification_reads_nothing_outside_the_folder(copy: Path) -> None:
    run = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    run["files"] = {"../secret": "0" * 64, "gone.json": "0" * 64}
    (copy / "run.json").write_text(json.dumps(run), encoding="utf-8")
    details = {check.name: check.detail for check in verify_run(copy)}
    assert "outside the folder" in details["../secret"]
    assert details["gone.json"] == "missing"


def test_verification_of_sums_that_are_damaged(copy: Path) -> None:
    audit = json.loads((copy / "audit.json").read_text(encoding="utf-8"))
    del audit["moments"]["columns"]["sex"]
    (copy / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
    assert any("cannot be computed again" in check.detail for check in verify_run(copy))


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_report_in_a_browser(width: int, scheme: Any, full: Path, chromium: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright; pip install 'auditkit[dev]'")
    asked, said = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=LAUNCH)
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.route(re.compile("^(?!file:)"), lambda route: (asked.append(route.request.url), route.abort()))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        tab.goto((full / "report.html").as_uri())
        tab.wait_for_selector(".js-plotly-plot .main-svg")
        assert tab.locator(".js-plotly-plot").count() == tab.locator(".plot").count() > 5
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert HOSTILE in tab.locator("#gaps-0-title + .plot").inner_text()
        fill = tab.locator("#gaps-0-title + .plot .scatterlayer .point").first.evaluate("e => getComputedStyle(e).fill")
        assert fill == {"light": "rgb(192, 90, 26)", "dark": "rgb(240, 149, 90)"}[scheme]
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "skip"
        if scheme == "light":
            assert tab.pdf(prefer_css_page_size=True).startswith(b"%PDF")
        browser.close()
    assert not asked
    assert not said
