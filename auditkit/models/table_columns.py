"""The columns of a table as features: what a head reads where a table of predictions names them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from auditkit.errors import InputError
from auditkit.models.base import FrozenModel, hash_description

CHUNK_ROWS = 65_536


@final
class TableColumns(FrozenModel):
    """x ↦ x on numeric columns: features without a model that makes them.

    They are float32 where the types of the columns fit in it without loss, else float64.

    Args:
        columns: Their names, in order.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        super().__init__(
            name="data.features", task=None, n_features=len(self._columns), chunk_rows=CHUNK_ROWS,
            fingerprint=self._measure(),
        )  # fmt: skip

    def _measure(self) -> str:
        return hash_description({"kind": "columns", "columns": self._columns})

    def _chunks(self, batch: Any) -> Iterator[pd.DataFrame]:
        frame = batch[self._columns]
        text = [name for name in self._columns if not _is_number(frame[name])]
        if text:
            raise InputError(f"data.features of a predictions table must be numbers; {', '.join(text)} are not")
        for start in range(0, len(frame), self.chunk_rows):
            yield frame.iloc[start : start + self.chunk_rows]

    def _chunk_logits(self, chunk: pd.DataFrame) -> Tensor:
        self._refuse_scores()

    def _chunk_features(self, chunk: pd.DataFrame) -> Tensor:
        fits = np.result_type(np.float32, *chunk.dtypes) == np.float32
        values = chunk.to_numpy(dtype=np.float32 if fits else np.float64, copy=True)
        if not np.isfinite(values).all():
            row, place = np.argwhere(~np.isfinite(values))[0]
            raise InputError(
                f"data.features column {self._columns[place]!r} is missing or infinite at row {chunk.index[row]}; fill "
                "or drop such rows"
            )
        return torch.from_numpy(values)


def _is_number(values: pd.Series) -> bool:
    return isinstance(values.dtype, np.dtype) and np.issubdtype(values.dtype, np.number)
