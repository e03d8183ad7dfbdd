from __future__ import annotations

import json

import numpy as np
import pytest

import auditkit as ak
from auditkit.baselines import METHODS, OPTIONAL, Sample
from auditkit.comparison import SCHEMA
from auditkit.config.audit_file import METHODS as CONFIG_METHODS
from auditkit.errors import InputError

ENFORCED = (ak.ECP("sex", tolerance=0.05),)
CONFIG = ak.CompareConfig(tune=ak.TuneConfig(epochs=20, learning_rate=0.1))
OWN = [name for name in METHODS if name not in OPTIONAL]


@pytest.fixture(scope="module")
def dataset() -> Sample:
    rng = np.random.default_rng(1)
    sex = rng.choice(["f", "m"], 3000)
    labels = (rng.random(3000) < 0.35 + 0.2 * (sex == "m")).astype(float)
    features = rng.normal(size=(3000, 5))
    features[:, 0] += 1.2 * labels
    features[:, 1] += 1.2 * (sex == "m")
    scores = 1 / (1 + np.exp(0.6 - 1.2 * features[:, 0] - 0.6 * features[:, 1]))
    return Sample(scores, labels, ak.Groups({"sex": sex}), features)


@pytest.fixture(scope="module")
def comparison(dataset: Sample) -> ak.Comparison:
    audited = [*ENFORCED, ak.equalized_odds("sex", tolerance=0.05)]
    return ak.compare(dataset, ENFORCED, methods=OWN, audited=audited, config=CONFIG)


def method(comparison: ak.Comparison, name: str) -> dict:
    return next(entry for entry in comparison.to_dict()["methods"] if entry["name"] == name)


def gap(comparison: ak.Comparison, name: str) -> float:
    return method(comparison, name)["gaps"][0]["gap"]


def test_every_method_runs_and_the_batch_methods_meet_the_tolerance_exactly(comparison: ak.Comparison) -> None:
    errors = {run.method: run.error for run in comparison.runs}
    of_logits = errors.pop("projection_log_loss")
    assert of_logits == (
        "projection_log_loss is for score_space 'logit' and two classes; got 'probability' and 2; leave it out"
    )
    assert list(errors.values()) == [""] * (len(OWN) - 1)
    assert gap(comparison, "unconstrained") > 0.1
    for name in ("layer", "projection"):
        assert gap(comparison, name) <= 0.05 + 1e-12
    for name in ("calibrated", "calibrated_projection"):
        assert gap(comparison, name) < 0.06  # guaranteed for the population; the test rows scatter around it


def test_the_reference_differs_from_itself_by_nothing(comparison: ak.Comparison) -> None:
    for estimate in method(comparison, "unconstrained")["difference"].values():
        assert (estimate["value"], estimate["low"], estimate["high"]) == (0, 0, 0)


def test_threshold_optimizer_equals_fairlearn_called_directly(dataset: Sample, comparison: ak.Comparison) -> None:
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.linear_model import LogisticRegression

    parts = ak.split_rows(dataset.n_rows, fractions={"tune": 0.4, "calibrate": 0.3, "test": 0.3}, seed=0)
    rows, test = dataset.take(parts["calibrate"]), dataset.take(parts["test"])
    logit = np.log(dataset.scores / (1 - dataset.scores))[:, None]
    identity = LogisticRegression().fit(logit[:10], [0, 1] * 5)  # only a carrier: its weights are set by hand
    identity.coef_, identity.intercept_ = np.array([[1.0]]), np.array([0.0])
    theirs = ThresholdOptimizer(
        estimator=identity, constraints="demographic_parity", prefit=True, predict_method="predict_proba"
    )
    theirs.fit(logit[parts["calibrate"]], rows.labels, sensitive_features=rows.groups.values("sex"))
    chances = theirs._pmf_predict(logit[parts["test"]], sensitive_features=test.groups.values("sex"))[:, 1]
    expected = (test.labels * chances + (1 - test.labels) * (1 - chances)).mean()
    assert method(comparison, "threshold_optimizer")["utility"]["accuracy"]["value"] == pytest.approx(
        expected, abs=1e-9
    )
    assert method(comparison, "threshold_optimizer")["level"] == "decisions"
    assert method(comparison, "threshold_optimizer")["utility"]["auc"] is None


def test_groups_that_fairlearn_cannot_fit_share_their_thresholds(dataset: Sample) -> None:
    sex = dataset.groups.values("sex").copy()
    sex[:40] = "x"
    labels = np.where(np.arange(dataset.n_rows) < 40, 1.0, dataset.labels)
    odd = Sample(dataset.scores, labels, ak.Groups({"sex": sex}), dataset.features)
    runs = ak.compare(odd, ENFORCED, methods=["threshold_optimizer"], config=CONFIG).runs
    assert [run.error for run in runs] == ["", ""]


def test_needs_are_stated(comparison: ak.Comparison) -> None:
    needs = {name: (m["needs_attributes"], m["needs_batch"]) for name in OWN for m in [method(comparison, name)]}
    assert needs["head"] == needs["penalty_blind"] == needs["unconstrained"] == (False, False)
    assert needs["layer"] == needs["projection"] == (True, True)
    assert needs["calibrated"] == (True, False)


def test_the_result_is_json_and_the_same_twice(dataset: Sample) -> None:
    quick = ak.CompareConfig(tune=ak.TuneConfig(epochs=5))
    texts = [
        json.dumps(ak.compare(dataset, ENFORCED, methods=["layer", "penalty"], config=quick).to_dict(), allow_nan=False)
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["schema"] == SCHEMA


def test_seeds_are_pooled(dataset: Sample) -> None:
    pooled = ak.compare(dataset, ENFORCED, methods=["projection"], seeds=[0, 1, 2], config=CONFIG)
    single = [ak.compare(dataset, ENFORCED, methods=["projection"], seeds=[s], config=CONFIG) for s in (0, 1, 2)]
    values = [method(one, "projection")["utility"]["auc"]["value"] for one in single]
    assert method(pooled, "projection")["utility"]["auc"]["value"] == pytest.approx(np.mean(values))
    assert len(pooled.to_frame()) == 6
    assert pooled.to_dict()["seeds"] == [0, 1, 2]


def test_methods_that_need_features_say_so_and_the_others_run(dataset: Sample) -> None:
    bare = Sample(dataset.scores, dataset.labels, dataset.groups)
    runs = {run.method: run for run in ak.compare(bare, ENFORCED, methods=["layer", "projection"], config=CONFIG).runs}
    assert "a head needs frozen features" in runs["layer"].error
    assert runs["projection"].error == ""


def test_wrong_requests_are_refused(dataset: Sample) -> None:
    with pytest.raises(InputError, match="methods must be among 'unconstrained', .*; got 'magic'"):
        ak.compare(dataset, ENFORCED, methods=["magic"])
    with pytest.raises(InputError, match="threshold must be None with score_space='identity'.*got 0.5"):
        ak.CompareConfig(tune=ak.TuneConfig(score_space="identity"))
    for seeds in ([], [1, 1]):
        with pytest.raises(InputError, match="seeds must hold at least one value and name none twice"):
            ak.compare(dataset, ENFORCED, seeds=seeds)
    with pytest.raises(InputError, match="labels must be binary"):
        ak.compare(Sample(dataset.scores, dataset.labels + 1, dataset.groups), ENFORCED)


def test_the_audit_file_knows_every_method() -> None:
    assert set(CONFIG_METHODS) <= set(METHODS)
