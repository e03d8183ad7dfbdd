"""Adjusted p-values against SciPy and worked examples; the joint level against Dunnett, Tukey and independence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import auditkit as ak
from auditkit.contrasts import compile_contrasts
from auditkit.groups import CellTable
from auditkit.joint import simulate_gaps
from auditkit.multiplicity import adjust_benjamini_hochberg, adjust_holm


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_equals_scipy(values: list[float]) -> None:
    p_values = np.array(values)
    np.testing.assert_allclose(adjust_benjamini_hochberg(p_values), stats.false_discovery_control(p_values), atol=1e-12)


def test_holm_by_hand() -> None:
    adjusted = adjust_holm(np.array([0.01, np.nan, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(adjusted, [0.03, np.nan, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_rejects_what_its_steps_reject(values: list[float]) -> None:
    p_values, alpha = np.array(values), 0.05
    order = np.argsort(p_values, kind="stable")
    rejected = np.zeros(len(values), dtype=bool)
    for step, k in enumerate(order):
        if p_values[k] > alpha / (len(values) - step):
            break
        rejected[k] = True
    near = np.isclose(adjust_holm(p_values), alpha)
    np.testing.assert_array_equal((adjust_holm(p_values) <= alpha) | near, rejected | near)


def contrasts_of(groups: int) -> object:
    table = CellTable(("g",), np.arange(groups)[:, None], (tuple(range(groups)),))
    return compile_contrasts([ak.ECP("g", tolerance=0.1)], table)


@pytest.mark.parametrize("groups", [3, 5, 14])
def test_the_level_for_all_pairs_is_tukey_s(groups: int) -> None:
    contrasts = contrasts_of(groups)
    adequate = np.ones(contrasts.n_contrasts, dtype=bool)
    joint = simulate_gaps(contrasts, np.zeros(groups), np.eye(groups), adequate, confidence=0.95, seed=1)
    assert joint.level == pytest.approx(stats.studentized_range.ppf(0.95, groups, 1e6) / np.sqrt(2), abs=0.03)


def test_the_excess_of_the_largest_gap_is_the_mean_range_where_there_is_no_gap() -> None:
    contrasts = contrasts_of(5)
    adequate = np.ones(contrasts.n_contrasts, dtype=bool)
    joint = simulate_gaps(contrasts, np.zeros(5), np.eye(5), adequate, confidence=0.95, seed=1)
    assert joint.bias[0] == pytest.approx(2.326, abs=0.05)  # mean range of five standard normal values


def test_one_gap_alone_needs_no_simulation() -> None:
    joint = simulate_gaps(contrasts_of(2), np.zeros(2), np.eye(2), np.array([True]), confidence=0.9, seed=1)
    assert joint.level == pytest.approx(stats.norm.isf(0.05))
