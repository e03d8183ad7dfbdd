"""Tuning on a table: features stay in a file, and every number is that of the table in memory, to the last bit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import auditkit as ak
from auditkit import feature_rows, feature_tables, heads, table_scoring
from auditkit.baselines import Sample
from auditkit.errors import InputError, SchemaError
from auditkit.feature_cache import extract_outputs, list_entries, table_rows
from auditkit.feature_rows import FeatureRows
from auditkit.feature_tables import survey_table
from auditkit.heads import FairHead
from auditkit.leakage import find_leakage
from auditkit.models.table_columns import TableColumns
from auditkit.subjects import load_subject
from auditkit.tuning.checkpoints import describe_task
from auditkit.tuning.rows import check_rows
from tests.test_processes import start

COLUMNS = [f"f{k}" for k in range(6)]
WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".parquet": lambda frame, path: frame.to_parquet(path, row_group_size=700),
    ".feather": lambda frame, path: frame.to_feather(path),
}


@pytest.fixture(scope="module")
def adult() -> pd.DataFrame:
    return pd.read_parquet(ak.sample_config().data_path).head(3_000).reset_index(drop=True)


@pytest.fixture
def all_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tables take the path of large ones: kept in the cache, working copies mapped, several batches."""
    monkeypatch.setattr(table_scoring, "KEPT_BYTES", 0)
    monkeypatch.setattr(feature_rows, "MAPPED_BYTES", 0)
    monkeypatch.setattr(feature_tables, "PIECE_ROWS", 500)


def config_for(folder: Path, name: str, **changes: Any) -> ak.AuditFile:
    plan = ak.sample_config().to_dict()
    plan["data"] = {**plan["data"], "path": name, **changes.pop("data", {})}
    plan.update({"tune": {"epochs": 4}, "frontier": [0.05], **changes})
    return ak.make_config({key: value for key, value in plan.items() if value is not None}, folder=folder)


def predictions(adult: pd.DataFrame) -> pd.DataFrame:
    model, rng = ak.load_model("sample:adult_mlp"), np.random.default_rng(0)
    values = model.features(adult).double().numpy()[:, : len(COLUMNS)] + rng.normal(size=(len(adult), len(COLUMNS)))
    return adult.assign(score=model.scores(adult).double().numpy(), **dict(zip(COLUMNS, values.T, strict=True)))


