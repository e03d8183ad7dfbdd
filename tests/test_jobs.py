"""The main job on the bundled sample, and everything a user can get wrong about a run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import auditkit as ak
from auditkit.cli import main
from auditkit.decisions import decide
from auditkit.errors import InputError, UntrustedFileError
from auditkit.jobs import run_demo
from auditkit.models import load_model
from auditkit.reporting import verify_run


def files(folder: Path) -> dict[str, str]:
    """Hash of every file of a run but the one that holds times and the one that quotes it."""
    skipped = {"timing.json", "report.html", "report.json", "manifest.json"}
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in skipped
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory):
    return run_demo(out=tmp_path_factory.mktemp("runs") / "demo", seed=0)


@pytest.fixture(scope="module")
def comparison(demo) -> dict:
    return json.loads((demo.folder / "comparison.json").read_text())


def test_the_demo_leaves_a_whole_run(demo) -> None:
    names = set(files(demo.folder))
    assert {"run.json", "audit.json", "audit_after.json", "comparison.json", "calibration.json"} <= names
    assert [name for name in names if name.startswith("head/")] == ["head/head.safetensors"]
    assert (demo.folder / "report.html").stat().st_size > 1_000_000
    assert list(demo.folder.parent.iterdir()) == [demo.folder]


def test_the_demo_audits_the_five_criteria_on_the_held_out_rows(demo) -> None:
    names = [finding.criterion.name for finding in demo.outcome.findings]
    assert names == ["ECP(sex)", "ECP(race)", "ECP(sex×race)", "equalized odds(sex)", "EER(sex)"]
    assert demo.outcome.verdict == "fail"
    record = json.loads((demo.folder / "run.json").read_text())
    assert sum(record["split"].values()) == record["data"]["rows"] >= 10_000
    assert demo.outcome.n_rows == record["split"]["test"]


def test_the_demo_audit_equals_a_mask_over_the_scored_rows(demo) -> None:
    config = ak.sample_config()
    data = ak.load_table(config.data_path, **config.table_options())
    rows = ak.split_rows(data.n_rows, fractions={"tune": 0.4, "calibrate": 0.3, "test": 0.3}, seed=0)["test"]
    scores = ak.load_model("sample:adult_mlp").scores(data.features).double().numpy()[rows]
    sex = data.attributes["sex"].to_numpy()[rows]
    gap = scores[sex == "Female"].mean() - scores[sex == "Male"].mean()
    assert demo.outcome.findings[0].gaps[0].gap == pytest.approx(gap, abs=1e-12)


def test_enforcement_brings_the_gaps_down_at_little_cost(demo, comparison: dict) -> None:
    before, after = ({f.criterion.name: f.gap for f in outcome.findings} for outcome in (demo.outcome, demo.after))
    assert after["ECP(sex)"] < 0.4 * before["ECP(sex)"]
    assert after["ECP(race)"] < before["ECP(race)"]
    methods = {method["name"]: method for method in comparison["methods"]}
    for name in ("layer", "projection"):
        enforced = [gap for gap in methods[name]["gaps"] if gap["criterion"] in ("ECP(sex)", "ECP(race)")]
        assert all(gap["gap"] <= gap["tolerance"] + 1e-12 for gap in enforced)
    assert {"unconstrained", "projection", "penalty", "threshold_optimizer"} <= set(methods)
    accuracy = {name: method["utility"]["accuracy"]["value"] for name, method in methods.items()}
    assert accuracy["layer"] > accuracy["unconstrained"] - 0.03
    assert all(method["error"] == "" for method in methods.values())


def test_the_saved_head_and_calibration_reproduce_the_audit_after(demo) -> None:
    config = ak.sample_config()
    data = ak.load_table(config.data_path, **config.table_options())
    rows = ak.split_rows(data.n_rows, fractions={"tune": 0.4, "calibrate": 0.3, "test": 0.3}, seed=0)["test"]
    features = ak.load_model("sample:adult_mlp").features(data.features).double().numpy()[rows]
    head = ak.FairHead.load(demo.folder / "head")
    scores = ak.Calibration.load(demo.folder / "calibration.json").apply(head.predict(features), data.groups.take(rows))
    outcome = ak.audit(scores, data.groups.take(rows), ak.ECP("sex", tolerance=0.05))
    assert outcome.findings[0].gap == pytest.approx(demo.after.findings[0].gap, abs=1e-12)


def test_the_same_seed_gives_the_same_files(demo, tmp_path: Path) -> None:
    again = run_demo(out=tmp_path / "again", seed=0)
    assert files(again.folder) == files(demo.folder)


def test_hashes_in_the_record_are_those_of_the_files(demo) -> None:
    record = json.loads((demo.folder / "run.json").read_text())
    actual = files(demo.folder)
    assert record["files"] == {name: digest for name, digest in actual.items() if name != "run.json"}


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something that is not a run"):
        run_demo(out=tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "sex": rng.choice(["f", "m"], 200),
            "one": "same",
            "score": rng.random(200),
            "label": rng.integers(0, 2, 200),
            "grade": rng.integers(0, 5, 200),
        }
    )


def plan(**changes: object) -> dict[str, object]:
    base = {
        "data": {"path": "table.csv", "attributes": ["sex"], "label": "label", "score": "score"},
        "criteria": [{"family": "ECP", "attributes": "sex", "tolerance": 0.1}],
    }
    return {**base, **changes}


def with_column(**columns: str) -> dict[str, object]:
    base = plan()
    return {**base, "data": {**base["data"], **columns}}  # type: ignore[dict-item]


BAD = {
    "missing file": (
        "audit",
        plan(data={"path": "none.csv", "attributes": ["sex"], "score": "score"}),
        "there is no file",
    ),
    "unknown column": (
        "audit",
        plan(data={"path": "table.csv", "attributes": ["sex"], "score": "scores"}),
        "'scores'.*score",
    ),
    "unknown attribute": (
        "audit",
        plan(
            data={"path": "table.csv", "attributes": ["gender"], "score": "score"},
            criteria=[{"family": "ECP", "attributes": "gender", "tolerance": 0.1}],
        ),
        "'gender'.*sex",
    ),
    "label not binary": (
        "compare",
        plan(data={"path": "table.csv", "attributes": ["sex"], "label": "grade", "score": "score"}),
        "label 'grade' must be binary",
    ),
    "one value": (
        "audit",
        plan(
            data={"path": "table.csv", "attributes": ["one"], "score": "score"},
            criteria=[{"family": "ECP", "attributes": "one", "tolerance": 0.1}],
        ),
        "one.*(one|single) value",
    ),
    "negative tolerance": (
        "audit",
        plan(criteria=[{"family": "ECP", "attributes": "sex", "tolerance": -0.1}]),
        "tolerance must be finite and ≥ 0",
    ),
    "a pickle as model": (
        "audit",
        plan(model="model.pkl", data={"path": "table.csv", "attributes": ["sex"], "label": "label"}),
        "model.pkl' is a pickle",
    ),
    "tuning without features": ("tune", plan(), "features"),
    "tuning by weight": ("tune", with_column(weight="people"), "data.weight is 'people'; tuning and comparing do not"),
    "comparing decisions": (
        "compare",
        with_column(decision="label2"),
        "data.decision is 'label2'; tuning and comparing",
    ),
    "comparing persons that the table lacks": (
        "compare",
        with_column(cluster="person"),
        "cluster names column 'person'",
    ),
    "tuning on a cluster": (
        "tune",
        with_column(engine="spark"),
        "data.engine is spark; tuning and comparing read the table themselves: leave it out, or say pandas",
    ),
    "places for more than all": ("audit", plan(threshold="top 300"), "1 ≤ K ≤ 200 rows, or \"top P%\"; got 'top 300'"),
}


@pytest.mark.parametrize(("command", "content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line_and_exit_code_2(
    command: str, content: dict, message: str, table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04.")
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    check_refused([command, str(tmp_path / "audit.yaml"), "--out", str(tmp_path / "run")], message, capsys)
    assert not (tmp_path / "run").exists()


def test_nan_scores_are_refused(table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.loc[3, "score"] = np.nan
    table.to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(plan()), encoding="utf-8")
    check_refused(["audit", str(tmp_path / "audit.yaml"), "--out", str(tmp_path / "run")], "score.*1.*row 3", capsys)


def check_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    text = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1
    assert re.search(message, text), text


@pytest.fixture
def visits() -> pd.DataFrame:
    """Several visits of each person, with decisions, weights and tied scores."""
    rng = np.random.default_rng(3)
    person = np.repeat(np.arange(300), 4)
    return pd.DataFrame(
        {
            "sex": np.where(rng.random(300) < 0.5, "f", "m")[person],
            "person": person,
            "people": rng.random(1200) + 0.5,
            "score": np.round(np.clip(0.5 + rng.normal(size=300)[person] / 6 + rng.normal(size=1200) / 9, 0, 1), 2),
            "label": rng.integers(0, 2, 1200),
            "invited": rng.integers(0, 2, 1200),
        }
    )


ENGINES = ["duckdb", "pandas", pytest.param("spark", marks=pytest.mark.spark)]
ASKED = {
    "weights": {"weight": "people"},
    "clusters": {"cluster": "person", "weight": "people"},
    "decisions": {"decision": "invited", "cluster": "person"},
    "top share": {"threshold": "top 5%"},
    "median": {"threshold": "median"},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
@pytest.mark.parametrize("engine", ENGINES)
def test_an_audit_heeds_the_file_on_every_engine(
    engine: str, asked: dict, visits: pd.DataFrame, tmp_path: Path
) -> None:
    visits.to_csv(tmp_path / "table.csv", index=False)
    columns = {role: name for role, name in asked.items() if role != "threshold"}
    rule = {"threshold": asked["threshold"]} if "threshold" in asked else {}
    config = ak.make_config({**with_column(**columns, engine=engine), **rule}, folder=tmp_path)
    outcome = ak.run_audit(config, out=tmp_path / "run").outcome
    assert_audited(outcome, visits.score.to_numpy(), visits, asked)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["engine"] == engine
    assert record["data"]["sha256"] == hashlib.sha256((tmp_path / "table.csv").read_bytes()).hexdigest()
    assert record["plan"]["data"].items() >= {**columns, "engine": engine}.items()
    assert record["plan"]["threshold"] == asked.get("threshold", None if "decision" in asked else 0.5)
    label_mean = np.average(visits.label, weights=visits.people if "weight" in asked else None)
    assert record["data"]["label_mean"] == pytest.approx(label_mean, rel=1e-12)
    assert all(check.passed for check in verify_run(tmp_path / "run"))


def assert_audited(outcome: ak.AuditResult, scores: np.ndarray, table: pd.DataFrame, asked: dict) -> None:
    """The outcome is that of the same request by arrays."""
    named = {"weights": asked.get("weight"), "clusters": asked.get("cluster"), "decisions": asked.get("decision")}
    arrays = {name: table[column] for name, column in named.items() if column}
    rule = None if "decision" in asked else asked.get("threshold", 0.5)
    made = None if rule is None else decide(scores, rule)
    arrays |= {} if made is None else {"decisions": made.values}
    criteria = [finding.criterion for finding in outcome.findings]
    groups, labels = ak.Groups(table[["sex"]]), table.label.to_numpy()
    expected = ak.evaluate_moments(ak.take_moments(scores, groups, criteria, labels=labels, **arrays), criteria)
    for one, other in zip(outcome.findings, expected.findings, strict=True):
        assert one.gap == pytest.approx(other.gap, rel=1e-9)
        assert one.interval == pytest.approx(other.interval, rel=1e-9)
    for one, other in zip(outcome.decisions[0].groups, expected.decisions[0].groups, strict=True):
        assert one.selection_rate == pytest.approx(other.selection_rate, rel=1e-9)
        assert one.interval == pytest.approx(other.interval, rel=1e-9)
    assert outcome.threshold == (None if made is None else made.threshold)
    assert outcome.decision_rule == ("what column 'invited' holds" if made is None else made.rule)


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_an_audit_of_a_model_heeds_the_file(asked: dict, tmp_path: Path) -> None:
    sample, rng = ak.sample_config(), np.random.default_rng(0)
    table = pd.read_parquet(sample.data_path).head(1500)
    table = table.assign(
        people=rng.random(1500) + 0.5, person=rng.integers(0, 500, 1500), invited=rng.integers(0, 2, 1500),
        label=table.income_over_50k,
    )  # fmt: skip
    table.to_parquet(tmp_path / "table.parquet")
    columns = {role: name for role, name in asked.items() if role != "threshold"}
    data = {"path": "table.parquet", "attributes": ["sex"], "label": "label", **columns}
    rule = {"threshold": asked["threshold"]} if "threshold" in asked else {}
    config = ak.make_config({**plan(data=data, model="sample:adult_mlp"), **rule}, folder=tmp_path)
    outcome = ak.run_audit(config, out=tmp_path / "run").outcome
    assert_audited(outcome, load_model("sample:adult_mlp").scores(table).double().numpy(), table, asked)


def test_a_comparison_decides_by_rule_from_the_scores_of_each_method(tmp_path: Path) -> None:
    from tests.run_folders import plan as predictions_plan
    from tests.run_folders import predictions

    predictions().to_csv(tmp_path / "predictions.csv", index=False)
    config = ak.make_config(predictions_plan(threshold="top 20%"), folder=tmp_path)
    methods = {method["name"]: method for method in ak.run_compare(config, out=tmp_path / "run").comparison["methods"]}
    for name in ("unconstrained", "calibrated", "head"):
        groups = methods[name]["decisions"][0]["groups"]
        rows = sum(group["count"] for group in groups)
        selected = sum(group["count"] * group["selection_rate"] for group in groups)
        assert selected == pytest.approx(round(0.2 * rows), abs=1e-6)
    assert methods["threshold_optimizer"]["level"] == "decisions"


def test_an_audit_is_hashed_as_it_is_read(table: pd.DataFrame, tmp_path: Path) -> None:
    for part in range(2):
        table[part::2].to_csv(tmp_path / f"part-{part}.csv", index=False)
    base = plan()
    config = ak.make_config({**base, "data": {**base["data"], "path": "part-*.csv"}}, folder=tmp_path)
    ak.run_audit(config, out=tmp_path / "run")
    hashes = [hashlib.sha256((tmp_path / f"part-{part}.csv").read_bytes()).hexdigest() for part in range(2)]
    expected = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["sha256"] == expected


def test_a_scikit_learn_model_without_features_is_audited_and_compared(tmp_path: Path) -> None:
    skops = pytest.importorskip("skops.io")
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sex": rng.choice(["f", "m"], 900), "x": rng.normal(size=900), "y": rng.normal(size=900)})
    frame["label"] = (frame.x + (frame.sex == "m") + rng.normal(size=900) > 0.5).astype(int)
    model = LogisticRegression().fit(frame[["x", "y"]], frame.label)
    skops.dump(model, tmp_path / "model.skops")
    frame.to_csv(tmp_path / "table.csv", index=False)
    config = ak.make_config(
        {
            "data": {"path": "table.csv", "attributes": ["sex"], "label": "label"},
            "model": "model.skops",
            "criteria": [{"family": "ECP", "attributes": "sex", "tolerance": 0.1}],
            "methods": ["unconstrained", "projection", "layer"],
        },
        folder=tmp_path,
    )
    outcome = ak.run_audit(config, out=tmp_path / "audit").outcome
    means = pd.Series(model.predict_proba(frame[["x", "y"]])[:, 1]).groupby(frame.sex).mean()
    assert outcome.findings[0].gaps[0].gap == pytest.approx(means["f"] - means["m"], abs=1e-9)
    comparison = ak.run_compare(config, out=tmp_path / "compare").comparison
    errors = {method["name"]: method["error"] for method in comparison["methods"]}
    assert errors["projection"] == errors["unconstrained"] == ""
    assert "a head needs frozen features" in errors["layer"]


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "model.pkl").write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    with pytest.raises(UntrustedFileError, match="can run code when it is loaded"):
        load_model(tmp_path / "model.pkl")
    assert not marker.exists()
