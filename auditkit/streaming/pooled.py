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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from auditkit._typing import FloatArray
from auditkit.streaming.batches import StreamBatch
from auditkit.streaming.layout import Layout, released_layout, worst_violation
from auditkit.streaming.planning import Plan, make_plan, pull_back
from auditkit.streaming.state import Bounds, CellSums, Key, LabelSums, StreamConfig, StreamState

AIM = 0.9
"""Share of the band that a pooled gap is pulled back to: the band narrows, and bounds can cut a pull short."""

PULL = 0.25
"""How far, in bands, a row is moved to work off an excess that was there before it: a row that carried all of it would
be moved by N times the excess."""

FEW_ROWS = 24
"""Rows up to which plain numbers are quicker than arrays."""

FIRST_ROWS = 500
"""Rows before which a pooled gap outside the band is left to repayment: so few rows make no stable plan."""


class Release(NamedTuple):
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
    cells = join_sums(past.cells, arrived)
    plan = make_plan(config, cells, past.labelled)
    moves = [_move(key, plan, past.cells.get(key), cells[key], arrived[key].rows, config) for key in batch.keys]
    scores, corrections, given = _apply(batch, arrived, moves, config.bounds)
    after = join_sums(past.cells, given)
    layout = released_layout(config, tuple(after))
    if late := _overdue(past, after, given, plan, config, layout):
        moves = [
            Move(move.shift + late.get(key, 0.0) / given[key].rows, move.slope, move.centre)
            for key, move in zip(batch.keys, moves, strict=True)
        ]
        scores, corrections, given = _apply(batch, arrived, moves, config.bounds)
        after = join_sums(past.cells, given)
    entry = {
        "rows": batch.n_rows,
        "cells": [[list(key), sums.rows, sums.released] for key, sums in given.items()],
        "corrections": [[list(key), *move] for key, move in zip(batch.keys, moves, strict=True)],
        "relaxation": plan.relaxation,
    }
    following = advance(state, past, after, given, config, layout, plan.relaxation)
    return following, Release(scores, corrections, entry)


def _apply(
    batch: StreamBatch, arrived: Mapping[Key, CellSums], moves: list[Move], bounds: Bounds
) -> tuple[FloatArray, FloatArray, dict[Key, CellSums]]:
    """Released scores, corrections, and their sums by cell."""
    if batch.n_rows == 1:
        return _apply_one(batch, arrived, moves[0], bounds)
    release = _release_few if batch.n_rows <= FEW_ROWS else _release_many
    scores, corrections, released, squares = release(batch, moves, bounds)
    if any(move.slope for move in moves):
        given = np.bincount(batch.cell_index(), corrections, len(moves)).tolist()
    else:
        given = [arrived[key].rows * move.shift for key, move in zip(batch.keys, moves, strict=True)]
    sums = {
        key: CellSums(*arrived[key][:3], y - a, a, y, y2)
        for key, a, y, y2 in zip(batch.keys, given, released, squares, strict=True)
    }
    return scores, corrections, sums


def _apply_one(
    batch: StreamBatch, arrived: Mapping[Key, CellSums], move: Move, bounds: Bounds
) -> tuple[FloatArray, FloatArray, dict[Key, CellSums]]:
    """The same of a single row to the last bit: a sum begins with 0.0, which only −0.0 can tell."""
    (shift, slope, centre), (low, high), z = move, _limits(bounds), batch.scores.item()
    a = shift + slope * (z - centre)
    y = z + a
    y = low if y < low else high if y > high else y
    given = 0.0 + a if slope else shift
    (key,), released = batch.keys, 0.0 + y
    rows, raw, square, *_ = arrived[key]
    sums = {key: CellSums(rows, raw, square, released - given, given, released, y * y)}
    return np.array([y]), np.array([a]), sums


Released = tuple[FloatArray, FloatArray, list[float], list[float]]
"""y and a of every row, and Σ y and Σ y² of every cell."""


def _release_many(batch: StreamBatch, moves: list[Move], bounds: Bounds) -> Released:
    index, size = batch.cell_index(), len(moves)
    corrections = np.array([move.shift for move in moves]).take(index)
    if any(move.slope for move in moves):
        slope, centre = (np.array(part).take(index) for part in list(zip(*moves, strict=True))[1:])
        corrections += slope * (batch.scores - centre)
    scores = clip(batch.scores + corrections, bounds)
    return scores, corrections, *(np.bincount(index, values, size).tolist() for values in (scores, scores * scores))


def _release_few(batch: StreamBatch, moves: list[Move], bounds: Bounds) -> Released:
    """The same to the last bit, without the price of arrays."""
    scores, corrections, (low, high) = [], [], _limits(bounds)
    released, squares = [0.0] * len(moves), [0.0] * len(moves)
    for place, z in zip(batch.places(), batch.scores.tolist(), strict=True):
        shift, slope, centre = moves[place]
        a = shift + slope * (z - centre)
        y = z + a
        if y < low:
            y = low
        elif y > high:
            y = high
        scores.append(y)
        corrections.append(a)
        released[place] += y
        squares[place] += y * y
    return np.array(scores), np.array(corrections), released, squares


