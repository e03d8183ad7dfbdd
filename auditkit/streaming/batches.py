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
from auditkit.categories import MISSING
from auditkit.errors import InputError, SchemaError
from auditkit.groups import Groups
from auditkit.streaming.state import Key

LARGEST_SCORE = 1e100
"""Beyond it the squares of scores would not be finite."""

GroupsLike = Groups | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class StreamBatch:
    """One batch, checked.

    Attributes:
        scores: z, shape (n,).
        keys: The cells that occur, one value per column, in the order of their first rows.
        index: Position of every row's cell in ``keys``, shape (n,); None for a single row.
    """

    scores: FloatArray
    keys: tuple[Key, ...]
    index: IntArray | None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.scores)

    def fingerprint(self) -> str:
        """SHA-256 of the scores and the cells, by which a repeated request is recognised."""
        digest = hashlib.sha256(self.scores.tobytes())
        digest.update(repr(self.keys).encode())
        if self.index is not None:
            digest.update(self.index.astype("<i8", copy=False).tobytes())
        return digest.hexdigest()

    def cell_index(self) -> IntArray:
        """Position of every row's cell in ``keys``, shape (n,)."""
        return np.zeros(len(self.scores), dtype=np.int64) if self.index is None else self.index

    def places(self) -> list[int]:
        """The same as plain numbers."""
        return [0] * len(self.scores) if self.index is None else self.index.tolist()


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
        groups = {name: groups.values(name) for name in columns}
    lists = [_column(groups, name) for name in columns]
    values = _read_scores(scores)
    for name, column in zip(columns, lists, strict=True):
        if len(column) != len(values):
            raise InputError(f"groups[{name!r}] must have {len(values)} values, one per score; got {len(column)}")
    if not len(values):
        raise InputError("scores is empty; a batch needs at least one row")
    if len(values) == 1:
        return StreamBatch(values, (tuple([_plain(name, c[0]) for name, c in zip(columns, lists, strict=True)]),), None)
    keys, index = _find_cells(lists, columns)
    return StreamBatch(values, keys, index)


def _read_scores(scores: VectorLike) -> FloatArray:
    if type(scores) is list and len(scores) == 1 and type(scores[0]) is float and abs(scores[0]) <= LARGEST_SCORE:
        return np.array(scores)  # what services send most, without four calls of NumPy
    values = scores if isinstance(scores, np.ndarray) else np.asarray(scores, dtype=object if scores is None else None)
    if values.ndim != 1 or values.dtype != np.float64 or not len(values) or not np.abs(values).max() <= LARGEST_SCORE:
        return _check_scores(scores)
    return values


def _check_scores(scores: VectorLike) -> FloatArray:
    values = check_vector("scores", scores)
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
    if isinstance(column, np.ndarray):
        return column.tolist()
    return column if isinstance(column, list | tuple) else list(column)


def _find_cells(lists: list[Any], columns: Sequence[str]) -> tuple[tuple[Key, ...], IntArray]:
    """The combinations of values that occur, and which one every row has."""
    alone = len(columns) == 1
    rows = lists[0] if alone else list(zip(*lists, strict=True))
    try:
        seen = {row: place for place, row in enumerate(dict.fromkeys(rows))}
        index = np.fromiter(map(seen.__getitem__, rows), dtype=np.int64, count=len(rows))
    except TypeError:  # a value that cannot be a key: say which
        for name, column in zip(columns, lists, strict=True):
            for value in column:
                _plain(name, value)
        raise
    keys = [tuple(map(_plain, columns, (row,) if alone else row)) for row in seen]
    if len(set(keys)) == len(keys):
        return tuple(keys), index
    merged = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    # every NaN is another value, and all of them are one group
    return tuple(merged), np.array([merged[key] for key in keys], dtype=np.int64)[index]


def _plain(name: str, value: Any) -> Any:
    """A group value as JSON knows it; missing values are a group of their own, as in `Groups`."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, str | int | float):
        if not isinstance(value, float):
            return value
        if not math.isfinite(value):
            raise InputError(f"groups[{name!r}] holds {value!r}; a group is named by a finite number or text")
        return int(value) if value.is_integer() else value  # as `Groups` calls it, however the column is stored
    if type(value).__name__ in ("NAType", "NaTType"):
        return MISSING
    raise InputError(
        f"groups[{name!r}] holds {value!r}, of type {type(value).__name__}; a stream keeps text, numbers and truth "
        "values; convert it to text"
    )
