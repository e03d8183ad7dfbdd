"""Decision thresholds: of least cost, within tolerance, the same for the same person, and guaranteed or refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import milp

import auditkit as ak
from auditkit.constraints import build_constraints, measure_gaps
from auditkit.deployment import DecisionThresholds, ThresholdRule, calibrate_decisions, threshold_search
from auditkit.errors import InfeasibleError, InputError, InsufficientDataError

CRITERIA = {
    "selection rate": [ak.ECP("sex", tolerance=0.05)],
    "true positive rate": [ak.equal_opportunity("sex", tolerance=0.03)],
    "false positive rate": [ak.equal_opportunity("sex", tolerance=0.03, positive=0)],
    "both rates": [ak.equalized_odds("sex", tolerance=0.04)],
    "intersectional": [ak.ECP(("sex", "race"), tolerance=0.04)],
    "marginal": [ak.ECP("sex", tolerance=0.04), ak.equal_opportunity("race", tolerance=0.05)],
    "residuals": [ak.EER("sex", tolerance=0.05)],
}
every_criterion = pytest.mark.parametrize("criteria", CRITERIA.values(), ids=CRITERIA.keys())


def draw(rng: np.random.Generator, n: int, *, steps: int | None = None) -> tuple[np.ndarray, np.ndarray, ak.Groups]:
    """Rows whose score, base rate and odds differ between the groups; with ``steps``, that many distinct scores."""
    sex, race = rng.choice(["f", "m"], n), rng.choice(["a", "b"], n, p=[0.7, 0.3])
    labels = (rng.random(n) < 0.3 + 0.25 * (sex == "m")).astype(float)
    scores = 0.25 + 0.3 * labels + 0.12 * (sex == "m") - 0.05 * (race == "b") + rng.normal(0, 0.15, n)
    scores = np.clip(scores, 0, 1)
    return (np.round(scores * steps) / steps if steps else scores), labels, ak.Groups({"sex": sex, "race": race})


def error_rate(chance: np.ndarray, labels: np.ndarray, costs: tuple[float, float] = (1, 1)) -> float:
    return float(np.where(labels == 1, costs[1] * (1 - chance), costs[0] * chance).mean())


@every_criterion
@pytest.mark.parametrize("randomize", [True, False], ids=["randomised", "single"])
def test_decisions_are_within_the_tolerances(criteria: list, randomize: bool, rng: np.random.Generator) -> None:
    scores, labels, groups = draw(rng, 600)
    rules = calibrate_decisions(scores, groups, criteria, labels=labels, randomize=randomize)
    chance = rules.chances(scores, groups)
    for criterion in criteria:
        gap = measure_gaps(chance, groups, [criterion], labels=labels)[criterion.name]
        assert gap <= criterion.tolerance + 1e-9
    assert rules.cost == pytest.approx(error_rate(chance, labels), abs=1e-12)
    if not randomize:
        assert set(np.unique(chance)) <= {0.0, 1.0}


@every_criterion
@pytest.mark.parametrize("costs", [(1.0, 1.0), (0.3, 2.0)])
def test_randomised_thresholds_cost_what_cvxpy_finds_over_monotone_chances(
    criteria: list, costs: tuple[float, float], rng: np.random.Generator
) -> None:
    """The oracle knows nothing of thresholds: a chance per row that does not fall with the score of its group."""
    scores, labels, groups = draw(rng, 200)
    weights = rng.uniform(0.5, 2, 200)
    chance, rows = cp.Variable(200), []
    columns = sorted({name for criterion in criteria for name in criterion.attributes})
    cells = groups.cells(columns).index
    for cell in np.unique(cells):
        mine = np.flatnonzero(cells == cell)
        order = mine[np.argsort(scores[mine])]
        rows += [chance[order[1:]] >= chance[order[:-1]]]
        rows += [chance[a] == chance[b] for a, b in itertools.pairwise(order) if scores[a] == scores[b]]
    system = build_constraints(groups, criteria, labels=labels, weights=weights)
    means = system.matrix @ system.moment_matrix(weights).toarray()
    rows += [means @ chance <= system.upper, means @ chance >= system.lower, chance >= 0, chance <= 1]
    price = weights * np.where(labels == 1, -costs[1], costs[0])
    constant = costs[1] * (weights * labels).sum()
    wanted = cp.Problem(cp.Minimize(price @ chance), rows).solve(solver="CLARABEL")
    rules = calibrate_decisions(scores, groups, criteria, labels=labels, weights=weights, costs=costs)
    assert rules.cost == pytest.approx((wanted + constant) / weights.sum(), abs=1e-6)


@pytest.mark.parametrize("name", ["selection rate", "true positive rate", "both rates"])
def test_single_thresholds_are_the_best_of_all(name: str, rng: np.random.Generator) -> None:
    scores, labels, groups = draw(rng, 120, steps=20)
    criteria, female = CRITERIA[name], groups.codes("sex") == 0
    cuts = [-np.inf, *(np.unique(scores) + 0.01)]
    best = np.inf
    for low, high in itertools.product(cuts, cuts):
        decided = (scores >= np.where(female, low, high)).astype(float)
        gaps = measure_gaps(decided, groups, criteria, labels=labels)
        if all(gaps[c.name] <= c.tolerance + 1e-12 for c in criteria):
            best = min(best, error_rate(decided, labels))
    assert calibrate_decisions(scores, groups, criteria, labels=labels, randomize=False).cost == pytest.approx(best)


@pytest.mark.parametrize("tolerance", [0.0, 0.003, 0.05])
@pytest.mark.parametrize("name", ["selection rate", "true positive rate", "both rates", "more than labels"])
def test_pairs_of_thresholds_cost_what_the_program_of_all_cells_finds(
    name: str, tolerance: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, labels, groups = draw(rng, 240, steps=60)
    known = {**CRITERIA, "more than labels": [ak.EER("sex", tolerance=0, form="pairwise")]}
    criteria = [criterion.with_tolerance(tolerance) for criterion in known[name]]

    def cost() -> float | None:
        try:
            return calibrate_decisions(scores, groups, criteria, labels=labels, randomize=False).cost
        except InfeasibleError:
            return None

    paired = cost()
    monkeypatch.setattr(threshold_search, "is_monotone", lambda _: False)
    program = cost()
    assert (paired is None) == (program is None)
    assert paired == pytest.approx(program, abs=1e-12)


def test_single_thresholds_of_two_groups_take_no_search_of_branches(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the program of all cells is not done in a minute here")

    monkeypatch.setattr(threshold_search.ThresholdProgram, "_choose", refuse)
    scores, labels, groups = rng.random(20_000), (rng.random(20_000) < 0.4).astype(float), rng.integers(0, 2, 20_000)
    rules = calibrate_decisions(
        scores, ak.Groups({"sex": groups}), ak.ECP("sex", tolerance=0), labels=labels, randomize=False
    )
    rates = [rules.chances(scores, ak.Groups({"sex": groups}))[groups == k].mean() for k in (0, 1)]
    assert rates[0] == pytest.approx(rates[1], abs=1e-12)


def test_single_thresholds_at_zero_tolerance_are_exact_or_decide_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two best rows alone leave a gap of 4e-7; a solver that uses up its slack of 1e-6 takes that for none."""

    def solve(cost: np.ndarray, *, constraints: list, **options: object) -> object:
        (matrix, lower, upper), one = constraints
        return milp(cost, constraints=[(matrix, lower - 1e-6, upper + 1e-6), one], **options)

    monkeypatch.setattr(threshold_search, "milp", solve)
    groups = ak.Groups({"sex": ["f"] * 1500 + ["m"] * 1499 + ["x"] * 1500})
    best = np.isin(np.arange(4499), (0, 1500, 2999)).astype(float)
    rules = calibrate_decisions(best, groups, ak.ECP("sex", tolerance=0), labels=best, randomize=False)
    assert rules.cost == pytest.approx(3 / 4499)
    assert not rules.chances(best, groups).any()


