"""The pooled rule: constant corrections per cell, planned on all rows so far, and a debt that is repaid.

    y_i = clip( z_i + α_c + β_c (z_i − z̄_c) + r_c ),      r_c = min(1/b_c, κ/N_c) · (N_c⁻ α_c − A_c)

α and β are the plan (`planning`): what the projection of all rows so far would do, had it known them. N_c⁻ and A_c are
the rows of the cell before this batch and the sum of the corrections they were given, b_c its rows in the batch. The
bracket is the debt: what those rows would have to be given for the plan to hold on them. Repaying it over the next
N_c/κ rows keeps corrections nearly constant, which is cheapest, while the pooled gap keeps to the plan.

What is guaranteed, for any rows in any order. Let u_c = α_c be today's plan and A_c the corrections given, both over
the rows so far (over the labelled rows for a criterion that needs labels). The pooled released mean of a cell is
(response_c + A_c)/N_c by definition of the response, the planned one (response_c)/N_c + α_c lies within ε, so

    | pooled gap_k |  ≤  ε_k + relaxation + | T_k (α − A/N) |

holds exactly, whatever the scores did: the a-posteriori bound that every report states. With rows drawn independently,
the plan settles like 1/√N and the last term is O(1/√N) (docs/streaming.md has the proof of both).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from auditkit._typing import FloatArray
from auditkit.streaming.batches import StreamBatch
from auditkit.streaming.layout import pooled_gaps, released_layout, worst_violation
from auditkit.streaming.planning import Plan, make_plan, pull_back
from auditkit.streaming.state import Bounds, CellSums, Key, LabelSums, StreamConfig, StreamState

AIM = 0.9
"""Share of the band that a pooled gap is pulled back to: the band narrows, and bounds can cut a pull short."""

PULL = 0.25
"""How far, in bands, a row is moved to work off an excess that was there before it: a row that carried all of it would
be moved by N times the excess."""

FIRST_ROWS = 500
"""Rows before which a pooled gap outside the band is left to repayment: so few rows make no stable plan."""


@dataclass(frozen=True, eq=False)
class Release:
    """What one batch was answered with.

    Attributes:
        scores: y, shape (n,).
        corrections: a = what was added before clipping, shape (n,).
        entry: What the ledger keeps of it, JSON-ready.
    """

    scores: FloatArray
    corrections: FloatArray
    entry: dict[str, Any]


class Move(NamedTuple):
    """The correction of the rows of one cell: shift + slope · (z − centre)."""

    shift: float
    slope: float
    centre: float


def step_pooled(state: StreamState, batch: StreamBatch, config: StreamConfig) -> tuple[StreamState, Release]:
    """Release one batch.

    Args:
        state: What the stream knows.
        batch: The rows.
        config: What is enforced.

    Returns:
        What the stream knows afterwards, and the release.
    """
    past = state if config.window is None else forget(state, batch.n_rows, config.window)
    arrived = _arrivals(past.cells, batch, config.bounds)
    cells = {**past.cells, **{key: _joined(past.cells.get(key), sums) for key, sums in arrived.items()}}
    plan = make_plan(config, cells, past.labelled)
    moves = [_move(key, plan, past.cells.get(key), cells[key], arrived[key].rows, config) for key in batch.keys]
    scores, corrections, given = _apply(batch, moves, config.bounds)
    if late := _overdue(past, cells, given, plan, config):
        moves = [
            Move(move.shift + late.get(key, 0.0) / given[key].rows, move.slope, move.centre)
            for key, move in zip(batch.keys, moves, strict=True)
        ]
        scores, corrections, given = _apply(batch, moves, config.bounds)
    entry = {
        "rows": batch.n_rows,
        "cells": [[list(key), sums.rows, sums.released] for key, sums in given.items()],
        "corrections": [[list(key), *move] for key, move in zip(batch.keys, moves, strict=True)],
        "relaxation": plan.relaxation,
    }
    return advance(state, past, batch, given, config, plan.relaxation), Release(scores, corrections, entry)


def _apply(batch: StreamBatch, moves: list[Move], bounds: Bounds) -> tuple[FloatArray, FloatArray, dict[Key, CellSums]]:
    """Released scores, corrections, and their sums by cell."""
    if batch.members is None:
        return _apply_one(float(batch.scores[0]), batch.keys[0], moves[0], bounds)
    scores, corrections = np.empty(batch.n_rows), np.empty(batch.n_rows)
    given: dict[Key, CellSums] = {}
    for position, (key, move) in enumerate(zip(batch.keys, moves, strict=True)):
        rows = batch.members[position]
        z = batch.scores[rows]
        a = move.shift if not move.slope else move.shift + move.slope * (z - move.centre)
        y = clip(z + a, bounds)
        scores[rows], corrections[rows] = y, a
        given[key] = sum_cell(z, a, y)
    return scores, corrections, given


def _apply_one(z: float, key: Key, move: Move, bounds: Bounds) -> tuple[FloatArray, FloatArray, dict[Key, CellSums]]:
    """The same for a single row, without the price of arrays."""
    a = move.shift + move.slope * (z - move.centre)
    y = clip_one(z + a, bounds)
    return np.array([y]), np.array([a]), {key: CellSums(1.0, z, z * z, y - a, a, y, y * y)}


def _overdue(
    past: StreamState, cells: Mapping[Key, CellSums], given: Mapping[Key, CellSums], plan: Plan, config: StreamConfig
) -> dict[Key, float]:
    """What the released sums of the batch's cells lack for the pooled gaps to stay in the band; empty where they do."""
    total = sum([sums.rows for sums in cells.values()])
    if total < FIRST_ROWS:
        return {}
    layout = released_layout(config, tuple(cells))
    if not layout.tolerance:
        return {}
    after = {**past.cells, **{key: _joined(past.cells.get(key), sums) for key, sums in given.items()}}
    worst = worst_violation(layout, pooled_gaps(layout, after))
    allowance = plan.relaxation + AIM * config.band / math.sqrt(total)
    if worst <= allowance:
        return {}
    before = worst_violation(layout, pooled_gaps(layout, past.cells))
    rows = sum([sums.rows for sums in given.values()])
    allowance = max(allowance, before - PULL * config.band * rows / total)
    return {key: after[key].rows * shift for key, shift in pull_back(config, after, given, allowance).items()}


