"""Protected attributes as integer codes, and the cells that they split the rows into."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy.sparse import csr_array, hstack

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import to_numpy
from auditkit.categories import check_shares, factorize, number_codes, object_array
from auditkit.errors import InputError, SchemaError

if TYPE_CHECKING:
    import pandas as pd
    import torch

ValueT = TypeVar("ValueT")

LABEL = "@label"
"""Name of the stratum formed by the labels, wherever a criterion is ``given`` something."""

OUTPUT = "@output"
"""Name of the column that tells the outputs of a model apart, where it has several scores per row."""

MAX_SOFT_CELLS = 10_000
MOST_TABLES = 256
"""Sets of occurring cells that are kept for the parts of the same rows."""
MOST_DERIVED = 64
"""Lists of criteria whose contrasts are kept with the cells that they compare."""


def value_in_words(value: Hashable) -> str:
    """A value of a column as reports write it; a whole number without its decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def join_values(values: Iterable[Hashable]) -> str:
    """A group of crossed columns in words, e.g. ``Female × Black``."""
    return " × ".join(map(value_in_words, values))


class Recent(dict[Any, Any]):
    """What was computed lately, by key; full, it begins anew.

    Args:
        most: Entries that are kept at most.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def keep(self, key: Hashable, value: ValueT) -> ValueT:
        """The value, kept under the key."""
        if len(self) >= self.most:
            self.clear()
        self[key] = value
        return value


@dataclass(frozen=True, eq=False)
class CellTable:
    """The combinations of attribute (and label) values that occur, without the rows.

    Attributes:
        names: The columns that were crossed, shape (a,).
        codes: Category code of every cell in every column, shape (c, a).
        categories: The values behind the codes, one tuple per column.
        derived: What others compute from these cells, kept for the next batch that has the same.
    """

    names: tuple[str, ...]
    codes: IntArray
    categories: tuple[tuple[Hashable, ...], ...]
    derived: Recent = field(default_factory=lambda: Recent(MOST_DERIVED), repr=False)

    @property
    def n_cells(self) -> int:
        """Number of cells c."""
        return len(self.codes)

    def columns(self, names: Iterable[str]) -> list[int]:
        """Positions of the named columns."""
        return [self.names.index(name) for name in names]

    def value(self, cell: int, name: str) -> Hashable:
        """Value of one column in one cell."""
        column = self.names.index(name)
        return self.categories[column][self.codes[cell, column]]

    def unions(self, names: Sequence[str]) -> tuple[list[str], FloatArray]:
        """The groups of crossed columns that occur, in words, and which cells make up which, shape (g, c)."""
        columns = self.columns(names)
        codes, index = np.unique(self.codes[:, columns], axis=0, return_inverse=True)
        words = [
            join_values([self.categories[c][k] for c, k in zip(columns, code, strict=True)]) for code in codes.tolist()
        ]
        return words, (index.reshape(-1) == np.arange(len(codes))[:, None]).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Cells:
    """Rows assigned to cells.

    Attributes:
        table: What the cells are.
        index: Cell of every row, shape (n,).
    """

    table: CellTable
    index: IntArray

    @cached_property
    def _device_index(self) -> dict[Any, Any]:
        return {}

    def index_on(self, device: torch.device) -> torch.Tensor:
        """The row-to-cell index as an int64 tensor on ``device`` (kept after the first call)."""
        import torch

        if device not in self._device_index:
            self._device_index[device] = torch.as_tensor(self.index, device=device)
        return self._device_index[device]


@dataclass(frozen=True, eq=False)
class SoftCells:
    """Rows spread over cells: what `Cells` is when an attribute is known by its probabilities only.

    Attributes:
        table: What the cells are.
        membership: Share of every row in every cell, shape (n, c), sparse; each row adds up to 1.
    """

    table: CellTable
    membership: csr_array

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return int(self.membership.shape[0])  # type: ignore[index]


class Groups:
    """The protected attributes (and legitimate strata) of n rows.

    Args:
        attributes: Column name → one hashable value per row; also a DataFrame. Missing values (None, NaN) form
            their own category ``"(missing)"``. A pandas categorical keeps categories that no row has, so that a
            group without rows is reported instead of forgotten.
        probabilities: Attributes that are inferred rather than known. Column name → probability of every group,
            shape (n, g); the columns of a DataFrame name the groups, those of an array are numbered. Where several
            such attributes are crossed, they count as independent of each other within a row.

    Raises:
        InputError: No column, columns of different lengths, values that are not one-dimensional, or probabilities
            that are negative, not finite, or do not add up to 1.
    """

    def __init__(
        self,
        attributes: Mapping[str, VectorLike] | pd.DataFrame | None = None,
        *,
        probabilities: Mapping[str, VectorLike | pd.DataFrame] | None = None,
    ) -> None:
        columns: dict[str, Any] = {} if attributes is None else {str(name): attributes[name] for name in attributes}
        inferred = dict(probabilities or {})
        if not columns and not inferred:
            raise InputError('groups needs at least one attribute; pass e.g. Groups({"sex": sex})')
        _check_names(columns, inferred)
        self._codes: dict[str, IntArray] = {}
        self._categories: dict[str, tuple[Hashable, ...]] = {}
        self._shares: dict[str, FloatArray] = {}
        self._cells: dict[tuple[str, ...], Cells] = {}
        self._tables = Recent(MOST_TABLES)
        self.derived: dict[Hashable, Any] = {}  # what others computed from the groups alone, kept for the next call
        for name, values in columns.items():
            self._codes[name], self._categories[name] = factorize(name, values)
        for name, values in inferred.items():
            self._shares[name], self._categories[name] = check_shares(name, values)
        lengths = {name: len(rows) for name, rows in (*self._codes.items(), *self._shares.items())}
        if len(set(lengths.values())) > 1:
            raise InputError(f"all attributes must have the same number of rows; got {lengths}")
        self.n_rows: int = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        columns = ", ".join(
            f"{name} ({len(c)}{', inferred' if name in self._shares else ''})" for name, c in self._categories.items()
        )
        return f"Groups(n_rows={self.n_rows}; {columns})"

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in the order given; inferred attributes last."""
        return tuple(self._categories)

    @property
    def inferred(self) -> tuple[str, ...]:
        """Names of the attributes that are known by their probabilities only."""
        return tuple(self._shares)

    def codes(self, name: str) -> IntArray:
        """Category code of every row in one column, shape (n,)."""
        self._require_known(name)
        return self._codes[name]

    def shares(self, name: str) -> FloatArray:
        """Probability of every group of an inferred attribute, shape (n, g)."""
        self._require(name)
        return self._shares[name]

    def categories(self, name: str) -> tuple[Hashable, ...]:
        """Values of one column, sorted; ``"(missing)"`` last."""
        self._require(name)
        return self._categories[name]

    def values(self, name: str) -> np.ndarray[Any, Any]:
        """One column as an object array of its values, shape (n,)."""
        return object_array(self.categories(name))[self.codes(name)]

    def take(self, rows: VectorLike, *, names: Sequence[str] | None = None) -> Groups:
        """The groups of some rows (indices or a boolean mask), with the same categories; of some columns only."""
        chosen, kept = to_numpy(rows), self.names if names is None else names
        part = object.__new__(Groups)
        part._codes = {name: codes[chosen] for name, codes in self._codes.items() if name in kept}
        part._categories = {name: known for name, known in self._categories.items() if name in kept}
        part._shares = {name: shares[chosen] for name, shares in self._shares.items() if name in kept}
        part._cells = {}
        part._tables = self._tables
        part.derived = {}
        part.n_rows = len(next(iter((*part._codes.values(), *part._shares.values()))))
        return part

    def cells(self, names: Sequence[str], *, labels: VectorLike | None = None) -> Cells:
        """Cross the named columns into the cells that occur.

        Args:
            names: Column names; may hold ``LABEL``, which stands for ``labels``.
            labels: Label of every row, shape (n,); needed only with ``LABEL``.

        Returns:
            The cells in lexicographic order of their codes.
        """
        key = tuple(dict.fromkeys(names))
        if LABEL in key:
            return self._cross(key, labels)
        if key not in self._cells:
            self._cells[key] = self._cross(key, None)
        return self._cells[key]

    def soft_cells(self, names: Sequence[str], *, labels: VectorLike | None = None) -> SoftCells:
        """Cross the named columns, inferred attributes among them, into the cells that occur with any probability.

        Args:
            names: Column names; may hold ``LABEL``, which stands for ``labels``.
            labels: Label of every row, shape (n,); needed only with ``LABEL``.

        Returns:
            The cells, and the share of every row in each of them.
        """
        key = tuple(dict.fromkeys(names))
        inferred = [name for name in key if name in self._shares]
        known = self.cells([name for name in key if name not in inferred], labels=labels)
        crossed = known.table.n_cells * math.prod(len(self._categories[name]) for name in inferred)
        if crossed > MAX_SOFT_CELLS:
            raise InputError(f"crossing {key} makes {crossed} combinations, over the {MAX_SOFT_CELLS} that "
                             "inferred attributes may have; cross fewer attributes")  # fmt: skip
        rows, table = np.arange(self.n_rows), known.table
        shares = csr_array((np.ones(self.n_rows), (rows, known.index)), shape=(self.n_rows, table.n_cells))
        for name in inferred:
            table, shares = _spread(table, shares, name, self._categories[name], self._shares[name])
        occurs = np.flatnonzero(shares.sum(axis=0) > 0)
        order = [table.names.index(name) for name in key]
        codes, categories = table.codes[occurs][:, order], tuple(table.categories[k] for k in order)
        return SoftCells(CellTable(key, codes, categories), csr_array(shares[:, occurs]))

    def _cross(self, names: tuple[str, ...], labels: VectorLike | None) -> Cells:
        codes, categories = [], []
        for name in names:
            if name == LABEL:
                column, values = self._label_codes(labels)
            else:
                column, values = self.codes(name), self.categories(name)
            codes.append(column)
            categories.append(values)
        sizes = [len(values) for values in categories]
        if (size := math.prod(sizes)) > 2**62:
            raise InputError(f"crossing {names} makes too many combinations; cross fewer attributes or bin them")
        flat = codes[0] if codes else np.zeros(self.n_rows, dtype=np.int64)
        for column, count in zip(codes[1:], sizes[1:], strict=True):
            flat = flat * count + column
        occurring, index = number_codes(flat, size)
        if LABEL in names:  # whose values may be others in the next batch
            return Cells(_make_table(names, occurring, tuple(categories)), index)
        return Cells(self._table(names, occurring, tuple(categories)), index)

    def _table(self, names: tuple[str, ...], occurring: IntArray, categories: Any) -> CellTable:
        """One table for all parts of the same rows in which the same cells occur, with what was derived from it."""
        key = names, occurring.tobytes()
        found = self._tables.get(key)
        return found or self._tables.keep(key, _make_table(names, occurring, categories))

    def _label_codes(self, labels: VectorLike | None) -> tuple[IntArray, tuple[Hashable, ...]]:
        if labels is None:
            raise InputError("labels are needed: a criterion is conditioned on the label; pass labels=")
        codes, categories = factorize("labels", labels)
        if len(codes) != self.n_rows:
            raise InputError(f"labels must have {self.n_rows} rows, as many as groups has; got {len(codes)}")
        return codes, categories

    def _require_known(self, name: str) -> None:
        self._require(name)
        if name in self._shares:
            raise InputError(
                f"attribute {name!r} is known by its probabilities only, which serves for projecting scores but not "
                "here; pass its values, one per row"
            )

    def _require(self, name: str) -> None:
        if name not in self._categories:
            raise SchemaError(f"groups has no attribute {name!r}; it has {', '.join(map(repr, self.names))}")


