"""The constraints L ≤ T·u ≤ U of one batch, assembled from the criteria; u are the moments of `moment_maps`.

Source: arXiv 2605.17118, the fairness layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import check_vector, check_weights
from auditkit.affine_criteria import AffineCriterion, AnyCriterion
from auditkit.contrasts import Contrasts, compile_contrasts, find_common
from auditkit.criteria import Criterion, columns_of
from auditkit.errors import InputError
from auditkit.groups import Cells, CellTable, Groups, SoftCells
from auditkit.moment_maps import ALONE, CellMap, Collective, MatrixMap


@dataclass(frozen=True, eq=False)
class ConstraintSystem:
    """The constraints L ≤ T·u ≤ U of one batch.

    The moments u are the cell means, followed by A·y of the affine criteria.

    Attributes:
        criteria: What the constraints come from.
        cells: The cell of every row, or the shares of every row in the cells.
        contrasts: What the first rows of ``matrix`` compare; the rows after them belong to affine criteria.
        cell_weight: Total row weight of every cell, shape (c,).
        target: What every contrast is compared with, shape (contrasts,): zero for ECP, label contrasts for EER.
        label_mean: Mean label of every cell, shape (c,) or (c, k); None where no labels were given.
        columns: Outputs per row that are constrained together; 1 unless rows are probabilities of k classes.
        collective: What adds up over the processes that share the batch.
        relaxation: Added to every tolerance; zero unless the caller asked for the least-violating point.
        margin: Taken off the tolerances, shape (m,); None takes nothing off.
        layouts: What the paths to the solution derived from the constraints, kept for the next batch.
    """

    criteria: tuple[AnyCriterion, ...]
    cells: Cells | SoftCells
    contrasts: Contrasts
    cell_weight: FloatArray
    target: FloatArray
    label_mean: FloatArray | None = None
    columns: int = 1
    collective: Collective = ALONE
    relaxation: float = 0.0
    margin: FloatArray | None = None
    layouts: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def affine(self) -> tuple[AffineCriterion, ...]:
        """The affine criteria, in order."""
        return tuple(criterion for criterion in self.criteria if isinstance(criterion, AffineCriterion))

    @cached_property
    def is_cellwise(self) -> bool:
        """Whether every row lies in one cell and nothing but cell means is constrained."""
        return isinstance(self.cells, Cells) and not self.affine

    @property
    def known_cells(self) -> Cells:
        """The cells where every row lies in one."""
        assert isinstance(self.cells, Cells)
        return self.cells

    @property
    def index(self) -> IntArray:
        """Cell of every row, shape (n,), where every row lies in one."""
        return self.known_cells.index

    @property
    def named(self) -> tuple[Criterion, ...]:
        """The criteria about groups, in order."""
        return self.contrasts.criteria

    @cached_property
    def owner(self) -> IntArray:
        """Position of the criterion of every constraint, shape (m,)."""
        named = [k for k, criterion in enumerate(self.criteria) if isinstance(criterion, Criterion)]
        own = [k for k, criterion in enumerate(self.criteria) if isinstance(criterion, AffineCriterion)]
        rows = [np.asarray(named, dtype=np.int64)[self.contrasts.criterion]] if named else []
        rows += [np.full(criterion.n_constraints, k) for k, criterion in zip(own, self.affine, strict=True)]
        return np.repeat(np.concatenate([np.zeros(0, np.int64), *rows]), self.columns)

    @cached_property
    def matrix(self) -> FloatArray:
        """T, shape (m, q)."""
        weight = self.cell_weight
        contrast = self.contrasts.contrast(self.contrasts.event_mean_matrix(weight))
        extra = sum(criterion.n_constraints for criterion in self.affine)
        rows, columns = contrast.shape
        matrix = np.zeros((rows + extra, columns + extra))
        matrix[:rows, :columns] = contrast
        matrix[rows:, columns:] = np.eye(extra)
        return matrix if self.columns == 1 else np.asarray(np.kron(matrix, np.eye(self.columns)), dtype=np.float64)

    @cached_property
    def tolerance(self) -> FloatArray:
        """ε of every contrast with the relaxation added and the margin taken off, shape (contrasts,)."""
        tolerance = np.repeat(self.contrasts.tolerance + self.relaxation, self.columns)
        return tolerance if self.margin is None else np.maximum(tolerance - self.margin[: len(tolerance)], 0.0)

    @cached_property
    def uniform_tolerance(self) -> float | None:
        """The one tolerance that all contrasts have; None where they differ, 0 where there are none."""
        if self.margin is None and self.relaxation == 0.0:
            return self.contrasts.uniform_tolerance  # found once for all batches with these cells
        return find_common(self.tolerance)

    @cached_property
    def safe_weight(self) -> FloatArray:
        """Total row weight of every cell, 1 where it is zero, so that it can be divided by; shape (c,)."""
        occurs = self.cell_weight > 0
        return self.cell_weight if occurs.all() else np.where(occurs, self.cell_weight, 1.0)

    @cached_property
    def lower(self) -> FloatArray:
        """L, shape (m,)."""
        return np.concatenate([self.target - self.tolerance, self._sides("lower", -1.0)])

    @cached_property
    def upper(self) -> FloatArray:
        """U, shape (m,)."""
        return np.concatenate([self.target + self.tolerance, self._sides("upper", 1.0)])

    def _sides(self, side: str, outwards: float) -> FloatArray:
        """One side of the affine criteria, moved out by the relaxation and in by the margin, at most to the middle."""
        if not self.affine:
            return np.zeros(0)
        values = np.repeat(np.concatenate([getattr(c, side) for c in self.affine]), self.columns)
        move = np.full(len(values), self.relaxation)
        if self.margin is not None:
            width = np.concatenate([c.upper - c.lower for c in self.affine])
            move -= np.minimum(self.margin[len(self.tolerance) :], np.repeat(width, self.columns) / 2)
        return values + outwards * move

    def describe(self, constraint: int) -> str:
        """One constraint in words."""
        row, column = divmod(constraint, self.columns)
        words = self.describe_all_columns(row)
        return words if self.columns == 1 else f"{words} (class {column})"

    def describe_all_columns(self, row: int) -> str:
        """One row of the constraints of a single column in words."""
        if row < self.contrasts.n_contrasts:
            return self.contrasts.describe(row)
        row -= self.contrasts.n_contrasts
        for criterion in self.affine:
            if row < criterion.n_constraints:
                return f"{criterion.name}[{row}]"
            row -= criterion.n_constraints
        raise IndexError(row)

    @cached_property
    def strata(self) -> tuple[tuple[int, ...], ...] | None:
        """The cells that stand together, where one criterion compares single cells at one tolerance; else None.

        Then the projection without bounds has a closed form.
        """
        plain = len(self.criteria) == 1 and self.is_cellwise and self.columns == 1
        return self.contrasts.strata if plain and self.uniform_tolerance is not None else None

    def moment_map(self, weights: FloatArray | None, device: torch.device) -> CellMap | MatrixMap:
        """B of one column for these rows, on a device."""
        weight = None if weights is None else torch.as_tensor(weights, device=device)
        if self.is_cellwise:
            return CellMap(self.known_cells.index_on(device), self.safe_weight, weight, self.collective)
        if weights is not None and (weights == 0).any():
            raise InputError(
                "with probabilities or affine criteria, weights must be positive; drop the rows of weight 0"
            )
        return MatrixMap(self.moment_matrix(weights), device, weight, self.collective)

    def moment_matrix(self, weights: FloatArray | None) -> csr_array:
        """B of one column as a matrix, shape (q, n)."""
        share = membership_of(self.cells).T
        means = csr_array(share if weights is None else share * weights) / self.safe_weight[:, None]
        return csr_array(vstack([means, *(criterion.matrix for criterion in self.affine)], format="csr"))


def membership_of(cells: Cells | SoftCells) -> csr_array:
    """Share of every row in every cell, shape (n, c)."""
    if isinstance(cells, SoftCells):
        return cells.membership
    n_rows = len(cells.index)
    return csr_array((np.ones(n_rows), (np.arange(n_rows), cells.index)), shape=(n_rows, cells.table.n_cells))


def build_constraints(
    groups: Groups,
    criteria: Sequence[AnyCriterion],
    *,
    labels: FloatArray | None = None,
    weights: FloatArray | None = None,
    collective: Any = None,
) -> ConstraintSystem:
    """Assemble the constraints of one batch.

    Args:
        groups: Attributes of the n rows.
        criteria: The criteria.
        labels: Labels, shape (n,); needed by EER and by criteria given the label.
        weights: Row weights, shape (n,).
        collective: What adds up over processes and aligns their cells; None when this process has all rows.

    Returns:
        The constraints; contrasts with a group that has no row in the batch are left out, since it has no mean.

    Raises:
        InputError: Labels are needed and were not given, or an affine criterion is about another number of rows.
        SchemaError: A criterion names a column that groups does not have.
    """
    require_labels(criteria, labels)
    named = [criterion for criterion in criteria if isinstance(criterion, Criterion)]
    _check_rows(criteria, groups.n_rows)
    cells = _cross(groups, columns_of(named), labels)
    if collective is not None:
        cells = collective.align(cells)
    summed = collective or ALONE
    cell_weight = summed.sum(_cell_sums(cells, weights))
    contrasts = compile_contrasts(named, cells.table, cell_weights=cell_weight)
    target = np.zeros(contrasts.n_contrasts)
    system = ConstraintSystem(tuple(criteria), cells, contrasts, cell_weight, target, collective=summed)
    return system if labels is None else with_labels(system, labels, weights=weights)


def with_labels(system: ConstraintSystem, labels: FloatArray, *, weights: FloatArray | None = None) -> ConstraintSystem:
    """The constraints with residuals taken from other labels.

    Args:
        system: The constraints of one column.
        labels: Labels, shape (n,), or (n, k) for k columns that are constrained together.
        weights: Row weights, shape (n,).
    """
    mass = labels if weights is None else (labels.T * weights).T
    sums = system.collective.sum(_cell_sums(system.cells, mass))
    means = (sums.T / system.safe_weight).T
    contrasts = system.contrasts
    target = contrasts.contrast(contrasts.event_mean_matrix(system.cell_weight)) @ means
    target = (target.T * contrasts.residual).T
    columns = 1 if labels.ndim == 1 else labels.shape[1]
    return replace(system, target=target.ravel(), label_mean=means, columns=columns, layouts={})


def split_columns(
    system: ConstraintSystem, columns: int, *, labels: FloatArray | None, weights: FloatArray | None
) -> list[ConstraintSystem]:
    """The constraints of every column of (n, k) scores, for columns that do not constrain each other.

    Args:
        system: The constraints of one column.
        columns: k.
        labels: Labels of every column, shape (n, k), where residuals are constrained.
        weights: Row weights, shape (n,).
    """
    if labels is None:
        return [system] * columns
    return [with_labels(system, np.ascontiguousarray(column), weights=weights) for column in labels.T]


def join_columns(
    system: ConstraintSystem, columns: int, *, labels: FloatArray | None, weights: FloatArray | None
) -> ConstraintSystem:
    """The constraints of all columns of (n, k) scores at once, for rows whose columns depend on each other."""
    if labels is not None:
        return with_labels(system, labels, weights=weights)
    return replace(system, target=np.repeat(system.target, columns), columns=columns, layouts={})


def _cross(groups: Groups, columns: tuple[str, ...], labels: FloatArray | None) -> Cells | SoftCells:
    if not columns:  # affine criteria alone look at no cells
        return Cells(CellTable((), np.zeros((1, 0), np.int64), ()), np.zeros(groups.n_rows, dtype=np.int64))
    if any(name in groups.inferred for name in columns):
        return groups.soft_cells(columns, labels=labels)
    return groups.cells(columns, labels=labels)


def _cell_sums(cells: Cells | SoftCells, values: FloatArray | None) -> FloatArray:
    """Sum over every cell of a row quantity, shape (n,) or (n, k); of 1 where none is given."""
    if isinstance(cells, SoftCells):
        return np.asarray(cells.membership.T @ (np.ones(cells.n_rows) if values is None else values))
    if values is not None and values.ndim == 2:
        return np.stack([_cell_sums(cells, np.ascontiguousarray(column)) for column in values.T], axis=1)
    return np.bincount(cells.index, weights=values, minlength=cells.table.n_cells).astype(np.float64)


def _check_rows(criteria: Sequence[AnyCriterion], n_rows: int) -> None:
    for criterion in criteria:
        if isinstance(criterion, AffineCriterion) and criterion.matrix.shape[1] != n_rows:
            raise InputError(
                f"the matrix of {criterion.name!r} has {criterion.matrix.shape[1]} columns, one per row of scores, "
                f"but groups has {n_rows} rows"
            )


def measure_gaps(
    scores: VectorLike,
    groups: Groups,
    criteria: Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    weights: VectorLike | None = None,
) -> dict[str, float]:
    """The largest absolute gap of every criterion on these rows, without intervals.

    Args:
        scores: z, shape (n,).
        groups: Attributes of the same rows.
        criteria: The criteria.
        labels: y, shape (n,), where a criterion needs them.
        weights: Row weights, shape (n,).

    Returns:
        Criterion name → gap in score units; NaN where no two groups could be compared.
    """
    z = check_vector("scores", scores, n_rows=groups.n_rows)
    y, w = check_row_inputs(groups, criteria, labels, weights)
    system = build_constraints(groups, criteria, labels=y, weights=w)
    means = system.moment_map(w, torch.device("cpu")).collect(torch.from_numpy(z))
    gaps = np.abs(system.matrix @ means - system.target)
    owner = system.owner
    return {c.name: float(gaps[owner == k].max(initial=-np.inf)) if (owner == k).any() else float("nan")
            for k, c in enumerate(criteria)}  # fmt: skip


def require_labels(criteria: Sequence[AnyCriterion], labels: object) -> None:
    """Raise when a criterion needs labels that were not given."""
    needing = [criterion.name for criterion in criteria if criterion.needs_labels]
    if needing and labels is None:
        raise InputError(f"labels are needed by {', '.join(needing)}; pass labels=, one per row")


def check_row_inputs(
    groups: Groups, criteria: Sequence[AnyCriterion], labels: Any, weights: Any
) -> tuple[FloatArray | None, FloatArray | None]:
    """Labels and weights as checked arrays; labels only where a criterion reads them."""
    require_labels(criteria, labels)
    needed = any(criterion.needs_labels for criterion in criteria)
    checked = check_vector("labels", labels, n_rows=groups.n_rows) if needed else None
    return checked, check_weights(weights, n_rows=groups.n_rows)
