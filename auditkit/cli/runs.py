"""The commands that read the folder of a run: `report` and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auditkit.cli import streams
from auditkit.cli.exit_codes import FAILED, PASSED
from auditkit.cli.options import RunPath


def report(folder: RunPath) -> int:
    """Write report.html again from the numbers in a run's folder."""
    from auditkit.reporting import write_report

    typer.echo(f"report: {write_report(folder)}")
    return PASSED


def verify(
    place: Annotated[str, typer.Argument(metavar="DIR|STORE", help="The folder of a run, or the store of a stream.")],
) -> int:
    """Recompute a run's findings, or a stream's pooled gaps, and check every hash; exit 1 on a difference."""
    folder = Path(place)
    if "://" in place or folder.is_file():
        return streams.verify_store(place)
    from auditkit.reporting import verify_run
    from auditkit.reporting.console import print_checks

    checks = verify_run(folder)
    print_checks(checks)
    return PASSED if all(check.passed for check in checks) else FAILED
