"""A comparison's result: gaps, decisions, utilities, paired differences, the frontier and who wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit.baselines import find_method
from auditkit.comparison.differences import Resampling, Winner, find_winner
from auditkit.comparison.judging import MethodRun
from auditkit.comparison.settings import REFERENCE, CompareConfig
from auditkit.criteria import Criterion
from auditkit.metrics import Estimate

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "auditkit.comparison/2"
LEVELS = ("scores", "decisions")
ROUNDING = 1e-6
"""What a gap may exceed ε by, relative and absolute, and still count as met."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods × seeds.

    Attributes:
        criteria: What every method enforces.
        audited: What every method is audited for.
        config: How they were compared.
        rows: Rows per part of the split.
        runs: Every method on every split.
        frontier: Further tolerance → every method on every split, with all criteria at that tolerance.
    """

    criteria: tuple[Criterion, ...]
    audited: tuple[Criterion, ...]
    config: CompareConfig
    rows: Mapping[str, int]
    runs: tuple[MethodRun, ...]
    frontier: Mapping[float, tuple[MethodRun, ...]] = field(default_factory=dict)

    @property
    def resampling(self) -> Resampling:
        """Over what the intervals are taken."""
        fitted = self.rows["tune"] + self.rows["calibrate"]
        return Resampling(self.config.confidence, self.rows["test"] / fitted)

    def runs_of(self, method: str, *, tolerance: float | None = None) -> list[MethodRun]:
        """The runs of one method, one per seed."""
        runs = self.runs if tolerance is None else self.frontier[tolerance]
        return [run for run in runs if run.method == method]

    def difference(self, first: str, second: str, utility: str) -> Estimate | None:
        """Paired difference first − second of a utility with its interval; None where it is not defined for both."""
        return self.resampling.difference(self.runs_of(first), self.runs_of(second), utility)

    def winners(self) -> list[Winner]:
        """Per utility and level of the gaps, who wins, where the intervals say so."""
        fitted = {name: self.runs_of(name) for name in self.config.all_methods}
        found = []
        for level in LEVELS if self.config.is_binary else LEVELS[:1]:
            meeting = {name: runs for name, runs in fitted.items() if _meets(runs, self, level)}
            found += [find_winner(meeting, key, level, self.resampling) for key in self.config.utilities]
        return found

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON-ready values under a versioned ``schema`` key."""
        return {
            "schema": SCHEMA,
            "threshold": self.config.threshold,
            "confidence": self.config.confidence,
            "score_space": self.config.tune.score_space,
            "intervals": self.resampling.method,
            "seeds": sorted({run.seed for run in self.runs}),
            "criteria": [criterion.to_dict() for criterion in self.criteria],
            "audited": [criterion.to_dict() for criterion in self.audited],
            "rows": dict(self.rows),
            "methods": [_summarize(self, name) for name in self.config.all_methods],
            "pairs": _pairs(self),
            "winners": [asdict(winner) | {"eligible": list(winner.eligible)} for winner in self.winners()],
            "frontier": [_frontier(self, tolerance) for tolerance in self.frontier],
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per method and seed: gap per audited criterion, selection-rate gap and utilities."""
        import pandas as pd

        return pd.DataFrame([_frame_row(run) for run in self.runs])


def _summarize(comparison: Comparison, name: str) -> dict[str, Any]:
    runs, references = comparison.runs_of(name), comparison.runs_of(REFERENCE)
    method, resampling = find_method(name), comparison.resampling
    first, utilities = runs[0], comparison.config.utilities
    fitted = [run for run in runs if run.audit is not None]
    return {
        "name": name,
        "title": method.title,
        "description": method.description,
        "level": "scores" if first.has_scores else "decisions",
        "needs_attributes": method.needs_attributes,
        "needs_labels": method.needs_batch and any(criterion.needs_labels for criterion in comparison.criteria),
        "needs_batch": method.needs_batch,
        "error": next((run.error for run in runs if run.error), ""),
        "gaps": _gaps(fitted) if first.has_scores else [],
        "decisions": [] if first.audit is None else [table.to_dict() for table in first.audit.decisions],
        "decision_gaps": _pool_gaps(comparison, fitted, "decisions"),
        "utility": {key: _plain(resampling.estimate([run.utility[key] for run in runs])) for key in utilities},
        "difference": {key: _plain(resampling.difference(runs, references, key)) for key in utilities},
    }


def _frontier(comparison: Comparison, tolerance: float) -> dict[str, Any]:
    """Every method at one more tolerance: pooled gaps at both levels, and utilities."""
    methods = []
    for name in comparison.config.all_methods:
        runs = comparison.runs_of(name, tolerance=tolerance)
        fitted = [run for run in runs if run.audit is not None]
        methods.append(
            {
                "name": name,
                "error": next((run.error for run in runs if run.error), ""),
                "score_gaps": _pool_gaps(comparison, fitted, "scores"),
                "decision_gaps": _pool_gaps(comparison, fitted, "decisions"),
                "utility": {
                    key: _plain(comparison.resampling.estimate([run.utility[key] for run in runs]))
                    for key in comparison.config.utilities
                },
            }
        )
    return {"tolerance": tolerance, "methods": methods}


def _pairs(comparison: Comparison) -> list[dict[str, Any]]:
    """Differences first − second of every two methods, on the same rows or splits."""
    return [
        {"first": first, "second": second}
        | {key: _plain(comparison.difference(first, second, key)) for key in comparison.config.utilities}
        for first, second in combinations(comparison.config.all_methods, 2)
    ]


def _level_gaps(run: MethodRun, level: str) -> Mapping[str, float]:
    return run.score_gaps if level == "scores" else run.decision_gaps


def _pool_gaps(comparison: Comparison, runs: Sequence[MethodRun], level: str) -> list[dict[str, Any]]:
    """Gap per enforced criterion on the pooled test rows; over several splits the mean with its interval."""
    rows = []
    for criterion in comparison.criteria:
        values = [gaps[criterion.name] for run in runs if criterion.name in (gaps := _level_gaps(run, level))]
        pooled = comparison.resampling.pool(values) if len(values) > 1 else None
        interval = None if pooled is None else [max(0.0, pooled.low), pooled.high]
        if values:
            rows.append({"criterion": criterion.name, "gap": float(np.mean(values)), "interval": interval})
    return rows


def _meets(runs: Sequence[MethodRun], comparison: Comparison, level: str) -> bool:
    """Whether the pooled test gaps of a method are not shown to exceed ε.

    Over several splits: the lower end of the mean gap's interval is at most ε. On one split: the audit of the scores
    does not fail, or the gap of the decisions is at most ε.
    """
    if any(run.audit is None for run in runs):
        return False
    pooled = {row["criterion"]: row for row in _pool_gaps(comparison, runs, level)}
    wanted = [criterion for criterion in comparison.criteria if level == "scores" or criterion.family == "ECP"]
    if not wanted or any(criterion.name not in pooled for criterion in wanted):
        return False
    for criterion in wanted:
        row = pooled[criterion.name]
        least = row["gap"] if row["interval"] is None else row["interval"][0]
        if least > criterion.tolerance * (1 + ROUNDING) + ROUNDING and not _is_open(runs, criterion, level):
            return False
    return True


def _is_open(runs: Sequence[MethodRun], criterion: Criterion, level: str) -> bool:
    """Whether the audit of the scores of one split leaves open that the gap is within ε."""
    if level != "scores" or len(runs) > 1 or runs[0].audit is None:
        return False
    return any(finding.criterion == criterion and finding.verdict != "fail" for finding in runs[0].audit.findings)


def _gaps(runs: Sequence[MethodRun]) -> list[dict[str, Any]]:
    """Gap per audited criterion: of the one split, or the mean over several (then without interval and verdict)."""
    findings = [run.audit.findings for run in runs if run.audit is not None]
    rows = []
    for position in range(len(findings[0]) if findings else 0):
        mine = [finding[position] for finding in findings]
        single = mine[0] if len(mine) == 1 else None
        known = [finding.gap for finding in mine if finding.gap is not None]
        rows.append(
            {
                "criterion": mine[0].criterion.name,
                "tolerance": mine[0].criterion.tolerance,
                "gap": float(np.mean(known)) if known else None,
                "interval": None if single is None or single.interval is None else list(single.interval),
                "verdict": None if single is None else single.verdict,
            }
        )
    return rows


def _plain(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else asdict(estimate)


def _frame_row(run: MethodRun) -> dict[str, Any]:
    row: dict[str, Any] = {"method": run.method, "seed": run.seed}
    if run.audit is not None:
        row |= {
            f"gap {finding.criterion.name}": finding.gap if run.has_scores else None for finding in run.audit.findings
        }
        row |= {f"rate gap {'×'.join(table.attributes)}": table.rate_gap for table in run.audit.decisions}
    return row | {key: None if metric is None else metric.value for key, metric in run.utility.items()}
