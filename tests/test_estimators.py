"""The scikit-learn estimators: scikit-learn's own checks, and groups through pipelines and searches."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import auditkit as ak
from auditkit.constraints import measure_gaps
from auditkit.errors import InputError
from auditkit.estimators import FairHeadClassifier, FairHeadRegressor

CRITERION = ak.ECP("sex", tolerance=0.02)


@parametrize_with_checks(
    [FairHeadClassifier(epochs=25, learning_rate=0.2), FairHeadRegressor(epochs=25, learning_rate=0.2)]
)
def test_scikit_learn_accepts_the_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(0)
    sex = rng.choice(["f", "m"], 1200)
    features = rng.normal(size=(1200, 3)) + (sex == "m")[:, None] * [1.0, 0, 0]
    labels = np.where(rng.random(1200) < 1 / (1 + np.exp(-features[:, 0] - features[:, 1])), "hired", "not")
    return features, labels, pd.DataFrame({"sex": sex})


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_it_is_the_head_that_tune_head_trains(rows: tuple) -> None:
    features, labels, frame = rows
    found = FairHeadClassifier([CRITERION], random_state=3, epochs=20).fit(features, labels, groups=frame)
    head = ak.tune_head(features, (labels == "not").astype(float), ak.Groups(frame), [CRITERION],
                        config=ak.TuneConfig(seed=3, epochs=20, learning_rate=0.05))  # fmt: skip
    assert list(found.classes_) == ["hired", "not"]
    np.testing.assert_array_equal(found.predict_proba(features)[:, 1], head.predict(features))
    one_by_one = np.concatenate([found.predict(features[i : i + 1]) for i in range(50)])
    assert np.array_equal(one_by_one, found.predict(features[:50]))
    assert np.array_equal(pickle.loads(pickle.dumps(found)).predict(features), found.predict(features))


def test_persons_are_held_back_whole(rows: tuple) -> None:
    """The head is the one that `tune_head` trains with the same persons, and another than without them."""
    features, labels, frame = rows
    person = np.arange(1200) // 4
    model = FairHeadClassifier([CRITERION], random_state=3, epochs=20)
    found = model.fit(features, labels, groups=frame, clusters=person).predict_proba(features)[:, 1]
    head = ak.tune_head(features, (labels == "not").astype(float), ak.Groups(frame), [CRITERION], clusters=person,
                        config=ak.TuneConfig(seed=3, epochs=20, learning_rate=0.05))  # fmt: skip
    np.testing.assert_array_equal(found, head.predict(features))
    assert not np.array_equal(found, model.fit(features, labels, groups=frame).predict_proba(features)[:, 1])
    amounts = FairHeadRegressor([CRITERION], random_state=3, epochs=5)
    whole = amounts.fit(features, features[:, 0], groups=frame, clusters=person).predict(features)
    assert not np.array_equal(whole, amounts.fit(features, features[:, 0], groups=frame).predict(features))
    with pytest.raises(InputError, match="clusters must have 1200 rows, as many as groups has; got 7"):
        model.fit(features, labels, groups=frame, clusters=person[:7])


@pytest.mark.usefixtures("routing")
def test_persons_reach_the_head_through_a_pipeline(rows: tuple) -> None:
    features, labels, frame = rows
    person = np.arange(1200) // 4
    model = FairHeadClassifier([CRITERION], random_state=0, epochs=5).set_fit_request(groups=True, clusters=True)
    pipeline = make_pipeline(StandardScaler(), model).fit(features, labels, groups=frame, clusters=person)
    scaled = StandardScaler().fit_transform(features)
    direct = model.fit(scaled, labels, groups=frame, clusters=person)
    np.testing.assert_array_equal(pipeline.predict_proba(features), direct.predict_proba(scaled))


def test_without_criteria_it_is_logistic_regression(rows: tuple) -> None:
    features, labels, _ = rows
    plain = FairHeadClassifier(optimizer="lbfgs", learning_rate=1.0, weight_decay=0.0, validation_fraction=0.001)
    peer = LogisticRegression(C=1e6).fit(features, labels)
    np.testing.assert_allclose(
        plain.fit(features, labels).predict_proba(features), peer.predict_proba(features), atol=0.01
    )


def test_groups_and_criteria_belong_together(rows: tuple) -> None:
    features, labels, frame = rows
    with pytest.raises(InputError, match="groups were given, but the estimator has no criteria"):
        FairHeadClassifier().fit(features, labels, groups=frame)
    with pytest.raises(InputError, match="has criteria, and fit needs the groups"):
        FairHeadClassifier(CRITERION).fit(features, labels)
    with pytest.raises(InputError, match="groups must have 1200 rows, as many as X has; got 5"):
        FairHeadClassifier(CRITERION).fit(features, labels, groups=frame[:5])
    with pytest.raises(InputError, match="the criteria name sex, race; pass a DataFrame"):
        FairHeadClassifier(ak.ECP(("sex", "race"), tolerance=0.1)).fit(features, labels, groups=frame["sex"])


def test_groups_may_be_a_frame_a_mapping_groups_or_a_column(rows: tuple) -> None:
    features, labels, frame = rows
    kinds = (frame, {"sex": frame["sex"]}, ak.Groups(frame), frame["sex"].to_numpy(), list(frame["sex"]))
    model = FairHeadClassifier(CRITERION, random_state=0, epochs=3)
    first, *others = [clone(model).fit(features, labels, groups=kind).predict_proba(features) for kind in kinds]
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.usefixtures("routing")
def test_groups_reach_the_head_through_a_pipeline_and_a_search(rows: tuple) -> None:
    features, labels, frame = rows
    model = FairHeadClassifier([CRITERION], random_state=0, epochs=10).set_fit_request(groups=True)
    pipeline = make_pipeline(StandardScaler(), model)
    search = GridSearchCV(pipeline, {"fairheadclassifier__hidden": [None, 4]}, cv=3)
    search.fit(features, labels, groups=frame)
    assert search.best_score_ > 0.6
    scores = cross_val_predict(pipeline, features, labels, params={"groups": frame}, cv=3, method="predict_proba")
    assert scores.shape == (1200, 2)
    by_name = make_pipeline(StandardScaler(), model).fit(features, labels, groups=frame)
    assert np.array_equal(by_name.predict(features), search.best_estimator_.set_params(
        fairheadclassifier__hidden=None).fit(features, labels, groups=frame).predict(features))  # fmt: skip


def test_groups_reach_the_head_through_a_pipeline_without_routing(rows: tuple) -> None:
    features, labels, frame = rows
    pipeline = make_pipeline(StandardScaler(), FairHeadClassifier([CRITERION], random_state=0, epochs=10))
    pipeline.fit(features, labels, fairheadclassifier__groups=frame)
    assert pipeline[-1].history_[-1].multipliers["ECP(sex)"] > 0


def test_the_regressor_enforces_its_tolerance_in_the_unit_of_the_label(rows: tuple) -> None:
    features, _, frame = rows
    target = 5000 + 1000 * features[:, 0] + np.random.default_rng(0).normal(size=1200)
    criterion = ak.ECP("sex", tolerance=100.0)
    model = FairHeadRegressor(criterion, random_state=0).fit(features, target, groups=frame)
    found = model.predict(features)
    assert model.history_[-1].multipliers["ECP(sex)"] > 0
    fair = ak.project(found, ak.Groups(frame), criterion).scores
    assert measure_gaps(fair, ak.Groups(frame), [criterion])["ECP(sex)"] == pytest.approx(100.0)
    # the training saw the projected predictions: they fit better than those of a head that was projected afterwards
    loose = FairHeadRegressor(random_state=0).fit(features, target).predict(features)
    later = ak.project(loose, ak.Groups(frame), criterion).scores
    assert np.square(fair - target).mean() <= np.square(later - target).mean() * 1.001


def test_several_classes(rows: tuple) -> None:
    features, _, frame = rows
    labels = np.digitize(features[:, 0] + features[:, 1], [-0.5, 1.0])
    model = FairHeadClassifier(CRITERION, random_state=0, epochs=15).fit(features, labels, groups=frame)
    assert model.predict_proba(features).shape == (1200, 3)
    assert (model.predict(features) == labels).mean() > 0.6
