"""The projection against CVXPY with Clarabel, against masks over the rows, and against its own certificate."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import auditkit as ak
from auditkit.errors import InfeasibleError, InputError, SolverError
from auditkit.results import Status
from tests.problems import Problem, gaps_by_mask, largest_gap, random_problem, random_wide_problem


def solve(problem: Problem, **options: object) -> object:
    return ak.project(problem.scores, problem.groups, problem.criteria, **problem.options(), **options)


def check_relaxed(problem: Problem, smallest: float) -> None:
    relaxed = solve(problem, on_infeasible="relax")
    assert relaxed.status is Status.RELAXED
    assert 0 < smallest < relaxed.certificate.relaxation <= smallest * (1 + 1e-5) + 1e-7
    assert relaxed.certificate.max_violation <= 1e-9


def check_against_oracle(seed: int) -> bool:
    """Compare one random problem with the oracle; False when it is infeasible (for both)."""
    problem = random_problem(seed)
    try:
        result = solve(problem)
    except InfeasibleError as error:
        check_relaxed(problem, error.smallest_relaxation)
        return False
    oracle = solve(problem, solver="cvxpy")
    # criteria that nearly contradict each other push unbounded scores far away; then rounding is relative to that
    scale = max(1.0, float(np.abs(result.scores).max()))
    assert np.abs(result.scores - oracle.scores).max() <= 1e-6 * scale
    assert result.certificate.max_violation <= 1e-12 * scale
    assert result.certificate.stationarity <= 1e-12 * scale
    assert abs(result.certificate.duality_gap) <= 1e-9 * max(1.0, result.certificate.primal_objective)
    return True


@pytest.mark.parametrize("block", range(4))
def test_equals_the_oracle_on_random_problems(block: int) -> None:
    solved = [check_against_oracle(seed) for seed in range(100 * block, 100 * block + 100)]
    assert 50 <= sum(solved) <= 95  # both kinds of problem occur


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_equals_the_oracle_on_thousands_of_random_problems(block: int) -> None:
    assert sum(check_against_oracle(seed) for seed in range(10_000 + 300 * block, 10_300 + 300 * block)) > 150


@pytest.mark.parametrize("seed", [11670, 11988, 21566, 21648, 23611, 23846, 24254, 24596, 25750])
def test_equals_the_oracle_where_the_dual_function_is_flat(seed: int) -> None:
    """Nearly held groups: the last steps change the dual function by less than its rounding error."""
    check_against_oracle(seed)


def check_wide_problem(seed: int) -> bool:
    """Compare one problem with inferred groups, columns or affine criteria with the oracle."""
    problem = random_wide_problem(seed)
    arguments = (problem.scores, problem.groups, problem.criteria)
    try:
        result = ak.project(*arguments, **problem.options)
    except InfeasibleError:
        relaxed = ak.project(*arguments, **problem.options, on_infeasible="relax")
        assert relaxed.certificate.max_violation <= 1e-9
        assert relaxed.certificate.relaxation > 0
        return False
    scale = max(1.0, float(np.abs(result.scores).max()))
    with contextlib.suppress(SolverError):  # about one in a thousand is too degenerate for Clarabel
        oracle = ak.project(*arguments, **problem.options, solver="cvxpy")
        assert np.abs(result.scores - oracle.scores).max() <= 1e-6 * scale
    assert result.certificate.max_violation <= 1e-12 * scale
    assert abs(result.certificate.duality_gap) <= 1e-9 * max(1.0, result.certificate.primal_objective)
    assert ak.verify_certificate(result, *arguments, **problem.options) == result.certificate
    return True


@pytest.mark.parametrize("block", range(2))
def test_inferred_groups_columns_and_affine_criteria_equal_the_oracle(block: int) -> None:
    solved = [check_wide_problem(seed) for seed in range(60 * block, 60 * block + 60)]
    assert sum(solved) >= 30


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_inferred_groups_columns_and_affine_criteria_equal_the_oracle_on_hundreds_of_problems(block: int) -> None:
    assert sum(check_wide_problem(seed) for seed in range(1000 + 200 * block, 1200 + 200 * block)) >= 100


@pytest.mark.parametrize("seed", range(40))
def test_osqp_gives_the_same_answer(seed: int) -> None:
    problem = random_problem(seed)
    try:
        result = solve(problem)
    except InfeasibleError:
        with pytest.raises(InfeasibleError):
            solve(problem, solver="osqp")
        return
    assert np.abs(result.scores - solve(problem, solver="osqp").scores).max() <= 1e-5


@given(seed=st.integers(0, 10**6))
def test_what_comes_out_satisfies_the_criteria_by_mask(seed: int) -> None:
    problem = random_problem(seed, max_rows=40)
    try:
        result = solve(problem)
    except InfeasibleError:
        return
    for criterion in problem.criteria:
        gaps = gaps_by_mask(result.scores, problem.frame, criterion, labels=problem.labels, weights=problem.weights)
        assert largest_gap(gaps) <= criterion.tolerance + 1e-12
    if problem.bounds is not None:
        low, high = problem.bounds
        assert (result.scores >= low).all()
        assert (result.scores <= high).all()


@given(seed=st.integers(0, 10**6))
def test_projecting_twice_changes_nothing_and_no_two_points_move_apart(seed: int) -> None:
    problem = random_problem(seed, max_rows=30)
    rng = np.random.default_rng(seed)
    other = problem.scores + rng.normal(scale=0.3, size=len(problem.scores))
    weight = np.ones_like(other) if problem.weights is None else problem.weights
    try:
        first = solve(problem).scores
    except InfeasibleError:
        return
    second = ak.project(other, problem.groups, problem.criteria, **problem.options()).scores
    again = ak.project(first, problem.groups, problem.criteria, **problem.options()).scores
    assert np.abs(again - first).max() <= 1e-9
    assert (weight * (first - second) ** 2).sum() <= (weight * (problem.scores - other) ** 2).sum() + 1e-9


def test_integer_weights_count_rows() -> None:
    rng = np.random.default_rng(5)
    sex, scores, weights = rng.choice(["f", "m"], 40), rng.random(40), rng.integers(1, 5, 40)
    weighted = ak.project(
        scores, ak.Groups({"sex": sex}), ak.ECP("sex", tolerance=0.01), weights=weights, bounds=(0.2, 0.8)
    )
    repeated = ak.project(
        np.repeat(scores, weights), ak.Groups({"sex": np.repeat(sex, weights)}), ak.ECP("sex", tolerance=0.01),
        bounds=(0.2, 0.8),
    )  # fmt: skip
    np.testing.assert_allclose(np.repeat(weighted.scores, weights), repeated.scores, atol=1e-12)


@pytest.mark.parametrize("groups", [2, 3, 14, 100])
def test_the_closed_form_equals_the_general_path(groups: int, rng: np.random.Generator) -> None:
    n = 20 * groups
    frame = ak.Groups({"g": rng.integers(0, groups, n)})
    scores = rng.normal(size=n)
    closed = ak.project(scores, frame, ak.ECP("g", tolerance=0.05))
    wide = ak.project(scores, frame, ak.ECP("g", tolerance=0.05), bounds=(-1e6, 1e6))
    np.testing.assert_allclose(closed.scores, wide.scores, atol=1e-10)
    assert closed.certificate.max_violation <= 1e-12
    assert closed.certificate.duality_gap == pytest.approx(0.0, abs=1e-10)


def test_scores_that_satisfy_the_criteria_are_returned_as_they_are() -> None:
    scores = np.array([0.1, 0.2, 0.1, 0.2])
    result = ak.project(scores, ak.Groups({"sex": list("ffmm")}), ak.ECP("sex", tolerance=0.01))
    assert result.scores.tolist() == scores.tolist()
    assert result.duals.tolist() == [0.0]
    assert result.status is Status.OPTIMAL


def test_a_group_without_rows_is_left_out_and_one_row_is_a_batch() -> None:
    alone = ak.project([0.3], ak.Groups({"sex": ["f"]}), ak.ECP("sex", tolerance=0.0))
    assert alone.scores.tolist() == [0.3]
    assert alone.duals.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kind_and_dtype_of_the_scores_are_kept(dtype: torch.dtype) -> None:
    groups = ak.Groups({"sex": list("fm")})
    tensor = ak.project(torch.tensor([0.0, 1.0], dtype=dtype), groups, ak.ECP("sex", tolerance=0.5))
    assert tensor.scores.dtype == dtype
    assert tensor.scores.tolist() == [0.25, 0.75]
    assert ak.project(np.array([0, 1], np.float32), groups, ak.ECP("sex", tolerance=0.5)).scores.dtype == np.float32


def test_the_duals_belong_to_the_constraints_in_words() -> None:
    result = ak.project([0.0, 1.0, 0.4], ak.Groups({"g": list("abc")}), ak.ECP("g", tolerance=0.2))
    assert result.constraints == ("a − b", "a − c", "b − c")
    assert result.duals[0] < 0 == result.duals[1]  # a rises towards b


def test_conflicting_criteria_are_named_with_the_smallest_relaxation() -> None:
    # labels differ by 1 between the groups, so equal means (ECP) and small residuals (EER) cannot both hold
    groups, labels = ak.Groups({"sex": list("ffmm"), "z": list("abab")}), [0, 0, 1, 1]
    criteria = [ak.ECP("sex", tolerance=0.1), ak.EER("sex", tolerance=0.1), ak.ECP("z", tolerance=0.1)]
    with pytest.raises(
        InfeasibleError, match=r"no scores satisfy ECP\(sex\) and EER\(sex\); .*grow by 0.233333"
    ) as caught:
        ak.project([0.2, 0.3, 0.4, 0.5], groups, criteria, labels=labels)
    assert caught.value.criteria == ("ECP(sex)", "EER(sex)")
    relaxed = ak.project([0.2, 0.3, 0.4, 0.5], groups, criteria, labels=labels, on_infeasible="relax")
    assert relaxed.status is Status.RELAXED
    assert relaxed.certificate.relaxation == pytest.approx(0.7 / 3, rel=1e-5)
    means = [relaxed.scores[:2].mean(), relaxed.scores[2:].mean()]
    assert means[1] - means[0] == pytest.approx(0.1 + 0.7 / 3, abs=1e-4)


def test_residuals_that_bounds_rule_out_are_infeasible() -> None:
    with pytest.raises(InfeasibleError, match=r"EER\(sex\) within the bounds"):
        ak.project(
            [0.2, 0.3], ak.Groups({"sex": ["f", "m"]}), ak.EER("sex", tolerance=0.1), labels=[1, 1], bounds=(0, 0.5)
        )


@pytest.mark.parametrize("seed", range(20))
def test_a_certificate_can_be_verified_from_the_outputs_alone(seed: int) -> None:
    problem = random_problem(seed)
    result = solve(problem, on_infeasible="relax")
    again = ak.verify_certificate(result, problem.scores, problem.groups, problem.criteria, **problem.options())
    assert again == result.certificate


def test_a_false_claim_does_not_pass_verification() -> None:
    groups, criterion = ak.Groups({"sex": list("ffmm")}), ak.ECP("sex", tolerance=0.1)
    result = ak.project([0.0, 0.2, 0.8, 1.0], groups, criterion)
    moved = dataclasses.replace(result, scores=result.scores + np.array([0.0, 0.0, 0.1, 0.1]))
    assert ak.verify_certificate(moved, [0.0, 0.2, 0.8, 1.0], groups, criterion).max_violation == pytest.approx(0.1)
    constant = dataclasses.replace(result, scores=np.full(4, 0.5))
    assert ak.verify_certificate(constant, [0.0, 0.2, 0.8, 1.0], groups, criterion).duality_gap > 0.03
    with pytest.raises(InputError, match=r"result\.duals must have 2 multipliers.*got 1"):
        ak.verify_certificate(result, [0.0, 0.2, 0.8, 1.0], groups, ak.EER("sex", tolerance=0.1), labels=[0, 1, 0, 1])


def test_the_certificate_sees_scores_that_break_a_constraint() -> None:
    from auditkit.constraints import build_constraints
    from auditkit.projection import build_problem
    from auditkit.results import certify

    groups = ak.Groups({"sex": list("fm")})
    system = build_constraints(groups, [ak.ECP("sex", tolerance=0.1)])
    problem = build_problem(torch.tensor([0.0, 1.0], dtype=torch.float64), system)
    certificate = certify(problem, torch.tensor([0.0, 1.0], dtype=torch.float64), np.zeros(1))
    assert certificate.max_violation == pytest.approx(0.9)
    optimum = certify(problem, torch.tensor([0.45, 0.55], dtype=torch.float64), np.array([-0.45]))
    assert optimum.max_violation <= 1e-15
    assert optimum.duality_gap == pytest.approx(0.0, abs=1e-15)
    assert optimum.stationarity == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([0.1, float("nan")], {}, r"scores holds 1 NaN or infinite values \(first at row 1\)"),
        (torch.tensor([float("inf"), 0.1]), {}, r"scores hold 1 NaN or infinite values \(first at row 0\)"),
        ([0.1], {}, "scores must have 2 rows"),
        ([[0.1, 0.2]], {}, "scores must have 2 rows, as many as groups has; got 1"),
        ([[[0.1]], [[0.2]]], {}, r"scores must have shape \(n,\).*\(2, 1, 1\)"),
        (["a", "b"], {}, "scores must be numbers"),
        ([0.1, 0.2], {"bounds": (1, 0)}, "bounds cross"),
        ([0.1, 0.2], {"bounds": 0.5}, r"bounds must be a pair \(lower, upper\)"),
        ([0.1, 0.2], {"bounds": (0, float("inf"))}, "upper bound must be finite"),
        ([0.1, 0.2], {"weights": [-1, 1]}, "weights must be non-negative"),
        ([0.1, 0.2], {"solver": "magic"}, "solver must be one of 'cvxpy', 'newton', 'osqp'; got 'magic'"),
        ([0.1, 0.2], {"on_infeasible": "ignore"}, "on_infeasible must be 'raise' or 'relax'"),
    ],
)
def test_wrong_arguments_are_refused(scores: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ak.project(scores, ak.Groups({"sex": ["f", "m"]}), ak.ECP("sex", tolerance=0.1), **options)


def test_labels_that_are_needed_must_be_given() -> None:
    with pytest.raises(InputError, match=r"labels are needed by EER\(sex\); pass labels="):
        ak.project([0.1, 0.2], ak.Groups({"sex": ["f", "m"]}), ak.EER("sex", tolerance=0.1))
