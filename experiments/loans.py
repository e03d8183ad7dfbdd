"""SBA loans: parity of the mean logit for new businesses and for urban ones, beside the published figures.

    python -m experiments.loans --data DIR --out DIR [--seeds 25] [--workers 1]

The label is whether the loan was charged off; ε = 0.01 in logits, for each attribute by itself. The features are what
is known when the loan is granted, the attributes among them. Every method starts from the same features and splits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from auditkit.baselines import Sample
from auditkit.comparison import REFERENCE, CompareConfig, Comparison
from auditkit.criteria import ECP
from auditkit.finetuning import TuneConfig
from auditkit.groups import Groups
from experiments.protocol import (
    Protocol,
    area_under_curve,
    average_precision,
    encode,
    pooled_gap,
    relative_change,
    run,
    shown,
    utility_cells,
)
from experiments.results import standing, table
from experiments.sba_loans.prepare import AMOUNTS, FILE, read_loans
from experiments.training import real_file

NAME = "loans"
TOLERANCE = 0.01
METHODS = ("layer", "head", "projection", "projection_batched", "penalty_strict", "wasserstein_repair")
PUBLISHED = {"projection": ("−1.38 %", "−3.07 %"), "penalty_strict": ("−43 %", "−57 %")}
CONFIG = CompareConfig(
    methods=METHODS,
    threshold=0.0,
    guarantee=None,
    split=(("tune", 0.6), ("calibrate", 0.1), ("test", 0.3)),
    tune=TuneConfig(score_space="logit", hidden=16, epochs=300, learning_rate=0.03, patience=30),
    train_reference=True,
)


def read_sample(path: Path) -> Sample:
    """Features, outcome and the two attributes; the scores are a placeholder for a head trained on each split."""
    frame = read_loans(path)
    new, urban = frame["NewExist"] == "new", frame["UrbanRural"] == "urban"
    inputs = frame.drop(columns=["NewExist", "UrbanRural", "default"])
    inputs = inputs.assign(**{name: np.log1p(inputs[name]) for name in AMOUNTS}, new=new * 1.0, urban=urban * 1.0)
    groups = Groups({"new": np.where(new, "new", "existing"), "urban": np.where(urban, "urban", "other")})
    labels = frame["default"].to_numpy(dtype=np.float64)
    return Sample(np.zeros(len(frame)), labels, groups, encode(pd.DataFrame(inputs)))


def describe(dataset: Sample, comparison: Comparison) -> str:
    """The experiment as Markdown."""
    body = []
    for method in comparison.config.all_methods:
        cells = utility_cells(comparison, method, {"accuracy": 3, "auc": 4})
        changes = [("—", "—"), ("—", "—")]
        if method != "layer":
            found = [
                relative_change(comparison, dataset, method, "layer", measure)
                for measure in (area_under_curve, average_precision)
            ]
            changes = [(f"{shown(each, 2, signed=True)} %", standing(each)) for each in found]
        published = PUBLISHED.get(method, ("—", "—"))
        (auc, auc_standing), (precision, precision_standing) = changes
        body.append(
            [
                f"`{method}`", pooled_gap(comparison, method), *cells, auc, published[0], auc_standing, precision,
                published[1], precision_standing,
            ]
        )  # fmt: skip
    head = [
        "method", "largest test gap (logits)", "accuracy", "AUC", "AUC against `layer`", "published", "standing",
        "AP against `layer`", "published", "standing",
    ]  # fmt: skip
    rows = comparison.rows
    size = (
        f"{dataset.n_rows:,} loans, {len(comparison.runs_of(REFERENCE))} seeds; {rows['tune']} rows tune, "
        f"{rows['calibrate']} calibrate, {rows['test']} test. Changes are relative to the layer, in percent, per seed. "
        f"Intervals {comparison.intervals}."
    )
    return "\n\n".join(("## loans", size, table(head, body), _against_projection(dataset, comparison)))


def _against_projection(dataset: Sample, comparison: Comparison) -> str:
    """The tuned head, with and without the layer, against the projection: what the published margins are about."""
    lines = []
    for method in ("layer", "head"):
        for title, measure in {"AUC": area_under_curve, "AP": average_precision}.items():
            change = relative_change(comparison, dataset, method, "projection", measure)
            lines.append(
                f"- `{method}` against `projection`, {title}: {shown(change, 2, signed=True)} % ({standing(change)})"
            )
    return "\n".join(lines)


def run_loans(data: Path, protocol: Protocol) -> Comparison:
    """Compare on every seed and write what was found."""
    dataset = read_sample(real_file(data, FILE))
    criteria = [ECP(name, tolerance=TOLERANCE) for name in ("new", "urban")]
    comparison = protocol.compare(NAME, dataset, criteria, CONFIG)
    protocol.write(NAME, comparison, describe(dataset, comparison))
    return comparison


if __name__ == "__main__":
    run(run_loans, __doc__, seeds=25)
