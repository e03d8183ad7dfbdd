"""A comparison's result: gaps, decisions, utilities, paired differences, the frontier and who wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit.baselines import find_method
from auditkit.comparison.design import Design
from auditkit.comparison.differences import Resampling, Winner, find_winner
from auditkit.comparison.judging import MethodRun
from auditkit.comparison.settings import REFERENCE, CompareConfig
from auditkit.criteria import Criterion
from auditkit.findings import Finding
from auditkit.metrics import Estimate

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "auditkit.comparison/2"
LEVELS = ("scores", "decisions")
DECISION_UTILITIES = ("accuracy",)
ROUNDING = 1e-6
"""What a gap may exceed ε by, relative and absolute, and still count as met."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods × seeds.

    Attributes:
        criteria: What every method enforces.
        audited: What every method is audited for.
        config: How they were compared.
        design: How the rows were parted.
        runs: Every method on every split.
        frontier: Further tolerance → every method on every split, with all criteria at that tolerance.
    """

    criteria: tuple[Criterion, ...]
    audited: tuple[Criterion, ...]
    config: CompareConfig
    design: Design
    runs: tuple[MethodRun, ...]
    frontier: Mapping[float, tuple[MethodRun, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows per part of the split."""
        return self.design.rows

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return sorted({run.seed for run in self.runs})

    @property
    def resampling(self) -> Resampling:
        """Over what the intervals are taken."""
        design = self.design
        return Resampling(self.config.confidence, design.ratio, design.is_fixed, design.persons is not None)

    @property
    def intervals(self) -> str:
        """How the intervals are taken, in words."""
        return self.resampling.describe(len(self.seeds))

    def runs_of(self, method: str, *, tolerance: float | None = None) -> list[MethodRun]:
        """The runs of one method, one per seed."""
        runs = self.runs if tolerance is None else self.frontier[tolerance]
        return [run for run in runs if run.method == method]

    def difference(self, first: str, second: str, utility: str) -> Estimate | None:
        """Paired difference first − second of a utility with its interval; None where it is not defined for both."""
        return self.resampling.difference(self.runs_of(first), self.runs_of(second), utility)

    def winners(self) -> list[Winner]:
        """Per level of the gaps and utility, who wins, where the intervals say so.

        With gaps of decisions by the accuracy alone: the other utilities are of scores.
        """
        fitted = {name: self.runs_of(name) for name in self.config.all_methods}
        found = []
        for level in LEVELS if self._judges_decisions else LEVELS[:1]:
            meeting = {name: runs for name, runs in fitted.items() if _meets(runs, self, level)}
            keys = self.config.utilities if level == "scores" else DECISION_UTILITIES
            found += [find_winner(meeting, key, level, self.resampling) for key in keys]
        return found

    @property
    def _judges_decisions(self) -> bool:
        """Whether there are decisions, and a criterion that decisions can meet."""
        return self.config.is_binary and any(criterion.family == "ECP" for criterion in self.criteria)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON-ready values under a versioned ``schema`` key."""
        return {
            "schema": SCHEMA,
            "threshold": self.config.threshold,
            "confidence": self.config.confidence,
            "score_space": self.config.tune.score_space,
            "intervals": self.intervals,
            "seeds": self.seeds,
            "criteria": [criterion.to_dict() for criterion in self.criteria],
            "audited": [criterion.to_dict() for criterion in self.audited],
            "rows": dict(self.rows),
            "split": self.design.to_dict(),
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
        "gaps": _gaps(comparison, fitted) if first.has_scores else [],
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
    """Gap per enforced criterion on the pooled test rows; over several seeds the mean and its interval where known."""
    rows = []
    for criterion in comparison.criteria:
        values = [gaps[criterion.name] for run in runs if criterion.name in (gaps := _level_gaps(run, level))]
        interval = None
        if len(values) > 1 and comparison.design.is_fixed and level == "scores":
            interval = _mean_interval([_finding_of(run, criterion) for run in runs])
        elif len(values) > 1 and not comparison.design.is_fixed:
            pooled = comparison.resampling.pool(values)
            interval = [max(0.0, pooled.low), pooled.high]
        if values:
            rows.append({"criterion": criterion.name, "gap": float(np.mean(values)), "interval": interval})
    return rows


def _finding_of(run: MethodRun, criterion: Criterion) -> Finding | None:
    found = () if run.audit is None else run.audit.findings
    return next((finding for finding in found if finding.criterion == criterion), None)


def _mean_interval(findings: Sequence[Finding | None]) -> list[float] | None:
    """Mean ends of the intervals of several trainings on the same test rows; None where one has none.

    The half-width of a mean is at most the mean half-width, however the trainings go together.
    """
    ends = [finding.interval for finding in findings if finding is not None and finding.interval is not None]
    if not ends or len(ends) < len(findings):
        return None
    return [float(np.mean([end[side] for end in ends])) for side in (0, 1)]


def _meets(runs: Sequence[MethodRun], comparison: Comparison, level: str) -> bool:
    """Whether the pooled test gaps of a method are not shown to exceed ε.

    Over several splits: the lower end of the mean gap's interval is at most ε. On one split: the audit of the scores
    does not fail (with several trainings, the lower ends of the audits' intervals are at most ε in the mean), or the
    gap of the decisions is at most ε.
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


def _gaps(comparison: Comparison, runs: Sequence[MethodRun]) -> list[dict[str, Any]]:
    """Gap per audited criterion: of the one split, or the mean over several (then without interval and verdict).

    Over several trainings on one split, it has the mean of their intervals.
    """
    findings = [run.audit.findings for run in runs if run.audit is not None]
    rows = []
    for position in range(len(findings[0]) if findings else 0):
        mine = [finding[position] for finding in findings]
        single = mine[0] if len(mine) == 1 else None
        interval = _mean_interval(mine) if single is not None or comparison.design.is_fixed else None
        known = [finding.gap for finding in mine if finding.gap is not None]
        rows.append(
            {
                "criterion": mine[0].criterion.name,
                "tolerance": mine[0].criterion.tolerance,
                "gap": float(np.mean(known)) if known else None,
                "interval": interval,
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
