"""The program: its commands, and what becomes of an error.

Whatever takes long to import is imported by the command that needs it.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from auditkit.cli.caches import app as cache_app
from auditkit.cli.exit_codes import BROKEN, INTERRUPTED, PASSED, WRONG
from auditkit.cli.files import init, schema
from auditkit.cli.jobs import audit, compare, demo, plan, tune
from auditkit.cli.processes import is_told_elsewhere, process_rank
from auditkit.cli.runs import report, verify
from auditkit.cli.streams import serve, stream
from auditkit.errors import AuditkitError

COMMANDS = (demo, audit, plan, tune, compare, report, stream, serve, verify, schema, init)
"""In the order in which the help lists them."""

app = typer.Typer(
    name="auditkit",
    help="Audit and enforce group fairness on a frozen prediction model.",
    epilog="Exit codes: 0 pass or done, 1 the audit failed, 2 wrong input or request, 3 inconclusive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
        if issubclass(category, UserWarning) and str(message) not in said and not process_rank():
            said.add(str(message))
            print(f"auditkit: note: {message}", file=sys.stderr)  # noqa: T201

    warnings.showwarning = show


def _refuse(error: Exception) -> int:
    """One line on stderr that says what went wrong, and the exit code for it."""
    usage = getattr(error, "format_message", None)  # of every usage error of the command-line parser
    if usage is not None:
        said = usage().rstrip(".")  # nothing when no command was given: the help was printed then
        return _complain(f"{said}; try `auditkit --help`", WRONG) if said else WRONG
    if is_told_elsewhere(error):
        return WRONG
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


for command in COMMANDS:
    app.command()(command)
app.add_typer(cache_app)
