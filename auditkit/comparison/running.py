"""`compare`: methods × seeds × tolerances, in one process or several, resumed from what is already finished."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from auditkit._typing import IntArray
from auditkit._validation import check_binary
from auditkit.baselines import FitContext, Sample
from auditkit.baselines.base import tuned_head
from auditkit.comparison.design import describe_design
from auditkit.comparison.judging import (
    MethodRun,
    Outcome,
    compare_on_split,
    judge,
    make_context,
    predict_on_split,
    train_reference,
)
from auditkit.comparison.settings import CompareConfig
from auditkit.comparison.store import PredictionStore, describe_request
from auditkit.comparison.summary import Comparison
from auditkit.criteria import Criterion, check_criteria
from auditkit.errors import AuditkitError, InputError
from auditkit.progress import NullProgress, Progress
from auditkit.split_rules import SplitRule

SHARED_HEAD = ("layer", "layer_batched", "head", "calibrated")
"""Methods that use the head tuned through the layer: they run in one process, so that it is tuned once."""

Key = tuple[int, float | None, str]


@dataclass(frozen=True, eq=False)
class Request:
    """What is compared; the same for every task.

    Attributes:
        dataset: All rows.
        criteria: What is enforced, at the tolerances as given.
        config: How to compare.
        store: Where finished predictions are kept; None keeps none.
        rule: How the rows are parted.
    """

    dataset: Sample
    criteria: tuple[Criterion, ...]
    config: CompareConfig
    store: PredictionStore | None
    rule: SplitRule

    def criteria_at(self, tolerance: float | None) -> tuple[Criterion, ...]:
        """The criteria, all at one tolerance unless it is None."""
        return at_tolerance(self.criteria, tolerance)


def at_tolerance(criteria: Sequence[Criterion], tolerance: float | None) -> tuple[Criterion, ...]:
    """The criteria, all at one tolerance unless it is None."""
    return tuple(criteria if tolerance is None else (criterion.with_tolerance(tolerance) for criterion in criteria))


@dataclass(frozen=True)
class Task:
    """Methods to fit on one split at one tolerance, one after the other."""

    seed: int
    tolerance: float | None
    methods: tuple[str, ...]


def compare(
    dataset: Sample,
    criteria: Criterion | Sequence[Criterion],
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    tolerances: Sequence[float] = (),
    audited: Sequence[Criterion] | None = None,
    config: CompareConfig | None = None,
    split: SplitRule | None = None,
    folder: str | Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Fit every method on the same splits and judge it on the pooled test rows.

    Args:
        dataset: Scores, labels, groups and features of rows that the frozen model was not trained on; and whom each row
            is of, where several are of one person: then a split by chance keeps those together, and intervals are over
            persons.
        criteria: What every method enforces.
        methods: Their names; None takes those of ``config``.
        seeds: One split and one training per seed; one training on the same split, where ``split`` leaves nothing to
            chance.
        tolerances: Further ε at which everything is done again, all criteria at the same: the frontier.
        audited: What the predictions are audited for; None audits what is enforced.
        config: Everything else.
        split: How the rows are parted; None parts them by chance.
        folder: Where finished predictions are kept. A comparison that was stopped continues from it, with the result of
            one that was not; more methods, seeds and tolerances may be added to it.
        workers: Processes to spread the work over; a script that asks for several must do so under
            ``if __name__ == "__main__":``.
        progress: Where to report.

    Returns:
        Gaps, decisions, utilities, paired differences and winners. A method that cannot be fitted on these rows is
        listed with the reason.

    Raises:
        InputError: Labels not binary, an unknown method, an impossible split, no seed or one twice, a folder that
            belongs to another comparison.
        AuditkitError: A worker process died.
    """
    settings = config or CompareConfig()
    if methods is not None:
        settings = replace(settings, methods=tuple(methods))
    enforced = check_criteria(criteria)
    checked = enforced if audited is None else check_criteria(audited)
    if settings.is_binary:
        check_binary("labels", dataset.labels)
    _check_repeats("seeds", seeds, least=1)
    _check_repeats("tolerances", tolerances, least=0)
    if workers < 1:
        raise InputError(f"workers must be at least 1; got {workers!r}")
    rule = split or SplitRule()
    store = None if folder is None else PredictionStore(folder, describe_request(dataset, enforced, settings, rule))
    request = Request(dataset, enforced, settings, store, rule)
    levels = (None, *tolerances)
    outcomes = _gather(request, seeds, levels, workers, progress or NullProgress())
    judged = {level: _judge_all(request, outcomes, seeds, level, checked) for level in levels}
    design = describe_design(dataset, _parts(request, seeds[-1]), rule)
    frontier = {level: judged[level] for level in tolerances}
    return Comparison(enforced, checked, settings, design, judged[None], frontier)


def _check_repeats(name: str, values: Sequence[float], *, least: int) -> None:
    if len(values) < least or len(set(values)) < len(values):
        raise InputError(
            f"{name} must {'hold at least one value and ' if least else ''}name none twice; got {list(values)}"
        )


def _parts(request: Request, seed: int) -> dict[str, IntArray]:
    dataset = request.dataset
    return request.rule.split(
        dataset.n_rows, fractions=dict(request.config.split), seed=seed, clusters=dataset.clusters
    )