def _overdue(
    past: StreamState,
    after: Mapping[Key, CellSums],
    given: Mapping[Key, CellSums],
    plan: Plan,
    config: StreamConfig,
    layout: Layout,
) -> dict[Key, float]:
    """What the released sums of the batch's cells lack for the pooled gaps to stay in the band; empty where they do."""
    total = sum([sums.rows for sums in after.values()])
    if total < FIRST_ROWS or not layout.tolerance:
        return {}
    worst = worst_violation(layout, after)
    allowance = plan.relaxation + AIM * config.band / math.sqrt(total)
    if worst <= allowance:
        return {}
    before = worst_violation(layout, past.cells)
    rows = sum([sums.rows for sums in given.values()])
    allowance = max(allowance, before - PULL * config.band * rows / total)
    return {key: after[key].rows * shift for key, shift in pull_back(config, after, given, allowance).items()}


def join_sums(before: Mapping[Key, CellSums], more: Mapping[Key, CellSums]) -> dict[Key, CellSums]:
    """The sums of all rows by cell, once more rows are among them."""
    cells = dict(before)
    for key, sums in more.items():
        known = before.get(key)
        cells[key] = sums if known is None else known.plus(sums)
    return cells


def _arrivals(cells: Mapping[Key, CellSums], batch: StreamBatch, bounds: Bounds) -> dict[Key, CellSums]:
    """The sums of the new rows before anything is decided about them; clipping is guessed at the usual correction."""
    if batch.n_rows == 1:
        return {batch.keys[0]: _arrive_one(cells.get(batch.keys[0]), batch.scores.item(), bounds)}
    usual = [0.0] * len(batch.keys)
    if bounds != (None, None):
        usual = [known.correction / known.rows if (known := cells.get(key)) else 0.0 for key in batch.keys]
    add = _add_few if batch.n_rows <= FEW_ROWS else _add_many
    sums = zip(batch.keys, add(batch, usual, bounds), strict=True)
    return {key: CellSums(rows, z, z2, response, 0.0, 0.0, 0.0) for key, (rows, z, z2, response) in sums}


def _arrive_one(known: CellSums | None, z: float, bounds: Bounds) -> CellSums:
    """The same of a single row to the last bit."""
    low, high = _limits(bounds)
    expected = known.correction / known.rows if known and bounds != (None, None) else 0.0
    y = z + expected
    y = low if y < low else high if y > high else y
    return CellSums(1.0, 0.0 + z, z * z, 0.0 + (y - expected), 0.0, 0.0, 0.0)


def _add_many(batch: StreamBatch, usual: list[float], bounds: Bounds) -> Iterable[Sequence[float]]:
    """N, Σ z, Σ z² and the guessed Σ (y − a) of every cell."""
    index, scores, size = batch.cell_index(), batch.scores, len(usual)
    expected = np.array(usual).take(index)
    rows = map(float, np.bincount(index, minlength=size).tolist())
    columns = (scores, scores * scores, clip(scores + expected, bounds) - expected)
    return zip(rows, *[np.bincount(index, values, size).tolist() for values in columns], strict=True)


def _add_few(batch: StreamBatch, usual: list[float], bounds: Bounds) -> Iterable[Sequence[float]]:
    """The same to the last bit, without the price of arrays."""
    sums, (low, high) = [[0.0, 0.0, 0.0, 0.0] for _ in usual], _limits(bounds)
    for place, z in zip(batch.places(), batch.scores.tolist(), strict=True):
        cell, expected = sums[place], usual[place]
        y = z + expected
        if y < low:
            y = low
        elif y > high:
            y = high
        cell[0] += 1.0
        cell[1] += z
        cell[2] += z * z
        cell[3] += y - expected
    return sums


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


def _limits(bounds: Bounds) -> tuple[float, float]:
    """The bounds as numbers."""
    low, high = bounds
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def advance(
    state: StreamState,
    past: StreamState,
    cells: Mapping[Key, CellSums],
    given: Mapping[Key, CellSums],
    config: StreamConfig,
    layout: Layout,
    relaxation: float = 0.0,
) -> StreamState:
    """The state after a release: sums, counters, and the violation of this batch by itself.

    Args:
        state: Before the batch.
        past: The same with older rows weighing less, where the stream forgets.
        cells: The sums of ``past`` and of the batch together.
        given: The sums of the batch by cell.
        config: What is enforced.
        layout: The criteria that need no labels, over the cells of ``cells``.
        relaxation: Of the plan that was followed.
    """
    rows = round(sum([sums.rows for sums in given.values()]))
    violation, weight = state.violation, state.weight
    if layout.tolerance:
        weight += rows
        violation += rows * worst_violation(layout, given)
    return state.with_changes(
        batches=state.batches + 1, rows=state.rows + rows, cells=cells, violation=violation, weight=weight,
        total=cells if config.window is None else join_sums(state.total, given), labelled=past.labelled,
        labelled_total=past.labelled if config.window is None else state.labelled_total, relaxation=relaxation,
    )  # fmt: skip


def forget(state: StreamState, rows: int, window: float) -> StreamState:
    """The state with every sum that steers weighing less, by e^(−rows/window)."""
    factor = float(np.exp(-rows / window))
    cells = {key: sums.times(factor) for key, sums in state.cells.items()}
    labelled: dict[Key, LabelSums] = {key: sums.times(factor) for key, sums in state.labelled.items()}
    return state.with_changes(cells=cells, labelled=labelled)
