"""Moments: the additive sums per cell from which every audit figure is computed.

Sums merge by addition, so they can be taken in one pass, batch by batch, on a stream, or on many machines. Every sum is
declared once, as a field of `Moments` with the factors whose product is added for a row; `Moments.from_rows` and every
engine read that declaration, so that a new sum is a new field and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from auditkit._typing import FloatArray, IntArray
from auditkit.criteria import Criterion, columns_of
from auditkit.errors import InputError
from auditkit.groups import LABEL, Cells, CellTable

MAX_LABEL_STRATA = 50
"""Labels with more values than this are not conditioned on."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What a row contributes: arrays of shape (n,), float64.

    Attributes:
        z: Scores.
        y: Labels; None where there are none.
        d: Decisions; None where there are none.
        w: Weights; None is one for every row.
        shift: Constant taken off before squaring.
    """

    z: FloatArray
    y: FloatArray | None
    d: FloatArray | None
    w: FloatArray | None
    shift: float


class Factor(NamedTuple):
    """One factor of what is added for a row, written twice: for arrays and for SQL.

    Attributes:
        values: The factor of every row, shape (n,).
        sql: The same over the columns z, y, d, w and shift.
        reads: The fields of `Rows` that it is made of.
        nonzero: SQL that is quicker and positive exactly where the factor is not zero; |factor| where empty.
    """

    values: Callable[[Any], FloatArray]
    sql: str
    reads: tuple[str, ...] = ("z",)
    nonzero: str = ""


MAX_CLUSTERED_CELLS = 500
"""Clusters need sums for every pair of cells; more cells than this would not fit a report's JSON."""

_BEYOND_SQL = "(abs({0} - 0.5) - 0.5)"
_OUTSIDE_SQL = f"((abs({_BEYOND_SQL}) + {_BEYOND_SQL}) / 2)"


def _outside(values: FloatArray) -> FloatArray:
    """How far each value lies outside [0, 1]; exactly zero inside."""
    beyond = np.abs(values - 0.5) - 0.5
    return (np.abs(beyond) + beyond) / 2


FACTORS = {
    "w": Factor(lambda rows: rows.w, "w", ("w",)),
    "z": Factor(lambda rows: rows.z, "z"),
    "z-shift": Factor(lambda rows: rows.z - rows.shift, "(z - shift)"),
    "y": Factor(lambda rows: rows.y, "y", ("y",)),
    "y-shift": Factor(lambda rows: rows.y - rows.shift, "(y - shift)", ("y",)),
    "d": Factor(lambda rows: rows.d, "d", ("d",)),
    "y-z": Factor(lambda rows: rows.y - rows.z, "(y - z)", ("y", "z")),
    "|y-z|": Factor(lambda rows: np.abs(rows.y - rows.z), "abs(y - z)", ("y", "z")),
    "z-outside": Factor(lambda rows: _outside(rows.z), _OUTSIDE_SQL.format("z"), nonzero=_BEYOND_SQL.format("z")),
    "y-outside": Factor(lambda rows: _outside(rows.y), _OUTSIDE_SQL.format("y"), ("y",), _BEYOND_SQL.format("y")),
}
"""Every factor that a sum may have. Without weights w is 1 and is left out of every product."""