def _joined(before: CellSums | None, more: CellSums) -> CellSums:
    return more if before is None else before.plus(more)


def _arrivals(cells: Mapping[Key, CellSums], batch: StreamBatch, bounds: Bounds) -> dict[Key, CellSums]:
    """The sums of the new rows before anything is decided about them; clipping is guessed at the usual correction."""
    arrived = {}
    bounded = bounds != (None, None)
    for position, key in enumerate(batch.keys):
        z = batch.scores if batch.members is None else batch.scores[batch.members[position]]
        before = cells.get(key)
        usual = before.correction / before.rows if bounded and before is not None else 0.0
        if len(z) == 1:
            value = float(z[0])
            response = clip_one(value + usual, bounds) - usual
            arrived[key] = CellSums(1.0, value, value * value, response, 0.0, 0.0, 0.0)
        else:
            response = clip(z + usual, bounds) - usual if bounded else z
            arrived[key] = CellSums(float(len(z)), float(z.sum()), float(z @ z), float(response.sum()), 0.0, 0.0, 0.0)
    return arrived


def _move(key: Key, plan: Plan, before: CellSums | None, now: CellSums, rows: float, config: StreamConfig) -> Move:
    planned = plan.shift.get(key, 0.0)
    low, high = config.bounds
    if low is not None and high is not None:  # beyond the width nothing is left to move, so nothing may pile up
        planned = min(max(planned, low - high), high - low)
    repaid = 0.0
    if before is not None:
        debt = before.rows * planned - before.correction
        repaid = debt * min(1.0 / rows, config.repayment / now.rows)
    return Move(planned + repaid, plan.slope.get(key, 0.0), now.raw / now.rows)


def clip(values: FloatArray, bounds: Bounds) -> FloatArray:
    """Values moved into the bounds."""
    low, high = bounds
    if low is not None:
        values = np.maximum(values, low)
    return values if high is None else np.minimum(values, high)


def clip_one(value: float, bounds: Bounds) -> float:
    """One value moved into the bounds."""
    low, high = bounds
    if low is not None and value < low:
        return float(low)
    return float(high) if high is not None and value > high else value


def sum_cell(z: FloatArray, a: float | FloatArray, y: FloatArray) -> CellSums:
    """The sums of released rows of one cell."""
    if len(z) == 1:
        score, given, released = float(z[0]), float(a[0] if isinstance(a, np.ndarray) else a), float(y[0])
        return CellSums(1.0, score, score * score, released - given, given, released, released * released)
    count = float(len(z))
    given = float(a.sum()) if isinstance(a, np.ndarray) else count * a
    released = float(y.sum())
    return CellSums(count, float(z.sum()), float(z @ z), released - given, given, released, float(y @ y))


def advance(
    state: StreamState,
    past: StreamState,
    batch: StreamBatch,
    given: Mapping[Key, CellSums],
    config: StreamConfig,
    relaxation: float = 0.0,
) -> StreamState:
    """The state after a release: sums, counters, and the violation of this batch by itself.

    Args:
        state: Before the batch.
        past: The same with older rows weighing less, where the stream forgets.
        batch: The rows.
        given: Their sums by cell.
        config: What is enforced.
        relaxation: Of the plan that was followed.
    """
    cells = {**past.cells, **{key: _joined(past.cells.get(key), sums) for key, sums in given.items()}}
    total = cells
    if config.window is not None:
        total = {**state.total, **{key: _joined(state.total.get(key), sums) for key, sums in given.items()}}
    layout = released_layout(config, tuple(cells))
    violation, weight = state.violation, state.weight
    if layout.tolerance:
        weight += batch.n_rows
        violation += batch.n_rows * worst_violation(layout, pooled_gaps(layout, given))
    return replace(
        state, batches=state.batches + 1, rows=state.rows + batch.n_rows, cells=cells, total=total,
        labelled=past.labelled, violation=violation, weight=weight, relaxation=relaxation,
        labelled_total=past.labelled if config.window is None else state.labelled_total,
    )  # fmt: skip


def forget(state: StreamState, rows: int, window: float) -> StreamState:
    """The state with every sum that steers weighing less, by e^(−rows/window)."""
    factor = float(np.exp(-rows / window))
    cells = {key: sums.times(factor) for key, sums in state.cells.items()}
    labelled: dict[Key, LabelSums] = {key: sums.times(factor) for key, sums in state.labelled.items()}
    return replace(state, cells=cells, labelled=labelled)
