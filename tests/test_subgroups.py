"""The search for subgroups against masks, and its false discoveries by simulation."""

from __future__ import annotations

import numpy as np
import pytest

import auditkit as ak
from auditkit.errors import InputError
from auditkit.subgroups import search_subgroups


def attributes(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {
        name: rng.choice(values, n) for name, values in {"a": ["x", "y"], "b": list("pqr"), "c": list("uv")}.items()
    }


def test_every_subgroup_is_compared_with_all_other_rows(rng: np.random.Generator) -> None:
    columns, scores = attributes(rng, 500), rng.random(500)
    found = search_subgroups(scores, ak.Groups(columns), depth=2)
    assert len(found.subgroups) == 7 + 6 + 4 + 6
    for subgroup in found.subgroups:
        mask = np.logical_and.reduce([columns[name] == value for name, value in subgroup.values.items()])
        assert subgroup.count == mask.sum()
        assert subgroup.gap == pytest.approx(scores[mask].mean() - scores[~mask].mean(), abs=1e-12)


def test_an_intersection_that_is_scored_apart_is_found(rng: np.random.Generator) -> None:
    columns = attributes(rng, 3000)
    apart = (columns["a"] == "x") & (columns["b"] == "q")
    scores = np.clip(rng.beta(4, 4, 3000) + 0.15 * apart, 0, 1)
    result = search_subgroups(scores, ak.Groups(columns), depth=2, tolerance=0.05)
    assert result.found[0].values == {"a": "x", "b": "q"}
    assert result.to_dict()["schema"] == "auditkit.subgroups/1"


def test_residuals_are_searched_too(rng: np.random.Generator) -> None:
    columns, scores = attributes(rng, 3000), rng.random(3000)
    labels = (rng.random(3000) < np.clip(scores + 0.2 * (columns["c"] == "u"), 0, 1)).astype(float)
    result = search_subgroups(scores, ak.Groups(columns), ["a", "c"], labels=labels, family="EER", depth=1)
    assert {tuple(subgroup.values.items()) for subgroup in result.found} == {(("c", "u"),), (("c", "v"),)}


def test_false_discoveries_are_rare_where_there_is_nothing_to_find() -> None:
    rng, runs = np.random.default_rng(1), 150
    groups = ak.Groups(attributes(rng, 600))
    alarms = sum(bool(search_subgroups(rng.beta(2, 5, 600), groups, depth=2).found) for _ in range(runs))
    assert alarms / runs <= 0.1  # 5 %, and twice the standard error of so few runs


def test_subgroups_too_small_to_test_are_counted_not_cleared() -> None:
    groups = ak.Groups({"a": ["x"] * 100 + ["y"] * 5})
    result = search_subgroups(np.linspace(0, 1, 105), groups, depth=1)
    assert result.untested == 2
    assert all(subgroup.p_value is None and not subgroup.found for subgroup in result.subgroups)


@pytest.mark.parametrize(
    ("columns", "depth", "message"),
    [
        ({"a": ["x", "y"]}, 2, "depth must lie between 1 and 1"),
        ({"a": ["x", "x"]}, 1, "every attribute has one value"),
        ({"a": list(range(3000))}, 1, "there are more than 2000 subgroups"),
    ],
)
def test_what_cannot_be_searched_is_refused(columns: dict, depth: int, message: str) -> None:
    groups = ak.Groups(columns)
    with pytest.raises(InputError, match=message):
        search_subgroups(np.zeros(groups.n_rows), groups, depth=depth)
