"""The command line: parse, call one public function, print what came out, leave with the exit code.

Exit codes: 0 pass or done · 1 the audit failed · 3 inconclusive · 2 the input or the request is wrong · 70 an error of
auditkit itself · 130 interrupted. Whatever takes long to import is imported by the command that needs it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditkit import stream_cli
from auditkit.errors import AuditkitError, InputError

if TYPE_CHECKING:
    from auditkit.config import AuditFile
    from auditkit.criteria import Criterion
    from auditkit.jobs import RunResult

__all__ = ["app", "main"]

PASSED, FAILED, WRONG, INCONCLUSIVE, BROKEN, INTERRUPTED = 0, 1, 2, 3, 70, 130
EXIT_CODES = {"pass": PASSED, "fail": FAILED, "inconclusive": INCONCLUSIVE}

app = typer.Typer(
    name="auditkit",
    help="Audit and enforce group fairness on a frozen prediction model.",
    epilog="Exit codes: 0 pass or done, 1 the audit failed, 2 wrong input or request, 3 inconclusive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

AuditPath = Annotated[Path, typer.Argument(metavar="FILE", help="The audit file (YAML); `auditkit init` writes one.")]
RequestPath = Annotated[
    Path, typer.Argument(metavar="FILE", help="An audit file (YAML), or a table of predictions (csv, parquet, arrow).")
]
RunPath = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of the run; by default runs/<name>.")]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="text|json|md|html|junit",
        help="What to print: text for people, json (of compare: the comparison), md, the html report, junit.",
    ),
]
_TABLE = "For a table of predictions without an audit file"
Attributes = Annotated[
    list[str] | None,
    typer.Option("--attributes", metavar="COLUMN", help="Protected; repeatable; a*b crosses.", rich_help_panel=_TABLE),
]
Strata = Annotated[
    list[str] | None,
    typer.Option("--strata", metavar="COLUMN", help="Legitimate conditions; repeatable.", rich_help_panel=_TABLE),
]
Criteria = Annotated[
    list[str] | None,
    typer.Option(
        "--criteria",
        metavar="FAMILY",
        help="ECP (by default), EER, equalized_odds, equal_opportunity; repeatable.",
        rich_help_panel=_TABLE,
    ),
]
Score = Annotated[str | None, typer.Option("--score", metavar="COLUMN", help="Scores.", rich_help_panel=_TABLE)]
Label = Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Outcomes.", rich_help_panel=_TABLE)]
PositiveLabel = Annotated[
    str | None,
    typer.Option("--positive-label", metavar="VALUE", help="The outcome that counts as 1.", rich_help_panel=_TABLE),
]
Tolerance = Annotated[
    float | None, typer.Option("--tolerance", help="Largest gap accepted; 0.05.", rich_help_panel=_TABLE)
]
Threshold = Annotated[
    str | None,
    typer.Option(
        "--threshold",
        metavar="NUMBER|RULE",
        help='Scores from it are positive; 0.5. Or "median", "top 100", "top 5%".',
        rich_help_panel=_TABLE,
    ),
]
Weight = Annotated[str | None, typer.Option("--weight", metavar="COLUMN", help="Row weights.", rich_help_panel=_TABLE)]
Decision = Annotated[
    str | None,
    typer.Option("--decision", metavar="COLUMN", help="Decisions, in place of --threshold.", rich_help_panel=_TABLE),
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="COLUMN", help="Whom a row is of, where several are.", rich_help_panel=_TABLE),
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", metavar="duckdb|spark|pandas", help="What reads the table.", rich_help_panel=_TABLE),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed, in place of the audit file's.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code.

    Args:
        arguments: What follows the program's name; None takes it from the process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    _show_warnings_plainly()
    try:
        code = app([word for word in given if word != "--debug"], prog_name="auditkit", standalone_mode=False)
        if code == INTERRUPTED:
            _complain("interrupted; nothing was written", INTERRUPTED)
    except typer.Exit as stop:
        code = stop.exit_code
    except Exception as error:
        if debug:
            raise
        code = _refuse(error)
    sys.exit(code or PASSED)


def _show_warnings_plainly() -> None:
    """One line per warning, said once, without the source line that raised it."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        del filename, lineno
        if issubclass(category, UserWarning) and str(message) not in said:
            said.add(str(message))
            print(f"auditkit: note: {message}", file=sys.stderr)  # noqa: T201

    warnings.showwarning = show


