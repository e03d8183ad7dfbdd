"""Inferred attributes and several outputs, named in an audit file and read from a table of predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import auditkit as ak
from auditkit import jobs
from auditkit.config import config_schema, load_config, make_config
from auditkit.datasets import load_table
from auditkit.engines import scan
from auditkit.errors import InputError, SchemaError
from tests.run_folders import Run

jsonschema = pytest.importorskip("jsonschema")

ANIMALS = ["cat", "dog", "owl"]
INFERRED = {"race": {"probabilities": {"white": "p_white", "black": "p_black"}}}
OUTPUTS = {"cat": "p_cat", "dog": "p_dog", "owl": "p_owl"}
PARITY = {"family": "ECP", "attributes": "race", "tolerance": 0.05}
EXACT = {"rel": 1e-12, "abs": 1e-12}


def table(rows: int = 900) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    white, classes = rng.beta(2, 1, rows), rng.integers(0, 3, rows)
    scores = 0.7 * rng.dirichlet([2, 3, 4], rows) + 0.3 * np.eye(3)[classes]
    frame = pd.DataFrame(scores, columns=[f"p_{name}" for name in ANIMALS])
    return frame.assign(
        p_white=white, p_black=1 - white, sex=rng.choice(["f", "m"], rows), animal=np.array(ANIMALS)[classes],
        number=classes, hired=(rng.random(rows) < frame.p_cat).astype(int), people=rng.integers(1, 4, rows),
        person=rng.integers(0, rows // 2, rows),
    )  # fmt: skip


def plan(**changes: Any) -> dict[str, Any]:
    data = {"path": "t.parquet", "attributes": [INFERRED, "sex"], "score": "p_cat", **changes.pop("data", {})}
    return {"name": "t", "data": data, "criteria": [PARITY], **changes}


def audited(folder: Path, content: dict[str, Any]) -> jobs.RunResult:
    table().to_parquet(folder / "t.parquet")
    (folder / "audit.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return jobs.run_audit(load_config(folder / "audit.yaml"), out=folder / "run")


def assert_same(found: ak.AuditResult, expected: ak.AuditResult) -> None:
    assert (found.verdict, found.outputs, found.inferred) == (expected.verdict, expected.outputs, expected.inferred)
    for one, other in zip(found.findings, expected.findings, strict=True):
        assert [gap.name for gap in one.gaps] == [gap.name for gap in other.gaps]
        for name in ("gap", "standard_error", "interval", "p_above", "p_below"):
            assert np.array([getattr(gap, name) for gap in one.gaps]) == pytest.approx(
                np.array([getattr(gap, name) for gap in other.gaps]), **EXACT
            )
    assert [t.to_dict() for t in found.decisions] == [t.to_dict() for t in expected.decisions]


def inferred_groups(frame: pd.DataFrame) -> ak.Groups:
    shares = frame[["p_white", "p_black"]].set_axis(["white", "black"], axis=1)
    return ak.Groups({"sex": frame.sex}, probabilities={"race": shares})


def test_an_inferred_attribute_is_audited_as_the_library_does(tmp_path: Path) -> None:
    criteria = [PARITY, {**PARITY, "attributes": ["race", "sex"]}, {**PARITY, "family": "equalized_odds"}]
    content = plan(criteria=criteria, data={"label": "hired", "weight": "people", "cluster": "person"}, threshold=0.4)
    found, frame = audited(tmp_path, content).outcome, table()
    expected = ak.audit(
        frame.p_cat,
        inferred_groups(frame),
        load_config(tmp_path / "audit.yaml").build_criteria(),
        labels=frame.hired,
        threshold=0.4,
        weights=frame.people,
        clusters=frame.person,
    )
    assert found.inferred == ("race",)
    assert_same(found, expected)
    by_hand = {name: np.average(frame.p_cat, weights=frame[f"p_{name}"] * frame.people) for name in ("white", "black")}
    assert abs(found.findings[0].gap) == pytest.approx(abs(by_hand["white"] - by_hand["black"]), **EXACT)


@pytest.mark.parametrize("label", ["animal", "number"])
def test_several_outputs_are_audited_as_the_library_does(tmp_path: Path, label: str) -> None:
    criteria = [
        {"family": family, "attributes": "sex", "tolerance": 0.05} for family in ("ECP", "EER", "equalized_odds")
    ]
    content = plan(criteria=criteria, data={"score": OUTPUTS, "label": label}, threshold="highest")
    found, frame = audited(tmp_path, content).outcome, table()
    expected = ak.audit(
        frame[list(OUTPUTS.values())].set_axis(ANIMALS, axis=1),
        ak.Groups({"sex": frame.sex}),
        load_config(tmp_path / "audit.yaml").build_criteria(),
        labels=frame.number,
        threshold="highest",
    )
    assert found.outputs == tuple(ANIMALS)
    assert_same(found, expected)
    means = frame.groupby("sex")[list(OUTPUTS.values())].mean()
    assert sorted(abs(gap.gap) for gap in found.findings[0].gaps) == pytest.approx(
        sorted((means.loc["f"] - means.loc["m"]).abs()), **EXACT
    )


def test_outputs_and_an_inferred_attribute_together(tmp_path: Path) -> None:
    found, frame = audited(tmp_path, plan(data={"score": list(OUTPUTS.values())})).outcome, table()
    expected = ak.audit(
        frame[list(OUTPUTS.values())],
        inferred_groups(frame),
        load_config(tmp_path / "audit.yaml").build_criteria(),
        threshold=0.5,
    )
    assert found.outputs == tuple(OUTPUTS.values())
    assert_same(found, expected)


def test_the_run_states_what_is_inferred_and_expected_rows(tmp_path: Path) -> None:
    run, frame = audited(tmp_path, plan(data={"score": OUTPUTS, "label": "animal"})), table()
    data = json.loads((run.folder / "run.json").read_text())["data"]
    assert data["attributes"]["race"] == {"white": round(frame.p_white.sum()), "black": round(frame.p_black.sum())}
    assert (data["engine"], data["label_mean"]) == ("pandas", None)
    assert json.loads((run.folder / "audit.json").read_text())["inferred"] == ["race"]
    report = (run.folder / "report.html").read_text()
    assert "race (expected, by probabilities)" in report
    assert "known by probabilities, not observed" in report
    assert "cat, dog, owl; every criterion is asked of each" in report


def test_the_command_line_takes_several_scores(run: Run, tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "t.parquet")
    scores = [word for name in OUTPUTS.values() for word in ("--score", name)]
    options = ["--attributes", "sex", "--label", "number", "--threshold", "highest", "--format", "json"]
    code, out, err = run("audit", tmp_path / "t.parquet", *scores, *options, "--out", tmp_path / "run")
    assert (code in (0, 1, 3), err) == (True, "")
    assert json.loads(out)["outputs"] == list(OUTPUTS.values())
    assert json.loads(out)["decision_rule"] == "the output of the highest score"


def test_the_plan_of_a_run_reads_back_and_fits_the_schema() -> None:
    for score in (OUTPUTS, list(OUTPUTS.values()), "p_cat"):
        content = plan(data={"score": score})
        jsonschema.validate(content, config_schema())
        config = make_config(content)
        assert make_config(config.to_dict()).to_dict() == config.to_dict()
        assert config.engine == "pandas"
    jsonschema.validate(plan(threshold="highest"), config_schema())


RULE = r"data.attributes\[0\].race"
MISTAKES = {
    "one group": ("black: p_black", "", rf"{RULE}.probabilities: .* two groups or more; got \['p_white'\]"),
    "column twice": ("black: p_black", "black: p_white", rf"{RULE}.probabilities: .*'p_white' for two groups"),
    "beside bins": ("race: {", "race: {bins: [1], ", rf"{RULE}.bins: there is no such key"),
    "inferred in duckdb": ("engine: pandas", "engine: duckdb", "data.engine: race is inferred, .* rows in memory"),
    "outputs in duckdb": (
        "score: p_cat\n  engine: pandas", "engine: duckdb\n  score: [p_cat, p_dog]",
        "data.engine: data.score names 2 outputs, which is for rows in memory",
    ),
    "highest of one": ("threshold: 0.5", "threshold: highest", "threshold: 'highest' is for several outputs"),
    "one output": ("score: p_cat", "score: [p_cat]", r"data.score: .* two outputs or more; got \['p_cat'\]"),
    "output twice": ("score: p_cat", "score: {a: p_cat, b: p_cat}", "data.score: .* column 'p_cat' for two outputs"),
    "output number": ("score: p_cat", "score: [1, 2]", r"data.score: must be a column name, .*got \[1, 2\]"),
    "positive label": (
        "score: p_cat", "positive_label: 1\n  score: [p_cat, p_dog]", "data.positive_label: .*leave positive_label out",
    ),
    "decision": ("score: p_cat", "decision: hired\n  score: [p_cat, p_dog]", "data.decision: .*a decision is of one"),
}  # fmt: skip
FILE = """\
name: t
data:
  path: t.parquet
  attributes: [{race: {probabilities: {white: p_white, black: p_black}}}, sex]
  label: hired
  score: p_cat
  engine: pandas
