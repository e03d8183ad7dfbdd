"""The cache as a folder of entries: where it is, what is in it, and what may go."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from auditkit._locks import try_lock
from auditkit.errors import InputError
from auditkit.feature_cache.entries import Entry

State: TypeAlias = Literal["whole", "unfinished", "writing", "damaged"]
LOCATION = "AUDITKIT_CACHE"
"""Environment variable that names the folder of the cache."""

KEY_LENGTH = 64
SHORTEST = 6


@dataclass(frozen=True)
class EntrySummary:
    """What there is to say about one entry.

    Attributes:
        key: Its name.
        state: "whole"; "unfinished", to be gone on with; "writing" by some process now; "damaged", without description.
        size: Bytes it takes on the disk.
        age: Seconds since it was last written.
        model: Name and fingerprint of the model.
        rows: Rows, and what they are.
        outputs: What is kept of every row.
        done: Share of the chunks that are finished, 0 to 1.
    """

    key: str
    state: State
    size: int
    age: float
    model: str = ""
    fingerprint: str = ""
    rows: int = 0
    unit: str = ""
    outputs: tuple[str, ...] = ()
    done: float = 0.0


def cache_folder() -> Path:
    """Where features are kept by default: $AUDITKIT_CACHE, else auditkit/features in the user's cache folder."""
    named = os.environ.get(LOCATION)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "auditkit" / "features"


def lock_path(folder: Path) -> Path:
    """The lock of an entry: beside its folder, so that it outlives it."""
    return folder.with_name(f"{folder.name}.lock")


def list_entries(root: str | Path) -> list[EntrySummary]:
    """Every entry of a cache, the latest first.

    Args:
        root: The folder; one that is not there holds nothing.
    """
    found = [_summarise(folder) for folder in _entry_folders(Path(root))]
    return sorted((summary for summary in found if summary is not None), key=lambda summary: summary.age)


def remove_entries(
    root: str | Path, chosen: Callable[[EntrySummary], bool]
) -> tuple[list[EntrySummary], list[EntrySummary]]:
    """Remove some entries, but none that a process is writing.

    A process that has the features of an entry open keeps them until it ends.

    Args:
        root: The folder of the cache.
        chosen: Which entries.

    Returns:
        What was removed, and what was left because a process writes it.
    """
    removed: list[EntrySummary] = []
    left: list[EntrySummary] = []
    for summary in list_entries(root):
        if not chosen(summary):
            continue
        folder = Path(root) / summary.key
        with try_lock(lock_path(folder), discard=True) as held:
            if held:
                shutil.rmtree(folder)
        (removed if held else left).append(summary)
    return removed, left


def find_key(root: str | Path, start: str) -> str:
    """The one entry whose name begins so.

    Raises:
        InputError: None does, or several, or the beginning is too short.
    """
    if len(start) < SHORTEST:
        raise InputError(f"name an entry by at least {SHORTEST} characters of its id; got {start!r}")
    keys = [folder.name for folder in _entry_folders(Path(root)) if folder.name.startswith(start)]
    if len(keys) != 1:
        raise InputError(f"{len(keys)} entries of {str(root)!r} begin with {start!r}; see `auditkit cache ls`")
    return keys[0]


def _entry_folders(root: Path) -> Iterator[Path]:
    """Folders that are named like entries; whatever else lies there is none of ours."""
    try:
        there = sorted(root.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cache: {str(root)!r} cannot be read: {error.strerror}") from error
    for path in there:
        if len(path.name) == KEY_LENGTH and set(path.name) <= set("0123456789abcdef") and path.is_dir():
            yield path


def _summarise(folder: Path) -> EntrySummary | None:
    try:
        stats = [path.stat() for path in folder.iterdir()]
        changed = max((stat.st_mtime for stat in stats), default=folder.stat().st_mtime)
    except FileNotFoundError:  # removed meanwhile
        return None
    size, age = sum(stat.st_size for stat in stats), max(0.0, time.time() - changed)
    entry, writing = Entry.read(folder), _is_written(folder)
    if entry is None:
        return EntrySummary(folder.name, "writing" if writing else "damaged", size, age)
    done = len(entry.listed()) / entry.layout.n_chunks
    state: State = "writing" if writing else "whole" if entry.is_whole() and done == 1 else "unfinished"
    return EntrySummary(
        folder.name, state, size, age, str(entry.about.get("model", "")), entry.content.model, entry.layout.n_rows,
        str(entry.about.get("unit", "rows")), entry.content.outputs, done,
    )  # fmt: skip


def _is_written(folder: Path) -> bool:
    """Whether a process holds the entry's lock; a lock that was never made is held by nobody."""
    lock = lock_path(folder)
    if not lock.exists():
        return False
    with try_lock(lock) as held:
        return not held
