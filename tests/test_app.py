"""The app's pages, driven without a browser; every figure shown must be the library's."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import auditkit as ak
from auditkit.run_archive import pack_run

testing = pytest.importorskip("streamlit.testing.v1")

ROOT = Path(__file__).parent.parent
APP = ROOT / "app"
WORDS = {"pass": "within tolerance", "fail": "outside tolerance", "inconclusive": "inconclusive"}
SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def script_folder() -> Iterator[None]:
    """What `streamlit run app` does before it runs the script."""
    sys.path.insert(0, str(APP))
    yield
    sys.path.remove(str(APP))


@pytest.fixture
def app() -> Any:
    """The app on the page Data & model."""
    return on_data()


def on_data() -> Any:
    app = start()
    app.button(key="on-data").click().run()
    return app


def start() -> Any:
    app = testing.AppTest.from_file(str(APP / "streamlit_app.py"), default_timeout=SECONDS).run()
    assert_clean(app)
    return app


def assert_clean(app: Any) -> None:
    assert [error.message for error in app.exception] == []
    assert [error.value for error in app.error] == []


def press(app: Any, key: str) -> Any:
    app.button(key=key).click().run()
    if key.startswith(("run-", "start-sample")):
        wait(app)
    assert [error.message for error in app.exception] == []
    return app


def wait(app: Any) -> Any:
    """Until the job is over; in a browser the page looks for itself."""
    job = space_of(app).job
    if job is None:
        return app
    job.wait(SECONDS)
    assert not job.is_running
    return app.run()


def look_at(app: Any, view: str) -> Any:
    """Choose a view of the audit page."""
    app.radio(key=space_of(app).runs["audit"].key("view")).set_value(view).run()
    assert_clean(app)
    return app


def go(app: Any, *steps: str) -> Any:
    for step in steps:
        press(app, f"on-{step}")
    return app


def space_of(app: Any) -> Any:
    return app.session_state["workspace"]


def tables_with(app: Any, *columns: str) -> list[pd.DataFrame]:
    """The tables that have these columns, in the order of the page."""
    return [frame.value for frame in app.dataframe if set(columns) <= set(frame.value)]


def verdict_tables(app: Any) -> list[dict[str, str]]:
    """The verdicts on the page: of the run, then of the what-if."""
    frames = tables_with(app, "criterion", "verdict", "largest gap")
    return [dict(zip(frame["criterion"], frame["verdict"], strict=True)) for frame in frames]


def verdicts(outcome: ak.AuditResult) -> dict[str, str]:
    return {finding.criterion.name: WORDS[finding.verdict] for finding in outcome.findings}


def predictions(*, rows: int = 1500, seed: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    sex = rng.choice(["female", "male"], rows)
    region = rng.choice(["north", "south", "west"], rows)
    x = rng.normal(size=(rows, 2)) + (sex == "male")[:, None] * 0.4
    chance = 1 / (1 + np.exp(-x.sum(axis=1)))
    return pd.DataFrame(
        {
            "sex": sex,
            "region": region,
            "hired": np.where(rng.random(rows) < chance, "yes", "no"),
            "score": chance,
            "x1": x[:, 0],
            "x2": x[:, 1],
        }
    )


def csv_of(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False).encode()


def upload(app: Any, name: str, content: bytes) -> Any:
    app.radio(key="source").set_value("table").run()
    app.file_uploader(key="upload").upload(name, content, "text/csv").run()
    wait(app)
    assert [error.message for error in app.exception] == []
    return app


def choose(app: Any, **columns: Any) -> Any:
    """Pick columns of an uploaded table, by the end of the widgets' keys."""
    for name, value in columns.items():
        key = space_of(app).key(name.replace("_", "-"))
        kind = app.multiselect if isinstance(value, list) else app.selectbox
        kind(key=key).set_value(value).run()
        assert [error.message for error in app.exception] == []
    return app


