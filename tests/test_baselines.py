"""Recalibration, repair, reductions, penalties and batchwise projection, each against an independent computation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

import auditkit as ak
from auditkit.baselines import METHODS, OPTIONAL, FitContext, Sample, find_method
from auditkit.baselines.penalty import Penalty, rank
from auditkit.baselines.projections import BatchProjection
from auditkit.baselines.repair import find_barycentre
from auditkit.constraints import measure_gaps
from auditkit.errors import InputError, MissingExtraError
from auditkit.finetuning import HeadRows
from auditkit.heads import FairHead

QUICK = ak.TuneConfig(epochs=5, learning_rate=0.1)


def make_sample(n: int, seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    sex = rng.choice(["f", "m"], n)
    features = rng.normal(size=(n, 3))
    chance = 1 / (1 + np.exp(-features[:, 0] - 0.8 * (sex == "m") + 0.4))
    labels = (rng.random(n) < chance).astype(float)
    return Sample(chance**1.5, labels, ak.Groups({"sex": sex}), features)


def make_context(criteria: Any = None, **changes: Any) -> FitContext:
    listed = criteria or (ak.ECP("sex", tolerance=0.02),)
    return FitContext(make_sample(300, 0), make_sample(900, 1), tuple(listed), replace(QUICK, **changes), None)


def test_mean_recalibration_leaves_no_mean_residual_in_any_group() -> None:
    context = make_context([ak.EER("sex", tolerance=0.01)])
    context = replace(context, bounds=(-10.0, 10.0))
    rows = context.calibrate
    moved = find_method("recalibration_mean").fit(context)(rows).scores
    assert moved is not None
    for value in ("f", "m"):
        mine = rows.groups.values("sex") == value
        assert (rows.labels[mine] - moved[mine]).mean() == pytest.approx(0, abs=1e-12)


def test_isotonic_recalibration_is_scikit_learn_by_mask() -> None:
    from sklearn.isotonic import IsotonicRegression

    context, test = make_context(), make_sample(400, 2)
    rows = context.calibrate
    found = find_method("recalibration_isotonic").fit(context)(test).scores
    assert found is not None
    for value in ("f", "m"):
        mine, theirs = rows.groups.values("sex") == value, test.groups.values("sex") == value
        curve = IsotonicRegression(out_of_bounds="clip").fit(rows.scores[mine], rows.labels[mine])
        np.testing.assert_allclose(found[theirs], curve.predict(test.scores[theirs]), atol=1e-12)


def test_small_groups_use_the_curve_of_all_rows() -> None:
    from sklearn.isotonic import IsotonicRegression

    context, test = make_context(), make_sample(200, 2)
    sex = context.calibrate.groups.values("sex").copy()
    sex[:30] = "x"
    context = replace(context, calibrate=replace(context.calibrate, groups=ak.Groups({"sex": sex})))
    rare = replace(test, groups=ak.Groups({"sex": ["x"] * test.n_rows}))
    found = find_method("recalibration_isotonic").fit(context)(rare).scores
    curve = IsotonicRegression(out_of_bounds="clip").fit(context.calibrate.scores, context.calibrate.labels)
    np.testing.assert_allclose(found, curve.predict(test.scores), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(2, 4), st.integers(0, 10_000))
def test_repair_of_equal_sizes_averages_the_order_statistics(size: int, groups: int, seed: int) -> None:
    """With equally many distinct scores per group, the barycentre's k-th score is the mean of the k-th scores."""
    scores = np.random.default_rng(seed).normal(size=(groups, size))
    names = np.repeat([f"g{i}" for i in range(groups)], size)
    repaired = find_barycentre(scores.ravel(), names).repair(scores.ravel(), names).reshape(groups, size)
    expected = np.sort(scores, axis=1).mean(axis=0)
    for row, before in zip(repaired, scores, strict=True):
        np.testing.assert_allclose(row[np.argsort(before)], expected, atol=1e-9)


