"""Attributes as expressions: one language, the same groups in memory and on every engine, and nothing is run."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import auditkit as ak
from auditkit.engines import scan
from auditkit.errors import SchemaError
from auditkit.expression_values import evaluate
from auditkit.expressions import parse_expression

TEXTS = (
    "age >= 65",
    "18 <= age < 65 and not retired",
    'tongue in ["de", "gsw"]',
    'tongue not in ("de", "fr") or retired',
    '"urban" if density > 300 else "rural"',
    "income / persons < 12000",
    "(income - 1000) * persons > -age",
    'tongue == "de" if age > 40 else retired',
    "is_missing(tongue) or is_missing(income / persons)",
    'column("home town") != tongue',
    "retired == True",
    '"it\'s; DROP TABLE auditkit_rows --" if retired else tongue',
    "persons + 1",
)


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 800
    frame = pd.DataFrame(
        {
            "age": rng.integers(15, 95, n),
            "retired": rng.random(n) < 0.3,
            "tongue": rng.choice(["de", "fr", "gsw", "it"], n),
            "home town": rng.choice(["de", "fr"], n),
            "density": rng.choice([10.0, 300.0, 301.0, np.nan, np.inf], n),
            "income": rng.choice([0.0, 9_000.0, 24_000.0, np.nan], n),
            "persons": rng.integers(0, 4, n),
            "score": rng.random(n),
        }
    )
    frame.loc[rng.random(n) < 0.1, "tongue"] = None
    return frame


def counts(frame: pd.DataFrame, text: str, *, engine: str, table: Any) -> dict[Any, int]:
    """Rows by group, as the engine names the groups."""
    spec = [{"key": {"expression": text}}]
    if engine == "pandas":
        groups = ak.from_frame(frame, attributes=spec, score="score").groups
        names, sizes = groups.categories("key"), np.bincount(groups.codes("key"))
    else:
        moments = scan(table, [ak.ECP("key", tolerance=0.1)], score="score", attributes=spec, engine=engine)
        names, sizes = moments.table.categories[0], moments.count[np.argsort(moments.table.codes[:, 0])]
    return {str(name): int(size) for name, size in zip(names, sizes, strict=True)}


@pytest.mark.parametrize("text", TEXTS)
def test_the_engine_finds_the_groups_found_in_memory(people: pd.DataFrame, tmp_path: Path, text: str) -> None:
    people.to_parquet(tmp_path / "people.parquet")
    whole = counts(people, text, engine="pandas", table=people)
    assert whole == counts(people, text, engine="duckdb", table=tmp_path / "people.parquet")
    assert len(whole) > 1
    assert sum(whole.values()) == len(people)


@pytest.mark.spark
def test_spark_finds_the_same_groups(people: pd.DataFrame, tmp_path: Path) -> None:
    people.to_parquet(tmp_path / "people.parquet")
    for text in TEXTS:
        whole = counts(people, text, engine="pandas", table=people)
        assert whole == counts(people, text, engine="spark", table=tmp_path / "people.parquet"), text


numbers = st.recursive(
    st.sampled_from(["a", "b", "c", "2", "-1", "0.5"]),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=4,
)
booleans = st.recursive(
    st.tuples(numbers, st.sampled_from(["<", "<=", "==", "!=", ">"]), numbers).map(" ".join)
    | st.just('t in ["x", "y"]')
    | numbers.map(lambda number: f"is_missing({number})"),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | inner.map(lambda t: f"(not ({t}))")
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(booleans)
def test_sqlite_agrees_on_every_condition(text: str) -> None:
    if not set("abct") & set(text.replace("is_missing", "").replace("not", "").replace("and", "")):
        return
    try:
        expression = parse_expression(text)
    except SchemaError as error:
        assert "reads no column" in str(error)  # noqa: PT017
        return
    values = [None, -1.0, 0.0, 2.0]
    rows = [(a, b, c, t) for a in values for b in values for c in (None, 0.5) for t in (None, "x", "z")]
    frame = pd.DataFrame(rows, columns=["a", "b", "c", "t"]).astype({"a": float, "b": float, "c": float})
    found = [None if pd.isna(value) else bool(value) for value in evaluate(expression, frame)]
    sql = text.replace("is_missing(", "is_missing (").replace("==", "=").replace('["x", "y"]', "('x', 'y')")
    database = sqlite3.connect(":memory:")
    database.create_function("is_missing", 1, lambda value: value is None)
    database.execute("CREATE TABLE rows (a REAL, b REAL, c REAL, t TEXT)")
    database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", rows)
    expected = [None if value is None else bool(value) for (value,) in database.execute(f"SELECT {sql} FROM rows")]
    assert found == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", r"is a call, which no expression may hold; it may hold columns, numbers"),
        ("age.real > 3", "'age.real' is Attribute"),
        ("[x for x in age]", "is ListComp"),
        ("lambda: age", "is Lambda"),
        ("age ** 9999999", "is BinOp"),
        ("age[0] > 1", "is Subscript"),
        ("tongue is None", "write == or is_missing"),
        ("tongue == None", "is_missing.* asks for missing values"),
        ("tongue in other", "in without a list of values"),
        ("age >", "is no expression"),
        ("a; b", "is no expression"),
        ("1 < 2", "reads no column"),
        ("", "an expression is text such as"),
        ("age > 1 or " * 300 + "age > 2", "more than 2000 characters"),
        ("not " * 480 + "age", "nested more than 50 deep"),
    ],
)
def test_what_is_not_in_the_language_is_refused(text: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        parse_expression(text).check({"age": "number"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tongue > age", "'>' mixes text and number"),
        ("tongue > tongue", "> compares numbers, and got text"),
        ("age and retired", "column 'age' is number where boolean is needed"),
        ("age in ['x']", "'in' mixes number and text"),
        ("tongue if retired else age", "'if' mixes text and number"),
        ("-tongue > 1", "column 'tongue' is text where number is needed"),
        (
            "agee > 1",
            r"'agee', which the table lacks \(did you mean 'age'\?\); it has: age, retired",
        ),
    ],
)
def test_kinds_are_checked_before_a_row_is_read(people: pd.DataFrame, text: str, message: str) -> None:
    spec = [{"key": {"expression": text}}]
    with pytest.raises(SchemaError, match=message):
        ak.from_frame(people, attributes=spec, score="score")
    with pytest.raises(SchemaError, match=message):
        scan(people, [ak.ECP("key", tolerance=0.1)], score="score", attributes=spec)


def test_an_audit_file_takes_expressions_and_points_at_their_mistakes(people: pd.DataFrame, tmp_path: Path) -> None:
    people.to_csv(tmp_path / "people.csv", index=False)
    text = (
        "data:\n  path: people.csv\n  score: score\n  attributes:\n    age_band: {column: age, bins: [25, 40, 60]}\n"
        '    german: {expression: \'tongue in ["de", "gsw"]\'}\n'
        "criteria:\n  - {family: ECP, attributes: [age_band, german], tolerance: 0.2}\n"
    )
    (tmp_path / "audit.yaml").write_text(text)
    result = ak.run_audit(ak.load_config(tmp_path / "audit.yaml"), out=tmp_path / "run")
    table = result.outcome.moments.table
    assert "(missing)" in table.categories[table.names.index("german")]
    again = ak.make_config(ak.load_config(tmp_path / "audit.yaml").to_dict(), folder=tmp_path)
    assert again.data.attributes == ak.load_config(tmp_path / "audit.yaml").data.attributes
    (tmp_path / "audit.yaml").write_text(text.replace("tongue in", "tongue.lower() in"))
    with pytest.raises(SchemaError, match=r"audit.yaml, line 6, .*german.expression: .*is a call"):
        ak.load_config(tmp_path / "audit.yaml")


def test_the_columns_of_an_expression_stay_features_and_plain_attributes_do_not(people: pd.DataFrame) -> None:
    def features(**options: Any) -> set[str]:
        data = ak.from_frame(people, attributes=["retired", {"old": {"expression": "age >= 65"}}], **options)
        assert data.features is not None
        return set(data.features)

    assert features() == set(people) - {"retired"}
    assert "age" not in features(exclude=["age"])
    assert features(features=["retired", "age"]) == {"retired", "age"}