def with_table(app: Any, frame: pd.DataFrame) -> Any:
    upload(app, "hiring scores.csv", csv_of(frame))
    choose(app, score="score", attributes=["sex", "region"], label_choice="hired", features=["x1", "x2"])
    key = space_of(app).key("positive-of-hired")
    app.selectbox(key=key).set_value("yes").run()
    return press(app, "usual")


def test_a_choice_that_the_browser_draws_anew_is_the_present_one(app: Any) -> None:
    press(go(app, "audit"), "run-audit")
    go(app, "enforce")
    space = space_of(app)
    app.multiselect(key=space.key("enforce")).set_value([1]).run()
    app.slider(key=space.key("epochs")).set_value(40).run()
    app.run()
    chosen, epochs = app.multiselect(key=space.key("enforce")), app.slider(key=space.key("epochs"))
    assert (chosen.value, list(chosen.proto.default), chosen.proto.set_value) == ([1], [1], False)
    assert (epochs.value, list(epochs.proto.default), epochs.proto.set_value) == (40, [40.0], False)
    assert_clean(app)


def test_every_kind_of_widget_starts_from_the_present_value(app: Any) -> None:
    space = space_of(app)
    app.selectbox(key=space.key("rule")).set_value("top").run()
    app.number_input(key=space.key("top")).set_value(25.0).run()
    app.toggle(key=space.key("decide")).set_value(True).run()
    rule, top = app.selectbox(key=space.key("rule")), app.number_input(key=space.key("top"))
    decide, source = app.toggle(key=space.key("decide")), app.radio(key="source")
    assert (rule.value, rule.proto.default) == ("top", rule.index)
    assert (source.value, source.proto.default) == ("sample", source.index)
    assert (top.value, top.proto.default) == (25.0, 25.0)
    assert (decide.value, decide.proto.default) == (True, True)
    assert [one.proto.set_value for one in (rule, top, decide, source)] == [False] * 4
    assert_clean(app)


def test_sample_audit_shows_what_the_library_finds(app: Any, tmp_path: Path) -> None:
    go(app, "audit")
    press(app, "run-audit")
    assert_clean(app)
    expected = ak.run_audit(ak.sample_config(), out=tmp_path / "run").outcome
    assert verdict_tables(app) == [verdicts(expected)]
    gaps = tables_with(app, "criterion", "verdict", "largest gap")[0]["largest gap"]
    for shown, finding in zip(gaps, expected.findings, strict=True):
        assert shown.startswith(f"{finding.gap:.3f} ")
    data = tables_with(app, "gap of")[0]
    assert list(data["gap"]) == [gap.gap for gap in expected.findings[0].gaps]
    assert list(zip(data["low"], data["high"], strict=True)) == [gap.interval for gap in expected.findings[0].gaps]
    rates = tables_with(look_at(app, "Decisions"), "selection_rate")[0]
    assert list(rates["selection_rate"]) == [group.selection_rate for group in expected.decisions[0].groups]


def test_every_criterion_and_every_decision_table_can_be_looked_at(app: Any) -> None:
    press(go(app, "audit"), "run-audit")
    for place in (1, 4):
        app.selectbox(key="audit-1-criterion").set_value(place).run()
        assert_clean(app)
    look_at(app, "Decisions")
    for place in (1, 2):
        app.selectbox(key="audit-1-decisions-by").set_value(place).run()
        assert_clean(app)


def test_what_if_is_evaluated_from_the_moments(app: Any) -> None:
    press(go(app, "audit"), "run-audit")
    run = space_of(app).runs["audit"]
    look_at(app, "What if")
    app.slider(key="audit-1-tolerance").set_value(0.25).run()
    app.slider(key="audit-1-confidence").set_value(0.9).run()
    assert_clean(app)
    criteria = [finding.criterion.with_tolerance(0.25) for finding in run.outcome.findings]
    expected = ak.evaluate_moments(run.outcome.moments, criteria, threshold=0.5, confidence=0.9, seed=0)
    assert verdict_tables(app) == [verdicts(run.outcome), verdicts(expected)], "the audit on record stays as it is"
    assert verdicts(run.outcome) != verdicts(expected)