def _refuse(error: Exception) -> int:
    """One line on stderr that says what went wrong, and the exit code for it."""
    usage = getattr(error, "format_message", None)  # of every usage error of the command-line parser
    if usage is not None:
        said = usage().rstrip(".")  # nothing when no command was given: the help was printed then
        return _complain(f"{said}; try `auditkit --help`", WRONG) if said else WRONG
    if isinstance(error, AuditkitError):
        return _complain(str(error), WRONG)
    name = type(error).__name__
    return _complain(f"{name}: {error}; run with --debug for the traceback", BROKEN)


def _complain(message: str, code: int) -> int:
    print(f"auditkit: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return code


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"auditkit {version('auditkit')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    del version, debug  # --version acts when it is parsed; `main` looks for --debug before anything is


@app.command()
def demo(out: Out = None, seed: Seed = None, form: Format = "text") -> int:
    """Audit the bundled sample model, tune its head, and write the report."""
    from auditkit import jobs
    from auditkit.progress import RichProgress

    _check_format(form)
    result = jobs.run_demo(out=out or Path("runs/demo"), seed=seed or 0, progress=RichProgress())
    _show(result, form)
    return PASSED


@app.command()
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
) -> int:
    """Measure every gap of a model, or of a table of predictions; exit 1 when a gap lies above its tolerance."""
    from auditkit import jobs

    options = {
        "score": score, "attributes": attributes, "label": label, "positive_label": positive_label, "strata": strata,
        "criteria": criteria, "tolerance": tolerance, "threshold": threshold, "weight": weight, "decision": decision,
        "cluster": cluster, "engine": engine,
    }  # fmt: skip
    result = _run(jobs.run_audit, file, out, seed, form=form, options=options)
    return EXIT_CODES[result.outcome.verdict]


@app.command()
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


@app.command()
def tune(file: AuditPath, out: Out = None, seed: Seed = None, form: Format = "text") -> int:
    """Audit, tune a head on the frozen features, and audit again; exit by the enforced criteria."""
    from auditkit import jobs

    result = _run(jobs.run_tune, file, out, seed, form=form)
    return EXIT_CODES[_enforced_verdict(result)]


@app.command()
def compare(file: AuditPath, out: Out = None, seed: Seed = None, form: Format = "text") -> int:
    """Set the methods of the audit file side by side on one split."""
    from auditkit import jobs

    _run(jobs.run_compare, file, out, seed, form=form)
    return PASSED


@app.command()
def report(folder: RunPath) -> int:
    """Write report.html again from the numbers in a run's folder."""
    from auditkit.reporting import write_report

    typer.echo(f"report: {write_report(folder)}")
    return PASSED


app.command()(stream_cli.stream)
app.command()(stream_cli.serve)


@app.command()
def verify(
    place: Annotated[str, typer.Argument(metavar="DIR|STORE", help="The folder of a run, or the store of a stream.")],
) -> int:
    """Recompute a run's findings, or a stream's pooled gaps, and check every hash; exit 1 on a difference."""
    folder = Path(place)
    if "://" in place or folder.is_file():
        return stream_cli.verify_store(place)
    from auditkit.reporting import verify_run
    from auditkit.reporting.console import print_checks

    checks = verify_run(folder)
    print_checks(checks)
    return PASSED if all(check.passed for check in checks) else FAILED


@app.command()
def schema() -> int:
    """Print the JSON Schema of the audit file."""
    import json

    from auditkit.config import config_schema

    typer.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))
    return PASSED


@app.command()
def init(
    table: Annotated[Path | None, typer.Argument(metavar="[TABLE]", help="A table to take the columns from.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write; by default stdout.")
    ] = None,
) -> int:
    """Write a commented audit file to start from."""
    from auditkit.config import example_config

    text = example_config() if table is None else _config_for(table, out)
    if out is None:
        typer.echo(text, nl=False)
        return PASSED
    if out.exists():
        raise InputError(f"--out: {out.name!r} exists and is left as it is; name another file")
    out.write_text(text, encoding="utf-8")
    typer.echo(f"written: {out}")
    return PASSED


def _config_for(table: Path, out: Path | None) -> str:
    from auditkit.config import config_for_table

    return config_for_table(table, folder=Path.cwd() if out is None else out.parent)


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
) -> RunResult:
    from auditkit.progress import RichProgress

    _check_format(form)
    config = _load(file, seed, options)
    result = job(config, out=out or Path("runs") / folder_name(config.name), progress=RichProgress())
    _show(result, form)
    return result


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
    else:
        typer.echo(render_run(result.folder, form), nl=False)


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
