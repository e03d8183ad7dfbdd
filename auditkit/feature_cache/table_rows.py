"""Rows of a table: in memory, or read from their file piece by piece."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from auditkit.datasets import hash_frame
from auditkit.errors import InputError
from auditkit.feature_cache.batches import Batch, Span
from auditkit.feature_tables import FeatureTable

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from auditkit.models import FrozenModel

BATCH_VALUES = 1 << 22
"""Numbers that a model reads or gives of a table's rows at a time, so that wide tables take no more memory."""


@dataclass(eq=False)
class TableRows:
    """Rows of a table or an array that is in memory."""

    values: pd.DataFrame | np.ndarray[Any, Any] | torch.Tensor
    batch_rows: int
    preprocessing: str = "none"
    packages: tuple[str, ...] = ()
    unit: str = "rows"

    def __post_init__(self) -> None:
        self.n_rows = len(self.values)

    def hash_rows(self) -> str:
        """SHA-256 over the content of all rows, in order."""
        return _hash_values(self.values)

    def batches(self, spans: Sequence[Span], *, workers: int) -> Iterator[Batch]:
        """The rows of every span, in order."""
        del workers  # nothing has to be decoded
        rows = cast("Any", self.values).iloc if hasattr(self.values, "iloc") else self.values
        for start, end in spans:
            yield Batch(start, end, rows[start:end], tuple(range(start, end)))


@dataclass(eq=False)
class TableFileRows:
    """Rows of a table whose columns stay in their file."""

    table: FeatureTable
    batch_rows: int
    packages: tuple[str, ...]
    preprocessing: str = "table: the columns as pandas has them"
    unit: str = "rows"

    def __post_init__(self) -> None:
        self.n_rows = self.table.n_rows

    @classmethod
    def for_model(cls, model: FrozenModel, table: FeatureTable, batch_size: int | None) -> TableFileRows:
        """The rows as they suit a model: as many at a time as it takes, fewer where they are wide."""
        most = BATCH_VALUES // max(1, model.n_features, len(table.columns))
        return cls(table, batch_size or max(1, min(model.chunk_rows, most)), ("pandas", "pyarrow", *model.packages))

    def hash_rows(self) -> str:
        """SHA-256 over the bytes of the file and the names of the columns."""
        return hashlib.sha256(json.dumps([self.table.sha256, *self.table.columns]).encode()).hexdigest()

    def batches(self, spans: Sequence[Span], *, workers: int) -> Iterator[Batch]:
        """The rows of every span, in order; what lies between spans is read over."""
        import pandas as pd

        del workers  # nothing has to be decoded
        pieces, held, end_of_held = self.table.pieces(self.batch_rows), None, 0
        for start, end in spans:
            parts: list[pd.DataFrame] = []
            while True:
                if held is not None:
                    first = end_of_held - len(held)
                    parts.append(held.iloc[max(start - first, 0) : max(end - first, 0)])
                if end_of_held >= end or not self.table.is_unchanged():
                    break
                held = next(pieces, None)
                if held is None:
                    break
                end_of_held += len(held)
            if end_of_held < end:
                yield Batch(start, end, None, (), fatal=f"{self.table.path.name!r} changed while its rows were read")
                return
            found = [part for part in parts if len(part)]
            rows = found[0] if len(found) == 1 else pd.concat(found)
            yield Batch(start, end, rows.set_axis(pd.RangeIndex(start, end)), tuple(range(start, end)))


def _hash_values(values: Any) -> str:
    if hasattr(values, "iloc"):
        return hash_frame(values)
    array = np.ascontiguousarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)
    if array.dtype.kind not in "biuf":
        raise InputError(f"rows must be numbers; got an array of {array.dtype}")
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return digest.hexdigest()