criteria:
  - {family: ECP, attributes: race, tolerance: 0.05}
threshold: 0.5
"""


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_point_at_the_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert FILE.count(old) == 1
    text = FILE.replace(old, new)
    if "decision" in new:
        text = text.replace("threshold: 0.5\n", "").replace("label: hired\n", "label: animal\n")
    (tmp_path / "audit.yaml").write_text(text, encoding="utf-8")
    line = FILE[: FILE.index(old)].count("\n") + 1
    with pytest.raises(SchemaError, match=rf"^audit\.yaml, line {line}, {message}"):
        load_config(tmp_path / "audit.yaml")


def test_rows_that_are_no_probabilities_are_named(tmp_path: Path) -> None:
    frame = table(20)
    frame.loc[7, "p_white"] += 0.25
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(
        InputError, match=r"probabilities of 'race' must add up to 1 in every row; row 7 adds up to 1\.25"
    ):
        load_table(tmp_path / "t.csv", attributes=[INFERRED])
    with pytest.raises(InputError, match="probabilities of 'race' must be numbers"):
        load_table(tmp_path / "t.csv", attributes=[{"race": {"probabilities": {"a": "sex", "b": "p_black"}}}])
    with pytest.raises(SchemaError, match=r"attributes names column 'p_wite', .*did you mean 'p_white'"):
        load_table(tmp_path / "t.csv", attributes=[{"race": {"probabilities": {"a": "p_wite", "b": "p_black"}}}])
    with pytest.raises(InputError, match=r"label column 'sex' holds '[fm]', which is no output; .*'cat', 'dog', 'owl'"):
        load_table(tmp_path / "t.csv", attributes="sex", score=OUTPUTS, label="sex")
    with pytest.raises(InputError, match="'race' is inferred, which is for rows in memory"):
        scan(tmp_path / "t.csv", ak.ECP("race", tolerance=0.1), score="p_cat", attributes=[INFERRED])


def test_rows_taken_keep_their_probabilities_and_no_model_reads_them() -> None:
    frame = table(30)
    data = ak.from_frame(frame, attributes=[INFERRED], label="animal", score=OUTPUTS)
    part = data.take([3, 1])
    assert part.groups.shares("race")[:, 0] == pytest.approx(frame.p_white[[3, 1]].tolist(), **EXACT)
    assert part.scores == pytest.approx(frame[list(OUTPUTS.values())].to_numpy()[[3, 1]])
    assert (part.labels == frame.number[[3, 1]]).all()
    features = ak.from_frame(frame, attributes=[INFERRED, "sex"], label="hired").features
    assert features is not None
    assert not {"p_white", "p_black", "sex", "hired"} & set(features.columns)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"score": OUTPUTS, "label": "number", "features": ["people"]},
            "3 outputs; .* take one score per row",
        ),
        (
            {"label": "hired", "features": ["people"]},
            "race is inferred; .* take known attributes only",
        ),
    ],
)
def test_tuning_refuses_what_it_does_not_heed(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    table(200).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message):
        jobs.run_tune(make_config(plan(data=data), folder=tmp_path), out=tmp_path / "run")
