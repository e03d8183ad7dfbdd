"""The plan of the pooled rule: the cheapest corrections under which all rows so far would meet the criteria.

    min ½ Σ_c ( N_c α_c² + S_c β_c² )   subject to   | T (m̄ + M·(α, β)) − τ | ≤ ε − m,    a_i = α_c + β_c (z_i − z̄_c)

N_c counts the rows of cell c, m̄_c is the mean of their responses y − a (of z itself where nothing is clipped), z̄_c and
S_c the mean and the sum of squares of z about it. T takes contrasts of the means of events, M carries a correction into
the mean of an event, τ holds the contrasts of the labels for EER. The slopes β exist only where a criterion is given
the label: no shift alone can bring two labels of a group together, and the label is unknown when a score is released.
The margin m is a share of 1/√N, at most ε, and zero where a criterion needs labels.

This is the projection of `auditkit.project`, collapsed to the cells (docs/projection.md), on all rows at once. For one
criterion over single cells it is solved by a sort, otherwise by the active-set solver on as many variables as cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from auditkit._typing import FloatArray
from auditkit.streaming.layout import Layout, labelled_layout, released_layout
from auditkit.streaming.state import CellSums, Key, LabelSums, StreamConfig

LEAST_SLOPE = -0.9
"""A correction never turns the order of scores within a cell around: 1 + β stays above zero."""

MARGIN = 0.4
"""How far the plan keeps within ε, in bands over √N. A row held back at the edge of the band is moved by as much as it
strays from its group, and the plan by a hair: keeping away from the edge moves less in all."""

_RELAXATIONS = 60
_WIDEST = 1e12
_DEAR = 1e9
"""The price of moving a cell that the batch has no row of, beside one that it has."""


class Plan(NamedTuple):
    """Corrections per cell.

    Attributes:
        shift: α of every cell.
        slope: β of the cells that have one.
        centre: z̄, about which the slopes turn.
        relaxation: What had to be added to every tolerance for a solution to exist; zero unless criteria conflict.
        duals: Signed multipliers of the contrasts, released ones first; None where the closed form was taken.
    """

    shift: Mapping[Key, float]
    slope: Mapping[Key, float]
    centre: Mapping[Key, float] = MappingProxyType({})
    relaxation: float = 0.0
    duals: tuple[float, ...] | None = None


def make_plan(config: StreamConfig, cells: Mapping[Key, CellSums], labelled: Mapping[Key, LabelSums]) -> Plan:
    """Solve the plan for the sums as they stand.

    Args:
        config: What is enforced.
        cells: Sums over all rows, those of the batch included.
        labelled: Sums over the rows whose label has arrived.

    Returns:
        The corrections.
    """
    released = released_layout(config, tuple(cells))
    if config.needs_labels:  # slopes and labels can leave no room for a margin
        return _solve_plan(config, released, cells, labelled)
    margin = _margin(cells, config.band)
    if released.strata is not None:
        return _closed_plan(released, cells, margin)
    return _solve_plan(config, released, cells, labelled, -margin)


def _margin(cells: Mapping[Key, CellSums], band: float) -> float:
    """MARGIN·min(band, σ)/√N, where σ is the spread within cells: scores that stray little never reach the edge."""
    rows = within = 0.0
    for count, raw, square, _, _, _, _ in cells.values():
        rows += count
        within += square - raw * raw / count
    return MARGIN * min(band, math.sqrt(max(within, 0.0) / rows)) / math.sqrt(rows)


def pull_back(
    config: StreamConfig, cells: Mapping[Key, CellSums], batch: Mapping[Key, CellSums], allowance: float
) -> Mapping[Key, float]:
    """How far the pooled released means of a batch's cells must move for every pooled gap to be at most ε + allowance.

        min Σ_c b_c s_c²   subject to   | T (m̄ + δ) | ≤ ε + allowance,     δ_c = b_c s_c / N_c, and 0 for absent cells

    Where the cells of the batch cannot bring that about alone, the allowance grows by the least with which they can.

    Args:
        config: What is enforced; criteria that need labels are left out, since the labels of today's rows are unknown.
        cells: Sums over all rows, those of the batch included.
        batch: Sums over the rows of the batch.
        allowance: What is tolerated on top of ε.

    Returns:
        δ of the cells of the batch.
    """
    layout = released_layout(config, tuple(cells))
    price = {key: sums.rows**2 / batch[key].rows if key in batch else math.inf for key, sums in cells.items()}
    if layout.strata is not None:
        shift = _pull_cells(layout, cells, price, allowance)
    elif len(batch) == 1:
        shift = _pull_one(layout, cells, next(iter(batch)), allowance)
    else:
        means = {key: CellSums(rows=sums.rows, raw=sums.raw, response=sums.released) for key, sums in cells.items()}
        plain = replace(config, criteria=layout.contrasts.criteria)
        gram = np.array([1.0 / price[key] for key in cells])
        shift = _solve_plan(plain, layout, means, {}, allowance, gram).shift
    return {key: shift[key] for key in batch}


def _pull_cells(
    layout: Layout, cells: Mapping[Key, CellSums], price: Mapping[Key, float], allowance: float
) -> dict[Key, float]:
    """`pull_back` where one criterion compares single cells, by the closed form; what is absent is too dear to move."""
    shift: dict[Key, float] = {}
    tolerance = layout.contrasts.criteria[0].tolerance + allowance
    for here in layout.together:
        weights = [min(price[key], _DEAR * cells[key].rows ** 2) for key in here]
        moved = clamp_range([cells[key].released / cells[key].rows for key in here], weights, tolerance)
        shift.update(zip(here, moved, strict=True))
    return shift


def _pull_one(layout: Layout, cells: Mapping[Key, CellSums], key: Key, allowance: float) -> dict[Key, float]:
    """`pull_back` of a single cell, on which every gap depends along a line: g_k + m_k δ."""
    sums = [cells[name] for name in layout.keys]
    matrix = layout.matrix(np.array([value.rows for value in sums]))
    gaps = matrix @ np.array([value.released / value.rows for value in sums])
    slope = matrix[:, layout.keys.index(key)]
    moving = np.abs(slope) > 0
    if not moving.any():
        return {key: 0.0}
    middle, reach = -gaps[moving] / slope[moving], 1.0 / np.abs(slope[moving])
    half = (np.array(layout.tolerance)[moving] + allowance) * reach
    low, high = middle - half, middle + half
    # the least that every allowance must grow by for the intervals to meet
    extra = max(0.0, float(((low[:, None] - high) / (reach[:, None] + reach)).max()))
    return {key: float(min(max(0.0, (low - extra * reach).max()), (high + extra * reach).min()))}


def _closed_plan(layout: Layout, cells: Mapping[Key, CellSums], margin: float) -> Plan:
    shift: dict[Key, float] = {}
    tolerance = max(0.0, layout.contrasts.criteria[0].tolerance - margin)
    for here in layout.together:
        sums = [cells[key] for key in here]
        means = [value.response / value.rows for value in sums]
        shift.update(zip(here, clamp_range(means, [value.rows for value in sums], tolerance), strict=True))
    return Plan(shift, {})


def clamp_range(values: list[float], weights: list[float], tolerance: float) -> list[float]:
    """Cheapest shifts that bring the range of some values within ε.

        argmin Σ W δ²   subject to   max(u + δ) − min(u + δ) ≤ ε

    The values are clamped to [t, t + ε], where t balances what rises and what falls: Σ W (t − u)₊ = Σ W (u − ε − t)₊.

    Args:
        values: u, shape (g,).
        weights: W > 0, shape (g,).
        tolerance: ε.

    Returns:
        δ, shape (g,).
    """
    if max(values) - min(values) <= tolerance:
        return [0.0] * len(values)
    if len(values) == 2:  # the commonest case by far
        gap = values[0] - values[1]
        excess = gap - tolerance if gap > 0 else gap + tolerance
        total = weights[0] + weights[1]
        return [-excess * weights[1] / total, excess * weights[0] / total]
    # the balance is increasing and linear between breakpoints: find the piece, then solve it
    falls = [value - tolerance for value in values]
    lower = -float("inf")
    for point in sorted(values + falls):
        rise = sum(w * (point - u) for u, w in zip(values, weights, strict=True) if u < point)
        fall = sum(w * (f - point) for f, w in zip(falls, weights, strict=True) if f > point)
        if rise > fall:
            break
        lower = point
    mass = level = 0.0
    for u, f, w in zip(values, falls, weights, strict=True):
        if u <= lower:
            mass, level = mass + w, level + w * u
        elif f > lower:
            mass, level = mass + w, level + w * f
    bottom = level / mass
    return [
        bottom - u if u < bottom else (bottom - f if f > bottom else 0.0) for u, f in zip(values, falls, strict=True)
    ]


def _solve_plan(
    config: StreamConfig,
    released: Layout,
    cells: Mapping[Key, CellSums],
    labelled: Mapping[Key, LabelSums],
    allowance: float = 0.0,
    gram: FloatArray | None = None,
) -> Plan:
    """The general plan: unknowns are the shifts, then the slopes where the criteria need them.

    ``gram`` says how far a unit of multiplier moves every unknown, where that is not 1/N_c.
    """
    from auditkit.solvers.active_set import solve_reduced  # loads torch, which the closed form does without

    keys = tuple(cells)
    size = len(keys)
    rows = np.array([value.rows for value in cells.values()])
    raw = np.array([value.raw for value in cells.values()]) / rows
    spread = np.array([value.square for value in cells.values()]) - rows * raw**2
    if gram is None:
        gram = 1.0 / rows
    if config.by_label:
        gram = np.append(gram, np.where(spread > 1e-9 * rows, 1.0 / np.maximum(spread, 1e-300), 0.0))
    response = np.array([value.response for value in cells.values()]) / rows
    blocks = [_block(released, rows, response, np.eye(size, len(gram)))]
    labels = labelled_layout(config, tuple(labelled))
    if labels.plus:
        blocks.append(_label_block(config, labels, labelled, keys, raw, len(gram)))
    matrix, middle, tolerance = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    m, tolerance = len(matrix), np.maximum(tolerance + allowance, 0.0)
    if config.by_label:
        matrix = np.concatenate([matrix, np.eye(size, len(gram), k=size)])
    open_sides = np.full(len(matrix) - m, np.inf)

    def attempt(relaxation: float) -> FloatArray | None:
        lower = np.append(middle - tolerance - relaxation, np.full(len(open_sides), LEAST_SLOPE))
        return solve_reduced(matrix, lower, np.append(middle + tolerance + relaxation, open_sides), gram)

    duals, relaxation = _least_relaxed(attempt)
    unknowns = -gram * (matrix.T @ duals)
    shift = dict(zip(keys, unknowns[:size].tolist(), strict=True))
    slope = dict(zip(keys, unknowns[size:].tolist(), strict=True)) if config.by_label else {}
    centre = dict(zip(keys, raw.tolist(), strict=True)) if config.by_label else {}
    return Plan(shift, slope, centre, relaxation, tuple(duals[:m].tolist()))


def _least_relaxed(attempt: object) -> tuple[FloatArray, float]:
    """The multipliers at the smallest relaxation, by bisection, at which there are any."""
    duals = attempt(0.0)  # type: ignore[operator]
    if duals is not None:
        return duals, 0.0
    low, high = 0.0, 1e-9
    while (duals := attempt(high)) is None:  # type: ignore[operator]
        low, high = high, 10 * high
        if high > _WIDEST:
            raise ArithmeticError("no relaxation makes the plan feasible")
    for _ in range(_RELAXATIONS):
        if high - low <= 1e-9 * max(high, 1.0):
            break
        middle = (low + high) / 2
        found = attempt(middle)  # type: ignore[operator]
        low, high, duals = (low, middle, found) if found is not None else (middle, high, duals)
    return duals, high


def _block(
    layout: Layout, rows: FloatArray, means: FloatArray, carry: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """T·M, τ − T·m̄ and ε of the criteria that need no labels."""
    if not layout.plus:
        return np.zeros((0, carry.shape[1])), np.zeros(0), np.zeros(0)
    matrix = layout.matrix(rows)
    return matrix @ carry, -(matrix @ means), np.array(layout.tolerance)


def _label_block(
    config: StreamConfig,
    layout: Layout,
    labelled: Mapping[Key, LabelSums],
    keys: tuple[Key, ...],
    raw: FloatArray,
    unknowns: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """T·M, τ − T·m̄ and ε of the criteria that need labels, over the rows whose label has arrived."""
    sums = list(labelled.values())
    rows = np.array([value.rows for value in sums])
    response = np.array([value.response for value in sums]) / rows
    label = np.array([value.label for value in sums]) / rows
    cell = np.array([keys.index(key[:-1] if config.by_label else key) for key in labelled])
    carry = np.zeros((len(sums), unknowns))
    carry[np.arange(len(sums)), cell] = 1.0
    if config.by_label:
        means = np.array([value.raw for value in sums]) / rows
        carry[np.arange(len(sums)), len(keys) + cell] = means - raw[cell]
    events = layout.contrasts.cell_event.astype(np.float64) @ rows
    enough = layout.contrasts.contrast_min(events) >= config.min_labels
    matrix = layout.matrix(rows)[enough]
    target = np.where(layout.residual[enough], matrix @ label, 0.0)
    return matrix @ carry, target - matrix @ response, np.array(layout.tolerance)[enough]
