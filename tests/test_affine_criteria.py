"""Affine criteria of one's own, from matrices and from CVXPY."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

import auditkit as ak
from auditkit.errors import InfeasibleError, InputError

SCORES = np.array([0.1, 0.5, 0.9, 0.3])
GROUPS = ak.Groups({"sex": list("ffmm")})


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array, sp.coo_matrix], ids=["dense", "csr", "coo matrix"])
def test_a_matrix_of_ones_own_is_enforced_with_the_named_criteria(kind: object) -> None:
    own = ak.AffineCriterion(kind(np.array([[1.0, 0, 0, -1.0]])), lower=0.0, upper=0.0, name="ends meet")
    result = ak.project(SCORES, GROUPS, [own, ak.ECP("sex", tolerance=0.1)])
    assert result.scores[0] == pytest.approx(result.scores[3], abs=1e-15)
    assert result.scores[2:].mean() - result.scores[:2].mean() == pytest.approx(0.1, abs=1e-15)
    assert result.constraints == ("f − m", "ends meet[0]")


def test_the_named_criterion_as_a_matrix_gives_the_same_scores_and_multipliers() -> None:
    own = ak.AffineCriterion([[0.5, 0.5, -0.5, -0.5]], lower=-0.05, upper=0.05)
    for bounds in (None, (0.2, 0.8)):
        ours = ak.project(SCORES, GROUPS, own, bounds=bounds)
        named = ak.project(SCORES, GROUPS, ak.ECP("sex", tolerance=0.05), bounds=bounds)
        np.testing.assert_allclose(ours.scores, named.scores, atol=1e-14)
        np.testing.assert_allclose(ours.duals, named.duals, atol=1e-13)


def test_one_side_is_enough() -> None:
    at_least = ak.AffineCriterion([[0.25] * 4], lower=0.6)
    result = ak.project(SCORES, GROUPS, at_least, bounds=(0, 1))
    assert result.scores.mean() == pytest.approx(0.6, abs=1e-15)
    assert result.duals[0] < 0
    kept = ak.project(SCORES, GROUPS, ak.AffineCriterion([[0.25] * 4], upper=0.6))
    assert kept.scores.tolist() == SCORES.tolist()


@pytest.mark.parametrize("solver", ["newton", "osqp", "cvxpy", "cvxpy:scs"])
def test_cvxpy_constraints_are_read_once_and_reused(solver: str) -> None:
    variable = cp.Variable(4)
    limit = cp.Parameter(value=0.05)
    constraints = [
        cp.abs(cp.sum(variable[:2]) / 2 - cp.sum(variable[2:]) / 2) <= limit,
        variable[0] == variable[1],
        cp.sum(variable) >= 2.0,
        variable[2] <= 0.7,
    ]
    criterion = ak.AffineCriterion.from_cvxpy(constraints, variable, name="policy")
    assert criterion.n_constraints == 4
    for scores in (SCORES, SCORES[::-1].copy()):
        oracle = cp.Problem(cp.Minimize(cp.sum_squares(variable - scores)), constraints)
        oracle.solve(solver=cp.CLARABEL)
        result = ak.project(scores, GROUPS, criterion, solver=solver)
        np.testing.assert_allclose(result.scores, variable.value, atol=1e-3 if "scs" in solver else 1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: [cp.square(x[0]) <= 1], "constraints must be affine in the scores"),
        (lambda x: [x[0] + cp.Variable(name="other") <= 1], r"may speak of the scores alone; .* also holds other"),
        (lambda x: [x[0] <= cp.Parameter()], "every parameter needs a value"),
        (lambda x: [cp.SOC(x[0], x[1:])], "constraints must be equalities or inequalities; got SOC"),
        (lambda _: [], "constraints is empty"),
    ],
)
def test_cvxpy_constraints_that_are_not_affine_are_refused(make: object, message: str) -> None:
    variable = cp.Variable(4)
    with pytest.raises(InputError, match=message):
        ak.AffineCriterion.from_cvxpy(make(variable), variable)
    with pytest.raises(InputError, match=r"variable must be a cvxpy.Variable of shape \(n,\)"):
        ak.AffineCriterion.from_cvxpy([variable >= 0], cp.Variable((2, 2)))


def test_contradictions_are_named_with_the_smallest_relaxation() -> None:
    low = ak.AffineCriterion([[1.0, 0, 0, 0]], upper=0.2, name="low")
    high = ak.AffineCriterion([[1.0, 0, 0, 0]], lower=0.5, name="high")
    idle = ak.AffineCriterion([[0, 1.0, 0, 0]], upper=9.0, name="idle")
    with pytest.raises(InfeasibleError, match=r"no scores satisfy low and high; .*grow by 0.15") as caught:
        ak.project(SCORES, GROUPS, [idle, low, high])
    assert caught.value.smallest_relaxation == pytest.approx(0.15)
    relaxed = ak.project(SCORES, GROUPS, [idle, low, high], on_infeasible="relax")
    assert relaxed.scores[0] == pytest.approx(0.35, abs=1e-6)
    with pytest.raises(InfeasibleError, match="no scores satisfy high within the bounds"):
        ak.project(SCORES, GROUPS, high, bounds=(0, 0.4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ak.AffineCriterion([[1.0, float("nan")]]), "matrix holds NaN or infinite entries"),
        (lambda: ak.AffineCriterion([["a"]]), "matrix must be a dense or sparse matrix"),
        (lambda: ak.AffineCriterion(np.zeros((0, 3))), "matrix must have shape .* got no row"),
        (lambda: ak.AffineCriterion([[1.0]], lower=1, upper=0), "the sides of 'affine' cross in row 0"),
        (lambda: ak.AffineCriterion([[1.0]], lower=[0, 0]), "lower must have 1 entries"),
        (lambda: ak.AffineCriterion([[1.0]], upper=float("nan")), "upper must be a number or one per constraint"),
    ],
)
def test_wrong_matrices_are_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_it_belongs_to_its_rows() -> None:
    own = ak.AffineCriterion([[1.0, 0.0]])
    with pytest.raises(InputError, match="the matrix of 'affine' has 2 columns, .* but groups has 4 rows"):
        ak.project(SCORES, GROUPS, own)
    with pytest.raises(InputError, match="criteria must hold Criterion objects"):
        ak.audit(SCORES, GROUPS, [own])
