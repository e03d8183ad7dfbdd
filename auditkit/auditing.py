"""`audit`: measure every gap that the criteria constrain and give a verdict for each, from one pass over the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import check_probability, check_vector, check_weights
from auditkit.constraints import require_labels
from auditkit.criteria import Contrasts, Criterion, check_criteria, compile_contrasts
from auditkit.decisions import DecisionTable, decide, tabulate_decisions
from auditkit.errors import InputError
from auditkit.estimates import estimate_events, estimate_gaps
from auditkit.findings import Finding, Verdict, build_finding, combine_verdicts
from auditkit.groups import LABEL, MISSING, Groups, factorize
from auditkit.moments import MAX_LABEL_STRATA, Moments, cell_columns
from auditkit.plans import Plan, PlanCheck

SCHEMA = "auditkit.audit/2"


@dataclass(frozen=True, eq=False)
class AuditResult:
    """The outcome of an audit.

    Attributes:
        verdict: "fail" if any criterion fails, "pass" if all pass, else "inconclusive".
        findings: One per criterion, in the order given.
        decisions: Decision-level tables; empty without a threshold.
        n_rows: Rows audited.
        confidence: Joint confidence of all intervals.
        threshold: Scores at or above it (above it, for the median) are positive decisions; None without decisions.
        decision_rule: What a positive decision is, in words; None without decisions.
        seed: Seed of the critical level's simulation.
        moments: The sums that every figure comes from.
        plan: Whether the audit followed the plan that was frozen for it; None without one.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    decisions: tuple[DecisionTable, ...]
    n_rows: int
    confidence: float
    threshold: float | None
    decision_rule: str | None
    seed: int
    moments: Moments
    plan: PlanCheck | None = None

    def to_dict(self) -> dict[str, Any]:
        """The audit as JSON-ready values under a versioned ``schema`` key."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "n_rows": self.n_rows,
            "confidence": self.confidence,
            "threshold": self.threshold,
            "decision_rule": self.decision_rule,
            "seed": self.seed,
            "plan": None if self.plan is None else {**asdict(self.plan), "differences": list(self.plan.differences)},
            "findings": [finding.to_dict() for finding in self.findings],
            "decisions": [table.to_dict() for table in self.decisions],
            "moments": self.moments.to_dict(),
        }


def audit(
    scores: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    threshold: float | str | None = None,
    weights: VectorLike | None = None,
    clusters: VectorLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    plan: Plan | None = None,
) -> AuditResult:
    """Measure every gap that the criteria constrain, with simultaneous intervals and a verdict for each criterion.

    Args:
        scores: z, shape (n,).
        groups: Attributes of the same rows.
        criteria: One criterion or several.
        labels: y, shape (n,); needed by EER and by criteria given the label, used by the decision tables if binary.
        threshold: Scores at or above it are positive decisions; "median", "top 100" and "top 5%" set it from the scores
            (see `auditkit.decisions.decide`); None states no decisions.
        weights: Row weights, shape (n,).
        clusters: Whom each row is of, where several rows are of one person, shape (n,); None takes rows as independent.
        confidence: Joint confidence of all intervals, in (0, 1).
        seed: Seed of the simulation that sets the critical level.
        plan: What was frozen beforehand; the result states whether it was followed.

    Returns:
        Findings, decision tables and the moments they come from.

    Raises:
        InputError: Wrong shapes, NaN or infinite values, labels missing, an attribute with one value.

    Source: arXiv 2605.17118 (criteria); `auditkit.estimates` and `auditkit.joint` for the statistics.
    """
    listed = check_criteria(criteria)
    check_probability("confidence", confidence)
    made = None if threshold is None else decide(check_vector("scores", scores), threshold)
    moments = take_moments(
        scores,
        groups,
        listed,
        labels=labels,
        decisions=None if made is None else made.values,
        weights=weights,
        clusters=clusters,
    )
    outcome = evaluate_moments(
        moments,
        listed,
        threshold=None if made is None else made.threshold,
        decision_rule=None if made is None else made.rule,
        confidence=confidence,
        seed=seed,
    )
    if plan is None:
        return outcome
    named = {role: None for role, rows in (("weight", weights), ("cluster", clusters)) if rows is not None}
    check = plan.check(listed, confidence=confidence, threshold=threshold, seed=seed, columns=named)
    return replace(outcome, plan=check)


def take_moments(
    scores: VectorLike,
    groups: Groups,
    criteria: Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    threshold: float | str | None = None,
    decisions: VectorLike | None = None,
    weights: VectorLike | None = None,
    clusters: VectorLike | None = None,
) -> Moments:
    """The sums per cell that an audit of these criteria needs: the only pass over the rows.

    Args:
        scores: z, shape (n,).
        groups: Attributes of the same rows.
        criteria: The criteria.
        labels: y, shape (n,).
        threshold: Scores at or above it are positive decisions; or a rule as `audit` takes it.
        decisions: The decisions themselves (or their probabilities), shape (n,), in place of a threshold.
        weights: Row weights, shape (n,).
        clusters: Whom each row is of, shape (n,); any hashable values.

    Returns:
        The moments over the cells of every column that a criterion or a decision table reads.

    Raises:
        InputError: As `audit`.
    """
    if not isinstance(groups, Groups):
        raise InputError(f'groups must be an auditkit.Groups, e.g. Groups({{"sex": sex}}); got {type(groups).__name__}')
    require_labels(criteria, labels)
    z = check_vector("scores", scores, n_rows=groups.n_rows)
    if not len(z):
        raise InputError("scores is empty; an audit needs at least one row")
    y = None if labels is None else check_vector("labels", labels, n_rows=groups.n_rows)
    chosen = _decide(z, threshold, decisions)
    binary = y is not None and bool(np.isin(y, (0.0, 1.0)).all())
    columns = cell_columns(criteria, binary_labels=binary, has_decisions=chosen is not None)
    _check_label_strata(columns, y)
    return Moments.from_rows(
        z,
        groups.cells(columns, labels=y),
        labels=y,
        decisions=chosen,
        weights=check_weights(weights, n_rows=groups.n_rows),
        clusters=_cluster_codes(clusters, groups.n_rows),
    )


def _cluster_codes(clusters: VectorLike | None, n_rows: int) -> IntArray | None:
    if clusters is None:
        return None
    codes, categories = factorize("clusters", clusters)
    if len(codes) != n_rows:
        raise InputError(f"clusters must have {n_rows} rows, as many as groups has; got {len(codes)}")
    if MISSING in categories:
        raise InputError("clusters holds missing values; give every row the person that it is of")
    return codes


def _decide(scores: FloatArray, threshold: float | str | None, decisions: VectorLike | None) -> FloatArray | None:
    if decisions is not None:
        return check_vector("decisions", decisions, n_rows=len(scores))
    return None if threshold is None else decide(scores, threshold).values


def evaluate_moments(
    moments: Moments,
    criteria: Sequence[Criterion],
    *,
    threshold: float | None = None,
    decision_rule: str | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> AuditResult:
    """The audit from its moments alone; tolerances and confidence can be changed without another pass over the rows.

    Args:
        moments: Sums per cell.
        criteria: The criteria; their columns must be among those of the moments.
        threshold: What the decisions in the moments were made with.
        decision_rule: The same in words; made from the threshold when None.
        confidence: Joint confidence of all intervals.
        seed: Seed of the simulation that sets the critical level.

    Returns:
        The audit.

    Raises:
        InputError: An attribute with one value.
    """
    if decision_rule is None and threshold is not None:
        decision_rule = f"a score of {threshold:g} or more"
    contrasts = compile_contrasts(criteria, moments.table, cell_weights=moments.weight)
    _check_comparable(criteria, contrasts)
    events = estimate_events(moments, contrasts)
    gaps = estimate_gaps(events, contrasts, confidence=confidence, seed=seed)
    findings = tuple(build_finding(k, contrasts, events, gaps) for k in range(len(criteria)))
    return AuditResult(
        verdict=combine_verdicts([finding.verdict for finding in findings]),
        findings=findings,
        decisions=tabulate_decisions(moments, criteria, confidence=confidence, seed=seed),
        n_rows=int(moments.count.sum()),
        confidence=confidence,
        threshold=threshold,
        decision_rule=decision_rule,
        seed=seed,
        moments=moments,
    )


def _check_label_strata(columns: Sequence[str], labels: FloatArray | None) -> None:
    if LABEL in columns and labels is not None and len(np.unique(labels)) > MAX_LABEL_STRATA:
        raise InputError(
            f"labels have {len(np.unique(labels))} different values, too many to condition on; "
            "use binary or binned labels with equalized odds and equal opportunity"
        )


def _check_comparable(criteria: Sequence[Criterion], contrasts: Contrasts) -> None:
    for position, criterion in enumerate(criteria):
        groups = {event.group for event in contrasts.events if event.criterion == position}
        absent = {event.group for event in contrasts.missing if event.criterion == position}
        if criterion.form == "pairwise" and len(groups | absent) < 2:
            only = next(iter(groups), ("nothing",))
            raise InputError(
                f"{criterion.name} compares groups, but {' × '.join(criterion.attributes)} has one value "
                f"({' × '.join(map(str, only))}); choose an attribute with at least two"
            )
