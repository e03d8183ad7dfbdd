"""Reading tables, giving columns their roles, splitting rows."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditkit.datasets import AuditData, from_frame, hash_file, load_table, read_table, split_rows
from auditkit.errors import InputError, SchemaError, UntrustedFileError
from tests.real_data import data_path


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sex": ["F", "M", "F", "M", "M", "F"],
            "age": [17, 18, 30, 44, 60, 75],
            "hours": [10.0, 20.5, 30.0, 40.0, 50.0, 60.0],
            "region": ["N", "S", "N", "S", "N", "S"],
            "outcome": ["yes", "no", "no", "yes", "no", "yes"],
            "score": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        }
    )


def save(frame: pd.DataFrame, path: Path) -> Path:
    writers = {".csv": frame.to_csv, ".parquet": frame.to_parquet}
    if path.suffix in writers:
        writers[path.suffix](path, index=False)
    else:
        frame.to_feather(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather", ".arrow"])
def test_every_format_reads_the_same_values(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    found = read_table(save(frame, tmp_path / f"table{suffix}"))
    assert list(found.columns) == list(frame.columns)
    for name in frame:
        assert found[name].tolist() == frame[name].tolist()


def test_arrow_file_written_by_ipc(frame: pd.DataFrame, tmp_path: Path) -> None:
    table = pa.Table.from_pandas(frame)
    with pa.ipc.new_file(tmp_path / "t.arrow", table.schema) as writer:
        writer.write_table(table)
    assert read_table(tmp_path / "t.arrow")["age"].tolist() == frame["age"].tolist()


def test_stored_pandas_index_becomes_no_column(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.iloc[[4, 1, 2]].to_parquet(tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    assert list(found.columns) == list(frame.columns)
    assert found.index.tolist() == [0, 1, 2]


def test_csv_none_is_a_category_and_na_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('kind,size\nNone,1\nNA,\n"a,\nb",3\n')
    found = read_table(path)
    assert found["kind"].isna().tolist() == [False, True, False]
    assert found["kind"].iloc[0] == "None"
    assert found["kind"].iloc[2] == "a,\nb"
    assert np.isnan(found["size"].iloc[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"a,b\n", "no rows"),
        (b"a,b\n1,2\n3\n", r"cannot be read as \.csv: .*Expected 2 columns"),
        (b"a,b\n1,2,3\n", r"cannot be read as \.csv: .*Expected 2 columns"),
        (b"a,b\n1,caf\xe9\n", "not UTF-8 in column 'b'"),
        (b"a,a\n1,2\n", "several columns called 'a'"),
        (b"a;b\n1;2\n", "not separated by commas"),
    ],
)
def test_damaged_csv(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(path)


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_truncated_file(frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    path = save(frame, tmp_path / f"t{suffix}")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=rf"cannot be read as \{suffix}"):
        read_table(path)


def test_missing_file_folder_and_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_table(tmp_path / "folder.csv")
    with pytest.raises(InputError, match=r"suffix '\.xlsx'; supported are \.csv"):
        read_table(tmp_path / "t.xlsx")


class Boom:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('the pickle ran')",))


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib"])
def test_pickled_table_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"t{suffix}").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(UntrustedFileError, match="to_parquet"):
        read_table(tmp_path / f"t{suffix}")


def test_columns_go_to_their_roles(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = save(frame, tmp_path / "loans.parquet")
    data = load_table(
        path, attributes=["sex"], strata=["region"], label="outcome", positive_label="yes", exclude=["score"]
    )
    assert data.name == "loans"
    assert data.source == str(path)
    assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == hash_file(path)
    assert data.features is not None
    assert list(data.features) == ["age", "hours", "region"]
    assert list(data.attributes) == ["sex", "region"]
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 0, 1, 0, 1]
    assert data.labels.dtype == np.float64
    assert data.scores is None
    assert data.groups.names == ("sex", "region")
    assert data.groups.values("sex").tolist() == frame["sex"].tolist()


def test_predictions_table_has_no_features(frame: pd.DataFrame) -> None:
    data = from_frame(frame, attributes="sex", score="score")
    assert data.features is None
    assert data.scores is not None
    assert data.scores.tolist() == frame["score"].tolist()
    both = from_frame(frame, attributes="sex", score="score", features=["hours"])
    assert both.features is not None
    assert list(both.features) == ["hours"]


def test_bins_hold_their_lower_edge_and_keep_empty_inner_groups(frame: pd.DataFrame) -> None:
    data = from_frame(frame, attributes=[{"age_band": {"column": "age", "bins": [18, 30, 45, 50, 60]}}])
    assert data.attributes["age_band"].astype(str).tolist() == [
        "<18", "[18, 30)", "[30, 45)", "[30, 45)", ">=60", ">=60",
    ]  # fmt: skip
    assert data.groups.categories("age_band") == ("<18", "[18, 30)", "[30, 45)", "[45, 50)", "[50, 60)", ">=60")
    assert data.features is not None
    assert "age" in data.features


def test_open_bins_without_rows_are_left_out(frame: pd.DataFrame) -> None:
    data = from_frame(frame, attributes={"band": {"column": "age", "bins": [0, 30, 100]}})
    assert data.groups.categories("band") == ("[0, 30)", "[30, 100)")


def test_missing_value_of_a_binned_column_is_its_own_group(frame: pd.DataFrame) -> None:
    frame.loc[2, "hours"] = np.nan
    data = from_frame(frame, attributes={"band": {"column": "hours", "bins": [30]}})
    assert data.groups.values("band").tolist() == ["<30", "<30", "(missing)", ">=30", ">=30", ">=30"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attributes": ["gender"]}, SchemaError, r"attributes names column 'gender'.*it has: sex, age"),
        ({"attributes": ["sexx"]}, SchemaError, r"did you mean 'sex'\?"),
        ({"attributes": ["sex"], "label": "outcom"}, SchemaError, r"label names .*did you mean 'outcome'\?"),
        ({"attributes": ["sex"], "strata": ["zip"]}, SchemaError, "strata names column 'zip'"),
        ({"attributes": ["sex"], "features": ["zip"]}, SchemaError, "features names column 'zip'"),
        ({"attributes": ["sex"], "exclude": ["zip"]}, SchemaError, "exclude names column 'zip'"),
        ({"attributes": ["sex"], "features": "age"}, InputError, r"features=\['age'\]"),
        ({"attributes": []}, InputError, "at least one protected attribute"),
        ({"attributes": ["sex", "sex"]}, SchemaError, "name 'sex' twice"),
        ({"attributes": [3]}, InputError, "column names or bin mappings; got 3"),
        ({"attributes": {"b": {"column": "age"}}}, SchemaError, r"attributes\['b'\] must be"),
        ({"attributes": {"b": {"column": "age", "bins": [3, 3]}}}, InputError, "increasing edges"),
        ({"attributes": {"b": {"column": "sex", "bins": [3]}}}, SchemaError, "only numeric columns"),
        ({"attributes": {"b": {"column": "age", "bins": [0, 100]}}}, InputError, r"single value '\[0, 100\)'"),
        ({"attributes": ["sex"], "label": "outcome"}, InputError, r"pass positive_label=.*'no', 'yes'"),
        (
            {"attributes": ["sex"], "label": "outcome", "positive_label": "Yes"},
            InputError,
            "positive_label 'Yes' never occurs in column 'outcome'; values: 'no', 'yes'",
        ),
        ({"attributes": ["sex"], "positive_label": 1}, InputError, "needs label="),
        ({"attributes": ["sex"], "score": "outcome"}, InputError, "score column 'outcome' must be numbers"),
    ],
)
def test_wrong_roles(frame: pd.DataFrame, options: dict[str, object], error: type[InputError], message: str) -> None:
    with pytest.raises(error, match=message):
        from_frame(frame, **options)


@pytest.mark.parametrize("role", ["label", "score"])
def test_missing_numbers_are_counted_and_located(frame: pd.DataFrame, role: str) -> None:
    frame.loc[[3, 5], "score"] = np.nan
    with pytest.raises(InputError, match=r"'score' (has|holds) 2 .*first at row 3"):
        from_frame(frame, attributes=["sex"], **{role: "score"})


def test_missing_text_label_is_an_error_even_with_a_positive_value(frame: pd.DataFrame) -> None:
    frame.loc[4, "outcome"] = None
    with pytest.raises(InputError, match=r"1 missing values \(first at row 4\)"):
        from_frame(frame, attributes=["sex"], label="outcome", positive_label="yes")


def test_numeric_and_boolean_labels_are_taken_as_they_are(frame: pd.DataFrame) -> None:
    hours = from_frame(frame, attributes="sex", label="hours").labels
    late = from_frame(frame.assign(late=frame["age"] > 40), attributes="sex", label="late").labels
    assert hours is not None
    assert late is not None
    assert hours.tolist() == frame["hours"].tolist()
    assert late.tolist() == [0, 0, 0, 1, 1, 1]


def test_single_valued_attribute_is_an_error(frame: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="attribute 'sex' has the single value 'F'"):
        from_frame(frame.assign(sex="F"), attributes=["sex"])


def test_frame_of_another_kind_or_empty() -> None:
    with pytest.raises(InputError, match="must be a frame of pandas or polars, .*; got dict"):
        from_frame({"sex": ["a"]}, attributes="sex")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"got shape \(0, 1\)"):
        from_frame(pd.DataFrame({"sex": []}), attributes="sex")


def test_frame_hash_follows_values_names_and_types_but_not_the_index(frame: pd.DataFrame) -> None:
    def sha(table: pd.DataFrame) -> str:
        return from_frame(table, attributes="sex").sha256

    same = frame.copy()
    same.index = pd.Index(range(10, 16))
    changed = frame.copy()
    changed.loc[5, "age"] = 76
    others = [changed, frame.rename(columns={"age": "years"}), frame.astype({"age": float}), frame.iloc[::-1]]
    assert sha(same) == sha(frame)
    assert len({sha(frame), *map(sha, others)}) == 5


def test_frame_hash_is_equal_in_another_process(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = save(frame, tmp_path / "t.parquet")
    code = (
        "import sys; from auditkit.datasets import from_frame, read_table\n"
        "print(from_frame(read_table(sys.argv[1]), attributes='sex').sha256)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == from_frame(read_table(path), attributes="sex").sha256


@pytest.mark.parametrize("rows", [[4, 1], np.array([False, True, False, False, True, False])])
def test_take_keeps_every_role_aligned(frame: pd.DataFrame, rows: object) -> None:
    data = from_frame(frame, attributes=["sex"], label="hours", score="score", features=["age"])
    part = data.take(rows)
    order = [4, 1] if isinstance(rows, list) else [1, 4]
    assert part.n_rows == 2
    assert part.labels is not None
    assert part.scores is not None
    assert part.features is not None
    assert part.labels.tolist() == frame["hours"].iloc[order].tolist()
    assert part.scores.tolist() == frame["score"].iloc[order].tolist()
    assert part.features["age"].tolist() == frame["age"].iloc[order].tolist()
    assert part.attributes["sex"].tolist() == frame["sex"].iloc[order].tolist()
    assert part.sha256 != data.sha256
    assert part.sha256 == data.take(rows).sha256


@pytest.mark.parametrize(
    ("rows", "message"),
    [([0, 6], r"lie in 0…5; got 0…6"), ([-1], "lie in 0…5"), ([0.5], "row numbers"), ([True], r"shape \(6,\)")],
)
def test_take_refuses_rows_that_are_not_there(frame: pd.DataFrame, rows: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_frame(frame, attributes="sex").take(rows)


def test_split_is_repeatable_sorted_and_exact() -> None:
    fractions = {"train": 0.6, "tune": 0.15, "test": 0.25}
    parts = split_rows(1000, fractions=fractions, seed=7)
    again = split_rows(1000, fractions=fractions, seed=7)
    other = split_rows(1000, fractions=fractions, seed=8)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 600, "tune": 150, "test": 250}
    assert all((np.diff(rows) > 0).all() for rows in parts.values())
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    assert not np.array_equal(parts["train"], other["train"])


@given(st.integers(20, 300), st.integers(0, 5), st.integers(1, 4))
def test_every_row_lands_in_one_part_and_strata_keep_their_share(n: int, seed: int, strata: int) -> None:
    codes = np.random.default_rng(seed).integers(0, strata, n)
    parts = split_rows(n, fractions={"a": 0.5, "b": 0.5}, seed=seed, stratify=codes)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(n))
    for code in np.unique(codes):
        assert abs((codes[parts["a"]] == code).sum() - (codes == code).sum() / 2) <= 1


def test_split_refuses_fractions_that_do_not_add_up() -> None:
    with pytest.raises(InputError, match="sum to 1"):
        split_rows(10, fractions={"a": 0.5, "b": 0.4}, seed=0)
    with pytest.raises(InputError, match="positive"):
        split_rows(10, fractions={"a": 1.5, "b": -0.5}, seed=0)
    with pytest.raises(InputError, match="leave b without rows"):
        split_rows(10, fractions={"a": 0.99, "b": 0.01}, seed=0)
    with pytest.raises(InputError, match=r"stratify must have shape \(10,\)"):
        split_rows(10, fractions={"a": 1.0}, seed=0, stratify=np.zeros(3, dtype=np.int64))


def test_adult_counts() -> None:
    data: AuditData = load_table(
        data_path("tabular/adult.parquet"), attributes=["sex", "race"], label="salary", positive_label=">50K"
    )
    assert data.labels is not None
    assert (data.n_rows, int(data.labels.sum())) == (45_222, 11_208)
    assert data.features is not None
    assert not {"sex", "race", "salary"} & set(data.features)


def test_small_business_loans_read_from_csv() -> None:
    data = load_table(
        data_path("tabular/SBAcase.11.13.17.csv"), attributes=["NewExist"], strata=["UrbanRural"], label="Default"
    )
    assert data.labels is not None
    assert data.n_rows == 2_102
    assert set(data.labels) == {0.0, 1.0}


def test_a_header_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("größe,x\n1,2\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"the header of 'latin\.csv' is not UTF-8"):
        read_table(tmp_path / "latin.csv")
