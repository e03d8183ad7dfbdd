"""The same audit from every engine and kind of table; wrong tables are refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

import auditkit as ak
from auditkit.engines import scan
from auditkit.errors import InputError, SchemaError, UntrustedFileError
from auditkit.moments import SUMS

CRITERIA = (
    ak.ECP(("sex", "race"), tolerance=0.05),
    ak.ECP("sex", given="region", tolerance=0.05),
    ak.equalized_odds("race", tolerance=0.05),
    ak.EER("sex", tolerance=0.05),
)
ROLES = {"score": "score", "label": "hired", "threshold": 0.5}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """People with missing attributes, a name that is hostile to SQL, weights and labels."""
    rng = np.random.default_rng(5)
    n = 3000
    sex = rng.choice(np.array(["f", "m", 'x"; DROP TABLE auditkit_rows; --', None], dtype=object), n)
    return pd.DataFrame(
        {
            "sex": sex,
            "race": rng.choice(np.array(["a", "b", "c'", None], dtype=object), n, p=[0.5, 0.3, 0.1, 0.1]),
            "region": rng.integers(1, 4, n),
            "age": rng.integers(16, 80, n).astype(float),
            "score": 0.2 + 0.5 * rng.random(n) + 0.1 * (sex == "f"),
            "hired": rng.integers(0, 2, n),
            "outcome": rng.normal(size=n) * 1e4 + 3e6,
            "people": rng.random(n) * 3,
        }
    )


def reference(table: pd.DataFrame, criteria: Any, *, weight: bool = False, label: str = "hired") -> ak.Moments:
    """The moments from the arrays in memory."""
    return ak.take_moments(
        table.score.to_numpy(), ak.Groups(table[["sex", "race", "region"]]), criteria, labels=table[label].to_numpy(),
        threshold=0.5, weights=table.people.to_numpy() if weight else None,
    )  # fmt: skip


def by_cell(moments: ak.Moments) -> dict[tuple[object, ...], list[float]]:
    """Every sum that does not depend on the shift, by the values of the cell."""
    names = [name for name, factors in SUMS.items() if not any("shift" in factor for factor in factors)]
    cells = range(moments.table.n_cells)
    return {
        tuple(moments.table.value(c, name) for name in sorted(moments.table.names)): [
            getattr(moments, name)[c] for name in names
        ]
        for c in cells
    }


def assert_same_audit(found: ak.Moments, expected: ak.Moments, criteria: Any = CRITERIA) -> None:
    """Equal sums, and equal gaps, standard errors and intervals whatever the shift, to 1e-9."""
    ours, theirs = by_cell(found), by_cell(expected)
    assert ours.keys() == theirs.keys()
    for key, values in theirs.items():
        np.testing.assert_allclose(ours[key], values, rtol=1e-9, atol=1e-9)
    first, second = (ak.evaluate_moments(m, list(criteria), threshold=0.5) for m in (found, expected))
    assert first.verdict == second.verdict
    for one, other in zip(first.findings, second.findings, strict=True):
        assert [gap.name for gap in one.gaps] == [gap.name for gap in other.gaps]
        for a, b in zip(one.gaps, other.gaps, strict=True):
            np.testing.assert_allclose([a.gap, a.standard_error], [b.gap, b.standard_error], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(a.interval, b.interval, rtol=1e-9, atol=1e-12)
    tables = [[group for table in outcome.decisions for group in table.groups] for outcome in (first, second)]
    for one, other in zip(*tables, strict=True):
        assert (one.group, one.count) == (other.group, other.count)
        assert one.selection_rate == pytest.approx(other.selection_rate, rel=1e-9)
        assert one.true_positive_rate == pytest.approx(other.true_positive_rate, rel=1e-9)


def as_parquet(table: pd.DataFrame, folder: Path) -> str:
    table.to_parquet(folder / "rows.parquet", row_group_size=700)
    return str(folder / "rows.parquet")


def as_glob(table: pd.DataFrame, folder: Path) -> str:
    for part in range(3):
        table.iloc[part * 1000 : (part + 1) * 1000].to_parquet(folder / f"part-{part}.parquet")
    return str(folder / "part-*.parquet")


def as_csv(table: pd.DataFrame, folder: Path) -> Path:
    table.to_csv(folder / "rows[1].csv", index=False)  # a name that would be a pattern, were it not a file
    return folder / "rows[1].csv"


def as_feather(table: pd.DataFrame, folder: Path) -> list[str]:
    feather.write_feather(pa.Table.from_pandas(table, preserve_index=False), str(folder / "rows.feather"))
    return [str(folder / "rows.feather")]


def as_pandas(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    del folder
    return table


def as_arrow(table: pd.DataFrame, folder: Path) -> pa.Table:
    del folder
    return pa.Table.from_pandas(table, preserve_index=False)


def as_polars(table: pd.DataFrame, folder: Path) -> Any:
    del folder
    return pytest.importorskip("polars").from_pandas(table)


KINDS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "parquet": as_parquet,
    "glob": as_glob,
    "csv": as_csv,
    "feather": as_feather,
    "pandas": as_pandas,
    "arrow": as_arrow,
    "polars": as_polars,
}


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    from auditkit.engines.spark_engine import start_local_session

    session = start_local_session()
    yield session
    session.stop()


@pytest.mark.parametrize("weight", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_gives_the_same_audit(table: pd.DataFrame, tmp_path: Path, kind: str, weight: bool) -> None:
    found = scan(KINDS[kind](table, tmp_path), CRITERIA, **ROLES, weight="people" if weight else None)
    assert_same_audit(found, reference(table, CRITERIA, weight=weight))


@pytest.mark.spark
@pytest.mark.parametrize("weight", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", ["frame", "parquet", "csv"])
def test_spark_gives_the_same_audit(spark: Any, table: pd.DataFrame, tmp_path: Path, kind: str, weight: bool) -> None:
    rows = spark.read.parquet(as_parquet(table, tmp_path)) if kind == "frame" else None
    if kind == "csv":
        table.to_csv(tmp_path / "rows.csv", index=False)
        rows = str(tmp_path / "rows.csv")
    rows = str(as_parquet(table, tmp_path)) if rows is None else rows
    weights = "people" if weight else None
    found = scan(rows, CRITERIA, **ROLES, weight=weights, engine="spark")
    assert_same_audit(found, reference(table, CRITERIA, weight=weight))
    assert found.to_dict() == scan(table, CRITERIA, **ROLES, weight=weights).to_dict()  # to the last bit


@pytest.mark.spark
def test_spark_refuses_scores_that_are_no_numbers(spark: Any, table: pd.DataFrame) -> None:
    rows = spark.createDataFrame([("f", float("nan")), ("m", 0.5), ("m", 0.5)], ["sex", "score"])
    with pytest.raises(InputError, match="score column 'score' of the Spark frame holds 1 missing, NaN or infinite"):
        scan(rows, ak.ECP("sex", tolerance=0.1), score="score")
    with pytest.raises(SchemaError, match="score column 'sex' of the Spark frame holds string"):
        scan(rows, ak.ECP("sex", tolerance=0.1), score="sex")


def test_the_same_scan_gives_the_same_bits_on_any_number_of_threads(table: pd.DataFrame, tmp_path: Path) -> None:
    from auditkit.engines.duckdb_engine import DuckDBEngine
    from auditkit.engines.scanning import _Scan
    from auditkit.engines.statements import Roles

    big = pd.concat([table] * 40, ignore_index=True)
    big["score"] = np.random.default_rng(1).normal(size=len(big)) * 10.0 ** np.arange(-8, 8)[np.arange(len(big)) % 16]
    path, texts = as_parquet(big, tmp_path), set()
    keys = {name: (name, None) for name in ("sex", "race", "region")}
    roles = Roles("score", "hired", weight="people", threshold=0.5, keys=keys)
    for threads in (1, 2, 2, 4):
        with DuckDBEngine(path, threads=threads) as engine:
            moments = _Scan(engine, CRITERIA, roles).moments()
        texts.add(json.dumps(moments.to_dict()))
    assert len(texts) == 1


@given(seed=st.integers(0, 10**6), scale=st.integers(-12, 12), weighted=st.booleans())
def test_sums_are_exact_at_any_scale(seed: int, scale: int, weighted: bool) -> None:
    from math import fsum

    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 300))
    frame = pd.DataFrame({"g": rng.integers(0, 3, n), "z": rng.normal(size=n) * 10.0**scale, "w": rng.random(n)})
    frame.loc[0, "z"] *= 1e6
    moments = scan(frame, ak.EER("g", tolerance=1), score="z", label="z", weight="w" if weighted else None)
    w = frame.w if weighted else np.ones(n)
    for cell in range(moments.table.n_cells):
        rows = frame.g == moments.table.value(cell, "g")
        squares = (w * (frame.z - moments.shift) * (frame.z - moments.shift))[rows]
        rounding = 2.0**-52 * rows.sum() * (w * frame.z).abs().max()
        assert moments.score[cell] == pytest.approx(fsum((w * frame.z)[rows]), rel=1e-12, abs=rounding)
        assert moments.score2[cell] == pytest.approx(fsum(squares), rel=1e-12)
        assert moments.absolute[cell] == 0


def test_values_that_the_first_rows_did_not_foretell_are_summed(tmp_path: Path) -> None:
    n = 30_000
    score = np.where(np.arange(n) < 20_000, 1e-3, 1e12)
    frame = pd.DataFrame({"g": np.arange(n) % 2, "z": score, "y": np.where(np.arange(n) < 20_000, 0, 7)})
    moments = scan(frame, ak.ECP("g", tolerance=1), score="z", label="y", threshold=0.5)
    assert moments.score.tolist() == [pytest.approx(score[g::2].sum(), rel=1e-15) for g in (0, 1)]
    assert moments.table.names == ("g",)  # the labels turned out not to be binary
    assert moments.label.tolist() == [35_000, 35_000]


def test_labels_that_turn_out_continuous_cannot_be_strata() -> None:
    n = 30_000
    frame = pd.DataFrame({"g": np.arange(n) % 2, "z": 0.5, "y": np.where(np.arange(n) < 20_000, 0, np.arange(n))})
    with pytest.raises(InputError, match=r"label column 'y' has at least \d+ different values, too many"):
        scan(frame, ak.equalized_odds("g", tolerance=1), score="z", label="y")


def test_labels_of_several_values_are_strata() -> None:
    frame = pd.DataFrame({"g": [0, 1] * 30, "z": np.linspace(0, 1, 60), "y": np.arange(60) // 20})
    criteria = [ak.equalized_odds("g", tolerance=1)]
    expected = ak.take_moments(frame.z, ak.Groups(frame[["g"]]), criteria, labels=frame.y, threshold=0.5)
    found = scan(frame, criteria, score="z", label="y", threshold=0.5)
    assert by_cell(found) == {key: pytest.approx(values) for key, values in by_cell(expected).items()}


def test_bins_are_those_of_the_data_sets(table: pd.DataFrame) -> None:
    frame = table.assign(age=table.age.where(table.age != 20))
    spec = {"band": {"column": "age", "bins": [18, 30, 90, 100]}}
    criteria = [ak.ECP("band", tolerance=0.1)]
    data = ak.from_frame(frame, attributes=[spec], score="score", label="hired")
    expected = ak.take_moments(data.scores, data.groups, criteria, labels=data.labels, threshold=0.5)
    found = scan(frame, criteria, **ROLES, attributes=[spec])
    assert found.table.categories == expected.table.categories
    assert found.table.categories[0] == ("<18", "[18, 30)", "[30, 90)", "[90, 100)", "(missing)")
    assert_same_audit(found, expected, criteria)


@pytest.mark.parametrize("kind", ["pandas", "parquet", "feather"])
def test_declared_groups_without_rows_are_kept(table: pd.DataFrame, tmp_path: Path, kind: str) -> None:
    declared = pd.Categorical(table.race.fillna("a"), categories=["c'", "b", "a", "d"])
    found = scan(KINDS[kind](table.assign(race=declared), tmp_path), [ak.ECP("race", tolerance=1)], score="score")
    assert found.table.categories == (("c'", "b", "a", "d"),)
    assert ak.evaluate_moments(found, [ak.ECP("race", tolerance=1)]).findings[0].missing == ("d",)


def test_a_text_label_counts_its_positive_value(table: pd.DataFrame) -> None:
    texts = table.assign(hired=np.where(table.hired == 1, "yes' OR 1=1 --", "no"))
    found = scan(texts, CRITERIA, score="score", label="hired", positive_label="yes' OR 1=1 --", threshold=0.5)
    assert_same_audit(found, reference(table, CRITERIA))
    with pytest.raises(
        InputError, match="positive_label 'maybe' never occurs in column 'hired'; values: \"yes' OR 1=1 --\", 'no'"
    ):
        scan(texts, CRITERIA, score="score", label="hired", positive_label="maybe")


def test_decisions_can_be_a_column(table: pd.DataFrame) -> None:
    decided = table.assign(decision=table.score >= 0.5)
    found = scan(decided, CRITERIA, score="score", label="hired", decision="decision")
    assert_same_audit(found, reference(table, CRITERIA))


def test_column_names_never_reach_a_statement(table: pd.DataFrame, tmp_path: Path) -> None:
    hostile = 'score" FROM auditkit_rows; DROP VIEW auditkit_rows; --'
    renamed = table.rename(columns={"score": hostile, "sex": "Sex", "race": "sex"}).assign(SCORE="text")
    for rows in (renamed, as_parquet(renamed, tmp_path), as_csv(renamed, tmp_path)):
        found = scan(rows, [ak.ECP("Sex", tolerance=1)], score=hostile)
        expected = ak.take_moments(table.score, ak.Groups({"Sex": table.sex}), [ak.ECP("Sex", tolerance=1)])
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {"score": [0.1, np.nan, 0.3, np.inf]},
            {},
            "score column 'score' .* 2 missing, NaN .* .first at row 1",
        ),
        ({"score": [0.1, np.nan, 0.3, 0.4]}, {}, "score column 'score' .* holds 1 missing, NaN or infinite values"),
        ({"y": [0, 1, np.nan, 1]}, {"label": "y"}, "label column 'y' .* holds 1 missing, NaN or infinite values"),
        ({"y": ["a", "b", "a", "b"]}, {"label": "y"}, "label column 'y' .* holds VARCHAR; pass positive_label"),
        ({"w": [1, 1, -1, 1.0]}, {"weight": "w"}, "weight column 'w' must be non-negative; it holds -1"),
        ({"w": [0, 0, 0, 0]}, {"weight": "w"}, "weight column 'w' is zero in every row"),
        (
            {},
            {"score": "sex"},
            "score column 'sex' .* holds VARCHAR; name a column of numbers; the table has: sex, score",
        ),
        ({}, {"score": "scor"}, r"score names column 'scor', which the table lacks \(did you mean 'score'\?\)"),
        ({}, {"weight": "x"}, "weight names column 'x', which the table lacks; it has: sex, score"),
        ({}, {"engine": "dask"}, 'engine must be "duckdb" or "spark"; got \'dask\''),
    ],
)
def test_wrong_tables_are_refused(changes: dict[str, Any], options: dict[str, Any], message: str) -> None:
    frame = pd.DataFrame({"sex": list("ffmm"), "score": [0.1, 0.2, 0.3, 0.4], **changes})
    with pytest.raises(InputError, match=message):
        scan(frame, ak.ECP("sex", tolerance=0.1), **{"score": "score", **options})


def test_wrong_requests_are_refused(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"label is needed by equalized odds\(sex\)|label is needed by"):
        scan(table, ak.equalized_odds("sex", tolerance=0.1), score="score")
    with pytest.raises(SchemaError, match="attributes names column 'gender', which the table lacks"):
        scan(table, ak.ECP("gender", tolerance=0.1), score="score")
    with pytest.raises(
        SchemaError, match="attribute 'band': only numeric columns can be cut into bins; 'sex' is VARCHAR"
    ):
        scan(table, ak.ECP("band", tolerance=0.1), score="score", attributes=[{"band": {"column": "sex", "bins": [1]}}])
    with pytest.raises(InputError, match="there is no file 'nowhere-"):
        scan("nowhere-*.parquet", ak.ECP("sex", tolerance=0.1), score="score")
    (tmp_path / "model.pkl").write_bytes(b"x")
    with pytest.raises(UntrustedFileError, match="is a pickle"):
        scan(tmp_path / "model.pkl", ak.ECP("sex", tolerance=0.1), score="score")
    with pytest.raises(InputError, match="table must be a path, a glob pattern, or a frame"):
        scan({"sex": [1]}, ak.ECP("sex", tolerance=0.1), score="score")
    (tmp_path / "rows.csv").write_text("sex,score\nf,0.1\nm\n")
    with pytest.raises(InputError, match="rows.csv' .*cannot be read"):
        scan(tmp_path / "rows.csv", ak.ECP("sex", tolerance=0.1), score="score")
    (tmp_path / "torn.parquet").write_bytes(Path(as_parquet(table, tmp_path)).read_bytes()[:-40])
    with pytest.raises(InputError, match="torn.parquet' cannot be read"):
        scan(tmp_path / "torn.parquet", ak.ECP("sex", tolerance=0.1), score="score")
    table.head(0).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="empty.parquet' has columns but no rows"):
        scan(tmp_path / "empty.parquet", ak.ECP("sex", tolerance=0.1), score="score")
    with pytest.raises(InputError, match="several kinds"):
        scan([tmp_path / "rows.csv", tmp_path / "rows.parquet"], ak.ECP("sex", tolerance=0.1), score="score")
