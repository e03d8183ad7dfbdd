"""A fitted scikit-learn estimator or pipeline, as it was given in Python or found in a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from auditkit.errors import InputError, SchemaError
from auditkit.models.base import FrozenModel, Task
from auditkit.models.object_hash import hash_object

CHUNK_ROWS = 65_536


@final
class EstimatorModel(FrozenModel):
    """A fitted scikit-learn classifier or regressor.

    It gives scores and logits (the log-odds of its probabilities), and no features: an estimator has no last layer.
    The fingerprint covers the types and the state of every part, whatever file they came from.

    Args:
        estimator: With ``predict_proba`` for a classifier, ``predict`` for a regressor.
        name: What reports call it.
        trust: What had to be trusted to get it; recorded with the model.

    Raises:
        InputError: It is neither, or not fitted.
    """

    def __init__(self, estimator: Any, *, name: str, trust: str = "") -> None:
        self._estimator = estimator
        task = _task(estimator, name)
        super().__init__(
            name=name, task=task, n_features=0, chunk_rows=CHUNK_ROWS, fingerprint=self._measure(), trust=trust
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that it reads, in order; empty where it was fitted without names."""
        return tuple(map(str, getattr(self._estimator, "feature_names_in_", ())))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The values of the outcome that it was fitted on; none for a regression."""
        return tuple(map(str, getattr(self._estimator, "classes_", ())))

    @property
    def gives_probabilities(self) -> bool:
        """Whether it is a classifier."""
        return self.task != "regression"

    def _measure(self) -> str:
        return hash_object(self._estimator)

    def _chunks(self, batch: Any) -> Iterator[Any]:
        rows = _positional(self._ordered(batch))
        for start in range(0, rows.shape[0], self.chunk_rows):
            yield rows[start : start + self.chunk_rows]

    def _count(self, chunk: Any) -> int:
        return chunk.shape[0]

    def _ordered(self, batch: Any) -> Any:
        names = getattr(self._estimator, "feature_names_in_", None)
        if names is None or not hasattr(batch, "columns"):
            return batch
        missing = [str(name) for name in names if name not in batch.columns]
        if missing:
            raise SchemaError(
                f"batch lacks the columns {', '.join(missing)} that model {self.name!r} reads; "
                f"it has: {', '.join(map(str, batch.columns))}"
            )
        return batch[list(names)]

    def _scores(self, batch: Any) -> Tensor:
        # Probabilities of exactly 0 or 1 are legitimate here (a forest gives them), though their log-odds are infinite.
        return self._run(batch, self._chunk_scores, "scores")

    def _chunk_scores(self, chunk: Any) -> Tensor:
        try:
            found = (
                self._estimator.predict(chunk) if self.task == "regression" else self._estimator.predict_proba(chunk)
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"batch does not suit model {self.name!r}: {error}") from error
        scores = torch.from_numpy(np.asarray(found, dtype=np.float64))
        return scores[:, 1] if self.task == "binary" else scores

    def _chunk_logits(self, chunk: Any) -> Tensor:
        scores = self._chunk_scores(chunk)
        if self.task == "regression":
            return scores
        return torch.logit(scores) if self.task == "binary" else torch.log(scores)

    def _chunk_features(self, chunk: Any) -> Tensor:
        raise AssertionError("features() refuses a model with n_features=0")


def _positional(batch: Any) -> Any:
    """What can be cut into rows: a sparse matrix, an array or a frame stays; a list becomes an array."""
    return batch if hasattr(batch, "shape") else np.asarray(batch)


def _task(estimator: Any, name: str) -> Task:
    from sklearn.base import is_classifier, is_regressor

    if is_regressor(estimator):
        return "regression"
    if not is_classifier(estimator) or not hasattr(estimator, "predict_proba"):
        raise InputError(
            f"model {name!r} must be a regressor or a classifier with predict_proba; got {type(estimator)}"
        )
    if not hasattr(estimator, "classes_"):
        raise InputError(f"model {name!r} is not fitted; fit it, then pass it")
    return "binary" if len(estimator.classes_) == 2 else "multiclass"
