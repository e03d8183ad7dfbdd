"""Peak memory and time of scoring a table with a frozen model, and of tuning a head on a table.

    python -m benchmarks.scoring                     2 million rows of 40 features
    python -m benchmarks.scoring --rows 8000000
    python -m benchmarks.scoring --kind csv --rows 12000000 --ways pieces predictions
    python -m benchmarks.scoring --rows 7000000 --ways tune tune_batches tune_model compare

The rows are generated into a temporary file; the model is a logistic regression in a .skops file. "pieces" and "whole"
score the rows, piece by piece and as a table in memory; "predictions" audits a column of them as scores, without a
model. "tune" tunes a head on 39 columns as features, on all rows at once; "tune_batches" does so on batches of 16,384;
"tune_model" on the 64 features that a small network makes of the columns; "compare" also fits a penalty. Each way runs
in a process of its own, whose peak memory is reported beside that of a process that only imports and loads the model:
all of it, and without the pages of mapped files, which the system takes back when it needs them (Linux).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from auditkit.config import AuditFile

FEATURES = 40
ROW_GROUP = 250_000
FORMATS = {"parquet": f"(FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP})", "csv": "(FORMAT csv, HEADER)"}
TUNED = ("tune", "tune_batches", "tune_model", "compare")
WAYS = ("nothing", "pieces", "whole", "predictions", *TUNED)
EPOCHS = 5


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
    write_network(folder / "network", names)
    columns = f"data: {{path: rows.{kind}, attributes: sex, label: y, score: x0, features: [{', '.join(names[1:])}]}}\n"
    enforced = f"{criteria}enforce: [{{family: ECP, attributes: sex, tolerance: 0.01}}]\n"
    for way in TUNED:
        data = f"data: {{path: rows.{kind}, attributes: sex, label: y}}\nmodel: network\n"
        size = 16_384 if way == "tune_batches" else "null"
        (folder / f"{way}.yaml").write_text(
            f"{data if way == 'tune_model' else columns}{enforced}tune: {{epochs: {EPOCHS}, batch_size: {size}}}\n"
            + "methods: [calibrated, penalty_strict]\n" * (way == "compare")
        )
    return path


def write_network(folder: Path, names: list[str]) -> None:
    """A network of two layers with weights by chance, as `auditkit.models.tabular` keeps one."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    layers = {"hidden.0": (64, len(names)), "hidden.1": (64, 64), "head": (1, 64)}
    torch.manual_seed(0)
    weights = {f"{name}.weight": torch.randn(shape) / shape[1] ** 0.5 for name, shape in layers.items()}
    save_file(weights | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in layers.items()},
              folder / "model.safetensors")  # fmt: skip
    numeric = [{"column": name, "mean": 0.5, "std": 0.29, "log1p": False} for name in names]
    content = {
        "format": "auditkit.tabular_mlp", "format_version": 1, "name": "network", "task": "binary", "output": "y",
        "architecture": {"hidden": [64, 64], "activation": "relu"},
        "preprocessing": {"numeric": numeric, "categorical": []},
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(content))


def run_way(way: str, folder: Path) -> dict[str, float]:
    """One way, in this process: seconds, MiB at the peak, and the mean score, the same for pieces and whole."""
    import auditkit as ak

    config = ak.load_config(folder / "audit.yaml")
    assert config.model_spec is not None
    ak.load_model(config.model_spec)
    begin = time.perf_counter()
    mean = 0.0
    watch = PeakWatch()
    if way in TUNED:
        config = ak.load_config(folder / f"{way}.yaml").with_cache(folder / "cache")
        (ak.run_compare if way == "compare" else ak.run_tune)(config, out=folder / way)
    elif way == "predictions":
        ak.run_audit(ak.load_config(folder / "predictions.yaml"), out=folder / "run")
    elif way != "nothing":
        mean = float(score(config, way))
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "mib": memory_mib("VmHWM"), "own": watch.stop(), "mean": mean}


def score(config: AuditFile, way: str) -> float:
    """Mean score of the rows, read in pieces or whole."""
    import auditkit as ak
    from auditkit.subjects import load_subject

    if way == "pieces":
        return load_subject(config, features=False).sample.scores.mean()
    assert config.model_spec is not None
    data = ak.load_table(config.data_path, **config.table_options())
    return ak.load_model(config.model_spec).scores(data.features).double().numpy().mean()


def memory_mib(name: str) -> float:
    """What the system says of this program's memory; getrusage would count that of the program which started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


class PeakWatch:
    """The largest memory that is not of files, looked at a hundred times a second."""

    def __init__(self) -> None:
        self._peak, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self._peak = max(self._peak, memory_mib("RssAnon"))

    def stop(self) -> float:
        """The peak, in MiB."""
        self._over.set()
        self._thread.join()
        return max(self._peak, memory_mib("RssAnon"))


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
    parser.add_argument("--dir", type=Path, help="where the temporary files go")
    given = parser.parse_args()
    console = Console()
    if given.way is not None:
        console.file.write(json.dumps(run_way(given.way, given.folder)) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="auditkit-", dir=given.dir) as name:
        size = generate(given.rows, Path(name), given.kind).stat().st_size
        found = {way: measure(way, Path(name)) for way in ("nothing", *given.ways)}
    if {"pieces", "whole"} <= set(found):
        assert found["pieces"]["mean"] == found["whole"]["mean"]
    title = f"{given.rows:,} rows, {size / 2**30:.2f} GiB of {given.kind}"
    table = Table("way", "seconds", "peak MiB", "above loading the model, MiB", "without files, MiB", title=title)
    for way in given.ways:
        above, own = (found[way][name] - found["nothing"][name] for name in ("mib", "own"))
        table.add_row(way, f"{found[way]['seconds']:.1f}", f"{found[way]['mib']:,.0f}", f"{above:,.0f}", f"{own:,.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