def run_files(folder: Path) -> dict[str, str]:
    names = ("audit", "audit_after", "calibration", "comparison", "frontier", "projection")
    found = {name: folder / f"{name}.json" for name in names}
    return {name: path.read_text() for name, path in found.items() if path.exists()}


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_scores_and_features_are_those_of_the_table_in_memory(
    adult: pd.DataFrame, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, all_in_files: None
) -> None:
    model = ak.load_model("sample:adult_mlp")
    monkeypatch.setattr(table_rows, "BATCH_VALUES", model.n_features * 450)
    WRITERS[suffix](adult, tmp_path / f"t{suffix}")
    config = config_for(tmp_path, f"t{suffix}").with_cache(tmp_path / "cache")
    subject = load_subject(config)
    whole = ak.load_table(config.data_path, **config.table_options())
    assert isinstance(subject.sample.features, FeatureRows)
    np.testing.assert_allclose(subject.sample.features, model.features(whole.features).double(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(subject.sample.scores, model.scores(whole.features).double(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(subject.sample.labels, whole.labels)
    assert subject.data.sha256 == whole.sha256
    entries = list_entries(tmp_path / "cache")
    assert [(e.state, e.rows, e.unit, e.outputs) for e in entries] == [("whole", 3_000, "rows", ("features", "scores"))]


@pytest.mark.parametrize("kind", ["model", "columns"])
def test_a_run_through_files_is_that_in_memory(
    adult: pd.DataFrame, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"methods": ["calibrated", "penalty_strict", "exponentiated_gradient"]}
    rows = adult
    if kind == "columns":
        rows = predictions(adult)
        changes |= {"data": {"score": "score", "features": COLUMNS}, "model": None}
    WRITERS[".csv"](rows, tmp_path / "t.csv")
    config = config_for(tmp_path, "t.csv", **changes)
    ak.run_compare(config.with_cache(False), out=tmp_path / "memory")
    assert not (tmp_path / "cache").exists()
    for name in ("KEPT_BYTES", "MAPPED_BYTES"):
        monkeypatch.setattr(table_scoring if name == "KEPT_BYTES" else feature_rows, name, 0)
    ak.run_compare(config.with_cache(tmp_path / "cache"), out=tmp_path / "files")
    assert run_files(tmp_path / "files") == run_files(tmp_path / "memory")
    assert len(run_files(tmp_path / "files")) == 5
    assert len(list_entries(tmp_path / "cache")) == 1
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert all(name.removesuffix(".lock") == list_entries(tmp_path / "cache")[0].key for name in left)


def test_columns_keep_their_precision(adult: pd.DataFrame, tmp_path: Path, all_in_files: None) -> None:
    frame = predictions(adult)
    for kind, dtype in (("float64", "<f8"), ("float32", "<f4"), ("int16", "<f4"), ("int32", "<f8")):
        frame.astype(dict.fromkeys(COLUMNS, kind)).to_parquet(tmp_path / f"{kind}.parquet")
        config = config_for(
            tmp_path, f"{kind}.parquet", data={"score": "score", "features": COLUMNS}, model=None
        ).with_cache(tmp_path / kind)
        features = load_subject(config).sample.features
        np.testing.assert_array_equal(np.asarray(features), frame[COLUMNS].astype(kind).to_numpy(np.float64))
        matrix = next((tmp_path / kind).glob("*/features.npy"))
        assert np.load(matrix, mmap_mode="r").dtype.str == dtype


def test_small_tables_are_not_kept(adult: pd.DataFrame, tmp_path: Path) -> None:
    WRITERS[".parquet"](adult, tmp_path / "t.parquet")
    load_subject(config_for(tmp_path, "t.parquet").with_cache(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_what_was_cut_short_goes_on_and_what_is_there_is_read(
    adult: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_in_files: None
) -> None:
    model = ak.load_model("sample:adult_mlp")
    monkeypatch.setattr(table_rows, "BATCH_VALUES", model.n_features * 100)
    WRITERS[".csv"](adult, tmp_path / "t.csv")
    config, seen = config_for(tmp_path, "t.csv").with_cache(tmp_path / "cache"), []
    model_type = type(model)
    plain = model_type._both

    def stopping(self: Any, batch: Any) -> Any:
        seen.append(len(batch))
        if stop_after and len(seen) > stop_after:
            raise KeyboardInterrupt
        return plain(self, batch)

    monkeypatch.setattr(model_type, "_both", stopping)
    stop_after = 18  # the first row, which tells the layout, and 17 batches: four chunks are finished
    with pytest.raises(KeyboardInterrupt):
        load_subject(config)
    assert [(e.state, e.done) for e in list_entries(tmp_path / "cache")] == [("unfinished", 0.5)]
    seen.clear()
    stop_after = 0
    found = load_subject(config).sample.features
    assert seen == [100] * 14
    seen.clear()
    again = load_subject(config)
    assert seen == []
    np.testing.assert_array_equal(np.asarray(again.sample.features), np.asarray(found))
    expected = model.features(pd.read_csv(tmp_path / "t.csv"))
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-6)


def test_a_file_that_changes_while_it_is_read_is_refused(adult: pd.DataFrame, tmp_path: Path) -> None:
    WRITERS[".parquet"](adult, tmp_path / "t.parquet")
    config = config_for(tmp_path, "t.parquet")
    table = survey_table(config.data_path, config.table_options(), name="t").table
    WRITERS[".parquet"](adult.head(2_000), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="'t.parquet' changed while its rows were read; run again"):
        extract_outputs(ak.load_model("sample:adult_mlp"), table, cache_dir=None)


def test_pieces_have_the_types_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole far down makes whole numbers floats everywhere: a category called 1 must not be called 1.0 below it."""
    monkeypatch.setattr(feature_tables, "PIECE_ROWS", 10)
    n = 100
    frame = pd.DataFrame({"sex": ["F", "M"] * 50, "code": pd.array([1, 2] * 50, dtype="Int64"), "whole": range(n)})
    frame["yes"] = pd.array([True, False] * 50, dtype="boolean")
    frame.loc[95, ["code", "yes"]] = pd.NA
    frame.to_parquet(tmp_path / "t.parquet")
    options = {
        "attributes": ["sex"], "strata": [], "label": None, "positive_label": None, "score": None,
        "features": ["code", "yes", "whole"], "exclude": [],
    }  # fmt: skip
    survey = survey_table(tmp_path / "t.parquet", options, name="t")
    whole = ak.load_table(tmp_path / "t.parquet", attributes=["sex"], features=["code", "yes", "whole"]).features
    assert whole is not None
    pieces = list(survey.table.pieces(30))
    assert [len(piece) for piece in pieces] == [30, 30, 30, 10]
    for piece in pieces:
        assert piece.dtypes.tolist() == whole.dtypes.tolist()
    pd.testing.assert_frame_equal(pd.concat(pieces, ignore_index=True), whole)


def test_a_csv_whose_columns_change_their_type_is_read_with_that_of_the_whole(tmp_path: Path) -> None:
    n = 60_000
    frame = pd.DataFrame({"x": ["37"] * (n - 1) + ["37.5"], "sex": ["F", "M"] * (n // 2), "score": 0.5})
    frame["y"], frame["padding"] = np.arange(n) % 2, "a text that makes the rows longer than they are"
    frame.to_csv(tmp_path / "t.csv", index=False)
    config = config_for(
        tmp_path, "t.csv", model=None, strata=None,
        data={"score": "score", "features": ["x"], "attributes": ["sex"], "label": "y", "positive_label": 1},
        criteria=[{"family": "ECP", "attributes": "sex", "tolerance": 0.1}], enforce=None,
    )  # fmt: skip
    features = np.asarray(load_subject(config).sample.features)
    assert features[:, 0].tolist() == [37.0] * (n - 1) + [37.5]


def test_repeated_rows_are_found_by_their_hashes(adult: pd.DataFrame, tmp_path: Path) -> None:
    rows = pd.concat([adult, adult.head(40)], ignore_index=True)
    rows.loc[7, "age"] = np.nan  # the column is float in pandas from here on
    WRITERS[".csv"](rows, tmp_path / "t.csv")
    options = config_for(tmp_path, "t.csv").table_options()
    survey = survey_table(tmp_path / "t.csv", options, name="t")
    parts = {"tune": np.arange(1_500), "test": np.arange(1_500, len(rows))}
    whole = ak.load_table(tmp_path / "t.csv", **options).features
    assert survey.row_keys is not None
    assert find_leakage(parts, rows=survey.row_keys) == find_leakage(parts, rows=whole)
    assert find_leakage(parts, rows=survey.row_keys).found[0].rows >= 39
    assert survey_table(tmp_path / "t.csv", options, name="t", with_keys=False).row_keys is None


def test_what_is_wrong_with_columns_is_said(adult: pd.DataFrame, tmp_path: Path) -> None:
    rows = predictions(adult)
    rows.loc[2_900, "f3"] = np.nan
    rows.to_parquet(tmp_path / "t.parquet")

    def load(**data: Any) -> Any:
        return load_subject(config_for(tmp_path, "t.parquet", data={"score": "score", **data}, model=None))

    with pytest.raises(InputError, match="data.features column 'f3' is missing or infinite at row 2900; fill"):
        load(features=COLUMNS)
    with pytest.raises(InputError, match="must be numbers; workclass are not"):
        load(features=["f1", "workclass"])
    with pytest.raises(SchemaError, match="'f9', which the table lacks"):
        load(features=["f9"])
    assert load().sample.features is None
    with pytest.raises(InputError, match="data.score names scores that are there, and model: makes others"):
        load_subject(config_for(tmp_path, "t.parquet", data={"score": "score"}))


def test_rows_of_features_are_picked_without_being_read(rng: np.random.Generator) -> None:
    values = rng.normal(size=(50, 3)).astype(np.float32)
    rows = FeatureRows(values)[np.arange(0, 50, 2)][np.array([3, 1, 4])]
    assert (rows.shape, len(rows), rows.dtype) == ((3, 3), 3, torch.float64)
    expected = values[[6, 2, 8]].astype(np.float64)
    np.testing.assert_array_equal(np.asarray(rows), expected)
    assert np.asarray(rows, dtype=np.float32).dtype == np.float32
    beside = np.array([[True], [False], [True]])
    wide = rows.with_beside(beside)[np.array([2, 0])]
    np.testing.assert_array_equal(np.asarray(wide), np.hstack([expected, beside])[[2, 0]])
    np.testing.assert_array_equal(wide.take(np.array([1])), np.hstack([expected, beside])[[0]])
    values[8, 1] = np.inf
    with pytest.raises(InputError, match="features hold NaN or infinite values"):
        rows.take()
    with pytest.raises(ValueError, match="copied when they become an array"):
        np.array(rows, copy=False)


def test_a_full_disk_is_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(feature_rows, "MAPPED_BYTES", 0)
    with pytest.raises(InputError, match=r"0.0 MiB to work in do not fit in .*No space left on device; make room"):
        FeatureRows(np.zeros((4, 2)), folder=tmp_path).take()
    assert list(tmp_path.iterdir()) == []


def test_a_working_copy_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(feature_rows, "MAPPED_BYTES", 0)
    mapped, plain = [], feature_rows.map_scratch
    monkeypatch.setattr(feature_rows, "map_scratch", lambda *given: mapped.append(plain(*given)) or mapped[-1])
    found = FeatureRows(np.ones((4, 2)), folder=tmp_path).take()
    assert type(mapped[0]) is np.memmap
    assert found.ctypes.data == mapped[0].ctypes.data
    assert FeatureRows(np.ones((4, 2))).take().shape == (4, 2)
    assert len(mapped) == 1  # without a folder the copy is in memory
    assert (found.sum().item(), list(tmp_path.iterdir())) == (8.0, [])
    found += 1  # what trains may write to it, and nothing else sees that
    assert found.sum().item() == 16.0


@pytest.mark.parametrize("constant", [False, True])
def test_the_start_by_blocks_is_the_least_squares_fit(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, constant: bool
) -> None:
    features = torch.from_numpy(rng.normal(size=(1_003, 5)))
    if constant:
        features[:, 2] = features[:, 1]  # of the solutions the one of least norm
    scores = torch.from_numpy(rng.uniform(0.1, 0.9, 1_003))
    found = []
    for values in (1 << 22, 250):
        monkeypatch.setattr(heads, "BLOCK_VALUES", values)
        head = FairHead(5)
        head.start_from(features, scores)
        found.append(torch.cat([head.linear.weight.detach().ravel(), head.linear.bias.detach()]))
    design = np.hstack([features.numpy(), np.ones((1_003, 1))])
    expected = np.linalg.lstsq(design, torch.logit(scores).numpy(), rcond=None)[0]
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found[1], expected, rtol=0, atol=1e-10)


def test_tuning_on_rows_of_a_file_is_tuning_on_the_array(rng: np.random.Generator, tmp_path: Path) -> None:
    values = rng.normal(size=(600, 4))
    labels, groups = rng.integers(0, 2, 600), ak.Groups({"sex": rng.choice(["F", "M"], 600)})
    criterion, config = ak.ECP("sex", tolerance=0.02), ak.TuneConfig(epochs=5)
    one, other = (
        ak.tune_head(x, labels, groups, criterion, config=config)
        for x in (values, FeatureRows(values, folder=tmp_path))
    )
    assert [json.dumps(vars(record)) for record in one.history] == [json.dumps(vars(r)) for r in other.history]
    np.testing.assert_array_equal(one.predict(values), other.predict(FeatureRows(values)))
    rows = [check_rows(x, labels, groups, config) for x in (values, FeatureRows(values))]
    tasks = [describe_task(part, (criterion,), config) for part in rows]
    assert tasks[0] == tasks[1]


def test_a_comparison_in_a_folder_knows_rows_of_a_file(rng: np.random.Generator, tmp_path: Path) -> None:
    values = rng.normal(size=(600, 4))
    labels, groups = rng.integers(0, 2, 600).astype(float), ak.Groups({"sex": rng.choice(["F", "M"], 600)})
    scores = rng.uniform(0.1, 0.9, 600)
    config = ak.CompareConfig(tune=ak.TuneConfig(epochs=2))
    for features in (values, FeatureRows(values)):  # the second goes on from the first
        found = ak.compare(
            Sample(scores, labels, groups, features), ak.ECP("sex", tolerance=0.05), methods=["head"], config=config,
            folder=tmp_path,
        )  # fmt: skip
        assert not any(run.error for run in found.runs)


def test_columns_give_no_scores() -> None:
    columns = TableColumns(["a", "b"])
    assert (columns.task, columns.gives_one_score) == ("features", False)
    with pytest.raises(InputError, match=r"'data.features' has no head and gives features alone"):
        columns.logits(pd.DataFrame({"a": [1.0], "b": [2.0]}))
    columns.check_frozen()
    assert TableColumns(["b", "a"]).fingerprint != columns.fingerprint


@pytest.mark.slow
def test_two_processes_share_the_features_of_a_table(adult: pd.DataFrame, tmp_path: Path) -> None:
    WRITERS[".csv"](adult, tmp_path / "t.csv")
    config = config_for(tmp_path, "t.csv").to_dict()
    (tmp_path / "audit.yaml").write_text(json.dumps(config))
    for name, processes in (("alone", 0), ("two", 2)):
        request = ("tune", tmp_path / "audit.yaml", "--out", tmp_path / name, "--cache", tmp_path / f"{name}.cache")
        done = start("-m", "auditkit", *request, processes=processes)
        assert done.stdout.count("report: ") == 1, done.stderr[-2000:]
    assert [entry.state for entry in list_entries(tmp_path / "two.cache")] == ["whole"]
    assert run_files(tmp_path / "two") == run_files(tmp_path / "alone")
    request = ("tune", tmp_path / "audit.yaml", "--out", tmp_path / "none", "--no-cache")
    done = start("-m", "auditkit", *request)
    assert done.stderr.count("several processes share their work through the cache of features; let it be kept") == 1
