"""Rows of a matrix of frozen features that lies in a file: picked without a copy, read piece by piece."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditkit._typing import FloatArray, IntArray
from auditkit.errors import InputError

if TYPE_CHECKING:
    import torch

BLOCK_VALUES = 1 << 22
"""Numbers that are read at a time."""

MAPPED_BYTES = 1 << 26
"""Size from which a working copy lies in a file, where there is a folder for it."""


class FeatureRows:
    """X[rows, :] with a column block E beside it:  [X[r, :] | E[r, :]] for r in rows, in float64.

    Nothing of X is read before it is asked for. What asks for all of it as an array (`numpy.asarray`) has it in memory;
    `blocks` and `take` read it piece by piece.

    Args:
        values: X, shape (N, d), in memory or mapped.
        rows: Which rows, in their order; None is all of them.
        folder: Where working copies of `MAPPED_BYTES` and more go, as files without a name that the system removes with
            the last one who reads them; None keeps them in memory.
        beside: E of the rows picked, shape (n, e), in memory; None is none.
    """

    ndim = 2

    def __init__(
        self,
        values: NDArray[Any],
        rows: IntArray | None = None,
        *,
        folder: Path | None = None,
        beside: NDArray[Any] | None = None,
    ) -> None:
        self._values = values
        self._rows = rows
        self._folder = folder
        self._beside = beside

    @property
    def dtype(self) -> torch.dtype:
        """That of a tensor of them."""
        import torch

        return torch.float64

    @property
    def shape(self) -> tuple[int, int]:
        """Rows n and columns d + e."""
        n_rows = len(self._values) if self._rows is None else len(self._rows)
        return n_rows, self._values.shape[1] + (0 if self._beside is None else self._beside.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: IntArray) -> FeatureRows:
        """Some of the rows, by their numbers; nothing is read."""
        chosen = np.asarray(rows) if self._rows is None else self._rows[rows]
        beside = None if self._beside is None else self._beside[rows]
        return FeatureRows(self._values, chosen, folder=self._folder, beside=beside)

    def with_beside(self, columns: NDArray[Any]) -> FeatureRows:
        """The same rows with columns beside theirs, shape (n, e)."""
        return FeatureRows(self._values, self._rows, folder=self._folder, beside=columns)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it in memory."""
        if copy is False:
            raise ValueError("rows of features are copied when they become an array")
        found = np.empty(self.shape, dtype=np.float64)
        self._fill(found)
        return found if dtype is None else found.astype(dtype, copy=False)

    def blocks(self) -> Iterator[FloatArray]:
        """The rows in order, `BLOCK_VALUES` numbers at a time.

        Raises:
            InputError: One is NaN or infinite.
        """
        step = max(1, BLOCK_VALUES // max(1, self.shape[1]))
        for start in range(0, len(self), step):
            yield self._read(start, min(start + step, len(self)))

    def take(self, rows: IntArray | None = None) -> FloatArray:
        """A working copy of some rows, or of all, shape (n, d), that may lie in a file.

        Raises:
            InputError: One is NaN or infinite; the disk has no room for it.
        """
        chosen = self if rows is None else self[rows]
        n_bytes = chosen.shape[0] * chosen.shape[1] * 8
        mapped = self._folder is not None and n_bytes >= MAPPED_BYTES
        found = map_scratch(chosen.shape, self._folder) if mapped else np.empty(chosen.shape)
        chosen._fill(found)
        return found

    def _fill(self, target: FloatArray) -> None:
        place = 0
        for block in self.blocks():
            target[place : place + len(block)] = block
            place += len(block)

    def _read(self, start: int, end: int) -> FloatArray:
        found = np.empty((end - start, self.shape[1]))
        width = self._values.shape[1]
        found[:, :width] = self._values[start:end] if self._rows is None else self._values[self._rows[start:end]]
        if self._beside is not None:
            found[:, width:] = self._beside[start:end]
        # one NaN or infinite value would spoil the sum, which is found several times as fast as whether each is finite
        if not np.isfinite(found.sum()) and not np.isfinite(found).all():
            raise InputError(
                "features hold NaN or infinite values; drop those rows or fix the backbone that produced them"
            )
        return found


def map_scratch(shape: tuple[int, int], folder: Path | None) -> FloatArray:
    """An array in a file without a name, whose disk space is taken at once: none is left, whatever happens.

    Args:
        shape: Of the array.
        folder: On the disk to use.

    Raises:
        InputError: The disk has no room for it.
    """
    n_bytes = shape[0] * shape[1] * 8
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)  # a mapped file that finds the disk full ends the process
            else:
                file.truncate(n_bytes)
            return np.memmap(file, dtype=np.float64, mode="r+", shape=shape)
    except OSError as error:
        raise InputError(
            f"cache: {n_bytes / 2**20:,.1f} MiB to work in do not fit in {str(folder)!r}: {error.strerror or error}; "
            "make room (`auditkit cache ls`) or name another folder (AUDITKIT_CACHE, --cache)"
        ) from error