def adds(*factors: str) -> dict[str, tuple[str, ...]]:
    """Metadata of a field of `Moments`: the sum over the rows of the product of these ``FACTORS``."""
    return {"factors": factors}


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the rows of every cell; all arrays have shape (c,), float64.

    Attributes:
        table: What the cells are.
        count: Number of rows n_c.
        weight: Σ w.
        weight2: Σ w².
        score: Σ w z.
        score2: Σ w (z − shift)², see ``shift``.
        label: Σ w y; zero where no labels were given.
        label2: Σ w (y − shift)².
        cross: Σ w (z − shift)(y − shift).
        selected: Σ w·1[decision]; zero where there is no decision.
        absolute: Σ w |y − z|.
        outside: Σ of how far scores lie outside [0, 1]; zero exactly when all are probabilities or decisions.
        label_outside: The same of the labels.
        score_w2: Σ w² z; this and the next are for the standard errors of weighted rows.
        score2_w2: Σ w² (z − shift)².
        label_w2: Σ w² y.
        label2_w2: Σ w² (y − shift)².
        cross_w2: Σ w² (z − shift)(y − shift).
        selected_w2: Σ w²·1[decision].
        absolute_w2: Σ w² |y − z|.
        quartic_w2: Σ w² (y − z)⁴, for the standard error of a root mean square.
        has_labels: Whether labels were given.
        has_decisions: Whether decisions were given.
        shift: One constant taken off before squaring, so that the variance of scores far from zero keeps its digits.
        gram: For clustered rows, Σ u uᵀ over the clusters, where u holds Σ w, Σ w (z − shift), Σ w (y − shift) and
            Σ w d of the cluster in every cell, shape (4c, 4c); None for independent rows.
    """

    table: CellTable
    count: FloatArray = field(metadata=adds())
    weight: FloatArray = field(metadata=adds("w"))
    weight2: FloatArray = field(metadata=adds("w", "w"))
    score: FloatArray = field(metadata=adds("w", "z"))
    score2: FloatArray = field(metadata=adds("w", "z-shift", "z-shift"))
    label: FloatArray = field(metadata=adds("w", "y"))
    label2: FloatArray = field(metadata=adds("w", "y-shift", "y-shift"))
    cross: FloatArray = field(metadata=adds("w", "z-shift", "y-shift"))
    selected: FloatArray = field(metadata=adds("w", "d"))
    absolute: FloatArray = field(metadata=adds("w", "|y-z|"))
    outside: FloatArray = field(metadata=adds("z-outside"))
    label_outside: FloatArray = field(metadata=adds("y-outside"))
    score_w2: FloatArray = field(metadata=adds("w", "w", "z"))
    score2_w2: FloatArray = field(metadata=adds("w", "w", "z-shift", "z-shift"))
    label_w2: FloatArray = field(metadata=adds("w", "w", "y"))
    label2_w2: FloatArray = field(metadata=adds("w", "w", "y-shift", "y-shift"))
    cross_w2: FloatArray = field(metadata=adds("w", "w", "z-shift", "y-shift"))
    selected_w2: FloatArray = field(metadata=adds("w", "w", "d"))
    absolute_w2: FloatArray = field(metadata=adds("w", "w", "|y-z|"))
    quartic_w2: FloatArray = field(metadata=adds("w", "w", "y-z", "y-z", "y-z", "y-z"))
    has_labels: bool
    has_decisions: bool
    shift: float = 0.0
    gram: FloatArray | None = None

    @classmethod
    def from_rows(
        cls,
        scores: FloatArray,
        cells: Cells,
        *,
        labels: FloatArray | None = None,
        decisions: FloatArray | None = None,
        weights: FloatArray | None = None,
        shift: float | None = None,
        clusters: IntArray | None = None,
        shares: FloatArray | None = None,
    ) -> Moments:
        """Sum the rows of every cell.

        Args:
            scores: Scores z, shape (n,).
            cells: The cell of every row.
            labels: Labels y, shape (n,).
            decisions: 1 where the decision is positive, shape (n,).
            weights: Row weights, shape (n,); None is one for every row.
            shift: Constant taken off before squaring; None takes the mean score.
            clusters: Code of every row's cluster (the person that several rows are of), shape (n,); None is a cluster
                for every row.
            shares: Probability that a row is of its cell, where the cells are inferred and a row is written once for
                each, shape (n,): a weight that also counts the rows; None is one for every row.

        Returns:
            The moments.
        """
        if shares is not None:
            weights = shares if weights is None else weights * shares
        centre = float(scores.mean()) if shift is None and len(scores) else (shift or 0.0)
        rows = Rows(scores, labels, decisions, weights, centre)
        given = {name for name in ("z", "y", "d", "w") if getattr(rows, name) is not None}
        values = {name: FACTORS[name].values(rows) for product in products(given) for name in product}
        totals = {
            product: _bincount(cells, reduce(np.multiply, [values[name] for name in product]) if product else None)
            for product in products(given)
        }
        moments = cls.from_totals(cells.table, totals, given=given, shift=centre)
        if shares is not None:
            moments = replace(moments, count=_bincount(cells, shares))
        return moments if clusters is None else replace(moments, gram=_gram(rows, cells, clusters))

    @classmethod
    def from_totals(
        cls, table: CellTable, totals: dict[tuple[str, ...], FloatArray], *, given: set[str], shift: float
    ) -> Moments:
        """The moments from the total of every one of ``products(given)``.

        Args:
            table: What the cells are.
            totals: Product → its total in every cell, shape (c,).
            given: Which of z, y, d and w the rows had.
            shift: Constant that was taken off.

        Returns:
            The moments, zero where a sum needs what was not given.
        """
        zeros = np.zeros(table.n_cells)
        sums = {name: totals.get(reduced(factors, given), zeros) for name, factors in SUMS.items()}
        return cls(table, **sums, has_labels="y" in given, has_decisions="d" in given, shift=shift)

    def __add__(self, other: Moments) -> Moments:
        """Merge two sets of moments; cells are matched by their values. No cluster may have rows in both."""
        if self.shift != other.shift:
            raise InputError(f"moments can be added only with the same shift; got {self.shift} and {other.shift}")
        if self.table.names != other.table.names:
            raise InputError(
                f"moments can be added only over the same columns; got {self.table.names} and {other.table.names}"
            )
        table, left, right = merge_tables(self.table, other.table)
        sums = {}
        for name in SUMS:
            merged = np.zeros(table.n_cells)
            merged[left] += getattr(self, name)
            merged[right] += getattr(other, name)
            sums[name] = merged
        return Moments(
            table=table,
            **sums,
            has_labels=self.has_labels and other.has_labels,
            has_decisions=self.has_decisions and other.has_decisions,
            shift=self.shift,
            gram=_merge_grams(self, other, left, right, table.n_cells),
        )

    def with_shift(self, shift: float) -> Moments:
        """The same moments with another constant taken off before squaring, so that they add to others."""
        step = self.shift - shift
        if step == 0:
            return self
        changed: dict[str, Any] = {"shift": shift}
        for suffix, weight in (("", self.weight), ("_w2", self.weight2)):
            z, y = (getattr(self, name + suffix) - self.shift * weight for name in ("score", "label"))
            changed["score2" + suffix] = getattr(self, "score2" + suffix) + 2 * step * z + step**2 * weight
            if self.has_labels:
                changed["label2" + suffix] = getattr(self, "label2" + suffix) + 2 * step * y + step**2 * weight
                changed["cross" + suffix] = getattr(self, "cross" + suffix) + step * (z + y) + step**2 * weight
        if self.gram is not None:
            change = np.eye(len(self.gram)).reshape(4, self.table.n_cells, 4, self.table.n_cells)
            change[1, :, 0] = step * np.eye(self.table.n_cells)
            change[2, :, 0] = change[1, :, 0] * self.has_labels
            change = change.reshape(self.gram.shape)
            changed["gram"] = change @ self.gram @ change.T
        return replace(self, **changed)

    @property
    def score_mean(self) -> FloatArray:
        """Mean score of every cell, shape (c,)."""
        return self.score / np.where(self.weight > 0, self.weight, 1.0)

    @property
    def label_mean(self) -> FloatArray:
        """Mean label of every cell, shape (c,)."""
        return self.label / np.where(self.weight > 0, self.weight, 1.0)

    def to_dict(self) -> dict[str, object]:
        """The sums as JSON-ready lists, with the value of every column in every cell and every value it may have."""
        table = self.table
        columns = {name: [table.value(cell, name) for cell in range(table.n_cells)] for name in table.names}
        sums = {name: getattr(self, name).tolist() for name in SUMS}
        categories = {name: list(values) for name, values in zip(table.names, table.categories, strict=True)}
        gram = None if self.gram is None else self.gram.tolist()
        return {"columns": columns, "categories": categories, **sums, "shift": self.shift, "gram": gram}


SUMS: dict[str, tuple[str, ...]] = {f.name: f.metadata["factors"] for f in fields(Moments) if f.metadata}
"""Every sum of `Moments` with its factors, in the order of the fields."""


def reduced(factors: Iterable[str], given: set[str]) -> tuple[str, ...]:
    """The factors of a sum without the weights that are all one."""
    return tuple(name for name in factors if name != "w" or "w" in given)


def products(given: set[str]) -> tuple[tuple[str, ...], ...]:
    """The different products that must be totalled for rows that have z and what else is ``given``.

    Args:
        given: Which of z, y, d and w the rows have.

    Returns:
        Names of ``FACTORS``, each product once; the empty product counts the rows.
    """
    wanted = dict.fromkeys(reduced(factors, given) for factors in SUMS.values())
    return tuple(product for product in wanted if all(given.issuperset(FACTORS[name].reads) for name in product))


def cell_columns(criteria: Sequence[Criterion], *, binary_labels: bool, has_decisions: bool) -> tuple[str, ...]:
    """The columns whose combinations are the cells of an audit.

    Args:
        criteria: The criteria.
        binary_labels: Whether there are labels and all of them are 0 or 1.
        has_decisions: Whether there are decisions; with binary labels their error rates are stated too.

    Returns:
        Column names, each once; ``LABEL`` stands for the label.
    """
    needed = columns_of(criteria)
    return tuple(dict.fromkeys((*needed, LABEL))) if binary_labels and has_decisions else needed


def _bincount(cells: Cells, values: FloatArray | None) -> FloatArray:
    return np.bincount(cells.index, weights=values, minlength=cells.table.n_cells).astype(np.float64)


def check_clustered_cells(size: int) -> None:
    """Raise where there are too many cells for a sum per pair of them.

    Raises:
        InputError: There are more than ``MAX_CLUSTERED_CELLS``.
    """
    if size > MAX_CLUSTERED_CELLS:
        raise InputError(
            f"clusters can be told apart over at most {MAX_CLUSTERED_CELLS} combinations of values; got {size}; "
            "audit fewer attributes at once"
        )


def _gram(rows: Rows, cells: Cells, clusters: IntArray) -> FloatArray:
    from scipy import sparse

    size = cells.table.n_cells
    check_clustered_cells(size)
    pair, index = np.unique(clusters * size + cells.index, return_inverse=True)
    weight = np.ones_like(rows.z) if rows.w is None else rows.w
    zeros = np.zeros_like(rows.z)
    parts = (
        np.ones_like(rows.z),
        rows.z - rows.shift,
        zeros if rows.y is None else rows.y - rows.shift,
        zeros if rows.d is None else rows.d,
    )
    place = (pair // size, pair % size)
    blocks = [
        sparse.csr_array((np.bincount(index, weights=weight * part), place), shape=(int(clusters.max()) + 1, size))
        for part in parts
    ]
    stacked = sparse.hstack(blocks).tocsr()
    return (stacked.T @ stacked).toarray()


def _merge_grams(first: Moments, second: Moments, left: IntArray, right: IntArray, size: int) -> FloatArray | None:
    if (first.gram is None) != (second.gram is None):
        raise InputError("moments of clustered rows can be added only to moments of clustered rows")
    if first.gram is None or second.gram is None:
        return None
    merged = np.zeros((4 * size, 4 * size))
    for gram, place in ((first.gram, left), (second.gram, right)):
        index = (np.arange(4)[:, None] * size + place).ravel()
        merged[np.ix_(index, index)] += gram
    return merged


def merge_tables(first: CellTable, second: CellTable) -> tuple[CellTable, np.ndarray, np.ndarray]:
    """One table with the cells of both, and where the cells of each went."""
    categories = tuple(tuple(dict.fromkeys(a + b)) for a, b in zip(first.categories, second.categories, strict=True))
    lookups = [{value: code for code, value in enumerate(values)} for values in categories]

    def recode(table: CellTable) -> np.ndarray:
        columns = [
            np.array([lookup[value] for value in values], dtype=np.int64)[table.codes[:, k]]
            for k, (lookup, values) in enumerate(zip(lookups, table.categories, strict=True))
        ]
        return np.stack(columns, axis=1) if columns else table.codes

    left, right = recode(first), recode(second)
    codes, index = np.unique(np.concatenate([left, right]), axis=0, return_inverse=True)
    index = index.reshape(-1)
    return CellTable(first.names, codes, categories), index[: len(left)], index[len(left) :]
