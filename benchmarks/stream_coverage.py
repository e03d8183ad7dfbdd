"""How often a stream's interval for the population gap ever misses it, by simulation, in several settings.

    python -m benchmarks.stream_coverage               about 10 minutes on one core
    python -m benchmarks.stream_coverage --streams 40  quicker

The truth of a row is its expected released score (its label minus that, for EER) given its group and the correction in
force: scores are uniform about their group's mean, so the expectation after clipping has a closed form. A stream misses
when, at any batch, the interval of any gap does not hold the mean of those truths over the rows so far.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import auditkit as ak
from auditkit.streaming import (
    PendingRows,
    StreamConfig,
    StreamReport,
    StreamState,
    describe,
    keep_pending,
    make_batch,
    observe,
    step,
)

HALF = 0.35
"""Scores lie this far about the mean of their group."""

DELAY = 5
"""Batches after which labels arrive."""


@dataclass(frozen=True)
class Setting:
    """What is streamed, and what is enforced."""

    name: str
    criteria: tuple[ak.Criterion, ...]
    size: int
    rows: int
    bounds: tuple[float | None, float | None] = (None, None)
    shares: tuple[float, ...] = (0.7, 0.3)
    rule: str = "pooled"

    @property
    def residual(self) -> bool:
        return self.criteria[0].family == "EER"


ECP, EER = ak.ECP("g", tolerance=0.05), ak.EER("g", tolerance=0.05)
PAIR = (ECP, ak.ECP("h", tolerance=0.05))
SETTINGS = (
    Setting("one attribute, single rows", (ECP,), 1, 1000),
    Setting("one attribute, batches of 16", (ECP,), 16, 3000),
    Setting("one attribute, batches of 256", (ECP,), 256, 8192),
    Setting("the same within [0, 1]", (ECP,), 16, 3000, (0.0, 1.0)),
    Setting("a group of 8 %", (ECP,), 16, 4000, shares=(0.92, 0.08)),
    Setting("five groups", (ECP,), 64, 6400, shares=(0.3, 0.25, 0.2, 0.15, 0.1)),
    Setting("two attributes", PAIR, 16, 3000),
    Setting("residuals, labels five batches late", (EER,), 16, 3000),
    Setting("the scalar rule, batches of 16", (ECP,), 16, 1500, rule="scalar"),
)


def clipped_mean(centre: np.ndarray, bounds: tuple[float | None, float | None]) -> np.ndarray:
    """E[clip(u)] for u uniform on centre ± HALF: the difference of the antiderivative of clip at both ends."""
    low, high = (-math.inf if bounds[0] is None else bounds[0]), (math.inf if bounds[1] is None else bounds[1])
    if math.isinf(low) and math.isinf(high):
        return centre

    def integral(u: np.ndarray) -> np.ndarray:
        inner = np.clip(u, low, high)
        return inner**2 / 2 + high * np.maximum(u - high, 0) - low * np.maximum(low - u, 0)

    return (integral(centre + HALF) - integral(centre - HALF)) / (2 * HALF)


@dataclass
class Truth:
    """Sums of the expected values, by value of every attribute."""

    sums: dict[tuple[str, str], list[float]]

    def add(self, columns: dict[str, np.ndarray], values: np.ndarray) -> None:
        for name, column in columns.items():
            for value in np.unique(column).tolist():
                here = column == value
                entry = self.sums.setdefault((name, value), [0.0, 0.0])
                entry[0] += float(values[here].sum())
                entry[1] += float(here.sum())

    def mean(self, value: str) -> float:
        """Values name their attribute, so that they are told apart."""
        total, rows = next(entry for (_, other), entry in self.sums.items() if other == value)
        return total / rows

    def is_missed(self, report: StreamReport) -> bool:
        for gap in report.gaps:
            if gap.interval is None:
                continue
            words = [value for _, value in self.sums if value in gap.name]
            first, *second = sorted(words, key=gap.name.index)
            truth = self.mean(first) - (self.mean(second[0]) if second else 0.0)
            if not gap.interval[0] <= truth <= gap.interval[1]:
                return True
        return False


def misses(setting: Setting, seed: int) -> bool:
    """Whether any interval of one stream ever missed."""
    rng = np.random.default_rng(seed)
    columns = {"g": rng.choice([f"g{k}" for k in range(len(setting.shares))], setting.rows, p=setting.shares)}
    columns["h"] = rng.choice(["h0", "h1"], setting.rows)
    mean = 0.65 - 0.25 * (columns["g"] == "g1") - 0.1 * (columns["h"] == "h1")
    scores = mean + rng.uniform(-HALF, HALF, setting.rows)
    rate = np.clip(mean + 0.1 * (columns["g"] == "g1"), 0, 1)
    labels = (rng.random(setting.rows) < rate).astype(float)
    config = StreamConfig(setting.criteria, bounds=setting.bounds, rule=setting.rule)  # type: ignore[arg-type]
    names = list(config.columns)
    state, truth, waiting = StreamState(), Truth({}), list[tuple[slice, PendingRows, np.ndarray]]()
    for first in range(0, setting.rows, setting.size):
        rows = slice(first, min(first + setting.size, setting.rows))
        batch = make_batch(scores[rows], {name: columns[name][rows].tolist() for name in names}, names)
        state, release = step(state, batch, config)
        expected = clipped_mean(mean[rows] + release.corrections, setting.bounds)
        here = {name: columns[name][rows] for name in names}
        if not setting.residual:
            truth.add(here, expected)
        else:
            waiting.append((rows, keep_pending(state, batch, release), expected))
            if len(waiting) > DELAY:
                late, pending, values = waiting.pop(0)
                state, _ = observe(state, pending, labels[late], config)
                truth.add({name: columns[name][late] for name in names}, rate[late] - values)
        if state.rows >= 200 and truth.is_missed(describe(state, config)):
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=300, help="streams per setting")
    arguments = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])
    console = Console(width=120)
    table = Table("setting", "rows", "streams", "ever missed", "share", "±", title="intervals at 95 %, at every batch")
    for setting in SETTINGS:
        runs = [misses(setting, seed) for seed in track(range(arguments.streams), setting.name, transient=True)]
        share = float(np.mean(runs))
        error = math.sqrt(max(share * (1 - share), 1e-9) / len(runs))
        table.add_row(setting.name, str(setting.rows), str(len(runs)), str(sum(runs)), f"{share:.1%}", f"{error:.1%}")
        console.print(f"{setting.name}: {sum(runs)} of {len(runs)}")
    console.print(table)


if __name__ == "__main__":
    main()
