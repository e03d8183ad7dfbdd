"""Moments: the additive sums per cell from which every audit figure is computed.

Sums merge by addition, so they can be taken in one pass, batch by batch, on a stream, or on many machines.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from auditkit._typing import FloatArray
from auditkit.errors import InputError
from auditkit.groups import Cells, CellTable

_SUMS = ("count", "weight", "weight2", "score", "score2", "label", "label2", "cross", "selected")


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
        has_labels: Whether labels were given.
        has_decisions: Whether decisions were given.
        shift: One constant taken off before squaring, so that the variance of scores far from zero keeps its digits.
    """

    table: CellTable
    count: FloatArray
    weight: FloatArray
    weight2: FloatArray
    score: FloatArray
    score2: FloatArray
    label: FloatArray
    label2: FloatArray
    cross: FloatArray
    selected: FloatArray
    has_labels: bool
    has_decisions: bool
    shift: float = 0.0

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
    ) -> Moments:
        """Sum the rows of every cell.

        Args:
            scores: Scores z, shape (n,).
            cells: The cell of every row.
            labels: Labels y, shape (n,).
            decisions: 1 where the decision is positive, shape (n,).
            weights: Row weights, shape (n,); None is one for every row.
            shift: Constant taken off before squaring; None takes the mean score.

        Returns:
            The moments.
        """
        centre = float(scores.mean()) if shift is None and len(scores) else (shift or 0.0)
        weight = np.ones_like(scores) if weights is None else weights
        size = cells.table.n_cells

        def total(values: FloatArray | None) -> FloatArray:
            return np.bincount(cells.index, weights=values, minlength=size).astype(np.float64)

        z = scores - centre
        y = np.zeros_like(scores) if labels is None else labels - centre
        zeros = np.zeros(size)
        mass = total(weight)
        return cls(
            table=cells.table,
            count=total(None),
            weight=mass,
            weight2=total(weight * weight),
            score=total(weight * scores),
            score2=total(weight * z * z),
            label=zeros if labels is None else total(weight * labels),
            label2=zeros if labels is None else total(weight * y * y),
            cross=zeros if labels is None else total(weight * z * y),
            selected=zeros if decisions is None else total(weight * decisions),
            has_labels=labels is not None,
            has_decisions=decisions is not None,
            shift=centre,
        )

    def __add__(self, other: Moments) -> Moments:
        """Merge two sets of moments; cells are matched by their values."""
        if self.shift != other.shift:
            raise InputError(f"moments can be added only with the same shift; got {self.shift} and {other.shift}")
        if self.table.names != other.table.names:
            raise InputError(
                f"moments can be added only over the same columns; got {self.table.names} and {other.table.names}"
            )
        table, left, right = merge_tables(self.table, other.table)
        sums = {}
        for name in _SUMS:
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
        )

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
        sums = {f.name: getattr(self, f.name).tolist() for f in fields(self) if f.name in _SUMS}
        categories = {name: list(values) for name, values in zip(table.names, table.categories, strict=True)}
        return {"columns": columns, "categories": categories, **sums, "shift": self.shift}


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