@pytest.mark.slow
def test_what_if_thresholds_are_those_of_the_rows(app: Any) -> None:
    look_at(press(go(app, "audit"), "run-audit"), "What if")
    app.radio(key="audit-1-what-if-view").set_value("Decisions").run()
    config = ak.sample_config()
    data = ak.load_table(config.data_path, **config.table_options())
    scores = ak.load_model("sample:adult_mlp").scores(data.features).double().numpy()
    criteria = config.build_criteria()
    for rule in (0.3, "top 10%"):
        app.selectbox(key="audit-1-rule").set_value("threshold" if rule == 0.3 else rule).run()
        if rule == 0.3:
            app.select_slider(key="audit-1-threshold").set_value(0.3).run()
        assert_clean(app)
        expected = ak.audit(scores, data.groups, criteria, labels=data.labels, threshold=rule).decisions[0]
        shown = tables_with(app, "selection_rate")[0]
        assert list(shown["selection_rate"]) == pytest.approx([group.selection_rate for group in expected.groups])


def test_every_view_of_the_audit_shows_what_audit_json_holds(app: Any) -> None:
    press(go(app, "audit"), "run-audit")
    run = space_of(app).runs["audit"]
    audit = json.loads((run.folder / "audit.json").read_text("utf-8"))
    shown = tables_with(look_at(app, "Errors"), "mean_residual")[0]
    assert list(shown["root_mean_square_error"]) == [
        group["root_mean_square_error"][0] for group in audit["errors"][0]["groups"]
    ]
    curves = tables_with(look_at(app, "Reliability"), "mean_label")[0]
    assert list(curves["mean_label"]) == [
        one["mean_label"] for group in audit["reliability"][0]["groups"] for one in group["bins"]
    ]
    found = tables_with(look_at(app, "Subgroups"), "q_value")[0]
    assert list(found["gap"]) == [one["gap"] for one in audit["subgroups"][0]["subgroups"]]
    spread = tables_with(look_at(app, "Distributions"), "share")[0]
    assert spread.groupby("group")["share"].sum().tolist() == pytest.approx([1, 1])
    assert [button.label for button in app.download_button if button.key == "distributions-csv"]


@pytest.mark.slow
def test_sample_from_plan_to_report(app: Any) -> None:
    press(go(app, "audit"), "run-audit")
    go(app, "enforce")
    assert "Parity on a batch is not parity on the union" in app.get("expander")[0].markdown[0].value
    app.slider(key=space_of(app).key("epochs")).set_value(20).run()
    app.multiselect(key=space_of(app).key("frontier")).set_value([0.02, 0.1]).run()
    press(app, "run-tune")
    assert_clean(app)
    run = space_of(app).runs["tune"]
    check_frontier_of_the_head(app, json.loads((run.folder / "frontier.json").read_text("utf-8")))
    table = tables_with(app, "verdict after")[0]
    after = json.loads((run.folder / "audit_after.json").read_text("utf-8"))
    assert list(table["verdict after"]) == [WORDS[finding["verdict"]] for finding in after["findings"]]
    assert list(table["verdict as found"]) == [WORDS[finding.verdict] for finding in run.outcome.findings]
    assert run.plan["tune"]["epochs"] == 20
    go(app, "compare")
    app.multiselect(key=space_of(app).key("methods")).set_value(["calibrated", "head"]).run()
    assert app.multiselect(key=space_of(app).key("frontier")).value == [0.02, 0.1]
    press(app, "run-compare")
    assert_clean(app)
    stored = json.loads((space_of(app).runs["compare"].folder / "comparison.json").read_text("utf-8"))
    titles = [method["title"] for method in stored["methods"]]
    assert list(tables_with(app, "method", "reads the group", "accuracy")[0]["method"]) == titles
    assert len(stored["methods"]) == 3, "the model as found is always the reference"
    check_comparison(app, stored)
    check_report_page(go(app, "stream", "report"))


