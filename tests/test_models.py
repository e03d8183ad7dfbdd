"""Frozen models: what they compute, that they stay as they are, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from auditkit.errors import InputError, SchemaError, UntrustedFileError
from auditkit.models import FrozenModel, TorchModule, load_model, sample_folder
from auditkit.models.tabular import TabularMLP

ROOT = Path(__file__).parents[1]

CONTENT = {
    "format": "auditkit.tabular_mlp",
    "format_version": 1,
    "name": "tiny",
    "task": "binary",
    "architecture": {"hidden": [5, 3], "activation": "tanh"},
    "preprocessing": {
        "numeric": [
            {"column": "age", "mean": 40.0, "std": 10.0, "log1p": False},
            {"column": "gain", "mean": 2.0, "std": 0.5, "log1p": True},
        ],
        "categorical": [
            {"column": "job", "vocabulary": ["cook", "nurse", "pilot"]},
            {"column": "floor", "vocabulary": ["1", "2"]},
        ],
    },
    "output": "log-odds",
}


def write_folder(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text(json.dumps(CONTENT | changes))
    rng = np.random.default_rng(3)
    shapes = {"hidden.0": (5, 7), "hidden.1": (3, 5), "head": (1, 3)}
    weights = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {f"{name}.bias": rng.normal(size=shape[:1]).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "tiny")


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "job": ["pilot", "cook", "nurse", "cook"],
            "unused": ["x"] * 4,
            "age": [20, 35, 50, 65],
            "gain": [0.0, 10.0, 100.0, 1000.0],
            "floor": [1, 2, 2, 1],
        },
        index=[7, 8, 9, 10],
    )


def by_hand(folder: Path, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Features and scores of the tiny model in plain NumPy, float64."""
    w = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}
    x = np.column_stack(
        [
            (frame["age"] - 40) / 10,
            (np.log1p(frame["gain"]) - 2) / 0.5,
            *[frame["job"] == job for job in ("cook", "nurse", "pilot")],
            *[frame["floor"].astype(str) == floor for floor in ("1", "2")],
        ]
    ).astype(np.float64)
    h = np.tanh(np.tanh(x @ w["hidden.0.weight"].T + w["hidden.0.bias"]) @ w["hidden.1.weight"].T + w["hidden.1.bias"])
    return h, 1 / (1 + np.exp(-(h @ w["head.weight"].T + w["head.bias"])[:, 0]))


def test_tabular_scores_and_features_equal_plain_numpy(folder: Path, frame: pd.DataFrame) -> None:
    model = load_model(folder)
    features, scores = by_hand(folder, frame)
    assert (model.name, model.task, model.n_features) == ("tiny", "binary", 3)
    np.testing.assert_allclose(model.features(frame).numpy(), features, atol=1e-6)
    np.testing.assert_allclose(model.scores(frame).numpy(), scores, atol=1e-6)
    np.testing.assert_allclose(model.logits(frame).numpy(), np.log(scores / (1 - scores)), atol=1e-5)


def test_features_times_head_are_the_logits(folder: Path, frame: pd.DataFrame) -> None:
    model, weights = load_model(folder), load_file(folder / "model.safetensors")
    rebuilt = model.features(frame).numpy() @ weights["head.weight"][0] + weights["head.bias"][0]
    np.testing.assert_allclose(model.logits(frame).numpy(), rebuilt, atol=1e-6)


def test_chunks_do_not_change_the_result(folder: Path, frame: pd.DataFrame) -> None:
    whole, chunked = load_model(folder), load_model(folder)
    chunked.chunk_rows = 3
    many = pd.concat([frame] * 25, ignore_index=True)
    torch.testing.assert_close(chunked.scores(many), whole.scores(many))
    torch.testing.assert_close(chunked.features(many), whole.features(many))


