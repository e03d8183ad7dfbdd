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
    source: Annotated[
        str | None, typer.Argument(metavar="[TABLE|MODEL]", help="A table, or a model, to take the columns from.")
    ] = None,
    table: Annotated[Path | None, typer.Argument(metavar="[TABLE]", help="The table that a model scores.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write; by default stdout.")
    ] = None,
) -> int:
    """Write a commented audit file to start from."""
    from auditkit.config import example_config

    text = example_config() if source is None else _config_for(source, table, out)
    if out is None:
        typer.echo(text, nl=False)
        return PASSED
    if out.exists():
        raise InputError(f"--out: {out.name!r} exists and is left as it is; name another file")
    out.write_text(text, encoding="utf-8")
    typer.echo(f"written: {out}")
    return PASSED


def _config_for(source: str, table: Path | None, out: Path | None) -> str:
    from auditkit._tables import TABLE_SUFFIXES
    from auditkit.config import config_for_model, config_for_table

    folder = Path.cwd() if out is None else out.parent
    if Path(source).suffix.lower() in TABLE_SUFFIXES:
        if table is not None:
            raise InputError(f"init takes one table, or a model and its table; got {source!r} and {str(table)!r}")
        return config_for_table(Path(source), folder=folder)
    from auditkit.models.inspection import is_model, sketch_model

    if not is_model(source):
        return config_for_table(Path(source), folder=folder)
    sketch = sketch_model(source)
    return (
        config_for_model(sketch, folder=folder)
        if table is None
        else config_for_table(table, folder=folder, model=sketch)
    )
