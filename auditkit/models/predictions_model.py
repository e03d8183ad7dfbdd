"""A table of predictions in the place of a model: the scores that somebody else's model gave, looked up by row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from auditkit._tables import column, read_table
from auditkit.errors import InputError, SchemaError
from auditkit.models.base import FrozenModel, Task, hash_description

CHUNK_ROWS = 65_536


@final
class PredictionsModel(FrozenModel):
    """Scores, and perhaps features, of rows that were scored elsewhere.

    Args:
        path: A .csv, .parquet, .arrow or .feather file.
        score: Column of scores.
        features: Columns of features, on which a head can be tuned.
        key: Column that names the rows; a batch is then a table with the same column, or the names themselves, in any
            order. Without it a batch must have the table's rows in the table's order.
        task: By default binary where all scores lie in 0…1, otherwise regression.
        name: What reports call it; the file's stem by default.

    Raises:
        SchemaError: A column is missing or no number.
        InputError: A score or feature is missing, or a key occurs twice.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        score: str,
        features: Sequence[str] = (),
        key: str | None = None,
        task: Task | None = None,
        name: str | None = None,
    ) -> None:
        file = Path(path)
        frame = read_table(file)
        if isinstance(features, str):
            raise InputError(f"features must be a list of columns of {file.name!r}; write features=[{features!r}]")
        columns = [score, *features]
        for wanted in [*columns, *([key] if key else [])]:
            if wanted not in frame.columns:
                raise SchemaError(
                    f"{file.name!r} has no column {wanted!r}; it has: {', '.join(map(str, frame.columns))}"
                )
        self._values = torch.from_numpy(np.column_stack([_numbers(frame, one, file) for one in columns]))
        self._keys = None if key is None else _index(frame, key, file)
        self._key = key
        scores = self._values[:, 0]
        if task == "multiclass":
            raise InputError("task multiclass needs a score per class; a table of predictions has one column of scores")
        chosen: Task = task or ("binary" if bool(((scores >= 0) & (scores <= 1)).all()) else "regression")
        self._description = {"kind": "predictions", "task": chosen, "columns": columns, "key": key or ""}
        super().__init__(
            name=name or file.stem,
            task=chosen,
            n_features=len(features),
            chunk_rows=CHUNK_ROWS,
            fingerprint=self._measure(),
        )

    @property
    def needs_all_rows(self) -> bool:
        """Without a key, rows are told by their place alone."""
        return self._keys is None

    def _measure(self) -> str:
        digest = hashlib.sha256(hash_description(self._description).encode())
        digest.update(self._values.numpy().tobytes())
        if self._keys is not None:
            digest.update("\0".join(map(repr, self._keys.tolist())).encode())
        return digest.hexdigest()

    def _chunks(self, batch: Any) -> Iterator[Tensor]:
        places = self._places(batch)
        for start in range(0, len(places), self.chunk_rows):
            yield self._values[places[start : start + self.chunk_rows]]

    def _places(self, batch: Any) -> Tensor:
        if self._keys is None:
            if len(batch) != len(self._values):
                raise InputError(
                    f"batch has {len(batch)} rows and the predictions of {self.name!r} have {len(self._values)}; name "
                    "the column that joins them in key="
                )
            return torch.arange(len(self._values))
        if isinstance(batch, pd.DataFrame):
            if self._key not in batch.columns:
                raise SchemaError(
                    f"batch lacks the column {self._key!r} that joins it to the predictions of {self.name!r}; it has: "
                    f"{', '.join(map(str, batch.columns))}"
                )
            batch = column(batch, str(self._key))
        wanted = pd.Index(batch)
        places = self._keys.get_indexer(wanted)
        missing = np.flatnonzero(places < 0)
        if missing.size:
            raise InputError(
                f"{missing.size} rows of the batch have no prediction in {self.name!r} (first: {wanted[missing[0]]!r})"
            )
        return torch.from_numpy(places.astype(np.int64))

    def _scores(self, batch: Any) -> Tensor:
        return self._run(batch, _first_column, "scores")

    def _chunk_logits(self, chunk: Tensor) -> Tensor:
        return chunk[:, 0] if self.task == "regression" else torch.logit(chunk[:, 0])

    def _chunk_features(self, chunk: Tensor) -> Tensor:
        return chunk[:, 1:]


def _first_column(chunk: Tensor) -> Tensor:
    return chunk[:, 0]


def _numbers(frame: pd.DataFrame, name: str, file: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = column(frame, name)
    if not pd.api.types.is_numeric_dtype(values):
        raise SchemaError(f"column {name!r} of {file.name!r} must be numbers; it is {values.dtype}")
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise InputError(f"column {name!r} of {file.name!r} has {bad.size} missing or infinite values (row {bad[0]})")
    return numbers


def _index(frame: pd.DataFrame, key: str, file: Path) -> pd.Index:
    index = pd.Index(column(frame, key))
    if not index.is_unique or index.hasnans:
        repeated = index[index.duplicated()][:1].tolist()
        raise InputError(
            f"key {key!r} must name every row of {file.name!r} once; got twice or not at all: {repeated or 'missing'}"
        )
    return index