def _gather(
    request: Request, seeds: Sequence[int], levels: Sequence[float | None], workers: int, progress: Progress
) -> dict[Key, Outcome]:
    """Every outcome: those in the folder, and the rest by running their tasks."""
    store, methods = request.store, request.config.all_methods
    keys = [(seed, level, method) for seed in seeds for level in levels for method in methods]
    stored = {} if store is None else {key: found for key in keys if (found := store.read(*key)) is not None}
    tasks = [
        Task(seed, level, rest)
        for seed in seeds
        for level in levels
        for rest in _chunk([m for m in methods if (seed, level, m) not in stored], workers, len(seeds) * len(levels))
    ]
    if workers == 1 or len(tasks) < 2:
        return stored | _run_here(request, tasks, progress)
    return stored | _run_in_processes(request, tasks, workers, progress)


def _chunk(methods: Sequence[str], workers: int, splits: int) -> Iterator[tuple[str, ...]]:
    """One task per split; one per method where that leaves processes idle, but for those with a head in common."""
    if workers == 1 or splits >= workers:
        if methods:
            yield tuple(methods)
        return
    together = tuple(method for method in methods if method in SHARED_HEAD)
    if together:
        yield together
    for method in methods:
        if method not in SHARED_HEAD:
            yield (method,)


def _run_here(request: Request, tasks: Sequence[Task], progress: Progress) -> dict[Key, Outcome]:
    found: dict[Key, Outcome] = {}
    for task in tasks:
        found |= run_task(request, task, progress)
    return found


def _run_in_processes(request: Request, tasks: Sequence[Task], workers: int, progress: Progress) -> dict[Key, Outcome]:
    found: dict[Key, Outcome] = {}
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)), multiprocessing.get_context("spawn"), initializer=_start, initargs=(request,)
    )
    try:
        with progress.stage("comparing methods", sum(len(task.methods) for task in tasks)) as advance:
            pending = {pool.submit(_run_started, task): task for task in tasks}
            for done in as_completed(pending):
                found |= done.result()
                advance(len(pending[done].methods))
    except BrokenProcessPool as error:
        store = request.store
        kept = "" if store is None else f"; what was finished is in {store.folder}: run it again to go on"
        raise AuditkitError(f"a worker process of the comparison died{kept}") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return found


_started: list[Request] = []


def _start(request: Request) -> None:
    """Keep the request in a worker process, which shares the cores with the others."""
    torch.set_num_threads(1)
    _started[:] = [request]


def _run_started(task: Task) -> dict[Key, Outcome]:
    return run_task(_started[0], task, NullProgress())


def run_task(request: Request, task: Task, progress: Progress) -> dict[Key, Outcome]:
    """Fit a task's methods; each outcome is stored as soon as it is there."""
    store, parts = request.store, _parts(request, task.seed)
    criteria = request.criteria_at(task.tolerance)
    context = make_context(request.dataset, parts, criteria, request.config, seed=task.seed, progress=progress)
    context, test = _prepare(context, request.dataset.take(parts["test"]), request.config, task.methods)
    found = {}
    for method, outcome in predict_on_split(context, test, task.methods):
        if store is not None:
            store.write(task.seed, task.tolerance, method, outcome)
        found[task.seed, task.tolerance, method] = outcome
    return found


def _prepare(
    context: FitContext, test: Sample, config: CompareConfig, methods: Sequence[str]
) -> tuple[FitContext, Sample]:
    """What the methods share: the reference, where it is trained, and the head."""
    if config.train_reference:
        context, test = train_reference(context, test)
    if set(methods) & set(SHARED_HEAD):
        with suppress(AuditkitError):  # each method with a head says then why there is none
            context = replace(context, head=tuned_head(context))
    return context, test


def compare_at(
    dataset: Sample,
    parts: Mapping[str, IntArray],
    criteria: tuple[Criterion, ...],
    audited: Sequence[Criterion],
    config: CompareConfig,
    tolerances: Sequence[float | None],
    *,
    seed: int,
    progress: Progress,
) -> dict[float | None, tuple[MethodRun, ...]]:
    """Every method on one given split at several tolerances: what `Comparison` holds as its runs and its frontier.

    Args:
        dataset: All rows.
        parts: Rows of every part of the split.
        criteria: What is enforced.
        audited: What the predictions are audited for.
        config: How to compare.
        tolerances: The ε, each for all criteria; None leaves the criteria's own.
        seed: Seed of the training.
        progress: Where to report.
    """
    found: dict[float | None, tuple[MethodRun, ...]] = {}
    for tolerance in tolerances:
        enforced, checked = at_tolerance(criteria, tolerance), at_tolerance(audited, tolerance)
        context = make_context(dataset, parts, enforced, config, seed=seed, progress=progress)
        context, test = _prepare(context, dataset.take(parts["test"]), config, config.all_methods)
        found[tolerance] = tuple(compare_on_split(context, test, checked, config, seed=seed))
    return found


def _judge_all(
    request: Request,
    outcomes: dict[Key, Outcome],
    seeds: Sequence[int],
    level: float | None,
    audited: tuple[Criterion, ...],
) -> tuple[MethodRun, ...]:
    criteria, config, runs = request.criteria_at(level), request.config, []
    checked = at_tolerance(audited, level)
    for seed in seeds:
        test = request.dataset.take(_parts(request, seed)["test"])
        runs += [
            judge(method, outcomes[seed, level, method], test, criteria, checked, config, seed=seed)
            for method in config.all_methods
        ]
    return tuple(runs)
