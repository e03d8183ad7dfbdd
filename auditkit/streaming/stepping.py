"""A step of a stream: a pure function of the state and the batch, by either rule; and labels that arrive late."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import to_numpy
from auditkit.errors import InputError
from auditkit.streaming.batches import StreamBatch
from auditkit.streaming.layout import labelled_layout, worst_violation
from auditkit.streaming.pooled import Release, step_pooled
from auditkit.streaming.state import Key, LabelSums, StreamConfig, StreamState

MAX_CELLS = 200
"""Combinations of group values that a stream keeps."""


@dataclass(frozen=True, eq=False)
class PendingRows:
    """Rows that were released and wait for their labels.

    Attributes:
        keys: The cells that occur among them.
        index: Cell of every row, shape (n,).
        scores: z, shape (n,).
        corrections: a, shape (n,).
        released: y, shape (n,).
        position: Rows that the stream had released when these were.
    """

    keys: tuple[Key, ...]
    index: IntArray
    scores: FloatArray
    corrections: FloatArray
    released: FloatArray
    position: int

    def to_json(self) -> str:
        """The rows as text, every bit kept."""
        columns = (self.index, self.scores, self.corrections, self.released)
        return json.dumps([[list(key) for key in self.keys], *(c.tolist() for c in columns), self.position])

    @classmethod
    def from_json(cls, text: str) -> PendingRows:
        """The rows that `to_json` wrote."""
        keys, index, scores, corrections, released, position = json.loads(text)
        z, a, y = (np.array(column, dtype=np.float64) for column in (scores, corrections, released))
        return cls(tuple(map(tuple, keys)), np.array(index, dtype=np.int64), z, a, y, position)


def step(
    state: StreamState, batch: StreamBatch, config: StreamConfig, *, labels: FloatArray | None = None
) -> tuple[StreamState, Release]:
    """Release one batch.

    Args:
        state: What the stream knows; it is not changed.
        batch: The rows.
        config: What is enforced, and by which rule.
        labels: y, shape (n,); only the scalar rule reads labels at release.

    Returns:
        What the stream knows afterwards, and the release.

    Raises:
        InputError: The scalar rule needs labels that are not there, or the pooled rule was given some.
    """
    newcomers = sum([key not in state.cells for key in batch.keys])
    if newcomers and len(state.cells) + newcomers > MAX_CELLS:
        raise InputError(
            f"groups would bring this stream to {len(state.cells) + newcomers} combinations of {config.columns}, over "
            f"the {MAX_CELLS} that it keeps; merge rare values, or leave out an attribute that is nearly an id"
        )
    if config.rule == "pooled":
        if labels is not None:
            raise InputError('labels are not read at release by rule="pooled"; pass them to observe, with the batch id')
        return step_pooled(state, batch, config)
    from auditkit.streaming.scalar import step_scalar

    if config.needs_labels and labels is None:
        raise InputError('rule="scalar" needs the labels at release, as the paper\'s layer does; pass labels=, '
                         'or rule="pooled", which takes them late')  # fmt: skip
    return step_scalar(state, batch, config, labels)


def keep_pending(state: StreamState, batch: StreamBatch, release: Release) -> PendingRows:
    """What must be remembered of a release until its labels arrive.

    Args:
        state: After the release.
        batch: The rows.
        release: What was released.
    """
    return PendingRows(
        batch.keys, batch.cell_index(), batch.scores, release.corrections, release.scores, state.rows
    )  # fmt: skip


def check_labels(labels: VectorLike, n_rows: int) -> FloatArray:
    """Labels as float64 of shape (n,); None and NaN stand for rows whose label will never be known.

    Raises:
        InputError: Not numbers, infinite, or as many as the batch has rows.
    """
    try:
        values = to_numpy(labels).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"labels must be numbers, one per row of the batch; {error}") from error
    if values.shape != (n_rows,):
        raise InputError(f"labels must have {n_rows} values, as many as the batch has rows; got shape {values.shape}")
    if np.isinf(values).any():
        raise InputError("labels holds infinite values; pass None for a row whose label is not known")
    return values


def observe(
    state: StreamState, rows: PendingRows, labels: FloatArray, config: StreamConfig
) -> tuple[StreamState, dict[str, Any]]:
    """Take in the labels of a batch that was released before.

    Args:
        state: What the stream knows; it is not changed.
        rows: What was remembered of the batch.
        labels: Checked labels, shape (n,); NaN where unknown.
        config: What is enforced.

    Returns:
        What the stream knows afterwards, and what the ledger keeps.
    """
    arrived = _label_sums(rows, labels, config)
    entry = {
        "rows": int(np.isfinite(labels).sum()),
        "cells": [[list(key), sums.rows, sums.released, sums.label] for key, sums in arrived.items()],
    }
    if not arrived:
        return state, entry
    weight = 1.0 if config.window is None else math.exp(-(state.rows - rows.position) / config.window)
    labelled = _added(state.labelled, arrived, weight)
    total = labelled if config.window is None else _added(state.labelled_total, arrived, 1.0)
    layout = labelled_layout(config, tuple(labelled))
    violation, mass = state.late_violation, state.late_weight
    if layout.tolerance:
        mass += entry["rows"]
        violation += entry["rows"] * worst_violation(layout, arrived)
    following = replace(
        state, labelled=labelled, labelled_total=total, late_violation=violation, late_weight=mass
    )  # fmt: skip
    return following, entry


def _added(table: Any, arrived: dict[Key, LabelSums], weight: float) -> dict[Key, LabelSums]:
    moved = {key: sums if weight == 1.0 else sums.times(weight) for key, sums in arrived.items()}
    return {**table, **{key: table[key].plus(sums) if key in table else sums for key, sums in moved.items()}}


def _label_sums(rows: PendingRows, labels: FloatArray, config: StreamConfig) -> dict[Key, LabelSums]:
    known = np.flatnonzero(np.isfinite(labels))
    y, z, a, label = rows.released[known], rows.scores[known], rows.corrections[known], labels[known]
    values, code = np.unique(label, return_inverse=True) if config.by_label else (np.zeros(1), np.zeros_like(known))
    cell = rows.index[known] * len(values) + code.reshape(-1)
    size = len(rows.keys) * len(values)
    ones = np.ones_like(y)
    columns = (ones, z, y - a, a, y, y * y, label, (label - y) ** 2)
    sums = [np.bincount(cell, weights=column, minlength=size) for column in columns]
    found: dict[Key, LabelSums] = {}
    for position in np.flatnonzero(sums[0]).tolist():
        place, value = divmod(position, len(values))
        key: tuple[Hashable, ...] = rows.keys[place]
        if config.by_label:
            key = (*key, float(values[value]))
        found[key] = LabelSums(*(float(column[position]) for column in sums))
    return found
