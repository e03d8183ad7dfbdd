"""Models of several outputs: one of them as the score, or their features alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

import auditkit as ak
from auditkit.config import load_config
from auditkit.errors import InputError, SchemaError
from auditkit.jobs import run_audit, run_compare, run_tune
from auditkit.models.chosen_output import ChosenOutput
from tests.transformer_folders import bert, save

N = 900
NAMES = ["a", "b", "c"]


def network(outputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)).eval()


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) * 2


def test_one_class_is_scored_by_its_softmax(rows: torch.Tensor) -> None:
    chosen = ak.load_model(network(), output=2)
    with torch.no_grad():
        expected = torch.softmax(network()(rows).double(), dim=1)[:, 2]
    assert (chosen.task, chosen.n_features, chosen.gives_one_score) == ("binary", 5, True)
    torch.testing.assert_close(chosen.scores(rows).double(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(chosen.logits(rows).double(), torch.logit(expected), rtol=1e-4, atol=1e-5)
    features, scores = chosen.features_and_scores(rows)
    assert torch.equal(features, ak.load_model(network(), task="multiclass").features(rows))
    torch.testing.assert_close(scores, chosen.scores(rows))
    torch.testing.assert_close(chosen.as_module()(rows), chosen.scores(rows))


def test_task_says_what_the_outputs_are(rows: torch.Tensor) -> None:
    with torch.no_grad():
        outputs = network()(rows)
    asked = ak.load_model(network(), output=1, task="binary")
    torch.testing.assert_close(asked.scores(rows), torch.sigmoid(outputs[:, 1]))
    value = ak.load_model(network(), output=1, task="regression")
    assert value.task == "regression"
    torch.testing.assert_close(value.scores(rows), outputs[:, 1])
    features, scores = value.features_and_scores(rows)
    assert features.shape == (40, 5)
    torch.testing.assert_close(scores, outputs[:, 1])


def test_outputs_have_fingerprints_of_their_own_over_the_same_weights() -> None:
    every = [ak.load_model(network(), output=0), ak.load_model(network(), output=1), ak.load_model(network())]
    assert len({model.fingerprint for model in every}) == 3
    assert len({model.weights_sha256 for model in every}) == 1
    assert ak.load_model(network(), output=0).fingerprint == every[0].fingerprint
    every[0].check_frozen()
    with torch.no_grad():
        next(every[0].placed_module().parameters()).add_(1)  # type: ignore[union-attr]
    with pytest.raises(ak.AuditkitError, match="has changed since it was loaded"):
        every[0].check_frozen()


def test_classes_of_an_estimator_are_named() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.normal(size=(300, 2)), columns=["x", "y"])
    kinds = np.array(["low", "middle", "top"])[np.digitize(features["x"], [-0.5, 0.5])]
    estimator = LogisticRegression().fit(features, kinds)
    chosen = ak.load_model(estimator, output="top")
    expected = estimator.predict_proba(features)[:, list(estimator.classes_).index("top")]
    np.testing.assert_allclose(chosen.scores(features).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(torch.sigmoid(chosen.logits(features)).numpy(), expected, rtol=1e-9)
    with pytest.raises(InputError, match="output 'best' is no class of model .*: its classes are low, middle, top"):
        ak.load_model(estimator, output="best")
    with pytest.raises(InputError, match=r"output must be the number of an output .*, from 0 to 2; got 3"):
        ak.load_model(estimator, output=3)
    two = LogisticRegression().fit(features, kinds == "top")
    with pytest.raises(InputError, match="gives one score per row already; leave output out"):
        ak.load_model(two, output=1).scores(features)


def test_a_graph_is_read_by_name_and_number(tmp_path: Path, rows: torch.Tensor) -> None:
    pytest.importorskip("onnx", reason="pip install 'auditkit[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'auditkit[onnx]'")
    net = nn.Sequential(network(), nn.Softmax(dim=1))
    torch.onnx.export(
        net, (rows[:2],), tmp_path / "net.onnx", dynamo=False, input_names=["x"], output_names=["chance"],
        dynamic_axes={"x": {0: "n"}, "chance": {0: "n"}},
    )  # fmt: skip
    with torch.no_grad():
        expected = net(rows)[:, 3]
    for output in (3, ("chance", 3), ["chance", 3]):
        chosen = ak.load_model(tmp_path / "net.onnx", output=output)  # type: ignore[arg-type]
        torch.testing.assert_close(chosen.scores(rows), expected)
    # a number of a question of its own is a probability already
    asked = ak.load_model(tmp_path / "net.onnx", output=3, task="binary")
    torch.testing.assert_close(asked.scores(rows), expected)
    with pytest.raises(InputError, match=r"output must be the number of an output, from 0, or \[.name., number\]"):
        ak.load_model(tmp_path / "net.onnx", output=("chance", "x"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (True, "output must be the number of an output, from 0, or the name of a class; got True"),
        (-1, "got -1"),
        ("cat", "is no class of model 'Sequential': it names none"),
        (("a", 1), "or the name of a class"),
    ],
)
def test_wrong_outputs_are_refused(output: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ak.load_model(network(), output=output)  # type: ignore[arg-type]


def test_an_output_that_is_not_there_is_refused(rows: torch.Tensor) -> None:
    with pytest.raises(InputError, match="output is 4, and model 'Sequential' has the outputs 0 to 3"):
        ak.load_model(network(), output=4).scores(rows)
    with pytest.raises(InputError, match="or output=, the number of the one that is its score"):
        ak.load_model(network()).scores(rows)
    with pytest.raises(InputError, match="output belongs to"):
        ak.load_model("sample:adult_mlp", output=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table, and a program of four outputs that reads it."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(N, 3)).astype(np.float32), columns=NAMES)
    table["sex"] = rng.choice(["f", "m"], N)
    table["hired"] = (table["a"] + 0.5 * (table["sex"] == "m") + rng.normal(size=N) > 0).astype(int)
    table.to_parquet(tmp_path / "table.parquet")
    batch = torch.zeros(2, 3)
    program = torch.export.export(network(), (batch,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    torch.export.save(program, tmp_path / "net.pt2")
    return tmp_path


def write(folder: Path, **model: object) -> Path:
    values = {
        "data": {"path": "table.parquet", "attributes": ["sex"], "label": "hired", "features": NAMES},
        "model": {"path": "net.pt2", **model},
        "criteria": [{"family": "ECP", "attributes": ["sex"], "tolerance": 0.05}],
        "tune": {"epochs": 5},
        "methods": ["unconstrained", "layer", "projection"],
    }
    (folder / "audit.yaml").write_text(yaml.safe_dump(values))
    return folder / "audit.yaml"


def test_features_of_a_model_without_a_score_are_tuned_and_compared(folder: Path) -> None:
    config = load_config(write(folder, task="multiclass"))
    result = run_compare(config, out=folder / "run")
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["reference"].startswith("A head trained on the frozen features for the loss alone")
    assert record["model"]["task"] == "multiclass"
    assert "A head trained on the frozen features for the loss alone" in (folder / "run" / "report.html").read_text()
    assert result.comparison is not None
    errors = {method["name"]: method["error"] for method in result.comparison["methods"]}
    assert errors == {"unconstrained": "", "layer": "", "projection": ""}
    # what was found is a head on the model's features: its scores do not depend on any output of the model
    again = run_tune(config, out=folder / "again")
    assert again.outcome.findings[0].gap == result.outcome.findings[0].gap
    assert result.after is not None
    assert result.outcome.n_rows == result.after.n_rows == record["split"]["test"]


def test_further_tolerances_are_compared_with_the_trained_reference(folder: Path) -> None:
    file = write(folder, task="multiclass")
    file.write_text(file.read_text() + "frontier: [0.02, 0.2]\n")
    comparison = run_compare(load_config(file), out=folder / "run").comparison
    assert comparison is not None
    found = next(method for method in comparison["methods"] if method["name"] == "unconstrained")
    for level in comparison["frontier"]:
        methods = {method["name"]: method for method in level["methods"]}
        assert [method["error"] for method in methods.values()] == ["", "", ""]
        # no tolerance changes the model as found
        assert methods["unconstrained"]["utility"]["accuracy"] == found["utility"]["accuracy"]


def test_jobs_without_heads_need_one_output(folder: Path) -> None:
    with pytest.raises(InputError, match=r"does not give one score per row; this job needs it: name .* model\.output"):
        run_audit(load_config(write(folder, task="multiclass")), out=folder / "run")
    result = run_audit(load_config(write(folder, output=2)), out=folder / "run")
    table = pd.read_parquet(folder / "table.parquet")
    with torch.no_grad():
        scores = torch.softmax(network()(torch.tensor(table[NAMES].to_numpy())), dim=1)[:, 2].numpy()
    means = [scores[table["sex"] == sex].mean() for sex in ("f", "m")]
    assert result.outcome.findings[0].gap == pytest.approx(abs(means[0] - means[1]), abs=1e-6)
    assert json.loads((folder / "run" / "run.json").read_text())["reference"] is None


def test_the_audit_file_takes_numbers_names_and_pairs(folder: Path) -> None:
    options = [load_config(write(folder, output=output)).model_options["output"] for output in (2, "cat", ["p", 2])]
    assert options == [2, "cat", ("p", 2)]
    with pytest.raises(SchemaError, match=r"model\.output"):
        load_config(write(folder, output=True))


def test_a_chosen_output_is_a_frozen_model(rows: torch.Tensor) -> None:
    chosen = ak.load_model(network(), output=0)
    assert isinstance(chosen, ChosenOutput)
    assert chosen.name == "Sequential[0]"
    assert chosen.class_names == ()
    assert not chosen.needs_all_rows


def save_boosted(
    folder: Path, library: str, objective: str, labels: np.ndarray, rows: np.ndarray
) -> tuple[Path, np.ndarray]:
    """A model file of boosted trees, and what the library predicts for the rows."""
    package = pytest.importorskip(library, reason="pip install 'auditkit[boosting]'")
    classes = {"num_class": 3} if objective.startswith("multi") else {}
    if library == "xgboost":
        matrix = package.DMatrix(rows, labels)
        booster = package.train({"objective": objective, "max_depth": 2, "nthread": 1, **classes}, matrix, 5)
        booster.save_model(folder / "m.ubj")
        return folder / "m.ubj", booster.predict(matrix)
    data = package.Dataset(rows, labels)
    booster = package.train({"objective": objective, "num_threads": 1, "verbose": -1, **classes}, data, 5)
    booster.save_model(folder / "m.txt")
    return folder / "m.txt", booster.predict(rows)


@pytest.fixture
def kinds() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(N, 3))
    return rows, np.digitize(rows[:, 0] + rng.normal(size=N), [-0.5, 0.5])


@pytest.mark.parametrize(
    ("library", "objective"), [("xgboost", "multi:softprob"), ("xgboost", "multi:softmax"), ("lightgbm", "multiclass")]
)
def test_a_class_of_boosted_trees(
    tmp_path: Path, kinds: tuple[np.ndarray, np.ndarray], library: str, objective: str
) -> None:
    rows, labels = kinds
    path, expected = save_boosted(tmp_path, library, objective, labels, rows)
    if objective == "multi:softmax":  # the library gives the class alone; the same trees give its probability
        _, expected = save_boosted(tmp_path, library, "multi:softprob", labels, rows)
        path, _ = save_boosted(tmp_path, library, objective, labels, rows)
    assert not ak.load_model(path).gives_one_score
    for number in range(3):
        chosen = ak.load_model(path, output=number)
        np.testing.assert_allclose(chosen.scores(rows).numpy(), expected[:, number], rtol=1e-5)
        logits = np.log(expected[:, number] / (1 - expected[:, number]))
        np.testing.assert_allclose(chosen.logits(rows).numpy(), logits, rtol=1e-4, atol=1e-5)
    chosen.check_frozen()
    with pytest.raises(InputError, match="output is 3, and model 'm' has the outputs 0 to 2"):
        ak.load_model(path, output=3).scores(rows)
    with pytest.raises(InputError, match="output 'top' is no class of model 'm': it names none"):
        ak.load_model(path, output="top")


@pytest.mark.parametrize("objective", ["reg:squarederror", "binary:logistic"])
def test_targets_of_boosted_trees_are_not_classes(
    tmp_path: Path, kinds: tuple[np.ndarray, np.ndarray], objective: str
) -> None:
    """Several targets of one model exclude each other as little as the values of a regression."""
    rows, labels = kinds
    targets = np.column_stack([labels > 0, labels > 1, labels == 0]).astype(float)
    path, expected = save_boosted(tmp_path, "xgboost", objective, targets, rows)
    assert expected.shape == (N, 3)
    chosen = ak.load_model(path, output=1)
    assert chosen.task == ("regression" if objective.startswith("reg") else "binary")
    np.testing.assert_allclose(chosen.scores(rows).numpy(), expected[:, 1], rtol=1e-5)


def test_one_output_of_boosted_trees_needs_no_choice(tmp_path: Path, kinds: tuple[np.ndarray, np.ndarray]) -> None:
    rows, labels = kinds
    path, _ = save_boosted(tmp_path, "lightgbm", "binary", labels > 0, rows)
    with pytest.raises(InputError, match="gives one score per row already; leave output out"):
        ak.load_model(path, output=0).scores(rows)


def test_boosted_trees_are_audited_by_one_class(tmp_path: Path, kinds: tuple[np.ndarray, np.ndarray]) -> None:
    rows, labels = kinds
    path, expected = save_boosted(tmp_path, "xgboost", "multi:softprob", labels, rows)
    sex = np.where(rows[:, 1] > 0, "F", "M")
    pd.DataFrame(rows, columns=["a", "b", "c"]).assign(sex=sex).to_csv(tmp_path / "rows.csv", index=False)
    plan = {
        "data": {"path": "rows.csv", "attributes": ["sex"]}, "model": {"path": path.name, "output": 2},
        "criteria": [{"family": "ECP", "attributes": "sex", "tolerance": 0.05}],
    }  # fmt: skip
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(plan))
    gap = run_audit(load_config(tmp_path / "audit.yaml"), out=tmp_path / "run").outcome.findings[0].gap
    assert gap == pytest.approx(abs(expected[sex == "F", 2].mean() - expected[sex == "M", 2].mean()), abs=1e-6)


def test_a_label_of_a_transformer(tmp_path: Path) -> None:
    names = {0: "late", 1: "open", 2: "repaid"}
    module, tokenizer = bert(labels=3, id2label=names, label2id={name: number for number, name in names.items()})
    save(tmp_path / "bert", (module, tokenizer))
    texts = ["a good loan", "bad", "late late a"] * 30
    with torch.no_grad():
        expected = torch.softmax(module.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits, 1)
    for number, name in names.items():
        chosen = ak.load_model(tmp_path / "bert", output=name)
        torch.testing.assert_close(chosen.scores(texts), expected[:, number], rtol=0, atol=1e-5)
        assert chosen.fingerprint == ak.load_model(module, preprocess=tokenizer, output=number).fingerprint
    features, scores = chosen.features_and_scores(texts)
    assert features.shape == (90, 16)
    torch.testing.assert_close(scores, chosen.scores(texts))
    torch.testing.assert_close(chosen.logits(texts), torch.logit(expected[:, 2]), rtol=0, atol=1e-4)
    with pytest.raises(
        InputError, match="output 'paid' is no class of model 'bert': its classes are late, open, repaid"
    ):
        ak.load_model(tmp_path / "bert", output="paid")


def test_texts_are_audited_and_tuned_by_one_label_or_by_features_alone(tmp_path: Path) -> None:
    save(tmp_path / "bert", bert(labels=3))
    rng = np.random.default_rng(0)
    words = np.array(["good", "bad", "loan", "late", "repaid"])
    frame = pd.DataFrame({"letter": [" ".join(rng.choice(words, 4)) for _ in range(300)]})
    frame = frame.assign(sex=rng.choice(["F", "M"], 300), y=rng.integers(0, 2, 300))
    frame.to_csv(tmp_path / "letters.csv", index=False)
    plan = {
        "data": {"path": "letters.csv", "text": "letter", "attributes": ["sex"], "label": "y"},
        "model": {"path": "bert", "output": "LABEL_1"}, "tune": {"epochs": 3},
        "criteria": [{"family": "ECP", "attributes": "sex", "tolerance": 0.05}],
    }  # fmt: skip
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(plan))
    (tmp_path / "none.yaml").write_text(yaml.safe_dump({**plan, "model": "bert"}))
    one, none = (load_config(tmp_path / f"{name}.yaml").with_cache(tmp_path / "cache") for name in ("one", "none"))
    assert run_audit(one, out=tmp_path / "audited").outcome.n_rows == 300
    assert run_tune(one, out=tmp_path / "tuned").after is not None
    with pytest.raises(InputError, match="is multiclass and does not give one score per row"):
        run_audit(none, out=tmp_path / "refused")
    assert run_tune(none, out=tmp_path / "features").after is not None
    record = json.loads((tmp_path / "features" / "run.json").read_text())
    assert record["reference"].startswith("A head trained on the frozen features")
    assert {"tokenizers", "transformers"} <= set(record["versions"])
