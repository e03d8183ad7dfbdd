"""Batches of two cells take a path of their own; it must give what every other path gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import auditkit as ak
from auditkit.errors import InfeasibleError, InputError
from auditkit.solvers import levels, pairs
from auditkit.solvers.pairs import MAX_ROWS

CRITERIA = {
    "parity": lambda tolerance: ak.ECP("g", tolerance=tolerance),
    "residuals": lambda tolerance: ak.EER("g", tolerance=tolerance, form="pairwise"),
    "opportunity": lambda tolerance: ak.equal_opportunity("g", tolerance=tolerance),
}


def _bounds(kind: str, scores: np.ndarray) -> Any:
    """None, numbers that hold some rows, one side alone, or one per row with room for every gap to close."""
    spread = np.abs(np.sin(np.arange(len(scores))))
    return {
        "none": None, "both": (-0.8, 0.9), "lower": (-0.5, None), "upper": (None, 0.3),
        "rows": (-1 - spread, 1 + spread),
    }[kind]  # fmt: skip


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every batch that went through the path."""
    rows: list[int] = []

    def watch(function: Callable) -> Callable:
        def count(values: np.ndarray, *others: object) -> tuple | None:
            rows.append(len(values))
            found = function(values, *others)
            if found is None:
                rows.pop()
            return found

        return count

    monkeypatch.setattr(levels, "project_pair", watch(pairs.project_pair))
    monkeypatch.setattr(levels, "project_pair_within", watch(pairs.project_pair_within))
    return rows


def _make(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.append([0, 1, 0, 1], rng.integers(0, 2, rows - 4))
    labels = np.append([0, 0, 1, 1], rng.integers(0, 2, rows - 4)).astype(float)
    return rng.normal(size=rows) + 0.5 * codes * rng.normal(), codes, labels


def _gap(values: np.ndarray, codes: np.ndarray, labels: np.ndarray, name: str) -> float:
    used = values - labels if name == "residuals" else values
    kept = labels == 1 if name == "opportunity" else np.ones(len(codes), dtype=bool)
    return float(used[kept & (codes == 0)].mean() - used[kept & (codes == 1)].mean())


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("kind", ["none", "both", "lower", "upper", "rows"])
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(5, 60), tolerance=st.sampled_from([0.0, 1e-3, 0.2]))
def test_it_equals_the_oracle(name: str, kind: str, seed: int, rows: int, tolerance: float) -> None:
    scores, codes, labels = _make(seed, rows)
    bounds = _bounds(kind, scores)
    layer = ak.FairnessLayer(CRITERIA[name](tolerance), bounds=bounds)
    z = torch.as_tensor(scores).requires_grad_()
    output = layer(z, ak.Groups({"g": codes}), labels).detach().numpy()

    values = cp.Variable(rows)
    offset = labels if name == "residuals" else np.zeros(rows)
    kept = labels == 1 if name == "opportunity" else np.ones(rows, dtype=bool)
    means = [cp.sum((values - offset)[kept & (codes == group)]) / (kept & (codes == group)).sum() for group in (0, 1)]
    limits = [] if bounds is None else [
        sign * values >= sign * bound for sign, bound in zip((1, -1), bounds, strict=True) if bound is not None
    ]  # fmt: skip
    gap = cp.abs(means[0] - means[1]) <= tolerance
    problem = cp.Problem(cp.Minimize(cp.sum_squares(values - scores)), [gap, *limits])
    problem.solve(solver=cp.DAQP)  # exact where rows are almost held, which costs an interior-point method digits
    assert np.abs(output - values.value).max() <= 1e-9
    assert abs(_gap(output, codes, labels, name)) <= tolerance + 1e-12


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("kind", ["none", "both", "lower", "upper", "rows"])
@pytest.mark.parametrize("tolerance", [0.0, 1e-3, 0.5, 5.0])
def test_scores_gradient_share_and_multipliers_equal_those_of_any_number_of_cells(
    name: str, kind: str, tolerance: float, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, codes, labels = _make(7, 200)
    upstream = torch.linspace(-1, 2, 200, dtype=torch.float64)
    found = []
    for limit in (MAX_ROWS, 0):
        monkeypatch.setattr(levels, "MAX_ROWS", limit)
        layer = ak.FairnessLayer(CRITERIA[name](tolerance), bounds=_bounds(kind, scores))
        z = torch.as_tensor(scores).requires_grad_()
        output = layer(z, ak.Groups({"g": codes}), labels)
        duals = layer.duals
        (gradient,) = torch.autograd.grad(output, z, upstream)
        assert duals is not None
        assert layer.suppressed_share is not None
        found.append((output.detach().numpy(), duals, gradient.numpy(), layer.suppressed_share))
    assert taken == [200], "the second layer is beyond the limit of the path"
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)


