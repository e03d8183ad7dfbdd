"""The commands that help to write an audit file: `schema` and `init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from auditkit.cli.exit_codes import PASSED
from auditkit.errors import InputError


def schema(
    what: Annotated[str, typer.Argument(metavar="[audit|report]", help="Of the audit file, or of report.json.")] = (
        "audit"
    ),
) -> int:
    """Print the JSON Schema of the audit file, or of a report's document."""
    import json

    if what not in ("audit", "report"):
        raise InputError(f"schema is of audit or of report; got {what!r}")
    if what == "audit":
        from auditkit.config import config_schema

        content = config_schema()
    else:
        from auditkit.reporting import report_schema

        content = report_schema()
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
    return PASSED


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
