"""Parting rows by chance, person, time or a column, and what the parts share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

import auditkit as ak
from auditkit.errors import InputError, SchemaError
from auditkit.jobs import run_compare, run_tune
from auditkit.leakage import find_leakage
from auditkit.reporting import verify_run
from auditkit.splits import codes_of, split_by_column, split_by_group, split_by_time, split_rows

VALUES = {"tune": "train", "calibrate": ["valid"], "test": "test"}
SHARES = {"tune": 0.5, "calibrate": 0.3, "test": 0.2}


def whole(parts: dict[str, np.ndarray], n: int) -> bool:
    return sorted(np.concatenate(list(parts.values())).tolist()) == list(range(n))


@given(st.lists(st.integers(0, 40), min_size=200, max_size=300), st.integers(0, 5))
def test_rows_of_a_group_stay_together(ids: list[int], seed: int) -> None:
    series = pd.Series(ids, name="person")
    assume(series.nunique() > 5 and series.value_counts().max() < 0.3 * len(ids))
    parts = split_by_group(series, fractions={"a": 0.6, "b": 0.4}, seed=seed)
    assert whole(parts, len(ids))
    assert not set(series[parts["a"]]) & set(series[parts["b"]])
    largest = series.value_counts().max()
    assert abs(len(parts["a"]) - 0.6 * len(ids)) <= largest


def test_groups_fall_alike_whatever_the_order_of_the_rows() -> None:
    ids = pd.Series(np.random.default_rng(0).integers(0, 90, 1000).astype(str), name="person")
    shuffled = ids.sample(frac=1, random_state=1).reset_index(drop=True)
    first, second = (split_by_group(s, fractions=SHARES, seed=3) for s in (ids, shuffled))
    other = split_by_group(ids, fractions=SHARES, seed=4)
    for part in SHARES:
        assert set(ids[first[part]]) == set(shuffled[second[part]])
    assert set(ids[first["test"]]) != set(ids[other["test"]])


@given(st.lists(st.integers(0, 60), min_size=150, max_size=250))
def test_earlier_rows_come_before_later_ones_and_ties_stay_together(times: list[int]) -> None:
    series = pd.Series(times, name="when")
    try:
        parts = split_by_time(series, fractions=SHARES)
    except InputError as error:
        assert "rows of one moment stay together" in str(error)  # noqa: PT017
        return
    assert whole(parts, len(times))
    assert series[parts["tune"]].max() < series[parts["calibrate"]].min()
    assert series[parts["calibrate"]].max() < series[parts["test"]].min()
    assert len(parts["tune"]) >= round(0.5 * len(times))  # a tie goes to the earlier part


def test_times_may_be_text_dates_or_numbers() -> None:
    days = pd.Series(pd.date_range("2024-01-01", periods=100, freq="D"), name="day").sample(frac=1, random_state=0)
    days = days.reset_index(drop=True)
    expected = split_by_time(days, fractions=SHARES)
    for other in (days.dt.strftime("%Y-%m-%d"), days.dt.date, days.astype("int64"), days.dt.tz_localize("UTC")):
        found = split_by_time(other.rename("day"), fractions=SHARES)
        assert all((found[part] == expected[part]).all() for part in SHARES)


def test_a_column_names_the_parts() -> None:
    fold = pd.Series([1.0, 2.0, 3.0, 3.0, 1.0], name="fold")
    parts = split_by_column(fold, parts={"tune": (1,), "calibrate": ("2",), "test": (3.0, 4)})
    assert {name: rows.tolist() for name, rows in parts.items()} == {"tune": [0, 4], "calibrate": [1], "test": [2, 3]}
    with pytest.raises(InputError, match=r"split column 'fold' holds '3', which stands for no part"):
        split_by_column(fold, parts={"tune": (1,), "calibrate": (2,)})
    with pytest.raises(InputError, match="names the value '1' for two parts"):
        split_by_column(fold, parts={"tune": (1, 2), "test": ("1", 3)})
    with pytest.raises(InputError, match="leave test without rows out of 5"):
        split_by_column(fold, parts={"tune": (1, 2, 3), "test": (4,)})


def test_mistakes_in_a_split_are_named() -> None:
    with pytest.raises(InputError, match=r"split column 'person' has 1 missing values \(first at row 1\)"):
        split_by_group(pd.Series(["a", None], name="person"), fractions=SHARES, seed=0)
    with pytest.raises(InputError, match="2 ids fill 3 parts"):
        split_by_group(pd.Series(["a", "b"] * 9, name="person"), fractions=SHARES, seed=0)
    with pytest.raises(SchemaError, match="not all of which are dates"):
        split_by_time(pd.Series(["spring", "autumn"], name="when"), fractions={"a": 0.5, "b": 0.5})
    with pytest.raises(SchemaError, match="holds true and false"):
        split_by_time(pd.Series([True, False], name="when"), fractions={"a": 0.5, "b": 0.5})


def test_stratified_parts_hold_every_combination_alike() -> None:
    frame = pd.DataFrame({"sex": ["F", "M"] * 500, "label": [0, 0, 0, 1] * 250})
    codes = codes_of(frame)
    assert len(np.unique(codes)) == 3
    parts = split_rows(1000, fractions=SHARES, seed=0, stratify=codes)
    for code in np.unique(codes):
        shares = [np.mean(codes[rows] == code) for rows in parts.values()]
        assert np.ptp(shares) < 0.01


@given(st.lists(st.integers(0, 30), min_size=30, max_size=80))
def test_shared_keys_are_those_a_loop_finds(ids: list[int]) -> None:
    series, n = pd.Series(ids), len(ids)
    parts = {"tune": np.arange(0, n // 3), "calibrate": np.arange(n // 3, n // 2), "test": np.arange(n // 2, n)}
    found = {(s.earlier, s.later): s.rows for s in find_leakage(parts, ids=series).found}
    for earlier, later in (("tune", "calibrate"), ("tune", "test"), ("calibrate", "test")):
        there = {ids[i] for i in parts[earlier]}
        assert found.get((earlier, later), 0) == sum(ids[i] in there for i in parts[later])


def test_rows_images_and_missing_ids_are_compared() -> None:
    parts = {"tune": np.array([0, 1]), "test": np.array([2, 3])}
    rows = pd.DataFrame({"age": [30, 31, 30, 40], "job": ["a", "b", "a", "b"]})
    images = pd.Series(["x", "y", "z", "y"])
    leakage = find_leakage(parts, ids=pd.Series([None, "p", None, "q"]), rows=rows, images=images)
    assert leakage.checked == ("id", "row", "image")
    assert [(s.kind, s.rows) for s in leakage.found] == [("row", 1), ("image", 1)]
    assert leakage.sentences[0] == "1 of 2 test rows have identical features as rows of tune"
    with pytest.raises(InputError, match="refuse, and 1 of 2 test rows have the same image as rows of tune"):
        find_leakage(parts, images=images, policy="refuse")
    assert find_leakage(parts, images=images, policy="ignore").checked == ()


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """A table of predictions with several visits of each person, and an audit file without split."""
    rng = np.random.default_rng(0)
    person = rng.integers(0, 500, 1500)
    frame = pd.DataFrame(
        {
            "person": person,
            "sex": np.where(person % 2, "F", "M"),
            "x": rng.normal(size=1500),
            "day": pd.date_range("2024-01-01", periods=1500, freq="h").strftime("%Y-%m-%dT%H:%M:%S"),
            "part": rng.choice(["train", "valid", "test"], 1500),
            "score": rng.uniform(0.05, 0.95, 1500),
            "label": rng.integers(0, 2, 1500),
        }
    )
    frame.to_csv(tmp_path / "visits.csv", index=False)
    return tmp_path


def write(folder: Path, split: dict[str, object]) -> Path:
    values = {
        "name": "visits",
        "data": {"path": "visits.csv", "attributes": ["sex"], "label": "label", "score": "score", "features": ["x"]},
        "criteria": [{"family": "ECP", "attributes": "sex", "tolerance": 0.2}],
        "split": split,
        "tune": {"epochs": 5},
        "methods": ["unconstrained", "projection"],
    }
    path = folder / "audit.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("split", "job"),
    [
        ({"by": "group", "column": "person"}, run_compare),
        ({"by": "time", "column": "day", "id": "person"}, run_tune),
        (
            {"by": "column", "column": "part", "values": VALUES},
            run_tune,
        ),
        ({"stratify": ["sex", "label"], "id": "person"}, run_tune),
    ],
)
def test_jobs_heed_the_split_and_record_it(visits: Path, split: dict[str, object], job) -> None:
    frame = pd.read_csv(visits / "visits.csv")
    result = job(ak.load_config(write(visits, split)), out=visits / "run")
    record = json.loads((result.folder / "run.json").read_text())
    assert record["split_rule"]["by"] == split.get("by", "random")
    assert sum(record["split"].values()) == len(frame)
    if split.get("by") == "column":
        assert record["split"] == {
            name: frame["part"].tolist().count(value)
            for name, value in (("tune", "train"), ("calibrate", "valid"), ("test", "test"))
        }
    found = [shared for shared in record["leakage"]["found"] if shared["kind"] == "id"]
    assert bool(found) == ("id" in split)
    report = (result.folder / "report.html").read_text()
    assert "Shared by the parts" in report
    assert all(shared["words"] in report for shared in found)
    assert all(check.passed for check in verify_run(result.folder))


def test_leakage_is_refused_where_the_file_says_so(visits: Path) -> None:
    config = ak.load_config(write(visits, {"id": "person", "leakage": "refuse"}))
    with pytest.raises(InputError, match="split.leakage is refuse, and .* rows have the same id as rows of tune"):
        run_tune(config, out=visits / "run")
    assert not (visits / "run").exists()


def test_columns_of_a_split_are_no_features_unless_named(visits: Path) -> None:
    path = write(visits, {"by": "time", "column": "day", "id": "person"})
    values = yaml.safe_load(path.read_text())
    del values["data"]["features"], values["data"]["score"]
    values["model"] = "sample:adult_mlp"
    options = ak.make_config(values, folder=visits).table_options()
    data = ak.load_table(visits / "visits.csv", **options)
    assert data.features is not None
    assert data.kept is not None
    assert list(data.features) == ["x", "part", "score"]
    assert list(data.kept) == ["day", "person"]
    values["data"]["features"] = ["x", "day"]
    data = ak.load_table(visits / "visits.csv", **ak.make_config(values, folder=visits).table_options())
    some = data.take([3, 5])
    assert data.features is not None
    assert data.kept is not None
    assert some.kept is not None
    assert list(data.features) == ["x", "day"]
    assert some.kept["person"].tolist() == data.kept["person"].iloc[[3, 5]].tolist()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("{by: group}", r"audit.yaml, line 6, split.by: by is group, which needs column"),
        ("{column: person}", r"audit.yaml, line 6, split.column: column needs by: group, time or column"),
        ("{by: time, column: day, stratify: sex}", "split.stratify: stratify belongs to by: random only"),
        ("{by: column, column: part, values: {tune: a}}", "split.values: values must name what stands for each of"),
        ("{by: column, column: part, tune: 0.5, test: 0.2}", "shares, which by: column does not heed"),
        ("{by: fold, column: part}", "split.by: input should be 'random', 'group', 'time' or 'column'; got 'fold'"),
        ("{leakage: allow}", "split.leakage: input should be 'refuse', 'report' or 'ignore'"),
        ("{by: group, column: person, id: card}", "split.id: id is 'card' and by: group keeps the rows of 'person'"),
    ],
)
def test_mistakes_point_at_the_line(tmp_path: Path, split: str, message: str) -> None:
    text = (
        "data:\n  path: visits.csv\n  attributes: [sex]\n  score: score\n"
        f"criteria: [{{family: ECP, attributes: sex, tolerance: 0.1}}]\nsplit: {split}\n"
    )
    (tmp_path / "audit.yaml").write_text(text)
    with pytest.raises(SchemaError, match=message):
        ak.load_config(tmp_path / "audit.yaml")


def test_a_column_that_the_table_lacks_is_named_with_those_it_has(visits: Path) -> None:
    config = ak.load_config(write(visits, {"by": "group", "column": "persn"}))
    with pytest.raises(
        SchemaError, match=r"'persn', which the table lacks \(did you mean 'person'\?\); it has: person"
    ):
        run_tune(config, out=visits / "run")
