"""A head tuned through the layer against every post-processing method, at equal certified gap: 12 settings.

    python -m experiments.post_processing --data DIR --out DIR [--seeds 5] [--sets adult compas …] [--workers 1]

A setting is a data set and a criterion (demographic parity or equalized odds of one attribute), at two levels: the
criterion is asked of the scores, or of the decisions. Rows are split into those that train (40 %), those on which
corrections and thresholds are found (15 %), those that certify (25 %) and those that test (20 %).

Every method is fitted at tolerances from 0 to ε, and certified at each: the audit of the certifying rows must pass at
ε with a confidence of 95 %. Tolerances are asked from the tightest on, and the first that is not certified ends the
series (fixed-sequence testing, which needs no correction for the number of questions); the loosest certified one is
taken. So all methods that are compared carry the same certificate, and what differs is their accuracy on the test rows.
ε follows from the sizes of the groups alone (`choose_tolerance`).

The reference that the post-processing methods start from is a head trained for the loss alone on the rows that train,
linear or with a hidden layer, chosen by its accuracy on the rows on which corrections are found.

Ours is a training method, and so is given the same 55 % of the rows as one part: the head is cross-fitted on them
(`auditkit.tuning.cross_fitting`), for the loss alone, linear or with a hidden layer by the log-loss out of fold, and
from there through the layer at ε. Its corrections are found on its out-of-fold scores: scores by calibrated shifts,
decisions by group thresholds or these. Head and correction are chosen by accuracy on the same rows, on the half that
the correction was not found on; anything but the first of the list has to be more accurate beyond the one-sided 95 %
limit of the paired difference, so that the choice does not follow chance. A (setting, seed) that is finished is read
from the out folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import log_loss

from auditkit._files import write_whole
from auditkit._typing import FloatArray
from auditkit.auditing import audit
from auditkit.baselines import FitContext, Prediction, Sample, find_method, fit_unconstrained
from auditkit.baselines.base import frozen_features
from auditkit.constraints import measure_gaps
from auditkit.criteria import ECP, Criterion, equalized_odds
from auditkit.deployment import calibrate_decisions
from auditkit.errors import AuditkitError, InputError
from auditkit.finetuning import TuneConfig
from auditkit.heads import FairHead
from auditkit.splits import split_rows
from auditkit.tuning.cross_fitting import CrossFit, cross_fit
from experiments.labelled_sets import ATTRIBUTE, LOADERS
from experiments.post_processing_tables import describe
from experiments.training import add_data_option, add_seed_options

NAME = "post_processing"
OURS = "tuned head"
PARTS = {"tune": 0.4, "calibrate": 0.15, "certify": 0.25, "test": 0.2}
CONFIDENCE = 0.95
TOLERANCES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
TIGHTENED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of ε that methods are fitted at."""
ROUNDING = 1e-6
CHOSEN_AT = 0.4
"""Share of ε that the tuned head and its correction are chosen at."""
FOLDS = 5
SURE = 1.645
"""Standard errors that a choice other than the first has to be ahead by: 95 % one-sided."""
MARGIN_SHARE = 0.75
BASELINES = {
    "scores": ("calibrated_projection", "wasserstein_repair", "recalibration_mean", "recalibration_isotonic"),
    "decisions": (
        "threshold_optimizer", "threshold_optimizer_relaxed", "error_parity", "oxonfair", "calibrated_projection",
        "wasserstein_repair", "recalibration_isotonic",
    ),
}  # fmt: skip
CRITERIA: dict[str, Callable[[float], Criterion]] = {
    "demographic parity": lambda epsilon: ECP(ATTRIBUTE, tolerance=epsilon),
    "equalized odds": lambda epsilon: equalized_odds(ATTRIBUTE, tolerance=epsilon),
}
CONFIG = TuneConfig(batch_size=512, epochs=80, learning_rate=0.01, patience=10)
WIDTHS = (None, 32)
PATH = (1.0,)
"""Tolerances that the head is tuned at, as multiples of ε, after it is trained for the loss alone."""
Predict = Callable[[Sample], Prediction]
Fit = Callable[[Criterion], Predict]
Json = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A data set and a criterion."""

    dataset: str
    criterion: str

    def file(self, folder: Path, seed: int) -> Path:
        """Where the figures of one seed are kept."""
        return folder / f"{self.dataset}-{self.criterion.replace(' ', '-')}-{seed}.json"


SETTINGS = tuple(Setting(*pair) for pair in product(LOADERS, CRITERIA))


@dataclass(frozen=True, eq=False)
class Rows:
    """The four parts of one split, the scores of the reference in place of the model's.

    Attributes:
        joined: The rows that train and those on which corrections are found, in one part.
        reference: The head that every post-processing method starts from.
    """

    tune: Sample
    calibrate: Sample
    certify: Sample
    test: Sample
    joined: Sample
    reference: FairHead


def choose_tolerance(dataset: Sample, criterion: str) -> float:
    """The least ε of the list of which the margin of the certifying rows, at rates of ½, takes at most three quarters.

    Args:
        dataset: All rows; only the sizes of groups and labels are looked at.
        criterion: Which.
    """
    codes = dataset.groups.codes(ATTRIBUTE)
    strata = [dataset.labels >= 0] if criterion == "demographic parity" else [dataset.labels == k for k in (0, 1)]
    margins = [
        1.96 * np.sqrt(sum(0.25 / (PARTS["certify"] * size) for size in np.bincount(codes[stratum])))
        for stratum in strata
    ]
    return next((e for e in TOLERANCES if max(margins) <= MARGIN_SHARE * e), TOLERANCES[-1])


def split_with_reference(dataset: Sample, seed: int) -> Rows:
    """Split, train the reference and put its scores into every part."""
    split = split_rows(dataset.n_rows, fractions=PARTS, seed=seed)
    parts = {name: dataset.take(rows) for name, rows in split.items()}
    contexts = [
        FitContext(parts["tune"], parts["calibrate"], (), replace(CONFIG, seed=seed, hidden=width)) for width in WIDTHS
    ]
    found = parts["calibrate"]
    best = max(map(fit_unconstrained, contexts), key=lambda head: accuracy(Prediction(score(head, found)), found))
    parts = {name: replace(part, scores=score(best, part)) for name, part in parts.items()}
    return Rows(**parts, joined=dataset.take(np.concatenate([split["tune"], split["calibrate"]])), reference=best)


def fit_alone(rows: Rows, seed: int) -> CrossFit:
    """Heads cross-fitted for the loss alone, of the width that is better out of fold."""
    fitted = [cross_fit_head(rows.joined, width, seed) for width in WIDTHS]
    return min(fitted, key=lambda heads: log_loss(rows.joined.labels, heads.scores))


def measure(setting: Setting, dataset: Sample, rows: Rows, alone: CrossFit, seed: int) -> Json:
    """Every method at both levels of one setting and seed, certified and tested."""
    epsilon = choose_tolerance(dataset, setting.criterion)
    criterion = CRITERIA[setting.criterion](epsilon)
    heads = tune(rows, alone, criterion, seed)
    levels: Json = {}
    for level, names in BASELINES.items():
        chosen, fit = choose_head(heads, rows.joined, criterion, level)
        methods: dict[str, Fit] = {OURS: fit, "reference": lambda _: keep_scores}
        context = FitContext(rows.tune, rows.calibrate, (criterion,), replace(CONFIG, seed=seed), None)
        methods |= {name: partial(fit_baseline, name, context) for name in names}
        if level == "decisions":
            methods["reference + own thresholds"] = partial(fit_thresholds, rows.calibrate)
        levels[level] = {name: certify(fit, rows, criterion, level) for name, fit in methods.items()}
        levels[level][OURS]["choice"] = chosen
    return {"dataset": setting.dataset, "criterion": setting.criterion, "seed": seed, "tolerance": epsilon,
            "rows": {name: getattr(rows, name).n_rows for name in PARTS}, "levels": levels}  # fmt: skip


def keep_scores(sample: Sample) -> Prediction:
    """The reference as it is."""
    return Prediction(sample.scores)


def tune(rows: Rows, alone: CrossFit, criterion: Criterion, seed: int) -> dict[str, CrossFit]:
    """Cross-fitted heads: for the loss alone, then through the layer from loose to tight."""
    heads = {"loss alone": alone}
    for share in PATH:
        at = criterion.with_tolerance(share * criterion.tolerance)
        start = list(heads.values())[-1]
        heads[f"{share:g} ε"] = cross_fit_head(rows.joined, start.heads[0].hidden, seed, at, start)
    return heads


def cross_fit_head(
    rows: Sample, width: int | None, seed: int, criterion: Criterion | None = None, start: CrossFit | None = None
) -> CrossFit:
    """Heads of some width, through the layer where there is a criterion."""
    return cross_fit(
        frozen_features(rows), rows.labels, rows.groups, () if criterion is None else criterion,
        folds=FOLDS, start=start, config=replace(CONFIG, seed=seed, hidden=width),
    )  # fmt: skip


def choose_head(heads: dict[str, CrossFit], rows: Sample, criterion: Criterion, level: str) -> tuple[str, Fit]:
    """The first head and correction, or the most accurate one where it is surely more accurate.

    One that leaves more than the tolerance it is fitted for on these rows is left out: calibrated shifts bound gaps of
    scores, which need not bound those of the decisions made from them.
    """
    asked = criterion.with_tolerance(CHOSEN_AT * criterion.tolerance)
    found: list[tuple[FloatArray, str, Fit]] = []
    for (name, fitted), (kind, correct) in product(heads.items(), CORRECTIONS[level].items()):
        sample = replace(rows, scores=fitted.scores)
        try:
            predicted = correct(sample, asked)(sample)
            right = judge_on_halves(lambda half, correct=correct: correct(half, asked), sample)
        except AuditkitError:
            continue
        gap = measure_gaps(values_of(predicted, level), rows.groups, (asked,), labels=rows.labels)[asked.name]
        if gap <= asked.tolerance + ROUNDING:
            found.append((right, f"{name}, {kind}", partial(deploy, correct, fitted, rows)))
    if not found:
        raise InputError(f"no head can be corrected for {criterion.name} on {rows.n_rows} rows")
    first, best = found[0], max(found, key=lambda each: each[0].mean())
    gain = best[0] - first[0]
    ahead = gain.mean() > SURE * gain.std() / np.sqrt(len(gain))
    _, name, fit = best if ahead else first
    return name, fit


def judge_on_halves(correct: Callable[[Sample], Predict], rows: Sample) -> FloatArray:
    """Chance of a right decision on every row, by the correction found on the other half of the rows."""
    right, even = np.empty(rows.n_rows), np.arange(rows.n_rows) % 2 == 0
    for held in (even, ~even):
        part = rows.take(np.flatnonzero(held))
        right[held] = chances_of_right(correct(rows.take(np.flatnonzero(~held)))(part), part)
    return right


def deploy(correct: Callable[[Sample, Criterion], Predict], fitted: CrossFit, rows: Sample, at: Criterion) -> Predict:
    """The head trained on all rows, corrected by what is found on the out-of-fold scores."""
    predict = correct(replace(rows, scores=fitted.scores), at)
    return lambda sample: predict(replace(sample, scores=score(fitted.head, sample)))


def score(head: FairHead, sample: Sample) -> FloatArray:
    """Probabilities of a head."""
    return head.predict(frozen_features(sample))


def fit_shift(rows: Sample, criterion: Criterion) -> Predict:
    """Calibrated corrections of scores."""
    return find_method("calibrated_projection").fit(FitContext(rows, rows, (criterion,), CONFIG, None))


def fit_thresholds(rows: Sample, criterion: Criterion) -> Predict:
    """Group thresholds of least error on scores, by the labels of the rows."""
    found = calibrate_decisions(rows.scores, rows.groups, criterion, labels=rows.labels, on_unseen="pooled")
    return lambda sample: Prediction(None, found.chances(sample.scores, sample.groups))


def fit_baseline(name: str, context: FitContext, criterion: Criterion) -> Predict:
    """A method of the library at one tolerance."""
    return find_method(name).fit(replace(context, criteria=(criterion,)))


def certify(fit: Fit, rows: Rows, criterion: Criterion, level: str) -> Json:
    """The loosest tolerance that is certified from the tightest on, and what it does on the test rows."""
    best: Json = {"certified": False}
    for share in TIGHTENED:
        try:
            predict = fit(criterion.with_tolerance(share * criterion.tolerance))
        except AuditkitError as error:
            best.setdefault("error", str(error))
            continue
        if not passes(values_of(predict(rows.certify), level), rows.certify, criterion):
            break
        found = predict(rows.test)
        gap = measure_gaps(values_of(found, level), rows.test.groups, (criterion,), labels=rows.test.labels)
        best = {"certified": True, "share": share, "accuracy": accuracy(found, rows.test), "gap": gap[criterion.name]}
    return best


def passes(values: FloatArray, rows: Sample, criterion: Criterion) -> bool:
    """Whether the audit of the certifying rows passes."""
    return audit(values, rows.groups, criterion, labels=rows.labels, confidence=CONFIDENCE).verdict == "pass"


def values_of(found: Prediction, level: str) -> FloatArray:
    """What the criterion is asked of: the scores, or the chances of a positive decision."""
    if level == "decisions":
        return decide(found)
    if found.scores is None:
        raise InputError("a method of decisions has no scores")
    return found.scores


def decide(found: Prediction) -> FloatArray:
    """Chances of a positive decision; scores decide at one half."""
    if found.decisions is not None:
        return np.asarray(found.decisions, dtype=np.float64)
    return (np.asarray(found.scores) >= 0.5).astype(np.float64)


def accuracy(found: Prediction, rows: Sample) -> float:
    """Expected share of right decisions."""
    return float(chances_of_right(found, rows).mean())


def chances_of_right(found: Prediction, rows: Sample) -> FloatArray:
    """Chance of a right decision on every row."""
    chance = decide(found)
    return np.where(rows.labels == 1, chance, 1 - chance)


CORRECTIONS: dict[str, dict[str, Callable[[Sample, Criterion], Predict]]] = {
    "scores": {"shift": fit_shift},
    "decisions": {"thresholds": fit_thresholds, "shift": fit_shift},
}


def measure_missing(data: Path, out: Path, task: tuple[str, int]) -> None:
    """Measure and store the settings of one data set and seed that are not there yet."""
    dataset, seed = task
    folder = out / NAME
    missing = [s for s in SETTINGS if s.dataset == dataset and not s.file(folder, seed).is_file()]
    if not missing:
        return
    torch.set_num_threads(1)
    sample = LOADERS[dataset](data, out)
    rows = split_with_reference(sample, seed)
    alone = fit_alone(rows, seed)
    for setting in missing:
        found = measure(setting, sample, rows, alone, seed)
        write_whole(setting.file(folder, seed), json.dumps(found, indent=2, allow_nan=False).encode())


def stored(out: Path, sets: Sequence[str], seeds: Sequence[int]) -> Iterator[Json]:
    """What is finished."""
    for setting, seed in product(SETTINGS, seeds):
        place = setting.file(out / NAME, seed)
        if setting.dataset in sets and place.is_file():
            yield json.loads(place.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure what is missing, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    add_seed_options(parser, seeds=5, first=0, sets=LOADERS)
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--only-show", action="store_true", help="print what is finished, measure nothing")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: intervals are taken over the seeds")
    folder = options.out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    work = partial(measure_missing, options.data, options.out)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    tasks = [] if options.only_show else [(name, seed) for seed in seeds for name in options.sets]
    try:
        if options.workers > 1:
            with ProcessPoolExecutor(options.workers) as pool:
                list(pool.map(work, tasks))
        else:
            for task in tasks:
                work(task)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    text = describe(list(stored(options.out, options.sets, seeds)), PARTS, OURS)
    write_whole(folder / "RESULTS.md", (text + "\n").encode())
    print(text)


if __name__ == "__main__":
    main()
