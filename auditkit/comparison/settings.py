"""How methods are compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from auditkit._validation import check_probability
from auditkit.baselines import find_method
from auditkit.decision_rules import Rule, check_rule
from auditkit.errors import InputError
from auditkit.finetuning import TuneConfig

REFERENCE = "unconstrained"
DEFAULT_METHODS = (
    "unconstrained", "layer", "calibrated", "head", "projection", "calibrated_projection", "penalty",
    "threshold_optimizer",
)  # fmt: skip
DEFAULT_SPLIT = {"tune": 0.4, "calibrate": 0.3, "test": 0.3}
BINARY_UTILITIES = ("accuracy", "auc", "brier", "log_loss")
REGRESSION_UTILITIES = ("mse", "mae")
LOWER_IS_BETTER = frozenset({"brier", "log_loss", *REGRESSION_UTILITIES})


@dataclass(frozen=True)
class CompareConfig:
    """How methods are compared.

    Attributes:
        methods: Their names; "unconstrained" is always among them, as the reference of paired differences.
        threshold: Scores at or above it are positive decisions; or a rule, which is applied to each method's scores;
            None makes no decisions, as for a regression.
        confidence: Of the intervals.
        guarantee: Confidence of the population guarantee of calibrated methods; None takes no margin off.
        split: Shares of the rows for "tune", "calibrate" and "test".
        tune: How heads are trained; its seed is replaced by the seed of the run. Its score space is that of the scores:
            probabilities, logits, or "identity" for a regression.
        bounds: What corrected scores keep to; None takes those of the score space.
        train_reference: Whether the model as found is a head trained on the tuning rows of every split, for the loss
            alone, in place of the scores of the data set: the setting of an experiment that starts from features.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    threshold: Rule | None = 0.5
    confidence: float = 0.95
    guarantee: float | None = 0.95
    split: tuple[tuple[str, float], ...] = tuple(DEFAULT_SPLIT.items())
    tune: TuneConfig = field(default_factory=TuneConfig)
    bounds: tuple[float | None, float | None] | None = None
    train_reference: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_rule(self.threshold)
        check_probability("confidence", self.confidence)
        for name in self.methods:
            find_method(name)
        if {name for name, _ in self.split} != set(DEFAULT_SPLIT):
            raise InputError(f"split must give a share to each of {', '.join(DEFAULT_SPLIT)}; got {self.split!r}")
        if not self.is_binary and self.threshold is not None:
            raise InputError(
                f"threshold must be None with score_space='identity', since a regression decides nothing; "
                f"got {self.threshold!r}"
            )

    @property
    def all_methods(self) -> tuple[str, ...]:
        """The methods with the reference first."""
        return tuple(dict.fromkeys((REFERENCE, *self.methods)))

    @property
    def is_binary(self) -> bool:
        """Whether outcomes are 0 or 1."""
        return self.tune.score_space != "identity"

    @property
    def utilities(self) -> tuple[str, ...]:
        """What is measured of predictions of this score space."""
        return BINARY_UTILITIES if self.is_binary else REGRESSION_UTILITIES


def fields_of(config: Any) -> dict[str, Any]:
    """The fields of a configuration, by name, as they are."""
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
