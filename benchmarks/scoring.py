"""Peak memory and time of scoring a table with a frozen model: piece by piece beside reading it whole.

    python -m benchmarks.scoring                     2 million rows of 40 features
    python -m benchmarks.scoring --rows 8000000
    python -m benchmarks.scoring --kind csv --rows 12000000 --ways pieces predictions

The rows are generated into a temporary file; the model is a logistic regression in a .skops file. "pieces" and "whole"
score the rows, "predictions" audits a column of them as scores, without a model. Each way runs in a process of its own,
whose peak memory is reported beside that of a process that only imports and loads the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

FEATURES = 40
ROW_GROUP = 250_000
FORMATS = {"parquet": f"(FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP})", "csv": "(FORMAT csv, HEADER)"}
WAYS = ("nothing", "pieces", "whole", "predictions")


def generate(rows: int, folder: Path, kind: str) -> Path:
    """The table, the model and the audit files."""
    import duckdb
    import numpy as np
    import pandas as pd
    import skops.io
    from sklearn.linear_model import LogisticRegression

    columns = ", ".join(f"(hash(i * {k + 100}) % 1000003) / 1000003.0::DOUBLE AS x{k}" for k in range(FEATURES))
    sex, label = "CASE WHEN hash(i * 7) % 2 = 0 THEN 'F' ELSE 'M' END AS sex", "(hash(i) % 3 = 0)::INT AS y"
    select = f"SELECT {sex}, {label}, {columns}"
    options, path = FORMATS[kind], folder / f"rows.{kind}"
    connection = duckdb.connect()
    connection.execute(f"COPY ({select} FROM range({rows}) numbers(i)) TO '{path}' {options}")
    connection.execute(f"COPY ({select} FROM range(20000) numbers(i)) TO '{folder / 'some.parquet'}' (FORMAT parquet)")
    some = pd.read_parquet(folder / "some.parquet")
    names = [f"x{k}" for k in range(FEATURES)]
    labels = np.random.default_rng(0).integers(0, 2, len(some))
    skops.io.dump(LogisticRegression().fit(some[names], labels), folder / "model.skops")
    criteria = "criteria: [{family: ECP, attributes: sex, tolerance: 0.05}]\n"
    (folder / "audit.yaml").write_text(
        f"data: {{path: rows.{kind}, attributes: sex, label: y}}\nmodel: model.skops\n{criteria}"
    )
    (folder / "predictions.yaml").write_text(
        f"data: {{path: rows.{kind}, attributes: sex, label: y, score: x0}}\n{criteria}"
    )
    return path


def run_way(way: str, folder: Path) -> dict[str, float]:
    """One way, in this process: seconds, MiB at the peak, and the mean score, the same for pieces and whole."""
    import auditkit as ak
    from auditkit.subjects import load_subject

    config = ak.load_config(folder / "audit.yaml")
    assert config.model_spec is not None
    ak.load_model(config.model_spec)
    begin = time.perf_counter()
    mean = 0.0
    if way == "predictions":
        ak.run_audit(ak.load_config(folder / "predictions.yaml"), out=folder / "run")
    elif way != "nothing":
        mean = float(load_subject(config, features=way == "whole").sample.scores.mean())
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "mib": peak_mib(), "mean": mean}


def peak_mib() -> float:
    """Peak of this program's memory; getrusage would count that of the program which started it (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(way: str, folder: Path) -> dict[str, float]:
    """One way, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scoring", "--way", way, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Generate, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--kind", choices=FORMATS, default="parquet")
    parser.add_argument("--ways", nargs="+", choices=WAYS[1:], default=["pieces", "whole"])
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    console = Console()
    if given.way is not None:
        console.file.write(json.dumps(run_way(given.way, given.folder)) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="auditkit-") as name:
        size = generate(given.rows, Path(name), given.kind).stat().st_size
        found = {way: measure(way, Path(name)) for way in ("nothing", *given.ways)}
    if {"pieces", "whole"} <= set(found):
        assert found["pieces"]["mean"] == found["whole"]["mean"]
    title = f"{given.rows:,} rows, {size / 2**30:.2f} GiB of {given.kind}"
    table = Table("way", "seconds", "peak MiB", "above loading the model, MiB", title=title)
    for way in given.ways:
        above = found[way]["mib"] - found["nothing"]["mib"]
        table.add_row(way, f"{found[way]['seconds']:.1f}", f"{found[way]['mib']:,.0f}", f"{above:,.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
