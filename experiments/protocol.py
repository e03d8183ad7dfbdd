"""What the paper's experiments share: their command line, their comparison, and a table with the published figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from auditkit._files import write_whole
from auditkit._typing import FloatArray
from auditkit.baselines import Sample
from auditkit.comparison import Comparison, MethodRun, compare
from auditkit.comparison.settings import CompareConfig
from auditkit.criteria import Criterion
from auditkit.errors import InputError
from auditkit.metrics import Estimate
from auditkit.progress import RichProgress
from auditkit.splits import split_rows
from experiments.training import add_data_option


@dataclass(frozen=True)
class Protocol:
    """How often an experiment is run, and where its finished predictions are kept.

    Attributes:
        out: Folder for the figures; finished predictions go into a folder of their own in it.
        seeds: One split and one training each.
        workers: Processes.
    """

    out: Path
    seeds: tuple[int, ...]
    workers: int = 1

    def compare(self, name: str, dataset: Sample, criteria: Sequence[Criterion], config: CompareConfig) -> Comparison:
        """`auditkit.compare`, resumed from what is finished."""
        return compare(
            dataset, criteria, seeds=self.seeds, config=config, folder=self.out / name / "predictions",
            workers=self.workers, progress=RichProgress(),
        )  # fmt: skip

    def write(self, name: str, comparison: Comparison | None, text: str) -> None:
        """Write the Markdown, and the comparison as JSON; print the Markdown."""
        place = self.out / name
        place.mkdir(parents=True, exist_ok=True)
        if comparison is not None:
            write_whole(place / "comparison.json", json.dumps(comparison.to_dict(), indent=2, allow_nan=False).encode())
        write_whole(place / "RESULTS.md", (text + "\n").encode())
        print(text, flush=True)


def judged_rows(dataset: Sample, comparison: Comparison, seed: int) -> Sample:
    """The rows that one seed was judged on."""
    parts = split_rows(dataset.n_rows, fractions=dict(comparison.config.split), seed=seed)
    return dataset.take(parts["test"])


def relative_change(
    comparison: Comparison,
    dataset: Sample,
    method: str,
    reference: str,
    measure: Callable[[FloatArray, FloatArray], float],
) -> Estimate:
    """Mean over the seeds of (method − reference)/reference of a measure of (labels, scores), in percent."""
    changes = []
    for first, second in zip(comparison.runs_of(method), comparison.runs_of(reference), strict=True):
        labels = judged_rows(dataset, comparison, first.seed).labels
        one, other = (measure(labels, scores_of(run)) for run in (first, second))
        changes.append(100 * (one - other) / other)
    return comparison.resampling.pool(changes)


def scores_of(run: MethodRun) -> FloatArray:
    """The test scores of a run.

    Raises:
        RuntimeError: The method could not be fitted, or gives decisions only.
    """
    if run.prediction is None or run.prediction.scores is None:
        raise RuntimeError(f"{run.method} has no scores for seed {run.seed}: {run.error}")
    return run.prediction.scores


def area_under_curve(labels: FloatArray, scores: FloatArray) -> float:
    """AUC by scikit-learn."""
    return float(roc_auc_score(labels, expit(scores)))


def average_precision(labels: FloatArray, scores: FloatArray) -> float:
    """Average precision by scikit-learn."""
    return float(average_precision_score(labels, scores))


def shown(estimate: Estimate | None, digits: int = 4, *, signed: bool = False) -> str:
    """A figure with its interval."""
    if estimate is None:
        return "—"
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    value, low, high = (form.format(number) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def pooled_gap(comparison: Comparison, method: str, *, level: str = "scores") -> str:
    """Largest gap over the enforced criteria, on the pooled test rows: the mean over the seeds and the worst seed."""
    gaps = [
        max(found.values())
        for run in comparison.runs_of(method)
        if (found := run.score_gaps if level == "scores" else run.decision_gaps)
    ]
    return "—" if not gaps else f"{np.mean(gaps):.4f} (worst {np.max(gaps):.4f})"


def encode(frame: pd.DataFrame) -> FloatArray:
    """Numbers as they are and texts as indicators, shape (n, d)."""
    return pd.get_dummies(frame, dtype=float).to_numpy(dtype=np.float64)


def read_options(
    description: str | None, *, seeds: int, arguments: Sequence[str] | None = None
) -> tuple[Path, Protocol]:
    """The data folder and the protocol, from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for predictions and figures")
    parser.add_argument("--seeds", type=int, default=seeds, metavar="N", help=f"how many seeds (default: {seeds})")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: intervals are taken over the seeds")
    return options.data, Protocol(options.out, tuple(range(options.seeds)), options.workers)


def run(body: Callable[[Path, Protocol], object], description: str | None, *, seeds: int) -> None:
    """Parse the command line and run an experiment; a missing file is a message and exit code 2."""
    data, protocol = read_options(description, seeds=seeds)
    try:
        body(data, protocol)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error


def utility_cells(comparison: Comparison, method: str, keys: Mapping[str, int]) -> list[str]:
    """Utilities of a method over the seeds, each with its number of digits."""
    runs = comparison.runs_of(method)
    return [
        shown(comparison.resampling.estimate([run.utility[key] for run in runs]), digits)
        for key, digits in keys.items()
    ]
