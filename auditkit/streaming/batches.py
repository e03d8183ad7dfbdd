"""The rows of one request as the stream sees them: scores, and which cell each row is in."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import check_vector
from auditkit.errors import InputError, SchemaError
from auditkit.groups import MISSING, Groups, object_array
from auditkit.streaming.state import Key

_FEW_ROWS = 32
"""Up to this many rows a dictionary finds the cells faster than sorting."""

LARGEST_SCORE = 1e100
"""Beyond it the squares of scores would not be finite."""

GroupsLike = Groups | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class StreamBatch:
    """One batch, checked.

    Attributes:
        scores: z, shape (n,).
        keys: The cells that occur, one value per column.
        members: The rows of every cell, in order; None for a single row.
    """

    scores: FloatArray
    keys: tuple[Key, ...]
    members: tuple[IntArray, ...] | None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.scores)

    def fingerprint(self) -> str:
        """SHA-256 of the scores and the cells, by which a repeated request is recognised."""
        digest = hashlib.sha256(np.ascontiguousarray(self.scores).tobytes())
        digest.update(repr(self.keys).encode())
        for rows in self.members or ():
            digest.update(np.ascontiguousarray(rows, dtype="<i8").tobytes() + b"|")
        return digest.hexdigest()

    def cell_index(self) -> IntArray:
        """Position of every row's cell in ``keys``, shape (n,)."""
        index = np.zeros(len(self.scores), dtype=np.int64)
        for position, rows in enumerate(self.members or ()):
            index[rows] = position
        return index


def make_batch(scores: VectorLike, groups: GroupsLike, columns: Sequence[str]) -> StreamBatch:
    """Check one batch.

    Args:
        scores: z, shape (n,), at least one row.
        groups: The attributes of the rows: `Groups`, or a mapping of column name to one value per row.
        columns: The columns that the stream's criteria look at.

    Returns:
        The batch; its cells are in the order in which they first occur.

    Raises:
        InputError: No rows, NaN, columns of other lengths, or values that are no text, number or truth value.
        SchemaError: A column is missing.
    """
    if isinstance(groups, Groups):
        return _from_groups(_check_scores(scores, n_rows=groups.n_rows), groups, columns)
    lists = [_column(groups, name) for name in columns]
    values = scores if isinstance(scores, np.ndarray) else np.asarray(scores, dtype=object if scores is None else None)
    if values.ndim != 1 or values.dtype != np.float64 or not len(values) or not np.abs(values).max() <= LARGEST_SCORE:
        values = _check_scores(scores)
    for name, column in zip(columns, lists, strict=True):
        if len(column) != len(values):
            raise InputError(f"groups[{name!r}] must have {len(values)} values, one per score; got {len(column)}")
    if not len(values):
        raise InputError("scores is empty; a batch needs at least one row")
    if len(values) == 1:
        return StreamBatch(
            values, (tuple(_plain(name, column[0]) for name, column in zip(columns, lists, strict=True)),), None
        )
    if len(values) <= _FEW_ROWS:
        return _from_few(values, lists, columns)
    plain = {name: object_array(column) for name, column in zip(columns, lists, strict=True)}  # 1 and "1" stay apart
    return _from_groups(values, Groups(plain), columns)


def _check_scores(scores: VectorLike, *, n_rows: int | None = None) -> FloatArray:
    values = check_vector("scores", scores, n_rows=n_rows)
    if len(values) and np.abs(values).max() > LARGEST_SCORE:
        raise InputError(f"scores must lie within ±{LARGEST_SCORE:g}; got {values[np.abs(values).argmax()]:g}")
    return values


def _column(groups: Mapping[str, Any], name: str) -> Any:
    try:
        column = groups[name]
    except (KeyError, TypeError) as error:
        has = ", ".join(map(repr, groups)) if isinstance(groups, Mapping) else type(groups).__name__
        raise SchemaError(f"groups has no attribute {name!r}; it has {has}") from error
    if isinstance(column, str) or not hasattr(column, "__len__"):
        raise InputError(f"groups[{name!r}] must be a list with one value per score; got {column!r}")
    return column if isinstance(column, list | tuple | np.ndarray) else list(column)


def _from_few(values: FloatArray, lists: list[Any], columns: Sequence[str]) -> StreamBatch:
    members: dict[Key, list[int]] = {}
    plain = [[_plain(name, value) for value in column] for name, column in zip(columns, lists, strict=True)]
    for row, key in enumerate(zip(*plain, strict=True)):
        members.setdefault(key, []).append(row)
    return StreamBatch(values, tuple(members), tuple(np.array(rows, dtype=np.int64) for rows in members.values()))


def _from_groups(values: FloatArray, groups: Groups, columns: Sequence[str]) -> StreamBatch:
    if not len(values):
        raise InputError("scores is empty; a batch needs at least one row")
    cells = groups.cells(tuple(columns))
    index, table = cells.index, cells.table
    order = np.argsort(index, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(index, minlength=table.n_cells))[:-1])
    keys = [tuple(_plain(name, table.value(cell, name)) for name in columns) for cell in range(table.n_cells)]
    if len(values) == 1:
        return StreamBatch(values, tuple(keys), None)
    first = sorted(range(len(keys)), key=lambda cell: int(rows[cell][0]))
    return StreamBatch(values, tuple(keys[cell] for cell in first), tuple(rows[cell] for cell in first))


def _plain(name: str, value: Any) -> Any:
    """A group value as JSON knows it; missing values are a group of their own, as in `Groups`."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, str | int | float):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"groups[{name!r}] holds {value!r}; a group is named by a finite number or text")
        return value
    raise InputError(
        f"groups[{name!r}] holds {value!r}, of type {type(value).__name__}; a stream keeps text, numbers and truth "
        "values; convert it to text"
    )
