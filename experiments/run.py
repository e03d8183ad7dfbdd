"""Prepare real data sets, audit and compare on each through the command line, and state what was found.

    python -m experiments.run --data DIR --out DIR [NAME ...]

DIR/tabular holds the real data (see each experiment's README). Writes one work folder per experiment, and RESULTS.md,
into the out folder.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.results import ExperimentResult, collect, describe
from experiments.training import AUDIT_FILE, add_data_option

NAMES = ("adult_full", "sba_loans", "compas")
COMMANDS = ("audit", "compare")
DONE = (0, 1, 3)  # passed or done, failed, inconclusive: each of them a finished run
AUDITKIT = (sys.executable, "-c", "from auditkit.cli import main; main()")


def run_experiment(name: str, data: Path, out: Path) -> ExperimentResult:
    """Prepare one experiment, run the command line on it, and collect what it found.

    Raises:
        RuntimeError: A command ended with an error.
    """
    work = out / name
    importlib.import_module(f"experiments.{name}.prepare").prepare(data, work)
    codes, seconds = {}, {}
    for command in COMMANDS:
        begin = time.perf_counter()
        codes[command] = run_command(command, work)
        seconds[command] = time.perf_counter() - begin
    return collect(work, codes=codes, seconds=seconds)


def run_command(command: str, work: Path) -> int:
    """Run one command of auditkit on a work folder's audit file and return its exit code."""
    line = [*AUDITKIT, command, str(work / AUDIT_FILE), "--out", str(work / command)]
    done = subprocess.run(line, capture_output=True, text=True, encoding="utf-8", check=False)
    (work / f"{command}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode not in DONE:
        raise RuntimeError(f"auditkit {command} ended with {done.returncode}: {done.stderr.strip()}")
    return done.returncode


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the work folders")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which experiments (default: {' '.join(NAMES)})")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no experiment is called {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    sections = []
    for name in options.names or NAMES:
        sections.append(describe(run_experiment(name, options.data, options.out)))
        print(sections[-1], end="\n\n", flush=True)
    (options.out / "RESULTS.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
