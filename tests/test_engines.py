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
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

import auditkit as ak
from auditkit._tables import hash_file
from auditkit.decisions import decide
from auditkit.engines import Roles, scan, scan_table
from auditkit.engines.duckdb_engine import DuckDBEngine
from auditkit.engines.scanning import SAMPLE_ROWS
from auditkit.errors import InputError, SchemaError, UntrustedFileError
from auditkit.margins import BIN_EDGES, SCORE_BIN
from auditkit.moments import SUMS
from auditkit.table_roles import Key

CRITERIA = (
    ak.ECP(("sex", "race"), tolerance=0.05),
    ak.ECP("sex", given="region", tolerance=0.05),
    ak.equalized_odds("race", tolerance=0.05),
    ak.EER("sex", tolerance=0.05),
)
ROLES = {"score": "score", "label": "hired", "threshold": 0.5}
KEYS = {name: Key(name, name) for name in ("sex", "race", "region")}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"threshold": 0.5},
    "weighted": {"threshold": 0.5, "weight": "people"},
    "clustered": {"threshold": 0.5, "weight": "people", "clusters": "person"},
    "decided": {"decision": "invited", "clusters": "name"},
    "median": {"threshold": "median", "score": "rounded"},
    "top share": {"threshold": "top 5%", "weight": "people"},
    "tied places": {"threshold": "top 100", "score": "rounded", "clusters": "person"},
}
"""What a scan may be asked for."""


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
            "person": rng.integers(0, n // 3, n),
        }
    ).assign(
        rounded=lambda frame: frame.score.round(2),
        invited=lambda frame: (frame.score > 0.4) & (frame.region > 1),
        name=lambda frame: "person " + frame.person.astype(str),
    )


def reference(
    table: pd.DataFrame, criteria: Any, *, score: str = "score", weight: str | None = None, clusters: str | None = None,
    decision: str | None = None, threshold: float | str | None = None,
) -> ak.Moments:  # fmt: skip
    """The moments from the arrays in memory."""
    columns = {"decisions": decision, "weights": weight, "clusters": clusters}
    given = {role: table[name].to_numpy() for role, name in columns.items() if name is not None}
    return ak.take_moments(
        table[score].to_numpy(), ak.Groups(table[["sex", "race", "region"]]), criteria, labels=table.hired.to_numpy(),
        threshold=threshold, **given,
    )  # fmt: skip


def gram_by_cell(moments: ak.Moments) -> np.ndarray[Any, Any]:
    """The sums over clusters with the cells in the order of their values."""
    cells, size = by_cell(moments), moments.table.n_cells
    order = sorted(range(size), key=lambda c: str(list(cells)[c]))
    assert moments.gram is not None
    return moments.gram.reshape(4, size, 4, size)[:, order][:, :, :, order]


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


def assert_same_sums(found: ak.Moments, expected: ak.Moments) -> None:
    """Equal sums, also over clusters, to 1e-9."""
    ours, theirs = by_cell(found), by_cell(expected)
    assert ours.keys() == theirs.keys()
    for key, values in theirs.items():
        np.testing.assert_allclose(ours[key], values, rtol=1e-9, atol=1e-9)
    assert (found.gram is None) == (expected.gram is None)
    if expected.gram is not None:
        moved = expected.with_shift(found.shift)
        np.testing.assert_allclose(gram_by_cell(found), gram_by_cell(moved), rtol=1e-9, atol=1e-9)


def assert_same_audit(found: ak.Moments, expected: ak.Moments, criteria: Any = CRITERIA) -> None:
    """Equal sums, and equal gaps, standard errors and intervals whatever the shift, to 1e-9."""
    assert_same_sums(found, expected)
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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_gives_the_same_audit(table: pd.DataFrame, tmp_path: Path, kind: str, case: str) -> None:
    asked = {"score": "score", **CASES[case]}
    found = scan(KINDS[kind](table, tmp_path), CRITERIA, label="hired", **asked)
    (assert_same_audit if kind == "parquet" else assert_same_sums)(found, reference(table, CRITERIA, **asked))


