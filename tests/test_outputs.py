"""Several outputs per row: every column constrained, with or without the probability simplex."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import auditkit as ak
from auditkit.errors import InfeasibleError, InputError
from tests.problems import gaps_by_mask, largest_gap


@pytest.fixture
def rows(rng: np.random.Generator) -> tuple[np.ndarray, ak.Groups, np.ndarray]:
    groups = ak.Groups({"a": rng.integers(0, 3, 50), "b": rng.choice(["x", "y"], 50)})
    return rng.dirichlet([1, 2, 1, 0.5], 50), groups, rng.integers(0, 4, 50)


CRITERIA = {
    "parity": [ak.ECP("a", tolerance=0.01)],
    "residuals": [ak.EER("a", tolerance=0.05)],
    "odds": [ak.equalized_odds("b", tolerance=0.02)],
    "several": [ak.ECP("a", tolerance=0.02), ak.EER("b", tolerance=0.1, form="pairwise")],
}
every_criterion = pytest.mark.parametrize("criteria", CRITERIA.values(), ids=CRITERIA.keys())


def one_hot(classes: np.ndarray, column: int) -> np.ndarray:
    return (classes == column).astype(float)


@every_criterion
def test_columns_are_projected_one_by_one(rows: tuple, criteria: list) -> None:
    scores, groups, classes = rows
    result = ak.project(scores, groups, criteria, labels=classes)
    for column in range(4):
        labels = classes if criteria is CRITERIA["odds"] else one_hot(classes, column)
        alone = ak.project(scores[:, column], groups, criteria, labels=labels)
        np.testing.assert_allclose(result.scores[:, column], alone.scores, atol=1e-14)
        np.testing.assert_allclose(result.duals[:, column], alone.duals, atol=1e-12)
    assert result.duals.shape == (len(result.constraints), 4)
    again = ak.verify_certificate(result, scores, groups, criteria, labels=classes)
    assert again == result.certificate


@every_criterion
@pytest.mark.parametrize("weighted", [False, True])
def test_probabilities_stay_probabilities_and_equal_the_oracle(rows: tuple, criteria: list, weighted: bool) -> None:
    scores, groups, classes = rows
    weights = np.linspace(0.5, 2, 50) if weighted else None
    options = {"labels": classes, "simplex": True, "weights": weights}
    result = ak.project(scores, groups, criteria, **options)
    assert (result.scores >= 0).all()
    np.testing.assert_allclose(result.scores.sum(axis=1), 1.0, atol=1e-14)
    assert result.certificate.max_violation <= 1e-12
    assert abs(result.certificate.duality_gap) <= 1e-10
    for solver in ("cvxpy", "osqp"):
        other = ak.project(scores, groups, criteria, solver=solver, **options).scores
        np.testing.assert_allclose(result.scores, other, atol=1e-6)
    assert ak.verify_certificate(result, scores, groups, criteria, **options) == result.certificate


@every_criterion
def test_every_class_satisfies_the_criterion_by_mask(rows: tuple, criteria: list) -> None:
    scores, groups, classes = rows
    frame = pd.DataFrame({name: groups.values(name) for name in groups.names})
    for simplex in (False, True):
        fair = ak.project(scores, groups, criteria, labels=classes, simplex=simplex).scores
        for column in range(4):
            labels = classes if criteria is CRITERIA["odds"] else one_hot(classes, column)
            for criterion in criteria:
                gaps = gaps_by_mask(fair[:, column], frame, criterion, labels=labels)
                assert largest_gap(gaps) <= criterion.tolerance + 1e-12


@pytest.mark.parametrize("simplex", [False, True])
@every_criterion
def test_the_layer_equals_project_and_its_gradients_finite_differences(
    rows: tuple, criteria: list, simplex: bool
) -> None:
    scores, groups, classes = rows
    part = np.arange(16)
    z, cells = torch.tensor(scores[part], requires_grad=True), groups.take(part)
    layer = ak.FairnessLayer(criteria, simplex=simplex, on_infeasible="relax")
    expected = ak.project(
        scores[part], cells, criteria, labels=classes[part], simplex=simplex, on_infeasible="relax"
    ).scores
    torch.testing.assert_close(layer(z, cells, classes[part]), torch.tensor(expected), atol=1e-13, rtol=0)
    if criteria is CRITERIA["parity"] or not simplex:
        assert torch.autograd.gradcheck(lambda v: layer(v, cells, classes[part]), (z,))
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v, cells, classes[part]), z).reshape(64, 64)
    torch.testing.assert_close(jacobian, jacobian.T, atol=1e-12, rtol=0)
    torch.testing.assert_close(jacobian @ jacobian, jacobian, atol=1e-12, rtol=0)


def test_multi_output_regression_takes_a_label_per_column(rows: tuple, rng: np.random.Generator) -> None:
    scores, groups, _ = rows
    labels = rng.normal(size=scores.shape)
    result = ak.project(scores, groups, ak.EER("a", tolerance=0.01), labels=labels)
    for column in range(4):
        for code in range(3):
            mine = groups.codes("a") == code
            gap = (labels[mine, column] - result.scores[mine, column]).mean()
            assert abs(gap) <= 0.01 + 1e-12


def test_labels_that_do_not_fit_the_columns_are_refused(rows: tuple) -> None:
    scores, groups, classes = rows
    with pytest.raises(InputError, match="labels of scores with 4 columns must be classes 0 to 3.*from 0 to 4"):
        ak.project(scores, groups, ak.EER("a", tolerance=0.1), labels=np.where(classes == 3, 4, classes))
    with pytest.raises(InputError, match=r"labels must have shape \(50, 4\)"):
        ak.project(scores, groups, ak.EER("a", tolerance=0.1), labels=np.zeros((50, 3)))
    with pytest.raises(InputError, match=r"equalized odds\(a\) needs one label per row"):
        ak.project(scores, groups, ak.equalized_odds("a", tolerance=0.1), labels=np.zeros((50, 4)))


def test_the_simplex_needs_columns_and_no_bounds(rows: tuple) -> None:
    scores, groups, _ = rows
    with pytest.raises(InputError, match=r"simplex=True needs scores of shape \(n, k\) with k ≥ 2"):
        ak.project(scores[:, 0], groups, ak.ECP("a", tolerance=0.1), simplex=True)
    with pytest.raises(InputError, match="simplex=True already bounds the scores"):
        ak.project(scores, groups, ak.ECP("a", tolerance=0.1), simplex=True, bounds=(0, 1))


def test_residuals_that_no_probabilities_meet_are_infeasible() -> None:
    groups = ak.Groups({"a": list("uv")})
    half = [[2.0, 0.0], [0.0, 2.0]]  # labels that add up to 2
    with pytest.raises(InfeasibleError, match=r"EER\(a\) with probabilities that add up to 1.*grow by 0.9"):
        ak.project([[0.5, 0.5], [0.5, 0.5]], groups, ak.EER("a", tolerance=0.1), labels=half, simplex=True)


def test_equal_rows_are_fair_and_a_single_row_is_a_batch() -> None:
    row = np.array([[0.2, 0.3, 0.5]])
    alone = ak.project(row, ak.Groups({"a": ["u"]}), ak.ECP("a", tolerance=0.0), simplex=True)
    assert alone.scores.tolist() == pytest.approx(row)
    outside = ak.project(np.array([[2.0, 0.0, 0.0]]), ak.Groups({"a": ["u"]}), ak.ECP("a", tolerance=0.0), simplex=True)
    np.testing.assert_allclose(outside.scores, [[1.0, 0.0, 0.0]], atol=1e-15)
