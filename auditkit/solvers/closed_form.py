"""The projection in closed form, for one criterion without bounds: a sort, no solver, torch operations only.

For one criterion the events are the cells themselves. The pairwise constraints of a stratum say that the range of its
cell values u is at most ε, so the projection clamps them to [t, t + ε] with t the root of the increasing piecewise
linear function

    D(t) = Σ_c W_c (t − u_c)₊ − Σ_c W_c (u_c − ε − t)₊.

Between two breakpoints t is a ratio of sums, which autograd differentiates; the clamped side of a cell is the only
thing held fixed, the standard choice of a generalised Jacobian at a kink. Derived in docs/projection.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from auditkit._typing import FloatArray
from auditkit.constraints import ConstraintSystem
from auditkit.projection import ProjectionProblem, Solution


@dataclass(frozen=True, eq=False)
class StratumLayout:
    """The cells of one criterion as a table with one row per stratum, padded.

    Attributes:
        cell: Cell in every place, shape (s, g); 0 where there is none.
        occupied: Whether there is one, shape (s, g).
        pairwise: Whether groups are compared with each other (else each with zero).
    """

    cell: Int[Tensor, "s g"]
    occupied: Bool[Tensor, "s g"]
    pairwise: bool


def find_layout(system: ConstraintSystem, device: torch.device) -> StratumLayout | None:
    """The layout when the closed form applies, else None; kept with the system for the next batch of the same groups.

    Args:
        system: The constraints of a batch.
        device: Where the scores are.
    """
    if device not in system.layouts:
        system.layouts[device] = _find_layout(system, device)
    return system.layouts[device]


def _find_layout(system: ConstraintSystem, device: torch.device) -> StratumLayout | None:
    if system.strata is None:
        return None
    rows = system.strata
    width = max((len(row) for row in rows), default=0)
    table = np.zeros((len(rows), width), dtype=np.int64)
    occupied = np.zeros((len(rows), width), dtype=bool)
    for k, row in enumerate(rows):
        table[k, : len(row)] = row
        occupied[k, : len(row)] = True
    pairwise = system.named[0].form == "pairwise"
    return StratumLayout(torch.as_tensor(table, device=device), torch.as_tensor(occupied, device=device), pairwise)


@dataclass(frozen=True, eq=False)
class PreparedBatch:
    """What the closed form needs to know about a batch besides its scores, as tensors on the device of the scores.

    With it the layer is torch operations only: it can be compiled without a graph break and captured in a CUDA graph.

    Attributes:
        index: Cell of every row, shape (n,).
        mass: Total row weight of every cell, shape (c,).
        weights: Row weights, shape (n,); None is one for every row.
        target: Mean label of every cell for residuals, shape (c,) or (c, k); None for scores themselves.
        layout: Which cells stand together.
        tolerance: ε.
    """

    index: Int[Tensor, " n"]
    mass: Float[Tensor, " c"]
    weights: Float[Tensor, " n"] | None
    target: Tensor | None
    layout: StratumLayout
    tolerance: float | Tensor


def prepare_batch(
    system: ConstraintSystem,
    device: torch.device,
    *,
    weights: FloatArray | None = None,
    target: FloatArray | None = None,
) -> PreparedBatch | None:
    """The tensors of a batch where the closed form applies, else None.

    Args:
        system: The constraints of one column.
        device: Where the scores are.
        weights: Row weights, shape (n,).
        target: Mean label of every cell in every column, shape (c, k), for residuals of (n, k) scores.
    """
    layout = find_layout(system, device)
    if layout is None:
        return None
    if system.named[0].family == "ECP":
        target = None
    elif target is None:
        target = system.label_mean
    return PreparedBatch(
        system.known_cells.index_on(device),
        torch.as_tensor(system.safe_weight, device=device),
        None if weights is None else torch.as_tensor(weights, device=device),
        None if target is None else torch.as_tensor(target, device=device),
        layout,
        system.uniform_tolerance or 0.0,
    )


def project_prepared(scores: Float[Tensor, " n *k"], batch: PreparedBatch) -> Float[Tensor, " n *k"]:
    """ỹ = z + δ_cell, by torch operations that autograd differentiates.

    Args:
        scores: z; NaN or infinite scores are not refused here, since that would wait for the device: they come out as
            NaN.
        batch: What `prepare_batch` made of the rows.

    Returns:
        ỹ, in the dtype of the scores.
    """
    exact = scores.to(torch.float64)
    trailing = (1,) * (scores.ndim - 1)
    weighted = exact if batch.weights is None else exact * batch.weights.reshape(-1, *trailing)
    zeros = torch.zeros((len(batch.mass), *scores.shape[1:]), dtype=torch.float64, device=scores.device)
    means = zeros.index_add(0, batch.index, weighted) / batch.mass.reshape(-1, *trailing)
    values = means if batch.target is None else means - batch.target
    return (exact + shift_cells(values, batch.mass, batch.layout, batch.tolerance)[batch.index]).to(scores.dtype)


def solve(problem: ProjectionProblem, layout: StratumLayout) -> Solution:
    """Project in closed form: scores and multipliers of a problem that `find_layout` has a layout for."""
    system, device = problem.system, problem.scores.device
    values = problem.moments.collect(problem.scores)
    if system.named[0].family == "EER" and system.label_mean is not None:
        values = values - system.label_mean
    mass = torch.as_tensor(system.safe_weight, device=device)
    shift = shift_cells(torch.as_tensor(values, device=device), mass, layout, system.uniform_tolerance or 0.0)
    moved = problem.scores + shift[system.known_cells.index_on(device)]
    return Solution(moved, recover_duals(system, shift.cpu().numpy()), 0)


def shift_cells(
    values: Float[Tensor, " c *k"], weight: Float[Tensor, " c"], layout: StratumLayout, tolerance: float | Tensor
) -> Float[Tensor, " c *k"]:
    """δ that brings every stratum's cell values within the tolerance, differentiable in ``values``.

    Args:
        values: Cell means of the scores, less those of the labels for residuals, shape (c,) or (c, k); every column has
            strata of its own.
        weight: Total row weight of every cell, shape (c,).
        layout: Which cells stand together.
        tolerance: ε.

    Returns:
        δ per cell, zero for a cell that no constraint touches.
    """
    columns = values.reshape(len(values), -1).T
    places = layout.cell.reshape(-1)
    occupied = layout.occupied.repeat(len(columns), 1)
    placed = columns[:, places].reshape(occupied.shape)
    mass = torch.where(layout.occupied, weight[layout.cell], 0.0).repeat(len(columns), 1)
    if layout.pairwise:
        shift = _clamp_range(placed, mass, occupied, tolerance)
    else:
        shift = placed.clamp(min=-tolerance, max=tolerance) - placed  # type: ignore[call-overload]
    shift = torch.where(occupied, shift, 0.0).reshape(len(columns), len(places))
    return torch.zeros_like(columns).index_add(1, places, shift).T.reshape(values.shape)


def _clamp_range(
    values: Float[Tensor, "s g"], mass: Float[Tensor, "s g"], occupied: Bool[Tensor, "s g"], tolerance: float | Tensor
) -> Float[Tensor, "s g"]:
    with torch.no_grad():
        below, above = _clamped_sides(values.detach(), mass, occupied, tolerance)
    moved = torch.where(below | above, mass, 0.0)
    level = torch.where(above, values - tolerance, values)
    bottom = (moved * level).sum(1, keepdim=True) / moved.sum(1, keepdim=True).clamp_min(torch.finfo(mass.dtype).tiny)
    return torch.where(below, bottom - values, torch.where(above, bottom + tolerance - values, 0.0))


def _clamped_sides(
    values: Float[Tensor, "s g"], mass: Float[Tensor, "s g"], occupied: Bool[Tensor, "s g"], tolerance: float | Tensor
) -> tuple[Bool[Tensor, "s g"], Bool[Tensor, "s g"]]:
    """Which cells rise to t and which fall to t + ε."""
    low = torch.where(occupied, values, torch.inf)
    high = torch.where(occupied, values - tolerance, -torch.inf)
    breaks = torch.where(occupied.repeat(1, 2), torch.cat([low, high], 1), torch.inf).sort(1).values
    finite = torch.where(occupied, values, 0.0)
    at = torch.where(breaks.isfinite(), breaks, 0.0).unsqueeze(2)
    rise = (mass.unsqueeze(1) * (at - finite.unsqueeze(1)).clamp_min(0)).sum(2)
    fall = (mass.unsqueeze(1) * (finite.unsqueeze(1) - tolerance - at).clamp_min(0)).sum(2)
    passed = ((rise <= fall) & breaks.isfinite()).sum(1, keepdim=True)
    last = breaks.gather(1, (passed - 1).clamp_min(0))
    following = torch.cat([breaks, torch.full_like(breaks[:, :1], torch.inf)], 1).gather(1, passed)
    return occupied & (low <= last), occupied & (high >= following)


def recover_duals(system: ConstraintSystem, shift: FloatArray) -> FloatArray:
    """Multipliers of the contrasts that explain the shifts: W_c δ_c = −(Tᵀλ)_c.

    Within a stratum the mass that rises must equal the mass that falls; any way of pairing them is a valid set of
    multipliers, and this one pairs them in order.
    """
    contrasts = system.contrasts
    duals = np.zeros(contrasts.n_contrasts)
    cell = contrasts.cell_event.argmax(axis=1)
    push = system.cell_weight[cell] * shift[cell]
    if (contrasts.minus < 0).all():
        return -push[contrasts.plus]
    pair = {(a, b): k for k, (a, b) in enumerate(zip(contrasts.plus.tolist(), contrasts.minus.tolist(), strict=True))}
    by_stratum: dict[object, list[int]] = {}
    for position, event in enumerate(contrasts.events):
        by_stratum.setdefault(event.stratum, []).append(position)
    for events in by_stratum.values():
        for up, down, mass in _transport(events, push):
            duals[pair[min(up, down), max(up, down)]] += mass if down < up else -mass
    return duals


def _transport(events: list[int], push: FloatArray) -> Iterator[tuple[int, int, float]]:
    """Pair the rising with the falling mass in order: (rising event, falling event, mass)."""
    rising = [event for event in events if push[event] > 0]
    falling = [event for event in events if push[event] < 0]
    left = np.abs(push)
    while rising and falling:
        up, down = rising[-1], falling[-1]
        mass = min(left[up], left[down])
        yield up, down, float(mass)
        left[[up, down]] -= mass
        (rising if left[up] <= left[down] else falling).pop()
