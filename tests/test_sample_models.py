"""The bundled Adult model: its files are what its card says, and its script makes them again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from auditkit.datasets import hash_file, load_table
from auditkit.models import load_model, sample_folder
from tests.real_data import data_path

ROOT = Path(__file__).parents[1]
FOLDER = sample_folder("adult_mlp")
CARD: dict[str, Any] = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def heldout() -> pd.DataFrame:
    return pd.read_parquet(FOLDER / "heldout.parquet")


@pytest.fixture(scope="module")
def scores(heldout: pd.DataFrame) -> np.ndarray:
    return load_model("sample:adult_mlp").scores(heldout).double().numpy()


def scores_by_hand(frame: pd.DataFrame) -> np.ndarray:
    """The model in plain NumPy from its two files, float64."""
    content = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
    assert content["architecture"]["activation"] == "relu"
    columns = [(frame[c["column"]] - c["mean"]) / c["std"] for c in content["preprocessing"]["numeric"]]
    for spec in content["preprocessing"]["categorical"]:
        columns += [frame[spec["column"]] == value for value in spec["vocabulary"]]
    h = np.column_stack(columns).astype(np.float64)
    w = {name: value.astype(np.float64) for name, value in load_file(FOLDER / "model.safetensors").items()}
    for layer in range(len(content["architecture"]["hidden"])):
        h = np.maximum(h @ w[f"hidden.{layer}.weight"].T + w[f"hidden.{layer}.bias"], 0)
    return 1 / (1 + np.exp(-(h @ w["head.weight"][0] + w["head.bias"][0])))


def test_files_have_the_hashes_of_the_card() -> None:
    assert set(CARD["sha256"]) == {"heldout.parquet", "model.json", "model.safetensors"}
    assert {name: hash_file(FOLDER / name) for name in CARD["sha256"]} == CARD["sha256"]
    assert load_model("sample:adult_mlp").fingerprint == CARD["fingerprint"]


def test_scores_equal_plain_numpy(heldout: pd.DataFrame, scores: np.ndarray) -> None:
    np.testing.assert_allclose(scores, scores_by_hand(heldout), atol=1e-6)


def test_sex_and_race_are_no_inputs(heldout: pd.DataFrame, scores: np.ndarray) -> None:
    assert not {"sex", "race"} & set(CARD["features"])
    assert set(heldout.columns) == {*CARD["features"], "income_over_50k", "sex", "race"}
    blind = heldout.drop(columns=["sex", "race", "income_over_50k"])
    np.testing.assert_array_equal(load_model("sample:adult_mlp").scores(blind).double().numpy(), scores)


def test_measured_quality(heldout: pd.DataFrame, scores: np.ndarray) -> None:
    labels = heldout["income_over_50k"].to_numpy()
    accuracy = ((scores >= 0.5) == (labels == 1)).mean()
    positive, negative = scores[labels == 1], np.sort(scores[labels == 0])
    wins = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    auc = wins.sum() / (2 * len(positive) * len(negative))
    assert accuracy == pytest.approx(CARD["measured"]["heldout"]["accuracy"], abs=2e-4)
    assert auc == pytest.approx(CARD["measured"]["heldout"]["auc"], abs=1e-5)
    assert accuracy > 0.85
    assert auc > 0.905


@pytest.mark.parametrize("attribute", ["sex", "race"])
def test_expected_audit(heldout: pd.DataFrame, scores: np.ndarray, attribute: str) -> None:
    expected = CARD["expected_audit"][attribute]
    assert set(expected["groups"]) == set(heldout[attribute])
    for group, numbers in expected["groups"].items():
        rows = (heldout[attribute] == group).to_numpy()
        assert rows.sum() == numbers["rows"]
        assert scores[rows].mean() == pytest.approx(numbers["mean_score"], abs=2e-6)
        assert (scores[rows] >= 0.5).mean() == pytest.approx(numbers["selection_rate"], abs=2e-3)
    means = [numbers["mean_score"] for numbers in expected["groups"].values()]
    assert expected["mean_score_gap"] == pytest.approx(max(means) - min(means), abs=2e-6)


def test_heldout_rows_load_as_audit_data(heldout: pd.DataFrame) -> None:
    data = load_table(FOLDER / "heldout.parquet", attributes=["sex", "race"], label="income_over_50k")
    assert data.features is not None
    assert list(data.features) == CARD["features"]
    assert data.n_rows == len(heldout) == CARD["measured"]["heldout"]["rows"]
    assert data.sha256 == CARD["sha256"]["heldout.parquet"]


def test_card_names_source_licence_and_changes() -> None:
    assert CARD["data"]["doi"] == "10.24432/C5XW20"
    assert CARD["data"]["licence"] == "CC BY 4.0"
    assert CARD["data"]["changes"]
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "10.24432/C5XW20" in readme
    assert f"{CARD['measured']['heldout']['accuracy']:.3f}" in readme
    assert f"{CARD['measured']['heldout']['auc']:.3f}" in readme


@pytest.mark.slow
def test_rebuilding_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    adult = data_path("tabular/adult.parquet")
    for name in ("first", "second"):
        command = [sys.executable, str(FOLDER / "build.py"), "--adult", str(adult), "--out", str(tmp_path / name)]
        path = {"PYTHONPATH": str(ROOT), "PATH": ""}
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=path)
    first, second = tmp_path / "first", tmp_path / "second"
    files = (*CARD["sha256"], "card.json")
    assert {name: hash_file(first / name) for name in files} == {name: hash_file(second / name) for name in files}
    # Other processors may round differently in training, so the committed weights are compared by what they do.
    pd.testing.assert_frame_equal(
        pd.read_parquet(first / "heldout.parquet"), pd.read_parquet(FOLDER / "heldout.parquet")
    )
    rebuilt = json.loads((first / "card.json").read_text(encoding="utf-8"))
    assert rebuilt["measured"]["heldout"]["auc"] == pytest.approx(CARD["measured"]["heldout"]["auc"], abs=0.003)
