"""What the audit's intervals and verdicts hold, by simulation: coverage, false verdicts, power, bias, whole streams.

    python -m benchmarks.coverage                      about an hour on one core; stops and resumes at --out
    python -m benchmarks.coverage --part exact         two groups of decisions by enumeration, half a minute
    python -m benchmarks.coverage --quick              a few minutes: fewer simulations of fewer cases

Every simulation draws the rows of every group, sums them to moments and runs the audit's own estimation on them. A case
is a number of groups, their sizes, a base rate and a kind of value. The truth has one group shifted by a gap, so that
the largest gap is that shift and the others are zero.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import binom, norm
from scipy.stats import t as student

import auditkit as ak
from auditkit.contrasts import compile_contrasts
from auditkit.criteria import Criterion
from auditkit.event_estimates import shrink_correlation
from auditkit.groups import CellTable
from auditkit.intervals import (
    INTERVAL_CORRECTION,
    TEST_CORRECTION,
    UnitMeans,
    difference_limits,
    fit_unit_means,
    two_sided_level,
)
from auditkit.joint import simulate_gaps
from auditkit.monitoring import START_ROWS, MeanSequence, asymptotic_radius, log_wealth
from auditkit.proportions import Counts, score_statistic

DRAWS = 2_000
"""Draws behind the critical level of every simulated audit; the audit itself takes more."""

KINDS = ("binary", "beta 5", "beta 20", "residual")
"""Decisions; scores of a Beta distribution with a + b = 5 or 20; labels minus calibrated Beta scores."""


@dataclass(frozen=True)
class Case:
    """One cell of the grid."""

    groups: int
    sizes: str
    rate: float
    kind: str
    gap: float

    @property
    def counts(self) -> np.ndarray:
        if self.sizes.startswith("one "):
            small, large = (int(word) for word in self.sizes[4:].split(" of "))
            return np.array([small] + [large] * (self.groups - 1))
        return np.full(self.groups, int(self.sizes))

    @property
    def means(self) -> np.ndarray:
        return np.where(np.arange(self.groups) == 0, self.rate + self.gap, self.rate)

    @property
    def truth(self) -> np.ndarray:
        """Expectation of what the criterion compares, per group."""
        shift = self.means - self.rate
        return shift if self.kind == "residual" else self.means

    @property
    def criterion(self) -> Criterion:
        make = ak.EER if self.kind == "residual" else ak.ECP
        options = {"form": "pairwise"} if self.kind == "residual" else {}
        return make("g", tolerance=self.gap, **options)


def grid(quick: bool) -> Iterator[Case]:
    for groups in (2, 5, 14):
        sizes = ("20", "50", "100", "300", "one 20 of 1000", "one 100 of 1000")
        for size in sizes if groups < 14 else ("20", "100", "one 20 of 1000"):
            for rate in (0.02, 0.1, 0.3) if groups < 14 else (0.02, 0.3):
                for kind in KINDS:
                    if not quick or (groups < 14 and size in ("20", "100") and rate != 0.1):
                        yield Case(groups, size, rate, kind, gap=0.1)
    if not quick:
        yield from (Case(2, size, rate, kind, 0.0) for size in ("20", "100", "one 20 of 1000") for rate in (0.02, 0.1)
                    for kind in KINDS)  # fmt: skip


def draw(case: Case, runs: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Sums per group of every simulated sample: arrays of shape (runs, groups)."""
    parts = [draw_group(case, int(n), float(mean), runs, rng) for n, mean in zip(case.counts, case.means, strict=True)]
    return {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}


