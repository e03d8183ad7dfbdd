"""`compare_runs`: what changed from an earlier audit to this one, gap by gap, of the models as found.

The runs keep sums, not rows, so the covariance of two estimates from the same rows is not known. With L and U the
lengths of a gap's interval below and above it, and d the change,

    different rows:  [d − √(L₂² + U₁²), d + √(U₂² + L₁²)]         same rows:  [d − (L₂ + U₁), d + (U₂ + L₁)]

The first takes the two samples as independent; the second holds for any dependence between the two, since
sd(a − b) ≤ sd(a) + sd(b), and is wide for that. Each is at level 1 − α/K for K changes, so that all hold at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from auditkit.intervals import two_sided_level
from auditkit.reporting.document import CriterionRow, Json, ReportDocument, criterion_key
from auditkit.reporting.sections import CriterionChange, GapChange, RunChanges
from auditkit.reporting.wording import percent

_SAME = (
    "Both runs rest on the same rows. How far their estimates move together cannot be had from the stored sums, so the "
    "intervals are those that hold whatever the dependence; a paired comparison of the rows would give narrower ones."
)
_OTHER = (
    "The runs rest on different rows, which are taken as independent samples. Where the same people are in both, the "
    "intervals are too wide or too narrow by as much as their scores move together."
)


def compare_runs(earlier: ReportDocument, later: ReportDocument) -> RunChanges:
    """What changed between two runs.

    Args:
        earlier: The run to compare with.
        later: The run that is reported.

    Returns:
        The changes of every gap that both have, with intervals that hold together at the later run's confidence.
    """
    before = {criterion_key(row.criterion): row for row in earlier.criteria}
    after = {criterion_key(row.criterion): row for row in later.criteria}
    shared = [key for key in after if key in before]
    hashes = [(run.run.get("data") or {}).get("sha256") for run in (earlier, later)]
    same = hashes[0] is not None and hashes[0] == hashes[1]
    pairs = sum(len(_common(before[key], after[key])) for key in shared)
    levels = (earlier.audit["confidence"], later.audit["confidence"])
    target = 1 - (1 - levels[1]) / max(pairs, 1)
    scale = tuple(two_sided_level(target) / two_sided_level(level) for level in levels)
    return RunChanges(
        title=earlier.title,
        finished=(earlier.timing or {}).get("finished"),
        rows=earlier.audit["n_rows"],
        same_rows=same,
        confidence=levels[1],
        basis=f"{_SAME if same else _OTHER} All intervals of changes hold together with {percent(levels[1], 0)}.",
        settings=tuple(_settings(earlier, later)),
        criteria=tuple(_change(before[key], after[key], (scale[0], scale[1]), same) for key in shared),
        only_earlier=tuple(row.name for key, row in before.items() if key not in after),
        only_later=tuple(row.name for key, row in after.items() if key not in before),
    )


def _common(before: CriterionRow, after: CriterionRow) -> list[tuple[Json, Json]]:
    now = {gap["name"]: gap for gap in after.before.gaps}
    return [(gap, now[gap["name"]]) for gap in before.before.gaps if gap["name"] in now]


def _change(before: CriterionRow, after: CriterionRow, scale: tuple[float, float], same: bool) -> CriterionChange:
    names = [{gap["name"]: None for gap in row.before.gaps} for row in (before, after)]
    return CriterionChange(
        name=after.name,
        earlier_verdict=before.before.verdict,
        verdict=after.before.verdict,
        earlier_tolerance=before.tolerance,
        tolerance=after.tolerance,
        gaps=tuple(_gap(first, second, scale, same) for first, second in _common(before, after)),
        only_earlier=tuple(name for name in names[0] if name not in names[1]),
        only_later=tuple(name for name in names[1] if name not in names[0]),
    )


def _gap(first: Json, second: Json, scale: tuple[float, float], same: bool) -> GapChange:
    change = second["gap"] - first["gap"]
    ends = None
    if first["pointwise_interval"] is not None and second["pointwise_interval"] is not None:
        (below1, above1), (below2, above2) = (
            _lengths(gap, factor) for gap, factor in zip((first, second), scale, strict=True)
        )
        ends = (change - _add(below2, above1, same), change + _add(above2, below1, same))
    return GapChange(first["name"], first["gap"], second["gap"], change, ends, _say(first["gap"], second["gap"], ends))


def _lengths(gap: Json, factor: float) -> tuple[float, float]:
    low, high = gap["pointwise_interval"]
    return factor * (gap["gap"] - low), factor * (high - gap["gap"])


def _add(one: float, other: float, same: bool) -> float:
    return one + other if same else math.hypot(one, other)


def _say(earlier: float, later: float, ends: tuple[float, float] | None) -> str:
    if ends is None:
        return "not comparable"
    if ends[0] <= 0 <= ends[1]:
        return "no change shown"
    if earlier * later < 0:
        return "changed sign"
    return "closer to zero" if abs(later) < abs(earlier) else "farther from zero"


def _settings(earlier: ReportDocument, later: ReportDocument) -> Iterator[str]:
    """What else is not the same, in words."""
    values = [
        {
            "model": ((document.run.get("model") or {}).get("fingerprint") or "none")[:16],
            "decision rule": document.audit.get("decision_rule") or "none",
            "confidence": f"{document.audit['confidence']:g}",
            "auditkit": str(document.run.get("auditkit")),
        }
        for document in (earlier, later)
    ]
    for name, was in values[0].items():
        now = values[1][name]
        if was != now:
            yield f"{name}: {was}, now {now}"
