"""Streaming enforcement beside the paper's rule and its package: pooled gap, what is paid, time of a step, requests/s.

    python -m benchmarks.streaming                     needs: pip install -e '.[bench,serve]'
    python -m benchmarks.streaming --part serve        one of gaps, steps, serve

*gaps.* The 32 synthetic sets of the paper's layout (two levels each of group split, signal of the attribute, noise,
bounds and linearity; 40,000 rows × 150 features, made here from that description, not the paper's own files), and Adult
and SBA where AUDITKIT_DATA names their folder. A ridge or logistic model is fitted to a part of the rows, and the rest
is streamed. "equal gap" streams the rows once more with our tolerance set to the gap that the paper's rule ended with.
*steps.* Time of a step in one process, each method on the same batches, in turn: the median of many, the best of three
rounds. The ratio is of processor time, since a step of milliseconds is interrupted where others use the cores.
*serve.* ``auditkit serve`` in its own process with a SQLite file synced at every commit, loaded by `service_load`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import auditkit as ak

SIZES = (1, 16, 256)
STEP_SIZES = (1, 2, 16, 32, 256)
ALARM_ROWS = 1000
DATA = Path(os.environ.get("AUDITKIT_DATA", "shared/data"))


@dataclass(frozen=True)
class Stream:
    """Rows to be streamed, in the order of their arrival."""

    name: str
    scores: np.ndarray
    labels: np.ndarray
    groups: dict[str, np.ndarray]
    tolerance: float
    bounds: tuple[float, float] | None
    binary: bool

    @property
    def criteria(self) -> list[ak.Criterion]:
        return [ak.ECP(name, tolerance=self.tolerance) for name in self.groups]


def synthetic(seed: int, level: tuple[int, int, int, int, int], rows: int) -> Stream:
    """One of the 32 sets: split × signal × noise × bounds × linearity."""
    split, signal, noise, bounded, nonlinear = level
    rng = np.random.default_rng(seed)
    group = (rng.random(40_000) < (0.5, 0.2)[split]).astype(int)
    features = rng.normal(size=(40_000, 150))
    features[:, :10] += (0.25, 0.75)[signal] * group[:, None] / 2
    weights = rng.normal(size=150) / np.sqrt(150)
    weights[:10] = np.abs(weights[:10])
    target = features @ weights + (0.25, 0.75)[signal] * group
    if nonlinear:
        target = target + 0.5 * np.sin(2 * features[:, 0]) + 0.25 * features[:, 1] ** 2
    target = target + (0.2, 1.0)[noise] * rng.normal(size=40_000)
    if bounded:
        target = (target - target.min()) / (target.max() - target.min())
    columns = np.column_stack([features, group])
    model = Ridge().fit(columns[:20_000], target[:20_000])
    test = slice(20_000, 20_000 + rows)
    words = "".join(
        pair[value]
        for pair, value in zip((("½", "⅕"), ("s", "S"), ("n", "N"), ("-", "b"), ("l", "~")), level, strict=True)
    )
    bounds = (0.0, 1.0) if bounded else None
    scores = model.predict(columns[test])
    scores = np.clip(scores, 0, 1) if bounded else scores
    return Stream(f"synthetic {words}", scores, target[test], {"g": group[test]}, 0.05, bounds, False)


def adult(rows: int) -> Stream:
    frame = pd.read_parquet(DATA / "tabular/adult.parquet").sample(frac=1, random_state=0).reset_index(drop=True)
    target = next(name for name in frame if set(frame[name].astype(str).str.strip()) <= {"<=50K", ">50K"})
    labels = (frame[target].astype(str).str.strip() == ">50K").to_numpy().astype(int)
    features = frame.drop(columns=[target])
    numeric = [name for name in features if pd.to_numeric(features[name], errors="coerce").notna().all()]
    features[numeric] = features[numeric].apply(pd.to_numeric)
    other = [name for name in features if name not in numeric]
    encode = make_column_transformer((StandardScaler(), numeric), (OneHotEncoder(handle_unknown="ignore"), other))
    model = make_pipeline(encode, LogisticRegression(max_iter=1000)).fit(features[:20_000], labels[:20_000])
    test = slice(20_000, 20_000 + rows)
    scores = model.predict_proba(features[test])[:, 1]
    groups = {"sex": features["sex"].to_numpy()[test]}
    return Stream("Adult, sex", scores, labels[test].astype(float), groups, 0.02, (0.0, 1.0), True)


def sba() -> Stream:
    frame = pd.read_csv(DATA / "tabular/SBAcase.11.13.17.csv").sample(frac=1, random_state=0).reset_index(drop=True)
    frame = frame[frame["NewExist"].isin([1, 2])].reset_index(drop=True)  # two rows do not say which they are
    labels = (frame["MIS_Status"].astype(str).str.strip() == "P I F").to_numpy().astype(int)
    features = frame.drop(columns=["MIS_Status", "Default", "Name"], errors="ignore").select_dtypes("number").fillna(0)
    groups = {"NewExist": frame["NewExist"], "Urban": frame["UrbanRural"] == 1}
    leaks = [name for name in ("ChgOffPrinGr", "ChgOffDate", "BalanceGross", "xx", "Selected") if name in features]
    features = features.drop(columns=leaks)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(features[:600], labels[:600])
    test = slice(600, None)
    scores = model.decision_function(features[test])
    columns = {name: np.asarray(column)[test].astype(int) for name, column in groups.items()}
    return Stream("SBA, NewExist and Urban (logits)", scores, labels[test].astype(float), columns, 0.01, None, True)


@dataclass(frozen=True)
class Run:
    """One method over one stream: pooled gap after every batch, and what was released."""

    rows: np.ndarray
    gaps: np.ndarray
    released: np.ndarray

    def gap_at(self, rows: int) -> float:
        return float(self.gaps[np.searchsorted(self.rows, min(rows, self.rows[-1]))])

    def worst(self, tolerance: float) -> float:
        """max (gap − ε)·√N from the first thousand rows on: the goal is 1."""
        late = self.rows >= ALARM_ROWS
        return float(((self.gaps[late] - tolerance) * np.sqrt(self.rows[late])).max())


def run(stream: Stream, size: int, **options: Any) -> Run:
    tolerance = options.pop("tolerance", stream.tolerance)
    criteria = [criterion.with_tolerance(tolerance) for criterion in stream.criteria]
    enforcer = ak.OnlineEnforcer(criteria, bounds=stream.bounds, **options)
    columns = {name: values.tolist() for name, values in stream.groups.items()}
    totals = {
        name: {value: [0.0, 0.0] for value in np.unique(values).tolist()} for name, values in stream.groups.items()
    }
    rows, gaps, released = [], [], []
    for first in range(0, len(stream.scores), size):
        part = slice(first, first + size)
        groups = {name: values[part] for name, values in columns.items()}
        out = enforcer.step(stream.scores[part], groups).scores
        released.append(out)
        for name, values in stream.groups.items():
            for value, sums in totals[name].items():
                here = values[part] == value
                sums[0] += float(out[here].sum())
                sums[1] += float(here.sum())
        means = [[s / n for s, n in sums.values() if n] for sums in totals.values()]
        rows.append(min(first + size, len(stream.scores)))
        gaps.append(max(max(values) - min(values) for values in means))
    return Run(np.array(rows), np.array(gaps), np.concatenate(released))


def utility(stream: Stream, released: np.ndarray) -> str:
    if stream.binary:
        threshold = 0.5 if stream.bounds else 0.0
        return f"{((released >= threshold) == (stream.labels == 1)).mean():.4f}"
    return f"{np.mean((released - stream.labels) ** 2):.4f}"


def paid(stream: Stream, released: np.ndarray) -> float:
    return float(np.mean((released - stream.scores) ** 2))


def compare_gaps(console: Console, rows: int, sets: int) -> None:
    levels = list(itertools.product((0, 1), repeat=5))
    chosen = [(13 * k) % len(levels) for k in range(min(sets, len(levels)))]  # a few mix the levels of every factor
    streams = [synthetic(k, levels[k], rows) for k in chosen]
    if (DATA / "tabular").is_dir():
        streams += [adult(rows), sba()]
    else:
        console.print("Adult and SBA are left out: AUDITKIT_DATA names no folder with them")
    table = Table(
        "set", "b", "raw gap", "ε", "gap at 1000", "at 5000", "end", "(gap−ε)√N ≤", "moved²", "utility",
        "paper: end", "moved²", "utility", "ours at equal gap: moved²", "utility", title="pooled gap and what is paid",
    )  # fmt: skip
    worst, dearer, means = [], [], {size: [] for size in SIZES}
    for stream in streams:
        for size in SIZES:
            ours, theirs = run(stream, size), run(stream, size, rule="scalar")
            equal = run(stream, size, tolerance=max(float(theirs.gaps[-1]), stream.tolerance))
            bare = max(
                np.ptp([stream.scores[values == value].mean() for value in np.unique(values)])
                for values in stream.groups.values()
            )
            worst.append(ours.worst(stream.tolerance))
            dearer.append(paid(stream, equal.released) - paid(stream, theirs.released))
            if stream.name.startswith("synthetic"):
                errors = [float(np.mean((r.released - stream.labels) ** 2)) for r in (ours, theirs, equal)]
                gaps = [float(r.gaps[-1]) for r in (ours, theirs, equal)]
                moved = [paid(stream, r.released) for r in (ours, theirs, equal)]
                means[size].append([bare, *(v for row in zip(gaps, moved, errors, strict=True) for v in row)])
            table.add_row(
                stream.name, str(size), f"{bare:.3f}", f"{stream.tolerance:g}", f"{ours.gap_at(1000):.4f}",
                f"{ours.gap_at(5000):.4f}", f"{ours.gaps[-1]:.4f}", f"{worst[-1]:.2f}",
                f"{paid(stream, ours.released):.5f}",
                f"{utility(stream, ours.released)} ({utility(stream, stream.scores)})",
                f"{theirs.gaps[-1]:.4f}", f"{paid(stream, theirs.released):.5f}", utility(stream, theirs.released),
                f"{paid(stream, equal.released):.5f}", utility(stream, equal.released),
            )  # fmt: skip
    console.print(table)
    columns = [f"{who}: {what}" for who in ("ours", "paper", "equal gap") for what in ("gap", "moved²", "MSE")]
    average = Table("b", "raw gap", *columns, title=f"mean of {len(chosen)} synthetic sets")
    for size, rows_of in means.items():
        average.add_row(str(size), *(f"{value:.4f}" for value in np.mean(rows_of, axis=0)))
    console.print(average)
    console.print(f"(gap − ε)√N from {ALARM_ROWS} rows on: largest {max(worst):.2f}; at most 1 in "
                  f"{sum(value <= 1 for value in worst)} of {len(worst)} streams")  # fmt: skip
    console.print(f"ours at equal gap pays at most what the paper's does in {sum(v <= 1e-6 for v in dearer)} of "
                  f"{len(dearer)} streams; largest excess of moved² {max(dearer):.2e}")  # fmt: skip


def median_step(step: Any, batches: list[Any], seconds: float) -> tuple[float, float]:
    """Median microseconds by the clock, and mean microseconds of processor time."""
    times: list[float] = []
    begin_processor, stop = time.process_time(), time.perf_counter() + seconds
    for batch in itertools.cycle(batches):
        begin = time.perf_counter()
        step(*batch)
        end = time.perf_counter()
        times.append(end - begin)
        if end > stop or len(times) >= 5000:
            break
    return 1e6 * statistics.median(times), 1e6 * (time.process_time() - begin_processor) / len(times)


def package_step(bounds: tuple[float, float]) -> Any:
    """One inference step of ``fairness-training`` with scores that were computed beforehand."""
    import torch
    from fairness_training import FairModel

    class Scores(torch.nn.Module):
        value: torch.Tensor

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            del features
            return self.value

    network = Scores()
    model = FairModel(input_dim=1, protected_attr_idx=0, prediction_bounds=bounds, fairness_tolerance=0.02, b_tau=9_999,
                      custom_network=network)  # fmt: skip
    model.eval()

    def step(scores: np.ndarray, groups: dict[str, list[int]]) -> None:
        network.value = torch.as_tensor(scores, dtype=torch.float32).unsqueeze(1)
        with torch.no_grad():
            model(torch.as_tensor(groups["g"], dtype=torch.float32).unsqueeze(1), inference=True)

    return step


def compare_steps(console: Console, seconds: float) -> None:
    rng = np.random.default_rng(0)
    table = Table("rows", "pooled", "pooled, SQLite", "scalar", "fairness-training", "pooled, processor",
                  "fairness-training, processor", "ratio", title="a step, µs")  # fmt: skip
    for size in STEP_SIZES:
        group = rng.integers(0, 2, (400, size))
        scores = np.clip(rng.random((400, size)) + 0.2 * group, 0, 1)
        batches = [(s, {"g": g.tolist()}) for s, g in zip(scores, group, strict=True)]
        criteria = [ak.ECP("g", tolerance=0.02)]
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = ak.OnlineEnforcer(criteria, bounds=(0, 1), store=Path(folder) / "state.db")
            steps = [
                ak.OnlineEnforcer(criteria, bounds=(0, 1)).step,
                stored.step,
                ak.OnlineEnforcer(criteria, bounds=(0, 1), rule="scalar").step,
                package_step((0.0, 1.0)),
            ]
            rounds = [[median_step(step, batches, seconds / 3) for step in steps] for _ in range(3)]
            stored.close()
        clock, processor = np.min(rounds, axis=0).T
        table.add_row(str(size), *(f"{value:,.0f}" for value in clock), f"{processor[0]:,.0f}",
                      f"{processor[3]:,.0f}", f"{processor[3] / processor[0]:,.0f}×")  # fmt: skip
    console.print(table)
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def processor_seconds(process: int) -> float:
    """User and system time of a process so far; NaN where /proc does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, connections: int, seconds: float, name: str) -> dict[str, float]:
    """The load generator, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.service_load", str(port), "--connections", str(connections),
               "--seconds", str(seconds), "--name", name]  # fmt: skip
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_service(console: Console, seconds: float) -> None:
    table = Table("connections", "requests/s", "p50, ms", "p99, ms", "not 200", "server, µs of processor a request",
                  "generator", title="single-row requests, durable")  # fmt: skip
    for connections in (1, 8, 16, 32):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "stream.yaml"
            place.write_text(
                "criteria: [{family: ECP, attributes: sex, tolerance: 0.02}]\nbounds: [0, 1]\nstore: s.db\n"
            )
            port = 8700 + connections
            command = [sys.executable, "-m", "auditkit", "serve", str(place), "--port", str(port)]
            server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                _wait(port)
                load(port, connections, 1.0, "warm")
                before = processor_seconds(server.pid)
                found = load(port, connections, seconds, "timed")
                spent = 1e6 * (processor_seconds(server.pid) - before) / found["requests"]
            finally:
                server.terminate()
                server.wait()
        table.add_row(str(connections), f"{found['rate']:,.0f}", f"{found['p50']:.1f}", f"{found['p99']:.1f}",
                      f"{found['refused']:.0f}", f"{spent:.0f}", f"{found['own_us']:.0f}")  # fmt: skip
    console.print(table)
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, shared with the load generator")


def _wait(port: int) -> None:
    import socket

    for _ in range(1200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the service did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("gaps", "steps", "serve"), help="one part only")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for every cell of the tables of times")
    parser.add_argument("--rows", type=int, default=10_000, help="rows of every stream")
    parser.add_argument("--sets", type=int, default=32, help="synthetic sets")
    arguments = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])
    console = Console(width=220)
    if arguments.part in (None, "steps"):
        compare_steps(console, arguments.seconds)
    if arguments.part in (None, "serve"):
        measure_service(console, arguments.seconds)
    if arguments.part in (None, "gaps"):
        compare_gaps(console, arguments.rows, arguments.sets)


if __name__ == "__main__":
    main()
