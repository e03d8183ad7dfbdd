"""A scikit-learn estimator or pipeline kept in a .skops file, which names every type before it constructs any."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from auditkit._extras import import_extra
from auditkit.errors import InputError, SchemaError, UntrustedFileError
from auditkit.models.base import FrozenModel, Task

CHUNK_ROWS = 65_536


@final
class SkopsModel(FrozenModel):
    """A fitted scikit-learn classifier or regressor.

    It gives scores and logits (the log-odds of its probabilities), and no features: an estimator has no last layer.

    Args:
        estimator: With ``predict_proba`` for a classifier, ``predict`` for a regressor.
        name: What reports call it.
        fingerprint: Hash of the file that it came from.
    """

    def __init__(self, estimator: Any, *, name: str, fingerprint: str) -> None:
        self._estimator = estimator
        super().__init__(
            name=name, task=_task(estimator, name), n_features=0, chunk_rows=CHUNK_ROWS, fingerprint=fingerprint
        )

    @classmethod
    def load(cls, path: str | Path, *, trust: Sequence[str] = ()) -> SkopsModel:
        """Load a .skops file.

        Args:
            path: The file.
            trust: Names of types it may construct beyond those that skops knows to be harmless.

        Raises:
            UntrustedFileError: It would construct a type that is not trusted; the message lists them.
            InputError: The file is missing or damaged, or holds no classifier or regressor.
            MissingExtraError: skops is not installed.
        """
        file = Path(path)
        if not file.is_file():
            raise InputError(f"spec: there is no file {str(path)!r}")
        io = import_extra("skops.io")
        try:
            unknown = sorted(set(io.get_untrusted_types(file=file)) - set(trust))
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise InputError(f"spec: {str(path)!r} is damaged or no skops file ({error}); save it again") from error
        if unknown:
            raise UntrustedFileError(
                f"spec: {file.name!r} would construct {', '.join(unknown)}; if you trust all of these types, "
                f"pass trust={unknown!r}"
            )
        estimator = io.load(file, trusted=list(trust))
        return cls(estimator, name=file.stem, fingerprint=hashlib.sha256(file.read_bytes()).hexdigest())

    def _chunks(self, batch: Any) -> Iterator[Any]:
        rows = self._ordered(batch)
        for start in range(0, len(rows), self.chunk_rows):
            yield rows[start : start + self.chunk_rows]

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


def _task(estimator: Any, name: str) -> Task:
    from sklearn.base import is_classifier, is_regressor

    if is_regressor(estimator):
        return "regression"
    if not is_classifier(estimator) or not hasattr(estimator, "predict_proba"):
        raise InputError(
            f"model {name!r} must be a regressor or a classifier with predict_proba; got {type(estimator)}"
        )
    return "binary" if len(estimator.classes_) == 2 else "multiclass"