def test_categorical_and_text_columns_read_the_same(folder: Path, frame: pd.DataFrame) -> None:
    typed = frame.assign(job=frame["job"].astype("category"), floor=frame["floor"].astype(str).astype("category"))
    model = load_model(folder)
    assert torch.equal(model.scores(typed), model.scores(frame))
    assert torch.equal(model.scores(frame.iloc[:, ::-1]), model.scores(frame))


def test_unknown_categories_are_zeros_counted_and_announced(folder: Path, frame: pd.DataFrame) -> None:
    model = TabularMLP.load(folder)
    unseen = frame.assign(job=["diver", "cook", None, "cook"])
    assert model.count_unknown(frame) == {}
    assert model.count_unknown(unseen) == {"job": 2}
    with pytest.warns(UserWarning, match=r"all zeros \(job: 2\)"):
        scores = model.scores(unseen)
    np.testing.assert_allclose(scores.numpy(), by_hand(folder, unseen)[1], atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.scores(frame)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"age": [20, None, 50, 65]}, InputError, r"'age' has 1 values that are missing.*row label 8"),
        ({"age": [20, 35, np.inf, 65]}, InputError, r"'age' has 1 values.*row label 9"),
        ({"gain": [0.0, 1.0, 2.0, -1.0]}, InputError, r"'gain' has 1 values.*log scale.*row label 10"),
        ({"age": ["a", "b", "c", "d"]}, SchemaError, "'age' must be numeric"),
    ],
)
def test_bad_values(
    folder: Path, frame: pd.DataFrame, change: dict[str, list[object]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_model(folder).scores(frame.assign(**change))


def test_bad_batches(folder: Path, frame: pd.DataFrame) -> None:
    model = load_model(folder)
    with pytest.raises(SchemaError, match="lacks the columns gain, job that model 'tiny' reads; it has: unused, age"):
        model.scores(frame.drop(columns=["gain", "job"]))
    with pytest.raises(InputError, match=r"must be a DataFrame .* got ndarray"):
        model.scores(frame.to_numpy())
    with pytest.raises(InputError, match="at least one row"):
        model.features(frame.iloc[:0])


def tensors_of(model: FrozenModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model._module.state_dict().items()}


class Net(nn.Module):
    """Batch norm and dropout would both show if evaluation mode were lost."""

    def __init__(self, n_outputs: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(6, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    for _ in range(3):
        net(torch.randn(32, 4) * 3 + 1)
    return net


def test_scoring_changes_no_parameter_and_no_buffer(net: Net) -> None:
    model, x = TorchModule(net), torch.randn(50, 4)
    before = tensors_of(model)
    first = model.scores(x)
    model.features(x)
    after = tensors_of(model)
    assert "body.1.running_mean" in before
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in model._module.parameters())
    assert not any(part.training for part in model._module.modules())
    assert torch.equal(first, model.scores(x))
    assert not first.requires_grad


def test_training_the_original_leaves_the_frozen_copy_alone(net: Net) -> None:
    model, x = load_model(net), torch.randn(8, 4)
    before, print_before = model.scores(x), model.fingerprint
    with torch.no_grad():
        net.head.weight += 1
    assert torch.equal(model.scores(x), before)
    assert all(p.requires_grad for p in net.parameters())
    assert net.training
    assert TorchModule(net).fingerprint != print_before


def test_torch_features_are_what_the_last_linear_layer_reads(net: Net) -> None:
    model, x = TorchModule(net, chunk_rows=7), torch.randn(20, 4)
    expected = net.eval().body(x).detach()
    torch.testing.assert_close(model.features(x), expected)
    torch.testing.assert_close(model.logits(x), net.head(expected).detach()[:, 0])
    torch.testing.assert_close(model.scores(x), torch.sigmoid(net.head(expected)).detach()[:, 0])
    named = TorchModule(net, feature_layer="body.0")
    torch.testing.assert_close(named.features(x), net.body[0](x).detach())
    assert (model.n_features, named.n_features) == (6, 6)
    assert model.fingerprint != named.fingerprint


def test_features_can_be_trained_on(net: Net) -> None:
    features = TorchModule(net).features(torch.randn(8, 4))
    head = nn.Linear(6, 1)
    head(features).sum().backward()
    assert head.weight.grad is not None
    torch.testing.assert_close(head.weight.grad[0], features.sum(0))


@pytest.mark.parametrize(
    ("n_outputs", "task", "expected"),
    [
        (2, "binary", lambda z: torch.softmax(z, 1)[:, 1]),
        (3, "multiclass", lambda z: torch.softmax(z, 1)),
        (1, "regression", lambda z: z[:, 0]),
    ],
)
def test_scores_by_task(n_outputs: int, task: str, expected: object) -> None:
    net, x = Net(n_outputs).eval(), torch.randn(9, 4)
    torch.testing.assert_close(TorchModule(net, task=task).scores(x), expected(net(x).detach()))


def test_batches_of_other_kinds_are_read_as_floats(net: Net) -> None:
    model, x = TorchModule(net), np.random.default_rng(0).normal(size=(5, 4))
    expected = model.scores(torch.from_numpy(x).float())
    assert torch.equal(model.scores(x), expected)
    assert torch.equal(model.scores(pd.DataFrame(x)), expected)


class Overflow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) / (x[:, :1] != 0)


class Shortening(Overflow):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)[:-1]


def test_wrong_outputs_are_caught() -> None:
    x = torch.ones(6, 4)
    x[4] = 0
    with pytest.raises(InputError, match=r"NaN or infinite logits in 1 rows \(first at row 4\)"):
        TorchModule(Overflow()).scores(x)
    with pytest.raises(InputError, match="gave 5 logits for 6 rows"):
        TorchModule(Shortening()).scores(x)
    with pytest.raises(InputError, match=r"must give one output per row.*got \(6, 3\).*multiclass"):
        TorchModule(Net(3)).scores(x)
    with pytest.raises(InputError, match=r"k ≥ 2; got \(6, 1\)"):
        TorchModule(Net(), task="multiclass").scores(x)


def test_wrong_torch_options(net: Net) -> None:
    with pytest.raises(InputError, match=r"feature_layer 'nope' is no submodule; there are: 'body', 'body\.0'"):
        TorchModule(net, feature_layer="nope")
    with pytest.raises(InputError, match=r"n_features must be given: .*'body' \(Sequential\)"):
        TorchModule(net, feature_layer="body")
    with pytest.raises(InputError, match="feature_layer must be given"):
        TorchModule(nn.Flatten())
    with pytest.raises(InputError, match=r"features of shape \(n, 5\); got \(2, 6\)"):
        TorchModule(net, feature_layer="body", n_features=5).features(torch.ones(2, 4))
    with pytest.raises(InputError, match="task must be one of binary, regression, multiclass; got 'ranking'"):
        TorchModule(net, task="ranking")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"shape \(n, …\); got shape \(4,\)"):
        TorchModule(net).scores(torch.ones(4))
    with pytest.raises(InputError, match="encode text columns first"):
        TorchModule(net).scores(pd.DataFrame({"a": ["x"]}))


