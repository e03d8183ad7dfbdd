"""Sessions on disk, so that they outlive the app: only where whoever runs it has named a folder for them.

Every session has a folder of its own, readable by nobody but the user that the app runs as, and named by the SHA-256 of
the token in the visitor's address: who lists the folder learns no token, and a token opens its own session only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

SESSIONS = "AUDITKIT_APP_SESSIONS"
"""Environment variable by which whoever runs the app names the folder in which sessions are kept."""

SCHEMA = "auditkit.app.session/1"
_RECORD = "session.json"
_NAME = re.compile(r"[0-9a-f]{64}")
_GUARD = threading.Lock()


def place_for(token: str) -> Path | None:
    """A new folder for the session of a token; None where sessions are not kept."""
    folder = _folder(token)
    if folder is not None:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(mode=0o700)
    return folder


def find(token: str, *, hours: float) -> tuple[Path, dict[str, Any]] | None:
    """The folder and record of a session that was visited in the last ``hours``; None where there is none to open."""
    folder = _folder(token)
    if folder is None or _idle_hours(folder) > hours:
        return None
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return (folder, record) if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def write(folder: Path, record: dict[str, Any]) -> None:
    """Store the record of a session, whole or not at all, and note the visit."""
    text = json.dumps({"schema": SCHEMA, **record}, ensure_ascii=False)
    path, draft = folder / _RECORD, folder / f".{_RECORD}.tmp"
    with _GUARD:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            os.utime(path)
        elif folder.is_dir():  # a session that was forgotten meanwhile stays so
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)


def remove_idle(*, hours: float, but: Collection[str]) -> None:
    """Remove the sessions that nobody has visited for ``hours``, those with the tokens ``but`` apart."""
    named = os.environ.get(SESSIONS)
    if not named or not Path(named).is_dir():
        return
    open_now = {_digest(token) for token in but}
    for folder in Path(named).iterdir():
        if _NAME.fullmatch(folder.name) and folder.name not in open_now and _idle_hours(folder) > hours:
            shutil.rmtree(folder, ignore_errors=True)


def _folder(token: str) -> Path | None:
    named = os.environ.get(SESSIONS)
    return Path(named).resolve() / _digest(token) if named else None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _idle_hours(folder: Path) -> float:
    """Hours since the last visit; since it was made, for a folder without a record yet."""
    for path in (folder / _RECORD, folder):
        if path.exists():
            return (time.time() - path.stat().st_mtime) / 3600
    return float("inf")
