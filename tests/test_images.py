"""Image files that are damaged, lie or lead elsewhere, and audits of images from an audit file to its report."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image, ImageFile
from torch import nn

from auditkit.cli import main
from auditkit.config import load_config, make_config
from auditkit.datasets import hash_file
from auditkit.errors import InputError, SchemaError
from auditkit.feature_cache import ExtractionConfig, ImagePreprocessing, extract_features, extract_outputs, list_entries
from auditkit.images import CorruptImageError, decode_image, image_hashes, read_manifest
from auditkit.jobs import run_audit, run_tune
from auditkit.models.torch_module import TorchModule

N = 60
SIZE = (8, 12)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 20, height: int = 16, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def with_header_size(png: bytes, width: int, height: int) -> bytes:
    """A PNG whose header promises other dimensions than its pixels have, with a valid checksum."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def with_jpeg_height(jpeg: bytes, height: int) -> bytes:
    """A JPEG whose header promises more rows than were encoded; decoders fill them with grey."""
    place = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: place + 5] + struct.pack(">H", height) + jpeg[place + 7 :]


def interlaced(width: int, height: int) -> bytes:
    """An Adam7 PNG in 8-bit grey, packed by hand: Pillow reads them and writes none."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    lines = [
        b"\0" + bytes(10 * y + x for x in range(x0, width, dx))
        for x0, y0, dx, dy in passes
        for y in range(y0, height, dy)
        if x0 < width
    ]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


# Decoding


def test_what_is_decoded_is_what_was_encoded() -> None:
    image = noise()
    assert np.array_equal(np.asarray(decode_image(Path("a.png"), encoded(image))), np.asarray(image))
    grey = decode_image(Path("a.PNG"), encoded(image.convert("L")))
    assert (grey.mode, grey.size) == ("RGB", (20, 16))
    assert decode_image(Path("a.jpeg"), encoded(image, "JPEG")).size == (20, 16)
    assert decode_image(Path("a.webp"), encoded(image, "WEBP")).size == (20, 16)


MODES = [("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
MODES += [("JPEG", mode) for mode in ("L", "RGB", "CMYK")]


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_grey_edges_and_every_kind_of_pixel_are_no_damage(kind: str, mode: str) -> None:
    pixels = np.full((21, 37, 3), 128, dtype=np.uint8)
    pixels[:9] = np.asarray(noise(37, 9))
    for options in ({}, {"progressive": True}) if kind == "JPEG" else ({}, {"bits": 2} if mode == "P" else {}):
        content = encoded(Image.fromarray(pixels).convert(mode), kind, **options)
        assert decode_image(Path(f"a.{kind.lower()}"), content).size == (37, 21)


def test_an_interlaced_image_is_no_damage() -> None:
    pixels = np.asarray(decode_image(Path("a.png"), interlaced(5, 3)))[:, :, 0]
    assert pixels.tolist() == [[10 * y + x for x in range(5)] for y in range(3)]


CASES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.png", b"", "its 0 bytes are no image"),
    "text": ("a.png", b"hello world", "its 11 bytes are no image"),
    "cut short": ("a.png", encoded(noise())[:300], "truncated|broken|unrecognized"),
    "cut short JPEG": ("a.jpg", encoded(noise(200, 200), "JPEG")[:4000], "truncated"),
    "wrong extension": ("a.jpg", encoded(noise()), "its name says JPEG, its bytes are PNG"),
    "unknown extension": ("a.exe", encoded(noise()), r"the suffix '\.exe' is not among \.bmp"),
    "bomb": ("a.png", with_header_size(encoded(noise()), 60_000, 60_000), "promises far more pixels than the limit"),
    "large": ("a.png", with_header_size(encoded(noise()), 9_500, 9_500), "9500 × 9500 pixels, more than the limit"),
    "promises more": ("a.png", with_header_size(encoded(noise()), 20, 18), "promises 1,098 bytes of .* holds 976"),
    "promises less": ("a.png", with_header_size(encoded(noise()), 20, 15), "promises 915 bytes of .* holds more"),
    "promises more, JPEG": ("a.jpg", with_jpeg_height(encoded(noise(64, 64), "JPEG"), 96), "ends before the 64 × 96"),
    "promises more, progressive JPEG": (
        "a.jpg", with_jpeg_height(encoded(noise(64, 64), "JPEG", progressive=True), 640), "ends before the 64 × 640"
    ),
    "flipped bits": ("a.png", encoded(noise())[:200] + b"\0\1\2" + encoded(noise())[203:], "broken data stream"),
    "16 bits": ("a.png", encoded(Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))), "mode 'I;16'"),
    "several frames": (
        "a.tiff", encoded(noise(), "TIFF", save_all=True, append_images=[noise(seed=1)]), "holds 2 frames"
    ),
    "postscript": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "no image of a kind"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_damaged_and_lying_files_are_named(case: str) -> None:
    name, content, reason = CASES[case]
    with pytest.raises(CorruptImageError, match=f"image '{name}' cannot be read: .*({reason}).*replace it or drop"):
        decode_image(Path(name), content)


def test_the_limit_of_pixels_is_asked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(CorruptImageError, match="promises 20 × 16 pixels, more than the limit of 319"):
        decode_image(Path("a.png"), encoded(noise()), max_pixels=319)


def test_the_switch_that_fills_missing_pixels_in_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(InputError, match="LOAD_TRUNCATED_IMAGES is set"):
        decode_image(Path("a.jpg"), encoded(noise(200, 200), "JPEG")[:4000])


def test_preprocessing_equals_its_formula() -> None:
    image = noise(SIZE[1], SIZE[0])
    prepare = ImagePreprocessing(SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    expected = (np.asarray(image) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.5]
    np.testing.assert_allclose(prepare(image).numpy(), expected.transpose(2, 0, 1), atol=1e-5)
    assert prepare(noise(50, 40)).shape == (3, *SIZE)
    with pytest.raises(InputError, match="std positive"):
        ImagePreprocessing(SIZE, std=(1, 1, 0))
    with pytest.raises(InputError, match="size must be"):
        ImagePreprocessing((0, 3))


# Manifests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty images whose brightness follows sex and smile, their manifest, and a small network as ONNX."""
    rng = np.random.default_rng(3)
    (tmp_path / "faces").mkdir()
    sex, smile = rng.choice(["f", "m"], N), rng.integers(0, 2, N)
    for i in range(N):
        level = 90 + 50 * smile[i] + 40 * (sex[i] == "f")
        pixels = np.clip(rng.normal(level, 40, (*SIZE, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "faces" / f"{i}.png")
    rows = {"file": [f"faces/{i}.png" for i in range(N)], "sex": sex, "smile": smile}
    pd.DataFrame(rows).to_csv(tmp_path / "faces.csv", index=False)
    return tmp_path


def read(folder: Path) -> Any:
    return read_manifest(folder / "faces.csv", attributes="sex", label="smile", image_column="file")


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 1))