@pytest.mark.spark
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["frame", "parquet", "csv"])
def test_spark_gives_the_same_audit(spark: Any, table: pd.DataFrame, tmp_path: Path, kind: str, case: str) -> None:
    rows = spark.read.parquet(as_parquet(table, tmp_path)) if kind == "frame" else None
    if kind == "csv":
        table.to_csv(tmp_path / "rows.csv", index=False)
        rows = str(tmp_path / "rows.csv")
    rows = str(as_parquet(table, tmp_path)) if rows is None else rows
    asked = {"score": "score", **CASES[case]}
    found = scan(rows, CRITERIA, label="hired", **asked, engine="spark")
    assert_same_audit(found, reference(table, CRITERIA, **asked))
    assert found.to_dict() == scan(table, CRITERIA, label="hired", **asked).to_dict()  # to the last bit


@pytest.mark.spark
def test_spark_refuses_scores_that_are_no_numbers(spark: Any, table: pd.DataFrame) -> None:
    rows = spark.createDataFrame([("f", float("nan")), ("m", 0.5), ("m", 0.5)], ["sex", "score"])
    with pytest.raises(InputError, match="score column 'score' of the Spark frame holds 1 missing, NaN or infinite"):
        scan(rows, ak.ECP("sex", tolerance=0.1), score="score")
    with pytest.raises(SchemaError, match="score column 'sex' of the Spark frame holds string"):
        scan(rows, ak.ECP("sex", tolerance=0.1), score="sex")


def test_the_same_scan_gives_the_same_bits_on_any_number_of_threads(table: pd.DataFrame, tmp_path: Path) -> None:
    from auditkit.engines.scanning import _Scan

    big = pd.concat([table] * 40, ignore_index=True)
    big["score"] = np.random.default_rng(1).normal(size=len(big)) * 10.0 ** np.arange(-8, 8)[np.arange(len(big)) % 16]
    path, texts = as_parquet(big, tmp_path), set()
    roles = Roles("score", "hired", weight="people", threshold="top 5%", cluster="person", keys=KEYS)
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


@given(
    seed=st.integers(0, 10**6),
    rule=st.sampled_from(["median", "top 1", "top 7", "top 30%", "top 100%"]),
    kind=st.sampled_from(["tied", "plain", "wide", "constant"]),
)
@settings(max_examples=25)
def test_rules_cut_where_they_do_in_memory(seed: int, rule: str, kind: str) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(7, 200))
    wide = rng.normal(size=n) * 10.0 ** rng.integers(-300, 300, n)
    scores = {
        "tied": rng.integers(-3, 4, n) / 2.0, "plain": rng.normal(size=n), "wide": wide, "constant": np.full(n, 0.3),
    }[kind]  # fmt: skip
    expected, cut = decide(scores, rule), cut_of(scores, rule, fetched=int(rng.integers(1, 40)))
    assert (cut.threshold, cut.rule) == (expected.threshold, expected.rule)
    made = (scores > cut.threshold) + (scores == cut.threshold) * cut.share
    assert made.tolist() == expected.values.tolist()


def cut_of(scores: np.ndarray[Any, Any], rule: str, *, fetched: int) -> Any:
    """Where a scan cuts scores, with a few misleading first rows, when it may fetch few of them."""
    from auditkit.engines import cuts
    from auditkit.engines.statements import Roles, select_rows

    with DuckDBEngine(pd.DataFrame({"z": scores})) as engine, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "FETCHED_ROWS", fetched)
        rows = select_rows(Roles("z"), engine.bind(["z"]), ())
        return cuts.find_cut(engine, rows, rule, np.sort(scores)[:3], refuse=lambda: pytest.fail("refused"))


def test_a_scan_states_where_it_cut(table: pd.DataFrame, tmp_path: Path) -> None:
    found = scan_table(as_parquet(table, tmp_path), CRITERIA, Roles("rounded", "hired", threshold="top 5%", keys=KEYS))
    made = decide(table.rounded.to_numpy(), "top 5%")
    assert found.cut is not None
    assert (found.cut.threshold, found.cut.rule) == (made.threshold, made.rule)
    assert found.sha256 == hash_file(tmp_path / "rows.parquet")
    assert found.counts["region"] == table.region.value_counts().to_dict()