def _spread(
    table: CellTable, shares: csr_array, name: str, categories: tuple[Hashable, ...], more: FloatArray
) -> tuple[CellTable, csr_array]:
    """Cross cells with an inferred attribute: every cell becomes one per group, the last column running fastest."""
    size = len(categories)
    parts = [csr_array(shares * more[:, [k]]) for k in range(size)]
    crossed = csr_array(hstack(parts))[:, np.arange(size * table.n_cells).reshape(size, -1).T.ravel()]
    codes = np.column_stack([np.repeat(table.codes, size, axis=0), np.tile(np.arange(size), table.n_cells)])
    return CellTable((*table.names, name), codes, (*table.categories, categories)), csr_array(crossed)


def _check_names(columns: Mapping[str, Any], inferred: Mapping[str, Any]) -> None:
    for name in (LABEL, OUTPUT):
        if name in columns or name in inferred:
            raise InputError(f"an attribute cannot be called {name!r}; that name stands for the {name[1:]}s")
    if both := [name for name in inferred if name in columns]:
        raise InputError(f"attribute {both[0]!r} is given by its values and by probabilities; pass one of the two")


def _make_table(names: tuple[str, ...], occurring: IntArray, categories: Any) -> CellTable:
    if not names:
        return CellTable((), np.zeros((len(occurring), 0), np.int64), ())
    codes = np.stack(np.unravel_index(occurring, [len(values) for values in categories]), axis=1)
    return CellTable(names, codes.astype(np.int64, copy=False), categories)
