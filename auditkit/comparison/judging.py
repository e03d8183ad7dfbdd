"""One split: what methods are fitted with, what they predict, and how that is judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import expit

from auditkit._typing import FloatArray
from auditkit.auditing import AuditResult, evaluate_moments
from auditkit.baselines import FitContext, Prediction, Sample, find_method, fit_unconstrained
from auditkit.baselines.base import frozen_features
from auditkit.clusters import check_clusters
from auditkit.comparison.settings import CompareConfig, fields_of
from auditkit.constraints import measure_gaps
from auditkit.criteria import Criterion
from auditkit.decisions import Decisions, decide
from auditkit.errors import AuditkitError, InputError, MissingExtraError
from auditkit.finetuning import TuneConfig
from auditkit.metrics import Metric, measure_errors, measure_utility
from auditkit.observations import take_moments
from auditkit.progress import Progress


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method gave for the test rows of one split.

    Attributes:
        prediction: Its prediction; None when it could not be fitted.
        error: Why not; empty when it could.
        is_final: Whether asking again would give the same; a package that is missing may be there next time.
    """

    prediction: Prediction | None
    error: str = ""
    is_final: bool = True


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
        prediction: What it predicts for the test rows; None when it could not be fitted.
        score_gaps: Enforced criterion → largest gap of the pooled test scores.
        decision_gaps: The same of the pooled test decisions; no entry for EER, which decisions cannot satisfy.
    """

    method: str
    seed: int
    audit: AuditResult | None
    has_scores: bool
    utility: Mapping[str, Metric | None]
    error: str = ""
    prediction: Prediction | None = None
    score_gaps: Mapping[str, float] = field(default_factory=dict)
    decision_gaps: Mapping[str, float] = field(default_factory=dict)


def make_context(
    dataset: Sample,
    parts: Mapping[str, np.ndarray],
    criteria: tuple[Criterion, ...],
    config: CompareConfig,
    *,
    seed: int,
    progress: Progress,
) -> FitContext:
    """What methods are fitted with on one split, before a head is tuned."""
    tune = TuneConfig(**{**fields_of(config.tune), "seed": seed})
    return FitContext(
        dataset.take(parts["tune"]), dataset.take(parts["calibrate"]), criteria, tune, config.guarantee, progress,
        bounds=config.bounds,
    )  # fmt: skip


def train_reference(context: FitContext, test: Sample) -> tuple[FitContext, Sample]:
    """The context and the test rows with the scores of a head trained for the loss alone in place of the model's."""
    head = fit_unconstrained(context)

    def rescored(sample: Sample) -> Sample:
        return replace(sample, scores=head.predict(frozen_features(sample)))

    return replace(context, tune=rescored(context.tune), calibrate=rescored(context.calibrate)), rescored(test)


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
    predicted = predict_on_split(context, test, config.all_methods)
    return [judge(name, outcome, test, context.criteria, audited, config, seed=seed) for name, outcome in predicted]


def predict_on_split(context: FitContext, test: Sample, methods: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
    """Fit every method and predict the test rows, one after the other."""
    with context.progress.stage("comparing methods", len(methods)) as advance:
        for name in methods:
            try:
                outcome = Outcome(find_method(name).fit(context)(test))
            except MissingExtraError as error:
                outcome = Outcome(None, str(error), is_final=False)
            except AuditkitError as error:
                outcome = Outcome(None, str(error))
            yield name, outcome
            advance(1)


def judge(
    name: str,
    outcome: Outcome,
    test: Sample,
    enforced: Sequence[Criterion],
    audited: Sequence[Criterion],
    config: CompareConfig,
    *,
    seed: int,
) -> MethodRun:
    """Gaps, decisions and utility of what a method predicts for the pooled test rows."""
    prediction = outcome.prediction
    if prediction is None:
        return MethodRun(name, seed, None, False, dict.fromkeys(config.utilities), outcome.error)
    scores = prediction.scores
    made = None if scores is None or config.threshold is None else decide(scores, config.threshold)
    decisions = made.values if prediction.decisions is None and made is not None else prediction.decisions
    return MethodRun(
        method=name,
        seed=seed,
        audit=_audit(prediction, decisions, made, test, audited, config, seed),
        has_scores=scores is not None,
        utility=_measure(test, scores, decisions, config),
        prediction=prediction,
        score_gaps=_gaps(scores, test, enforced),
        decision_gaps=_gaps(decisions, test, [criterion for criterion in enforced if criterion.family == "ECP"]),
    )


def _measure(
    test: Sample, scores: FloatArray | None, decisions: FloatArray | None, config: CompareConfig
) -> dict[str, Metric | None]:
    labels, clusters = test.labels, check_clusters(test.clusters, n_rows=test.n_rows)
    if clusters is not None and clusters.max(initial=0) == 0:
        raise InputError(
            "clusters names one person for all test rows, and nothing can be estimated from one; pass more"
        )
    if not config.is_binary:
        if scores is None:
            return dict.fromkeys(config.utilities)
        return dict(measure_errors(labels, scores=scores, clusters=clusters))
    is_logit = scores is not None and config.tune.score_space == "logit"
    probabilities = expit(scores) if is_logit else scores
    return measure_utility(labels, scores=probabilities, decisions=decisions, clusters=clusters)


def _gaps(values: FloatArray | None, test: Sample, criteria: Sequence[Criterion]) -> dict[str, float]:
    if values is None or not criteria:
        return {}
    return dict(measure_gaps(values, test.groups, criteria, labels=test.labels))


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
    moments = take_moments(
        scores, test.groups, audited, labels=test.labels, decisions=decisions, clusters=test.clusters
    )
    cut = made if prediction.decisions is None else None
    return evaluate_moments(
        moments,
        audited,
        threshold=None if cut is None else cut.threshold,
        decision_rule=None if cut is None else cut.rule,
        confidence=config.confidence,
        seed=seed,
    )
