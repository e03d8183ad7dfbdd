"""`audit`: measure every gap that the criteria constrain and give a verdict for each, from one pass over the rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from auditkit._typing import VectorLike
from auditkit._validation import check_probability
from auditkit.accuracy import Entry, GroupErrors, GroupReliability, GroupTable, tabulate_errors, tabulate_reliability
from auditkit.contrasts import Contrasts, compile_contrasts
from auditkit.criteria import Criterion, Family, check_criteria, columns_of
from auditkit.decisions import DecisionTable, tabulate_decisions
from auditkit.errors import InputError
from auditkit.estimates import estimate_gaps
from auditkit.event_estimates import estimate_events
from auditkit.findings import Finding, Verdict, build_finding, combine_verdicts
from auditkit.groups import OUTPUT, Groups
from auditkit.margins import count_rows, split_outputs
from auditkit.moments import Moments
from auditkit.observations import observe, sum_rows, take_decisions, with_decisions
from auditkit.plans import Plan, PlanCheck
from auditkit.subgroups import MAX_SUBGROUPS, SubgroupSearch, count_subgroups, search_moments

SCHEMA = "auditkit.audit/3"
SUBGROUP_DEPTH = 2
"""An audit screens every group, and every pair of crossed groups, of the attributes that its criteria protect."""


@dataclass(frozen=True, eq=False)
class AuditResult:
    """The outcome of an audit.

    Attributes:
        verdict: "fail" if any criterion fails, "pass" if all pass, else "inconclusive".
        findings: One per criterion, in the order given.
        decisions: Decision-level tables; empty without a threshold.
        n_rows: Rows audited.
        confidence: Joint confidence of all intervals.
        threshold: Scores at or above it (above it, for the median) are positive decisions; None without decisions, or
            where the outputs of a model have cuts of their own.
        decision_rule: What a positive decision is, in words; None without decisions.
        seed: Seed of the critical level's simulation.
        moments: The sums that every figure comes from.
        inferred: Attributes that are known by their probabilities only. Their gaps are those of the weighted means,
            which differ from the gaps between the people themselves by as much as scores depend on the group among
            people of the same probabilities.
        bins: The sums by bin of the score; None where scores or labels lie outside [0, 1] or rows are not independent.
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
    inferred: tuple[str, ...] = ()
    bins: Moments | None = None
    plan: PlanCheck | None = None

    @property
    def outputs(self) -> tuple[Hashable, ...]:
        """Names of the model's outputs, each of which is audited; empty for one score per row."""
        names = self.moments.table.names
        return self.moments.table.categories[names.index(OUTPUT)] if OUTPUT in names else ()

    @property
    def attribute_sets(self) -> tuple[tuple[str, ...], ...]:
        """What the criteria protect, each combination once."""
        return tuple(dict.fromkeys(finding.criterion.attributes for finding in self.findings))

    @cached_property
    def errors(self) -> tuple[GroupTable[GroupErrors], ...]:
        """Mean residual, MAE and RMSE by group; empty without labels."""
        return self._tables(tabulate_errors, self.moments) if self.moments.has_labels else ()

    @cached_property
    def reliability(self) -> tuple[GroupTable[GroupReliability], ...]:
        """Reliability curve and calibration error by group; empty where there are no ``bins``."""
        return () if self.bins is None else self._tables(tabulate_reliability, self.bins)

    def _tables(self, tabulate: Callable[..., tuple[Entry, ...]], moments: Moments) -> tuple[GroupTable[Entry], ...]:
        return tuple(
            GroupTable(attributes, output, tabulate(part, attributes, confidence=self.confidence))
            for output, part in split_outputs(moments)
            for attributes in self.attribute_sets
        )

    @cached_property
    def subgroups(self) -> tuple[SubgroupSearch, ...]:
        """Groups and pairs of crossed groups against everybody else: one search by score, one by residual.

        Screening, with control of the share of false discoveries; no verdict depends on it. The tolerance is the
        smallest of the criteria of that kind. Left out where there are more than `MAX_SUBGROUPS` to search.
        """
        searches = []
        families: dict[Family, None] = dict.fromkeys(finding.criterion.family for finding in self.findings)
        for family in families:
            criteria = [finding.criterion for finding in self.findings if finding.criterion.family == family]
            names = tuple(dict.fromkeys(name for criterion in criteria for name in criterion.attributes))
            depth = min(SUBGROUP_DEPTH, len(names))
            if 0 < count_subgroups(self.moments, names, depth) <= MAX_SUBGROUPS:
                tolerance = min(criterion.tolerance for criterion in criteria)
                searches.append(search_moments(self.moments, names, family=family, depth=depth, tolerance=tolerance))
        return tuple(searches)

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
            "outputs": list(self.outputs),
            "inferred": list(self.inferred),
            "plan": None if self.plan is None else {**asdict(self.plan), "differences": list(self.plan.differences)},
            "findings": [finding.to_dict() for finding in self.findings],
            "decisions": [table.to_dict() for table in self.decisions],
            "errors": [table.to_dict() for table in self.errors],
            "reliability": [table.to_dict() for table in self.reliability],
            "subgroups": [search.to_dict() for search in self.subgroups],
            "moments": self.moments.to_dict(),
        }


