"""Tighten tolerances until the gaps of the population are within ε, or say how many rows that takes.

    enforced tolerance = ε − half-width of the simultaneous interval of the gap

A gap of the population differs from the gap of the calibration rows by their sampling error only. Where the gaps of
these rows are within ε less that error, those of the population are within ε, all at once, with the joint confidence of
the intervals. The margins are those of the *corrected* values, so correction and margins are found in turn until
they agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from auditkit._typing import FloatArray, IntArray
from auditkit.clusters import count_clusters
from auditkit.constraints import ConstraintSystem, membership_of
from auditkit.contrasts import Contrasts
from auditkit.errors import InsufficientDataError, SolverError
from auditkit.estimates import estimate_margins
from auditkit.event_estimates import estimate_events
from auditkit.moments import Moments

MAX_ROUNDS = 20

OnInsufficient = Literal["raise", "equalize"]
Counted = Literal["rows", "clusters"]

Found = TypeVar("Found")


@dataclass(frozen=True)
class ContrastGuarantee:
    """What is guaranteed for one contrast.

    Attributes:
        name: What is compared.
        criterion: Name of the criterion.
        tolerance: ε.
        margin: Half-width of the simultaneous interval of the gap; None when a group is too small for one.
        enforced_tolerance: The tolerance that the calibration rows were held to.
        guaranteed: Whether the population gap is within ε at the joint confidence.
        rows_needed: Rows of the smaller group at which the margin would fit into ε, or persons where several rows are
            of one; None when it fits or is unknown.
        counted: What ``rows_needed`` counts: "rows", or "clusters" (persons) where the calibration rows had them.
    """

    name: str
    criterion: str
    tolerance: float
    margin: float | None
    enforced_tolerance: float
    guaranteed: bool
    rows_needed: int | None
    counted: Counted = "rows"

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ContrastGuarantee:
        """The guarantee of a saved file; a field that is missing or unknown is a TypeError."""
        return cls(**content)


@dataclass(frozen=True, eq=False)
class GuaranteeSearch(Generic[Found]):
    """Tighten the tolerances by the margins of the corrected values until both agree.

    Attributes:
        system: The constraints, at the tolerances asked for.
        correct: From tightened constraints to what is enforced and the values it gives the calibration rows.
        measure: From these values to their sums per cell and the contrasts over those cells.
        confidence: Joint confidence.
        on_insufficient: What to do about a contrast whose margin exceeds its tolerance.
        seed: Seed of the simulation that sets the margins.
        clusters: Code of every row's cluster, shape (n,); None where the rows are independent.
    """

    system: ConstraintSystem
    correct: Callable[[ConstraintSystem], tuple[Found, FloatArray]]
    measure: Callable[[FloatArray], tuple[Moments, Contrasts]]
    confidence: float
    on_insufficient: OnInsufficient
    seed: int
    clusters: IntArray | None = None

    def run(self) -> tuple[Found, tuple[ContrastGuarantee, ...]]:
        """What is enforced and what it guarantees."""
        system = self.system
        self._check_missing()
        margin = np.zeros(system.contrasts.n_contrasts)
        for _ in range(MAX_ROUNDS):
            found, values = self.correct(replace(system, margin=margin, layouts={}))
            wanted = self._margins(values)
            self._check_sufficient(wanted)
            usable = np.where(wanted <= system.tolerance, wanted, system.tolerance)
            if (usable <= margin).all():
                return found, self._report(margin, wanted)
            # a little more than wanted, because the next correction has slightly different margins
            margin = np.where(usable > margin, np.minimum(usable * 1.01, system.tolerance), margin)
        raise SolverError("the margins of the guarantee did not settle; raise the tolerances")

    def _margins(self, values: FloatArray) -> FloatArray:
        """Half-width of every simultaneous interval; infinite where a group is too small for one."""
        moments, contrasts = self.measure(values)
        events = estimate_events(moments, contrasts)
        return estimate_margins(events, contrasts, confidence=self.confidence, seed=self.seed)

    def _check_missing(self) -> None:
        missing = self.system.contrasts.missing
        if missing and self.on_insufficient == "raise":
            names = ", ".join(f"{event.group_name} {event.stratum_name}".strip() for event in missing[:5])
            raise InsufficientDataError(f"no calibration rows for {names}; nothing can be guaranteed for them")

    def _check_sufficient(self, wanted: FloatArray) -> None:
        contrasts, tolerance = self.system.contrasts, self.system.tolerance
        short = np.flatnonzero(wanted > tolerance)
        if not short.size or self.on_insufficient == "equalize":
            return
        rows = self._rows_needed(wanted)
        needed = {contrasts.describe(int(k)): count for k in short if (count := rows[int(k)]) is not None}
        worst = contrasts.describe(int(short[np.argmax(wanted[short])]))
        counted = "; ".join(f"{name}: {count}" for name, count in list(needed.items())[:5])
        raise InsufficientDataError(
            f"{self._sample_size()} cannot guarantee {len(short)} of {len(wanted)} gaps at confidence "
            f"{self.confidence:g} (widest margin: {worst}); {self._unit} of the smaller group needed: "
            f"{counted or 'more than can be foreseen'}. "
            f"Bring more {self._unit}, raise the tolerance, or pass on_insufficient='equalize'",
            rows_needed=needed,
        )

    @property
    def _unit(self) -> str:
        return "rows" if self.clusters is None else "persons"

    def _sample_size(self) -> str:
        n_rows = membership_of(self.system.cells).shape[0]  # type: ignore[index]
        if self.clusters is None:
            return f"{n_rows} rows"
        n_persons = len(np.unique(self.clusters))
        return f"{n_rows} rows of {n_persons} {'person' if n_persons == 1 else 'persons'}"

    def _rows_needed(self, wanted: FloatArray) -> list[int | None]:
        """Rows (or persons) of the smaller group that every contrast needs; None where it has them or none is known."""
        system = self.system
        short = (wanted > system.tolerance) & (system.tolerance > 0) & np.isfinite(wanted)
        if not short.any():
            return [None] * len(wanted)
        sizes = system.contrasts.contrast_min(self._event_sizes())
        return [
            int(np.ceil(sizes[k] * (wanted[k] / system.tolerance[k]) ** 2)) if short[k] else None
            for k in range(len(wanted))
        ]

    def _event_sizes(self) -> FloatArray:
        """Rows of every event, or persons with a row in it; shape (e,)."""
        membership, member = membership_of(self.system.cells), self.system.contrasts.cell_event
        if self.clusters is None:
            return member @ np.asarray(membership.sum(axis=0), dtype=np.float64)
        return count_clusters(self.clusters, membership, member)

    def _report(self, margin: FloatArray, wanted: FloatArray) -> tuple[ContrastGuarantee, ...]:
        """One entry per contrast, and one per group without rows: what was not seen is never guaranteed."""
        system, contrasts = self.system, self.system.contrasts
        rows = self._rows_needed(wanted)
        counted: Counted = "rows" if self.clusters is None else "clusters"
        unseen = []
        for event in contrasts.missing:
            criterion, name = system.named[event.criterion], f"{event.group_name} {event.stratum_name}".strip()
            epsilon = criterion.tolerance
            name = f"{name} (no rows)"
            unseen.append(ContrastGuarantee(name, criterion.name, epsilon, None, epsilon, False, None, counted))
        return *unseen, *(
            ContrastGuarantee(
                name=contrasts.describe(k),
                criterion=system.named[contrasts.criterion[k]].name,
                tolerance=float(system.tolerance[k]),
                margin=float(wanted[k]) if np.isfinite(wanted[k]) else None,
                enforced_tolerance=float(max(system.tolerance[k] - margin[k], 0.0)),
                guaranteed=bool(wanted[k] <= system.tolerance[k]),
                rows_needed=rows[k],
                counted=counted,
            )
            for k in range(len(wanted))
        )
