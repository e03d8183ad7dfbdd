"""scikit-learn estimators: heads trained through the fairness layer, with `fit(X, y, groups=…)`.

    min_θ  mean loss( P(h_θ(x)), y )

`predict` works row by row and looks at no group: it gives the head's own scores. What the layer guarantees on the rows
of a batch, `auditkit.calibrate` turns into corrections for single rows. Source: arXiv 2605.17118, end-to-end training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from auditkit._typing import FloatArray, VectorLike
from auditkit.criteria import Criterion, check_criteria
from auditkit.errors import InputError
from auditkit.groups import LABEL, Groups
from auditkit.progress import NullProgress
from auditkit.tuning.config import TuneConfig
from auditkit.tuning.losses import PlainLoss
from auditkit.tuning.rows import SourceRows, check_rows
from auditkit.tuning.training import make_loss, train

SETTINGS = (
    "hidden", "epochs", "optimizer", "learning_rate", "weight_decay", "batch_size", "mode", "validation_fraction",
    "patience",
)  # fmt: skip
"""Parameters of the estimators that `TuneConfig` has under the same names."""

RowGroups = Groups | Mapping[str, VectorLike] | pd.DataFrame | VectorLike


class _FairHead(BaseEstimator):
    """What both estimators share: parameters, groups, training."""

    def __init__(
        self,
        criteria: Criterion | Sequence[Criterion] | None = None,
        *,
        hidden: int | None = None,
        epochs: int = 300,
        optimizer: Literal["adamw", "lbfgs"] = "adamw",
        learning_rate: float = 0.05,
        weight_decay: float = 1e-4,
        batch_size: int | None = None,
        mode: Literal["layer", "primal_dual", "affine"] = "layer",
        validation_fraction: float = 0.2,
        patience: int = 40,
        random_state: Any = None,
    ) -> None:
        self.criteria = criteria
        self.hidden = hidden
        self.epochs = epochs
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.mode = mode
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state

    def _train(
        self,
        features: FloatArray,
        labels: FloatArray,
        groups: RowGroups | None,
        clusters: VectorLike | None,
        **space: Any,
    ) -> None:
        criteria, assigned = self._check_constraint(groups, len(features))
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        config = TuneConfig(seed=int(seed), **{name: getattr(self, name) for name in SETTINGS}, **space)
        rows: SourceRows = check_rows(features, labels, assigned, config, clusters=clusters)
        loss = make_loss(criteria, config) if criteria else PlainLoss(config)
        self.head_ = train(rows, loss, criteria, config, NullProgress())
        self.history_ = self.head_.history
        self.n_iter_ = len(self.history_)

    def _check_constraint(self, groups: RowGroups | None, n_rows: int) -> tuple[tuple[Criterion, ...], Groups]:
        """The criteria and the groups that they are about; no criteria and one group where nothing is enforced."""
        if self.criteria is None and groups is None:
            return (), Groups({"all": np.zeros(n_rows, dtype=np.int64)})
        if self.criteria is None:
            raise InputError(
                "groups were given, but the estimator has no criteria to enforce; pass e.g. "
                'criteria=[ECP("sex", tolerance=0.02)], or leave groups out'
            )
        if groups is None:
            raise InputError(
                "the estimator has criteria, and fit needs the groups that they are about; pass groups= to fit, e.g. a "
                "DataFrame of the attributes"
            )
        listed = check_criteria(self.criteria)
        assigned = _as_groups(groups, listed)
        if assigned.n_rows != n_rows:
            raise InputError(f"groups must have {n_rows} rows, as many as X has; got {assigned.n_rows}")
        return listed, assigned

    def _scores(self, X: Any) -> FloatArray:  # noqa: N803
        check_is_fitted(self)
        return self.head_.predict(validate_data(self, X, reset=False, dtype=np.float64))


class FairHeadClassifier(ClassifierMixin, _FairHead):
    """A linear or one-hidden-layer classifier trained through the fairness layer.

        min_θ  mean log-loss( P(σ(h_θ(x))), y )

    Two classes give one probability per row, of the second class; the criteria are about it. More classes give a
    softmax, and the criteria hold for the probability of every class. Criteria that look at the label see the classes
    as 0 … k − 1, in the order of ``classes_``.

    Args:
        criteria: What the projected probabilities of the training rows must satisfy; None enforces nothing: then the
            estimator is a plain, unconstrained head, and `fit` takes no groups.
        hidden: Width of one hidden layer; None is a linear head.
        epochs: Most passes over the rows.
        optimizer: "adamw" or "lbfgs".
        learning_rate: Of the optimizer.
        weight_decay: Of the optimizer.
        batch_size: Rows per step; None takes all rows at once.
        mode: "layer", "primal_dual" or "affine", as in `TuneConfig`.
        validation_fraction: Share of the rows held back for early stopping.
        patience: Epochs without a better validation loss before stopping.
        random_state: Seed, or a NumPy RandomState.

    Attributes:
        classes_: The classes, sorted.
        head_: The `FairHead`.
        history_: One record per epoch.
        n_iter_: Epochs that were run.
        n_features_in_: Width of X.
    """

    def fit(
        self,
        X: Any,  # noqa: N803
        y: Any,
        groups: RowGroups | None = None,
        clusters: VectorLike | None = None,
    ) -> FairHeadClassifier:
        """Train the head.

        Args:
            X: Features, shape (n, d).
            y: Classes, shape (n,).
            groups: Attributes of the same rows: a DataFrame, a mapping of columns, a `Groups`, or one column where the
                criteria name a single attribute; needed with criteria. Cross-validation cuts DataFrames and arrays
                into folds, not mappings or `Groups`.
            clusters: Whom each row is of, shape (n,), where several rows are of one person: those held back for early
                stopping are then persons.

        Returns:
            The estimator.

        Raises:
            InputError: Groups without criteria, criteria without groups, or rows that cannot be trained on.
            InfeasibleError: The criteria cannot hold together.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)  # noqa: N806
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y holds one class only, {self.classes_[0]!r}; a classifier needs at least two")
        self._train(
            X, codes.astype(np.float64), groups, clusters, score_space="probability", classes=len(self.classes_)
        )
        return self

    def predict_proba(self, X: Any) -> FloatArray:  # noqa: N803
        """Probability of every class, row by row and without projection, shape (n, k)."""
        scores = self._scores(X)
        return np.column_stack([1.0 - scores, scores]) if scores.ndim == 1 else scores

    def predict(self, X: Any) -> np.ndarray[Any, Any]:  # noqa: N803
        """The most probable class of every row, shape (n,)."""
        scores = self.predict_proba(X)
        return self.classes_[scores.argmax(axis=1)]


