"""From rows to moments and back: the linear map u = B·y whose contrasts the criteria constrain.

Where every row lies in one cell, u are the weighted cell means and nothing larger than the cells is ever built
(`CellMap`). Rows that are spread over cells by probabilities, and affine criteria of one's own, need the matrix
(`MatrixMap`). Several outputs per row are the same map once per column (`ColumnMap`).

Every solver sees the rows through these five operations only, and what they sum is added up over processes by the
collective that they are given, so that a batch spread over processes is one batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from auditkit._typing import FloatArray, IntArray

CHUNK = 1 << 18
"""Rows handled at a time on the host, so that float64 temporaries stay in the cache."""
SUM_CHUNK = 1 << 12
"""Rows summed one after the other: the rounding error of a sum grows with this and with the number of chunks, instead
of with the number of rows, which for 100,000 rows would be larger than the accuracy that the solvers stop at."""


class Collective(Protocol):
    """Adds up over the processes that hold parts of one batch."""

    def sum(self, values: FloatArray) -> FloatArray:
        """Elementwise sum over the processes, the same on each."""
        ...

    def max(self, value: float) -> float:
        """Largest value of any process."""
        ...


class Alone:
    """One process holds the whole batch."""

    def sum(self, values: FloatArray) -> FloatArray:
        """The values themselves."""
        return values

    def max(self, value: float) -> float:
        """The value itself."""
        return value


ALONE = Alone()


class MomentMap(ABC):
    """u = B·y, with what solvers and gradients need of it.

    Attributes:
        size: Number of moments q.
        weights: Row weights w, shape (n,); None is one for every row.
    """

    size: int
    weights: Tensor | None

    @abstractmethod
    def collect(self, values: Tensor) -> FloatArray:
        """B·y, shape (q,)."""

    @abstractmethod
    def spread(self, moments: FloatArray) -> Tensor:
        """W⁻¹·Bᵀ·u, of the shape of the rows: how a multiplier moves them."""

    @abstractmethod
    def collect_plain(self, values: Tensor) -> FloatArray:
        """B·W⁻¹·y, the transpose of `spread`; shape (q,)."""

    @abstractmethod
    def spread_plain(self, moments: FloatArray) -> Tensor:
        """Bᵀ·u, the transpose of `collect`; of the shape of the rows."""

    @abstractmethod
    def gram(self, derivative: Any) -> FloatArray:
        """B·D·W⁻¹·Bᵀ, shape (q, q), or its diagonal, shape (q,), where it has no other entries.

        Args:
            derivative: D as the row set returns it; None is the identity.
        """


@dataclass(frozen=True, eq=False)
class CellMap(MomentMap):
    """Weighted cell means.

    Attributes:
        index: Cell of every row, shape (n,).
        mass: Total weight of every cell over all processes, positive, shape (c,).
        weights: Row weights, shape (n,).
        collective: What adds up over processes.
    """

    index: Tensor
    mass: FloatArray
    weights: Tensor | None = None
    collective: Collective = ALONE

    @property
    def size(self) -> int:  # type: ignore[override]
        """Number of cells c."""
        return len(self.mass)

    def collect(self, values: Tensor) -> FloatArray:
        """Weighted mean of every cell."""
        return self.collect_plain(values if self.weights is None else values * self.weights)

    def collect_plain(self, values: Tensor) -> FloatArray:
        """Sum of every cell over its mass."""
        if values.device.type == "cpu":
            sums = sum_cells(values.detach().numpy(), self.index.numpy(), self.size)
        else:
            zeros = torch.zeros(self.size, dtype=torch.float64, device=values.device)
            sums = zeros.index_add(0, self.index, values.to(torch.float64)).cpu().numpy()
        return self.collective.sum(sums) / self.mass

    def spread(self, moments: FloatArray) -> Tensor:
        """Every row gets the value of its cell over the mass."""
        per_cell = moments / self.mass
        if self.index.device.type == "cpu":
            return torch.from_numpy(per_cell.take(self.index.numpy()))
        return torch.as_tensor(per_cell, device=self.index.device)[self.index]

    def spread_plain(self, moments: FloatArray) -> Tensor:
        """The same times the weight of the row."""
        return self.spread(moments) if self.weights is None else self.spread(moments) * self.weights

    def gram(self, derivative: Any) -> FloatArray:
        """How much of every cell no bound holds, over its mass; the diagonal only."""
        if derivative is None or derivative.free is None:
            return 1.0 / self.mass
        if self.weights is not None or derivative.free.dtype != torch.bool or derivative.free.device.type != "cpu":
            return self.collect(derivative.free.to(torch.float64)) / self.mass
        held = np.flatnonzero(~derivative.free.numpy())  # most rows are free, and whole numbers add up exactly
        count = np.bincount(self.index.numpy()[held], minlength=self.size)
        return (self.mass - self.collective.sum(count.astype(np.float64))) / self.mass**2


@dataclass(frozen=True, eq=False)
class MatrixMap(MomentMap):
    """Any linear moments, by their matrix.

    Attributes:
        matrix: B, shape (q, n), sparse.
        device: Where the rows are.
        weights: Row weights, positive, shape (n,).
        collective: What adds up over processes.
    """

    matrix: csr_array
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    weights: Tensor | None = None
    collective: Collective = ALONE

    @property
    def size(self) -> int:  # type: ignore[override]
        """Number of moments q."""
        return int(self.matrix.shape[0])  # type: ignore[index]

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return int(self.matrix.shape[1])  # type: ignore[index]

    def collect(self, values: Tensor) -> FloatArray:
        """B·y."""
        return self.collective.sum(self.matrix @ _on_host(values))

    def collect_plain(self, values: Tensor) -> FloatArray:
        """B·W⁻¹·y."""
        return self.collect(values if self.weights is None else values / self.weights)

    def spread(self, moments: FloatArray) -> Tensor:
        """W⁻¹·Bᵀ·u."""
        plain = self.spread_plain(moments)
        return plain if self.weights is None else plain / self.weights

    def spread_plain(self, moments: FloatArray) -> Tensor:
        """Bᵀ·u."""
        return torch.as_tensor(self.matrix.T @ moments, device=self.device)

    def gram(self, derivative: Any) -> FloatArray:
        """B·D·W⁻¹·Bᵀ."""
        free = None if derivative is None or derivative.free is None else derivative.free
        return self.collective.sum(self.plain_gram(None if free is None else _on_host(free)))

    def plain_gram(self, factor: np.ndarray[Any, Any] | None) -> FloatArray:
        """B·diag(factor)·W⁻¹·Bᵀ of the rows of this process."""
        scale = np.ones(self.n_rows) if factor is None else factor.astype(np.float64)
        if self.weights is not None:
            scale = scale / _on_host(self.weights)
        return ((self.matrix * scale) @ self.matrix.T).toarray()


@dataclass(frozen=True, eq=False)
class ColumnMap(MomentMap):
    """The same moments of every column of (n, k) rows; moments are ordered by moment, then by column.

    Attributes:
        base: The map of one column.
        columns: Number of columns k.
    """

    base: CellMap | MatrixMap
    columns: int

    @property
    def size(self) -> int:  # type: ignore[override]
        """Number of moments q·k."""
        return self.base.size * self.columns

    @property
    def weights(self) -> Tensor | None:  # type: ignore[override]
        """Row weights, shape (n,)."""
        return self.base.weights

    @property
    def collective(self) -> Collective:
        """What adds up over processes."""
        return self.base.collective

    def collect(self, values: Tensor) -> FloatArray:
        """B·y of every column."""
        return np.stack([self.base.collect(column) for column in values.T.contiguous()], axis=1).ravel()

    def collect_plain(self, values: Tensor) -> FloatArray:
        """B·W⁻¹·y of every column."""
        return np.stack([self.base.collect_plain(column) for column in values.T.contiguous()], axis=1).ravel()

    def spread(self, moments: FloatArray) -> Tensor:
        """W⁻¹·Bᵀ·u of every column, shape (n, k)."""
        return torch.stack([self.base.spread(column) for column in self._by_column(moments)], dim=1)

    def spread_plain(self, moments: FloatArray) -> Tensor:
        """Bᵀ·u of every column, shape (n, k)."""
        return torch.stack([self.base.spread_plain(column) for column in self._by_column(moments)], dim=1)

    def gram(self, derivative: Any) -> FloatArray:
        """B·D·W⁻¹·Bᵀ, where D couples the columns of a row (a simplex), shape (q·k, q·k)."""
        size, k = self.base.size, self.columns
        blocks = np.zeros((size, k, size, k))
        for a in range(k):
            for b in range(a, k):
                entry = derivative.entry(a, b) if derivative is not None else (1.0 if a == b else None)
                if entry is not None:
                    blocks[:, a, :, b] = blocks[:, b, :, a] = self._plain_gram(entry)
        return self.collective.sum(blocks.reshape(size * k, size * k))

    def _plain_gram(self, entry: Any) -> FloatArray:
        """B·diag(entry)·W⁻¹·Bᵀ of the rows of this process."""
        if isinstance(self.base, MatrixMap):
            return self.base.plain_gram(None if isinstance(entry, float) else _on_host(entry))
        base = self.base
        factor = torch.ones(len(base.index), dtype=torch.float64, device=base.index.device) * entry
        weighted = factor if base.weights is None else factor * base.weights
        return np.diag(sum_cells(_on_host(weighted), _on_host(base.index), base.size) / base.mass**2)

    def _by_column(self, moments: FloatArray) -> FloatArray:
        return np.ascontiguousarray(moments.reshape(self.base.size, self.columns).T)


def sum_cells(values: np.ndarray[Any, Any], index: IntArray, size: int) -> FloatArray:
    """Sum over the rows of every cell in float64, shape (size,)."""
    if len(values) <= SUM_CHUNK:
        return np.bincount(index, values, size).astype(np.float64, copy=False)  # of no rows, bincount makes integers
    sums = np.zeros(size)
    for start in range(0, len(values), SUM_CHUNK):
        part = slice(start, start + SUM_CHUNK)
        sums += np.bincount(index[part], values[part], size)
    return sums


def add_per_cell(values: np.ndarray[Any, Any], shift: FloatArray, index: IntArray) -> np.ndarray[Any, Any]:
    """Values + shift of the row's cell, added in float64 and rounded once; shape (n,)."""
    if len(values) <= CHUNK:
        moved = values + shift.take(index)
        return moved if moved.dtype == values.dtype else moved.astype(values.dtype)
    output = np.empty_like(values)
    for start in range(0, len(values), CHUNK):
        part = slice(start, start + CHUNK)
        output[part] = values[part] + shift.take(index[part])
    return output


def _on_host(values: Float[Tensor, ...]) -> np.ndarray[Any, Any]:
    return values.detach().cpu().numpy()
