"""Models as auditors are handed them: boosted trees, transformers, folders of timm, tables of predictions, pickles."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor, nn

import auditkit as ak
from auditkit.errors import InputError, ModelChangedError, SchemaError, UntrustedFileError
from auditkit.models import TorchModule, TransformerModel, load_model
from auditkit.models.object_hash import hash_object
from tests.real_data import data_path
from tests.transformer_folders import bert, import_transformers

ROOT = Path(__file__).parents[1]
NUMBERS = ["age", "education-num", "hours-per-week", "capital-gain"]


@pytest.fixture(scope="module")
def adult() -> tuple[pd.DataFrame, np.ndarray]:
    """Adult, 6,000 rows; numbers as numbers."""
    frame = pd.read_parquet(data_path("tabular/adult.parquet")).iloc[:6000]
    numbers = [name for name in NUMBERS if name in frame]
    return frame.assign(**{name: pd.to_numeric(frame[name]) for name in numbers}), (
        frame["salary"].astype(str).str.strip() == ">50K"
    ).to_numpy().astype(float)


@pytest.fixture(scope="module")
def pipeline(adult: tuple[pd.DataFrame, np.ndarray]) -> Pipeline:
    frame, labels = adult
    numbers = [name for name in NUMBERS if name in frame]
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["workclass", "occupation"]), (StandardScaler(), numbers)
    )
    return make_pipeline(columns, LogisticRegression(max_iter=500)).fit(frame.iloc[:4000], labels[:4000])


def test_pipeline_trained_on_adult_is_audited_from_its_skops_file(
    adult: tuple[pd.DataFrame, np.ndarray], pipeline: Pipeline, tmp_path: Path
) -> None:
    io = pytest.importorskip("skops.io", reason="pip install 'auditkit[skops]'")
    frame, labels = adult
    io.dump(pipeline, tmp_path / "adult.skops")
    model = load_model(tmp_path / "adult.skops")
    rows = frame.iloc[4000:]
    scores = model.scores(rows).numpy()
    np.testing.assert_allclose(scores, pipeline.predict_proba(rows)[:, 1], atol=1e-12)
    groups = ak.Groups({"sex": rows["sex"].to_numpy()})
    outcome = ak.audit(scores, groups, [ak.ECP("sex", tolerance=0.02)], labels=labels[4000:], threshold=0.5)
    by_mask = [scores[(rows["sex"] == sex).to_numpy()].mean() for sex in rows["sex"].unique()]
    assert outcome.findings[0].gap == pytest.approx(max(by_mask) - min(by_mask), abs=1e-12)
    model.check_frozen()


def test_pipeline_has_one_fingerprint_in_every_form_and_process(pipeline: Pipeline, tmp_path: Path) -> None:
    io = pytest.importorskip("skops.io", reason="pip install 'auditkit[skops]'")
    io.dump(pipeline, tmp_path / "a.skops")
    joblib.dump(pipeline, tmp_path / "a.joblib")
    given = load_model(pipeline)
    with pytest.warns(UserWarning, match=r'a\.joblib was loaded with trust="pickle": code in it may have run'):
        trusted = load_model(tmp_path / "a.joblib", trust="pickle")
    assert given.fingerprint == trusted.fingerprint == load_model(tmp_path / "a.skops").fingerprint
    assert (given.trust, trusted.trust) == ("", "pickle")
    code = "import sys; from auditkit.models import load_model; print(load_model(sys.argv[1]).fingerprint)"
    command = [sys.executable, "-c", code, str(tmp_path / "a.skops")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == given.fingerprint
    pipeline[-1].coef_[0, 0] += 1e-9
    with pytest.raises(ModelChangedError, match=r"'Pipeline' has changed since it was loaded"):
        given.check_frozen()
    pipeline[-1].coef_[0, 0] -= 1e-9


def test_hash_of_objects_follows_values_types_and_nesting() -> None:
    shared = np.arange(3.0)
    same = {"a": [1, 2.0, "x"], "b": shared, 3: {"y", "x"}}
    assert hash_object(same) == hash_object({3: {"x", "y"}, "b": np.arange(3.0), "a": [1, 2.0, "x"]})
    others = [
        same | {"a": [1, 2, "x"]}, same | {"b": np.arange(3)}, same | {"b": np.arange(3.0).reshape(3, 1)},
        same | {"b": np.array([0.0, 1.0, 2.0], dtype=object)}, same | {3: frozenset({"x"})}, same | {"c": None},
    ]  # fmt: skip
    assert len({hash_object(same), *map(hash_object, others)}) == 7
    circle: list[Any] = [1]
    circle.append(circle)
    assert hash_object(circle) == hash_object(circle)


class Boom:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("suffix", [".pkl", ".joblib", ".pth", ".pt"])
def test_a_pickle_with_side_effects_runs_only_when_asked_for_by_name(tmp_path: Path, suffix: str) -> None:
    path, marker = tmp_path / f"m{suffix}", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Boom(marker)))
    with pytest.raises(UntrustedFileError, match=r'ask for it with trust="pickle"'):
        load_model(path)
    with pytest.raises(UntrustedFileError, match=r'ask for it with trust="pickle"'):
        load_model(path, trust=["everything"])
    assert not marker.exists()
    with pytest.warns(UserWarning, match="code in it may have run"), pytest.raises(InputError):
        load_model(path, trust="pickle")
    assert marker.exists() or suffix in (".pth", ".pt")  # torch asks for its own form of a pickle first


def test_trusted_torch_pickles_and_torchscript(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(5, 4)
    expected = TorchModule(net).scores(x)
    torch.save(net, tmp_path / "net.pth")
    torch.jit.script(net).save(str(tmp_path / "net.torchscript"))
    for name in ("net.pth", "net.torchscript"):
        with pytest.warns(UserWarning, match=f'{name} was loaded with trust="pickle"'):
            model = load_model(tmp_path / name, trust="pickle", features="0" if name == "net.pth" else None)
        assert model.trust == "pickle"
        torch.testing.assert_close(model.scores(x), expected)


def boosted(adult: tuple[pd.DataFrame, np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
    frame, labels = adult
    return frame[[name for name in NUMBERS if name in frame]].astype(float), labels


@pytest.mark.parametrize("suffix", [".json", ".ubj"])
def test_xgboost_file_trained_on_adult(adult: tuple[pd.DataFrame, np.ndarray], tmp_path: Path, suffix: str) -> None:
    xgboost = pytest.importorskip("xgboost", reason="pip install 'auditkit[boosting]'")
    rows, labels = boosted(adult)
    trees = xgboost.XGBClassifier(n_estimators=20, max_depth=3, n_jobs=1).fit(rows[:4000], labels[:4000])
    trees.save_model(tmp_path / f"adult{suffix}")
    model = load_model(tmp_path / f"adult{suffix}")
    model.chunk_rows = 999
    expected = trees.predict_proba(rows[4000:])[:, 1]
    assert (model.name, model.task, model.n_features) == ("adult", "binary", 0)
    np.testing.assert_allclose(model.scores(rows[4000:]).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(model.scores(rows[4000:].iloc[:, ::-1]).numpy(), expected, atol=1e-6)
    with pytest.raises(SchemaError, match="batch lacks the columns age that model 'adult' reads"):
        model.scores(rows.drop(columns="age"))
    model.check_frozen()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes((tmp_path / f"adult{suffix}").read_bytes()[:500])
    with pytest.raises(InputError, match="damaged or no XGBoost model"):
        load_model(path)


def test_lightgbm_file_trained_on_adult(adult: tuple[pd.DataFrame, np.ndarray], tmp_path: Path) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="pip install 'auditkit[boosting]'")
    rows, labels = boosted(adult)
    rows.columns = [name.replace("-", "_") for name in rows]
    options = {"n_estimators": 20, "num_leaves": 7, "n_jobs": 1, "verbosity": -1}
    trees = lightgbm.LGBMClassifier(**options).fit(rows[:4000], labels[:4000])
    trees.booster_.save_model(tmp_path / "adult.txt")
    model = load_model(tmp_path / "adult.txt")
    np.testing.assert_allclose(model.scores(rows).numpy(), trees.predict_proba(rows)[:, 1], atol=1e-12)
    model.check_frozen()
    classes = np.digitize(rows["age"], [30, 45])
    lightgbm.LGBMClassifier(**options).fit(rows, classes).booster_.save_model(tmp_path / "ages.txt")
    assert load_model(tmp_path / "ages.txt").task == "multiclass"
    assert load_model(tmp_path / "ages.txt").scores(rows[:9]).shape == (9, 3)
    text = (tmp_path / "adult.txt").read_text()
    for name, content in {"cut": text[: len(text) // 2], "prose": "Dear auditor,\n"}.items():
        (tmp_path / f"{name}.txt").write_text(content)
        with pytest.raises(InputError, match="damaged or no LightGBM model"):
            load_model(tmp_path / f"{name}.txt")


def test_boosted_regression_and_unknown_objectives(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost", reason="pip install 'auditkit[boosting]'")
    x = np.random.default_rng(0).normal(size=(80, 3))
    trees = xgboost.XGBRegressor(n_estimators=5, n_jobs=1).fit(x, x[:, 0])
    trees.save_model(tmp_path / "r.ubj")
    model = load_model(tmp_path / "r.ubj")
    assert model.task == "regression"
    np.testing.assert_allclose(model.scores(x).numpy(), trees.predict(x), atol=1e-6)
    hinge = xgboost.XGBClassifier(n_estimators=2, objective="binary:hinge", n_jobs=1).fit(x, x[:, 0] > 0)
    hinge.save_model(tmp_path / "h.json")
    with pytest.raises(InputError, match="was trained for 'binary:hinge', whose scores are of no known kind"):
        load_model(tmp_path / "h.json")


def test_gradient_boosting_of_scikit_learn_given_in_python(adult: tuple[pd.DataFrame, np.ndarray]) -> None:
    rows, labels = boosted(adult)
    trees = HistGradientBoostingClassifier(max_iter=10, random_state=0).fit(rows, labels)
    model = load_model(trees)
    np.testing.assert_allclose(model.scores(rows).numpy(), trees.predict_proba(rows)[:, 1])
    model.check_frozen()
    with pytest.raises(InputError, match="is not fitted"):
        load_model(LogisticRegression())


def test_text_transformer_given_in_python() -> None:
    module, tokenizer = bert()
    texts = ["a good loan was repaid", "bad", "a loan was repaid late", "unheard of words"] * 10
    model = load_model(module, preprocess=tokenizer)
    assert isinstance(model, TransformerModel)
    assert (model.task, model.n_features) == ("binary", 16)
    module.eval()
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = torch.softmax(module(**encoded).logits, 1)[:, 1]
        pooled = module.bert(**encoded).pooler_output
    torch.testing.assert_close(model.scores(texts), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.scores(pd.Series(texts)), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.features(pd.DataFrame({"text": texts})), pooled, atol=1e-5, rtol=0)
    model.check_frozen()
    whole = load_model(module, preprocess=tokenizer, features="bert.encoder.layer.1.output.LayerNorm").features(["bad"])
    with torch.no_grad():
        hidden = module.bert(**tokenizer(["bad"], return_tensors="pt")).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(whole, hidden, atol=1e-5, rtol=0)


def test_transformer_fingerprint_covers_weights_config_and_tokenizer() -> None:
    module, tokenizer = bert()
    base = load_model(module, preprocess=tokenizer).fingerprint
    assert load_model(bert()[0], preprocess=bert()[1]).fingerprint == base
    tokenizer(["a good loan"], truncation=True, max_length=4)  # a call leaves no trace
    assert load_model(module, preprocess=tokenizer).fingerprint == base
    assert load_model(bert(seed=1)[0], preprocess=tokenizer).fingerprint != base
    tokenizer.add_tokens(["paid"])
    assert load_model(module, preprocess=tokenizer).fingerprint != base


def test_wrong_transformer_requests() -> None:
    module, tokenizer = bert()
    with pytest.raises(InputError, match="preprocess is missing: pass the tokenizer"):
        load_model(module)
    with pytest.raises(InputError, match="preprocess must be the tokenizer or the image processor.*got int"):
        load_model(module, preprocess=3)
    model = load_model(module, preprocess=tokenizer)
    with pytest.raises(InputError, match="batch must be texts"):
        model.scores(["a", None])
    with pytest.raises(InputError, match="reads one column of text; got the columns a, b"):
        model.scores(pd.DataFrame({"a": ["x"], "b": ["y"]}))
    assert load_model(bert(labels=1)[0], preprocess=tokenizer).task == "regression"


def test_vision_transformer_given_in_python() -> None:
    transformers = import_transformers()
    from PIL import Image

    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        num_labels=3,
    )  # fmt: skip
    module = transformers.ViTForImageClassification(config)
    images = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)) for i in range(3)]
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    model = load_model(module, preprocess=processor)
    assert isinstance(model, TransformerModel)
    batch = torch.stack([model.prepare(image) for image in images])
    with torch.no_grad():
        found = module.eval()(**processor(images, return_tensors="pt"), output_hidden_states=True)
    assert (model.task, model.n_features) == ("multiclass", 16)
    torch.testing.assert_close(model.scores(batch), torch.softmax(found.logits, 1), atol=1e-6, rtol=0)
    expected = module.vit.layernorm(found.hidden_states[-1])[:, 0].detach()
    torch.testing.assert_close(model.features(batch), expected, atol=1e-5, rtol=0)


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    frame = pd.DataFrame({"id": ["a", "b", "c"], "p": [0.1, 0.5, 0.9], "f1": [1.0, 2.0, 3.0], "f2": [0.0, 1.0, 0.0]})
    frame.to_csv(tmp_path / "scored.csv", index=False)
    return tmp_path / "scored.csv"


def test_table_of_predictions_stands_for_a_model(predictions: Path) -> None:
    model = load_model(predictions, score="p", key="id", features=["f1", "f2"])
    people = pd.DataFrame({"id": ["c", "a"], "age": [1, 2]})
    assert (model.task, model.n_features, model.name) == ("binary", 2, "scored")
    assert model.scores(people).tolist() == [0.9, 0.1]
    assert model.scores(["b", "b"]).tolist() == [0.5, 0.5]
    assert model.features(people).tolist() == [[3.0, 0.0], [1.0, 0.0]]
    np.testing.assert_allclose(model.logits(people).numpy(), np.log([9.0, 1 / 9]))
    in_order = load_model(predictions, score="p")
    assert in_order.scores(pd.DataFrame({"x": [1, 2, 3]})).tolist() == [0.1, 0.5, 0.9]
    assert load_model(predictions, score="f1").task == "regression"
    model.check_frozen()
    assert model.fingerprint != in_order.fingerprint


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({}, [], "name its column of scores in score="),
        ({"score": "q"}, [], r"'scored\.csv' has no column 'q'; it has: id, p, f1, f2"),
        ({"score": "id"}, [], "column 'id' of 'scored.csv' must be numbers"),
        ({"score": "p", "key": "f2"}, [], r"key 'f2' must name every row of 'scored\.csv' once; got twice.*0\.0"),
        ({"score": "p", "features": "f1"}, [], r"write features=\['f1'\]"),
        ({"score": "p"}, [1, 2], "batch has 2 rows and the predictions of 'scored' have 3; name the column that joins"),
        ({"score": "p", "key": "id"}, ["a", "z"], "1 rows of the batch have no prediction in 'scored'.*'z'"),
        ({"score": "p", "key": "id"}, pd.DataFrame({"no": [1]}), "batch lacks the column 'id' that joins it"),
    ],
)
def test_wrong_predictions(predictions: Path, options: dict[str, Any], batch: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(predictions, **options).scores(batch)


class Wobbling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + torch.randn_like(x))


def test_a_model_that_answers_differently_is_caught() -> None:
    model = TorchModule(Wobbling())
    with pytest.raises(InputError, match="gave other logits when it was asked twice about the same rows"):
        model.scores(torch.ones(6, 4))


def test_changed_weights_are_noticed() -> None:
    model = TorchModule(nn.Linear(4, 1))
    model.check_frozen()
    with torch.no_grad():
        model._module.weight[0, 0] = torch.nextafter(model._module.weight[0, 0], torch.tensor(9.0))
    with pytest.raises(ModelChangedError, match="'Linear' has changed since it was loaded"):
        model.check_frozen()


def timm_folder(path: Path, **changes: Any) -> Path:
    import timm

    torch.manual_seed(0)
    module = timm.create_model("test_resnet", pretrained=False, num_classes=2)
    path.mkdir(parents=True)
    config = {
        "architecture": "test_resnet",
        "num_classes": 2,
        "pretrained_cfg": {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]},
    }
    (path / "config.json").write_text(json.dumps(config | changes))
    save_file(module.state_dict(), path / "model.safetensors")
    return path


@pytest.mark.vision
def test_local_folder_of_timm(tmp_path: Path) -> None:
    from auditkit.models import TimmModel

    model = load_model(f"local-dir:{timm_folder(tmp_path / 'net')}")
    assert isinstance(model, TimmModel)
    assert (model.name, model.task, model.input_shape) == ("test_resnet", "binary", (3, 96, 96))
    assert model._data_config["mean"] == (0.1, 0.2, 0.3)
    (tmp_path / "net" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no weights; there should be model\.safetensors"):
        load_model(f"local-dir:{tmp_path / 'net'}")
    torch.save({"w": Boom(tmp_path / "ran")}, tmp_path / "net" / "pytorch_model.bin")
    with pytest.raises(UntrustedFileError, match="holds more than tensors"):
        load_model(f"local-dir:{tmp_path / 'net'}")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="there is no folder"):
        load_model(f"local-dir:{tmp_path / 'absent'}")
    with pytest.raises(InputError, match="names the architecture 'os', unknown to timm"):
        load_model(f"local-dir:{timm_folder(tmp_path / 'odd', architecture='os')}")
    with pytest.raises(InputError, match="timm cannot build it"):
        load_model(f"local-dir:{timm_folder(tmp_path / 'bad', model_args={'no_such_argument': 1})}")


@pytest.mark.vision
def test_hub_model_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    home = tmp_path / "models--someone--net"
    folder = timm_folder(home / "snapshots" / ("a" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    found = load_model("hf-hub:someone/net")
    assert found.fingerprint == load_model(f"local-dir:{folder}").fingerprint
    with pytest.raises(InputError, match=r"'hf-hub:someone/other' is not in the local cache and cannot be fetched"):
        load_model("hf-hub:someone/other")


def audited(folder: Path, model: Any) -> ak.AuditFile:
    """A table of 600 rows with two numbers, and an audit of a model on them."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sex": rng.choice(["f", "m"], 600), "x": rng.normal(size=600), "y": rng.normal(size=600)})
    frame["label"] = (frame.x + (frame.sex == "m") + rng.normal(size=600) > 0.5).astype(int)
    frame.to_csv(folder / "table.csv", index=False)
    parity = {"family": "ECP", "attributes": "sex", "tolerance": 0.1}
    values = {"data": {"path": "table.csv", "attributes": ["sex"], "label": "label"}, "model": model}
    return ak.make_config(values | {"criteria": [parity], "tune": {"epochs": 5}}, folder=folder)