@pytest.mark.parametrize(
    ("criterion", "constraint"),
    [
        (ak.ECP("sex", tolerance=0), "demographic_parity"),
        (ak.equal_opportunity("sex", tolerance=0), "true_positive_rate_parity"),
        (ak.equal_opportunity("sex", tolerance=0, positive=0), "false_positive_rate_parity"),
        (ak.equalized_odds("sex", tolerance=0), "equalized_odds"),
    ],
)
def test_at_zero_tolerance_it_is_fairlearns_optimum(
    criterion: ak.Criterion, constraint: str, rng: np.random.Generator
) -> None:
    """fairlearn interpolates on a grid of 1,000 rates, so that it can be worse by about that much, never better."""
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Scores(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def fit(self, features: np.ndarray, labels: np.ndarray) -> Scores:
            return self

        def predict_proba(self, features: np.ndarray) -> np.ndarray:
            return np.column_stack([1 - features[:, 0], features[:, 0]])

    scores, labels, groups = draw(rng, 1500)
    sex = groups.values("sex")
    theirs = ThresholdOptimizer(estimator=Scores(), constraints=constraint, prefit=True, predict_method="predict_proba")
    theirs.fit(scores[:, None], labels, sensitive_features=sex)
    chance = theirs._pmf_predict(scores[:, None], sensitive_features=sex)[:, 1]
    rules = calibrate_decisions(scores, groups, criterion, labels=labels)
    assert rules.cost <= error_rate(chance, labels) + 1e-9
    assert rules.cost == pytest.approx(error_rate(chance, labels), abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from([0.0, 0.02, 0.3]), st.sampled_from([1, 3, 50]))
def test_cost_falls_as_the_tolerance_grows(seed: int, n: int, tolerance: float, steps: int) -> None:
    """Also with few rows, ties, and groups whose labels are all equal."""
    scores, labels, groups = draw(np.random.default_rng(seed), n, steps=steps)
    tight, loose = (
        calibrate_decisions(scores, groups, ak.ECP("sex", tolerance=epsilon), labels=labels)
        for epsilon in (tolerance, tolerance + 0.1)
    )
    assert loose.cost <= tight.cost + 1e-9
    single = calibrate_decisions(
        scores, groups, ak.ECP("sex", tolerance=tolerance), labels=labels, randomize=False
    )  # nobody selected is always allowed
    assert single.cost >= tight.cost - 1e-9
    for rules in (tight, single):
        gap = measure_gaps(rules.chances(scores, groups), groups, rules.criteria)["ECP(sex)"]
        assert np.isnan(gap) or gap <= tolerance + 1e-9


def test_the_population_rates_are_within_tolerance_as_often_as_promised() -> None:
    rng = np.random.default_rng(3)
    population, criterion = draw(rng, 100_000), ak.equalized_odds("sex", tolerance=0.1)
    exceeded = 0
    for _ in range(40):
        scores, labels, groups = draw(rng, 3000)
        rules = calibrate_decisions(scores, groups, criterion, labels=labels, confidence=0.95)
        assert rules.is_guaranteed
        chance = rules.chances(population[0], population[2])
        gap = measure_gaps(chance, population[2], [criterion], labels=population[1])[criterion.name]
        exceeded += gap > criterion.tolerance
    assert exceeded <= 6  # 5 % of 40 is 2; P(more than 6) < 1 %


def test_too_few_rows_are_refused_with_the_number_needed(rng: np.random.Generator) -> None:
    scores, labels, groups = draw(rng, 300)
    criterion = ak.ECP("sex", tolerance=0.05)
    with pytest.raises(InsufficientDataError, match="300 rows cannot guarantee 1 of 1 gaps") as caught:
        calibrate_decisions(scores, groups, criterion, labels=labels, confidence=0.95)
    needed = caught.value.rows_needed["f − m"]
    scores, labels, groups = draw(rng, int(2.5 * needed))
    assert calibrate_decisions(scores, groups, criterion, labels=labels, confidence=0.95).is_guaranteed
    scores, labels, groups = draw(rng, 300)
    equal = calibrate_decisions(scores, groups, criterion, labels=labels, confidence=0.95, on_insufficient="equalize")
    assert not equal.is_guaranteed
    assert measure_gaps(equal.chances(scores, groups), groups, [criterion])["ECP(sex)"] <= 1e-9


def test_draws_are_repeated_by_seed_and_by_person(rng: np.random.Generator) -> None:
    scores, labels, groups = draw(rng, 2000)
    rules = calibrate_decisions(scores, groups, ak.equalized_odds("sex", tolerance=0), labels=labels)
    assert rules.is_randomized
    chance = rules.chances(scores, groups)
    uniforms = rng.random(2000)
    np.testing.assert_array_equal(rules.apply(scores, groups, uniforms=uniforms), chance > uniforms)
    np.testing.assert_array_equal(rules.apply(scores, groups, seed=4), rules.apply(scores, groups, seed=4))
    ids = np.array([f"person {k}" for k in range(2000)])
    decided = rules.apply(scores, groups, row_ids=ids)
    shuffled = rng.permutation(2000)[:500]
    np.testing.assert_array_equal(
        rules.apply(scores[shuffled], groups.take(shuffled), row_ids=ids[shuffled]), decided[shuffled]
    )
    uncertain = (chance > 0) & (chance < 1)
    other = rules.apply(scores, groups, row_ids=ids, seed=1)
    assert (other != decided)[uncertain].any()
    np.testing.assert_array_equal(other[~uncertain], decided[~uncertain])
    with pytest.raises(InputError, match="these thresholds are randomised; pass seed=, uniforms= or row_ids="):
        rules.apply(scores, groups)
    with pytest.raises(InputError, match="leave out seed and row_ids"):
        rules.apply(scores, groups, uniforms=uniforms, seed=1)
    with pytest.raises(InputError, match=r"uniforms must lie in \[0, 1\)"):
        rules.apply(scores, groups, uniforms=uniforms + 1)
    with pytest.raises(InputError, match=r"row_ids must have shape \(2000,\)"):
        rules.apply(scores, groups, row_ids=ids[:3])
    with pytest.raises(InputError, match="seed must lie between 0 and 9999999999999999"):
        rules.apply(scores, groups, row_ids=ids, seed=-1)


def test_hashed_draws_are_uniform_and_known() -> None:
    from auditkit.deployment.thresholds import hash_to_unit

    draws = hash_to_unit(np.arange(20_000), n_rows=20_000, seed=7)
    counts = np.bincount((draws * 20).astype(int), minlength=20)
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # χ² with 19 degrees of freedom, p = 0.001
    np.testing.assert_array_equal(hash_to_unit(["5", "17"], n_rows=2, seed=7), draws[[5, 17]])
    assert hash_to_unit(["a"], n_rows=1, seed=0)[0] == pytest.approx(KNOWN_DRAW, abs=1e-15)


KNOWN_DRAW = 0.8158325094225757
"""Of the id "a" under seed 0: what was decided once stays decided in later versions."""


@every_criterion
def test_saved_thresholds_are_the_same(criteria: list, rng: np.random.Generator, tmp_path: Path) -> None:
    scores, labels, groups = draw(rng, 3000)
    rules = calibrate_decisions(
        scores, groups, criteria, labels=labels, confidence=0.9, on_insufficient="equalize", on_unseen="pooled"
    )
    rules.save(tmp_path / "thresholds.json")
    restored = DecisionThresholds.load(tmp_path / "thresholds.json")
    assert restored.to_dict() == rules.to_dict()
    np.testing.assert_array_equal(restored.chances(scores, groups), rules.chances(scores, groups))


def test_a_rule_for_nobody_is_saved_as_json(tmp_path: Path) -> None:
    groups = ak.Groups({"sex": ["f", "m"] * 10})
    rules = calibrate_decisions(np.linspace(0, 1, 20), groups, ak.ECP("sex", tolerance=0.1), labels=np.zeros(20))
    rules.save(tmp_path / "file.json")
    assert '"inf"' in (tmp_path / "file.json").read_text()
    assert not DecisionThresholds.load(tmp_path / "file.json").chances(np.ones(20), groups).any()


@pytest.mark.parametrize("content", ["", "{}", '{"schema": "auditkit.calibration/1"}', "[1]"])
def test_a_file_without_thresholds_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(InputError, match=r"holds no decision thresholds of schema 'auditkit.decision_thresholds/1'"):
        DecisionThresholds.load(tmp_path / "file.json")


def test_a_combination_never_seen_is_refused_or_pooled(rng: np.random.Generator) -> None:
    scores, labels, groups = draw(rng, 400)
    stranger = ak.Groups({"sex": ["x", "x"]})
    criterion = ak.ECP("sex", tolerance=0.1)
    with pytest.raises(InputError, match=r"1 combinations of \('sex',\).*pass on_unseen='pooled'"):
        calibrate_decisions(scores, groups, criterion, labels=labels).chances([0.1, 0.9], stranger)
    pooled = calibrate_decisions(scores, groups, criterion, labels=labels, on_unseen="pooled")
    assert pooled.chances([0.1, 0.9], stranger).tolist() == [0.0, 1.0]
    cuts = np.unique(scores)
    best = min(error_rate((scores >= cut).astype(float), labels) for cut in cuts)
    assert error_rate((scores >= pooled.pooled).astype(float), labels) == pytest.approx(best)


@pytest.mark.parametrize("on_unseen", ["raise", "pooled"])
@pytest.mark.parametrize("name", ["intersectional", "both rates"])
def test_onnxruntime_decides_the_same(name: str, on_unseen: str, rng: np.random.Generator, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    scores, labels, groups = draw(rng, 2000)
    rules = calibrate_decisions(scores, groups, CRITERIA[name], labels=labels, on_unseen=on_unseen)
    rules.to_onnx(tmp_path / "thresholds.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "thresholds.onnx")
    uniforms = rng.random(2000)
    feed = {"scores": scores, "uniforms": uniforms, **{c: groups.values(c) for c in rules.columns}}
    chance, decision = session.run(["chance", "decision"], feed)
    np.testing.assert_array_equal(chance, rules.chances(scores, groups))
    np.testing.assert_array_equal(decision, rules.apply(scores, groups, uniforms=uniforms))
    feed["sex"] = np.array(["x"] * 2000, dtype=object)
    chance, decision = session.run(["chance", "decision"], feed)
    if on_unseen == "raise":
        assert np.isnan(chance).all()
        assert (decision == -1).all()
    else:
        np.testing.assert_array_equal(decision, scores >= rules.pooled)


def test_what_is_wrong_is_named(rng: np.random.Generator) -> None:
    scores, labels, groups = draw(rng, 50)
    criterion = ak.ECP("sex", tolerance=0.1)
    with pytest.raises(InputError, match="labels must be binary"):
        calibrate_decisions(scores, groups, criterion, labels=labels + 0.5)
    with pytest.raises(InputError, match="costs must be two numbers ≥ 0"):
        calibrate_decisions(scores, groups, criterion, labels=labels, costs=(0, 0))
    with pytest.raises(InputError, match="on_unseen must be one of raise, pooled; got 'keep'"):
        calibrate_decisions(scores, groups, criterion, labels=labels, on_unseen="keep")
    inferred = ak.Groups(probabilities={"race": np.full((50, 2), 0.5)})
    with pytest.raises(InputError, match="attribute 'race' is known by its probabilities only"):
        calibrate_decisions(scores, inferred, ak.ECP("race", tolerance=0.1), labels=labels)
    tied = ak.EER("sex", tolerance=0.01)
    with pytest.raises(InfeasibleError, match=r"no thresholds per group satisfy EER\(sex\).*randomize=True"):
        calibrate_decisions(np.ones(50), groups, tied, labels=(np.arange(50) % 2).astype(float), randomize=False)
    with pytest.raises(InputError, match="a threshold rule needs falling thresholds"):
        ThresholdRule((0.1, 0.2), (1.0, 0.5))
