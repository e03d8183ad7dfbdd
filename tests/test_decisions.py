"""Decision rules, rates, differences and ratios against scikit-learn by mask, fairlearn and simulation."""

from __future__ import annotations

import numpy as np
import pytest

import auditkit as ak
from auditkit.auditing import audit
from auditkit.decisions import RATES, decide
from auditkit.errors import InputError


@pytest.fixture
def table(rng: np.random.Generator) -> tuple:
    sex = rng.choice(["f", "m", "x"], 600, p=[0.5, 0.4, 0.1])
    labels = (rng.random(600) < 0.4).astype(float)
    scores = np.clip(0.2 + 0.4 * labels + 0.1 * (sex == "m") + rng.normal(scale=0.3, size=600), 0, 1)
    weights = rng.exponential(size=600)
    return scores, labels, sex, weights


@pytest.mark.parametrize("weighted", [False, True])
def test_every_rate_equals_scikit_learn_by_mask(table: tuple, weighted: bool) -> None:
    from sklearn.metrics import accuracy_score, precision_score, recall_score

    scores, labels, sex, weights = table
    w = weights if weighted else None
    criterion = ak.ECP("sex", tolerance=1)
    outcome = audit(scores, ak.Groups({"sex": sex}), criterion, labels=labels, threshold=0.5, weights=w)
    chosen = (scores >= 0.5).astype(float)
    for group in outcome.decisions[0].groups:
        rows = sex == group.group
        options = {"sample_weight": None if w is None else w[rows]}
        y, d = labels[rows], chosen[rows]
        expected = {
            "selection_rate": np.average(d, weights=options["sample_weight"]),
            "true_positive_rate": recall_score(y, d, **options),
            "false_positive_rate": 1 - recall_score(1 - y, 1 - d, **options),
            "precision": precision_score(y, d, **options),
            "accuracy": accuracy_score(y, d, **options),
        }
        for name in RATES:
            assert getattr(group, name) == pytest.approx(expected[name], abs=1e-12)
            low, high = group.intervals[name]
            assert low <= expected[name] <= high


def test_gaps_and_comparisons_follow_from_the_rates(table: tuple) -> None:
    from fairlearn.metrics import MetricFrame, true_positive_rate

    scores, labels, sex, _ = table
    outcome = audit(scores, ak.Groups({"sex": sex}), ak.ECP("sex", tolerance=1), labels=labels, threshold=0.5)
    found = outcome.decisions[0]
    theirs = MetricFrame(
        metrics=true_positive_rate, y_true=labels, y_pred=(scores >= 0.5).astype(int), sensitive_features=sex
    )
    assert found.gaps["true_positive_rate"] == pytest.approx(theirs.difference(), abs=1e-12)
    rates = {group.group: group for group in found.groups}
    for pair in found.comparisons:
        one, other = (getattr(rates[name], pair.rate) for name in (pair.first, pair.second))
        assert pair.difference == pytest.approx(one - other)
        assert pair.ratio == pytest.approx(one / other)
        assert pair.interval[0] < pair.difference < pair.interval[1]
        assert pair.ratio_interval[0] < pair.ratio < (pair.ratio_interval[1] or np.inf)
    assert len(found.comparisons) == 3 * len(RATES)


def test_a_group_without_positives_has_no_rate_and_says_so() -> None:
    sex, labels = ["f"] * 20 + ["m"] * 20, [0] * 20 + [0, 1] * 10
    outcome = audit(
        np.linspace(0, 1, 40), ak.Groups({"sex": sex}), ak.ECP("sex", tolerance=1), labels=labels, threshold=0.5
    )
    found = outcome.decisions[0]
    assert found.groups[0].true_positive_rate is None
    assert "true_positive_rate of f" in found.undefined
    assert "true_positive_rate" not in found.gaps
    pair = next(pair for pair in found.comparisons if pair.rate == "true_positive_rate")
    assert (pair.difference, pair.interval, pair.ratio) == (None, None, None)


def test_rates_of_nobody_selected_have_intervals_but_no_ratio() -> None:
    outcome = audit(np.zeros(40), ak.Groups({"g": [0, 1] * 20}), ak.ECP("g", tolerance=1), threshold=0.5)
    found = outcome.decisions[0]
    assert found.worst_impact_ratio is None
    assert found.groups[0].impact_ratio is None
    assert found.comparisons[0].interval[1] > 0.1
    assert found.comparisons[0].ratio_interval == (0.0, None)