def test_an_active_pair_has_a_symmetric_idempotent_jacobian() -> None:
    scores, codes, _labels = _make(3, 12)
    layer = ak.FairnessLayer(ak.ECP("g", tolerance=0.0))
    groups = ak.Groups({"g": codes})
    jacobian = torch.autograd.functional.jacobian(lambda z: layer(z, groups), torch.as_tensor(scores))
    torch.testing.assert_close(jacobian, jacobian.T)
    torch.testing.assert_close(jacobian @ jacobian, jacobian)
    assert torch.linalg.matrix_rank(jacobian) == 11


def test_within_bounds_the_gradient_equals_finite_differences() -> None:
    scores, codes, _labels = _make(11, 30)
    layer, groups = ak.FairnessLayer(ak.ECP("g", tolerance=0.05), bounds=(-0.7, 0.8)), ak.Groups({"g": codes})
    assert torch.autograd.gradcheck(lambda z: layer(z, groups), torch.as_tensor(scores).requires_grad_())
    assert torch.autograd.gradgradcheck(lambda z: layer(z, groups), torch.as_tensor(scores).requires_grad_())


def test_where_bounds_hold_every_row_the_gradient_is_zero(taken: list[int]) -> None:
    codes = np.repeat([0, 1], 3)
    z = torch.tensor([2.0, 3.0, 4.0, 2.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
    output = ak.FairnessLayer(ak.ECP("g", tolerance=0.0), bounds=(0.0, 1.0))(z, ak.Groups({"g": codes}))
    (gradient,) = torch.autograd.grad(output.sum(), z)
    assert output.tolist() == [1.0] * 6
    assert gradient.tolist() == [0.0] * 6
    assert taken == [6]


def test_bounds_that_leave_no_scores_are_refused(taken: list[int]) -> None:
    codes = np.repeat([0, 1], 4)
    bounds = (np.where(codes == 0, 0.6, 0.0), np.where(codes == 0, 1.0, 0.4))
    with pytest.raises(InfeasibleError, match="bounds"):
        ak.FairnessLayer(ak.ECP("g", tolerance=0.1), bounds=bounds)(torch.zeros(8), ak.Groups({"g": codes}))
    assert taken == []


def test_rows_beyond_the_limit_and_row_weights_go_another_way(taken: list[int]) -> None:
    scores, codes, _ = _make(5, 40)
    large = np.tile(codes, MAX_ROWS // 40 + 1)
    layer = ak.FairnessLayer(ak.ECP("g", tolerance=0.01))
    layer(torch.as_tensor(np.tile(scores, MAX_ROWS // 40 + 1)), ak.Groups({"g": large}))
    layer(torch.as_tensor(scores), ak.Groups({"g": codes}), weights=np.ones(40))
    assert taken == []
    layer(torch.as_tensor(scores), ak.Groups({"g": codes}))
    assert taken == [40]


@pytest.mark.parametrize("bounds", [None, (None, None), (-100.0, 100.0)])
def test_a_pair_whose_gap_is_within_the_tolerance_is_left_as_it_is_and_not_shared_with_the_input(bounds: Any) -> None:
    scores, codes, _ = _make(5, 40)
    z = torch.as_tensor(scores)
    output = ak.FairnessLayer(ak.ECP("g", tolerance=10.0), bounds=bounds)(z, ak.Groups({"g": codes}))
    assert torch.equal(output, z)
    assert output.data_ptr() != z.data_ptr()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "scores holds 1 NaN or infinite values"),
        (np.inf, "scores holds 1 NaN or infinite values"),
        (1.7e308, "scores are too large"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in dot")
def test_scores_without_a_mean_are_refused(value: float, message: str, taken: list[int]) -> None:
    codes = np.repeat([0, 1], 4)
    scores = np.zeros(8)
    scores[:4] = [value, value, value, value] if np.isfinite(value) else [value, 0, 0, 0]
    if np.isfinite(value):
        scores[4:] = -value
    with pytest.raises(InputError, match=message):
        ak.FairnessLayer(ak.ECP("g", tolerance=0.0))(torch.as_tensor(scores), ak.Groups({"g": codes}))
    assert taken == [8]


def test_the_jacobian_multiplies_tangents(taken: list[int]) -> None:
    scores, codes, _ = _make(9, 30)
    layer, groups = ak.FairnessLayer(ak.ECP("g", tolerance=0.0)), ak.Groups({"g": codes})
    tangent = torch.linspace(0, 1, 30, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.as_tensor(scores), tangent)
        moved = torch.autograd.forward_ad.unpack_dual(layer(dual, groups)).tangent
    step = 1e-6
    above, below = (layer(torch.as_tensor(scores) + sign * step * tangent, groups) for sign in (1, -1))
    torch.testing.assert_close(moved, (above - below) / (2 * step), rtol=0, atol=1e-8)
    assert len(taken) == 3
