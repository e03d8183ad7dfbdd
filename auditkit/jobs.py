"""The jobs behind the command line and the app: read, score, audit, tune, calibrate, compare, write a run folder.

A run folder appears whole or not at all. Everything in it but ``timing.json`` (and the dates that the report takes from
it, with the report's hashes in the manifest) is the same for the same plan, data, model, seed and versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from auditkit._typing import IntArray
from auditkit._validation import check_binary
from auditkit.auditing import AuditResult
from auditkit.baselines import FitContext, Sample, share_head
from auditkit.baselines.base import frozen_features
from auditkit.certificates import certify_projection
from auditkit.comparison import (
    CompareConfig,
    Comparison,
    MethodRun,
    compare_at,
    compare_on_split,
    describe_design,
    make_context,
    train_reference,
)
from auditkit.config import AuditFile, sample_config
from auditkit.criteria import Criterion
from auditkit.deployment import Calibration
from auditkit.errors import InputError
from auditkit.finetuning import TuneConfig
from auditkit.heads import FairHead
from auditkit.plans import Plan, PlanCheck
from auditkit.predictions import audit_predictions
from auditkit.progress import NullProgress, Progress
from auditkit.run_folder import Clock, check_out, make_record, write_run
from auditkit.splitting import check_leakage, read_rule, split_subject
from auditkit.subjects import Subject, audit_sample, load_subject
from auditkit.tuning.frontiers import sweep

REFERENCE_HEAD = (
    "A head trained on the frozen features for the loss alone, on the tuning rows: the model {has} and no score of its "
    "own."
)
"""What the model as found is where a job has features only."""


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a job leaves behind.

    Attributes:
        outcome: Audit of the model as found.
        after: Audit of the tuned and calibrated predictions on the test rows; None when nothing was tuned.
        enforced: The criteria that the tuning enforced.
        comparison: What comparison.json holds; None when nothing was compared.
        folder: The run folder.
        frontier: What frontier.json holds; None where the audit file asks for no further tolerances.
    """

    outcome: AuditResult
    after: AuditResult | None
    enforced: tuple[Criterion, ...]
    comparison: dict[str, Any] | None
    folder: Path
    frontier: dict[str, Any] | None = None


def run_demo(*, out: str | Path, seed: int = 0, progress: Progress | None = None) -> RunResult:
    """Audit, tune, calibrate and compare on the bundled sample model and its held-out rows.

    Args:
        out: The run folder to write.
        seed: Seed of the split, the training and the simulations.
        progress: Where to report.

    Returns:
        The run.
    """
    config = sample_config().model_copy(update={"seed": seed})
    return _run("demo", config, out=out, progress=progress, compared=True)


def run_audit(config: AuditFile, *, out: str | Path, progress: Progress | None = None) -> RunResult:
    """Audit every row of the data.

    Args:
        config: The audit file.
        out: The run folder to write.
        progress: Where to report.

    Returns:
        The run, with nothing tuned.

    Raises:
        InputError: The data, the model or the request is wrong.
    """
    check_out(out)
    plan = _check_plan(config)
    clock, reporter = Clock(), progress or NullProgress()
    if config.engine != "pandas":
        outcome, data = audit_predictions(config, progress=reporter, clock=clock)
        record = make_record("audit", config, data)
    else:
        subject = load_subject(config, features=False, progress=reporter, clock=clock)
        with clock.stage("audit"):
            outcome = audit_sample(config, subject.sample, subject.sample.scores, subject.data)
        record = make_record("audit", config, subject.describe_data(), subject.model)
    outcome = replace(outcome, plan=plan)
    files = {"audit.json": outcome.to_dict()}
    folder = write_run(out, record, files, clock=clock)
    return RunResult(outcome, None, (), None, folder)


def run_tune(config: AuditFile, *, out: str | Path, progress: Progress | None = None) -> RunResult:
    """Audit on the test rows, tune a head through the layer, calibrate it, and audit the test rows again.

    A model of several outputs has features alone: the model as found is then a head trained on them for the loss alone.

    Args:
        config: The audit file; its model must have features.
        out: The run folder to write; also receives the head and its calibration.
        progress: Where to report.

    Returns:
        The run.

    Raises:
        InputError: The data, the model or the request is wrong; labels not binary; no features.
        InfeasibleError: The enforced criteria cannot hold together.
    """
    return _run("tune", config, out=out, progress=progress, compared=False)


