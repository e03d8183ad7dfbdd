"""What training through the layer gains before and after the correction that is deployed, beside the loss alone.

    python -m experiments.tuning_gain --data DIR --out DIR [--seeds 3] [--sets adult compas …] [--mode affine]

Settings and splits are those of `experiments.post_processing`. The reference, trained for the loss alone, is trained on
through the layer at ε. Both heads are compared on the rows that certify and test: as they are, projected with all these
rows (what training sees), and corrected at 0.4 ε by what the calibration rows show (what is deployed). Where both
gain alike, training and deployment agree; where only the first gains, they do not.

With ``--mode`` the reference is trained on at 0.4 ε, where its correction will be found, on all rows at once in the
mode asked for, and for equalized odds alone: "layer" trains through the projection, which sees the labels, "affine"
through the correction that is deployed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import auditkit as ak
from auditkit._files import write_whole
from auditkit.baselines import Prediction, Sample
from auditkit.baselines.base import frozen_features
from auditkit.constraints import measure_gaps
from auditkit.criteria import Criterion
from auditkit.finetuning import PROBABILITY_BOUNDS
from auditkit.heads import FairHead
from auditkit.splits import split_rows
from auditkit.tuning.frontiers import sweep
from experiments import post_processing as setting
from experiments.labelled_sets import LOADERS
from experiments.results import table
from experiments.training import add_data_option, add_seed_options

NAME = "tuning_gain"
AT_ONCE: dict[str, Any] = {"batch_size": None, "epochs": 300, "patience": 60, "learning_rate": 0.003}
MEASURES = (
    "log-loss, projected", "log-loss, corrected", "accuracy, projected", "accuracy, corrected", "accuracy, thresholds",
)  # fmt: skip


def compare_heads(
    name: str, dataset: Sample, rows: setting.Rows, seed: int, mode: Any = None
) -> dict[str, dict[str, float]]:
    """Figures of the reference and of the head tuned at ε, or at 0.4 ε in a mode, of one criterion and split."""
    criterion = setting.CRITERIA[name](setting.choose_tolerance(dataset, name))
    part, held = rows.tune, rows.calibrate
    config, tolerance = replace(setting.CONFIG, seed=seed, hidden=rows.reference.hidden), criterion.tolerance
    if mode is not None:
        config, tolerance = replace(config, mode=mode, **AT_ONCE), setting.CHOSEN_AT * criterion.tolerance
    path = sweep(
        frozen_features(part), part.labels, part.groups, criterion, [tolerance],
        held_out=(frozen_features(held), held.labels, held.groups), initial=rows.reference, config=config,
    )  # fmt: skip
    split = split_rows(dataset.n_rows, fractions=setting.PARTS, seed=seed)
    judged = dataset.take(np.concatenate([split["certify"], split["test"]]))
    heads = {"reference": rows.reference, "tuned": path.points[0].head}
    return {key: judge(head, held, judged, criterion) for key, head in heads.items()}


def judge(head: FairHead, held: Sample, judged: Sample, criterion: Criterion) -> dict[str, float]:
    """Figures of one head, in the order of the tables."""
    asked = criterion.with_tolerance(setting.CHOSEN_AT * criterion.tolerance)
    known, new = (replace(part, scores=setting.score(head, part)) for part in (held, judged))
    projected = ak.project(new.scores, new.groups, asked, labels=new.labels, bounds=PROBABILITY_BOUNDS).scores
    corrected = setting.fit_shift(known, asked)(new).scores
    assert corrected is not None, "a shift leaves scores"
    decided = setting.fit_thresholds(known, asked)(new)

    def gap(values: Any) -> float:
        return measure_gaps(values, new.groups, (criterion,), labels=new.labels)[criterion.name]

    losses = [log_loss(scores, new.labels) for scores in (projected, corrected)]
    right = [setting.accuracy(found, new) for found in (Prediction(projected), Prediction(corrected), decided)]
    return {**dict(zip(MEASURES, losses + right, strict=True)), "gap of the head": gap(new.scores),
            "gap of decisions, corrected": gap(setting.decide(Prediction(corrected)))}  # fmt: skip


def log_loss(scores: Any, labels: Any) -> float:
    """Mean log-loss of probabilities kept within the bounds of the layer."""
    kept = np.clip(scores, *PROBABILITY_BOUNDS)
    return float(-np.log(np.where(labels == 1, kept, 1 - kept)).mean())


def describe(found: dict[tuple[str, str], list[dict[str, dict[str, float]]]]) -> str:
    """Mean changes of the figures and the gaps of both heads, as Markdown."""
    lines = []
    for key, runs in found.items():
        change = [np.mean([run["tuned"][name] - run["reference"][name] for run in runs]) for name in MEASURES]
        gaps = [
            " → ".join(f"{np.mean([run[head][name] for run in runs]):.3f}" for head in ("reference", "tuned"))
            for name in ("gap of the head", "gap of decisions, corrected")
        ]
        lines.append([*key, str(len(runs)), *(f"{value:+.4f}" for value in change), *gaps])
    head = ["data set", "criterion", "seeds", *MEASURES, "gap of the head", "gap of decisions, corrected"]
    return "\n\n".join((f"## {NAME}", table(head, lines)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    add_seed_options(parser, seeds=3, first=40, sets=LOADERS)
    parser.add_argument("--mode", choices=("layer", "affine"), help="how equalized odds are trained for, at 0.4 ε")
    options = parser.parse_args(arguments)
    names = setting.CRITERIA if options.mode is None else ("equalized odds",)
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[dict[str, dict[str, float]]]] = {}
    for dataset in options.sets:
        sample = LOADERS[dataset](options.data, options.out)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            rows = setting.split_with_reference(sample, seed)
            for name in names:
                found.setdefault((dataset, name), []).append(compare_heads(name, sample, rows, seed, options.mode))
    text = describe(found)
    (options.out / NAME).mkdir(parents=True, exist_ok=True)
    write_whole(options.out / NAME / "RESULTS.md", (text + "\n").encode())
    print(text)


if __name__ == "__main__":
    main()