def test_repair_of_unequal_sizes_is_the_weighted_mean_of_quantile_functions() -> None:
    rng = np.random.default_rng(0)
    parts = {"a": rng.gamma(2, size=700), "b": rng.normal(3, 2, size=300)}
    scores, names = np.concatenate(list(parts.values())), np.repeat(list(parts), [700, 300])
    repaired = find_barycentre(scores, names).repair(scores, names)
    grid = (np.arange(20_000) + 0.5) / 20_000
    barycentre = 0.7 * np.quantile(parts["a"], grid, method="hazen") + 0.3 * np.quantile(
        parts["b"], grid, method="hazen"
    )
    for name in parts:
        assert wasserstein_distance(repaired[names == name], barycentre) < 0.01
    assert wasserstein_distance(parts["a"], barycentre) > 0.2


def test_repair_of_one_group_changes_nothing() -> None:
    scores = np.random.default_rng(0).normal(size=50).round(1)
    names = np.array(["a"] * 50)
    np.testing.assert_allclose(find_barycentre(scores, names).repair(scores, names), scores, atol=1e-12)


def test_repair_goes_as_far_as_the_tolerance_asks() -> None:
    context = make_context()
    rows = context.calibrate
    before = measure_gaps(rows.scores, rows.groups, context.criteria)["ECP(sex)"]
    scores = find_method("wasserstein_repair").fit(context)(rows).scores
    after = measure_gaps(scores, rows.groups, context.criteria)["ECP(sex)"]
    assert before > 0.05
    assert 0.01 < after <= 0.02


def test_batchwise_projection_satisfies_every_batch_and_not_their_union() -> None:
    criteria = (ak.ECP("sex", tolerance=0.0),)
    context, test = make_context(criteria), make_sample(1000, 3)
    found = BatchProjection(rows=100).fit(context)(test).scores
    assert found is not None
    order = np.random.default_rng(context.config.seed).permutation(1000)
    for start in range(0, 1000, 100):
        rows = order[start : start + 100]
        assert measure_gaps(found[rows], test.groups.take(rows), criteria)["ECP(sex)"] == pytest.approx(0, abs=1e-9)
    assert measure_gaps(found, test.groups, criteria)["ECP(sex)"] > 1e-4


def test_penalty_rank_is_the_excess_over_one_error_by_hand() -> None:
    context = make_context()
    rows = context.tune
    first, second = (rows.scores[rows.groups.values("sex") == value] for value in ("f", "m"))
    error = np.sqrt(first.var() / len(first) + second.var() / len(second))
    expected = abs(first.mean() - second.mean()) - 0.02 - error
    assert expected > 0
    assert rank(rows.scores, context)[0] == pytest.approx(expected, abs=1e-12)


def few_weights(*values: float) -> Penalty:
    return type("Few", (Penalty,), {"weights": values})(blind=False)


def test_penalty_weight_is_the_best_ranked_out_of_fold() -> None:
    method, context = few_weights(0.0, 30.0, 3000.0), make_context(epochs=15)
    rows, ranks = context.tune, {}
    folds = np.random.default_rng(context.config.seed).permutation(rows.n_rows) % 3
    for weight in method.weights:
        scores = np.empty(rows.n_rows)
        for fold in range(3):
            seen = replace(context, tune=rows.take(np.flatnonzero(folds != fold)))
            held = np.flatnonzero(folds == fold)
            scores[held] = few_weights(weight).fit(seen)(rows.take(held)).scores
        ranks[weight] = rank(scores, context)
    best = min(ranks, key=ranks.__getitem__)
    assert best == 30.0, "neither the least nor the largest, so that the test tells them apart"
    chosen, expected = (each.fit(context)(context.calibrate).scores for each in (method, few_weights(best)))
    np.testing.assert_array_equal(chosen, expected)


def test_penalty_of_changing_labels_is_that_of_the_rows_at_hand() -> None:
    """Batches of a regression keep their groups from epoch to epoch, and not their labels."""
    context = make_context([ak.EER("sex", tolerance=0.0)], score_space="identity")
    rows, loss = context.tune, Penalty(blind=True).make_loss(context, 1.0)
    head = FairHead(3, score_space="identity")
    for labels in (rows.labels, rows.labels + 5.0):
        features, y = torch.as_tensor(rows.features), torch.as_tensor(labels)
        residual = labels - head.predict(features)
        gaps = [residual[rows.groups.values("sex") == value].mean() for value in ("f", "m")]
        found = loss(head, HeadRows(features, y, rows.groups)).item()
        assert found == pytest.approx((residual**2).mean() + sum(gap**2 for gap in gaps))


