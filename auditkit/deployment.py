"""`calibrate`: turn the projection into corrections that are applied row by row, with a guarantee for the population.

    y = clip( z + α_g + β_g · z )        g: the row's combination of attribute (and stratum) values

The corrections are found once on held-out rows. Labels are read there only: criteria that are conditioned on the
label get an affine correction (β ≠ 0) per group, all others a shift. With a confidence, every tolerance is tightened
by the half-width of a simultaneous interval, so that the gaps of the *population* are within ε, all at once, with
that probability over the draw of the calibration rows: a gap of the population differs from the gap of these rows by
their sampling error only, whatever shift was chosen. The interval is asymptotic (Welch t), and so is the guarantee.
See docs/projection.md for the projection that it starts from.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import check_probability, check_vector
from auditkit.constraints import ConstraintSystem, build_constraints, check_row_inputs
from auditkit.criteria import Criterion, check_criteria, columns_of
from auditkit.errors import InfeasibleError, InputError, InsufficientDataError, SolverError
from auditkit.estimates import estimate_events, estimate_gaps
from auditkit.groups import LABEL, Cells, Groups
from auditkit.moments import Moments
from auditkit.projection import ProjectionProblem, build_problem
from auditkit.solvers import solve
from auditkit.solvers.affine import AffineCorrection, solve_affine
from auditkit.solvers.feasibility import ensure_feasible

SCHEMA = "auditkit.calibration/1"
MAX_ROUNDS = 20

OnInsufficient = Literal["raise", "equalize"]
OnUnseen = Literal["raise", "keep"]


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
        rows_needed: Rows of the smaller group at which the margin would fit into ε; None when it fits or is unknown.
    """

    name: str
    criterion: str
    tolerance: float
    margin: float | None
    enforced_tolerance: float
    guaranteed: bool
    rows_needed: int | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """Corrections per cell, applied row by row without a solver, a batch or labels.

    Attributes:
        criteria: What they enforce.
        columns: The columns that a row is looked up by.
        cells: The values of those columns, one tuple per cell, length c.
        counts: Calibration rows per cell, length c.
        shift: α, shape (c,).
        slope: β, shape (c,).
        bounds: (lb, ub) or None.
        confidence: Joint confidence of the guarantee; None when no margin was taken off.
        contrasts: What is guaranteed; empty without a confidence.
        on_unseen: What happens to a row whose cell was not among the calibration rows.
    """

    criteria: tuple[Criterion, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Hashable, ...], ...]
    counts: tuple[int, ...]
    shift: FloatArray
    slope: FloatArray
    bounds: tuple[float | None, float | None] | None = None
    confidence: float | None = None
    contrasts: tuple[ContrastGuarantee, ...] = ()
    on_unseen: OnUnseen = "raise"

    @property
    def is_guaranteed(self) -> bool:
        """Whether every contrast of every criterion carries the guarantee."""
        return bool(self.contrasts) and all(contrast.guaranteed for contrast in self.contrasts)

    def apply(self, scores: VectorLike, groups: Groups) -> Any:
        """Correct scores, each row by itself: clip(z + α + β z).

        Args:
            scores: z, shape (n,).
            groups: Attributes of the same rows.

        Returns:
            Corrected scores, of the kind and dtype that came in.

        Raises:
            InputError: Wrong shapes, NaN, or a combination of values that the calibration never saw.
        """
        z = check_vector("scores", scores, n_rows=groups.n_rows)
        index = self._lookup(groups)
        shift, slope = np.append(self.shift, 0.0)[index], np.append(self.slope, 0.0)[index]
        corrected = np.where(index < len(self.cells), _clip(z + shift + slope * z, self.bounds), z)
        if isinstance(scores, Tensor):
            return torch.as_tensor(corrected, device=scores.device).to(scores.dtype)
        return corrected.astype(np.float32) if getattr(scores, "dtype", None) == np.float32 else corrected

    def _lookup(self, groups: Groups) -> IntArray:
        """Cell of every row; c for a combination that was never seen."""
        cells = groups.cells(self.columns)
        table = cells.table
        known = {values: k for k, values in enumerate(self.cells)}
        values = [tuple(table.value(c, name) for name in self.columns) for c in range(table.n_cells)]
        position = np.array([known.get(value, len(self.cells)) for value in values], dtype=np.int64)
        unseen = [value for value in values if value not in known]
        if unseen and self.on_unseen == "raise":
            raise InputError(
                f"groups holds {len(unseen)} combinations of {self.columns} that the calibration rows did not "
                f"(first: {unseen[0]}); calibrate on rows that cover them, or pass on_unseen='keep' to leave them alone"
            )
        return position[cells.index]

    def to_dict(self) -> dict[str, Any]:
        """The calibration as JSON-ready values."""
        return {
            "schema": SCHEMA,
            "criteria": [criterion.to_dict() for criterion in self.criteria],
            "columns": list(self.columns),
            "cells": [
                {"cell": list(values), "count": count, "shift": float(a), "slope": float(b)}
                for values, count, a, b in zip(self.cells, self.counts, self.shift, self.slope, strict=True)
            ],
            "bounds": None if self.bounds is None else list(self.bounds),
            "confidence": self.confidence,
            "contrasts": [asdict(contrast) for contrast in self.contrasts],
            "on_unseen": self.on_unseen,
        }

    def save(self, path: str | Path) -> None:
        """Write the calibration as JSON; the file appears whole or not at all."""
        target = Path(path)
        temporary = target.with_name(target.name + ".tmp")
        temporary.write_text(json.dumps(self.to_dict(), indent=2), encoding="utf-8")
        temporary.replace(target)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InputError: The file is missing, not JSON, or not a calibration.
        """
        source = Path(path)
        try:
            content = json.loads(source.read_text(encoding="utf-8"))
            return _from_dict(content)
        except OSError as error:
            raise InputError(f"path cannot be read: {source} ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"path holds no calibration of schema {SCHEMA!r}: {source} ({error})") from error

    def to_onnx(self, path: str | Path) -> None:
        """Write the corrections as an ONNX model: inputs ``scores`` (float64) and one string tensor per column.

        A combination that the calibration never saw gives NaN, or the score unchanged with on_unseen="keep".
        """
        from auditkit.onnx_export import write_calibration

        write_calibration(self, Path(path))


def calibrate(
    scores: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    weights: VectorLike | None = None,
    bounds: tuple[float | None, float | None] | None = None,
    confidence: float | None = None,
    on_insufficient: OnInsufficient = "raise",
    on_unseen: OnUnseen = "raise",
    seed: int = 0,
) -> Calibration:
    """Find row-by-row corrections on held-out rows that enforce the criteria.

    Args:
        scores: z, shape (n,), of rows that the model was not trained on.
        groups: Attributes of the same rows.
        criteria: What to enforce.
        labels: y, shape (n,); needed here, never later, by EER and by criteria given the label.
        weights: Row weights, shape (n,).
        bounds: (lb, ub), numbers or None.
        confidence: Joint probability with which the population gaps shall be within ε; None takes no margin off.
        on_insufficient: When the margin of a contrast exceeds its ε: "raise", or "equalize" to enforce a gap of zero on
            the calibration rows for that contrast and mark it as not guaranteed.
        on_unseen: What `Calibration.apply` does with combinations that these rows do not hold: "raise" or "keep".
        seed: Seed of the simulation that sets the margins.

    Returns:
        The calibration.

    Raises:
        InputError: Wrong shapes, NaN, labels missing.
        InsufficientDataError: Too few rows for the guarantee; says how many would do.
        InfeasibleError: No such correction satisfies the criteria.
        SolverError: The corrections did not converge.
    """
    listed = check_criteria(criteria)
    y, w = check_row_inputs(groups, listed, labels, weights)
    z = torch.as_tensor(check_vector("scores", scores, n_rows=groups.n_rows))
    system = build_constraints(groups, listed, labels=y, weights=w)
    problem = build_problem(z, system, weights=w, bounds=_check_scalar_bounds(bounds))
    columns = tuple(name for name in columns_of(listed) if name != LABEL)
    cells = groups.cells(columns)
    if confidence is None:
        correction, contrasts = _correct(problem, cells), ()
    else:
        check_probability("confidence", confidence)
        search = _GuaranteeSearch(problem, cells, y, confidence, on_insufficient, seed)
        correction, contrasts = search.run()
    table = cells.table
    return Calibration(
        criteria=listed,
        columns=columns,
        cells=tuple(tuple(table.value(c, name) for name in columns) for c in range(table.n_cells)),
        counts=tuple(np.bincount(cells.index, minlength=table.n_cells).tolist()),
        shift=correction.shift,
        slope=correction.slope,
        bounds=bounds,
        confidence=confidence,
        contrasts=contrasts,
        on_unseen=on_unseen,
    )


def _correct(problem: ProjectionProblem, cells: Cells) -> AffineCorrection:
    """Shifts per cell; with slopes when a criterion is conditioned on the label, which a row does not bring along."""
    problem = ensure_feasible(problem)
    if any(LABEL in criterion.given for criterion in problem.system.named):
        correction = solve_affine(problem, cells)
        _check_order(correction, cells)
        return correction
    solution = solve(problem)
    shift = -(problem.system.matrix.T @ solution.duals) / problem.system.safe_weight
    return AffineCorrection(shift, np.zeros_like(shift), solution.scores.numpy())


def _check_order(correction: AffineCorrection, cells: Cells) -> None:
    reversed_cells = np.flatnonzero(1.0 + correction.slope <= 0.0)
    if reversed_cells.size:
        table = cells.table
        name = " × ".join(str(table.value(int(reversed_cells[0]), column)) for column in table.names)
        raise InfeasibleError(
            f"the smallest correction that meets the criteria without labels reverses the order of the scores "
            f"of {name}; raise the tolerances, or tune a head for these criteria first"
        )


@dataclass(frozen=True, eq=False)
class _GuaranteeSearch:
    """Tighten the tolerances by the margins of the corrected scores until both agree."""

    problem: ProjectionProblem
    cells: Cells
    labels: FloatArray | None
    confidence: float
    on_insufficient: OnInsufficient
    seed: int

    def run(self) -> tuple[AffineCorrection, tuple[ContrastGuarantee, ...]]:
        """The correction and what it guarantees."""
        system = self.problem.system
        self._check_missing(system)
        margin = np.zeros(system.contrasts.n_contrasts)
        for _ in range(MAX_ROUNDS):
            tightened = replace(self.problem, system=replace(system, margin=margin, layouts={}))
            correction = _correct(tightened, self.cells)
            wanted, rows = self._margins(correction.scores)
            self._check_sufficient(wanted)
            usable = np.where(wanted <= system.tolerance, wanted, system.tolerance)
            if (usable <= margin).all():
                return correction, self._report(margin, wanted, rows)
            # a little more than wanted, because the next correction has slightly different margins
            margin = np.where(usable > margin, np.minimum(usable * 1.01, system.tolerance), margin)
        raise SolverError("the margins of the guarantee did not settle; raise the tolerances")

    def _margins(self, corrected: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Half-width of every simultaneous interval (infinite for too small a group), and the smaller group's rows."""
        system = self.problem.system
        weights = None if self.problem.weights is None else self.problem.weights.numpy()
        moments = Moments.from_rows(corrected, system.known_cells, labels=self.labels, weights=weights)
        events = estimate_events(moments, system.contrasts)
        gaps = estimate_gaps(events, system.contrasts, confidence=self.confidence, seed=self.seed)
        half = np.where(gaps.adequate, gaps.margin, np.inf)
        return half, system.contrasts.contrast_min(events.count)

    def _check_missing(self, system: ConstraintSystem) -> None:
        missing = system.contrasts.missing
        if missing and self.on_insufficient == "raise":
            names = ", ".join(f"{event.group_name} {event.stratum_name}".strip() for event in missing[:5])
            raise InsufficientDataError(f"no calibration rows for {names}; nothing can be guaranteed for them")

    def _check_sufficient(self, wanted: FloatArray) -> None:
        system = self.problem.system
        short = np.flatnonzero(wanted > system.tolerance)
        if not short.size or self.on_insufficient == "equalize":
            return
        events = np.bincount(system.index)
        needed = {system.contrasts.describe(int(k)): self._rows_needed(int(k), wanted) for k in short}
        known = {name: rows for name, rows in needed.items() if rows is not None}
        worst = system.contrasts.describe(int(short[np.argmax(wanted[short])]))
        raise InsufficientDataError(
            f"{int(events.sum())} rows cannot guarantee {len(short)} of {len(wanted)} gaps "
            f"at confidence {self.confidence:g} (widest margin: {worst}); rows of the smaller group needed: "
            + "; ".join(f"{name}: {rows}" for name, rows in list(known.items())[:5])
            + ". Bring more rows, raise the tolerance, or pass on_insufficient='equalize'",
            rows_needed=known,
        )

    def _rows_needed(self, contrast: int, wanted: FloatArray) -> int | None:
        system = self.problem.system
        tolerance = float(system.tolerance[contrast])
        if tolerance == 0 or not np.isfinite(wanted[contrast]):
            return None
        weight = system.contrasts.cell_event @ np.bincount(system.index, minlength=len(system.cell_weight))
        rows = float(system.contrasts.contrast_min(weight.astype(np.float64))[contrast])
        return int(np.ceil(rows * (wanted[contrast] / tolerance) ** 2))

    def _report(self, margin: FloatArray, wanted: FloatArray, rows: FloatArray) -> tuple[ContrastGuarantee, ...]:
        """One entry per contrast, and one per group without rows: what was not seen is never guaranteed."""
        system = self.problem.system
        contrasts = system.contrasts
        unseen = []
        for event in contrasts.missing:
            criterion, name = system.named[event.criterion], f"{event.group_name} {event.stratum_name}".strip()
            epsilon = criterion.tolerance
            unseen.append(ContrastGuarantee(f"{name} (no rows)", criterion.name, epsilon, None, epsilon, False, None))
        return *unseen, *(
            ContrastGuarantee(
                name=contrasts.describe(k),
                criterion=system.named[contrasts.criterion[k]].name,
                tolerance=float(system.tolerance[k]),
                margin=float(wanted[k]) if np.isfinite(wanted[k]) else None,
                enforced_tolerance=float(max(system.tolerance[k] - margin[k], 0.0)),
                guaranteed=bool(wanted[k] <= system.tolerance[k]),
                rows_needed=None if wanted[k] <= system.tolerance[k] else self._rows_needed(k, wanted),
            )
            for k in range(len(rows))
        )


def _clip(values: FloatArray, bounds: tuple[float | None, float | None] | None) -> FloatArray:
    return values if bounds is None else np.clip(values, *bounds)


def _check_scalar_bounds(bounds: Any) -> Any:
    if bounds is not None and any(np.ndim(bound) for bound in bounds):
        raise InputError(
            "bounds must be two numbers here: a correction that is applied row by row has no bound per row"
        )
    return bounds


def _from_dict(content: dict[str, Any]) -> Calibration:
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema is {content['schema']!r}")
    cells = content["cells"]
    return Calibration(
        criteria=tuple(Criterion.from_dict(entry) for entry in content["criteria"]),
        columns=tuple(content["columns"]),
        cells=tuple(tuple(entry["cell"]) for entry in cells),
        counts=tuple(entry["count"] for entry in cells),
        shift=np.array([entry["shift"] for entry in cells], dtype=np.float64),
        slope=np.array([entry["slope"] for entry in cells], dtype=np.float64),
        bounds=None if content["bounds"] is None else (content["bounds"][0], content["bounds"][1]),
        confidence=content["confidence"],
        contrasts=tuple(ContrastGuarantee(**entry) for entry in content["contrasts"]),
        on_unseen=content["on_unseen"],
    )
