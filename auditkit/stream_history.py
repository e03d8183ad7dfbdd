"""`describe_stream`: a stream as it stands, and as its ledger says it came to stand so, in JSON-ready values."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

from auditkit.errors import InputError
from auditkit.online_enforcer import OnlineEnforcer
from auditkit.state_store import open_ledger
from auditkit.state_store.base import LedgerEntry
from auditkit.streaming import CellSums, LabelSums, StreamConfig, StreamState, describe
from auditkit.streaming.layout import Layout, labelled_layout, pooled_gaps, released_layout
from auditkit.streaming.planning import make_plan

SCHEMA = "auditkit.stream-history/1"


def describe_stream(stream: OnlineEnforcer | str | Path, *, points: int = 0) -> dict[str, Any]:
    """The figures of a stream, its corrections, and the pooled gaps along its ledger.

        gap of a cell's contrast after entry t = T·(Σ_{s ≤ t} released_s / Σ_{s ≤ t} rows_s)

    Args:
        stream: A stream of this process, or the store of one (a SQLite file or a PostgreSQL URL), which is only read.
        points: The most points of the ledger that are stated, evenly spread, the last among them; 0 states none. A
            stream that is kept in memory has no ledger to read.

    Returns:
        JSON-ready values: ``schema``; every key of `OnlineEnforcer.report`; ``bounds``, ``band`` and ``confidence``;
        ``corrections``, for every group the rows and the shift α_c = −(Tᵀλ)_c / N_c by which the multipliers of the
        criteria move its scores (none under the scalar rule, whose multiplier is ``dual``); and ``history``, for every
        point ``sequence``, ``batch_id``, ``at``, ``rows`` and ``gaps`` in the order of ``compared``.

    Raises:
        InputError: ``points`` is negative, or is asked of a stream in memory.
        StoreError: The store cannot be read.
    """
    if points < 0:
        raise InputError(f"points must be at least 0; got {points}")
    if isinstance(stream, OnlineEnforcer):
        if points:
            raise InputError("points are read from a ledger; pass the store of the stream in place of the stream")
        return _figures(stream.state, stream.config) | {"compared": [], "history": []}
    ledger = open_ledger(stream)
    try:
        config, state = ledger.read_config(), ledger.read_state()
        kept = _History(config, ledger.read_head().sequence, points)
        if points:
            for entry in ledger.read_entries():
                kept.take(entry)
    finally:
        ledger.close()
    return _figures(state, config) | {"compared": kept.compared(), "history": kept.rows()}


def _figures(state: StreamState, config: StreamConfig) -> dict[str, Any]:
    report = json.loads(json.dumps(describe(state, config).to_dict(), default=str))
    for gap in report["gaps"]:
        for name in ("gap", "recent_gap"):
            gap[name] = gap[name] if gap[name] is not None and math.isfinite(gap[name]) else None
    return {
        "schema": SCHEMA,
        **report,
        "bounds": list(config.bounds),
        "band": config.band,
        "confidence": config.confidence,
        "corrections": list(_corrections(state, config)),
    }


def _corrections(state: StreamState, config: StreamConfig) -> Iterator[dict[str, Any]]:
    if config.rule != "pooled" or not state.cells:
        return
    plan = make_plan(config, state.cells, state.labelled)
    for key, sums in state.total.items():
        yield {"group": _words(key), "rows": round(sums.rows), "shift": plan.shift.get(key, 0.0)}


def _words(key: tuple[Hashable, ...]) -> str:
    return " × ".join(map(str, key))


class _History:
    """Adds up a ledger and keeps the pooled gaps at some of its entries."""

    def __init__(self, config: StreamConfig, entries: int, points: int) -> None:
        self._config = config
        self._every = max(1, math.ceil(entries / points)) if points else 1
        self._last = entries
        self._released: dict[Any, CellSums] = {}
        self._labelled: dict[Any, LabelSums] = {}
        self._count = 0
        self._kept: list[tuple[dict[str, Any], dict[tuple[str, str], float]]] = []

    def take(self, entry: LedgerEntry) -> None:
        """Add the sums of one entry."""
        content = json.loads(entry.entry)
        for key, *sums in content["cells"]:
            if entry.kind == "step":
                new = CellSums(rows=float(sums[0]), released=sums[1])
                self._released[tuple(key)] = self._released.get(tuple(key), CellSums()).plus(new)
            else:
                late = LabelSums(rows=float(sums[0]), released=sums[1], label=sums[2])
                self._labelled[tuple(key)] = self._labelled.get(tuple(key), LabelSums()).plus(late)
        self._count += content["rows"] if entry.kind == "step" else 0
        if entry.sequence % self._every == 0 or entry.sequence == self._last:
            point = {"sequence": entry.sequence, "batch_id": entry.batch_id, "at": entry.at, "rows": self._count}
            self._kept.append((point, dict(self._gaps())))

    def _gaps(self) -> Iterator[tuple[tuple[str, str], float]]:
        parts: tuple[tuple[Layout, Any], ...] = (
            (released_layout(self._config, tuple(self._released)), self._released),
            (labelled_layout(self._config, tuple(self._labelled)), self._labelled),
        )
        for layout, table in parts:
            for k, gap in enumerate(pooled_gaps(layout, table) if layout.plus else []):
                if math.isfinite(gap):
                    yield (self._config.criteria[layout.owner[k]].name, layout.contrasts.describe(k)), gap

    def compared(self) -> list[dict[str, str]]:
        """Every gap that occurs, in the order in which it appeared."""
        return [{"criterion": criterion, "name": name} for criterion, name in self._names()]

    def rows(self) -> list[dict[str, Any]]:
        """The points, with None for a gap that was not there yet."""
        names = self._names()
        return [{**point, "gaps": [gaps.get(name) for name in names]} for point, gaps in self._kept]

    def _names(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys(name for _, gaps in self._kept for name in gaps))
