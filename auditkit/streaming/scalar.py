"""The scalar rule of the paper, exactly: one multiplier, fed with the gap of every batch by itself.

    y = argmin ‖y − z‖² + λ_t b_t max_gap(y)   subject to   lb ≤ y ≤ ub
    λ_{t+1} = max(0, λ_t + η_t b_t (gap_t − ε)),   η_t = η₀/√t

A batch of b_τ rows or more is projected by the hard layer instead and leaves λ alone. The penalty is solved through the
projection: with P(g) the squared distance to the scores whose gaps are at most g, the minimiser is the projection at
the g where −P′(g) = λ b, and P′(g) is minus twice the sum of its absolute multipliers. That sum falls
with g, piecewise linearly, so the root is bracketed and found to the last digits; no solver is set up.

What is guaranteed: λ_{t+1} − λ_t ≥ η_t b_t (gap_t − ε) for every t. Divided by η_t and summed, since η_t falls, λ ≥ 0:

    Σ b_t (gap_t − ε) / Σ b_t  ≤  λ_{T+1} / (η_T Σ b_t)

over the batches that updated λ. It says nothing of the pooled gap: a batch of one row has no gap at all.

Source: Troxell, Roemer, Montúfar (2026), arXiv 2605.17118, section on online inference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from auditkit._typing import FloatArray
from auditkit.categories import object_array
from auditkit.criteria import Criterion
from auditkit.groups import Groups
from auditkit.streaming.batches import StreamBatch
from auditkit.streaming.layout import released_layout
from auditkit.streaming.pooled import Release, advance, clip, join_sums
from auditkit.streaming.state import CellSums, Key, StreamConfig, StreamState

_STEPS = 200
_ACCURACY = 1e-13
_NO_GAP = 1e-10


def step_scalar(
    state: StreamState, batch: StreamBatch, config: StreamConfig, labels: FloatArray | None = None
) -> tuple[StreamState, Release]:
    """Release one batch by the scalar rule.

    Args:
        state: What the stream knows.
        batch: The rows.
        config: What is enforced.
        labels: y, shape (n,); the rule needs them at release where a criterion does.

    Returns:
        What the stream knows afterwards, and the release.
    """
    hard = config.hard_rows is not None and batch.n_rows >= config.hard_rows
    problem = _BatchProblem(batch, config, labels)
    scores = problem.hard_scores() if hard else problem.penalised_scores(state.dual * batch.n_rows)
    given = _sums(batch, scores)
    cells = join_sums(state.cells, given)
    following = advance(state, state, cells, given, config, released_layout(config, tuple(cells)))
    if not hard:
        following = _update_dual(following, state, problem.violation(scores), batch.n_rows, config)
    entry = {
        "rows": batch.n_rows,
        "cells": [[list(key), sums.rows, sums.released] for key, sums in given.items()],
        "dual": state.dual,
        "hard": hard,
    }
    return following, Release(scores, scores - batch.scores, entry)


def _sums(batch: StreamBatch, released: FloatArray) -> dict[Key, CellSums]:
    """The sums of released rows by cell."""
    z, a = batch.scores, released - batch.scores
    parts = (np.ones_like(z), z, z * z, released - a, a, released, released * released)
    columns = [np.bincount(batch.cell_index(), part, len(batch.keys)).tolist() for part in parts]
    return {key: CellSums(*sums) for key, *sums in zip(batch.keys, *columns, strict=True)}


def _update_dual(
    following: StreamState, state: StreamState, violation: float, rows: int, config: StreamConfig
) -> StreamState:
    updates = state.updates + 1
    step = config.eta / math.sqrt(updates)
    return replace(
        following,
        dual=max(0.0, state.dual + step * rows * violation),
        updates=updates,
        updated_violation=state.updated_violation + rows * violation,
        updated_weight=state.updated_weight + rows,
    )


def scalar_bound(state: StreamState, config: StreamConfig) -> float:
    """λ_{T+1}/(η_T Σ b_t): what the weighted-average violation cannot exceed; 0 before the first update."""
    if not state.updates or not config.eta:
        return 0.0 if not state.updates else math.inf
    return state.dual * math.sqrt(state.updates) / (config.eta * state.updated_weight)


class _BatchProblem:
    """The constraints of one batch; made only where two groups can be compared."""

    def __init__(self, batch: StreamBatch, config: StreamConfig, labels: FloatArray | None) -> None:
        self.batch, self.config, self.labels = batch, config, labels
        self.problem: Any = None
        if len(batch.keys) > 1 or any(criterion.needs_labels for criterion in config.criteria):
            self.problem = self._build()

    def _build(self) -> Any:
        import torch

        from auditkit.constraints import build_constraints
        from auditkit.projection import build_problem

        index = self.batch.cell_index()
        columns = {
            name: object_array([self.batch.keys[k][position] for k in index.tolist()])
            for position, name in enumerate(self.config.columns)
        }
        system = build_constraints(Groups(columns), self.config.criteria, labels=self.labels)
        if not len(system.tolerance):
            return None
        bounds = None if self.config.bounds == (None, None) else self.config.bounds
        return build_problem(torch.as_tensor(self.batch.scores), system, weights=None, bounds=bounds)

    def hard_scores(self) -> FloatArray:
        """The projection of this batch by itself."""
        if self.problem is None:
            return clip(self.batch.scores, self.config.bounds)
        from auditkit.solvers import solve
        from auditkit.solvers.feasibility import ensure_feasible

        return solve(ensure_feasible(self.problem)).scores.numpy()

    def penalised_scores(self, penalty: float) -> FloatArray:
        """Argmin ‖y − z‖² + penalty · max_k |gap_k| within the bounds."""
        unmoved = clip(self.batch.scores, self.config.bounds)
        if self.problem is None or penalty <= 0:
            return unmoved
        largest = self._gap(unmoved)
        if largest <= _NO_GAP:
            return unmoved
        return clip(self._descend(penalty / 2, largest), self.config.bounds)

    def _at(self, gap: float) -> tuple[FloatArray, float] | None:
        """The projection onto gaps of at most ``gap``, and the sum of its absolute multipliers; None if infeasible."""
        from auditkit.errors import InfeasibleError, SolverError
        from auditkit.solvers import solve
        from auditkit.solvers.feasibility import ensure_feasible

        system = self.problem.system
        flat = replace(system.contrasts, criteria=tuple(c.with_tolerance(gap) for c in system.contrasts.criteria))
        try:
            problem = ensure_feasible(replace(self.problem, system=replace(system, contrasts=flat, layouts={})))
        except InfeasibleError:
            return None
        try:
            solution = solve(problem)
        except SolverError:  # next to a gap of zero the bounds leave multipliers that Newton's method cannot tell apart
            solution = solve(problem, solver="cvxpy")
        return solution.scores.numpy(), float(np.abs(solution.duals).sum())

    def _descend(self, push: float, largest: float) -> FloatArray:
        """The projection at the gap whose multipliers add up to ``push``."""
        scores = {"last": self.batch.scores}

        def excess(gap: float) -> float:
            found = self._at(gap)
            if found is None:
                return math.inf
            scores["last"] = found[0]
            return found[1] - push

        # multipliers at a gap of zero are not unique, so the end is taken a hair's breadth before it
        least = _NO_GAP * max(1.0, largest)
        at_least = excess(least)
        if at_least > 0:
            excess(find_root(excess, least, largest, at_least, -push))
        return scores["last"]

    def _gap(self, scores: FloatArray) -> float:
        return max(0.0, max(abs(gap) for gap, _ in self._gaps(scores)))

    def _gaps(self, scores: FloatArray) -> list[tuple[float, float]]:
        import torch

        system = self.problem.system
        values = np.abs(self.problem.values_of(torch.as_tensor(scores)) - system.target)
        owners: list[Criterion] = [system.named[k] for k in system.contrasts.criterion]
        return [(float(value), criterion.tolerance) for value, criterion in zip(values, owners, strict=True)]

    def violation(self, scores: FloatArray) -> float:
        """max_k (gap_k − ε_k); a batch that shows no gap has a gap of zero."""
        if self.problem is None:
            return -min(criterion.tolerance for criterion in self.config.criteria)
        return max(gap - tolerance for gap, tolerance in self._gaps(scores))


def find_root(function: Callable[[float], float], low: float, high: float, at_low: float, at_high: float) -> float:
    """The root of a falling piecewise linear function between ``low`` and ``high``.

    Secants land on it exactly once both ends lie on one piece; every third step halves the bracket.
    """
    for step in range(_STEPS):
        if high - low <= _ACCURACY * max(1.0, abs(high)):
            break
        middle = (low + high) / 2
        if step % 3 and math.isfinite(at_low):
            secant = low + (high - low) * at_low / (at_low - at_high)
            middle = secant if low < secant < high else middle
        value = function(middle)
        if value == 0:
            return middle
        low, high, at_low, at_high = (middle, high, value, at_high) if value > 0 else (low, middle, at_low, value)
    return high if abs(at_high) <= at_low else low
