"""The run folder: what a job leaves behind, written under a temporary name and moved into place whole."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from auditkit._tables import hash_file
from auditkit.errors import InputError
from auditkit.reporting import write_report


@dataclass(eq=False)
class Clock:
    """Seconds per stage; the only thing about a run that is not reproducible."""

    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note the seconds that the block takes."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begin, 3)

    def to_dict(self) -> dict[str, Any]:
        """Start, end and seconds per stage."""
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        return {"started": self.started, "finished": finished, "seconds": self.seconds}


def write_run(
    out: str | Path,
    record: dict[str, Any],
    files: Mapping[str, dict[str, Any] | None],
    *,
    clock: Clock,
    artefacts: Sequence[Callable[[Path], None]] = (),
) -> Path:
    """Write a run folder; it appears whole or not at all, and replaces an earlier run of the same name.

    Args:
        out: The folder.
        record: What run.json holds, but for the hashes of the other files.
        files: JSON file name → content; None is not written.
        clock: What timing.json holds.
        artefacts: Called with the unfinished folder to write further files.

    Returns:
        The folder.

    Raises:
        InputError: The folder holds something that is not a run.
    """
    target = check_out(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        for name, content in files.items():
            if content is not None:
                (draft / name).write_bytes(dump_json(content))
        for write in artefacts:
            write(draft)
        hashes = {str(p.relative_to(draft)): hash_file(p) for p in sorted(draft.rglob("*")) if p.is_file()}
        (draft / "run.json").write_bytes(dump_json({**record, "files": hashes}))
        (draft / "timing.json").write_bytes(dump_json(clock.to_dict()))
        write_report(draft)
        if target.exists():
            shutil.rmtree(target)
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def check_out(out: str | Path) -> Path:
    """The folder to write, when it is new, empty, or an earlier run.

    Raises:
        InputError: It holds something else.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / "run.json").is_file())):
        raise InputError(
            f"--out is {out}, which holds something that is not a run; name a new or an earlier run's folder"
        )
    return target


def dump_json(content: Any) -> bytes:
    """JSON text with a final newline; NaN and infinity are refused."""
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=False) + "\n").encode()