@pytest.mark.parametrize("name", ["penalty", "penalty_blind", "penalty_strict", "fairret"])
def test_penalties_take_features_in_single_precision(name: str) -> None:
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    context, test = make_context(epochs=2), make_sample(200, 5)

    def single(sample: Sample) -> Sample:
        return replace(sample, features=np.asarray(sample.features).astype(np.float32))

    context = replace(context, tune=single(context.tune), calibrate=single(context.calibrate))
    scores = find_method(name).fit(context)(single(test)).scores
    assert np.isfinite(scores).all()


def test_reduction_equals_fairlearn_called_directly() -> None:
    from fairlearn.reductions import DemographicParity, ExponentiatedGradient
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    context, test = make_context([ak.ECP("sex", tolerance=0.1)]), make_sample(300, 4)
    rows = context.tune
    scaler = StandardScaler().fit(rows.features)
    theirs = ExponentiatedGradient(LogisticRegression(max_iter=500), DemographicParity(difference_bound=0.05), eps=0.05)
    theirs.fit(scaler.transform(rows.features), rows.labels, sensitive_features=rows.groups.values("sex"))
    ours = find_method("exponentiated_gradient").fit(context)(test).decisions
    np.testing.assert_allclose(ours, theirs._pmf_predict(scaler.transform(test.features))[:, 1], atol=1e-12)


def test_relaxed_thresholds_keep_decision_rates_within_the_tolerance() -> None:
    context = make_context([ak.ECP("sex", tolerance=0.1)])
    rows = context.calibrate
    gaps = {}
    for name in ("threshold_optimizer", "threshold_optimizer_relaxed"):
        decisions = find_method(name).fit(context)(rows).decisions
        gaps[name] = measure_gaps(decisions, rows.groups, context.criteria)["ECP(sex)"]
    assert gaps["threshold_optimizer"] < 0.01
    assert 0.02 < gaps["threshold_optimizer_relaxed"] <= 0.1 + 1e-9


@pytest.mark.parametrize("space", ["logit", "identity"])
@pytest.mark.parametrize("name", [name for name in METHODS if name not in OPTIONAL and "penalty" not in name])
def test_every_method_works_in_every_score_space_or_says_why_not(name: str, space: str) -> None:
    context, test = make_context(score_space=space), make_sample(200, 5)

    def logits(sample: Sample) -> Sample:
        return sample if space == "identity" else replace(sample, scores=np.log(sample.scores / (1 - sample.scores)))

    context = replace(context, tune=logits(context.tune), calibrate=logits(context.calibrate))
    binary_only = {
        "threshold_optimizer", "threshold_optimizer_relaxed", "exponentiated_gradient", "recalibration_isotonic",
    }  # fmt: skip
    if space == "identity" and name in binary_only:
        with pytest.raises(InputError, match="score_space is 'identity', and this method knows binary outcomes only"):
            find_method(name).fit(context)
        return
    if space == "identity" and name == "projection_log_loss":
        with pytest.raises(InputError, match="is for score_space 'logit'"):
            find_method(name).fit(context)
        return
    found = find_method(name).fit(context)(logits(test))
    values = found.decisions if found.scores is None else found.scores
    assert values is not None
    assert values.shape == (200,)
    assert np.isfinite(values).all()


def test_decision_methods_refuse_criteria_of_residuals() -> None:
    with pytest.raises(InputError, match="criteria are all EER, which says nothing about decisions"):
        find_method("threshold_optimizer").fit(make_context([ak.EER("sex", tolerance=0.1)]))


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_optional_methods_run_where_installed(name: str) -> None:
    context, test = make_context([ak.ECP("sex", tolerance=0.1)]), make_sample(300, 6)
    try:
        found = find_method(name).fit(context)(test)
    except MissingExtraError as error:
        pytest.skip(str(error))
    values = found.decisions if found.scores is None else found.scores
    assert values is not None
    assert values.shape == (300,)
    assert ((values >= 0) & (values <= 1)).all()
    if found.decisions is not None:
        assert measure_gaps(values, test.groups, context.criteria)["ECP(sex)"] < 0.25
        assert ((values >= 0.5) == test.labels).mean() > 0.55
