from __future__ import annotations

import numpy as np
import pytest

from auditkit import ECP, EER, Criterion, Groups, demographic_parity, equal_opportunity, equalized_odds
from auditkit.contrasts import compile_contrasts
from auditkit.criteria import check_criteria, columns_of
from auditkit.errors import InputError
from auditkit.groups import LABEL


def described(groups: Groups, *criteria: Criterion, labels: object = None) -> list[str]:
    cells = groups.cells(columns_of(criteria), labels=labels)
    contrasts = compile_contrasts(criteria, cells.table)
    return [contrasts.describe(k) for k in range(contrasts.n_contrasts)]


@pytest.fixture
def groups() -> Groups:
    return Groups({"sex": ["f", "m", "f", "m"], "race": ["a", "b", "c", "a"]})


def test_every_pair_of_groups_is_compared_once(groups: Groups) -> None:
    assert described(groups, ECP("race", tolerance=0.1)) == ["a − b", "a − c", "b − c"]


def test_strata_are_compared_within_themselves(groups: Groups) -> None:
    names = described(groups, equalized_odds("sex", tolerance=0.1), labels=[0, 0, 1, 1])
    assert names == ["f − m | label=0", "f − m | label=1"]
    assert described(groups, equal_opportunity("sex", tolerance=0.1), labels=[0, 0, 1, 1]) == ["f − m | label=1"]


def test_absolute_residuals_look_at_one_group_at_a_time(groups: Groups) -> None:
    assert described(groups, EER("sex", tolerance=0.1)) == ["f", "m"]
    assert described(groups, EER("sex", tolerance=0.1, form="pairwise")) == ["f − m"]


def test_combinations_without_rows_are_listed_as_missing(groups: Groups) -> None:
    criterion = ECP(("sex", "race"), tolerance=0.1)
    contrasts = compile_contrasts([criterion], groups.cells(criterion.columns).table)
    assert [event.group_name for event in contrasts.missing] == ["f × b", "m × c"]
    assert contrasts.n_contrasts == 6


def test_an_event_mean_is_the_weighted_mean_of_its_cells(groups: Groups) -> None:
    criteria = (ECP("sex", tolerance=0.1), ECP("race", tolerance=0.1))
    cells = groups.cells(columns_of(criteria))
    contrasts = compile_contrasts(criteria, cells.table)
    scores = np.array([1.0, 2.0, 4.0, 8.0])
    weight = np.bincount(cells.index).astype(float)
    means = contrasts.event_mean_matrix(weight) @ (np.bincount(cells.index, weights=scores) / weight)
    assert dict(zip([event.group_name for event in contrasts.events], means, strict=True)) == {
        "f": 2.5,
        "m": 5.0,
        "a": 4.5,
        "b": 2.0,
        "c": 4.0,
    }


def test_cells_without_weight_count_as_absent(groups: Groups) -> None:
    criterion = ECP("race", tolerance=0.1)
    table = groups.cells(criterion.columns).table
    contrasts = compile_contrasts([criterion], table, cell_weights=np.array([2.0, 0.0, 1.0]))
    assert [event.group_name for event in contrasts.missing] == ["b"]


def test_named_special_cases_are_conditional_parity() -> None:
    assert demographic_parity("sex", tolerance=0.1) == ECP("sex", tolerance=0.1)
    assert equalized_odds("sex", tolerance=0.1) == ECP("sex", given=LABEL, tolerance=0.1)


def test_a_criterion_survives_json() -> None:
    for criterion in (
        ECP(("a", "b"), given="c", tolerance=0.1),
        EER("a", tolerance=0),
        equal_opportunity("a", tolerance=1),
    ):
        restored = Criterion.from_dict(criterion.to_dict())
        assert restored == criterion
        assert restored.name == criterion.name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ECP("sex", tolerance=-0.1), "tolerance must be finite and ≥ 0.*-0.1"),
        (lambda: ECP("sex", tolerance=float("nan")), "tolerance must be finite"),
        (lambda: ECP("sex", tolerance="0.1"), "tolerance must be a number; got '0.1'"),
        (lambda: ECP((), tolerance=0.1), "attributes of ECP is empty"),
        (lambda: ECP("sex", given="sex", tolerance=0.1), "a column is used twice"),
        (lambda: ECP(LABEL, tolerance=0.1), "cannot be a protected attribute"),
        (lambda: EER("sex", tolerance=0.1, form="relative"), "form must be 'pairwise' or 'absolute'; got 'relative'"),
        (lambda: check_criteria([]), "criteria is empty"),
        (lambda: check_criteria(["sex"]), "must hold Criterion objects.*got 'sex'"),
    ],
)
def test_wrong_criteria_are_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