def check_frontier_of_the_head(app: Any, stored: dict[str, Any]) -> None:
    """The tab Frontier shows what frontier.json holds, from the tightest tolerance on."""
    shown = tables_with(app, "ε", "accuracy", "largest gap of the head itself")[0]
    points = sorted(stored["points"], key=lambda point: point["tolerance"])
    assert list(shown["ε"]) == [point["tolerance"] for point in points] == [0.02, 0.1]
    assert list(shown["accuracy"]) == [point["quality"] for point in points]
    assert list(shown["largest gap of the head itself"]) == [point["head_gap"] for point in points]
    assert "head-frontier-csv" in {button.key for button in app.download_button}


def check_comparison(app: Any, stored: dict[str, Any]) -> None:
    """Winners, paired differences and the accuracy against ε are those of comparison.json."""
    ahead = tables_with(app, "by", "gaps of", "ahead")[0]
    assert len(ahead) == len(stored["winners"])
    assert len(tables_with(app, "first", "second", "accuracy")[0]) == len(stored["pairs"]) == 3
    lines = tables_with(app, "method", "ε", "accuracy")[0]
    assert list(lines["ε"]) == [0.02] * 3 + [0.1] * 3
    expected = [
        method["utility"]["accuracy"]["value"]
        for level in sorted(stored["frontier"], key=lambda level: level["tolerance"])
        for method in level["methods"]
    ]
    assert list(lines["accuracy"]) == expected
    assert "frontier-csv" in {button.key for button in app.download_button}


def check_report_page(app: Any) -> None:
    assert_clean(app)
    labels = [button.label for button in app.download_button]
    assert {"Report (HTML)", "Audit (JSON)", "Run folder (zip)"} <= set(labels)
    assert list(app.radio(key="report-run").options) == ["Comparison", "Enforcement", "Audit"]
    with zipfile.ZipFile(io.BytesIO(pack_run(space_of(app).runs["compare"].folder))) as archive:
        assert {"run.json", "report.html", "comparison.json"} <= set(archive.namelist())
    app.toggle(key="report-preview").set_value(True).run()
    assert_clean(app)


@pytest.mark.slow
def test_uploaded_predictions_through_every_page(app: Any) -> None:
    frame = predictions()
    with_table(app, frame)
    assert_clean(app)
    press(go(app, "audit"), "run-audit")
    assert_clean(app)
    data = ak.from_frame(frame, attributes=["sex", "region"], label="hired", positive_label="yes", score="score")
    assert data.scores is not None
    criteria = [
        ak.ECP("sex", tolerance=0.05), ak.ECP("region", tolerance=0.05), ak.ECP(("sex", "region"), tolerance=0.05),
        ak.EER("sex", tolerance=0.05), ak.EER("region", tolerance=0.05),
    ]  # fmt: skip
    expected = ak.audit(data.scores, data.groups, criteria, labels=data.labels, threshold=0.5)
    assert verdict_tables(app)[0] == verdicts(expected)
    go(app, "enforce")
    app.slider(key=space_of(app).key("epochs")).set_value(10).run()
    press(app, "run-tune")
    assert_clean(app)
    assert len(tables_with(app, "verdict after")[0]) == 5
    go(app, "compare")
    app.multiselect(key=space_of(app).key("methods")).set_value(["projection"]).run()
    press(app, "run-compare")
    go(app, "stream", "report")
    assert_clean(app)


def test_table_without_features_is_audited_but_not_tuned(app: Any) -> None:
    upload(app, "scores.csv", csv_of(predictions()[["sex", "score"]]))
    choose(app, score="score", attributes=["sex"])
    press(app, "usual")
    press(go(app, "audit"), "run-audit")
    assert_clean(app)
    go(app, "enforce")
    assert app.button(key="run-tune").disabled
    assert "the outcome and numeric features" in app.info[0].value
    go(app, "compare")
    assert app.button(key="run-compare").disabled