class Doubled(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_fingerprint_covers_weights_architecture_preprocessing_and_forward(folder: Path, tmp_path: Path) -> None:
    base = load_model(folder).fingerprint
    assert load_model(write_folder(tmp_path / "renamed", name="other")).fingerprint == base
    activation = {"hidden": [5, 3], "activation": "relu"}
    assert load_model(write_folder(tmp_path / "relu", architecture=activation)).fingerprint != base
    shifted = json.loads(json.dumps(CONTENT["preprocessing"]))
    shifted["numeric"][0]["mean"] = 41.0
    assert load_model(write_folder(tmp_path / "shifted", preprocessing=shifted)).fingerprint != base
    weights = load_file(folder / "model.safetensors")
    weights["head.bias"] = np.nextafter(weights["head.bias"], np.float32(9))
    save_file(weights, folder / "model.safetensors")
    assert load_model(folder).fingerprint != base
    net = Net()
    doubled = Doubled()
    doubled.load_state_dict(net.state_dict())
    assert TorchModule(net).fingerprint != TorchModule(doubled).fingerprint


def test_fingerprints_are_equal_in_another_process(folder: Path) -> None:
    code = (
        "import sys, torch; from torch import nn; from auditkit.models import TorchModule, load_model\n"
        "torch.manual_seed(0)\n"
        "module = TorchModule(nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 1)))\n"
        "print(load_model(sys.argv[1]).fingerprint, module.fingerprint)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.split()[0] == load_model(folder).fingerprint


class Boom:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('the pickle ran')",))


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (["m.pkl", "m.pickle"], r"is a pickle file.*skops\.io\.dump"),
        (["m.joblib"], r"is a joblib file.*skops\.io\.dump"),
        (["m.pt", "m.pth", "m.PT", "m.ckpt", "m.bin"], r"is a pickle file.*torch\.export\.save.*safetensors"),
        (["m.torchscript", "m.jit"], r"is a TorchScript file.*torch\.export\.save"),
    ],
)
def test_pickles_are_refused_unread(tmp_path: Path, names: list[str], remedy: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(pickle.dumps(Boom()))
        for spec in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(UntrustedFileError, match=remedy):
                load_model(spec)


def test_wrong_specs(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"there is nothing at .*absent"):
        load_model(tmp_path / "absent")
    (tmp_path / "model.xml").write_text("x")
    with pytest.raises(InputError, match=r"'model\.xml' is a file; it must be a folder with model\.json"):
        load_model(tmp_path / "model.xml")
    with pytest.raises(InputError, match=r"there is no model\.json"):
        load_model(tmp_path)
    with pytest.raises(InputError, match=r"spec must be .* got int"):
        load_model(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sample model 'nope' does not exist; there are: adult_mlp"):
        load_model("sample:nope")
    with pytest.raises(InputError, match=r"'\.\./tests' does not exist"):
        sample_folder("../tests")
    with pytest.raises(InputError, match=r'checkpoint belongs to "timm:<name>"; got it with folders'):
        load_model(folder, checkpoint="w.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version: Input should be 1"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"architecture": {"hidden": [], "activation": "relu"}}, r"architecture\.hidden"),
        ({"architecture": {"hidden": [4], "activation": "sin"}}, r"architecture\.activation"),
        (
            {"preprocessing": {"numeric": [{"column": "a", "mean": 0.0, "std": 0.0}], "categorical": []}},
            "greater than 0",
        ),
        (
            {"preprocessing": {"numeric": [], "categorical": [{"column": "a", "vocabulary": ["x", "x"]}]}},
            "a category is listed twice",
        ),
    ],
)
def test_wrong_model_descriptions(folder: Path, changes: dict[str, object], message: str) -> None:
    (folder / "model.json").write_text(json.dumps(CONTENT | changes))
    with pytest.raises(SchemaError, match=message):
        load_model(folder)


def test_wrong_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    path = folder / "model.safetensors"
    save_file({k: v for k, v in weights.items() if k != "head.bias"}, path)
    with pytest.raises(InputError, match=r"'head\.bias' should have shape \(1,\) and has none"):
        load_model(folder)
    save_file(weights | {"head.bias": np.array([np.nan], np.float32)}, path)
    with pytest.raises(InputError, match=r"'head\.bias' must be finite float32"):
        load_model(folder)
    save_file(weights | {"head.bias": np.zeros(1)}, path)
    with pytest.raises(InputError, match="float64"):
        load_model(folder)
    shutil.copy(folder / "model.json", path)
    with pytest.raises(InputError, match="damaged or no safetensors file"):
        load_model(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"there is no model\.safetensors"):
        load_model(folder)


def test_importing_models_and_datasets_loads_nothing_heavy() -> None:
    code = (
        "import sys; import auditkit.models, auditkit.datasets, auditkit.feature_cache\n"
        "print(sorted({'torch', 'timm', 'pandas', 'sklearn', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