def run_compare(config: AuditFile, *, out: str | Path, progress: Progress | None = None) -> RunResult:
    """`run_tune`, and every method of the audit file on the same split.

    Args:
        config: The audit file.
        out: The run folder to write.
        progress: Where to report.

    Returns:
        The run.

    Raises:
        InputError: As `run_tune`.
        InfeasibleError: As `run_tune`.
    """
    return _run("compare", config, out=out, progress=progress, compared=True)


def _check_plan(config: AuditFile) -> PlanCheck | None:
    """Whether the audit file follows the plan that it names; asked before the data are read."""
    if config.plan_path is None:
        return None
    return Plan.load(config.plan_path).check(
        config.build_criteria(), confidence=config.confidence, threshold=config.threshold, seed=config.seed,
        columns=config.columns,
    )  # fmt: skip


def _run(command: str, config: AuditFile, *, out: str | Path, progress: Progress | None, compared: bool) -> RunResult:
    check_out(out)
    _refuse_unheeded(config)
    plan = _check_plan(config)
    clock, reporter = Clock(), progress or NullProgress()
    subject = load_subject(config, progress=reporter, clock=clock)
    enforced = _check_request(config, subject)
    if subject.sample.features is None and not compared:
        raise InputError(
            "tuning needs frozen features; give a model: that has them, or name data.features in the predictions table"
        )
    parts = split_subject(config, subject)
    leakage = check_leakage(config, subject, parts)
    settings = replace(_compare_config(config), train_reference=not subject.has_scores)
    test = subject.sample.take(parts["test"])
    context = make_context(subject.sample, parts, enforced, settings, seed=config.seed, progress=reporter)
    if settings.train_reference:
        with clock.stage("train the reference"):
            context, test = train_reference(context, test)
    with clock.stage("audit"):
        outcome = replace(audit_sample(config, test, test.scores), plan=plan)
    with clock.stage("tune and calibrate"):
        context = share_head(context)
    with clock.stage("certify"):
        certificate = certify_projection(context)
    after = _audit_after(config, context, test, plan)
    comparison = None
    if compared:
        with clock.stage("compare"):
            comparison = _compare(config, subject, context, test, parts, settings).to_dict()
    frontier = None
    if config.frontier and not compared:  # what a comparison fits at them is its frontier
        with clock.stage("frontier"):
            frontier = _sweep(context, test, config.frontier)
    if subject.model is not None:
        subject.model.check_frozen()  # bit by bit: the guarantee is about the model that was found
    record = make_record(
        command, config, subject.describe_data(), subject.model, parts=parts, leakage=leakage, context=context,
        reference=_describe_reference(subject) if settings.train_reference else None,
    )  # fmt: skip
    files = {
        "audit.json": outcome.to_dict(),
        "projection.json": certificate,
        "audit_after.json": after and after.to_dict(),
        "comparison.json": comparison,
        "frontier.json": frontier,
    }
    artefacts = _artefacts(context.head, context.calibration)
    folder = write_run(out, record, files, clock=clock, artefacts=artefacts)
    return RunResult(outcome, after, enforced, comparison, folder, frontier)


def _describe_reference(subject: Subject) -> str:
    """What the model as found is, in words."""
    headless = subject.model is not None and subject.model.task == "features"
    return REFERENCE_HEAD.format(has="has no head" if headless else "gives several outputs")


