"""The whole audit of a table, intervals included, beside a bare DuckDB query, pandas and fairlearn's MetricFrame.

    python -m benchmarks.audit                           1 and 5 million rows, every peer; a few minutes
    python -m benchmarks.audit --only command            with score bins and the hash, as `auditkit audit` reads a table
    python -m benchmarks.audit --only rule clusters      the same audit for the highest 5 %, and with rows of one person
    python -m benchmarks.audit --rows 100000000 --only auditkit bare     what the peers cannot hold in memory

The rows (three attributes that make 70 groups, scores, labels, four rows a person) are generated into a temporary
parquet file. Every measurement runs in a process of its own, with imports and one small warm-up before the clock
starts; peak memory is that of the process. Peers are favoured: MetricFrame's clock starts when the table is already in
memory, and it takes point estimates of three metrics only. Its bootstrap is measured with ``--boot`` resamples and
scaled to 1,000, since the whole would take hours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ATTRIBUTES = ("race", "sex", "age")
THRESHOLD = 0.5
BOOTSTRAPS = 1000
GENERATE = """
    COPY (SELECT
        ['Amer-Indian', 'Asian', 'Black', 'Other', 'White'][1 + (hash(i * 3 + 1) % 5)::INT] AS race,
        CASE WHEN hash(i * 7) % 2 = 0 THEN 'Female' ELSE 'Male' END AS sex,
        ['17-25', '26-35', '36-45', '46-55', '56-65', '66+', 'unknown'][1 + (hash(i * 11) % 7)::INT] AS age,
        (hash(i * 13) % 1000003) / 1000003.0::DOUBLE AS score,
        (hash(i * 17) % 3 = 0)::INT AS label,
        i // 4 AS person
    FROM range({rows}) numbers(i)) TO '{path}' (FORMAT parquet)
"""


def generate(rows: int, path: Path) -> None:
    import duckdb

    duckdb.connect().execute(GENERATE.format(rows=rows, path=path))


def criteria() -> list[Any]:
    import auditkit as ak

    parity = [ak.ECP(name, tolerance=0.05) for name in ATTRIBUTES]
    return [*parity, ak.equalized_odds("race", tolerance=0.05), ak.equalized_odds("sex", tolerance=0.05)]


def run_auditkit(path: str, boot: int) -> dict[str, float]:
    """The scan of the file, then findings with intervals and tests."""
    del boot
    return run_scan(path, threshold=THRESHOLD)


def run_rule(path: str, boot: int) -> dict[str, float]:
    """The same where the highest 5 % are selected: the cut is found first, by passes over the scores alone."""
    del boot
    return run_scan(path, threshold="top 5%")


def run_clusters(path: str, boot: int) -> dict[str, float]:
    """The same where every four rows are of one person: a second aggregation, by person."""
    del boot
    return run_scan(path, threshold=THRESHOLD, clusters="person")


def run_command(path: str, boot: int) -> dict[str, float]:
    """What `auditkit audit` does with a table and its labels: also score bins for reliability curves, and the hash."""
    import auditkit as ak
    from auditkit.engines import Roles, scan_table
    from auditkit.table_roles import Key

    del boot
    asked = criteria()
    roles = Roles("score", "label", threshold=THRESHOLD, keys={name: Key(name, name) for name in ATTRIBUTES})
    begin = time.perf_counter()
    scanned = scan_table(path, asked, roles)
    read = time.perf_counter()
    outcome = ak.evaluate_moments(scanned.moments, asked, bins=scanned.bins)
    assert outcome.bins is not None
    assert scanned.sha256 is not None
    return {"seconds": time.perf_counter() - begin, "interval": time.perf_counter() - read}


def run_scan(path: str, **options: Any) -> dict[str, float]:
    import auditkit as ak
    from auditkit.engines import scan

    asked = criteria()
    begin = time.perf_counter()
    moments = scan(path, asked, score="score", label="label", **options)
    scanned = time.perf_counter()
    outcome = ak.evaluate_moments(moments, asked)
    assert outcome.n_rows > 0
    return {"seconds": time.perf_counter() - begin, "interval": time.perf_counter() - scanned}


def run_bare(path: str, boot: int) -> dict[str, float]:
    """The counts, sums and sums of squares of the 70 groups, and nothing else."""
    import duckdb

    del boot
    query = f"SELECT race, sex, age, count(*), sum(score), sum(score * score) FROM '{path}' GROUP BY ALL"
    connection = duckdb.connect()
    begin = time.perf_counter()
    connection.execute(query).fetchall()
    return {"seconds": time.perf_counter() - begin}


def run_pandas(path: str, boot: int) -> dict[str, float]:
    """The same sums by pandas, reading included."""
    import pandas as pd

    del boot
    begin = time.perf_counter()
    frame = pd.read_parquet(path, columns=[*ATTRIBUTES, "score"])
    frame["square"] = frame.score * frame.score
    frame.groupby(list(ATTRIBUTES), observed=True).agg(
        rows=("score", "size"), score=("score", "sum"), square=("square", "sum")
    )
    return {"seconds": time.perf_counter() - begin}


def run_metric_frame(path: str, boot: int) -> dict[str, float]:
    """Point estimates of three metrics in the 70 groups; with ``boot``, that many bootstrap resamples as well."""
    import pandas as pd
    from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate

    frame = pd.read_parquet(path, columns=[*ATTRIBUTES, "score", "label"])
    metrics = {"selection": selection_rate, "tpr": true_positive_rate, "fpr": false_positive_rate}
    options = {"n_boot": boot, "ci_quantiles": [0.025, 0.975], "random_state": 0} if boot else {}
    decisions = (frame.score >= THRESHOLD).astype(int)
    begin = time.perf_counter()
    result = MetricFrame(
        metrics=metrics, y_true=frame.label, y_pred=decisions, sensitive_features=frame[list(ATTRIBUTES)], **options
    )
    assert len(result.by_group) > 0
    return {"seconds": time.perf_counter() - begin}


RUNS: dict[str, Callable[[str, int], dict[str, float]]] = {
    "auditkit": run_auditkit,
    "command": run_command,
    "rule": run_rule,
    "clusters": run_clusters,
    "bare": run_bare,
    "pandas": run_pandas,
    "MetricFrame": run_metric_frame,
}
REPEATED = ("auditkit", "command", "rule", "bare", "pandas")
"""Runs that are quick enough to be repeated; the fastest of them counts, for every one of these alike."""


def peak_mib() -> float:
    """Largest resident size of this process so far, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def measure_here(name: str, path: str, warm_up: str, boot: int, repeats: int) -> None:
    """In a process of its own: warm up on the small table, run, and print what was measured."""
    RUNS[name](warm_up, min(boot, 1))
    found = [RUNS[name](path, boot) for _ in range(repeats)]
    best = min(found, key=lambda result: result["seconds"])
    print(json.dumps({**best, "peak": peak_mib()}))