class FairHeadRegressor(RegressorMixin, _FairHead):
    """A linear or one-hidden-layer regressor trained through the fairness layer.

        min_θ  mean (P(h_θ(x)) − y)²

    Labels are standardised for the training, and tolerances with them; predictions are in the unit of y.

    Args:
        criteria: What the projected predictions of the training rows must satisfy, in the unit of y; None enforces
            nothing, and `fit` takes no groups.
        hidden: As in `FairHeadClassifier`.
        epochs: As in `FairHeadClassifier`.
        optimizer: As in `FairHeadClassifier`.
        learning_rate: As in `FairHeadClassifier`.
        weight_decay: As in `FairHeadClassifier`.
        batch_size: As in `FairHeadClassifier`.
        mode: As in `FairHeadClassifier`.
        validation_fraction: As in `FairHeadClassifier`.
        patience: As in `FairHeadClassifier`.
        random_state: As in `FairHeadClassifier`.

    Attributes:
        head_: The `FairHead`, of standardised labels: y ≈ offset_ + scale_·h(x).
        offset_: Mean of y.
        scale_: Standard deviation of y; 1 where y is constant.
        history_: One record per epoch, in standardised units.
        n_iter_: Epochs that were run.
        n_features_in_: Width of X.
    """

    def fit(
        self,
        X: Any,  # noqa: N803
        y: Any,
        groups: RowGroups | None = None,
        clusters: VectorLike | None = None,
    ) -> FairHeadRegressor:
        """Train the head.

        Args:
            X: Features, shape (n, d).
            y: Labels, shape (n,).
            groups: As in `FairHeadClassifier.fit`.
            clusters: As in `FairHeadClassifier.fit`.

        Returns:
            The estimator.

        Raises:
            InputError: Groups without criteria, criteria without groups, or rows that cannot be trained on.
            InfeasibleError: The criteria cannot hold together.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)  # noqa: N806
        y = y.astype(np.float64)
        self.offset_, spread = float(y.mean()), float(y.std())
        self.scale_ = spread if spread > 0 else 1.0
        self._train(X, (y - self.offset_) / self.scale_, groups, clusters, score_space="identity")
        return self

    def _check_constraint(self, groups: RowGroups | None, n_rows: int) -> tuple[tuple[Criterion, ...], Groups]:
        listed, assigned = super()._check_constraint(groups, n_rows)
        return tuple(c.with_tolerance(c.tolerance / self.scale_) for c in listed), assigned

    def predict(self, X: Any) -> FloatArray:  # noqa: N803
        """Predictions row by row and without projection, shape (n,)."""
        scores = self._scores(X)
        return self.offset_ + self.scale_ * scores


def _as_groups(groups: RowGroups, criteria: Sequence[Criterion]) -> Groups:
    if isinstance(groups, Groups):
        return groups
    if isinstance(groups, Mapping | pd.DataFrame):
        return Groups(groups)
    names = list(dict.fromkeys(name for criterion in criteria for name in criterion.columns if name != LABEL))
    array = np.asarray(groups)
    if array.ndim == 1 and len(names) == 1:
        return Groups({names[0]: array})
    raise InputError(
        f"groups is one array of shape {array.shape}, and the criteria name {', '.join(names)}; pass a DataFrame or a "
        "mapping with these columns"
    )