def _compare(
    config: AuditFile,
    subject: Subject,
    context: FitContext,
    test: Sample,
    parts: Mapping[str, IntArray],
    settings: CompareConfig,
) -> Comparison:
    """Every method on the split at hand, at the further tolerances, and at the further seeds."""
    sample, enforced, audited = subject.sample, context.criteria, config.build_criteria()
    runs = compare_on_split(context, test, audited, settings, seed=config.seed)
    frontier: dict[float, tuple[MethodRun, ...]] = dict.fromkeys(config.frontier, ())
    for seed in (config.seed, *config.seeds):
        is_first = seed == config.seed
        drawn = parts if is_first else split_subject(config, subject, seed=seed)
        levels = config.frontier if is_first else (None, *config.frontier)
        found = compare_at(sample, drawn, enforced, audited, settings, levels, seed=seed, progress=context.progress)
        runs += found.pop(None, ())
        frontier = {level: (*mine, *found[level]) for level, mine in frontier.items()}
    design = describe_design(sample, parts, read_rule(config, subject))
    return Comparison(enforced, audited, settings, design, tuple(runs), frontier)


def _sweep(context: FitContext, test: Sample, tolerances: Sequence[float]) -> dict[str, Any]:
    """The accuracy–ε frontier: heads of the tuning rows, projected and measured on the test rows."""
    rows = context.tune
    frontier = sweep(
        frozen_features(rows), rows.labels, rows.groups, context.criteria, tolerances,
        held_out=(frozen_features(test), test.labels, test.groups), clusters=rows.clusters, start=rows.scores,
        config=context.config, progress=context.progress,
    )  # fmt: skip
    return frontier.to_dict()


def _audit_after(config: AuditFile, context: FitContext, test: Sample, plan: PlanCheck | None) -> AuditResult | None:
    """Audit of what would be deployed: the tuned head with its calibrated corrections, row by row."""
    if context.head is None or context.calibration is None or test.features is None:
        return None
    fair = context.calibration.apply(context.head.predict(test.features), test.groups)
    return replace(audit_sample(config, test, fair), plan=plan)


def _refuse_unheeded(config: AuditFile) -> None:
    """Raise for what an audit heeds and tuning and comparing do not.

    Raises:
        InputError: The audit file asks for it.
    """
    reasons = {
        "weight": "heads, corrections and utilities count every row once",
        "decision": "they decide from the scores that they change, by threshold",
    }
    for role, name in config.columns.items():
        if role not in reasons:
            continue
        raise InputError(
            f"data.{role} is {name!r}; tuning and comparing do not heed it, since {reasons[role]}; leave it out, or "
            "use `auditkit audit`"
        )
    if config.data.has_outputs:
        raise InputError(
            f"data.score names {len(config.data.score_columns)} outputs; tuning and comparing take one score per row: "
            "name one column, or use `auditkit audit`"
        )
    if config.data.inferred:
        raise InputError(
            f"{config.data.inferred[0]} is inferred; tuning and comparing take known attributes only: leave it out, or "
            "use `auditkit audit`"
        )
    if config.engine in ("duckdb", "spark") and config.data.engine is not None:
        raise InputError(
            f"data.engine is {config.engine}; tuning and comparing read the table themselves: leave it out, or say "
            "pandas"
        )


def _check_request(config: AuditFile, subject: Subject) -> tuple[Criterion, ...]:
    enforced = config.build_enforced()
    if not enforced:
        raise InputError(
            "enforce is empty, and every criterion needs labels; name in enforce: what the head shall satisfy"
        )
    if config.threshold is None:
        raise InputError("threshold is null; tuning and comparing need one, since they report decisions as well")
    if np.isnan(subject.sample.labels).all():
        raise InputError("data.label is missing; tuning and comparing need the outcomes")
    check_binary(f"the label {config.data.label!r}", subject.sample.labels)
    return enforced


def _compare_config(config: AuditFile) -> CompareConfig:
    return CompareConfig(
        methods=config.methods,
        threshold=config.threshold,
        confidence=config.confidence,
        guarantee=config.confidence,
        split=tuple(config.split.fractions.items()),
        tune=TuneConfig(seed=config.seed, **config.tune.model_dump()),
    )


def _artefacts(head: FairHead | None, calibration: Calibration | None) -> list[Callable[[Path], None]]:
    writers: list[Callable[[Path], None]] = []
    if head is not None:
        writers.append(lambda folder: head.save(folder / "head"))
    if calibration is not None:
        writers.append(lambda folder: calibration.save(folder / "calibration.json"))
    return writers
