"""One batch: what callers pass, checked, and the constraints of every column of its scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditkit._typing import FloatArray, VectorLike
from auditkit._validation import check_matrix, check_vector, check_weights, to_numpy
from auditkit.affine_criteria import AnyCriterion
from auditkit.constraints import (
    ConstraintSystem,
    build_constraints,
    check_row_inputs,
    join_columns,
    require_labels,
    split_columns,
)
from auditkit.criteria import Criterion
from auditkit.errors import InputError
from auditkit.groups import LABEL, Groups


@dataclass(frozen=True, eq=False)
class Batch:
    """The constraints of one batch.

    Attributes:
        systems: One per column of the scores, or a single one over all columns where rows are probabilities.
        weights: Row weights, shape (n,); None is one for every row.
    """

    systems: tuple[ConstraintSystem, ...]
    weights: FloatArray | None


@dataclass(frozen=True, eq=False)
class BoundBatch:
    """Everything about a batch but its scores, checked and assembled once; what `FairnessLayer.bind` returns.

    Attributes:
        batch: The constraints.
        groups: The groups that they were made from; multipliers to start from are kept with them.
        columns: k of scores of shape (n, k); None for shape (n,).
    """

    batch: Batch
    groups: Groups
    columns: int | None


def assemble_batch(
    groups: Groups,
    criteria: Sequence[AnyCriterion],
    *,
    labels: Any = None,
    weights: Any = None,
    columns: int | None = None,
    simplex: bool = False,
    collective: Any = None,
) -> Batch:
    """Check labels and weights, and build the constraints.

    Args:
        groups: Attributes of the rows.
        criteria: What is enforced.
        labels: y, shape (n,); with k columns either the classes 0 … k − 1 or shape (n, k).
        weights: Row weights, shape (n,).
        columns: k of scores of shape (n, k); None for shape (n,).
        simplex: Whether all columns of a row are constrained together.
        collective: What adds up over processes.

    Returns:
        The batch.

    Raises:
        InputError: Labels missing, or of a shape that the criteria cannot use.
    """
    if columns is None:
        y, w = check_row_inputs(groups, criteria, labels, weights)
        return Batch((build_constraints(groups, criteria, labels=y, weights=w, collective=collective),), w)
    require_labels(criteria, labels)
    w = check_weights(weights, n_rows=groups.n_rows)
    classes, matrix = split_labels(criteria, labels, n_rows=groups.n_rows, columns=columns)
    system = build_constraints(groups, criteria, labels=classes, weights=w, collective=collective)
    if simplex:
        return Batch((join_columns(system, columns, labels=matrix, weights=w),), w)
    return Batch(tuple(split_columns(system, columns, labels=matrix, weights=w)), w)


def split_labels(
    criteria: Sequence[AnyCriterion], labels: Any, *, n_rows: int, columns: int
) -> tuple[FloatArray | None, FloatArray | None]:
    """Labels as strata, shape (n,), and as what every column is compared with, shape (n, k); None where not needed.

    Raises:
        InputError: Strata need one label per row; residuals need classes 0 … k − 1 or one label per column.
    """
    named = [criterion for criterion in criteria if isinstance(criterion, Criterion) and criterion.needs_labels]
    if not named:
        return None, None
    array = to_numpy(labels)
    if array.ndim == 2:
        if strata := [criterion.name for criterion in named if LABEL in criterion.given]:
            raise InputError(f"{strata[0]} needs one label per row, shape (n,); got shape {array.shape}")
        return np.zeros(n_rows), check_matrix("labels", array, shape=(n_rows, columns))
    classes = check_vector("labels", labels, n_rows=n_rows)
    if not any(criterion.family == "EER" for criterion in named):
        return classes, None
    if ((classes != np.round(classes)) | (classes < 0) | (classes >= columns)).any():
        raise InputError(
            f"labels of scores with {columns} columns must be classes 0 to {columns - 1}, or one per column, "
            f"shape ({n_rows}, {columns}); got values from {classes.min():g} to {classes.max():g}"
        )
    return classes, np.eye(columns)[classes.astype(np.int64)]


def to_scores(scores: VectorLike, groups: Groups) -> Tensor:
    """Scores of any kind as a checked tensor without gradient, shape (n,) or (n, k)."""
    if isinstance(scores, Tensor):
        check_form(scores, groups)
        check_finite(scores)
        return scores.detach()
    if not isinstance(groups, Groups):
        raise _wrong_groups(groups)
    array = to_numpy(scores)
    kept = array.dtype if array.dtype == np.float32 else np.float64
    if array.ndim == 2 and array.shape[1] > 0:
        check_vector("scores", array.ravel())
        if len(array) != groups.n_rows:
            raise InputError(f"scores must have {groups.n_rows} rows, as many as groups has; got {len(array)}")
        return torch.as_tensor(array.astype(kept))
    return torch.as_tensor(check_vector("scores", scores, n_rows=groups.n_rows).astype(kept))


class CriteriaKey:
    """Criteria as a key: hashed once, for every batch is looked up by them; equal for layers of equal criteria."""

    __slots__ = ("_hash", "criteria", "names")

    def __init__(self, criteria: tuple[AnyCriterion, ...]) -> None:
        self.criteria = criteria
        self.names = tuple(criterion.name for criterion in criteria)  # in which equal criteria may differ
        self._hash = hash(criteria)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, CriteriaKey) and self.names == other.names and self.criteria == other.criteria

    def __reduce__(self) -> tuple[Any, ...]:
        return CriteriaKey, (self.criteria,)  # texts have other hashes in another process


def check_form(scores: Tensor, groups: Groups) -> int | None:
    """Columns k of (n, k) scores, None for (n,); raises unless they are floating-point and as long as groups is."""
    if not isinstance(groups, Groups):
        raise _wrong_groups(groups)
    shape = scores.shape
    plain = len(shape) == 1 or (len(shape) == 2 and shape[1] > 0)
    if not plain or not scores.is_floating_point():
        raise InputError(
            f"scores must be floating-point of shape (n,) or (n, k); got {scores.dtype} of shape {tuple(shape)}"
        )
    if shape[0] != groups.n_rows:
        raise InputError(f"scores must have {groups.n_rows} rows, as many as groups has; got {shape[0]}")
    return shape[1] if len(shape) == 2 else None


def check_bound_form(scores: Tensor, bound: BoundBatch) -> None:
    """Raise unless the scores are of the shape that a batch was bound for."""
    columns = check_form(scores, bound.groups)
    if columns != bound.columns:
        wanted = "(n,)" if bound.columns is None else f"(n, {bound.columns})"
        raise InputError(f"scores must have shape {wanted}, for which the batch was bound; got {tuple(scores.shape)}")


def check_finite(scores: Tensor) -> None:
    """Refuse NaN and infinite scores."""
    plain = scores.detach()
    if math.isfinite(float(plain.sum(dtype=torch.float64))):  # one NaN or infinite score would spoil it
        return
    finite = torch.isfinite(plain)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite)[:, 0]
        raise InputError(
            f"scores hold {len(bad)} NaN or infinite values (first at row {int(bad[0])}); drop or mend them"
        )


def _wrong_groups(groups: object) -> InputError:
    return InputError(f'groups must be an auditkit.Groups, e.g. Groups({{"sex": sex}}); got {type(groups).__name__}')
