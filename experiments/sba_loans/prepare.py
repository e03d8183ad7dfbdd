"""Loans of the U.S. Small Business Administration: a model of default on 900 loans, 1,202 others to audit.

python -m experiments.sba_loans.prepare --data DIR --out DIR
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.training import copy_audit_file, main, merge_rare, real_file, train_and_hold_out
from sample_models.adult_mlp.build import Recipe

FILE = "SBAcase.11.13.17.csv"
BUSINESS = {1: "existing", 2: "new"}  # 0 stands for undefined and becomes missing, as where nothing was entered
PLACE = {0: "undefined", 1: "urban", 2: "rural"}
ATTRIBUTES = ("NewExist", "UrbanRural")
AMOUNTS = ("NoEmp", "CreateJob", "RetainedJob", "DisbursementGross", "GrAppv", "SBA_Appv")
CATEGORICAL = ("NAICS", "BankState", "RevLineCr", "LowDoc")
RECIPE = Recipe(
    name="sba_loans_mlp",
    output="log-odds that the loan is charged off",
    numeric=("Term", "Portion", "franchise", *AMOUNTS),
    categorical=CATEGORICAL,
    label="default",
    train_rows=900,
    tune_rows=200,
    hidden=(32, 16),
    log1p=AMOUNTS,
    max_epochs=200,
    patience=20,
    batch=32,
    learning_rate=1e-3,
    weight_decay=0.05,
)


def read_loans(path: Path) -> pd.DataFrame:
    """Inputs known when the loan is granted, decoded attributes, and whether the loan was charged off."""
    raw = pd.read_csv(path, encoding="utf-8-sig")
    texts = {name: merge_rare(raw[name]) for name in CATEGORICAL}
    return raw[["Term", "Portion", *AMOUNTS]].assign(
        **texts,
        franchise=(raw["FranchiseCode"] > 1).astype(np.int64),  # 0 and 1 mean no franchise
        NewExist=raw["NewExist"].map(BUSINESS),
        UrbanRural=raw["UrbanRural"].map(PLACE),
        default=(raw["MIS_Status"].str.strip() == "CHGOFF").astype(np.int64),
    )


def prepare(data: Path, out: Path) -> dict[str, Any]:
    """Train the model and write it, the held-out loans and the audit file."""
    frame = read_loans(real_file(data, FILE))
    copy_audit_file(__file__, out)
    return train_and_hold_out(frame, RECIPE, ATTRIBUTES, out)


if __name__ == "__main__":
    main(prepare, __doc__)
