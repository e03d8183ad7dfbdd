"""Backbone, head and correction as one file: what it gives is what the parts give one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import auditkit as ak
from auditkit.deployment import calibrate_decisions
from auditkit.deployment.programs import encode_groups, export_onnx, export_torch, read_vocabulary
from auditkit.errors import InputError
from auditkit.models.samples import sample_folder
from auditkit.models.torch_module import TorchModule

N = 400


class Network(nn.Module):
    """A small convolutional backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.last = nn.Linear(24, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(images)).squeeze(1)


@pytest.fixture(scope="module")
def images() -> dict:
    """A frozen backbone, a tuned head, and what is known of the rows."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = TorchModule(Network(), name="small", task="binary")
    batch = torch.randn(N, 3, 8, 8)
    groups = ak.Groups({"sex": rng.choice(["f", "m"], N), "age": rng.choice([30, 60], N)})
    batch[groups.codes("sex") == 1] += 0.5
    labels = (rng.random(N) < 0.3 + 0.3 * groups.codes("sex")).astype(float)
    features = model.features(batch)
    criteria = [ak.ECP(("sex", "age"), tolerance=0.02)]
    head = ak.tune_head(features, labels, groups, criteria, config=ak.TuneConfig(epochs=3, batch_size=100))
    return {"model": model, "batch": batch, "groups": groups, "labels": labels, "criteria": criteria, "head": head}


@pytest.mark.parametrize("name", ["parity", "equalized odds"])
def test_a_torch_program_holds_backbone_head_and_correction(name: str, images: dict, tmp_path: Path) -> None:
    scores = images["head"].predict(images["model"].features(images["batch"]))
    criteria = images["criteria"] if name == "parity" else [ak.equalized_odds("sex", tolerance=0.01)]
    calibration = ak.calibrate(scores, images["groups"], criteria, labels=images["labels"], bounds=(0, 1))
    path = tmp_path / "deployed.pt2"
    export_torch(images["model"], calibration, path, example=images["batch"][:4], head=images["head"])
    program = torch.export.load(path).module()
    codes = encode_groups(images["groups"], read_vocabulary(path))
    found = program(images["batch"], codes).numpy()
    np.testing.assert_allclose(found, calibration.apply(scores, images["groups"]), rtol=0, atol=1e-6)
    assert np.abs(found - scores).max() > 1e-3  # the correction does something
    single = program(images["batch"][:1], codes[:1]).numpy()
    np.testing.assert_allclose(single, found[:1], atol=1e-6)


def test_an_onnx_graph_holds_backbone_head_and_correction(images: dict, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    scores = images["head"].predict(images["model"].features(images["batch"]))
    groups = images["groups"]
    calibration = ak.calibrate(scores, groups, images["criteria"], bounds=(0, 1))
    path = tmp_path / "deployed.onnx"
    export_onnx(images["model"], calibration, path, example=images["batch"][:4], head=images["head"])
    session = onnxruntime.InferenceSession(path)
    feed = {"inputs": images["batch"].numpy()} | {name: groups.values(name).astype(str) for name in ("sex", "age")}
    found = session.run(["corrected"], feed)[0]
    np.testing.assert_allclose(found, calibration.apply(scores, groups), rtol=0, atol=1e-6)
    feed["sex"] = np.array(["unknown"] * N)
    assert np.isnan(session.run(["corrected"], feed)[0]).all()


def test_thresholds_can_stand_behind_a_backbone(images: dict, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    scores = images["model"].scores(images["batch"]).numpy()
    groups, uniforms = images["groups"], np.random.default_rng(1).random(N)
    rules = calibrate_decisions(scores, groups, ak.equalized_odds("sex", tolerance=0.0), labels=images["labels"])
    path = tmp_path / "decisions.onnx"
    export_onnx(images["model"], rules, path, example=images["batch"][:4])
    feed = {"inputs": images["batch"].numpy(), "sex": groups.values("sex").astype(str), "uniforms": uniforms}
    chance, decision = onnxruntime.InferenceSession(path).run(["chance", "decision"], feed)
    np.testing.assert_allclose(chance, rules.chances(scores, groups), atol=1e-6)
    np.testing.assert_array_equal(decision, rules.apply(scores, groups, uniforms=uniforms))


def check_both_programs(
    model: ak.FrozenModel, head: ak.FairHead, calibration: ak.Calibration, inputs: torch.Tensor, scores: np.ndarray,
    groups: ak.Groups, folder: Path,
) -> None:  # fmt: skip
    """The ONNX graph and the torch program give what the correction makes of the head's scores."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    wanted = calibration.apply(scores, groups)
    export_onnx(model, calibration, folder / "deployed.onnx", example=inputs[:3], head=head)
    session = onnxruntime.InferenceSession(folder / "deployed.onnx")
    found = session.run(None, {"inputs": inputs.numpy(), "sex": groups.values("sex").astype(str)})[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    export_torch(model, calibration, folder / "deployed.pt2", example=inputs[:3], head=head)
    codes = encode_groups(groups, read_vocabulary(folder / "deployed.pt2"))
    program = torch.export.load(folder / "deployed.pt2").module()
    np.testing.assert_allclose(program(inputs, codes).numpy(), wanted, rtol=0, atol=1e-6)
    assert np.abs(wanted - scores).max() > 1e-5  # the correction does something that the tolerance above can see


def test_the_sample_model_of_a_table_is_exported_with_its_head(tmp_path: Path) -> None:
    model = ak.load_model(sample_folder("adult_mlp"))
    data = pd.read_parquet(next(sample_folder("adult_mlp").glob("*.parquet"))).head(600)
    inputs = next(iter(model._chunks(data)))  # the table as the network reads it: numbers
    groups = ak.Groups({"sex": data["sex"]})
    labels = (np.arange(len(data)) % 3 == 0).astype(float)
    head = ak.tune_head(
        model.features(data), labels, groups, ak.ECP("sex", tolerance=0.01), config=ak.TuneConfig(epochs=1)
    )
    scores = head.predict(model.features(data))
    calibration = ak.calibrate(scores, groups, ak.ECP("sex", tolerance=0.01), bounds=(0, 1))
    check_both_programs(model, head, calibration, inputs, scores, groups, tmp_path)


@pytest.mark.vision
def test_a_timm_backbone_is_exported_with_its_head(tmp_path: Path) -> None:
    timm_model = pytest.importorskip("auditkit.models.timm_model")  # makes timm importable, so it comes first
    import timm

    torch.manual_seed(0)
    model = timm_model.TimmModel(
        timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=1), name="small"
    )
    batch = torch.randn(12, 3, 64, 64)
    groups = ak.Groups({"sex": ["f", "m"] * 6})
    features, labels = model.features(batch), np.tile([0.0, 1.0, 1.0], 4)
    criterion = ak.ECP("sex", tolerance=0.0)
    head = ak.tune_head(features, labels, groups, criterion, config=ak.TuneConfig(epochs=1))
    scores = head.predict(features)
    calibration = ak.calibrate(scores, groups, criterion)
    check_both_programs(model, head, calibration, batch, scores, groups, tmp_path)


