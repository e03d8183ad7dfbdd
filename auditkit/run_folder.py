"""The run folder: what a job leaves behind, written under a temporary name and moved into place whole."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit._tables import hash_file
from auditkit.errors import InputError
from auditkit.finetuning import describe_training
from auditkit.reporting import write_report

if TYPE_CHECKING:
    from auditkit.baselines import FitContext
    from auditkit.config import AuditFile
    from auditkit.datasets import AuditData
    from auditkit.groups import Groups
    from auditkit.leakage import Leakage
    from auditkit.models import FrozenModel

SCHEMA = "auditkit.run/1"
PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "torch", "timm", "cvxpy", "osqp", "daqp", "fairlearn", "plotly")


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


def make_record(
    command: str,
    config: AuditFile,
    data: dict[str, Any],
    model: FrozenModel | None = None,
    *,
    parts: Mapping[str, np.ndarray] | None = None,
    leakage: Leakage | None = None,
    context: FitContext | None = None,
    reference: str | None = None,
) -> dict[str, Any]:
    """What run.json holds, but for the hashes of the other files.

    Args:
        command: The command that ran.
        config: Its audit file.
        data: What is said about the data, with their hash.
        model: The frozen model; None for a table of predictions.
        parts: Rows of every part, where they were split.
        leakage: What the parts share.
        context: What was tuned and calibrated.
        reference: What the model as found is, where it is not the frozen model's own scores.
    """
    plan = config.to_dict()
    packages = [*PACKAGES, *(() if model is None else model.packages)]
    head = None if context is None else context.head
    calibration = None if context is None else context.calibration
    return {
        "schema": SCHEMA,
        "command": command,
        "auditkit": metadata.version("auditkit"),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "seed": config.seed,
        "hashes": {
            "model": None if model is None else model.fingerprint,
            "data": data["sha256"],
            "plan": hashlib.sha256(dump_json(plan)).hexdigest(),
        },
        "plan": plan,
        "model": None if model is None else describe_model(model),
        "reference": reference,
        "data": data,
        "split": None if parts is None else {name: len(part) for name, part in parts.items()},
        "split_rule": None if parts is None else config.split.describe(),
        "leakage": None if leakage is None else leakage.to_dict(),
        "tuning": None if head is None or context is None else describe_training(head, context.config),
        "calibration": None if calibration is None else calibration.to_dict(),
    }


def describe_model(model: FrozenModel) -> dict[str, Any]:
    """What run.json holds about a model."""
    return {
        "name": model.name, "task": model.task, "fingerprint": model.fingerprint, "n_features": model.n_features,
        "weights_sha256": model.weights_sha256 or None, "trust": model.trust or None,
    }  # fmt: skip


def describe_data(data: AuditData) -> dict[str, Any]:
    """What run.json holds about data that were read whole."""
    groups = data.groups
    counts = {
        name: dict(zip(map(str, groups.categories(name)), _count_rows(groups, name), strict=True))
        for name in groups.names
    }
    labels = data.labels if data.outputs is None else None  # the mean of the numbers of classes says nothing
    label_mean = None if labels is None else float(np.average(labels, weights=data.weights))
    return {
        "name": data.name, "source": Path(data.source).name, "sha256": data.sha256, "engine": "pandas",
        "rows": data.n_rows, "attributes": counts, "label_mean": label_mean,
    }  # fmt: skip


def _count_rows(groups: Groups, name: str) -> list[int]:
    """Rows of every group of an attribute; expected ones, rounded, where it is inferred."""
    if name in groups.inferred:
        return np.rint(groups.shares(name).sum(axis=0)).astype(int).tolist()
    return np.bincount(groups.codes(name), minlength=len(groups.categories(name))).tolist()
