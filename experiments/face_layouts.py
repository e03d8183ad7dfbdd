"""Write faces in the UTKFace layout as CelebA and FairFace publish theirs, to run those experiments line by line.

    python -m experiments.face_layouts --faces FOLDER --out DIR [--rows 3000]

FOLDER holds ``images/`` and ``labels.csv``. DIR gains ``celeba/`` and ``fairface/``. Ages become FairFace's bands. The
columns Male and Young (below 40) of CelebA are those of the faces. They have no label for smiling: whether the image is
brighter than the median one stands in its place, so figures of it say nothing about CelebA.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from auditkit._typing import FloatArray, VectorLike
from experiments.faces import FAIRFACE_AGES, read_utkface

LOWER_ENDS = (0, 3, 10, 20, 30, 40, 50, 60, 70)
YOUNG = 40
VALIDATION_SHARE = 0.2


def write_layouts(faces: Path, out: Path, *, rows: int | None = None) -> None:
    """Write both layouts.

    Args:
        faces: Folder in the UTKFace layout.
        out: Folder that gains ``celeba`` and ``fairface``.
        rows: How many faces, drawn with a fixed seed; None takes all.

    Raises:
        InputError: A file is missing.
        SchemaError: A column is missing.
    """
    read_utkface(faces)  # refuses what is no such folder
    table = pd.read_csv(faces / "labels.csv")
    if rows is not None and rows < len(table):
        table = table.sample(rows, random_state=0).sort_index()
    write_celeba(table, faces / "images", out / "celeba")
    write_fairface(table, faces / "images", out / "fairface")


def write_celeba(table: pd.DataFrame, images: Path, out: Path) -> None:
    """``img_align_celeba/`` and ``list_attr_celeba.txt``, whose first line counts the images."""
    level = [brightness(images / name) for name in table["file"]]
    signs = pd.DataFrame(
        {
            "Male": _sign(table["gender"] == "male"),
            "Smiling": _sign(np.array(level) > np.median(level)),
            "Young": _sign(table["age"] < YOUNG),
        },
        index=table["file"].tolist(),
    )
    (out / "img_align_celeba").mkdir(parents=True, exist_ok=True)
    for name in table["file"]:
        shutil.copyfile(images / name, out / "img_align_celeba" / name)
    lines = [str(len(signs)), " ".join(signs), *(" ".join([name, *map(str, row)]) for name, *row in signs.itertuples())]
    (out / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_fairface(table: pd.DataFrame, images: Path, out: Path) -> None:
    """``train/``, ``val/`` and their tables of age band, gender and race."""
    held = np.random.default_rng(0).random(len(table)) < VALIDATION_SHARE
    for part, mine in {"train": table[~held], "val": table[held]}.items():
        (out / part).mkdir(parents=True, exist_ok=True)
        for name in mine["file"]:
            shutil.copyfile(images / name, out / part / name)
        bands = np.searchsorted(LOWER_ENDS, mine["age"], side="right") - 1
        labels = pd.DataFrame(
            {
                "file": f"{part}/" + mine["file"],
                "age": np.array(FAIRFACE_AGES)[bands],
                "gender": mine["gender"].str.capitalize(),
                "race": mine["race"],
                "service_test": False,
            }
        )
        labels.to_csv(out / f"fairface_label_{part}.csv", index=False)


def brightness(path: Path) -> float:
    """Mean grey value of an image."""
    from PIL import Image

    with Image.open(path) as image:
        grey: FloatArray = np.asarray(image.convert("L"), dtype=np.float64)
    return float(grey.mean())


def _sign(values: VectorLike) -> np.ndarray:
    """−1 and 1, as CelebA writes its attributes."""
    return np.where(np.asarray(values), 1, -1)


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, metavar="FOLDER", help="folder in the UTKFace layout")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for both layouts")
    parser.add_argument("--rows", type=int, default=None, metavar="N", help="how many faces (default: all)")
    options = parser.parse_args()
    write_layouts(options.faces, options.out, rows=options.rows)


if __name__ == "__main__":
    main()