def test_what_was_never_seen_is_nan_or_kept(images: dict, tmp_path: Path) -> None:
    scores = images["model"].scores(images["batch"]).numpy().astype(np.float64)
    stranger = ak.Groups({"sex": ["x", "f"], "age": [30, 30]})
    for policy in ("raise", "keep"):
        calibration = ak.calibrate(scores, images["groups"], images["criteria"], on_unseen=policy)
        path = tmp_path / f"{policy}.pt2"
        export_torch(images["model"], calibration, path, example=images["batch"][:2])
        found = torch.export.load(path).module()(images["batch"][:2], encode_groups(stranger, read_vocabulary(path)))
        assert np.isnan(found[0]) if policy == "raise" else np.isclose(found[0], scores[0], atol=1e-6)
        assert np.isfinite(found[1])


def test_what_cannot_be_exported_says_why(images: dict, tmp_path: Path) -> None:
    scores, path = images["model"].scores(images["batch"]).numpy(), tmp_path / "file"
    calibration = ak.calibrate(scores, images["groups"], images["criteria"])
    with pytest.raises(InputError, match="example must have at least two rows"):
        export_torch(images["model"], calibration, path, example=images["batch"][:1])
    with pytest.raises(InputError, match=r"backbone must give one score per row, shape \(4,\); got \(4, 3, 8, 8\)"):
        export_torch(nn.Identity(), calibration, path, example=images["batch"][:4])
    with pytest.raises(InputError, match="path holds no program with a vocabulary of groups"):
        read_vocabulary(tmp_path / "missing.pt2")
    regression = ak.load_model(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))
    with pytest.raises(InputError, match="is no torch model, and has no form as one; export it on its own"):
        export_torch(regression, calibration, path, example=torch.zeros(2, 1))
    shares = np.tile([0.3, 0.7], (N, 1))
    inferred = ak.Groups(probabilities={"sex": shares})
    soft = ak.calibrate(scores, inferred, ak.ECP("sex", tolerance=0.5))
    with pytest.raises(InputError, match=r"the corrections for inferred attributes \(sex\) cannot be exported"):
        export_torch(images["model"], soft, path, example=images["batch"][:4])
    assert not path.exists()
