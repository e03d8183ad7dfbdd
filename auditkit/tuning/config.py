"""How a head is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from auditkit._validation import check_probability
from auditkit.errors import InputError
from auditkit.heads import ScoreSpace
from auditkit.projection import DIVERGENCES, Divergence

CHOICES: dict[str, tuple[str, ...]] = {
    "score_space": ("probability", "logit", "identity"),
    "optimizer": ("adamw", "lbfgs"),
    "mode": ("layer", "primal_dual", "affine"),
    "divergence": DIVERGENCES,
}


@dataclass(frozen=True)
class TuneConfig:
    """How a head is trained.

    Attributes:
        seed: Seed of the validation split, the initial weights and the batches.
        score_space: What the layer constrains: "probability" (in [0, 1]), "logit", or "identity" (regression).
        classes: Number of classes of the label; above 2 the head has one output per class (a softmax in the space
            "probability"), and the criteria hold for every column.
        hidden: Width of one hidden layer; None is a linear head.
        epochs: Most passes over the rows.
        optimizer: "adamw", or "lbfgs" with a strong Wolfe line search, for smooth losses on all rows at once.
        learning_rate: Of AdamW; the length of the first L-BFGS step.
        weight_decay: Of AdamW; with L-BFGS the loss gains ½·weight_decay·‖θ‖².
        anchor: Pull towards the frozen model's scores where they are given as the start, in rows: the loss gains
            (anchor / n)·‖θ − θ₀‖² over the linear weights of the standardised features, so that few rows move the head
            less than many.
        batch_size: Rows per step; None takes all rows at once, the setting in which the constraint means most. Batches
            have the proportions of the groups (and labels) of all rows.
        mode: "layer" projects every batch; "primal_dual", for small batches, moves scores by multipliers that are
            carried from batch to batch (`auditkit.tuning.primal_dual`); "affine", for criteria given the label,
            corrects a batch as `auditkit.calibrate` will, without the label of a row (`auditkit.tuning.affine`).
        divergence: What the layer keeps small: "euclidean", half the squared differences, or "log_loss", the log-loss
            that it adds, for logits of two classes; then logits keep to `LOGIT_BOUNDS`.
        dual_step: η₀ of the multipliers in the primal–dual mode; their t-th step has length η₀/√t in units of the
            largest step that cannot overshoot.
        validation_fraction: Share of the rows held back for early stopping.
        patience: Epochs without a better validation loss (at equal constraint) before stopping.
    """

    seed: int = 0
    score_space: ScoreSpace = "probability"
    classes: int = 2
    hidden: int | None = None
    epochs: int = 300
    optimizer: Literal["adamw", "lbfgs"] = "adamw"
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    anchor: float = 40.0
    batch_size: int | None = None
    mode: Literal["layer", "primal_dual", "affine"] = "layer"
    divergence: Divergence = "euclidean"
    dual_step: float = 0.5
    validation_fraction: float = 0.2
    patience: int = 40

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                words = ", ".join(map(repr, allowed[:-1])) + f" or {allowed[-1]!r}"
                raise InputError(f"{name} must be {words}; got {getattr(self, name)!r}")
        for name, least in (("epochs", 1), ("patience", 1), ("classes", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}; got {getattr(self, name)!r}")
        for name in ("anchor", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must be at least 0; got {getattr(self, name)!r}")
        for name in ("hidden", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, or None; got {getattr(self, name)!r}")
        for name in ("learning_rate", "dual_step"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0; got {getattr(self, name)!r}")
        check_probability("validation_fraction", self.validation_fraction)
        self._check_together()

    def _check_together(self) -> None:
        if self.classes > 2 and self.score_space == "identity":
            raise InputError("score_space 'identity' is regression and has no classes; use 'probability' or 'logit'")
        if self.mode != "layer" and (self.classes > 2 or self.optimizer == "lbfgs"):
            raise InputError(f"mode {self.mode!r} takes one score per row and the optimizer 'adamw'; use mode 'layer'")
        if self.divergence != "euclidean" and (self.score_space, self.classes, self.mode) != ("logit", 2, "layer"):
            raise InputError(
                f"divergence {self.divergence!r} is for score_space 'logit', two classes and mode 'layer'; got "
                f"{self.score_space!r}, {self.classes} and {self.mode!r}"
            )

    @property
    def outputs(self) -> int:
        """Outputs of the head."""
        return self.classes if self.classes > 2 else 1

    @property
    def columns(self) -> int | None:
        """K of scores of shape (n, k); None for scores of shape (n,)."""
        return self.classes if self.classes > 2 else None

    @property
    def layer_options(self) -> dict[str, Any]:
        """Bounds or simplex of the layer in this score space, and its divergence."""
        if self.divergence != "euclidean":
            return {"bounds": LOGIT_BOUNDS, "divergence": self.divergence}
        if self.score_space != "probability":
            return {}
        return {"simplex": True} if self.classes > 2 else {"bounds": PROBABILITY_BOUNDS}


PROBABILITY_BOUNDS = (1e-3, 1 - 1e-3)
"""Bounds of projected probabilities: the log-loss of a probability of exactly 0 or 1 can be infinite."""

LOGIT_BOUNDS = (-math.log(999.0), math.log(999.0))
"""The logits of these, within which log-loss is spread over rows."""
