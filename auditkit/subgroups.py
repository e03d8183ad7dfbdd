"""`search_subgroups`: which combinations of attribute values are scored apart from everybody else.

Every combination of up to `depth` attributes is compared with all other rows, |gap| ≤ ε is tested for each, and the
p-values are adjusted by Benjamini and Hochberg's method, so that of the subgroups reported at most the share q is
expected to be false. The tests overlap and are positively dependent where subgroups nest, which that method allows.
One set of moments serves all of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from auditkit._typing import BoolArray, VectorLike
from auditkit._validation import check_probability
from auditkit.contrasts import Contrasts, Event
from auditkit.criteria import Criterion, Family
from auditkit.errors import InputError
from auditkit.estimates import estimate_gaps
from auditkit.event_estimates import estimate_events
from auditkit.groups import OUTPUT, Groups
from auditkit.moments import Moments
from auditkit.observations import take_moments

MAX_SUBGROUPS = 2_000


@dataclass(frozen=True)
class Subgroup:
    """A combination of values against all other rows.

    Attributes:
        values: Attribute → value.
        output: The output of the model that is looked at; None where there is one score per row.
        count: Rows in it.
        gap: Its mean (of the score, or of the residual) less that of all others.
        interval: Of the gap, for it alone; None with too few rows.
        p_value: Against |gap| ≤ ε, not adjusted; None likewise.
        q_value: Adjusted over all subgroups searched; None likewise.
        found: Whether q_value is at most q.
    """

    values: dict[str, Hashable]
    output: Hashable
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
        family: "ECP" where mean scores were compared, "EER" where mean residuals were.
        subgroups: All that were searched, the largest gap that was found first, then by q-value.
        false_discovery_rate: q.
        tolerance: ε.
        untested: How many had too few rows to be tested; they are not cleared.
    """

    family: Family
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
    _check_depth(depth, names)
    criterion = Criterion(family, names, tolerance)
    moments = take_moments(scores, groups, [criterion], labels=labels, weights=weights, clusters=clusters)
    return search_moments(
        moments, names, family=family, depth=depth, tolerance=tolerance, false_discovery_rate=false_discovery_rate
    )


def search_moments(
    moments: Moments,
    attributes: Sequence[str],
    *,
    family: Family = "ECP",
    depth: int = 2,
    tolerance: float = 0.0,
    false_discovery_rate: float = 0.05,
) -> SubgroupSearch:
    """`search_subgroups` from the moments alone; arguments, returns and errors as there."""
    _check_depth(depth, attributes)
    check_probability("false_discovery_rate", false_discovery_rate)
    criterion = Criterion(family, tuple(attributes), tolerance)
    contrasts, values = _contrasts(moments, criterion, depth)
    events = estimate_events(moments, contrasts)
    gaps = estimate_gaps(events, contrasts, draws=0)
    found = gaps.q_value <= false_discovery_rate
    subgroups = [
        Subgroup(
            *values[k],
            round(float(events.count[contrasts.plus[k]])),
            float(gaps.gap[k]),
            (float(gaps.pointwise[0][k]), float(gaps.pointwise[1][k])) if gaps.adequate[k] else None,
            float(gaps.p_above[k]) if gaps.adequate[k] else None,
            float(gaps.q_value[k]) if gaps.adequate[k] else None,
            bool(found[k]),
        )
        for k in range(contrasts.n_contrasts)
    ]
    subgroups.sort(key=lambda s: (not s.found, -abs(s.gap) if s.found else (2.0 if s.q_value is None else s.q_value)))
    return SubgroupSearch(family, tuple(subgroups), false_discovery_rate, tolerance, int((~gaps.adequate).sum()))


def count_subgroups(moments: Moments, attributes: Sequence[str], depth: int) -> int:
    """How many subgroups a search would compare with everybody else."""
    return sum(1 for _ in _subgroups(moments, attributes, depth))


def _check_depth(depth: int, attributes: Sequence[str]) -> None:
    if not 1 <= depth <= len(attributes):
        raise InputError(f"depth must lie between 1 and {len(attributes)}, the number of attributes; got {depth}")


def _subgroups(
    moments: Moments, attributes: Sequence[str], depth: int
) -> Iterator[tuple[dict[str, Hashable], Hashable, BoolArray, BoolArray]]:
    """Every subgroup of every output: its values, the output, its cells, and those of everybody else."""
    table = moments.table
    outputs = [(None, np.ones(table.n_cells, dtype=bool))]
    if OUTPUT in table.names:
        column = table.names.index(OUTPUT)
        outputs = [(value, table.codes[:, column] == code) for code, value in enumerate(table.categories[column])]
    for size in range(1, depth + 1):
        for chosen in combinations(attributes, size):
            columns = table.columns(chosen)
            for code in np.unique(table.codes[:, columns], axis=0):
                inside = (table.codes[:, columns] == code).all(axis=1)
                values = {name: table.categories[c][k] for name, c, k in zip(chosen, columns, code, strict=True)}
                for output, cells in outputs:
                    member, others = cells & inside, cells & ~inside
                    if moments.weight[member].any() and moments.weight[others].any():
                        yield values, output, member, others


def _contrasts(
    moments: Moments, criterion: Criterion, depth: int
) -> tuple[Contrasts, list[tuple[dict[str, Hashable], Hashable]]]:
    """Every subgroup and its complement as events, compared with each other."""
    events, members, found = [], [], []
    for values, output, member, others in _subgroups(moments, criterion.attributes, depth):
        found.append((values, output))
        events += [Event(0, tuple(values.values())), Event(0, ("all others",))]
        members += [member, others]
        if len(found) > MAX_SUBGROUPS:
            raise InputError(
                f"there are more than {MAX_SUBGROUPS} subgroups; search fewer attributes, bin them, or lower depth"
            )
    if not found:
        raise InputError("every attribute has one value; there is no subgroup to compare with others")
    first = np.arange(0, 2 * len(found), 2)
    return Contrasts((criterion,), tuple(events), np.array(members), first, first + 1, ()), found