def test_trust_and_hashes_are_recorded_in_the_run(tmp_path: Path) -> None:
    frame = pd.read_csv(audited(tmp_path, "none").data_path)
    joblib.dump(LogisticRegression().fit(frame[["x", "y"]], frame.label), tmp_path / "m.joblib")
    with pytest.raises(UntrustedFileError, match=r"'m\.joblib' is a joblib file"):
        ak.run_audit(audited(tmp_path, "m.joblib"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.warns(UserWarning, match="code in it may have run"):
        ak.run_audit(audited(tmp_path, {"path": "m.joblib", "trust": "pickle"}), out=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"]["trust"] == "pickle"
    assert record["plan"]["model"] == {"path": "m.joblib", "trust": "pickle"} | dict.fromkeys(
        ("checkpoint", "task", "features", "output", "outputs", "score", "key")
    )
    assert record["model"]["fingerprint"] == record["hashes"]["model"]


def test_a_program_is_tuned_from_an_audit_file_at_a_named_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).eval()
    program = torch.export.export(net, (torch.zeros(3, 2),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    torch.export.save(program, tmp_path / "net.pt2")
    config = audited(tmp_path, {"path": "net.pt2", "features": "2"})
    run = ak.run_tune(config, out=tmp_path / "run")
    record = json.loads((run.folder / "run.json").read_text())
    assert record["model"]["weights_sha256"] == TorchModule(net).weights_sha256
    assert (record["model"]["n_features"], record["model"]["trust"]) == (8, None)
    assert run.after is not None
    with pytest.raises(InputError, match="features '9' is no layer"):
        ak.run_tune(audited(tmp_path, {"path": "net.pt2", "features": "9"}), out=tmp_path / "other")


def test_predictions_joined_by_a_key_are_audited_as_a_model(tmp_path: Path) -> None:
    config = audited(tmp_path, {"path": "scored.csv", "score": "p", "key": "x"})
    frame = pd.read_csv(config.data_path)
    frame[["x"]].assign(p=0.2 + 0.6 * (frame.sex == "m")).sample(frac=1, random_state=0).to_csv(
        tmp_path / "scored.csv", index=False
    )
    outcome = ak.run_audit(config, out=tmp_path / "run").outcome
    assert outcome.findings[0].gap == pytest.approx(0.6, abs=1e-9)


def test_tuning_leaves_every_parameter_and_buffer_bit_identical() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1)).train()
    model = TorchModule(net)
    before = {name: value.clone() for name, value in model._module.state_dict().items()}
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(400, 2))).float()
    groups, labels = ak.Groups({"sex": rng.choice(["f", "m"], 400)}), (rng.random(400) < 0.5).astype(float)
    features = model.features(x)
    config = ak.TuneConfig(epochs=5)
    ak.tune_head(features, labels, groups, [ak.ECP("sex", tolerance=0.05)], start=model.scores(x), config=config)
    after = model._module.state_dict()
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= set(before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(part.training for part in model._module.modules())
    assert not any(parameter.requires_grad for parameter in model._module.parameters())
    assert all(parameter.grad is None for parameter in model._module.parameters())
    model.check_frozen()
