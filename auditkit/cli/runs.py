"""The commands that read the folder of a run: `report` and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auditkit.cli.exit_codes import FAILED, PASSED
from auditkit.cli.options import RunPath
from auditkit.cli.streams import verify_store
from auditkit.errors import InputError


def report(
    folder: RunPath,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            metavar="ll144|four-fifths|eu-ai-act|nist|model-risk",
            help="Document the run for a set of rules; repeatable; by default those of the audit file.",
        ),
    ] = None,
    write: Annotated[
        list[str] | None,
        typer.Option("--write", metavar="pdf|md|card", help="A format beside JSON and HTML; repeatable."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="DIR", help="An earlier run, to state what changed since.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Also write a summary without small counts.")] = False,
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign the manifest with an Ed25519 key (PEM).")
    ] = None,
) -> int:
    """Write report.json and report.html again from the numbers in a run's folder, and what else is asked for."""
    from auditkit.reporting import ReportRequest, write_report

    request = ReportRequest(tuple(template or ()), tuple(write or ()), against, public, sign)
    typer.echo(f"report: {write_report(folder, request)}")
    return PASSED


def verify(
    place: Annotated[str, typer.Argument(metavar="DIR|STORE", help="The folder of a run, or the store of a stream.")],
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="KEY", help="The Ed25519 key (PEM) that must have signed the run."),
    ] = None,
) -> int:
    """Recompute a run's findings, or a stream's pooled gaps, and check every hash; exit 1 on a difference."""
    folder = Path(place)
    if "://" in place or folder.is_file():
        if public_key is not None:
            raise InputError("--public-key is for the folder of a run; a stream's ledger is not signed")
        return verify_store(place)
    from auditkit.reporting import verify_run
    from auditkit.reporting.console import print_checks

    checks = verify_run(folder, public_key=public_key)
    print_checks(checks)
    return PASSED if all(check.passed for check in checks) else FAILED
