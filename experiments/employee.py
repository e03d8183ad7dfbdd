"""Wages of employees: equalized residuals on five binary attributes, beside the published figures.

    python -m experiments.employee --data DIR --out DIR [--seeds 10] [--workers 1]

The label is the hourly rate scaled to [0, 1]. EER in absolute form, ε = 1e-4, is enforced on each attribute; scores
keep to [0, 1]. A constraint is one value of one attribute: ten of them, counted on the pooled test rows. As in the
paper, the projection of the test rows knows their labels, which no deployment does; the calibrated methods do without.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from auditkit.baselines import Sample
from auditkit.comparison import REFERENCE, CompareConfig, Comparison
from auditkit.criteria import EER
from auditkit.finetuning import TuneConfig
from auditkit.groups import Groups
from experiments.protocol import Protocol, judged_rows, pooled_gap, run, scores_of, shown, utility_cells
from experiments.results import standing, table
from experiments.training import real_file

NAME = "employee"
FILE = "Employee_Performance.xls"
TOLERANCE = 1e-4
ATTRIBUTES = ("male", "age_50_or_more", "single", "married", "divorced")
METHODS = (
    "layer", "projection", "head", "penalty", "penalty_strict", "calibrated", "calibrated_projection",
    "recalibration_mean",
)  # fmt: skip
PUBLISHED = {
    "layer": "10 of 10; replicated 29 of 30",
    "projection": "replicated 30 of 30",
    "penalty": "replicated 1 of 30",
}
CONFIG = CompareConfig(
    methods=METHODS,
    threshold=None,
    guarantee=None,
    split=(("tune", 0.6), ("calibrate", 0.2), ("test", 0.2)),
    tune=TuneConfig(score_space="identity", epochs=150, learning_rate=0.02, patience=20),
    bounds=(0.0, 1.0),
    train_reference=True,
)


def read_employees(path: Path) -> Sample:
    """Features, the scaled wage and the attributes; the scores are a placeholder for a head trained on each split."""
    raw = pd.read_excel(path, engine="xlrd")
    wage = raw["EmpHourlyRate"].to_numpy(dtype=np.float64)
    attributes = {
        "male": raw["Gender"] == "Male",
        "age_50_or_more": raw["Age"] >= 50,
        **{value.lower(): raw["MaritalStatus"] == value for value in ("Single", "Married", "Divorced")},
    }
    inputs = pd.get_dummies(raw.drop(columns=["EmpNumber", "EmpHourlyRate"]), dtype=float)
    labels = (wage - wage.min()) / (wage.max() - wage.min())
    groups = Groups({name: np.where(attributes[name], "yes", "no") for name in ATTRIBUTES})
    return Sample(np.zeros(len(raw)), labels, groups, inputs.to_numpy(dtype=np.float64))


def count_met(dataset: Sample, comparison: Comparison, method: str) -> list[int]:
    """Constraints met on the pooled test rows, one count per seed: |mean residual| ≤ ε by attribute and value."""
    counts = []
    for found in comparison.runs_of(method):
        rows = judged_rows(dataset, comparison, found.seed)
        residual = pd.Series(rows.labels - scores_of(found))
        means = [residual.groupby(rows.groups.values(name)).mean() for name in ATTRIBUTES]
        counts.append(int((pd.concat(means).abs() <= TOLERANCE + 1e-9).sum()))
    return counts


def describe(dataset: Sample, comparison: Comparison) -> str:
    """The experiment as Markdown."""
    body = []
    for method in comparison.config.all_methods:
        met = count_met(dataset, comparison, method)
        change = comparison.difference(method, "projection", "mse")
        body.append(
            [
                f"`{method}`", f"{sum(met)} of {10 * len(met)}", str(min(met)), PUBLISHED.get(method, "—"),
                pooled_gap(comparison, method), *utility_cells(comparison, method, {"mse": 5}),
                shown(change, 5, signed=True), standing(change, lower_is_better=True),
            ]
        )  # fmt: skip
    head = [
        "method", "constraints met", "fewest on one seed", "published", "largest test gap", "MSE",
        "MSE minus `projection`", "standing",
    ]  # fmt: skip
    rows = comparison.rows
    size = (
        f"{dataset.n_rows:,} employees, {len(comparison.runs_of(REFERENCE))} seeds; {rows['tune']} rows tune, "
        f"{rows['calibrate']} calibrate, {rows['test']} test. Intervals {comparison.intervals}."
    )
    return "\n\n".join(("## employee", size, table(head, body)))


def run_employee(data: Path, protocol: Protocol) -> Comparison:
    """Compare on every seed and write what was found."""
    dataset = read_employees(real_file(data, FILE))
    criteria = [EER(name, tolerance=TOLERANCE) for name in ATTRIBUTES]
    comparison = protocol.compare(NAME, dataset, criteria, CONFIG)
    protocol.write(NAME, comparison, describe(dataset, comparison))
    return comparison


if __name__ == "__main__":
    run(run_employee, __doc__, seeds=10)
