"""`compare`: several methods on the same splits, judged on pooled test predictions at score and at decision level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from auditkit._typing import FloatArray
from auditkit._validation import check_binary, check_probability
from auditkit.auditing import AuditResult, evaluate_moments
from auditkit.baselines import FitContext, Prediction, Sample, find_method, share_head
from auditkit.criteria import Criterion, check_criteria
from auditkit.datasets import split_rows
from auditkit.decision_rules import Rule, check_rule
from auditkit.decisions import Decisions, decide
from auditkit.errors import AuditkitError, InputError
from auditkit.finetuning import TuneConfig
from auditkit.metrics import Estimate, Metric, compare_metrics, measure_utility
from auditkit.observations import take_moments
from auditkit.progress import NullProgress, Progress

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "auditkit.comparison/1"
REFERENCE = "unconstrained"
DEFAULT_METHODS = (
    "unconstrained", "layer", "calibrated", "head", "projection", "calibrated_projection", "penalty",
    "threshold_optimizer",
)  # fmt: skip
DEFAULT_SPLIT = {"tune": 0.4, "calibrate": 0.3, "test": 0.3}
UTILITIES = ("accuracy", "auc", "brier", "log_loss")


@dataclass(frozen=True)
class CompareConfig:
    """How methods are compared.

    Attributes:
        methods: Their names; "unconstrained" is always among them, as the reference of paired differences.
        threshold: Scores at or above it are positive decisions; or a rule, which is applied to each method's scores.
        confidence: Of the intervals.
        guarantee: Confidence of the population guarantee of calibrated methods; None takes no margin off.
        split: Shares of the rows for "tune", "calibrate" and "test".
        tune: How heads are trained; its seed is replaced by the seed of the run.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    threshold: Rule = 0.5
    confidence: float = 0.95
    guarantee: float | None = 0.95
    split: tuple[tuple[str, float], ...] = tuple(DEFAULT_SPLIT.items())
    tune: TuneConfig = field(default_factory=TuneConfig)

    def __post_init__(self) -> None:
        check_rule(self.threshold)
        check_probability("confidence", self.confidence)
        for name in self.methods:
            find_method(name)
        if self.tune.score_space != "probability":
            raise InputError(
                f"score_space must be 'probability' in a comparison, whose scores, bounds and tolerances are "
                f"probabilities; got {self.tune.score_space!r}"
            )

    @property
    def all_methods(self) -> tuple[str, ...]:
        """The methods with the reference first."""
        return tuple(dict.fromkeys((REFERENCE, *self.methods)))


@dataclass(frozen=True, eq=False)
class MethodRun:
    """One method on one split.

    Attributes:
        method: Its name.
        seed: Seed of the split and the training.
        audit: Audit of its test predictions; None when it could not be fitted.
        has_scores: Whether it gives scores (else decisions only).
        utility: Metric name → metric, None where not defined.
        error: Why it could not be fitted; empty when it could.
    """

    method: str
    seed: int
    audit: AuditResult | None
    has_scores: bool
    utility: Mapping[str, Metric | None]
    error: str = ""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods × seeds.

    Attributes:
        criteria: What every method enforces.
        audited: What every method is audited for.
        config: How they were compared.
        rows: Rows per part of the split.
        runs: Every method on every split.
    """

    criteria: tuple[Criterion, ...]
    audited: tuple[Criterion, ...]
    config: CompareConfig
    rows: Mapping[str, int]
    runs: tuple[MethodRun, ...]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON-ready values under a versioned ``schema`` key."""
        return {
            "schema": SCHEMA,
            "threshold": self.config.threshold,
            "confidence": self.config.confidence,
            "seeds": sorted({run.seed for run in self.runs}),
            "criteria": [criterion.to_dict() for criterion in self.criteria],
            "audited": [criterion.to_dict() for criterion in self.audited],
            "rows": dict(self.rows),
            "methods": [_summarize(self, name) for name in self.config.all_methods],
        }

    def to_frame(self) -> pd.DataFrame:
        """One row per method and seed: gap per audited criterion, selection-rate gap and utilities."""
        import pandas as pd

        return pd.DataFrame([_frame_row(run) for run in self.runs])


