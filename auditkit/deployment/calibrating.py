"""`calibrate`: turn the projection into corrections that are applied row by row, with a guarantee for the population.

The corrections are found once on held-out rows. Labels are read there only: criteria that are conditioned on the
label get an affine correction (β ≠ 0) per group, all others a shift. With a confidence, every tolerance is tightened
by the half-width of a simultaneous interval (see `auditkit.deployment.guarantee`). The interval is asymptotic, and so
is the guarantee. See docs/deployment.md for what it means and where it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from auditkit._typing import FloatArray, VectorLike
from auditkit._validation import check_probability, check_vector
from auditkit.clusters import check_clusters
from auditkit.constraints import ConstraintSystem, build_constraints, check_row_inputs, membership_of
from auditkit.contrasts import Contrasts, compile_contrasts
from auditkit.criteria import Criterion, check_criteria, columns_of
from auditkit.deployment.calibration import Calibration
from auditkit.deployment.guarantee import ContrastGuarantee, GuaranteeSearch, OnInsufficient
from auditkit.deployment.lookup import OnUnseen, check_choice, values_of
from auditkit.errors import InfeasibleError, InputError
from auditkit.groups import LABEL, Cells, CellTable, Groups
from auditkit.moments import Moments
from auditkit.observations import take_moments
from auditkit.projection import ProjectionProblem, build_problem
from auditkit.solvers import solve
from auditkit.solvers.affine import AffineCorrection, solve_affine
from auditkit.solvers.feasibility import ensure_feasible


def calibrate(
    scores: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    weights: VectorLike | None = None,
    clusters: VectorLike | None = None,
    bounds: tuple[float | None, float | None] | None = None,
    confidence: float | None = None,
    on_insufficient: OnInsufficient = "raise",
    on_unseen: OnUnseen = "raise",
    seed: int = 0,
) -> Calibration:
    """Find row-by-row corrections on held-out rows that enforce the criteria.

    Args:
        scores: z, shape (n,), of rows that the model was not trained on.
        groups: Attributes of the same rows. Where some are inferred, a row is corrected by the expectation of the
            correction under its probabilities, and the guarantee is about the probability-weighted gaps.
        criteria: What to enforce.
        labels: y, shape (n,); needed here, never later, by EER and by criteria given the label.
        weights: Row weights, shape (n,).
        clusters: Whom each row is of, shape (n,), where several rows are of one person: the margins are then those of
            persons drawn from the population, and so are the numbers of them that would do.
        bounds: (lb, ub), numbers or None.
        confidence: Joint probability with which the population gaps shall be within ε; None takes no margin off.
        on_insufficient: When the margin of a contrast exceeds its ε: "raise", or "equalize" to enforce a gap of zero on
            the calibration rows for that contrast and mark it as not guaranteed.
        on_unseen: What `Calibration.apply` does with combinations that these rows do not hold: "raise" or "keep".
        seed: Seed of the simulation that sets the margins.

    Returns:
        The calibration.

    Raises:
        InputError: Wrong shapes, NaN, labels missing, or inferred attributes with a criterion given the label.
        InsufficientDataError: Too few rows (or persons) for the guarantee; says how many would do.
        InfeasibleError: No such correction satisfies the criteria.
        SolverError: The corrections did not converge.
    """
    listed = check_criteria(criteria)
    check_choice("on_unseen", on_unseen, ("raise", "keep"))
    check_choice("on_insufficient", on_insufficient, ("raise", "equalize"))
    y, w = check_row_inputs(groups, listed, labels, weights)
    codes = check_clusters(clusters, n_rows=groups.n_rows)
    z = torch.as_tensor(check_vector("scores", scores, n_rows=groups.n_rows))
    columns = tuple(name for name in columns_of(listed) if name != LABEL)
    inferred = tuple(name for name in columns if name in groups.inferred)
    _check_inferred(inferred, listed)
    system = build_constraints(groups, listed, labels=y, weights=w)
    problem = build_problem(z, system, weights=w, bounds=_check_scalar_bounds(bounds))
    observed = groups.soft_cells(columns) if inferred else groups.cells(columns)

    def correct(tightened: ConstraintSystem) -> tuple[AffineCorrection, FloatArray]:
        found = _correct(replace(problem, system=tightened), observed if isinstance(observed, Cells) else None)
        return found, found.scores

    def measure(corrected: FloatArray) -> tuple[Moments, Contrasts]:
        if isinstance(observed, Cells):
            return (
                Moments.from_rows(corrected, system.known_cells, labels=y, weights=w, clusters=codes), system.contrasts
            )  # fmt: skip
        moments = take_moments(corrected, groups, listed, labels=y, weights=w, clusters=codes)
        return moments, compile_contrasts(listed, moments.table)

    contrasts: tuple[ContrastGuarantee, ...] = ()
    if confidence is None:
        correction, _ = correct(system)
    else:
        check_probability("confidence", confidence)
        search = GuaranteeSearch(system, correct, measure, confidence, on_insufficient, seed, codes)
        correction, contrasts = search.run()
    return Calibration(
        criteria=listed, columns=columns, cells=values_of(observed.table, columns), counts=_counts(observed),
        shift=correction.shift, slope=correction.slope, bounds=bounds, confidence=confidence, contrasts=contrasts,
        on_unseen=on_unseen, inferred=inferred,
    )  # fmt: skip


def _counts(observed: Any) -> tuple[float, ...]:
    """Rows per cell, whole numbers where every row lies in one."""
    if isinstance(observed, Cells):
        return tuple(np.bincount(observed.index, minlength=observed.table.n_cells).tolist())
    return tuple(np.asarray(membership_of(observed).sum(axis=0)).tolist())


def _correct(problem: ProjectionProblem, cells: Cells | None) -> AffineCorrection:
    """Shifts per cell; with slopes when a criterion is conditioned on the label, which a row does not bring along."""
    problem = ensure_feasible(problem)
    if cells is not None and any(LABEL in criterion.given for criterion in problem.system.named):
        correction = solve_affine(problem, cells)
        _check_order(correction, cells.table)
        return correction
    solution = solve(problem)
    shift = -(problem.system.matrix.T @ solution.duals) / problem.system.safe_weight
    return AffineCorrection(shift, np.zeros_like(shift), solution.scores.numpy())


def _check_order(correction: AffineCorrection, table: CellTable) -> None:
    reversed_cells = np.flatnonzero(1.0 + correction.slope <= 0.0)
    if reversed_cells.size:
        name = " × ".join(str(table.value(int(reversed_cells[0]), column)) for column in table.names)
        raise InfeasibleError(
            f"the smallest correction that meets the criteria without labels reverses the order of the scores "
            f"of {name}; raise the tolerances, or tune a head for these criteria first"
        )


def _check_inferred(inferred: tuple[str, ...], criteria: Sequence[Criterion]) -> None:
    conditioned = [criterion.name for criterion in criteria if LABEL in criterion.given]
    if inferred and conditioned:
        raise InputError(
            f"{conditioned[0]} is conditioned on the label, and its corrections need known groups; "
            f"{inferred[0]!r} is known by its probabilities only: pass its values, or tune a head for this criterion"
        )


def _check_scalar_bounds(bounds: Any) -> Any:
    if bounds is not None and any(np.ndim(bound) for bound in bounds):
        raise InputError(
            "bounds must be two numbers here: a correction that is applied row by row has no bound per row"
        )
    return bounds
