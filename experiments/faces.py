"""Faces: parity of the mean logit over groups of faces, on frozen features, beside the published figures.

    python -m experiments.faces --images celeba|fairface|utkface:FOLDER --out DIR [--seeds 5] [--workers 1]

FOLDER holds a data set as it is published. CelebA: ``img_align_celeba/`` and ``list_attr_celeba.txt`` (or .csv); the
outcome is smiling, the groups are male × young. FairFace: ``train/``, ``val/``, ``fairface_label_train.csv`` and
``fairface_label_val.csv``; the outcome is an age of 30 or more, the groups are gender and race. UTKFace:
``images/`` and ``labels.csv``; the outcome is an age of 40 or more, the groups are gender and race.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from auditkit.baselines import Sample
from auditkit.comparison import REFERENCE, CompareConfig, Comparison
from auditkit.criteria import ECP, Criterion
from auditkit.errors import InputError, SchemaError
from auditkit.feature_cache import extract_features, read_manifest
from auditkit.finetuning import TuneConfig
from auditkit.models import load_model
from experiments.protocol import Protocol, pooled_gap, shown, utility_cells
from experiments.results import standing, table

TOLERANCE = 1e-4
BACKBONE = "timm:tf_efficientnet_lite0"
METHODS = ("layer", "projection", "head", "threshold_optimizer_relaxed", "wasserstein_repair")
CONFIG = CompareConfig(
    methods=METHODS,
    threshold=0.0,
    guarantee=None,
    split=(("tune", 0.6), ("calibrate", 0.2), ("test", 0.2)),
    tune=TuneConfig(score_space="logit", epochs=150, learning_rate=0.01, patience=20),
    train_reference=True,
)
PUBLISHED = {
    "celeba": "ResNet-18 0.9038 / 0.8852 · DenseNet-121 0.9149 / 0.8930 · Swin-T 0.9177 / 0.8882",
    "fairface": "ResNet-18 0.7616 / 0.7479 · DenseNet 0.7623 / 0.7389 · Swin-T 0.8081 / 0.7646",
}
"""Accuracy of the layer and of the projection, fine-tuned end to end."""

FAIRFACE_AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")


@dataclass(frozen=True, eq=False)
class FaceTable:
    """Faces as published.

    Attributes:
        name: Of the data set.
        frame: One row per image: ``path`` relative to the folder, ``label`` (0 or 1), and the attributes.
        folder: The data set's folder.
        attributes: Columns of the protected attributes.
        criteria: What is enforced.
    """

    name: str
    frame: pd.DataFrame
    folder: Path
    attributes: tuple[str, ...]
    criteria: tuple[Criterion, ...]


def read_celeba(folder: Path) -> FaceTable:
    """Smiling, and male × young, of every image; the attributes are published as −1 and 1.

    Raises:
        InputError: A file is missing.
        SchemaError: It is not in the published layout.
    """
    text, csv = folder / "list_attr_celeba.txt", folder / "list_attr_celeba.csv"
    if csv.is_file():
        raw = pd.read_csv(csv)
        raw = raw.rename(columns={raw.columns[0]: "image"})
    else:
        # The first line counts the images; the header that follows does not name the column of the images.
        raw = pd.read_csv(_existing(text), sep=r"\s+", skiprows=1).rename_axis("image").reset_index()
    _require(raw, ("Smiling", "Male", "Young"), "list_attr_celeba")
    if not raw[["Smiling", "Male", "Young"]].isin([-1, 1]).to_numpy().all():
        raise SchemaError("list_attr_celeba must hold −1 and 1; take the file as it is published")
    frame = pd.DataFrame(
        {
            "path": "img_align_celeba/" + raw["image"].astype(str),
            "label": (raw["Smiling"] == 1).astype(int),
            "gender": np.where(raw["Male"] == 1, "male", "female"),
            "age": np.where(raw["Young"] == 1, "young", "older"),
        }
    )
    criteria = (ECP(("gender", "age"), tolerance=TOLERANCE),)
    return FaceTable("celeba", frame, folder, ("gender", "age"), criteria)


def read_fairface(folder: Path) -> FaceTable:
    """Whether the age is 30 or more, gender and race, of every image of both parts.

    Raises:
        InputError: A file is missing.
        SchemaError: It is not in the published layout.
    """
    files = [_existing(folder / f"fairface_label_{part}.csv") for part in ("train", "val")]
    raw = pd.concat([pd.read_csv(file, dtype=str) for file in files], ignore_index=True)
    _require(raw, ("file", "age", "gender", "race"), "fairface_label")
    unknown = sorted(set(raw["age"]) - set(FAIRFACE_AGES))
    if unknown:
        raise SchemaError(f"fairface_label names the ages {unknown}; it must hold those published: {FAIRFACE_AGES}")
    frame = pd.DataFrame(
        {
            "path": raw["file"],
            "label": raw["age"].isin(FAIRFACE_AGES[4:]).astype(int),
            "gender": raw["gender"],
            "race": raw["race"],
        }
    )
    criteria = tuple(ECP(name, tolerance=TOLERANCE) for name in ("gender", "race"))
    return FaceTable("fairface", frame, folder, ("gender", "race"), criteria)


def read_utkface(folder: Path) -> FaceTable:
    """Whether the age is 40 or more, gender and race, of every image.

    Raises:
        InputError: A file is missing.
        SchemaError: A column is missing.
    """
    raw = pd.read_csv(_existing(folder / "labels.csv"))
    _require(raw, ("file", "age", "gender", "race"), "labels.csv")
    frame = pd.DataFrame(
        {
            "path": "images/" + raw["file"].astype(str),
            "label": (raw["age"] >= 40).astype(int),
            "gender": raw["gender"],
            "race": raw["race"],
        }
    )
    criteria = tuple(ECP(name, tolerance=TOLERANCE) for name in ("gender", "race"))
    return FaceTable("utkface", frame, folder, ("gender", "race"), criteria)


READERS = {"celeba": read_celeba, "fairface": read_fairface, "utkface": read_utkface}


def embed(faces: FaceTable, out: Path, *, backbone: str = BACKBONE) -> Sample:
    """Frozen features of every face, kept in the out folder; the scores are a placeholder for a trained reference."""
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / f"{faces.name}.csv"
    faces.frame.to_csv(manifest, index=False)
    images = read_manifest(
        manifest, attributes=faces.attributes, label="label", positive_label=1, folder=faces.folder, name=faces.name
    )
    features = extract_features(load_model(backbone), images, cache_dir=out / "features")
    labels = faces.frame["label"].to_numpy(dtype=np.float64)
    return Sample(np.zeros(len(labels)), labels, images.groups, np.asarray(features, dtype=np.float64))


def describe(faces: FaceTable, comparison: Comparison, backbone: str) -> str:
    """The experiment as Markdown."""
    body = []
    for method in comparison.config.all_methods:
        change = comparison.difference("layer", method, "accuracy")
        body.append(
            [
                f"`{method}`", pooled_gap(comparison, method), pooled_gap(comparison, method, level="decisions"),
                *utility_cells(comparison, method, {"accuracy": 3, "auc": 3}), shown(change, 4, signed=True),
                standing(change),
            ]
        )  # fmt: skip
    head = [
        "method",
        "test gap (logits)",
        "test gap (decisions)",
        "accuracy",
        "AUC",
        "`layer` minus, accuracy",
        "standing",
    ]
    size = (
        f"{len(faces.frame):,} faces, features of {backbone}, {len(comparison.runs_of(REFERENCE))} seeds. "
        f"Published, accuracy of the layer / of the projection: {PUBLISHED.get(faces.name, 'none')}. "
        f"Intervals {comparison.intervals}."
    )
    return "\n\n".join((f"## {faces.name}", size, table(head, body)))


def run_faces(faces: FaceTable, protocol: Protocol, *, backbone: str = BACKBONE) -> Comparison:
    """Embed the faces, compare on every seed, and write what was found."""
    dataset = embed(faces, protocol.out / faces.name, backbone=backbone)
    comparison = protocol.compare(faces.name, dataset, faces.criteria, CONFIG)
    protocol.write(faces.name, comparison, describe(faces, comparison, backbone))
    return comparison


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, metavar="NAME:FOLDER", help=f"NAME among {', '.join(READERS)}")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for features and figures")
    parser.add_argument("--backbone", default=BACKBONE, help=f"a frozen model (default: {BACKBONE})")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many seeds (default: 5)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    options = parser.parse_args(arguments)
    name, _, folder = options.images.partition(":")
    if name not in READERS or not folder:
        parser.error(f"--images must be NAME:FOLDER with NAME among {', '.join(READERS)}; got {options.images!r}")
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: intervals are taken over the seeds")
    try:
        protocol = Protocol(options.out, tuple(range(options.seeds)), options.workers)
        run_faces(READERS[name](Path(folder)), protocol, backbone=options.backbone)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(
            f"--images: there is no {path.name} in {str(path.parent)!r}; give the folder as it is published"
        )
    return path


def _require(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise SchemaError(f"{name} has no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")


if __name__ == "__main__":
    main()