def compare(
    dataset: Sample,
    criteria: Criterion | Sequence[Criterion],
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    audited: Sequence[Criterion] | None = None,
    config: CompareConfig | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Fit every method on the same splits and judge it on the pooled test rows.

    Args:
        dataset: Scores, labels, groups and features of rows that the frozen model was not trained on.
        criteria: What every method enforces.
        methods: Their names; None takes those of ``config``.
        seeds: One split and one training per seed.
        audited: What the predictions are audited for; None audits what is enforced.
        config: Everything else.
        progress: Where to report.

    Returns:
        Gaps, decisions, utilities and paired differences to the model as found. A method that cannot be fitted on these
        rows is listed with the reason.

    Raises:
        InputError: Labels not binary, an unknown method, an impossible split.
    """
    settings = config or CompareConfig()
    if methods is not None:
        settings = CompareConfig(**{**_fields(settings), "methods": tuple(methods)})
    enforced = check_criteria(criteria)
    checked = enforced if audited is None else check_criteria(audited)
    check_binary("labels", dataset.labels)
    runs: list[MethodRun] = []
    rows: dict[str, int] = {}
    for seed in seeds:
        parts = split_rows(dataset.n_rows, fractions=dict(settings.split), seed=seed)
        rows = {name: len(part) for name, part in parts.items()}
        context = make_context(dataset, parts, enforced, settings, seed=seed, progress=progress or NullProgress())
        runs += compare_on_split(context, dataset.take(parts["test"]), checked, settings, seed=seed)
    return Comparison(enforced, checked, settings, rows, tuple(runs))


def make_context(
    dataset: Sample,
    parts: Mapping[str, np.ndarray],
    criteria: tuple[Criterion, ...],
    config: CompareConfig,
    *,
    seed: int,
    progress: Progress,
) -> FitContext:
    """What methods are fitted with on one split, with a head that they share where features are known."""
    tune = TuneConfig(**{**_fields(config.tune), "seed": seed})
    context = FitContext(
        dataset.take(parts["tune"]), dataset.take(parts["calibrate"]), criteria, tune, config.guarantee, progress
    )
    return share_head(context)


def compare_on_split(
    context: FitContext, test: Sample, audited: Sequence[Criterion], config: CompareConfig, *, seed: int
) -> list[MethodRun]:
    """Every method on one split.

    Args:
        context: What the methods are fitted with.
        test: Rows that they are judged on.
        audited: What their predictions are audited for.
        config: How to compare.
        seed: Seed of the split.

    Returns:
        One run per method, the reference first.
    """
    runs = []
    with context.progress.stage("comparing methods", len(config.all_methods)) as advance:
        for name in config.all_methods:
            runs.append(_run(name, context, test, audited, config, seed))
            advance(1)
    return runs


def _run(
    name: str, context: FitContext, test: Sample, audited: Sequence[Criterion], config: CompareConfig, seed: int
) -> MethodRun:
    method = find_method(name)
    try:
        prediction = method.fit(context)(test)
    except AuditkitError as error:
        return MethodRun(name, seed, None, False, dict.fromkeys(UTILITIES), str(error))
    made = None if prediction.scores is None else decide(prediction.scores, config.threshold)
    decisions = made.values if prediction.decisions is None and made is not None else prediction.decisions
    utility = measure_utility(test.labels, scores=prediction.scores, decisions=decisions)
    outcome = _audit(prediction, decisions, made, test, audited, config, seed)
    return MethodRun(name, seed, outcome, prediction.scores is not None, utility)


def _audit(
    prediction: Prediction,
    decisions: FloatArray | None,
    made: Decisions | None,
    test: Sample,
    audited: Sequence[Criterion],
    config: CompareConfig,
    seed: int,
) -> AuditResult:
    """Audit of the scores, or of the decisions in their place where a method gives no scores."""
    scores = prediction.scores if prediction.scores is not None else decisions
    if scores is None:
        raise InputError("the method gave neither scores nor decisions")
    moments = take_moments(scores, test.groups, audited, labels=test.labels, decisions=decisions)
    cut = made if prediction.decisions is None else None
    return evaluate_moments(
        moments,
        audited,
        threshold=None if cut is None else cut.threshold,
        decision_rule=None if cut is None else cut.rule,
        confidence=config.confidence,
        seed=seed,
    )


def _summarize(comparison: Comparison, name: str) -> dict[str, Any]:
    runs = [run for run in comparison.runs if run.method == name]
    references = {run.seed: run for run in comparison.runs if run.method == REFERENCE}
    method, confidence = find_method(name), comparison.config.confidence
    first = runs[0]
    fitted = [run for run in runs if run.audit is not None]
    return {
        "name": name,
        "title": method.title,
        "description": method.description,
        "level": "scores" if first.has_scores else "decisions",
        "needs_attributes": method.needs_attributes,
        "needs_labels": method.needs_batch and any(criterion.needs_labels for criterion in comparison.criteria),
        "needs_batch": method.needs_batch,
        "error": first.error,
        "gaps": _gaps(fitted) if first.has_scores else [],
        "decisions": [] if first.audit is None else [table.to_dict() for table in first.audit.decisions],
        "utility": {
            key: _pool([_estimate(run.utility[key], confidence) for run in runs], confidence) for key in UTILITIES
        },
        "difference": {
            key: _pool(
                [
                    compare_metrics(run.utility[key], references[run.seed].utility[key], confidence=confidence)
                    for run in runs
                ],
                confidence,
            )
            for key in UTILITIES
        },
    }


def _gaps(runs: Sequence[MethodRun]) -> list[dict[str, Any]]:
    """Gap per audited criterion: of the one split, or the mean over several (then without interval and verdict)."""
    findings = [run.audit.findings for run in runs if run.audit is not None]
    rows = []
    for position in range(len(findings[0]) if findings else 0):
        mine = [finding[position] for finding in findings]
        single = mine[0] if len(mine) == 1 else None
        known = [finding.gap for finding in mine if finding.gap is not None]
        rows.append(
            {
                "criterion": mine[0].criterion.name,
                "tolerance": mine[0].criterion.tolerance,
                "gap": float(np.mean(known)) if known else None,
                "interval": None if single is None or single.interval is None else list(single.interval),
                "verdict": None if single is None else single.verdict,
            }
        )
    return rows


def _estimate(metric: Metric | None, confidence: float) -> Estimate | None:
    return None if metric is None else metric.estimate(confidence=confidence)


def _pool(estimates: Sequence[Estimate | None], confidence: float) -> dict[str, float] | None:
    """The estimate of one split, or the mean over several splits with a t interval over the splits."""
    known = [estimate for estimate in estimates if estimate is not None]
    if not known:
        return None
    if len(known) == 1:
        return asdict(known[0])
    values = np.array([estimate.value for estimate in known])
    half = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return asdict(Estimate(float(values.mean()), float(values.mean() - half), float(values.mean() + half)))


def _frame_row(run: MethodRun) -> dict[str, Any]:
    row: dict[str, Any] = {"method": run.method, "seed": run.seed}
    if run.audit is not None:
        row |= {
            f"gap {finding.criterion.name}": finding.gap if run.has_scores else None for finding in run.audit.findings
        }
        row |= {f"rate gap {'×'.join(table.attributes)}": table.rate_gap for table in run.audit.decisions}
    return row | {key: None if metric is None else metric.value for key, metric in run.utility.items()}


def _fields(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