def test_all_comparisons_of_a_table_hold_at_once() -> None:
    rng, groups, runs = np.random.default_rng(3), ak.Groups({"g": np.repeat([0, 1, 2, 3], 60)}), 300
    labels = np.tile([0.0, 1.0], 120)
    held = 0
    for _ in range(runs):
        scores = (rng.random(240) < 0.2 + 0.4 * labels).astype(float)
        found = audit(scores, groups, ak.ECP("g", tolerance=1), labels=labels, threshold=0.5).decisions[0]
        known = [pair for pair in found.comparisons if pair.interval is not None]
        held += all(
            pair.interval[0] <= 0 <= pair.interval[1]
            and pair.ratio_interval[0] <= 1 <= (pair.ratio_interval[1] or np.inf)
            for pair in known
        )
    assert held / runs >= 0.93


def test_the_median_selects_those_above_it() -> None:
    made = decide(np.array([1.0, 2.0, 3.0, 3.0, 9.0]), "median")
    assert made.values.tolist() == [0, 0, 0, 0, 1]
    assert made.threshold == 3
    assert made.rule == "a score above the full-sample median (3)"


@pytest.mark.parametrize(("rule", "places"), [("top 2", 2), ("top 40%", 2), ("top 100%", 5)])
def test_places_go_to_the_highest_scores(rule: str, places: int) -> None:
    made = decide(np.array([0.1, 0.5, 0.3, 0.9, 0.2]), rule)
    assert made.values.sum() == places
    assert made.values[[3, 1]].tolist() == [1, 1]


def test_equal_scores_share_the_places_that_are_left() -> None:
    assert decide(np.array([0.9, 0.5, 0.5, 0.1]), "top 2").values.tolist() == [1, 0.5, 0.5, 0]


@pytest.mark.parametrize("rule", ["top", "top 0", "top 2.5", "best 3", "top x%", "top 101%", "top -1", "nan", np.inf])
def test_unknown_rules_are_refused(rule: str | float) -> None:
    with pytest.raises(
        InputError, match='threshold must be a number, "median", "top K" such as "top 100", or "top P%"'
    ):
        decide(np.arange(5.0), rule)


def test_decisions_are_given_or_made_but_not_both() -> None:
    scores, groups = np.linspace(0, 1, 40), ak.Groups({"g": [0, 1] * 20})
    found = audit(scores, groups, ak.ECP("g", tolerance=1), decisions=np.arange(40) % 2).decisions[0]
    assert [group.selection_rate for group in found.groups] == [0, 1]
    with pytest.raises(InputError, match="threshold is 0.5, and decisions are given as well; keep one of them"):
        audit(scores, groups, ak.ECP("g", tolerance=1), threshold=0.5, decisions=np.arange(40) % 2)


@pytest.mark.parametrize("rule", ["top 9", "top 1%"])
def test_there_must_be_rows_for_the_places(rule: str) -> None:
    with pytest.raises(InputError, match=f'"top K" with 1 ≤ K ≤ 5 rows, or "top P%"; got {rule!r}'):
        decide(np.arange(5.0), rule)


def test_the_audit_says_which_rule_decided(table: tuple) -> None:
    scores, labels, sex, _ = table
    criterion = ak.ECP("sex", tolerance=1)
    outcome = audit(scores, ak.Groups({"sex": sex}), criterion, labels=labels, threshold="top 60")
    assert outcome.decision_rule == "one of the 60 highest scores (top 60)"
    selected = sum(group.selection_rate * group.count for group in outcome.decisions[0].groups)
    assert selected == pytest.approx(60)
    assert audit(scores, ak.Groups({"sex": sex}), criterion, threshold=0.5).decision_rule == "a score of 0.5 or more"


def test_rates_of_clustered_rows_have_the_variance_of_their_clusters() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(200), 5)
    taste = rng.random(200)[person]
    scores, sex = (rng.random(1000) < taste).astype(float), np.repeat(["f", "m"], 500)
    alone, clustered = (
        audit(scores, ak.Groups({"sex": sex}), ak.ECP("sex", tolerance=1), threshold=0.5, clusters=c).decisions[0]
        for c in (None, person)
    )
    for one, other in zip(alone.groups, clustered.groups, strict=True):
        assert one.selection_rate == pytest.approx(other.selection_rate)
        assert np.ptp(other.interval) > 1.2 * np.ptp(one.interval)


def test_a_group_has_one_name_in_findings_and_decisions() -> None:
    groups = ak.Groups({"age": [0.0, 1.0] * 20, "site": [2.5, 2.5, 3.0, 3.0] * 10})
    scores = np.linspace(0, 1, 40)
    outcome = ak.audit(scores, groups, ak.ECP(("age", "site"), tolerance=0.1), threshold=0.5)
    named = [cell.group for cell in outcome.findings[0].cells]
    assert named == ["0 × 2.5", "0 × 3", "1 × 2.5", "1 × 3"]
    assert [group.group for group in outcome.decisions[0].groups] == named
