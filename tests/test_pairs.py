"""Batches of two cells take a path of their own; it must give what every other path gives."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import auditkit as ak
from auditkit.errors import InputError
from auditkit.solvers import levels, pairs
from auditkit.solvers.pairs import MAX_ROWS

CRITERIA = {
    "parity": lambda tolerance: ak.ECP("g", tolerance=tolerance),
    "residuals": lambda tolerance: ak.EER("g", tolerance=tolerance, form="pairwise"),
    "opportunity": lambda tolerance: ak.equal_opportunity("g", tolerance=tolerance),
}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every batch that went through the path."""
    rows: list[int] = []

    def count(values: np.ndarray, pair: pairs.Pair) -> tuple:
        rows.append(len(values))
        return pairs.project_pair(values, pair)

    monkeypatch.setattr(levels, "project_pair", count)
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
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(5, 60), tolerance=st.sampled_from([0.0, 1e-3, 0.2]))
def test_it_equals_the_oracle(name: str, seed: int, rows: int, tolerance: float) -> None:
    scores, codes, labels = _make(seed, rows)
    layer = ak.FairnessLayer(CRITERIA[name](tolerance))
    z = torch.as_tensor(scores).requires_grad_()
    output = layer(z, ak.Groups({"g": codes}), labels).detach().numpy()

    values = cp.Variable(rows)
    offset = labels if name == "residuals" else np.zeros(rows)
    kept = labels == 1 if name == "opportunity" else np.ones(rows, dtype=bool)
    means = [cp.sum((values - offset)[kept & (codes == group)]) / (kept & (codes == group)).sum() for group in (0, 1)]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(values - scores)), [cp.abs(means[0] - means[1]) <= tolerance])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    assert np.abs(output - values.value).max() <= 1e-6
    assert abs(_gap(output, codes, labels, name)) <= tolerance + 1e-12


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("tolerance", [0.0, 1e-3, 0.5, 5.0])
def test_scores_gradient_share_and_multipliers_equal_those_of_any_number_of_cells(
    name: str, tolerance: float, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, codes, labels = _make(7, 200)
    upstream = torch.linspace(-1, 2, 200, dtype=torch.float64)
    found = []
    for limit in (MAX_ROWS, 0):
        monkeypatch.setattr(levels, "MAX_ROWS", limit)
        layer = ak.FairnessLayer(CRITERIA[name](tolerance))
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


def test_rows_beyond_the_limit_row_weights_and_bounds_go_another_way(taken: list[int]) -> None:
    scores, codes, _ = _make(5, 40)
    large = np.tile(codes, MAX_ROWS // 40 + 1)
    layer = ak.FairnessLayer(ak.ECP("g", tolerance=0.01))
    layer(torch.as_tensor(np.tile(scores, MAX_ROWS // 40 + 1)), ak.Groups({"g": large}))
    layer(torch.as_tensor(scores), ak.Groups({"g": codes}), weights=np.ones(40))
    layer(torch.as_tensor(scores), ak.Groups({"g": codes}), bounds=(-1.0, 1.0))
    assert taken == []
    layer(torch.as_tensor(scores), ak.Groups({"g": codes}))
    assert taken == [40]


def test_a_pair_whose_gap_is_within_the_tolerance_is_left_as_it_is_and_not_shared_with_the_input() -> None:
    scores, codes, _ = _make(5, 40)
    z = torch.as_tensor(scores)
    output = ak.FairnessLayer(ak.ECP("g", tolerance=10.0))(z, ak.Groups({"g": codes}))
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