REFUSED = {
    "pickle": ("model.pkl", b"\x80\x04K\x01.", "is a pickle"),
    "broken": ("broken.csv", b"a,b\n1,2\n3\n4,5,6\n", "broken.csv"),
    "not a table": ("picture.csv", b"\x89PNG\r\n\x1a\n\x00\x00\xff", "picture.csv"),
    "not parquet": ("table.parquet", b"PAR1 not really", "table.parquet"),
    "no numbers": ("words.csv", b"a,b\nx,y\nz,w\n", "no numeric column"),
    "one row": ("one.csv", b"sex,score\nf,0.5\n", "single value"),
    "empty": ("empty.csv", b"", "0 bytes"),
}


@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_uploads_are_refused_in_a_line(
    name: str, content: bytes, message: str, tmp_path: Path, script_folder: None
) -> None:
    from screens.parts import uploads

    with pytest.raises(ak.AuditkitError) as refusal:
        uploads.accept(tmp_path, name, content)
    assert message in str(refusal.value)
    assert list(tmp_path.iterdir()) == [], "a refused file is not kept"


def test_a_refused_upload_is_one_error_and_no_table(app: Any) -> None:
    upload(app, "words.csv", b"a,b\nx,y\nz,w\n")
    assert len(app.error) == 1
    assert "no numeric column" in app.error[0].value.replace("\\", "")
    assert space_of(app).table is None


def test_an_upload_stays_in_the_folder_of_its_session(app: Any, script_folder: None) -> None:
    from screens.parts import uploads

    folder = space_of(app).folder
    table = uploads.accept(folder, "../../etc/my table.csv", csv_of(predictions()))
    assert table.file_name == "my-table.csv"
    assert (folder / table.file_name).is_file()


def test_plan_mistakes_are_errors_in_a_line(app: Any) -> None:
    upload(app, "scores.csv", csv_of(predictions()))
    choose(app, score="score", attributes=["sex", "region"])
    assert "no criterion yet" in app.error[0].value
    press(app, "usual")
    assert_clean(app)
    choose(app, attributes=["sex"])
    assert len(app.error) == 1
    assert "is not among data.attributes" in app.error[0].value.replace("\\", "")


def test_a_column_that_changes_its_part_is_forgotten_where_it_was(app: Any) -> None:
    upload(app, "scores.csv", csv_of(predictions()))
    choose(app, score="score", attributes=["sex"], strata=["region"], features=["x1"])
    choose(app, attributes=["sex", "region"], label_choice="hired")
    choose(app, score="x1")
    assert app.multiselect(key=space_of(app).key("strata")).value == []
    assert app.multiselect(key=space_of(app).key("features")).value == []


def test_numbers_are_audited_in_bands(app: Any) -> None:
    frame = predictions().assign(age=np.random.default_rng(1).integers(18, 80, 1500))
    upload(app, "scores.csv", csv_of(frame))
    choose(app, score="score", banded=["age"])
    edges = app.text_input(key=space_of(app).key("edges-age"))
    edges.set_value("65, 25").run()
    assert "must be increasing numbers" in app.error[0].value
    app.text_input(key=space_of(app).key("edges-age")).set_value("25, 65").run()
    press(app, "usual")
    press(go(app, "audit"), "run-audit")
    assert_clean(app)
    spec = {"age band": {"column": "age", "bins": [25, 65]}}
    data = ak.from_frame(frame, attributes=[spec], score="score")
    assert data.scores is not None
    expected = ak.audit(data.scores, data.groups, ak.ECP("age band", tolerance=0.05), threshold=0.5)
    assert verdict_tables(app)[0] == verdicts(expected)


def test_a_numeric_outcome_is_assessed_as_numbers(app: Any) -> None:
    frame = predictions().assign(amount=lambda one: one["score"] + one["x1"] / 10)
    upload(app, "scores.csv", csv_of(frame))
    choose(app, score="score", attributes=["sex"], label_choice="amount")
    press(app, "usual")
    press(go(app, "audit"), "run-audit")
    assert_clean(app)
    assert list(verdict_tables(app)[0]) == ["ECP(sex)", "EER(sex)"]


