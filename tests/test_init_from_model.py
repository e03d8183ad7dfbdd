"""A first audit file from a model: what it reads is written down, and nothing in it is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.linear_model import LogisticRegression

import auditkit as ak
from auditkit.cli import main
from tests.transformer_folders import bert, save, vit


@pytest.fixture
def people(tmp_path: Path) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sex": rng.choice(["F", "M"], 400), "age": rng.integers(18, 80, 400)})
    frame["income"] = rng.normal(size=400)
    frame["hired"] = (frame["income"] + rng.normal(size=400) > 0).astype(int)
    frame.to_csv(tmp_path / "people.csv", index=False)
    return frame


def init(folder: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """The text that `init` writes, and what YAML makes of it."""
    (folder / "audit.yaml").unlink(missing_ok=True)
    with pytest.raises(SystemExit) as stop:
        main(["init", *arguments, "--out", str(folder / "audit.yaml")])
    assert stop.value.code == 0
    text = (folder / "audit.yaml").read_text()
    return text, yaml.safe_load(text)


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["init", *arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


def save_skops(frame: pd.DataFrame, path: Path) -> Path:
    io = pytest.importorskip("skops.io")
    io.dump(LogisticRegression().fit(frame[["income", "age"]], frame["hired"]), path)
    return path


def save_xgboost(frame: pd.DataFrame, path: Path) -> Path:
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=3).fit(frame[["income", "age"]], frame["hired"])
    model.get_booster().save_model(path)
    return path


def save_lightgbm(frame: pd.DataFrame, path: Path) -> Path:
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(frame[["income", "age"]], frame["hired"])
    model.booster_.save_model(path)
    return path


@pytest.mark.parametrize(
    ("name", "save"),
    [("m.skops", save_skops), ("m.ubj", save_xgboost), ("m.json", save_xgboost), ("m.txt", save_lightgbm)],
)
def test_a_model_with_names_and_its_table_make_a_file_that_runs(
    people: pd.DataFrame, tmp_path: Path, name: str, save: Any
) -> None:
    save(people, tmp_path / name)
    _, values = init(tmp_path, str(tmp_path / name), str(tmp_path / "people.csv"))
    assert values["model"] == name
    assert values["data"]["features"] == ["income", "age"]
    assert values["data"]["path"] == "people.csv"
    assert values["data"]["label"] == "hired"
    result = ak.run_audit(ak.load_config(tmp_path / "audit.yaml"), out=tmp_path / "run")
    assert result.outcome.n_rows == 400
    alone, planned = init(tmp_path, str(tmp_path / name))
    assert planned["data"]["features"] == ["income", "age"]
    assert "name the table and its protected attributes" in alone
    ak.load_config(tmp_path / "audit.yaml")


def test_columns_that_the_table_lacks_are_said(people: pd.DataFrame, tmp_path: Path) -> None:
    save_skops(people, tmp_path / "m.skops")
    people.drop(columns="income").to_csv(tmp_path / "other.csv", index=False)
    text, _ = init(tmp_path, str(tmp_path / "m.skops"), str(tmp_path / "other.csv"))
    assert "# the table lacks income, which the model reads" in text


def test_the_bundled_model_names_its_columns(tmp_path: Path) -> None:
    folder = ak.sample_config().data_path.parent
    _, values = init(tmp_path, str(folder))
    assert "education-num" in values["data"]["features"]
    assert (tmp_path / values["model"]).resolve() == folder.resolve()


def test_an_onnx_graph_shows_inputs_and_outputs(people: pd.DataFrame, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = onnx.numpy_helper.from_array(np.ones((2, 1), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["p"])]
    inputs = [helper.make_tensor_value_info("x", kind, ["n", 2])]
    outputs = [helper.make_tensor_value_info(name, kind, ["n", 1]) for name in ("z", "p")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    text, values = init(tmp_path, str(tmp_path / "m.onnx"), str(tmp_path / "people.csv"))
    assert values["model"] == {"path": "m.onnx", "output": "p"}
    assert "# its outputs are z (n, 1); p (n, 1); output: names the one with the scores" in text
    assert "# p holds probabilities, as far as the graph tells" in text
    assert "the model reads 2 columns without names: check the order" in text
    assert ak.load_config(tmp_path / "audit.yaml").data.features == ("age", "income")


def test_a_program_shows_its_shape(people: pd.DataFrame, tmp_path: Path) -> None:
    import torch

    program = torch.export.export(torch.nn.Linear(3, 1), (torch.zeros(4, 3),))
    torch.export.save(program, tmp_path / "m.pt2")
    text, values = init(tmp_path, str(tmp_path / "m.pt2"), str(tmp_path / "people.csv"))
    assert values["model"] == {"path": "m.pt2", "task": "binary"}
    assert "the model reads 3 columns without names, in its order; 2 are left beside the roles above" in text
    assert "task is not written in the file" in text


def test_an_image_model_is_not_fetched(tmp_path: Path) -> None:
    text, values = init(tmp_path, "timm:resnet18")
    assert values["model"] == "timm:resnet18"
    assert "# images: {column: file}   # the column of image files that the model reads" in text


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trap-was-sprung"),))


def test_nothing_is_run(
    people: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Trap()))
    assert "pickle" in refuse(capsys, str(tmp_path / "m.pkl"))
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Trap()))
    assert "m.pt" in refuse(capsys, str(tmp_path / "m.pt"))
    assert not (tmp_path / "trap-was-sprung").exists()


class Own(LogisticRegression):
    """A type that skops does not know."""


def test_types_to_trust_are_listed_and_not_constructed(people: pd.DataFrame, tmp_path: Path) -> None:
    io = pytest.importorskip("skops.io")
    io.dump(Own().fit(people[["income", "age"]], people["hired"]), tmp_path / "m.skops")
    text, values = init(tmp_path, str(tmp_path / "m.skops"), str(tmp_path / "people.csv"))
    assert values["model"] == {"path": "m.skops", "trust": io.get_untrusted_types(file=tmp_path / "m.skops")}
    assert values["model"]["trust"] == ["tests.test_init_from_model.Own"]
    assert "nothing was loaded: keep trust only if you trust each of them" in text


def test_wrong_requests(people: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(tmp_path / "people.csv")
    assert "init takes one table, or a model and its table" in refuse(capsys, table, table)
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    assert "is damaged or no ONNX file" in refuse(capsys, str(tmp_path / "m.onnx"))
    (tmp_path / "m.json").write_text("{}")
    assert "damaged or no XGBoost model" in refuse(capsys, str(tmp_path / "m.json"))


def test_a_transformer_and_its_table_of_texts_make_a_file_that_runs(tmp_path: Path) -> None:
    labels = {"id2label": {0: "late", 1: "repaid"}, "label2id": {"late": 0, "repaid": 1}}
    save(tmp_path / "bert", bert(**labels))
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sex": rng.choice(["F", "M"], 60), "Review": rng.choice(["good loan", "bad", "late"], 60)})
    frame.to_csv(tmp_path / "letters.csv", index=False)
    text, values = init(tmp_path, str(tmp_path / "bert"), str(tmp_path / "letters.csv"))
    assert values["data"]["text"] == "Review"
    assert values["model"] == "bert"
    assert "# its labels are late, repaid; the score is the probability of the second" in text
    result = ak.run_audit(ak.load_config(tmp_path / "audit.yaml").with_cache(False), out=tmp_path / "run")
    assert result.outcome.n_rows == 60
    text, values = init(tmp_path, f"local-dir:{tmp_path / 'bert'}")
    assert values["model"] == "local-dir:bert"
    assert "# text: review   # the column of texts that the model reads" in text


def test_a_transformer_of_images_names_its_labels(tmp_path: Path) -> None:
    module, processor = vit(labels=3)
    save(tmp_path / "vit", (module, processor))
    pd.DataFrame({"sex": ["F", "M"] * 5, "file": [f"{i}.png" for i in range(10)]}).to_csv(
        tmp_path / "faces.csv", index=False
    )
    text, values = init(tmp_path, str(tmp_path / "vit"), str(tmp_path / "faces.csv"))
    assert values["data"]["images"] == {"column": "file"}
    assert values["model"] == {"path": "vit", "output": "LABEL_2"}
    assert "its labels are LABEL_0, LABEL_1, LABEL_2; output names the one" in text
