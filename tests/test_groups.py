from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auditkit import ECP, Groups
from auditkit.categories import MISSING, number_codes
from auditkit.contrasts import compile_contrasts
from auditkit.errors import InputError, SchemaError
from auditkit.groups import LABEL


@pytest.mark.parametrize(
    "values",
    [
        ["m", "f", "m"],
        np.array(["m", "f", "m"]),
        pd.Series(["m", "f", "m"], index=[7, 8, 9]),
        pd.Categorical(["m", "f", "m"]),
    ],
    ids=["list", "numpy", "series", "categorical"],
)
def test_any_array_like_gives_the_same_codes(values: object) -> None:
    groups = Groups({"sex": values})
    assert groups.categories("sex") == ("f", "m")
    assert groups.codes("sex").tolist() == [1, 0, 1]


def test_a_frame_and_a_tensor_work() -> None:
    frame = Groups(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}))
    assert frame.names == ("a", "b")
    assert Groups({"a": torch.tensor([3, 1, 3])}).categories("a") == (1, 3)


def test_missing_values_are_a_category_of_their_own() -> None:
    groups = Groups({"sex": ["f", None, "m", float("nan")]})
    assert groups.categories("sex") == ("f", "m", MISSING)
    assert groups.codes("sex").tolist() == [0, 2, 1, 2]


def test_values_of_several_types_are_kept_apart() -> None:
    assert set(Groups({"a": pd.Series([1, "1", 2], dtype=object)}).categories("a")) == {1, 2, "1"}


def test_a_category_without_rows_is_remembered() -> None:
    groups = Groups({"sex": pd.Categorical(["m", "m"], categories=["f", "m"])})
    assert groups.categories("sex") == ("f", "m")


@given(seed=st.integers(0, 2**32 - 1), n_rows=st.integers(1, 60), size=st.sampled_from([3, 50, 5_000, 10**9]))
def test_cells_are_numbered_in_the_order_of_their_codes(seed: int, n_rows: int, size: int) -> None:
    codes = np.random.default_rng(seed).integers(0, size, n_rows)
    occurring, index = number_codes(codes, size)
    np.testing.assert_array_equal(occurring, np.unique(codes))
    np.testing.assert_array_equal(occurring[index], codes)


@pytest.mark.parametrize(
    "values",
    [
        np.array([3, -1, 3, 0], dtype=np.int8), np.array([2**63, 2**63 + 5], dtype=np.uint64), np.array([True, False]),
        np.array([5]), np.array([0, 10**9]), np.array([-(2**62), 2**62]),
    ],
)  # fmt: skip
def test_whole_numbers_are_coded_as_pandas_codes_them(values: np.ndarray) -> None:
    groups, as_series = Groups({"a": values}), Groups({"a": pd.Series(values)})
    np.testing.assert_array_equal(groups.codes("a"), as_series.codes("a"))
    assert groups.categories("a") == as_series.categories("a")
    assert list(map(type, groups.categories("a"))) == list(map(type, as_series.categories("a")))


def test_parts_with_the_same_cells_share_their_table_and_its_contrasts() -> None:
    groups = Groups({"a": [0, 1, 2, 0, 1, 2], "b": list("xyxyxy")})
    first, second = groups.take([0, 1, 3]), groups.take(np.array([3, 4, 0]))
    assert first.cells(["a"]).table is second.cells(["a"]).table
    assert groups.take([0, 2]).cells(["a"]).table is not first.cells(["a"]).table
    assert first.cells(["a"]).table.codes.ravel().tolist() == [0, 1]
    assert groups.cells(["a", "b"]).table is not groups.cells(["b", "a"]).table
    criteria = [ECP("a", tolerance=0.1)]
    table = first.cells(["a"]).table
    compiled = compile_contrasts(criteria, table)
    assert compile_contrasts(criteria, table) is compiled
    assert compile_contrasts(criteria, table, cell_weights=np.array([1.0, 0.0])).n_contrasts == 0
    named = compile_contrasts([ECP("a", tolerance=0.1, name="mine")], table)
    assert named.criteria[0].name == "mine"


def test_no_more_tables_are_kept_than_a_limit_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditkit.groups.MOST_TABLES", 3)
    groups = Groups({"a": np.arange(6)})
    for row in range(6):
        assert groups.take([row]).cells(["a"]).table.codes.tolist() == [[row]]
        assert len(groups._tables) <= 3


def test_cells_cross_columns_and_cover_every_row_once() -> None:
    groups = Groups({"a": ["x", "y", "x", "y"], "b": [0, 0, 1, 0]})
    cells = groups.cells(("a", "b"))
    assert [tuple(cells.table.value(c, name) for name in ("a", "b")) for c in range(3)] == [
        ("x", 0),
        ("x", 1),
        ("y", 0),
    ]
    assert cells.index.tolist() == [0, 2, 1, 2]


def test_labels_are_a_stratum_when_asked_for() -> None:
    cells = Groups({"a": ["x", "x"]}).cells(("a", LABEL), labels=[1.0, 0.0])
    assert cells.table.categories[1] == (0.0, 1.0)
    with pytest.raises(InputError, match="pass labels="):
        Groups({"a": ["x", "x"]}).cells(("a", LABEL))


def test_take_keeps_categories_that_lose_their_rows() -> None:
    part = Groups({"a": ["x", "y", "z"]}).take([0, 2])
    assert part.n_rows == 2
    assert part.categories("a") == ("x", "y", "z")
    assert part.values("a").tolist() == ["x", "z"]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "at least one attribute"),
        ({"a": [1, 2], "b": [1]}, r"same number of rows; got \{'a': 2, 'b': 1\}"),
        ({"a": np.zeros((2, 2))}, r"attribute 'a' must have shape \(n,\).*\(2, 2\)"),
        ({LABEL: [1, 2]}, "stands for the labels"),
    ],
)
def test_wrong_attributes_are_refused(attributes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Groups(attributes)


def test_an_unknown_column_lists_those_there_are() -> None:
    with pytest.raises(SchemaError, match="no attribute 'age'; it has 'sex', 'race'"):
        Groups({"sex": ["m"], "race": ["b"]}).codes("age")
