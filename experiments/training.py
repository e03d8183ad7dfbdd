"""What the experiments share: a seeded frozen model on a training part, its held-out rows as the table to audit."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from auditkit.errors import InputError
from auditkit.models import load_model
from sample_models.adult_mlp.build import Recipe, fit, measure, write_json, write_model

AUDIT_FILE = "audit.yaml"
DATA_VARIABLE = "AUDITKIT_DATA"
RARE, RARE_NAME = 20, "other"
SEED = 2030

Prepare = Callable[[Path, Path], dict[str, Any]]


def train_and_hold_out(frame: pd.DataFrame, recipe: Recipe, attributes: Sequence[str], out: Path) -> dict[str, Any]:
    """Train on a part of the rows and write the model and the other rows into ``out/model``.

    Args:
        frame: Inputs, attributes and label.
        recipe: What the model reads and how it is trained.
        attributes: Columns kept beside the inputs; none of them is one.
        out: The work folder.

    Returns:
        Rows, epochs and quality, also written to ``out/prepared.json``.
    """
    inputs = (*recipe.numeric, *recipe.categorical)
    assert not set(inputs) & {*attributes, recipe.label}, "a protected attribute or the label is among the inputs"
    parts, content, network, epoch = fit(frame[[*inputs, *attributes, recipe.label]], recipe, seed=SEED)
    write_model(out / "model", content, network, parts.heldout)
    model = load_model(out / "model")
    qualities = {
        name: measure(model.scores(rows).double().numpy(), rows, recipe.label)
        for name, rows in {"train": parts.train, "heldout": parts.heldout}.items()
    }
    facts = {"rows": len(frame), "trained_on": len(parts.train), "epochs": epoch, "seed": SEED, **qualities}
    write_json(out / "prepared.json", facts)
    return facts


def merge_rare(values: pd.Series) -> pd.Series:
    """Texts, with those of fewer than 20 rows (missing ones among them) under one name: training sees every text.

    Where even together they are fewer than 20 rows, they count as the most common text.
    """
    texts = values.astype(object).where(values.notna(), RARE_NAME).astype(str).str.strip()
    rare = texts.map(texts.value_counts()) < RARE
    return texts.mask(rare, RARE_NAME if rare.sum() >= RARE else texts.mode()[0])


def copy_audit_file(beside: str, out: Path) -> None:
    """Copy the audit file that lies beside a script into the work folder."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(beside).with_name(AUDIT_FILE), out / AUDIT_FILE)


def real_file(data: Path, name: str) -> Path:
    """Path of a real data file.

    Raises:
        InputError: It is not there.
    """
    path = data / "tabular" / name
    if not path.is_file():
        raise InputError(f"--data: there is no tabular/{name} in {str(data)!r}; see the experiment's README")
    return path


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """The folder of real data, by option or by environment."""
    given = os.environ.get(DATA_VARIABLE)
    parser.add_argument(
        "--data", type=Path, default=given, required=given is None, metavar="DIR",
        help=f"folder with tabular/… (default: the environment's {DATA_VARIABLE})",
    )  # fmt: skip


def add_seed_options(parser: argparse.ArgumentParser, *, seeds: int, first: int, sets: Collection[str]) -> None:
    """Where figures go, which seeds are run, and on which data sets."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the figures")
    parser.add_argument("--seeds", type=int, default=seeds, metavar="N", help=f"how many seeds (default: {seeds})")
    parser.add_argument(
        "--first-seed", type=int, default=first, metavar="N", help=f"the first of them (default: {first})"
    )
    parser.add_argument("--sets", nargs="+", choices=sets, default=list(sets), help="which data sets")


def main(prepare: Prepare, description: str | None) -> None:
    """Parse a prepare script's command line, prepare, and print what was made."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="work folder to write")
    options = parser.parse_args()
    try:
        print(json.dumps(prepare(options.data, options.out), indent=2))
    except InputError as error:
        parser.error(str(error))
