"""Synthetic regressions: 32 sets, each enforced in one batch and in streams of 16 rows.

    python -m experiments.synthetic --out DIR [--rows 40000] [--sets 32] [--epochs 30]

A set is one combination of five settings of two values each. Features are standard normal, y is a response of them
plus a group effect and noise; parity of the mean prediction (ε = 0.05) is enforced for the two groups:

- split: 50 % or 10 % of the rows in the smaller group;
- signal: the group moves the response by 0.5 or by 2 of its standard deviations, and the first features with it;
- noise: a standard deviation of 0.1 or of 1 beside a response of 1;
- bounds: predictions are free, or kept between the extremes of the training labels;
- linearity: the response is linear, or its tanh beside it.

Heads are trained through the layer in batches of 2,000 and of 256 rows, and without it. The figure is the test MSE of
three uses: the head of large batches on all test rows at once; the same head, and the head of batches of 256, on
streams of 16 rows by the pooled online rule. Sets are drawn here: the published per-set values belong to other draws,
and are no measure of these. A set that is finished is read from the out folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from auditkit._files import write_whole
from auditkit._typing import FloatArray
from auditkit.baselines import FitContext, Sample, fit_unconstrained
from auditkit.constraints import measure_gaps
from auditkit.criteria import ECP
from auditkit.enforcement import project
from auditkit.finetuning import TuneConfig, tune_head
from auditkit.groups import Groups
from auditkit.heads import FairHead
from auditkit.online_enforcer import OnlineEnforcer
from experiments.results import table

NAME = "synthetic"
FEATURES, MOVED = 150, 10
TOLERANCE = 0.05
STREAM = 16
CRITERIA = (ECP("group", tolerance=TOLERANCE),)
USES = ("large batch", "2000 → 16", "256 → 16")
Bounds = tuple[float, float] | None
Json = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One of the 32 sets.

    Attributes:
        split: Share of the smaller group.
        signal: Effect of the group, in standard deviations of the response.
        noise: Standard deviation of the noise, in the same unit.
        bounded: Whether predictions keep between the extremes of the training labels.
        linear: Whether the response is linear in the features.
    """

    split: float
    signal: float
    noise: float
    bounded: bool
    linear: bool

    @property
    def name(self) -> str:
        """Such as ``split0.5-signal2-noise0.1-free-linear``."""
        bounds, form = "bounded" if self.bounded else "free", "linear" if self.linear else "tanh"
        return f"split{self.split:g}-signal{self.signal:g}-noise{self.noise:g}-{bounds}-{form}"


SETTINGS = tuple(
    Setting(*values) for values in product((0.5, 0.1), (0.5, 2.0), (0.1, 1.0), (False, True), (True, False))
)


def draw(setting: Setting, n_rows: int, *, seed: int) -> Sample:
    """Features, labels and groups of one set; the scores are a placeholder."""
    rng = np.random.default_rng(seed)
    member = rng.random(n_rows) < setting.split
    features = rng.normal(size=(n_rows, FEATURES))
    weights = rng.normal(size=FEATURES) / np.sqrt(FEATURES)
    response = features @ weights
    if not setting.linear:
        response = 0.5 * response + np.tanh(2 * features @ rng.permutation(weights))
    features[:, :MOVED] += setting.signal * member[:, None] / np.sqrt(MOVED)  # the group can be told from the features
    labels = response + setting.signal * member + setting.noise * rng.normal(size=n_rows)
    return Sample(np.zeros(n_rows), labels, Groups({"group": np.where(member, "b", "a")}), features)