def measure(name: str, path: Path, warm_up: Path, *, boot: int = 0, repeats: int = 1) -> dict[str, float]:
    arguments = ["--measure", name, str(path), str(warm_up), str(boot), str(repeats)]
    command = [sys.executable, "-m", "benchmarks.audit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} stopped with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def make_table(rows: int, folder: Path) -> Path:
    """The rows as a parquet file, written by a process of its own so that its memory is its own."""
    path = folder / f"rows-{rows}.parquet"
    subprocess.run([sys.executable, "-m", "benchmarks.audit", "--generate", str(rows), str(path)], check=True)
    return path


def compare(console: Console, rows: int, folder: Path, warm_up: Path, *, only: Sequence[str], boot: int) -> None:
    path = make_table(rows, folder)
    table = Table(
        "", "seconds", "rows/s", "peak, MiB", "× auditkit", title=f"{rows:,} rows, 70 groups", title_justify="left"
    )
    found = {name: measure(name, path, warm_up, repeats=5 if name in REPEATED else 1) for name in RUNS if name in only}
    for name, result in found.items():
        ratio = result["seconds"] / found["auditkit"]["seconds"]
        speed = rows / result["seconds"]
        table.add_row(name, f"{result['seconds']:.3f}", f"{speed:,.0f}", f"{result['peak']:.0f}", f"{ratio:,.2f}")
    console.print(table)
    state_goals(console, rows, found)
    if boot and "MetricFrame" in found:
        state_bootstrap(console, path, warm_up, found, boot)
    path.unlink()


def state_goals(console: Console, rows: int, found: dict[str, dict[str, float]]) -> None:
    ours = found["auditkit"]
    if "bare" in found:
        allowed = 2 * found["bare"]["seconds"] + 0.2
        console.print(f"whole audit {ours['seconds']:.3f} s; twice the bare query and 0.2 s: {allowed:.3f} s")
    if "MetricFrame" in found:
        ratio = found["MetricFrame"]["seconds"] / ours["seconds"]
        console.print(f"MetricFrame's point estimates take {ratio:,.0f}× the whole audit")
    console.print(f"of the audit, findings with intervals take {ours['interval']:.3f} s, whatever the number of rows")


def state_bootstrap(console: Console, path: Path, warm_up: Path, found: dict[str, dict[str, float]], boot: int) -> None:
    """The time of 1,000 resamples from that of a few: (t(boot) − t(0)) / boot · 1,000."""
    with_boot = measure("MetricFrame", path, warm_up, boot=boot)
    each = (with_boot["seconds"] - found["MetricFrame"]["seconds"]) / boot
    scaled, interval = BOOTSTRAPS * each, found["auditkit"]["interval"]
    console.print(
        f"fairlearn's bootstrap: {each:.2f} s a resample (n_boot={boot}), scaled to n_boot={BOOTSTRAPS:,}: "
        f"{scaled:,.0f} s, {scaled / interval:,.0f}× our findings with intervals; peak {with_boot['peak']:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--only", nargs="+", choices=tuple(RUNS), default=tuple(RUNS), help="always with auditkit")
    parser.add_argument("--boot", type=int, default=2, help="resamples of MetricFrame's bootstrap; 0 leaves it out")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--generate", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, path, warm_up, boot, repeats = arguments.measure
        return measure_here(name, path, warm_up, int(boot), int(repeats))
    if arguments.generate:
        return generate(int(arguments.generate[0]), Path(arguments.generate[1]))
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        warm_up = make_table(20_000, Path(folder))
        only = {"auditkit", *arguments.only}
        for rows in arguments.rows:
            compare(console, rows, Path(folder), warm_up, only=sorted(only), boot=arguments.boot)
    return None


if __name__ == "__main__":
    main()