PREPARE = ImagePreprocessing(SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CONFIG = ExtractionConfig(batch_size=4, preprocessing=PREPARE)


@pytest.mark.parametrize(
    "path",
    ["../outside.png", "faces/../faces/0.png", "/etc/hostname", "C:\\images\\0.png", "faces\\..\\0.png", "a\0b.png"],
)
def test_paths_that_climb_or_are_absolute_are_refused(folder: Path, path: str) -> None:
    Image.new("RGB", (8, 8)).save(folder.parent / "outside.png")
    table = pd.read_csv(folder / "faces.csv")
    table.loc[3, "file"] = path
    table.to_parquet(folder / "faces.parquet")
    with pytest.raises(InputError, match="1 paths lead out of its folder"):
        read_manifest(folder / "faces.parquet", attributes="sex", image_column="file")


def test_links_that_leave_or_run_in_circles_are_refused(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder.parent / "outside.png")
    (folder / "faces" / "1.png").unlink()
    (folder / "faces" / "1.png").symlink_to(folder.parent / "outside.png")
    (folder / "faces" / "2.png").unlink()
    (folder / "faces" / "2.png").symlink_to(folder / "faces" / "2.png")
    with pytest.raises(InputError, match=r"[12] paths lead out of its folder \(faces/1\.png"):
        read(folder)
    (folder / "faces" / "1.png").unlink()
    (folder / "faces" / "1.png").symlink_to(folder / "faces" / "0.png")  # within the folder, this is fine
    with pytest.raises(InputError, match=r"faces/2\.png"):
        read(folder)


def test_hashes_are_those_of_the_files(folder: Path) -> None:
    manifest = read(folder)
    assert image_hashes(manifest) == tuple(hash_file(path) for path in manifest.paths)
    assert image_hashes(manifest.paths[:3]) == manifest.hashes[:3]
    (folder / "faces" / "7.png").write_bytes((folder / "faces" / "0.png").read_bytes())
    again = read(folder)
    assert again.hashes[7] == again.hashes[0] != manifest.hashes[7]
    assert again.hash_images() != manifest.hash_images()
    assert again.data.sha256 == manifest.data.sha256 == hash_file(folder / "faces.csv")


def test_a_manifest_keeps_weights_and_clusters(folder: Path) -> None:
    table = pd.read_csv(folder / "faces.csv").assign(people=2.0, person=np.arange(N) // 2)
    table.to_csv(folder / "faces.csv", index=False)
    manifest = read_manifest(
        folder / "faces.csv", attributes="sex", image_column="file", weight="people", cluster="person"
    )
    assert manifest.data.weights is not None
    assert manifest.data.weights.tolist() == [2.0] * N
    assert manifest.data.clusters is not None
    with pytest.raises(SchemaError, match="image_column names column 'fil'.*did you mean 'file'"):
        read_manifest(folder / "faces.csv", attributes="sex", image_column="fil")


# Extraction


def test_features_are_those_of_image_by_image(folder: Path, tmp_path: Path) -> None:
    model, manifest = TorchModule(network()), read(folder)
    found = extract_outputs(model, manifest, cache_dir=tmp_path / "cache", config=CONFIG)
    images = torch.stack([PREPARE(Image.open(path).convert("RGB")) for path in manifest.paths])
    np.testing.assert_allclose(found.values, model.features(images).numpy(), atol=1e-5)
    assert found.kept.tolist() == list(range(N))


def test_worker_processes_give_the_same_bits_and_leave_the_generator_alone(folder: Path) -> None:
    model, manifest = TorchModule(network()), read(folder)
    options = {"cache_dir": None, "batch_size": 4, "preprocessing": PREPARE}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone, helped = (extract_features(model, manifest, workers=workers, **options) for workers in (0, 2))
    assert np.array_equal(alone, helped)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_says_nothing_about_images_needs_preprocessing(folder: Path) -> None:
    with pytest.raises(InputError, match="does not say how images become its input"):
        extract_features(TorchModule(network()), read(folder), cache_dir=None)


def break_images(folder: Path) -> list[int]:
    """A truncated image, an empty one, a lying one and one of another kind, in different chunks."""
    faces = folder / "faces"
    good = (faces / "2.png").read_bytes()
    (faces / "2.png").write_bytes(good[: len(good) // 2])
    (faces / "3.png").write_bytes(b"")
    (faces / "21.png").write_bytes(with_header_size(good, 70_000, 70_000))
    (faces / "59.png").write_bytes(encoded(noise(), "JPEG"))
    return [2, 3, 21, 59]


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images_stop_or_are_skipped_and_counted(folder: Path, tmp_path: Path, workers: int) -> None:
    model, cache = TorchModule(network()), tmp_path / "cache"
    whole = extract_outputs(model, read(folder), cache_dir=None, config=CONFIG)
    broken = break_images(folder)
    settings: dict[str, Any] = {"batch_size": 2, "preprocessing": PREPARE, "workers": workers}
    with pytest.raises(InputError, match=r"image 'faces/2\.png' cannot be read: .*replace it or drop its row"):
        extract_outputs(model, read(folder), cache_dir=cache, config=ExtractionConfig(**settings))
    assert list_entries(cache) == []
    skipping = ExtractionConfig(on_corrupt="skip", **settings)
    found = extract_outputs(model, read(folder), cache_dir=cache, config=skipping)
    assert [row for row, _ in found.skipped] == broken
    assert np.isnan(found.values[broken]).all()
    np.testing.assert_allclose(found.values[found.kept], whole.values[found.kept], atol=1e-5)
    again = extract_outputs(model, read(folder), cache_dir=cache, config=skipping)
    assert again.skipped == found.skipped
    with pytest.raises(InputError, match=r"faces/2\.png.*\(3 more like it\)"):  # the cache forgives nothing
        extract_outputs(model, read(folder), cache_dir=cache, config=ExtractionConfig(**settings))


def test_nothing_readable_is_an_error(folder: Path) -> None:
    for path in (folder / "faces").iterdir():
        path.write_bytes(b"nothing")
    config = ExtractionConfig(on_corrupt="skip", preprocessing=PREPARE)
    with pytest.raises(InputError, match="none of the 60 images can be read; the first: image 'faces/0.png'"):
        extract_outputs(TorchModule(network()), read(folder), cache_dir=None, config=config)


def test_an_image_that_changes_while_it_is_read_is_refused(folder: Path) -> None:
    manifest = read(folder)
    assert len(manifest.hashes) == N
    noise().save(folder / "faces" / "9.png")
    with pytest.raises(InputError, match=r"image 'faces/9\.png' changed while the data were read"):
        extract_outputs(TorchModule(network()), manifest, cache_dir=None, config=CONFIG)
    (folder / "faces" / "9.png").unlink()
    with pytest.raises(InputError, match=r"image 'faces/9\.png' is gone"):
        extract_outputs(TorchModule(network()), manifest, cache_dir=None, config=CONFIG)


# Audit files


def audit_values(**images: Any) -> dict[str, Any]:
    return {
        "name": "faces",
        "data": {
            "path": "faces.csv", "attributes": ["sex"], "label": "smile",
            "images": {"column": "file", "size": list(SIZE), "mean": [0.5] * 3, "std": [0.5] * 3, **images},
        },
        "model": {"path": "net.onnx", "task": "binary", "features": "hidden"},
        "criteria": [{"family": "ECP", "attributes": ["sex"], "tolerance": 0.05}],
        "tune": {"epochs": 5},
    }  # fmt: skip


@pytest.fixture
def audited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes the audit file of the images, with the network beside it; the cache is a folder of the test."""
    onnx = pytest.importorskip("onnx", reason="pip install 'auditkit[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'auditkit[onnx]'")
    monkeypatch.setenv("AUDITKIT_CACHE", str(folder / "kept"))
    axes = {"x": {0: "n"}, "y": {0: "n"}}
    torch.onnx.export(
        network(), (torch.zeros(2, 3, *SIZE),), folder / "net.onnx", dynamo=False, input_names=["x"],
        output_names=["y"], dynamic_axes=axes,
    )  # fmt: skip
    graph = onnx.load(folder / "net.onnx")
    node = next(node for node in graph.graph.node if node.op_type == "Tanh")
    for other in graph.graph.node:
        for i, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[i] = "hidden"
    node.output[0] = "hidden"
    onnx.save(graph, folder / "net.onnx")

    def write(**images: Any) -> Path:
        (folder / "audit.yaml").write_text(yaml.safe_dump(audit_values(**images)))
        return folder / "audit.yaml"

    return write


def test_an_audit_of_images_is_the_audit_of_their_scores(audited: Callable[..., Path], folder: Path) -> None:
    result = run_audit(load_config(audited()), out=folder / "run")
    table = pd.read_csv(folder / "faces.csv")
    images = torch.stack([PREPARE(Image.open(folder / name).convert("RGB")) for name in table["file"]])
    with torch.no_grad():
        table["score"] = torch.sigmoid(network()(images)[:, 0]).double().numpy()
    women, men = (float(np.mean(table["score"].to_numpy()[table["sex"] == sex])) for sex in ("f", "m"))
    assert result.outcome.findings[0].gap == pytest.approx(abs(women - men), abs=1e-6)
    run = json.loads((folder / "run" / "run.json").read_text())
    assert run["data"]["images"]["files"] == run["data"]["images"]["different"] == N
    assert run["data"]["images"]["skipped"] == 0
    assert "60 files, 60 of them different; all could be read" in (folder / "run" / "report.html").read_text()


def test_runs_with_and_without_the_cache_are_the_same(audited: Callable[..., Path], folder: Path) -> None:
    config = load_config(audited())
    for name, chosen in {"cold": config, "elsewhere": config.with_cache(folder / "other")}.items():
        run_audit(chosen, out=folder / name)
    for name, chosen in {"warm": config, "none": config.with_cache(False)}.items():
        run_tune(chosen, out=folder / name)
    assert len(list_entries(folder / "kept")) == len(list_entries(folder / "other")) == 1
    for one, other, files in (("cold", "elsewhere", 2), ("warm", "none", 3)):
        for file in ("run.json", "audit.json", "audit_after.json")[:files]:
            assert (folder / one / file).read_bytes() == (folder / other / file).read_bytes()


def test_skipped_images_are_counted_in_the_run_and_the_report(
    audited: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_images(folder)
    with pytest.raises(SystemExit) as stopped:
        main(["audit", str(audited()), "--out", str(folder / "run")])
    assert stopped.value.code == 2
    assert "image 'faces/2.png' cannot be read" in capsys.readouterr().err
    assert not (folder / "run").exists()
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(audited(on_corrupt="skip")), "--out", str(folder / "run")])
    assert ended.value.code in (0, 1, 3)
    run = json.loads((folder / "run" / "run.json").read_text())
    assert (run["data"]["rows"], run["data"]["images"]["files"], run["data"]["images"]["skipped"]) == (56, 60, 4)
    assert run["data"]["images"]["skipped_images"][0]["path"] == "faces/2.png"
    assert "4 could not be read and were skipped" in (folder / "run" / "report.html").read_text()


def test_the_data_hash_follows_every_image(audited: Callable[..., Path], folder: Path) -> None:
    config = load_config(audited())
    first = json.loads((run_audit(config, out=folder / "a").folder / "run.json").read_text())["data"]
    noise().save(folder / "faces" / "50.png")
    second = json.loads((run_audit(config, out=folder / "b").folder / "run.json").read_text())["data"]
    assert first["sha256"] != second["sha256"]
    assert first["images"]["manifest_sha256"] == second["images"]["manifest_sha256"]


def test_the_command_line_keeps_lists_and_removes_features(
    audited: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(list(words))
        shown = capsys.readouterr()
        return stopped.value.code, shown.out, shown.err

    file, out = str(audited()), str(folder / "run")
    assert said("audit", file, "--out", out, "--no-cache")[0] in (0, 1, 3)
    assert said("cache", "ls")[:2] == (0, f"0 entries, 0 B, in {folder / 'kept'}\n")
    assert said("audit", file, "--out", out, "--cache", str(folder / "mine"))[0] in (0, 1, 3)
    assert "exclude each other" in said("audit", file, "--no-cache", "--cache", "x")[2]
    assert said("audit", file, "--out", out)[0] in (0, 1, 3)
    code, text, _ = said("cache", "ls")
    key = list_entries(folder / "kept")[0].key
    assert code == 0
    assert all(word in text for word in (key[:12], "whole", "60 images", "features+scores", "net", "1 entries"))
    listed = json.loads(said("cache", "ls", "--cache", str(folder / "mine"), "--format", "json")[1])
    assert [entry["state"] for entry in listed["entries"]] == ["whole"]
    assert "say which entries" in said("cache", "rm")[2]
    assert "--older-than must be a number" in said("cache", "rm", "--older-than", "soon")[2]
    assert said("cache", "rm", "--older-than", "1d")[:2] == (0, "removed: 0 entries, 0 B\n")
    assert said("cache", "rm", key[:10])[1].startswith("removed: 1 entries")
    assert said("cache", "rm", "--all", "--cache", str(folder / "mine"))[1].startswith("removed: 1 entries")
    assert list_entries(folder / "kept") == list_entries(folder / "mine") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "smile"}, "data.score: the model reads the images"),
        ({"features": ["sex"]}, "data.features: the model reads the images"),
        ({"exclude": ["file"]}, "data.exclude: exclude names 'file', the column of image paths"),
        ({"images": {"colum": "file"}}, "colum"),
        ({"images": {"mean": [0.5, 0.5, 0.5]}}, "mean and std need size"),
        ({"images": {"size": [0, 4]}}, "size must be height and width"),
        ({"images": {"size": [4, 4], "std": [1, 0, 1]}}, "std must be positive"),
        ({"images": {"on_corrupt": "pray"}}, "on_corrupt"),
    ],
)
def test_wrong_sections_are_told(change: dict[str, Any], message: str) -> None:
    values = audit_values()
    values["data"].update(change)
    with pytest.raises(SchemaError, match=message):
        make_config(values)


def test_excluded_columns_of_a_manifest_must_be_there(audited: Callable[..., Path], folder: Path) -> None:
    path = audited()
    values = yaml.safe_load(path.read_text())
    pd.read_csv(folder / "faces.csv").assign(note=1).to_csv(folder / "faces.csv", index=False)
    path.write_text(yaml.safe_dump({**values, "data": {**values["data"], "exclude": ["note"]}}))
    assert run_audit(load_config(path), out=folder / "run").outcome.n_rows == N
    path.write_text(yaml.safe_dump({**values, "data": {**values["data"], "exclude": ["notes"]}}))
    with pytest.raises(SchemaError, match="exclude names column 'notes', which the table lacks .did you mean 'note'"):
        run_audit(load_config(path), out=folder / "run")


def test_images_that_two_parts_share_are_counted_or_refused(audited: Callable[..., Path], folder: Path) -> None:
    for i in range(1, 20):
        shutil.copy(folder / "faces" / "0.png", folder / "faces" / f"{i}.png")
    path = audited()
    run_tune(load_config(path), out=folder / "run")
    leakage = json.loads((folder / "run" / "run.json").read_text())["leakage"]
    assert leakage["checked"] == ["image"]
    assert {(shared["earlier"], shared["later"]) for shared in leakage["found"]} >= {("tune", "test")}
    assert "test rows have the same image as rows of tune" in (folder / "run" / "report.html").read_text()
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**values, "split": {**values.get("split", {}), "leakage": "refuse"}}))
    with pytest.raises(InputError, match=r"split.leakage is refuse, and .*the same image"):
        run_tune(load_config(path), out=folder / "refused")
    path.write_text(yaml.safe_dump({**values, "data": {**values["data"], "max_gib": 0.001}}))
    run_audit(load_config(path), out=folder / "small")  # a csv manifest declares nothing