def audit(
    scores: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    threshold: float | str | None = None,
    decisions: VectorLike | None = None,
    weights: VectorLike | None = None,
    clusters: VectorLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    plan: Plan | None = None,
) -> AuditResult:
    """Measure every gap that the criteria constrain, with simultaneous intervals and a verdict for each criterion.

    Args:
        scores: z, shape (n,), or (n, k) for a model of k outputs: every criterion is then asked of every output, and
            all intervals and tests hold over all of them at once. The columns of a DataFrame name the outputs.
        groups: Attributes of the same rows. Inferred ones count with their probabilities.
        criteria: One criterion or several.
        labels: y, shape (n,); needed by EER and by criteria given the label, used by the decision tables if binary.
            With k outputs the classes 0 … k − 1 (or the names of the outputs), or shape (n, k).
        threshold: Scores at or above it are positive decisions; "median", "top 100" and "top 5%" set it from the scores
            (see `auditkit.decisions.decide`), "highest" takes the output of the highest score; None states no
            decisions.
        decisions: The decisions themselves (or their probabilities), of the shape of the scores, in place of a
            threshold.
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
    observed = observe(scores, groups, listed, labels=labels, weights=weights, clusters=clusters)
    values, cut, rule = take_decisions(observed, threshold, decisions)
    moments, bins = sum_rows(with_decisions(observed, listed, values), reliability=True)
    outcome = evaluate_moments(
        moments,
        listed,
        threshold=cut,
        decision_rule=rule,
        confidence=confidence,
        seed=seed,
        inferred=[name for name in groups.inferred if name in columns_of(listed)],
        bins=bins,
    )
    if plan is None:
        return outcome
    given = {"weight": weights, "decision": decisions, "cluster": clusters}
    named = {role: None for role, rows in given.items() if rows is not None}
    check = plan.check(listed, confidence=confidence, threshold=threshold, seed=seed, columns=named)
    return replace(outcome, plan=check)


def evaluate_moments(
    moments: Moments,
    criteria: Sequence[Criterion],
    *,
    threshold: float | None = None,
    decision_rule: str | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    inferred: Sequence[str] = (),
    bins: Moments | None = None,
) -> AuditResult:
    """The audit from its moments alone; tolerances and confidence can be changed without another pass over the rows.

    Args:
        moments: Sums per cell.
        criteria: The criteria; their columns must be among those of the moments.
        threshold: What the decisions in the moments were made with.
        decision_rule: The same in words; made from the threshold when None.
        confidence: Joint confidence of all intervals.
        seed: Seed of the simulation that sets the critical level.
        inferred: Attributes that the moments hold by their probabilities.
        bins: The same moments by bin of the score, for reliability curves.

    Returns:
        The audit.

    Raises:
        InputError: An attribute with one value.
    """
    if decision_rule is None and threshold is not None:
        decision_rule = f"a score of {threshold:g} or more"
    contrasts = compile_contrasts(_of_every_output(criteria, moments), moments.table, cell_weights=moments.weight)
    _check_comparable(criteria, contrasts)
    events = estimate_events(moments, contrasts)
    gaps = estimate_gaps(events, contrasts, confidence=confidence, seed=seed)
    findings = tuple(
        replace(build_finding(k, contrasts, events, gaps), criterion=criterion) for k, criterion in enumerate(criteria)
    )
    return AuditResult(
        verdict=combine_verdicts([finding.verdict for finding in findings]),
        findings=findings,
        decisions=tabulate_decisions(moments, criteria, confidence=confidence, seed=seed),
        n_rows=count_rows(moments),
        confidence=confidence,
        threshold=threshold,
        decision_rule=decision_rule,
        seed=seed,
        moments=moments,
        inferred=tuple(inferred),
        bins=bins,
    )


def _of_every_output(criteria: Sequence[Criterion], moments: Moments) -> list[Criterion]:
    """The criteria asked of every output apart, as a stratum."""
    if OUTPUT not in moments.table.names:
        return list(criteria)
    return [replace(criterion, given=(*criterion.given, OUTPUT)) for criterion in criteria]


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
