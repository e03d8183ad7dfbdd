"""The contrasts over the cells that a stream has seen; compiled when a new cell appears, looked up otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit.contrasts import Contrasts, compile_contrasts
from auditkit.criteria import Criterion
from auditkit.groups import LABEL, CellTable
from auditkit.streaming.state import CellSums, Key, LabelSums, StreamConfig, StreamState


@dataclass(frozen=True, eq=False)
class Layout:
    """Some criteria over some cells.

    Attributes:
        contrasts: What is compared.
        keys: The cells, in the order of their columns in ``contrasts.cell_event``.
        strata: The cells that stand together where single cells are compared at one tolerance, else None.
        owner: Position of every contrast's criterion among all criteria of the stream, shape (m,).
        plus: Events of every contrast as plain numbers.
        minus: Likewise; −1 where there is none.
        events: The cells of every event.
        tolerance: ε of every contrast.
    """

    contrasts: Contrasts
    keys: tuple[Key, ...]
    strata: tuple[tuple[int, ...], ...] | None
    owner: IntArray
    plus: tuple[int, ...]
    minus: tuple[int, ...]
    events: tuple[tuple[int, ...], ...]
    tolerance: tuple[float, ...]

    @cached_property
    def has_residuals(self) -> bool:
        """Whether any contrast is of residuals."""
        return bool(len(self.plus)) and bool(self.residual.any())

    @cached_property
    def alone(self) -> tuple[Key, ...] | None:
        """The cell of every event where each has exactly one."""
        if any(len(cells) != 1 for cells in self.events):
            return None
        return tuple(self.keys[cells[0]] for cells in self.events)

    @cached_property
    def together(self) -> tuple[tuple[Key, ...], ...]:
        """The cells of every stratum; none where `strata` is None."""
        return tuple(tuple(self.keys[c] for c in stratum) for stratum in self.strata or ())

    @cached_property
    def apart(self) -> bool:
        """Whether rows of one cell show no gap at all: every contrast is of two cells."""
        cells = self.alone
        if cells is None or self.has_residuals:
            return False
        return all(b >= 0 and cells[a] != cells[b] for a, b in zip(self.plus, self.minus, strict=True))

    @property
    def residual(self) -> BoolArray:
        """Whether a contrast is of residuals, shape (m,)."""
        return self.contrasts.residual

    def matrix(self, weights: FloatArray) -> FloatArray:
        """The matrix that takes cell means to contrasts, shape (m, c)."""
        return self.contrasts.contrast(self.contrasts.event_mean_matrix(weights))

    def event_means(self, rows: Sequence[float], sums: Sequence[float]) -> list[float]:
        """Σ sums / Σ rows over the cells of every event; NaN for an event without rows."""
        means = []
        for cells in self.events:
            mass = rows[cells[0]] if len(cells) == 1 else sum([rows[c] for c in cells])
            total = sums[cells[0]] if len(cells) == 1 else sum([sums[c] for c in cells])
            means.append(total / mass if mass else math.nan)
        return means

    def contrast(self, event_values: Sequence[float]) -> list[float]:
        """value[plus] − value[minus] of every contrast."""
        return [
            event_values[a] - (event_values[b] if b >= 0 else 0.0) for a, b in zip(self.plus, self.minus, strict=True)
        ]


_KEPT = 256
"""Layouts that are kept; cells only ever join a stream, so older ones are not needed again."""


def released_layout(config: StreamConfig, keys: tuple[Key, ...]) -> Layout:
    """The criteria that need no labels, over the cells of all released rows."""
    return _find(config, keys, labels=False)


def labelled_layout(config: StreamConfig, keys: tuple[Key, ...]) -> Layout:
    """The criteria that need labels, over the cells of the rows whose label has arrived."""
    return _find(config, keys, labels=True)


def _find(config: StreamConfig, keys: tuple[Key, ...], *, labels: bool) -> Layout:
    layout = config.layouts.get((labels, keys))
    if layout is None:
        if len(config.layouts) >= _KEPT:
            config.layouts.clear()
        columns = (*config.columns, LABEL) if labels and config.by_label else config.columns
        layout = config.layouts[labels, keys] = _compile(config.criteria, columns, keys, labels=labels)
    return layout


def _compile(
    criteria: tuple[Criterion, ...], columns: tuple[str, ...], keys: tuple[Key, ...], *, labels: bool
) -> Layout:
    chosen = [k for k, criterion in enumerate(criteria) if criterion.needs_labels == labels]
    categories = tuple(tuple(dict.fromkeys(key[k] for key in keys)) for k in range(len(columns)))
    codes = np.array([[categories[k].index(value) for k, value in enumerate(key)] for key in keys], dtype=np.int64)
    table = CellTable(columns, codes.reshape(len(keys), len(columns)), categories)
    contrasts = compile_contrasts([criteria[k] for k in chosen], table)
    member = contrasts.cell_event
    owner = np.array(chosen, dtype=np.int64)[contrasts.criterion] if len(contrasts.plus) else np.zeros(0, np.int64)
    return Layout(
        contrasts, keys, _find_strata(contrasts), owner,
        tuple(contrasts.plus.tolist()), tuple(contrasts.minus.tolist()),
        tuple(tuple(np.flatnonzero(row).tolist()) for row in member),
        tuple(contrasts.tolerance.tolist()) if len(contrasts.plus) else (),
    )  # fmt: skip


def _find_strata(contrasts: Contrasts) -> tuple[tuple[int, ...], ...] | None:
    """The cells of every stratum where one criterion compares single cells."""
    if len(contrasts.criteria) != 1 or not len(contrasts.events) or (contrasts.cell_event.sum(axis=1) != 1).any():
        return None
    strata: dict[object, list[int]] = {}
    for event, cell in zip(contrasts.events, contrasts.cell_event.argmax(axis=1).tolist(), strict=True):
        strata.setdefault(event.stratum, []).append(cell)
    return tuple(map(tuple, strata.values()))


def split_layouts(config: StreamConfig, state: StreamState) -> tuple[Layout, Layout]:
    """Both layouts over the cells of a state."""
    return released_layout(config, tuple(state.cells)), labelled_layout(config, tuple(state.labelled))


def pooled_gaps(layout: Layout, table: Mapping[Key, CellSums] | Mapping[Key, LabelSums]) -> list[float]:
    """The signed gap of every contrast over the rows behind some sums: of scores for ECP, of residuals for EER.

    Args:
        layout: What is compared.
        table: Sums by cell; cells of the layout may be missing.

    Returns:
        One gap per contrast; NaN where an event has no rows.
    """
    if layout.alone is not None and not layout.has_residuals:  # the commonest case by far
        return layout.contrast([
            sums.released / sums.rows if (sums := table.get(key)) is not None and sums.rows else math.nan
            for key in layout.alone
        ])  # fmt: skip
    sums = [table.get(key) for key in layout.keys]
    rows = [value.rows if value else 0.0 for value in sums]
    scores = layout.contrast(layout.event_means(rows, [value.released if value else 0.0 for value in sums]))
    if not layout.has_residuals:
        return scores
    late = [value.label - value.released if isinstance(value, LabelSums) else 0.0 for value in sums]
    residuals = layout.contrast(layout.event_means(rows, late))
    return [r if flag else s for r, s, flag in zip(residuals, scores, layout.residual.tolist(), strict=True)]


def worst_violation(layout: Layout, table: Mapping[Key, CellSums] | Mapping[Key, LabelSums]) -> float:
    """max_k (|gap_k| − ε_k) over some sums, where a gap that they cannot show counts as zero.

    Args:
        layout: What is compared; at least one contrast.
        table: Sums by cell; cells of the layout may be missing.

    Returns:
        The violation; negative where every gap is within its tolerance.
    """
    if len(table) == 1 and layout.apart:
        return -min(layout.tolerance)
    worst = -math.inf
    for gap, eps in zip(pooled_gaps(layout, table), layout.tolerance, strict=True):
        excess = (abs(gap) if gap == gap else 0.0) - eps
        if excess > worst:
            worst = excess
    return worst
