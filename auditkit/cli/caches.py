"""The commands that show and empty the cache of features: `cache ls` and `cache rm`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditkit.cli.exit_codes import FAILED, PASSED
from auditkit.errors import InputError

if TYPE_CHECKING:
    from auditkit.feature_cache import EntrySummary

app = typer.Typer(name="cache", help="Show or empty the cache of features.", no_args_is_help=True)

CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="The cache; by default $AUDITKIT_CACHE or the user's cache folder."),
]
UNITS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
"""Seconds to a unit of age."""


@app.command("ls")
def show(
    cache: CacheFolder = None,
    form: Annotated[str, typer.Option("--format", metavar="text|json", help="What to print.")] = "text",
) -> int:
    """List the entries: id, state, size, age, rows, outputs, model and its fingerprint."""
    from auditkit.feature_cache import list_entries

    if form not in ("text", "json"):
        raise InputError(f"--format must be text or json; got {form!r}")
    folder = _folder(cache)
    entries = list_entries(folder)
    if form == "json":
        typer.echo(json.dumps({"folder": str(folder), "entries": [asdict(entry) for entry in entries]}, indent=1))
        return PASSED
    lines = [("id", "state", "size", "age", "rows", "outputs", "model", "fingerprint")]
    lines += [_line(entry) for entry in entries]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines if entries else ():
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    total = shown_size(sum(entry.size for entry in entries))
    typer.echo(f"{len(entries)} entries, {total}, in {folder}")
    return PASSED


@app.command("rm")
def remove(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Entries, by the beginning of their id.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every entry.")] = False,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Entries last written so long ago: 90m, 12h, 30d.")
    ] = None,
    cache: CacheFolder = None,
) -> int:
    """Remove entries, but none that a process is writing (exit 1 when one was left for that)."""
    from auditkit.feature_cache import remove_entries

    folder = _folder(cache)
    removed, left = remove_entries(folder, _choice(folder, ids or [], everything, older_than))
    for entry in left:
        typer.echo(f"left: {entry.key[:12]}, which another process is writing")
    typer.echo(f"removed: {len(removed)} entries, {shown_size(sum(entry.size for entry in removed))}")
    return FAILED if left else PASSED


def _folder(cache: Path | None) -> Path:
    from auditkit.feature_cache import cache_folder

    return cache_folder() if cache is None else cache


def _choice(folder: Path, ids: list[str], everything: bool, older_than: str | None) -> Callable[[EntrySummary], bool]:
    from auditkit.feature_cache import find_key

    if bool(ids) + everything + (older_than is not None) != 1:
        raise InputError("say which entries: their ids, --all, or --older-than AGE")
    if ids:
        keys = {find_key(folder, start) for start in ids}
        return lambda entry: entry.key in keys
    seconds = 0.0 if older_than is None else parse_age(older_than)
    return lambda entry: entry.age >= seconds


def parse_age(text: str) -> float:
    """Seconds of an age such as 90m, 12h or 30d.

    Raises:
        InputError: It is none.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.isdecimal():
        raise InputError(f"--older-than must be a number and one of {', '.join(UNITS)}, such as 30d; got {text!r}")
    return float(number) * UNITS[unit]


def shown_age(seconds: float) -> str:
    """An age in its largest whole unit."""
    for unit, size in sorted(UNITS.items(), key=lambda pair: -pair[1]):
        if unit != "w" and seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return "now"


def shown_size(n_bytes: int) -> str:
    """Bytes in a readable unit."""
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"


def _line(entry: EntrySummary) -> tuple[str, ...]:
    state = f"{entry.state} {entry.done:.0%}" if entry.state in ("unfinished", "writing") else entry.state
    rows = f"{entry.rows:,} {entry.unit}" if entry.rows else ""
    return (
        entry.key[:12], state, shown_size(entry.size), shown_age(entry.age), rows, "+".join(entry.outputs), entry.model,
        entry.fingerprint[:12],
    )  # fmt: skip
