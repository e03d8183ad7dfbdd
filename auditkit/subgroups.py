"""`search_subgroups`: which combinations of attribute values are scored apart from everybody else.

Every combination of up to `depth` attributes is compared with all other rows, |gap| ≤ ε is tested for each, and the
p-values are adjusted by Benjamini and Hochberg's method, so that of the subgroups reported at most the share q is
expected to be false. The tests overlap and are positively dependent where subgroups nest, which that method allows.
One set of moments serves all of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from auditkit._typing import VectorLike
from auditkit._validation import check_probability
from auditkit.auditing import take_moments
from auditkit.criteria import Contrasts, Criterion, Event, Family
from auditkit.errors import InputError
from auditkit.estimates import estimate_events, estimate_gaps
from auditkit.groups import Groups
from auditkit.moments import Moments

MAX_SUBGROUPS = 2_000


@dataclass(frozen=True)
class Subgroup:
    """A combination of values against all other rows.

    Attributes:
        values: Attribute → value.
        count: Rows in it.
        gap: Its mean (of the score, or of the residual) less that of all others.
        interval: Of the gap, for it alone; None with too few rows.
        p_value: Against |gap| ≤ ε, not adjusted; None likewise.
        q_value: Adjusted over all subgroups searched; None likewise.
        found: Whether q_value is at most q.
    """

    values: dict[str, Hashable]
    count: int
    gap: float
    interval: tuple[float, float] | None
    p_value: float | None
    q_value: float | None
    found: bool


@dataclass(frozen=True)
class SubgroupSearch:
    """What a search found.

    Attributes:
        subgroups: All that were searched, the largest gap that was found first, then by q-value.
        false_discovery_rate: q.
        tolerance: ε.
        untested: How many had too few rows to be tested; they are not cleared.
    """

    subgroups: tuple[Subgroup, ...]
    false_discovery_rate: float
    tolerance: float
    untested: int

    @property
    def found(self) -> tuple[Subgroup, ...]:
        """The subgroups whose gap was shown to be above ε, at the false-discovery rate."""
        return tuple(subgroup for subgroup in self.subgroups if subgroup.found)

    def to_dict(self) -> dict[str, Any]:
        """The search as JSON-ready values."""
        return {"schema": "auditkit.subgroups/1", **asdict(self)}


def search_subgroups(
    scores: VectorLike,
    groups: Groups,
    attributes: Sequence[str] | None = None,
    *,
    labels: VectorLike | None = None,
    family: Family = "ECP",
    depth: int = 2,
    tolerance: float = 0.0,
    false_discovery_rate: float = 0.05,
    weights: VectorLike | None = None,
    clusters: VectorLike | None = None,
) -> SubgroupSearch:
    """Search the intersections of attributes for subgroups that are scored apart from everybody else.

    Args:
        scores: z, shape (n,).
        groups: Attributes of the same rows.
        attributes: Which of them; None takes all.
        labels: y, shape (n,); needed for residuals.
        family: "ECP" compares mean scores, "EER" mean residuals y − z.
        depth: Most attributes that are crossed.
        tolerance: ε ≥ 0: gaps up to it are of no interest.
        false_discovery_rate: q, in (0, 1).
        weights: Row weights, shape (n,).
        clusters: Whom each row is of, shape (n,).

    Returns:
        Every subgroup, with those that were found marked.

    Raises:
        InputError: No such depth, or too many subgroups.
    """
    names = tuple(groups.names if attributes is None else attributes)
    if not 1 <= depth <= len(names):
        raise InputError(f"depth must lie between 1 and {len(names)}, the number of attributes; got {depth}")
    check_probability("false_discovery_rate", false_discovery_rate)
    criterion = Criterion(family, names, tolerance)
    moments = take_moments(scores, groups, [criterion], labels=labels, weights=weights, clusters=clusters)
    contrasts, values = _contrasts(moments, criterion, depth)
    events = estimate_events(moments, contrasts)
    gaps = estimate_gaps(events, contrasts, draws=1)  # the joint level, which draws are for, is not used
    found = gaps.q_value <= false_discovery_rate
    subgroups = [
        Subgroup(
            values[k],
            int(events.count[contrasts.plus[k]]),
            float(gaps.gap[k]),
            (float(gaps.pointwise[0][k]), float(gaps.pointwise[1][k])) if gaps.adequate[k] else None,
            float(gaps.p_above[k]) if gaps.adequate[k] else None,
            float(gaps.q_value[k]) if gaps.adequate[k] else None,
            bool(found[k]),
        )
        for k in range(contrasts.n_contrasts)
    ]
    subgroups.sort(key=lambda s: (not s.found, -abs(s.gap) if s.found else (2.0 if s.q_value is None else s.q_value)))
    return SubgroupSearch(tuple(subgroups), false_discovery_rate, tolerance, int((~gaps.adequate).sum()))


def _contrasts(moments: Moments, criterion: Criterion, depth: int) -> tuple[Contrasts, list[dict[str, Hashable]]]:
    """Every subgroup and its complement as events, compared with each other."""
    table, events, members, values = moments.table, [], [], []
    for size in range(1, depth + 1):
        for chosen in combinations(criterion.attributes, size):
            columns = table.columns(chosen)
            for code in np.unique(table.codes[:, columns], axis=0):
                member = (table.codes[:, columns] == code).all(axis=1)
                if member.all():
                    continue
                group = tuple(table.categories[c][k] for c, k in zip(columns, code, strict=True))
                values.append(dict(zip(chosen, group, strict=True)))
                events += [Event(0, group), Event(0, ("all others",))]
                members += [member, ~member]
        if len(values) > MAX_SUBGROUPS:
            raise InputError(
                f"there are more than {MAX_SUBGROUPS} subgroups; search fewer attributes, bin them, or lower depth"
            )
    if not values:
        raise InputError("every attribute has one value; there is no subgroup to compare with others")
    first = np.arange(0, 2 * len(values), 2)
    return Contrasts((criterion,), tuple(events), np.array(members), first, first + 1, ()), values
