"""What-if questions about an audit of a million rows: from the sums by score, beside taking the rows again.

    python -m benchmarks.what_if [--rows 1000000]

Every question is asked of the same rows (two attributes, ten crossed groups, five criteria) in one process: of
`ScoreProfile`, of `auditkit.audit` over the rows, and of fairlearn's MetricFrame, which is favoured: it gives point
estimates of one attribute's selection rates, without intervals. Medians of several repeats are printed, and ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import auditkit as ak
from auditkit.what_if import ScoreProfile

REPEATS = 7


def milliseconds(work: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, float]:
    """Median time by the clock, and of the processor, which other processes do not lengthen as much."""
    work()
    times = []
    for _ in range(repeats):
        begin, used = time.perf_counter(), time.process_time()
        work()
        times.append((1e3 * (time.perf_counter() - begin), 1e3 * (time.process_time() - used)))
    return statistics.median(wall for wall, _ in times), statistics.median(used for _, used in times)


def make_rows(rows: int) -> tuple[np.ndarray, ak.Groups, np.ndarray]:
    rng = np.random.default_rng(0)
    sex, race = rng.integers(0, 2, rows), rng.integers(0, 5, rows)
    scores = 1 / (1 + np.exp(-rng.normal(0.4 * sex, 1.0, rows)))
    return scores, ak.Groups({"sex": sex, "race": race}), (rng.random(rows) < scores).astype(float)


def main(arguments: Sequence[str] | None = None) -> None:
    from fairlearn.metrics import MetricFrame, selection_rate

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args(arguments).rows
    scores, groups, labels = make_rows(rows)
    criteria = [ak.ECP(names, tolerance=0.05) for names in ("sex", "race", ("sex", "race"))]
    criteria += [ak.EER(name, tolerance=0.05) for name in ("sex", "race")]
    profile = ScoreProfile.from_rows(scores, groups, criteria, labels=labels)
    ours = {
        "all gaps and verdicts at another ε": lambda: profile.evaluate(rule=None, tolerance=0.07),
        "decisions by sex at another threshold": lambda: profile.decisions(0.3, ["sex"]),
        "decisions by race at another threshold": lambda: profile.decisions(0.3, ["race"]),
        "decisions by sex × race at another threshold": lambda: profile.decisions(0.3, ["sex", "race"]),
        "distributions by sex × race": lambda: profile.distributions(["sex", "race"]),
    }

    def frame() -> Any:
        return MetricFrame(
            metrics=selection_rate, y_true=labels, y_pred=scores >= 0.3, sensitive_features=groups.values("sex")
        ).by_group

    whole, whole_used = milliseconds(
        lambda: ak.audit(scores, groups, criteria, labels=labels, threshold=0.3), repeats=2
    )
    _, peer_used = milliseconds(frame, repeats=2)
    console = Console(width=120)
    table = Table("question", "ms", "of the processor", "audit of the rows, its time over ours", "MetricFrame")
    for name, work in ours.items():
        taken, used = milliseconds(work)
        ratios = f"{whole_used / used:.0f}×", f"{peer_used / used:.0f}×"
        table.add_row(name, f"{taken:.1f}", f"{used:.1f}", *ratios)
    console.print(table)
    _, taking = milliseconds(lambda: ScoreProfile.from_rows(scores, groups, criteria, labels=labels), repeats=2)
    console.print(
        f"{rows:,} rows; ratios are of processor time. Taking the sums once: {taking:.0f} ms; audit of the rows: "
        f"{whole_used:.0f} ms, {whole:.0f} ms by the clock"
    )


if __name__ == "__main__":
    main()
