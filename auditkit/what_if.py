"""`profile_scores`: what an audit would find at another tolerance, confidence or decision rule, without the rows.

    Σ_{rows of cell c} w·d  =  Σ_b d_b · Σ_{rows of c in bin b} w

The moments of every cell are kept per bin of the score, the bins so fine that each threshold on offer is an edge and
that the rows at the cut of each rule ("median", "top 5%") have a bin of their own. Decisions are then the same for all
rows of a bin, so the audit at a threshold on offer is the audit of the rows, to the last digits of a sum.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import check_probability
from auditkit.auditing import AuditResult, evaluate_moments
from auditkit.config import AuditFile
from auditkit.criteria import Criterion
from auditkit.decision_rules import MEDIAN, Cut, Rule, cut_at
from auditkit.decisions import DecisionTable, decide, tabulate_decisions
from auditkit.errors import InputError
from auditkit.groups import Cells
from auditkit.margins import SCORE_BIN, cross, drop_empty, marginal
from auditkit.moments import SUMS, Moments
from auditkit.observations import observe, with_decisions
from auditkit.progress import NullProgress, Progress
from auditkit.subjects import load_subject

STEPS = 200
"""Thresholds on offer lie this many to the range of the scores; [0, 1] where all scores are in it."""

SHARES = (1, 2, 5, 10, 20, 30, 40, 50)
RULES: tuple[str, ...] = (MEDIAN, *(f"top {share}%" for share in SHARES))
MAX_CELLS = 2_000_000
"""Cells times bins; more would not fit in memory."""


@dataclass(frozen=True, eq=False)
class ScoreProfile:
    """Sums of every cell by fine bins of the score.

    Attributes:
        criteria: What is audited, unless `evaluate` is told otherwise.
        moments: Sums over the cells crossed with the bins; without decisions.
        lows: Lower edge of every bin, shape (b,); −∞ for the first.
        thresholds: The numbers that `evaluate` takes as a threshold, increasing.
        cuts: Rule → where it cuts the scores.
        grid: The `STEPS` + 1 of the thresholds that are equally far apart.
        confidence: Of the audit that this belongs to.
        seed: Likewise.
    """

    criteria: tuple[Criterion, ...]
    moments: Moments
    lows: FloatArray
    thresholds: FloatArray
    cuts: dict[str, Cut]
    grid: FloatArray
    confidence: float = 0.95
    seed: int = 0

    @classmethod
    def from_rows(
        cls,
        scores: VectorLike,
        groups: Any,
        criteria: Sequence[Criterion],
        *,
        labels: VectorLike | None = None,
        weights: VectorLike | None = None,
        thresholds: Sequence[float] = (),
        confidence: float = 0.95,
        seed: int = 0,
    ) -> ScoreProfile:
        """Take the sums: one pass over the rows.

        Args:
            scores: z, shape (n,).
            groups: Attributes of the same rows, none of them inferred.
            criteria: The criteria.
            labels: y, shape (n,).
            weights: Row weights, shape (n,).
            thresholds: Numbers that are on offer as well.
            confidence: Joint confidence of all intervals.
            seed: Seed of the critical level's simulation.

        Returns:
            The profile.

        Raises:
            InputError: As `auditkit.audit`; also for inferred attributes and several outputs, and too many cells.
        """
        observed = observe(scores, groups, criteria, labels=labels, weights=weights)
        if not observed.is_plain:
            raise InputError("a score profile is of one score per row and of attributes that are known, not inferred")
        z = observed.scores[:, 0]
        observed = with_decisions(observed, criteria, observed.scores)
        cells = groups.cells(observed.columns, labels=observed.strata)
        grid = _grid(z)
        offered = np.unique(np.append(grid, [float(value) for value in thresholds]))
        cuts = _cuts(z)
        edges = _edges(offered, cuts)
        size = cells.table.n_cells * (len(edges) + 1)
        if size > MAX_CELLS:
            raise InputError(
                f"{cells.table.n_cells} groups by {len(edges) + 1} bins are more than {MAX_CELLS} sums; audit fewer "
                "attributes at once"
            )
        place = np.searchsorted(edges, z, side="right")
        crossed = Cells(
            cross(cells.table, SCORE_BIN, tuple(range(len(edges) + 1))), cells.index * (len(edges) + 1) + place
        )
        y = None if observed.labels is None else observed.labels[:, 0]
        moments = drop_empty(Moments.from_rows(z, crossed, labels=y, weights=observed.weights))
        return cls(tuple(criteria), moments, np.append(-np.inf, edges), offered, cuts, grid, confidence, seed)

    def evaluate(
        self, *, rule: Rule | None, tolerance: float | None = None, confidence: float | None = None
    ) -> AuditResult:
        """The audit of the same rows at other settings.

        Args:
            rule: One of ``thresholds``, a key of ``cuts``, or None for no decisions.
            tolerance: ε of every criterion; None leaves each its own.
            confidence: Joint confidence of all intervals; None that of the profile.

        Returns:
            The audit, without reliability curves.

        Raises:
            InputError: A rule that is not on offer, a negative tolerance, or a confidence outside (0, 1).
        """
        if confidence is not None:
            check_probability("confidence", confidence)
        criteria = self.criteria if tolerance is None else [one.with_tolerance(tolerance) for one in self.criteria]
        cut = None if rule is None else self._cut(rule)
        return evaluate_moments(
            self._at(cut),
            list(criteria),
            threshold=None if cut is None else cut.threshold,
            decision_rule=None if cut is None else cut.rule,
            confidence=self.confidence if confidence is None else confidence,
            seed=self.seed,
        )

    def decisions(self, rule: Rule, attributes: Sequence[str], *, confidence: float | None = None) -> DecisionTable:
        """The decision table of one set of attributes, as `evaluate` would state it among the others.

        Args:
            rule: One of ``thresholds``, or a key of ``cuts``.
            attributes: The columns crossed; what one of the criteria protects.
            confidence: Of every interval; None is that of the profile.

        Returns:
            The table.

        Raises:
            InputError: A rule that is not on offer, no criterion that protects these, a confidence outside (0, 1).
        """
        asked = [one for one in self.criteria if one.attributes == tuple(attributes)]
        if not asked:
            raise InputError(f"no criterion protects {' × '.join(attributes)}")
        level = self.confidence if confidence is None else confidence
        check_probability("confidence", level)
        return tabulate_decisions(self._at(self._cut(rule)), asked[:1], confidence=level, seed=self.seed)[0]

    def describe_rule(self, rule: Rule) -> str:
        """What a positive decision is under a rule that is on offer, in words."""
        return self._cut(rule).rule

    def distributions(self, attributes: Sequence[str], *, bars: int = 40) -> list[dict[str, Any]]:
        """How the scores of every group are spread.

        Args:
            attributes: The columns crossed; among those that a criterion protects or is given.
            bars: Intervals of equal width over [0, 1], or over the range of the scores where some are outside; each
                holds whole fine bins, so that the shares are those of the rows.

        Returns:
            JSON-ready values: for every group that occurs ``group``, ``count``, ``mean``, and in ``bars`` the ``low``
            and ``high`` end and the ``share`` of the group's weight of every interval.

        Raises:
            InputError: No such column, or a number of bars that does not divide `STEPS`.
        """
        if bars < 1 or STEPS % bars:
            raise InputError(f"bars must divide {STEPS}, the number of fine bins, such as 20, 40 or 100; got {bars}")
        if missing := [name for name in attributes if name not in self.moments.table.names]:
            raise InputError(f"no criterion looks at {missing[0]!r}, so that its groups are not told apart here")
        moments = marginal(self.moments, (*attributes, SCORE_BIN))
        ends = self.grid[:: STEPS // bars]
        bin_of = _codes(moments)
        bar = np.clip(np.searchsorted(ends, self.lows[bin_of], side="right") - 1, 0, bars - 1)
        names, member = moments.table.unions(attributes)
        found = []
        for name, cells in zip(names, member, strict=True):
            mass = cells * moments.weight
            share = np.bincount(bar, weights=mass, minlength=bars) / mass.sum()
            found.append({
                "group": name, "count": round(float(cells @ moments.count)),
                "mean": float(cells @ moments.score / mass.sum()),
                "bars": [
                    {"low": float(ends[k]), "high": float(ends[k + 1]), "share": float(share[k])} for k in range(bars)
                ],
            })  # fmt: skip
        return found

    def _cut(self, rule: Rule) -> Cut:
        if isinstance(rule, str):
            if rule not in self.cuts:
                raise InputError(f"the rule {rule!r} is not on offer; there are {', '.join(map(repr, self.cuts))}")
            return self.cuts[rule]
        if rule not in self.thresholds:
            raise InputError(
                f"the threshold {rule!r} is not on offer; the nearest one is "
                f"{self.thresholds[np.abs(self.thresholds - rule).argmin()]:g}, and more are named in thresholds="
            )
        return cut_at(float(rule))

    def _at(self, cut: Cut | None) -> Moments:
        """The moments of the cells with the decisions of a cut."""
        binned, (table, index) = self.moments, self._collapsed
        sums = {name: self._total(index, getattr(binned, name), table.n_cells) for name in SUMS}
        if cut is not None:
            decided = (self.lows > cut.threshold) + (self.lows == cut.threshold) * cut.share
            chosen = decided[_codes(binned)]
            sums["selected"] = self._total(index, binned.weight * chosen, table.n_cells)
            sums["selected_w2"] = self._total(index, binned.weight2 * chosen, table.n_cells)
        return replace(binned, table=table, **sums, has_decisions=cut is not None)

    @staticmethod
    def _total(index: IntArray, values: FloatArray, size: int) -> FloatArray:
        return np.bincount(index, weights=values, minlength=size).astype(np.float64)

    @cached_property
    def _collapsed(self) -> tuple[Any, IntArray]:
        """The cells without the bins, and which of them every cell with a bin is in."""
        table = self.moments.table
        codes, index = np.unique(table.codes[:, :-1], axis=0, return_inverse=True)
        return replace(
            table, names=table.names[:-1], codes=codes, categories=table.categories[:-1]
        ), index.reshape(-1)  # fmt: skip


def profile_scores(config: AuditFile, *, progress: Progress | None = None) -> ScoreProfile:
    """The score profile of what an audit file audits.

    Args:
        config: The audit file; its threshold is among those on offer.
        progress: Where to report.

    Returns:
        The profile, from which `ScoreProfile.evaluate` answers what-if questions.

    Raises:
        InputError: The data, the model or the request is wrong; decisions or clusters are given.
    """
    if refused := [role for role in ("decision", "cluster") if config.columns.get(role)]:
        raise InputError(f"data.{refused[0]} is given; a score profile is of independent rows that scores decide about")
    reporter = progress or NullProgress()
    subject = load_subject(config, features=False, progress=reporter)
    labels = None if np.isnan(subject.sample.labels).all() else subject.sample.labels
    with reporter.stage("summing by score", 1) as advance:
        profile = ScoreProfile.from_rows(
            subject.sample.scores,
            subject.sample.groups,
            config.build_criteria(),
            labels=labels,
            weights=subject.data.weights,
            thresholds=() if config.threshold is None or isinstance(config.threshold, str) else (config.threshold,),
            confidence=config.confidence,
            seed=config.seed,
        )
        advance(1)
    return profile


def _grid(scores: FloatArray) -> FloatArray:
    low, high = float(scores.min()), float(scores.max())
    inside = low >= 0 and high <= 1
    return np.arange(STEPS + 1) / STEPS if inside else np.linspace(low, high, STEPS + 1)


def _cuts(scores: FloatArray) -> dict[str, Cut]:
    """Rules that these rows are enough for."""
    made = {}
    for rule in RULES:
        try:
            decisions = decide(scores, rule)
        except InputError:  # more places than rows, or none
            continue
        at_cut = decisions.values[scores == decisions.threshold]
        made[rule] = Cut(decisions.threshold, float(at_cut[0]) if len(at_cut) else 0.0, decisions.rule)
    return made


def _edges(thresholds: FloatArray, cuts: dict[str, Cut]) -> FloatArray:
    """Every threshold, and a bin for the single value of every cut."""
    at = np.array([cut.threshold for cut in cuts.values()])
    return np.unique(np.concatenate([thresholds, at, np.nextafter(at, np.inf)]))


def _codes(moments: Moments) -> IntArray:
    """The bin of every cell; bins are numbered as their categories."""
    column = moments.table.names.index(SCORE_BIN)
    values: tuple[Hashable, ...] = moments.table.categories[column]
    return np.array(values, dtype=np.int64)[moments.table.codes[:, column]]