def draw_group(case: Case, n: int, mean: float, runs: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if case.kind == "binary":
        ones = rng.binomial(n, mean, runs).astype(float)
        return {"score": ones, "score2": ones}
    spread = float(case.kind.removeprefix("beta ")) if case.kind.startswith("beta ") else 5.0
    base = case.rate if case.kind == "residual" else mean
    scores = rng.beta(base * spread, (1 - base) * spread, (runs, n))
    sums = {"score": scores.sum(1), "score2": (scores**2).sum(1)}
    if case.kind == "residual":
        shift = mean - base
        labels = (rng.random((runs, n)) < scores * (1 - shift / (1 - base)) + shift / (1 - base)).astype(float)
        sums |= {"label": labels.sum(1), "label2": labels.sum(1), "cross": (labels * scores).sum(1)}
    return sums


@dataclass(frozen=True, eq=False)
class Samples:
    """The audit's estimates of every simulated sample, one per row; values have shape (runs, groups)."""

    value: np.ndarray
    scores: UnitMeans
    labels: UnitMeans | None
    correlation: np.ndarray
    counts: Counts

    @classmethod
    def estimate(cls, case: Case, sums: dict[str, np.ndarray]) -> Samples:
        n = case.counts.astype(float)
        score = sums["score"] / n
        size = np.broadcast_to(n, score.shape)
        of_scores = variance_of(score, sums["score2"], n)
        scores = fit_unit_means(score, of_scores, size, exact=np.full(score.shape, case.kind == "binary"))
        counts = Counts(np.full(score.shape, case.kind == "binary"), sums["score"], size)
        if case.kind != "residual":
            return cls(score, scores, None, np.zeros_like(score), counts)
        label = sums["label"] / n
        labels = fit_unit_means(label, score, size, exact=np.ones(score.shape, dtype=bool))
        cross = (sums["cross"] / n - label * score) / (n - 1)
        scale = np.sqrt(of_scores * variance_of(label, sums["label"], n))
        known = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
        return cls(label - score, scores, labels, shrink_correlation(known, n), counts)

    @property
    def variance(self) -> np.ndarray:
        if self.labels is None:
            return self.scores.variance
        both = np.sqrt(self.scores.variance * self.labels.variance)
        return self.scores.variance + self.labels.variance - 2 * self.correlation * both

    def cover(self, gaps: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Whether the interval of every pairwise gap at one level per sample holds a true gap, shape (runs, pairs)."""
        if self.counts.known.all():
            first, second = np.triu_indices(self.value.shape[1], 1)
            ones, rows = self.counts.ones, self.counts.rows
            z = score_statistic(ones[:, first], rows[:, first], ones[:, second], rows[:, second], gaps)
            return np.abs(z) <= level[:, None]
        low, high = self.limits(level, INTERVAL_CORRECTION)
        return (low <= gaps + 1e-12) & (gaps <= high + 1e-12)

    def limits(self, level: np.ndarray, correction: float) -> tuple[np.ndarray, np.ndarray]:
        """Limits of every pairwise gap at one level per sample, shape (runs, pairs)."""
        first, second = np.triu_indices(self.value.shape[1], 1)
        low, high = (
            np.empty(self.value.shape),
            np.empty(self.value.shape),
        )
        for one in np.unique(level):
            rows = level == one
            low[rows], high[rows] = self._event_limits(rows, float(one), correction)
        return difference_limits(
            self.value[:, first],
            (low[:, first], high[:, first]),
            self.value[:, second],
            (low[:, second], high[:, second]),
        )

    def _event_limits(self, rows: np.ndarray, level: float, correction: float) -> tuple[np.ndarray, np.ndarray]:
        scores = take(self.scores, rows).limits(level, correction=correction)
        if self.labels is None:
            return scores
        labels = take(self.labels, rows)
        return difference_limits(
            labels.mean, labels.limits(level, correction=correction), self.scores.mean[rows], scores,
            correlation=self.correlation[rows],
        )  # fmt: skip


def variance_of(mean: np.ndarray, square: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.maximum(square / n - mean**2, 0) / (n - 1)


def take(means: UnitMeans, rows: np.ndarray) -> UnitMeans:
    return UnitMeans(means.mean[rows], means.trials[rows], means.dispersion[rows], means.freedom[rows])


def joint_levels(case: Case, samples: Samples, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The audit's critical level and the excess of the largest gap, of every sample."""
    table = CellTable(("g",), np.arange(case.groups)[:, None], (tuple(range(case.groups)),))
    contrasts = compile_contrasts([case.criterion], table)
    adequate = np.ones(contrasts.n_contrasts, dtype=bool)
    found = []
    for run, (value, variance) in enumerate(zip(samples.value, samples.variance, strict=True)):
        counts = Counts(samples.counts.known[run], samples.counts.ones[run], samples.counts.rows[run])
        found.append(
            simulate_gaps(
                contrasts, value, np.diag(variance), adequate, confidence=0.95, seed=seed + run, draws=DRAWS,
                counts=counts,
            )
        )  # fmt: skip
    return np.array([joint.level for joint in found]), np.array([joint.bias[0] for joint in found])


def simulate(case: Case, runs: int, seed: int) -> dict[str, float]:
    """Coverage, the share of every false verdict, and the bias of the largest gap."""
    samples = Samples.estimate(case, draw(case, runs, np.random.default_rng(seed)))
    first, second = np.triu_indices(case.groups, 1)
    gaps = case.truth[first] - case.truth[second]
    level, excess = joint_levels(case, samples, seed)

    worst = np.abs(samples.value[:, first] - samples.value[:, second]).max(axis=1)
    return {
        "simultaneous": float(samples.cover(gaps, level).all(axis=1).mean()),
        "pointwise": float(samples.cover(gaps, np.full(runs, two_sided_level(0.95))).mean()),
        **count_false(case, samples),
        "worst": float(worst.mean() - case.gap),
        "worst corrected": float(np.maximum(worst - excess, 0).mean() - case.gap),
    }


def show_verdicts(console: Console, *, runs: int, chunk: int = 2_000) -> None:
    """False verdicts alone, over the whole grid, with seeds of their own: they need no critical level, so more runs."""
    names = ("pass at", "pass above", "fail at", "fail below")
    cases = [case for case in grid(quick=False) if case.gap > 0]
    rates = np.zeros((len(cases), len(names)))
    for position, case in enumerate(track(cases, "verdicts", console=console, disable=not console.is_terminal)):
        rng = np.random.default_rng(10_000 + position)
        for _ in range(0, runs, chunk):
            found = count_false(case, Samples.estimate(case, draw(case, chunk, rng)))
            rates[position] += np.array([found[name] for name in names]) * chunk / runs
    table = Table(
        "verdict", "highest", "in", "mean", title=f"false verdicts, {runs:,} simulations of each of {len(cases)}"
    )
    for name, column in zip(names, rates.T, strict=True):
        worst = cases[int(column.argmax())]
        where = f"{worst.groups} groups, {worst.sizes} rows, rate {worst.rate:g}, {worst.kind}"
        table.add_row(name, f"{column.max():.4f}", where, f"{column.mean():.4f}")
    console.print(table)


def count_false(case: Case, samples: Samples) -> dict[str, float]:
    """The share of every false verdict at the largest gap and just beside it."""
    first, _ = np.triu_indices(case.groups, 1)

    def tested(alpha: float) -> tuple[np.ndarray, np.ndarray]:
        low, high = samples.limits(np.full(len(samples.value), norm.isf(alpha)), TEST_CORRECTION)
        return np.maximum(low, -high), np.maximum(high, -low)

    closest, farthest = tested(0.05 / len(first))[0].max(axis=1), tested(0.05)[1].max(axis=1)
    return {
        "pass at": float((farthest < case.gap).mean()),
        "pass above": float((farthest < case.gap / 1.05).mean()),
        "fail at": float((closest > case.gap).mean()),
        "fail below": float((closest > 1.05 * case.gap).mean()),
    }


def run_grid(cases: list[Case], runs: int, out: Path, console: Console) -> list[dict]:
    """Simulate what the file does not hold yet; every finished case is kept when the rest is interrupted."""
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {json.dumps(entry["case"]): entry for entry in done if entry["runs"] >= runs}
    results = []
    for position, case in enumerate(track(cases, "simulating", console=console, disable=not console.is_terminal)):
        key = json.dumps(asdict(case))
        if key not in known:
            known[key] = {"case": asdict(case), "runs": runs, "found": simulate(case, runs, seed=position)}
            with out.open("a") as file:
                file.write(json.dumps(known[key]) + "\n")
        results.append(known[key])
    return results


def show(results: list[dict], console: Console) -> None:
    names = ("simultaneous", "pointwise", "pass at", "pass above", "fail at", "fail below", "worst", "worst corrected")
    table = Table("groups", "rows", "rate", "values", "gap", *names, title="95 % intervals, 5 % tests")
    for entry in results:
        case, found = entry["case"], entry["found"]
        table.add_row(
            str(case["groups"]), case["sizes"], f"{case['rate']:g}", case["kind"], f"{case['gap']:g}",
            *(f"{found[name]:.4f}" if case["gap"] or name in names[:2] else "" for name in names),
        )  # fmt: skip
    console.print(table)
    summarise(results, console)


def summarise(results: list[dict], console: Console) -> None:
    def least(pick: Callable[[dict], bool]) -> list[float]:
        return [entry["found"]["simultaneous"] for entry in results if pick(entry)]

    def smallest(entry: dict) -> int:
        return int(Case(**entry["case"]).counts.min())

    every, large = least(lambda _: True), least(lambda entry: smallest(entry) >= 100)
    console.print(
        f"simultaneous coverage: least {min(every):.4f}; with ≥ 100 rows {min(large):.4f} to {max(large):.4f}"
    )
    for name in ("pass at", "pass above", "fail at", "fail below"):
        rates = [entry["found"][name] for entry in results if name in entry["found"] and entry["case"]["gap"] > 0]
        console.print(f"false {name}: at most {max(rates):.4f}, mean {np.mean(rates):.4f}")


def show_hard_cases(console: Console, *, runs: int) -> None:
    """Scores so skewed that hardly a row differs from 0, beside Welch's interval from the same sums."""
    table = Table("rows", "values", "audit", "Welch", title="coverage of 95 %, mean 0.02, two groups without a gap")
    for sizes, kind in (
        ("one 20 of 1000", "beta 5"),
        ("50", "beta 2"),
        ("100", "beta 2"),
        ("one 100 of 1000", "beta 2"),
    ):
        case = Case(2, sizes, 0.02, kind, 0.0)
        sums, n = draw(case, runs, np.random.default_rng(0)), case.counts.astype(float)
        mean = sums["score"] / n
        variance = variance_of(mean, sums["score2"], n)
        df = variance.sum(1) ** 2 / (variance**2 / (n - 1)).sum(1)
        welch = np.abs(mean[:, 0] - mean[:, 1]) <= student.isf(0.025, df) * np.sqrt(variance.sum(1))
        table.add_row(sizes, kind, f"{simulate(case, runs, 0)['pointwise']:.4f}", f"{welch.mean():.4f}")
    console.print(table)


EXACT_SIZES = ((20, 20), (50, 50), (100, 100), (300, 300), (20, 1000), (100, 1000))
"""Rows of two groups of decisions."""


def show_exact(console: Console, *, step: float) -> None:
    """Coverage of the interval of one gap of decisions, summed over every pair of counts that two groups can have."""
    table = Table(
        "rows", "gap", "at 2 %", "at 10 %", "at 30 %", "least", "at", "highest", "at",
        title="exact coverage of 95 %, two groups of decisions; least and highest of base rates from 2 % to 50 %",
    )  # fmt: skip
    rates = np.arange(0.02, 0.5 + step / 2, step)
    for rows in EXACT_SIZES:
        for gap in (0.0, 0.1):
            found = np.array([exact_coverage(rows, (rate + gap, rate)) for rate in rates])
            named = [f"{exact_coverage(rows, (rate + gap, rate)):.4f}" for rate in (0.02, 0.1, 0.3)]
            ends = [(f"{found[k]:.4f}", f"{rates[k]:.3f}") for k in (found.argmin(), found.argmax())]
            table.add_row(" and ".join(map(str, rows)), f"{gap:g}", *named, *ends[0], *ends[1])
    console.print(table)


def exact_coverage(rows: tuple[int, int], rates: tuple[float, float]) -> float:
    """The probability of the pairs of counts whose interval holds the true gap."""
    counts = [np.arange(n + 1) for n in rows]
    z = score_statistic(counts[0][:, None], rows[0], counts[1], rows[1], rates[0] - rates[1])
    mass = np.outer(*(binom.pmf(x, n, p) for x, n, p in zip(counts, rows, rates, strict=True)))
    return float(mass[np.abs(z) <= two_sided_level(0.95)].sum())


def simulate_streams(console: Console, *, streams: int, rows: int) -> None:
    """How often the interval of a gap of two groups is ever wrong, looked at after every row of each group."""
    table = Table("values", "mean", "exact", "asymptotic", title=f"streams that ever err ({streams:,} × {rows:,} rows)")
    share = np.array(0.05 / 4)  # of each of two events, half of the error being kept for groups that come later
    for kind, mean in (("binary", 0.02), ("binary", 0.3), ("beta 5", 0.02), ("beta 5", 0.3)):
        rng = np.random.default_rng(7)
        states, missed = [MeanSequence.start((streams,)) for _ in range(2)], np.zeros((2, streams), dtype=bool)
        square = np.zeros((2, streams))
        for row in track(range(rows), f"{kind} {mean}", console=console, disable=not console.is_terminal):
            for k in range(2):
                z = rng.beta(5 * mean, 5 - 5 * mean, streams) if kind == "beta 5" else rng.binomial(1, mean, streams)
                square[k] += z * z
                states[k] = states[k].advance(np.ones(streams), z.astype(float), z * z, alpha=share)
                missed[0] |= event_errs(states[k], mean, share)
            if row + 1 >= START_ROWS:
                n = row + 1
                variance = sum((square[k] / n - (states[k].total / n) ** 2) / (n - 1) for k in range(2))
                variance = np.maximum(variance, 1 / n**2)
                gap = (states[0].total - states[1].total) / n
                missed[1] |= np.abs(gap) > asymptotic_radius(variance, horizon=(3 / 0.05) ** 2, alpha=0.025)
        table.add_row(kind, f"{mean:g}", *(f"{share_of:.4f}" for share_of in missed.mean(axis=1)))
    console.print(table)


def event_errs(state: MeanSequence, mean: float, alpha: np.ndarray) -> np.ndarray:
    """Whether the mean lies outside the limits now, without searching for them."""
    centre, half = state.gain / state.bet, (np.log(4 / alpha) + state.cost) / state.bet
    wealth = log_wealth(state.count, state.total, np.array(mean))
    return (wealth >= np.log(2 / alpha)) | (np.abs(centre - mean) > half)


POWER_CASES = ((2, 300, 0.1), (2, 300, 0.2), (2, 300, 0.0), (2, 1500, 0.0),
               (5, 300, 0.1), (5, 300, 0.0), (5, 300, 0.25), (5, 1500, 0.0))  # fmt: skip
"""Groups, rows of each, and how much higher the rate of the first group is."""


def compare_power(console: Console, *, draws: int, boots: int) -> None:
    """Verdicts beside what the percentile bootstrap of fairlearn's MetricFrame says on the same draws.

    fairlearn itself runs on the first draw of every case, which gives its time; its limits must be those of
    `bootstrap_limits` with the rows that it resampled. The other draws resample counts instead of rows: rows drawn with
    replacement are a multinomial draw of the counts of their kinds, which takes a thousandth of the time.
    """
    table = Table("groups", "rows", "gap", "fail", "bootstrap above ε", "pass", "bootstrap below ε", "seconds each",
                  title=f"rate 0.3, ε = 0.1, {draws} draws, n_boot = {boots}")  # fmt: skip
    for groups, rows, gap in POWER_CASES:
        rng, counts, seconds, fairlearn_seconds = np.random.default_rng(3), np.zeros(4), 0.0, 0.0
        codes = np.repeat(np.arange(groups), rows)
        frame, criterion = ak.Groups({"g": codes}), ak.ECP("g", tolerance=0.1)
        for draw_number in track(range(draws), f"{groups} × {rows}", console=console, disable=not console.is_terminal):
            z = rng.binomial(1, 0.3 + gap * (codes == 0)).astype(float)
            begin = time.perf_counter()
            verdict = ak.audit(z, frame, criterion).verdict
            seconds += time.perf_counter() - begin
            kinds = 2 * codes + z.astype(np.int64)
            if draw_number == 0:
                begin = time.perf_counter()
                known = fairlearn_limits(z, codes, boots=boots, seed=0)
                fairlearn_seconds = time.perf_counter() - begin
                found = bootstrap_limits(resample_rows(kinds, boots=boots, seed=0))
                np.testing.assert_allclose(found, known, atol=1e-12)
            observed = np.bincount(kinds, minlength=2 * groups)
            low, high = bootstrap_limits(rng.multinomial(len(z), observed / len(z), size=boots))
            counts += verdict == "fail", low > 0.1, verdict == "pass", high < 0.1
        table.add_row(
            str(groups), str(rows), f"{gap:g}", *(f"{share:.3f}" for share in counts / draws),
            f"{seconds / draws:.4f} / {fairlearn_seconds:.4f}",
        )  # fmt: skip
    console.print(table)


def fairlearn_limits(z: np.ndarray, codes: np.ndarray, *, boots: int, seed: int) -> tuple[float, float]:
    """The 90 % interval of the largest difference of selection rates, by fairlearn."""
    from fairlearn.metrics import MetricFrame, selection_rate

    bootstrap = MetricFrame(
        metrics=selection_rate, y_true=z, y_pred=z, sensitive_features=codes, n_boot=boots,
        ci_quantiles=[0.05, 0.95], random_state=seed,
    )  # fmt: skip
    low, high = np.asarray(bootstrap.difference_ci(), dtype=np.float64)
    return float(low), float(high)


def bootstrap_limits(counts: np.ndarray) -> tuple[float, float]:
    """The same from resampled counts of every group's rows without and with a selection, shape (boots, 2·groups)."""
    pairs = counts.reshape(len(counts), -1, 2)
    low, high = np.quantile(np.ptp(pairs[:, :, 1] / pairs.sum(axis=2), axis=1), [0.05, 0.95])
    return float(low), float(high)


def resample_rows(kinds: np.ndarray, *, boots: int, seed: int) -> np.ndarray:
    """How many rows of every kind the resamples hold that fairlearn draws from this seed."""
    seeds = np.random.default_rng(seed).integers(0, np.iinfo(np.uint32).max, boots, dtype=np.uint32)
    n = len(kinds)
    drawn = (kinds[np.random.RandomState(one).choice(n, n, replace=True)] for one in seeds)
    return np.stack([np.bincount(resample, minlength=2 * (kinds.max() // 2 + 1)) for resample in drawn])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases, fewer simulations of each")
    parser.add_argument(
        "--part", choices=("grid", "verdicts", "exact", "hard", "streams", "power"), help="only this part"
    )
    parser.add_argument("--runs", type=int, default=None, help="simulations of every case; by default 4,000")
    parser.add_argument("--out", type=Path, default=Path("coverage.jsonl"), help="results, one case a line; resumed")
    arguments = parser.parse_args()
    console, quick, part = Console(width=170), arguments.quick, arguments.part
    if part in (None, "grid"):
        runs = arguments.runs or (500 if quick else 4_000)
        show(run_grid(list(grid(quick)), runs, arguments.out, console), console)
    if part in (None, "verdicts"):
        show_verdicts(console, runs=2_000 if quick else 8_000)
    if part in (None, "exact"):
        show_exact(console, step=0.02 if quick else 0.005)
    if part in (None, "hard"):
        show_hard_cases(console, runs=500 if quick else 10_000)
    if part in (None, "streams"):
        simulate_streams(console, streams=500 if quick else 2_000, rows=500 if quick else 4_000)
    if part in (None, "power"):
        compare_power(console, draws=20 if quick else 1_000, boots=50 if quick else 1_000)


if __name__ == "__main__":
    main()
