"""The commands that audit, plan, tune and compare: read the audit file, run the job, print what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from auditkit.cli.exit_codes import PASSED, VERDICTS
from auditkit.cli.options import (
    Attributes,
    AuditPath,
    Cache,
    Cluster,
    Criteria,
    Decision,
    EngineName,
    Format,
    Label,
    NoCache,
    Out,
    PositiveLabel,
    RequestPath,
    Score,
    Seed,
    Strata,
    Threshold,
    Tolerance,
    Weight,
)
from auditkit.cli.processes import joined_processes
from auditkit.errors import InputError

if TYPE_CHECKING:
    from auditkit.config import AuditFile
    from auditkit.criteria import Criterion
    from auditkit.jobs import RunResult


def demo(out: Out = None, seed: Seed = None, form: Format = "text") -> int:
    """Audit the bundled sample model, tune its head, and write the report."""
    from auditkit import jobs
    from auditkit.progress import RichProgress

    _check_format(form)
    result = jobs.run_demo(out=out or Path("runs/demo"), seed=seed or 0, progress=RichProgress())
    _show(result, form)
    return PASSED


def audit(
    file: RequestPath,
    out: Out = None,
    seed: Seed = None,
    form: Format = "text",
    score: Score = None,
    attributes: Attributes = None,
    label: Label = None,
    positive_label: PositiveLabel = None,
    strata: Strata = None,
    criteria: Criteria = None,
    tolerance: Tolerance = None,
    threshold: Threshold = None,
    weight: Weight = None,
    decision: Decision = None,
    cluster: Cluster = None,
    engine: EngineName = None,
    cache: Cache = None,
    no_cache: NoCache = False,
) -> int:
    """Measure every gap of a model, or of a table of predictions; exit 1 when a gap lies above its tolerance."""
    from auditkit import jobs

    options = {
        "score": score, "attributes": attributes, "label": label, "positive_label": positive_label, "strata": strata,
        "criteria": criteria, "tolerance": tolerance, "threshold": threshold, "weight": weight, "decision": decision,
        "cluster": cluster, "engine": engine,
    }  # fmt: skip
    result = _run(jobs.run_audit, file, out, seed, form=form, options=options, cache=_cache(cache, no_cache))
    return PASSED if result is None else VERDICTS[result.outcome.verdict]


def plan(
    file: AuditPath,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the plan.")] = Path("plan.json"),
    seed: Seed = None,
) -> int:
    """Freeze criteria, tolerances, confidence and tests, with hash and time, without reading the data."""
    from auditkit.plans import freeze_plan

    config = _load(file, seed)
    frozen = freeze_plan(
        config.build_criteria(), confidence=config.confidence, threshold=config.threshold, seed=config.seed,
        columns=config.columns,
    )  # fmt: skip
    typer.echo(f"plan: {frozen.save(out)} (sha256 {frozen.hash}, frozen at {frozen.frozen_at})")
    return PASSED


def tune(
    file: AuditPath, out: Out = None, seed: Seed = None, form: Format = "text", cache: Cache = None,
    no_cache: NoCache = False,
) -> int:  # fmt: skip
    """Audit, tune a head on the frozen features, and audit again; exit by the enforced criteria."""
    from auditkit import jobs

    result = _run(jobs.run_tune, file, out, seed, form=form, cache=_cache(cache, no_cache))
    return PASSED if result is None else VERDICTS[_enforced_verdict(result)]


def compare(
    file: AuditPath, out: Out = None, seed: Seed = None, form: Format = "text", cache: Cache = None,
    no_cache: NoCache = False,
) -> int:  # fmt: skip
    """Set the methods of the audit file side by side on one split."""
    from auditkit import jobs

    _run(jobs.run_compare, file, out, seed, form=form, cache=_cache(cache, no_cache))
    return PASSED


def _load(file: Path, seed: int | None, options: Mapping[str, object] | None = None) -> AuditFile:
    from auditkit.config import load_config, load_request

    config = load_config(file) if options is None else load_request(file, options)
    return config if seed is None else config.model_copy(update={"seed": seed})


def _run(
    job: Callable[..., RunResult],
    file: Path,
    out: Path | None,
    seed: int | None,
    *,
    form: str = "text",
    options: Mapping[str, object] | None = None,
    cache: Path | Literal[False] | None = None,
) -> RunResult | None:
    """Do a job and show it; None in all processes of torchrun but the first, which do their share of the features."""
    with joined_processes() as ranks:
        config = ranks.together(lambda: _prepare(file, seed, form, options, cache))
        if ranks.rank:
            _share_features(config, job)
            return None
        from auditkit.progress import RichProgress

        result = job(config, out=out or Path("runs") / folder_name(config.name), progress=RichProgress())
    _show(result, form)
    return result


def _prepare(
    file: Path,
    seed: int | None,
    form: str,
    options: Mapping[str, object] | None,
    cache: Path | Literal[False] | None,
) -> AuditFile:
    _check_format(form)
    config = _load(file, seed, options)
    return config if cache is None else config.with_cache(cache)


def _share_features(config: AuditFile, job: Callable[..., RunResult]) -> None:
    from auditkit import jobs
    from auditkit.subjects import share_features

    share_features(config, features=job is not jobs.run_audit)


def _cache(folder: Path | None, none: bool) -> Path | Literal[False] | None:
    """Where features of images go: a folder, nowhere, or as the audit file says."""
    if folder is not None and none:
        raise InputError("--cache and --no-cache exclude each other; keep one of them")
    return False if none else folder


def _check_format(form: str) -> None:
    from auditkit.reporting import FORMATS

    if form not in ("text", *FORMATS):
        raise InputError(f"--format must be one of text, {', '.join(FORMATS)}; got {form!r}")


def folder_name(name: str) -> str:
    """The name of an audit as the name of a folder: letters, digits and hyphens."""
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    return "-".join(words) or "audit"


def _show(result: RunResult, form: str = "text") -> None:
    from auditkit.reporting import render_run, write_step_summary
    from auditkit.reporting.console import print_run

    write_step_summary(result.folder)
    if form == "text":
        print_run(result.folder)
        _show_frontier(result)
    else:
        typer.echo(render_run(result.folder, form), nl=False)


def _show_frontier(result: RunResult) -> None:
    """The accuracy–ε frontier of the test rows, where the audit file asks for one."""
    if result.frontier is None:
        return
    measure = result.frontier["measure"]
    typer.echo(f"Frontier on the test rows, heads projected at each tolerance ({result.folder / 'frontier.json'}):")
    for point in result.frontier["points"]:
        typer.echo(
            f"  ε = {point['tolerance']:<8g} {measure} {point['quality']:.4f}   loss {point['loss']:.4f}   "
            f"gap {point['gap']:.4f} (the head's own {point['head_gap']:.4f})"
        )


def _enforced_verdict(result: RunResult) -> str:
    """The verdict of the tuned scores over the enforced criteria, at whatever tolerance they were audited with."""
    from auditkit.auditing import combine_verdicts

    outcome = result.after or result.outcome
    enforced = {_identity(criterion) for criterion in result.enforced}
    judged = [finding for finding in outcome.findings if _identity(finding.criterion) in enforced]
    return combine_verdicts([finding.verdict for finding in judged or outcome.findings])


def _identity(criterion: Criterion) -> tuple[object, ...]:
    """What a criterion asks, whatever its name and tolerance."""
    return criterion.family, criterion.attributes, criterion.given, criterion.form, criterion.label_value