def test_clusters_larger_than_the_first_rows_foretold_are_summed() -> None:
    n = 30_000
    score = np.where(np.arange(n) < 20_000, 1e-3, 1e12)
    frame = pd.DataFrame({"g": np.arange(n) % 2, "z": score, "person": np.arange(n) // 3})
    criterion = [ak.ECP("g", tolerance=1)]
    found = scan(frame, criterion, score="z", clusters="person")
    expected = ak.take_moments(frame.z, ak.Groups(frame[["g"]]), criterion, clusters=frame.person)
    np.testing.assert_allclose(gram_by_cell(found), gram_by_cell(expected.with_shift(found.shift)), rtol=1e-9)


def test_more_cells_than_clusters_can_have_are_refused() -> None:
    frame = pd.DataFrame({"g": np.arange(600), "z": 0.5, "person": 1})
    with pytest.raises(InputError, match="clusters can be told apart over at most 500 combinations of values; got 600"):
        scan(frame, ak.ECP("g", tolerance=1), score="z", clusters="person")


@pytest.mark.parametrize("stored", ["float64", "Int64"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "feather", "pandas", "arrow", "polars"])
def test_whole_numbers_name_their_groups_alike(tmp_path: Path, kind: str, stored: str) -> None:
    rows = pd.DataFrame({"region": [1, 2, None, 2, 1, None], "score": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]})
    rows = rows.astype({"region": stored})  # written to csv as 1.0 or as 1
    given = KINDS[kind](rows, tmp_path)
    found = scan(given, ak.ECP("region", tolerance=1), score="score")
    loaded = [found.table.categories[0], ak.Groups(rows[["region"]]).categories("region")]
    if kind in ("csv", "parquet"):
        loaded.append(ak.load_table(given, attributes="region", score="score").groups.categories("region"))
    assert {str(values) for values in loaded} == {"(1, 2, '(missing)')"}


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
    assert_same_audit(found, reference(table, CRITERIA, threshold=0.5))
    with pytest.raises(
        InputError, match="positive_label 'maybe' never occurs in column 'hired'; values: \"yes' OR 1=1 --\", 'no'"
    ):
        scan(texts, CRITERIA, score="score", label="hired", positive_label="maybe")


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
        ({}, {"engine": "pandas"}, "got 'pandas'; a table that is read whole into memory is auditkit.load_table's"),
        ({"d": [0, 1, 2, 1]}, {"decision": "d"}, "decision column 'd' must hold 0 and 1, or probabilities; it holds 2"),
        ({"d": list("abab")}, {"decision": "d"}, "decision column 'd' .* holds VARCHAR; name a column of numbers"),
        (
            {"d": [0, 1, 0, 1]},
            {"decision": "d", "threshold": 0.5},
            "threshold is 0.5, and decision names the column 'd'",
        ),
        ({"p": [1, 2, None, None]}, {"clusters": "p"}, "cluster column 'p' .* holds 2 missing values; give every row"),
        ({"p": ["a", None, "b", "c"]}, {"clusters": "p"}, "cluster column 'p' .* holds 1 missing values; give every"),
        ({}, {"clusters": "who"}, "cluster names column 'who', which the table lacks"),
        ({}, {"threshold": "top 5"}, 'threshold must be .* "top K" with 1 ≤ K ≤ 4 rows, or "top P%"; got \'top 5\''),
        ({}, {"threshold": "best"}, 'threshold must be .* "top K" such as "top 100", or "top P%"; got \'best\''),
        ({"score": [0.1, 0.2, np.nan, 0.4]}, {"threshold": "median"}, "score column 'score' .* holds 1 missing, NaN"),
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


@pytest.mark.parametrize("weighted", [False, True])
def test_a_table_audited_where_it_is_has_the_reliability_curves_of_its_rows(tmp_path: Path, weighted: bool) -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"g": rng.choice(["a", "b"], 500), "z": rng.random(500).round(2), "w": rng.random(500)})
    frame["y"] = (rng.random(500) < frame.z).astype(int)
    path = tmp_path / "table.parquet"
    frame.to_parquet(path)
    weight = "w" if weighted else None
    roles = Roles("z", "y", weight=weight, threshold=0.5, keys={"g": Key("g", "g")})
    criteria = [ak.ECP("g", tolerance=0.1)]
    scanned = scan_table(path, criteria, roles)
    found = ak.evaluate_moments(scanned.moments, criteria, threshold=0.5, bins=scanned.bins)
    direct = ak.audit(
        frame.z, ak.Groups(frame[["g"]]), criteria, labels=frame.y, threshold=0.5, weights=frame.w if weighted else None
    )
    assert len(found.reliability[0].groups[0].bins) == 10
    for one, other in zip(found.reliability[0].groups, direct.reliability[0].groups, strict=True):
        assert one.calibration_error == pytest.approx(other.calibration_error, abs=1e-12)
        assert [each.count for each in one.bins] == [each.count for each in other.bins]
        assert [each.interval for each in one.bins] == [pytest.approx(each.interval, abs=1e-9) for each in other.bins]
    assert found.moments.table.names == direct.moments.table.names