def measure_set(setting: Setting, n_rows: int, *, epochs: int, seed: int = 0) -> Json:
    """Train the three heads of one set and measure every use: MSE and pooled gap on the test rows."""
    dataset = draw(setting, n_rows, seed=seed)
    cut = round(0.8 * n_rows)
    tune, test = dataset.take(np.arange(cut)), dataset.take(np.arange(cut, n_rows))
    bounds = (float(tune.labels.min()), float(tune.labels.max())) if setting.bounded else None
    heads = {size: _train(tune, size, epochs, seed) for size in (2000, 256)}
    plain = _train_plainly(tune, epochs, seed)
    scores = {name: head.predict(np.asarray(test.features)) for name, head in {**heads, "plain": plain}.items()}
    uses = {
        "unconstrained": scores["plain"],
        "projection": _project(scores["plain"], test, bounds),
        "projection → 16": _stream(scores["plain"], test, bounds),
        USES[0]: _project(scores[2000], test, bounds),
        USES[1]: _stream(scores[2000], test, bounds),
        USES[2]: _stream(scores[256], test, bounds),
    }
    figures = {
        name: {
            "mse": float(np.mean((values - test.labels) ** 2)),
            "gap": measure_gaps(values, test.groups, CRITERIA)[CRITERIA[0].name],
        }
        for name, values in uses.items()
    }
    return {"setting": asdict(setting), "rows": n_rows, "epochs": epochs, "seed": seed, "figures": figures}


def describe(found: Sequence[Json]) -> str:
    """Mean MSE and largest gap of every use over the sets, and the sets one by one."""
    names = list(found[0]["figures"])
    body = [[name, f"{_mean(found, name, 'mse'):.4f}", f"{_worst_gap(found, name):.4f}"] for name in names]
    sets = [
        [Setting(**each["setting"]).name, *(f"{each['figures'][name]['mse']:.4f}" for name in names)] for each in found
    ]
    size = f"{len(found)} of {len(SETTINGS)} sets, {found[0]['rows']:,} rows × {FEATURES} features, ε = {TOLERANCE:g}."
    summary = table(["use", "mean MSE", "largest pooled test gap"], body)
    return "\n\n".join((f"## {NAME}", size, summary, table(["MSE by set", *names], sets)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure what is missing, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the figures")
    parser.add_argument("--rows", type=int, default=40_000, metavar="N", help="rows per set (default: 40,000)")
    parser.add_argument("--sets", type=int, default=len(SETTINGS), metavar="N", help="how many sets (default: all)")
    parser.add_argument("--epochs", type=int, default=30, metavar="N", help="most epochs (default: 30)")
    options = parser.parse_args(arguments)
    if options.rows < 1000 or not 1 <= options.sets <= len(SETTINGS) or options.epochs < 1:
        parser.error(f"--rows must be at least 1000, --sets between 1 and {len(SETTINGS)}, --epochs at least 1")
    folder = options.out / NAME
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for setting in SETTINGS[: options.sets]:
        place = folder / f"{setting.name}-{options.rows}-{options.epochs}.json"
        if not place.is_file():
            write_whole(place, json.dumps(measure_set(setting, options.rows, epochs=options.epochs), indent=2).encode())
        found.append(json.loads(place.read_text(encoding="utf-8")))
    text = describe(found)
    write_whole(folder / "RESULTS.md", (text + "\n").encode())
    print(text)


def _train(tune: Sample, size: int, epochs: int, seed: int) -> FairHead:
    config = TuneConfig(score_space="identity", seed=seed, batch_size=size, epochs=epochs, patience=5)
    return tune_head(np.asarray(tune.features), tune.labels, tune.groups, CRITERIA, config=config)


def _train_plainly(tune: Sample, epochs: int, seed: int) -> FairHead:
    config = TuneConfig(score_space="identity", seed=seed, batch_size=2000, epochs=epochs, patience=5)
    return fit_unconstrained(FitContext(tune, tune, CRITERIA, config))


def _project(scores: FloatArray, test: Sample, bounds: Bounds) -> FloatArray:
    return np.asarray(project(scores, test.groups, CRITERIA, bounds=bounds).scores)


def _stream(scores: FloatArray, test: Sample, bounds: Bounds) -> FloatArray:
    """Batches of 16 rows in the order of the test rows, by the pooled online rule."""
    released = np.empty(len(scores))
    with OnlineEnforcer(CRITERIA, bounds=bounds) as enforcer:
        for start in range(0, len(scores), STREAM):
            rows = np.arange(start, min(start + STREAM, len(scores)))
            released[rows] = np.asarray(enforcer.step(scores[rows], test.groups.take(rows)).scores)
    return released


def _mean(found: Sequence[Json], name: str, key: str) -> float:
    return float(np.mean([each["figures"][name][key] for each in found]))


def _worst_gap(found: Sequence[Json], name: str) -> float:
    return max(each["figures"][name]["gap"] for each in found)


if __name__ == "__main__":
    main()
