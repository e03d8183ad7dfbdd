"""A table that a model scores is read in pieces, and the audit is that of the table in memory, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

import auditkit as ak
from auditkit import batch_scoring
from auditkit.datasets import AuditData
from auditkit.errors import InputError, SchemaError
from auditkit.progress import NullProgress
from auditkit.subjects import load_subject
from auditkit.table_files import find_csv_types, read_pieces


@pytest.fixture(scope="module")
def adult() -> pd.DataFrame:
    config = ak.sample_config()
    return pd.read_parquet(config.data_path)


def config_for(folder: Path, name: str, **changes: object) -> ak.AuditFile:
    plan = ak.sample_config().to_dict()
    plan["data"] = {**plan["data"], "path": name, **changes}
    return ak.make_config(plan, folder=folder)


def score_in_memory(config: ak.AuditFile) -> tuple[AuditData, np.ndarray]:
    data = ak.load_table(config.data_path, **config.table_options())
    return data, ak.load_model("sample:adult_mlp").scores(data.features).double().numpy()


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_the_audit_in_pieces_is_that_in_memory(
    adult: pd.DataFrame, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_scoring, "PIECE_ROWS", 4_000)
    rows = adult.head(9_001)
    if suffix == "parquet":
        rows.to_parquet(tmp_path / "t.parquet", row_group_size=1_700)
    else:
        rows.reset_index(drop=True).to_feather(tmp_path / "t.feather")
    config = config_for(tmp_path, f"t.{suffix}")
    pieces = load_subject(config, features=False)
    whole, scores = score_in_memory(config)
    assert pieces.data.features is None
    assert pieces.data.sha256 == whole.sha256
    np.testing.assert_allclose(pieces.sample.scores, scores, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(pieces.sample.labels, whole.labels)
    for name in whole.groups.names:
        assert pieces.data.groups.categories(name) == whole.groups.categories(name)
        np.testing.assert_array_equal(pieces.data.groups.codes(name), whole.groups.codes(name))


def test_pieces_have_the_same_rows_however_the_file_is_divided(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(10_000), "y": np.arange(10_000) % 7})
    found = []
    for size in (333, 4_096, 10_000):
        frame.to_parquet(tmp_path / f"{size}.parquet", row_group_size=size)
        pieces = list(read_pieces(tmp_path / f"{size}.parquet", ["x"], rows=3_000))
        assert [piece.num_rows for piece in pieces] == [3_000, 3_000, 3_000, 1_000]
        found.append([piece.column("x").to_pylist() for piece in pieces])
    assert found[0] == found[1] == found[2] == [frame["x"][i : i + 3_000].tolist() for i in range(0, 10_000, 3_000)]


def test_weights_and_clusters_are_heeded_and_an_audit_runs(adult: pd.DataFrame, tmp_path: Path) -> None:
    rows = adult.head(4_000).assign(people=np.tile([1.0, 2.0], 2_000), person=np.arange(4_000) // 2, note="x")
    rows.to_parquet(tmp_path / "t.parquet")
    config = config_for(tmp_path, "t.parquet", weight="people", cluster="person", exclude=["note"])
    result = ak.run_audit(config, out=tmp_path / "run")
    whole = ak.load_table(tmp_path / "t.parquet", **config.table_options())
    scores = ak.load_model("sample:adult_mlp").scores(whole.features).numpy()
    expected = ak.audit(
        scores, whole.groups, config.build_criteria(), labels=whole.labels, weights=whole.weights,
        clusters=whole.clusters, threshold=0.5,
    )  # fmt: skip
    for found, other in zip(result.outcome.findings, expected.findings, strict=True):
        assert found.gap == pytest.approx(other.gap, abs=1e-7)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data"]["rows"] == 4_000


def test_a_table_without_rows_is_refused(adult: pd.DataFrame, tmp_path: Path) -> None:
    adult.head(0).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="t.parquet' has columns but no rows"):
        load_subject(config_for(tmp_path, "t.parquet"), features=False)


def test_a_table_of_predictions_without_a_key_is_read_whole(adult: pd.DataFrame, tmp_path: Path) -> None:
    rows = adult.head(500).reset_index(drop=True)
    rows.to_parquet(tmp_path / "t.parquet")
    pd.DataFrame({"score": np.linspace(0.1, 0.9, 500)}).to_csv(tmp_path / "scores.csv", index=False)
    plan = config_for(tmp_path, "t.parquet").to_dict()
    plan["model"] = {"path": "scores.csv", "score": "score"}
    subject = load_subject(ak.make_config(plan, folder=tmp_path), features=False)
    assert subject.sample.scores.tolist() == pytest.approx(np.linspace(0.1, 0.9, 500).tolist())


def test_a_csv_is_read_in_pieces(adult: pd.DataFrame, tmp_path: Path) -> None:
    adult.head(3_000).to_csv(tmp_path / "t.csv", index=False)
    config = config_for(tmp_path, "t.csv")
    pieces = load_subject(config, features=False)
    assert pieces.data.features is None
    np.testing.assert_allclose(pieces.sample.scores, score_in_memory(config)[1], rtol=0, atol=1e-7)
    with pytest.raises(SchemaError, match="'sexx', which the table lacks"):
        load_subject(config_for(tmp_path, "t.csv", weight="sexx"), features=False)


@pytest.mark.parametrize(("first", "last"), [("37", "37.5"), ("", "37"), ("37", "old"), ("true", "old")])
def test_a_csv_whose_columns_change_their_type_has_that_of_the_whole(
    tmp_path: Path, first: str, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first MiB tells another type than the last row: the model reads what it would of the table in memory."""
    n = 60_000
    seen: list[pd.DataFrame] = []

    class Watching:
        def scores(self, frame: pd.DataFrame) -> torch.Tensor:
            seen.append(frame)
            return torch.zeros(len(frame))

    monkeypatch.setattr(batch_scoring, "PIECE_ROWS", 25_000)
    frame = pd.DataFrame(
        {"x": [first] * (n - 1) + [last], "code": ["7"] * (n - 1) + ["b"], "sex": ["F", "M"] * (n // 2)}
    )
    frame["padding"] = "a text that makes the rows longer than they are"
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = {
        "attributes": ["sex"], "features": ["x"], "keep": ["code"], "strata": [], "label": None, "score": None,
        "positive_label": None, "exclude": [],
    }  # fmt: skip
    data, _ = batch_scoring.score_in_pieces(
        tmp_path / "t.csv", cast("Any", Watching()), options, name="t", progress=NullProgress()
    )
    whole = ak.load_table(tmp_path / "t.csv", attributes=["sex"], features=["x"], keep=["code"])
    assert whole.features is not None
    read = pd.concat([piece for piece in seen if piece["x"].dtype == seen[-1]["x"].dtype][-3:], ignore_index=True)
    pd.testing.assert_frame_equal(read.astype(whole.features.dtypes), whole.features)
    assert data.kept is not None
    pd.testing.assert_frame_equal(data.kept, whole.kept)


def test_truth_values_and_numbers_in_one_column_of_csv_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x\n" + "true\n" * 70_000 + "1\n" * 70_000)
    with pytest.raises(InputError, match="column 'x' holds truth values and whole numbers"):
        find_csv_types(tmp_path / "t.csv", ["x"])