def test_scores_that_are_no_probabilities_have_no_reliability_curve(tmp_path: Path) -> None:
    frame = pd.DataFrame({"g": ["a", "b"] * 50, "z": np.linspace(0, 1, 100), "y": [0, 1] * 50})
    frame.loc[99, "z"] = 1.5
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    scanned = scan_table(path, [ak.ECP("g", tolerance=0.1)], Roles("z", "y", keys={"g": Key("g", "g")}))
    assert scanned.bins is None
    assert scanned.moments.count.sum() == 100


def test_score_bins_end_at_their_edges() -> None:
    edges, rng = np.array(BIN_EDGES), np.random.default_rng(0)
    scores = np.concatenate([[0.0, 1.0, 0.5], edges, np.nextafter(edges, 0), np.nextafter(edges, 1), rng.random(500)])
    hired = rng.integers(0, 2, len(scores))
    frame = pd.DataFrame({"sex": ["f", "m"] * (len(scores) // 2), "score": scores, "hired": hired})
    roles = Roles("score", "hired", keys={"sex": Key("sex", "sex")})
    bins = scan_table(frame, [ak.ECP("sex", tolerance=0.1)], roles).bins
    assert bins is not None
    place = np.searchsorted(edges, scores, side="right")
    column = bins.table.names.index(SCORE_BIN)
    found = np.array([bins.table.categories[column][code] for code in bins.table.codes[:, column]])
    for number in range(10):
        assert bins.count[found == number].sum() == (place == number).sum()
        assert bins.score[found == number].sum() == pytest.approx(scores[place == number].sum(), rel=1e-12)


def test_scores_outside_the_unit_interval_behind_the_first_rows_have_no_bins() -> None:
    rng, late = np.random.default_rng(0), [1.0, -0.05, -3.7, 1.2, 40.0, -1e9, 5e7]
    scores = np.concatenate([rng.random(SAMPLE_ROWS), late])
    labels, group = rng.integers(0, 2, len(scores)).astype(float), rng.integers(0, 2, len(scores))
    criteria = [ak.equalized_odds("g", tolerance=0.1)]
    roles = Roles("z", "y", keys={"g": Key("g", "g")})
    scanned = scan_table(pd.DataFrame({"z": scores, "y": labels, "g": group}), criteria, roles)
    assert scanned.bins is None
    expected = ak.take_moments(scores, ak.Groups({"g": group}), criteria, labels=labels)
    for name in ("score", "absolute", "outside"):
        assert getattr(scanned.moments, name).sum() == pytest.approx(getattr(expected, name).sum(), rel=1e-9)


@pytest.mark.parametrize(("column", "role"), [("z", "score"), ("y", "label")])
@pytest.mark.parametrize("missing", [None, np.nan, np.inf])
def test_unusable_values_behind_the_first_rows_are_refused(column: str, role: str, missing: float | None) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"z": rng.random(SAMPLE_ROWS + 3), "g": rng.integers(0, 2, SAMPLE_ROWS + 3)})
    frame["y"] = rng.integers(0, 2, SAMPLE_ROWS + 3).astype(float)
    table = pa.Table.from_pandas(frame)
    values = [*frame[column].iloc[:-1], missing]
    table = table.set_column(table.column_names.index(column), column, pa.array(values, type=pa.float64()))
    roles = Roles("z", "y", threshold=0.5, keys={"g": Key("g", "g")})
    with pytest.raises(InputError, match=f"{role} column '{column}' of the Table holds 1 missing, NaN or infinite"):
        scan_table(table, [ak.equalized_odds("g", tolerance=0.1)], roles)


def test_small_terms_of_a_bin_are_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, rng = 20_000, np.random.default_rng(0)
    hired = rng.integers(0, 2, rows)
    frame = pd.DataFrame({"sex": rng.choice(["f", "m"], rows), "score": rng.random(rows), "hired": hired})
    asked, query = [], DuckDBEngine.query
    monkeypatch.setattr(DuckDBEngine, "query", lambda self, *given: asked.append(given[0]) or query(self, *given))
    roles = Roles("score", "hired", threshold=0.5, keys={"sex": Key("sex", "sex")})
    scan_table(frame, [ak.equalized_odds("sex", tolerance=0.1)], roles)
    assert sum("GROUP BY" in text for text in asked) == 1  # the fourth powers near 0 need no second pass
