"""The commands that enforce criteria on streams: `stream`, `serve`, and `verify` of a ledger."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditkit._files import write_whole
from auditkit.cli.exit_codes import FAILED, PASSED
from auditkit.errors import InputError

if TYPE_CHECKING:
    from auditkit.config import StreamFile
    from auditkit.online_enforcer import OnlineEnforcer


StreamPath = Annotated[Path, typer.Argument(metavar="FILE", help="The stream file (YAML): criteria, bounds, store.")]
Store = Annotated[
    str | None, typer.Option("--store", metavar="FILE|URL", help="SQLite file or PostgreSQL URL; before the file's.")
]


def stream(
    file: StreamPath,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[JSONL]...", help="Batches, one JSON object a line; by default stdin."),
    ] = None,
    store: Store = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the figures of the stream as JSON.")
    ] = None,
) -> int:
    """Enforce criteria on batches of scores: JSON lines in, JSON lines out; exit 1 on an alarm."""
    from auditkit.stream_job import GROUP, run_stream, summarize

    with open_stream(_load(file), store) as enforcer:
        for source in inputs or [Path("-")]:
            if str(source) == "-":
                run_stream(enforcer, sys.stdin, sys.stdout, name="stdin")
                continue
            try:
                with source.open(encoding="utf-8") as lines:
                    run_stream(enforcer, lines, sys.stdout, name=source.name, group=GROUP)
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{source}: cannot be read ({error})") from error
        for line in summarize(enforcer):
            typer.echo(line, err=True)
        figures = enforcer.report()
    if report is not None:
        write_whole(report, json.dumps(figures.to_dict(), indent=2).encode())
    return FAILED if figures.alarms else PASSED


def serve(
    file: StreamPath,
    store: Store = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="Holds the bearer token that clients must bring."),
    ] = None,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, help="Size of a request body.")] = 1_000_000,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Rows of a request.")] = 10_000,
) -> int:
    """Enforce criteria over HTTP: POST /v1/step and /v1/observe; /docs shows the interface."""
    from auditkit.service import ServiceConfig, run_server

    config = ServiceConfig(_read_token(token_file), max_bytes, max_batch)
    run_server(open_stream(_load(file), store), config, host=host, port=port)
    return PASSED


def _read_token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file: {file} cannot be read ({error})") from error


def verify_store(place: str) -> int:
    """Check a ledger: the chain of hashes, the state, and the pooled gaps that follow from it."""
    from auditkit.reporting.console import print_checks
    from auditkit.state_store import verify_ledger

    checks = verify_ledger(place)
    print_checks(checks)
    return PASSED if all(check.passed for check in checks) else FAILED


def open_stream(file: StreamFile, store: str | None) -> OnlineEnforcer:
    """The enforcer that a stream file describes."""
    from auditkit.online_enforcer import OnlineEnforcer

    return OnlineEnforcer(file.build_criteria(), store=store or file.store, **file.enforcer_options())


def _load(file: Path) -> StreamFile:
    from auditkit.config import load_stream_file

    return load_stream_file(file)