def test_an_error_does_not_tell_where_the_file_lies(app: Any) -> None:
    upload(app, "broken.csv", b"a,b\n1,2\n3\n")
    assert "broken" in app.error[0].value
    assert space_of(app).folder.name not in app.error[0].value.replace("\\", "")


def test_nothing_uploaded_yet_leads_nowhere(app: Any) -> None:
    app.radio(key="source").set_value("table").run()
    assert_clean(app)
    assert not app.button or "on-audit" not in [button.key for button in app.button]


def test_criteria_can_be_added_and_removed(app: Any) -> None:
    space = space_of(app)
    press(app, space.key("remove-0"))
    assert len(space.criteria) == 4
    app.multiselect(key=space.key("strata")).set_value(["occupation"]).run()
    app.multiselect(key=space.key("add-attributes")).set_value(["sex"])
    app.multiselect(key=space.key("add-given")).set_value(["occupation"])
    app.number_input(key=space.key("add-tolerance")).set_value(0.03)
    app.button(key="add-criterion").click().run()
    assert_clean(app)
    assert space.criteria[-1] == {"family": "ECP", "attributes": ["sex"], "tolerance": 0.03, "given": ["occupation"]}


def test_a_refused_criterion_leaves_the_plan_alone(app: Any) -> None:
    before = list(space_of(app).criteria)
    app.button(key="add-criterion").click().run()
    assert "choose at least one attribute" in app.error[0].value
    assert space_of(app).criteria == before


def test_a_changed_plan_is_pointed_out(app: Any) -> None:
    press(go(app, "audit"), "run-audit")
    assert len(app.warning) == 0
    press(app, "back-data")
    app.slider(key=space_of(app).key("confidence")).set_value(0.9).run()
    go(app, "audit")
    assert "The plan has changed" in app.warning[0].value
    press(app, "run-audit")
    assert len(app.warning) == 0
    assert space_of(app).runs["audit"].outcome.confidence == 0.9


def test_a_smaller_plan_after_a_choice_of_a_late_criterion(app: Any) -> None:
    press(go(app, "audit"), "run-audit")
    app.selectbox(key="audit-1-criterion").set_value(4).run()
    press(app, "back-data")
    for _ in range(4):
        press(app, space_of(app).key("remove-0"))
    press(go(app, "audit"), "run-audit")
    assert_clean(app)
    assert list(verdict_tables(app)[0]) == ["EER(sex)"]
    go(app, "enforce")
    assert_clean(app)


def test_settings_outlive_a_visit_to_another_page(app: Any) -> None:
    app.number_input(key=space_of(app).key("threshold")).set_value(0.4).run()
    go(app, "audit")
    press(app, "back-data")
    assert app.number_input(key=space_of(app).key("threshold")).value == 0.4


def test_a_choice_is_sent_to_the_browser_once(app: Any) -> None:
    """A value sent again would undo what the visitor chooses while the page runs."""
    press(go(app, "audit"), "run-audit")
    go(app, "enforce", "compare")
    key = space_of(app).key("methods")
    assert app.multiselect(key=key).proto.set_value
    app.multiselect(key=key).unselect("penalty").run()
    assert not app.multiselect(key=key).proto.set_value
    assert "penalty" not in app.multiselect(key=key).value
    press(app, "back-enforce")
    go(app, "compare")
    assert app.multiselect(key=key).proto.set_value
    assert "penalty" not in app.multiselect(key=key).value


def test_a_choice_outlives_a_change_of_what_can_be_chosen(app: Any) -> None:
    """Streamlit takes a widget with other options for another widget."""
    upload(app, "scores.csv", csv_of(predictions()))
    choose(app, score="score", features=["x1"])
    before = list(app.multiselect(key=space_of(app).key("strata")).options)
    choose(app, strata=["region"])
    choose(app, attributes=["sex"])
    assert list(app.multiselect(key=space_of(app).key("strata")).options) != before
    assert app.multiselect(key=space_of(app).key("strata")).value == ["region"]
    assert app.multiselect(key=space_of(app).key("features")).value == ["x1"]


