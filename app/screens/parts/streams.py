"""Replaying batches through the library's online enforcement, in a job, with the figures at every look."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import auditkit as ak

from .jobs import Job
from .session import Json

STORES = "AUDITKIT_APP_STORES"
"""Environment variable by which whoever runs the app names the folder whose stores visitors may look at."""

MOST_POINTS = 300


@dataclass(eq=False)
class Replay:
    """A stream that is replayed, and what was seen of it on the way.

    Attributes:
        store: Its SQLite file in the visitor's folder.
        criteria: What is enforced.
        settings: The keys of its stream file.
        points: The figures at every look, the oldest first.
    """

    store: Path
    criteria: tuple[ak.Criterion, ...]
    settings: Json
    points: list[Json] = field(default_factory=list)


def stored_streams() -> list[Path] | None:
    """The stores that visitors may look at; None where whoever runs the app has named no folder of them."""
    named = os.environ.get(STORES)
    if not named:
        return None
    folder = Path(named).resolve()
    return sorted(path for path in folder.glob("*.db") if path.resolve().is_relative_to(folder) and path.is_file())


def table_batches(config: ak.AuditFile, rows: int, *, labels: bool) -> Iterator[Json]:
    """The rows of the plan's data in batches, in the order of the table; outcomes follow one batch later.

    Args:
        config: The audit file; its data are scored by its model, or bring scores.
        rows: Of a batch.
        labels: Whether outcomes are told at all.

    Yields:
        What a line of a file of batches holds; with ``total``, the number of batches, beside it.
    """
    data = ak.load_table(config.data_path, **config.table_options())
    scores = data.scores
    if config.model is not None:
        scores = np.asarray(ak.load_model(config.model).scores(data.features).double().numpy())
    if scores is None:
        raise ak.AuditkitError("there are no scores to replay; name the column of scores on the page Data & model")
    names = list(dict.fromkeys(name for one in config.build_criteria() for name in (*one.attributes, *one.given)))
    columns = {name: np.asarray(data.groups.values(name), dtype=object) for name in names if name in data.groups.names}
    total = math.ceil(data.n_rows / rows)
    for place in range(total):
        part = slice(place * rows, min((place + 1) * rows, data.n_rows))
        groups = {name: [_plain(value) for value in values[part]] for name, values in columns.items()}
        yield {"batch_id": str(place + 1), "scores": scores[part].tolist(), "groups": groups, "total": total}
        if labels and data.labels is not None:
            yield {"batch_id": str(place + 1), "labels": data.labels[part].tolist(), "total": total}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def file_batches(content: bytes, name: str) -> Iterator[Json]:
    """The batches of an uploaded file: JSON objects, one a line.

    Raises:
        AuditkitError: A line is none.
    """
    total = content.count(b"\n") + 1
    for number, line in enumerate(io.BytesIO(content), start=1):
        if not line.strip():
            continue
        try:
            batch = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ak.AuditkitError(f"{name}, line {number}: this is not JSON") from error
        if not isinstance(batch, dict) or not {"scores", "labels"} & set(batch) or "batch_id" not in batch:
            raise ak.AuditkitError(
                f"{name}, line {number}: a line is an object with batch_id, and with scores and groups, or labels"
            )
        yield {**batch, "total": total, "line": f"{name}, line {number}"}


def attributes_of(content: bytes, name: str) -> list[str]:
    """The attributes that the first batch with scores of an uploaded file has."""
    for batch in file_batches(content, name):
        if isinstance(batch.get("groups"), dict):
            return [str(key) for key in batch["groups"]]
    raise ak.AuditkitError(f"{name} holds no batch with scores and groups")


def replay(replayed: Replay, batches: Iterable[Json], job: Job, pace: float) -> None:
    """Release every batch, and look at the stream at most `MOST_POINTS` times on the way.

    Args:
        replayed: Where the figures go.
        batches: What to release.
        job: Where to report; cancelling it leaves what was released, whole, in the store.
        pace: Batches a second; 0 takes no pauses.
    """
    options = {key: value for key, value in replayed.settings.items() if key in ("bounds", "rule")}
    with ak.OnlineEnforcer(replayed.criteria, store=replayed.store, **options) as stream:
        for place, batch in enumerate(batches, start=1):
            total = max(int(batch["total"]), place)
            job.report(f"batch {batch['batch_id']}: {place} of {total}", place / total)
            _release(stream, batch)
            every = max(1, total // MOST_POINTS)
            if place % every == 0 or place == total:
                replayed.points.append(ak.describe_stream(stream))
            if pace:
                time.sleep(1 / pace)
        last = ak.describe_stream(stream)
    if not replayed.points or replayed.points[-1]["rows"] != last["rows"]:
        replayed.points.append(last)


def _release(stream: ak.OnlineEnforcer, batch: Json) -> None:
    try:
        if "scores" in batch:
            stream.step(batch["scores"], batch.get("groups") or {}, batch_id=batch["batch_id"])
        else:
            labels = [math.nan if value is None else value for value in batch["labels"]]
            stream.observe(labels, batch_id=batch["batch_id"])
    except ak.AuditkitError as error:
        where = f"{batch['line']}: " if "line" in batch else ""
        raise ak.AuditkitError(f"{where}{error}") from error


def as_lines(batches: Iterable[Json]) -> bytes:
    """Batches as the command line reads them."""
    plain = ({key: value for key, value in batch.items() if key not in ("total", "line")} for batch in batches)
    return "".join(json.dumps(batch, separators=(",", ":"), ensure_ascii=False) + "\n" for batch in plain).encode()
