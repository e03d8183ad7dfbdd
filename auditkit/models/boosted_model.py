"""Gradient-boosted trees in the native files of XGBoost and LightGBM, which hold data only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from auditkit._extras import import_extra
from auditkit.errors import InputError, SchemaError
from auditkit.models.base import FrozenModel, Task, hash_description

CHUNK_ROWS = 65_536
XGBOOST_SUFFIXES = (".json", ".ubj")
LIGHTGBM_SUFFIXES = (".txt", ".lgb")


@final
class BoostedModel(FrozenModel):
    """Boosted trees: scores and logits (the sum over the trees), no features.

    Args:
        path: A file that ``Booster.save_model`` wrote: .json or .ubj of XGBoost, .txt or .lgb of LightGBM.
        name: What reports call it; the file's stem by default.

    Raises:
        InputError: The file is missing or damaged, or its objective is of no known task.
        MissingExtraError: XGBoost or LightGBM is not installed.
    """

    def __init__(self, path: str | Path, *, name: str | None = None) -> None:
        file = Path(path)
        if not file.is_file():
            raise InputError(f"spec: there is no file {str(path)!r}")
        self._trees = _XGBoost(file) if file.suffix.lower() in XGBOOST_SUFFIXES else _LightGBM(file)
        super().__init__(
            name=name or file.stem,
            task=_task(self._trees.objective, file),
            n_features=0,
            chunk_rows=CHUNK_ROWS,
            fingerprint=self._measure(),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that it reads, in order; empty where the file has none."""
        return tuple(self._trees.columns or ())

    def _measure(self) -> str:
        digest = hashlib.sha256(hash_description({"kind": "boosted", "library": self._trees.library}).encode())
        digest.update(self._trees.dump())
        return digest.hexdigest()

    def _chunks(self, batch: Any) -> Iterator[Any]:
        rows = self._ordered(batch)
        for start in range(0, len(rows), self.chunk_rows):
            yield rows[start : start + self.chunk_rows]

    def _ordered(self, batch: Any) -> Any:
        if isinstance(batch, Tensor):
            batch = batch.detach().cpu().numpy()
        if not isinstance(batch, pd.DataFrame):
            return np.asarray(batch)
        names = self._trees.columns
        if not names:
            return batch
        missing = [column for column in names if column not in batch.columns]
        if missing:
            raise SchemaError(
                f"batch lacks the columns {', '.join(missing)} that model {self.name!r} reads; "
                f"it has: {', '.join(map(str, batch.columns))}"
            )
        return batch[names]

    def _chunk_logits(self, chunk: Any) -> Tensor:
        try:
            found = self._trees.predict(chunk, raw=self.task != "regression")
        except (TypeError, ValueError, self._trees.error) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"batch does not suit model {self.name!r}: {reason}") from error
        return torch.from_numpy(np.asarray(found, dtype=np.float64))

    def _chunk_features(self, chunk: Any) -> Tensor:
        raise AssertionError("features() refuses a model with n_features=0")


class _XGBoost:
    library = "xgboost"

    def __init__(self, file: Path) -> None:
        self._xgboost = import_extra("xgboost")
        self.error: type[Exception] = self._xgboost.core.XGBoostError
        self._booster = self._xgboost.Booster()
        try:
            self._booster.load_model(bytearray(file.read_bytes()))
            settings = json.loads(self._booster.save_config())
        except (self.error, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"spec: {str(file)!r} is damaged or no XGBoost model ({reason})") from error
        self.objective = str(settings["learner"]["objective"]["name"])
        self.columns = self._booster.feature_names
        self._is_categorical = "c" in (self._booster.feature_types or ())

    def dump(self) -> bytes:
        return bytes(self._booster.save_raw("ubj"))

    def predict(self, chunk: Any, *, raw: bool) -> Any:
        matrix = self._xgboost.DMatrix(chunk, enable_categorical=self._is_categorical)
        return self._booster.predict(matrix, output_margin=raw)


class _LightGBM:
    library = "lightgbm"

    def __init__(self, file: Path) -> None:
        lightgbm = import_extra("lightgbm")
        self.error: type[Exception] = lightgbm.basic.LightGBMError
        text = _model_text(file)
        try:
            self._booster = lightgbm.Booster(model_str=text)
        except (self.error, ValueError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"spec: {str(file)!r} is damaged or no LightGBM model ({reason})") from error
        line = next((line for line in text.splitlines() if line.startswith("objective=")), "objective=none")
        words = line.removeprefix("objective=").split()
        self.objective = words[0]
        settings = dict(word.split(":", 1) for word in words[1:] if ":" in word)
        self._steepness = float(settings.get("sigmoid", 1.0))
        names = self._booster.feature_name()
        self.columns = None if names == [f"Column_{i}" for i in range(len(names))] else names

    def dump(self) -> bytes:
        return self._booster.model_to_string().encode()

    def predict(self, chunk: Any, *, raw: bool) -> Any:
        found = self._booster.predict(chunk, raw_score=raw)
        return np.asarray(found) * self._steepness if raw else found


def _model_text(file: Path) -> str:
    """The text of a LightGBM model, whole: its reader ends the process, or reads past the end, at some torn files."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"spec: {str(file)!r} is damaged or no LightGBM model (it is not text)") from error
    if not text.startswith("tree\n") or "\nend of trees" not in text:
        raise InputError(f"spec: {str(file)!r} is damaged or no LightGBM model (its first or last part is missing)")
    return text


def _task(objective: str, file: Path) -> Task:
    kind = objective.partition(":")[0]
    if objective in ("binary:logistic", "binary:logitraw", "binary", "cross_entropy", "xentropy"):
        return "binary"
    if objective in ("multi:softprob", "multi:softmax", "multiclass", "softmax"):
        return "multiclass"
    if kind in ("reg", "count", "rank", "regression", "regression_l1", "huber", "fair", "poisson", "quantile"):
        return "regression"
    if kind in ("gamma", "tweedie", "mape", "lambdarank", "rank_xendcg"):
        return "regression"
    raise InputError(f"spec: {file.name!r} was trained for {objective!r}, whose scores are of no known kind")