def test_the_snippets_do_what_the_app_did(app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    press(go(app, "audit"), "run-audit")
    text, command, code = [block.value for block in app.code][-3:]
    assert command == "auditkit audit audit.yaml --out runs/audit"
    assert ak.make_config(yaml.safe_load(text)).to_dict()["criteria"] == space_of(app).runs["audit"].plan["criteria"]
    (tmp_path / "audit.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["result"].outcome.to_dict() == space_of(app).runs["audit"].outcome.to_dict()


def test_sessions_do_not_see_each_other() -> None:
    one, two = on_data(), on_data()
    with_table(one, predictions())
    press(go(one, "audit"), "run-audit")
    two.run()
    assert space_of(one).folder != space_of(two).folder
    assert space_of(two).table is None
    assert space_of(two).runs == {}
    go(two, "audit")
    assert verdict_tables(two) == []


def test_the_folder_goes_with_the_session(script_folder: None) -> None:
    app = start()
    from screens.parts import session

    space = space_of(app)
    assert space.folder.is_dir()
    session.forget(space)
    assert not space.folder.exists()


def test_names_from_data_are_text_and_no_markup(script_folder: None) -> None:
    from screens.parts import words

    assert words.plain("*a* :red[b] $c$ <i>") == r"\*a\* \:red\[b\] \$c\$ \<i\>"
    assert words.for_chart("<b>x</b>") == "&lt;b&gt;x&lt;/b&gt;"
    assert words.number(-0.0001) == "0.000"
    assert words.number(-0.5) == "−0.500"
    assert words.interval((-0.0118, -4.5e-05)) == "[−0.012, −0.00005]"  # on one side of zero, and shown to be
    assert words.interval((-1e-17, 0.25)) == "[0.000, 0.250]"
    assert words.interval(None) == words.DASH


def test_start_audits_the_sample_in_one_press() -> None:
    app = press(start(), "start-sample")
    assert_clean(app)
    assert app.title[0].value == "Audit"
    assert set(verdict_tables(app)[0].values()) <= set(WORDS.values())


def test_a_reload_brings_everything_back(app: Any) -> None:
    press(go(app, "audit"), "run-audit")
    token = space_of(app).token
    again = testing.AppTest.from_file(str(APP / "streamlit_app.py"), default_timeout=SECONDS)
    again.query_params["session"] = token
    again.run()
    assert space_of(again) is space_of(app)
    assert set(space_of(again).runs) == {"audit"}


@pytest.mark.parametrize("token", ["", "x", "../../etc/passwd", "A" * 32])
def test_a_token_that_was_not_given_out_is_not_taken(token: str) -> None:
    app = testing.AppTest.from_file(str(APP / "streamlit_app.py"), default_timeout=SECONDS)
    app.query_params["session"] = token
    app.run()
    assert_clean(app)
    assert space_of(app).token != token
    assert len(space_of(app).token) == 32


def test_forgetting_removes_the_folder_and_the_key(app: Any) -> None:
    press(app, "back-start")
    before = space_of(app)
    press(app, "forget")
    assert not before.folder.exists()
    assert space_of(app).token != before.token


def test_a_cancelled_job_leaves_at_its_next_report(script_folder: None) -> None:
    from screens.parts.jobs import Job

    reached: list[str] = []

    def work(job: Job) -> None:
        with job.stage("counting", 10**9) as advance:
            while True:
                advance()
                reached[:] = [job.text]

    job = Job("audit", work).start()
    job.cancel()
    job.wait(SECONDS)
    assert job.state == "cancelled"
    failed = Job("audit", lambda job: 1 / 0).start()  # type: ignore[arg-type,return-value]
    failed.wait(SECONDS)
    assert failed.state == "failed"
    assert isinstance(failed.error, ZeroDivisionError)
