"""scikit-learn estimators from .skops files: the same scores, and no type constructed without trust."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from auditkit.errors import InputError, MissingExtraError, SchemaError, UntrustedFileError
from auditkit.models import load_model

skops_io = pytest.importorskip("skops.io", reason="pip install 'auditkit[skops]'")


class Boom:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('the pickle ran')",))


@pytest.fixture
def frame() -> pd.DataFrame:
    jobs = ["pilot", "cook", "nurse", "cook"]
    return pd.DataFrame({"job": jobs, "age": [20, 35, 50, 65], "gain": [0.0, 10.0, 100.0, 1000.0]})


@pytest.fixture
def pipeline(frame: pd.DataFrame) -> Pipeline:
    columns = make_column_transformer((OneHotEncoder(), ["job"]), (StandardScaler(), ["age", "gain"]))
    return make_pipeline(columns, LogisticRegression()).fit(frame, ["no", "yes", "yes", "no"])


def test_skops_pipeline_scores_as_scikit_learn_does(pipeline: Pipeline, frame: pd.DataFrame, tmp_path: Path) -> None:
    skops_io.dump(pipeline, tmp_path / "loans.skops")
    model = load_model(tmp_path / "loans.skops")
    model.chunk_rows = 3
    assert (model.name, model.task, model.n_features) == ("loans", "binary", 0)
    np.testing.assert_allclose(model.scores(frame).numpy(), pipeline.predict_proba(frame)[:, 1], atol=1e-12)
    np.testing.assert_allclose(model.logits(frame).numpy(), pipeline.decision_function(frame), atol=1e-9)
    assert torch.equal(model.scores(frame.iloc[:, ::-1]), model.scores(frame))
    assert model.fingerprint == load_model(pipeline).fingerprint
    with pytest.raises(InputError, match="no last layer to read features from"):
        model.features(frame)
    with pytest.raises(SchemaError, match="lacks the columns age that model 'loans' reads; it has: job"):
        model.scores(frame.drop(columns="age"))


def test_skops_regressor_and_classifier_of_three_classes(frame: pd.DataFrame, tmp_path: Path) -> None:
    x = frame[["age", "gain"]]
    for name, estimator in {"r": Ridge().fit(x, [1.0, 2.0, 3.0, 5.0]), "m": GaussianNB().fit(x, [0, 1, 2, 2])}.items():
        skops_io.dump(estimator, tmp_path / f"{name}.skops")
    regression, classes = load_model(tmp_path / "r.skops"), load_model(str(tmp_path / "m.skops"))
    assert (regression.task, classes.task) == ("regression", "multiclass")
    np.testing.assert_allclose(regression.scores(x).numpy(), Ridge().fit(x, [1.0, 2.0, 3.0, 5.0]).predict(x))
    assert classes.scores(x).shape == (4, 3)


def test_certain_probabilities_are_scores_but_have_no_logits(frame: pd.DataFrame, tmp_path: Path) -> None:
    x = frame[["age"]]
    skops_io.dump(DecisionTreeClassifier().fit(x, [0, 0, 1, 1]), tmp_path / "tree.skops")
    tree = load_model(tmp_path / "tree.skops", trust=["sklearn.tree._tree.Tree"])
    assert tree.scores(x).tolist() == [0, 0, 1, 1]
    with pytest.raises(InputError, match="infinite logits in 4 rows"):
        tree.logits(x)


def test_skops_file_with_an_unknown_type_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "odd.skops"
    steps = [FunctionTransformer(np.linalg.norm), LogisticRegression()]
    skops_io.dump(make_pipeline(*steps), path)
    with pytest.raises(UntrustedFileError, match=r"would construct numpy.*norm; .*pass trust=\['numpy.*norm'\]"):
        load_model(path)
    with pytest.raises(InputError, match=r"trust belongs to \.skops files, pickles; got it with sample models"):
        load_model("sample:adult_mlp", trust=["numpy"])


def test_wrong_skops_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is nothing at"):
        load_model(tmp_path / "absent.skops")
    (tmp_path / "noise.skops").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(InputError, match="damaged or no skops file"):
        load_model(tmp_path / "noise.skops")
    skops_io.dump(StandardScaler().fit([[1.0], [2.0]]), tmp_path / "scaler.skops")
    with pytest.raises(InputError, match="must be a regressor or a classifier with predict_proba"):
        load_model(tmp_path / "scaler.skops")


def test_missing_skops_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.skops").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "skops", None)
    monkeypatch.delitem(sys.modules, "skops.io")
    with pytest.raises(MissingExtraError, match=r"pip install 'auditkit\[skops\]'"):
        load_model(tmp_path / "m.skops")
