"""The primal–dual mode: training on small batches against the constraints of all rows.

Parity on every small batch is not parity on their union, and a batch may lack a group. So nothing is projected batch by
batch. Signed multipliers λ, carried from batch to batch, move the scores of a cell c, of share π_c among all rows, by

    y_i = clip(z_i + δ_c),   δ_c = −(Tᵀλ)_c / π_c

which is the projection of all rows at once where λ are its multipliers. After every batch λ climbs the dual function of
that projection, at the running means ū of y over the cells:

    λ ← v − s·clip(v/s, L, U),   v = λ + s·T·ū,   s = η₀ / (√t·‖T·diag(1/π)·Tᵀ‖)

The gradient is passed on as the projection of all rows would: with A the rows of T whose λ is not zero, d the share of
a cell that no bound holds and ḡ the running mean over a cell of the gradient g that arrives,

    g_i ← D_i (g_i − (Aᵀ (A·diag(d/π)·Aᵀ)⁺ A·ḡ)_c / π_c).

Source: arXiv 2605.17118, online primal–dual inference; here with signed multipliers fed with the pooled gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from auditkit._typing import FloatArray, IntArray
from auditkit.constraints import ConstraintSystem, build_constraints
from auditkit.criteria import Criterion
from auditkit.errors import InputError
from auditkit.groups import Groups
from auditkit.heads import FairHead
from auditkit.jacobian import to_host
from auditkit.tuning.config import PROBABILITY_BOUNDS, TuneConfig
from auditkit.tuning.losses import ProjectedLoss, PullBack, prediction_loss
from auditkit.tuning.rows import HeadRows

MEMORY_ROWS = 4096
"""Rows that the running means remember: the head moves on, so that older scores say little."""


class PooledState:
    """Multipliers and running means of one training.

    Args:
        system: The constraints of all training rows.
        bounds: (lb, ub) of the scores; None for none.
        dual_step: η₀.
    """

    def __init__(self, system: ConstraintSystem, *, bounds: tuple[float, float] | None, dual_step: float) -> None:
        self.system, self.bounds, self.dual_step = system, bounds, dual_step
        self.n_rows = float(system.cell_weight.sum())
        self.share = system.safe_weight / self.n_rows
        gram = (system.matrix / self.share) @ system.matrix.T
        self.curvature = float(np.linalg.norm(gram, 2)) if gram.size else 1.0
        cells = len(self.share)
        self.duals = np.zeros(len(system.matrix))
        self.seen = np.zeros(cells)
        self.rate = np.zeros(cells)  # weight of the present batch in the running means
        self.base = np.zeros(cells)  # running mean of y less δ
        self.free = np.ones(cells)
        self.gradient = np.zeros(cells)
        self.steps = 0
        self.suppressed_share: float | None = None

    @property
    def shift(self) -> FloatArray:
        """δ of every cell, shape (c,)."""
        return -(self.system.matrix.T @ self.duals) / self.share

    def observe(self, output: FloatArray, free: FloatArray, cell: IntArray) -> None:
        """Take the moved scores of a batch into the running means."""
        count = np.bincount(cell, minlength=len(self.share)).astype(np.float64)
        self.seen += count
        self.rate = count / np.maximum(np.minimum(self.seen, MEMORY_ROWS * self.share), np.maximum(count, 1.0))
        self.base = self._mix(self.base, output - self.shift.take(cell), cell, count)
        self.free = self._mix(self.free, free, cell, count)

    def climb(self) -> None:
        """One step of the multipliers."""
        self.steps += 1
        if not len(self.duals):
            return
        step = self.dual_step / (self.steps**0.5 * self.curvature)
        known = self.seen > 0  # a cell without a row so far has no mean: its constraints wait
        values = self.system.matrix @ (self.base + self.shift)
        raised = self.duals + step * values
        moved = raised - step * np.clip(raised / step, self.system.lower, self.system.upper)
        waits = (self.system.matrix[:, ~known] != 0).any(axis=1)
        self.duals = np.where(waits, self.duals, moved)

    def pass_on(self, gradient: FloatArray, free: FloatArray, cell: IntArray) -> FloatArray:
        """The gradient as the projection of all rows would pass it on, shape (b,)."""
        kept = gradient * free
        count = np.bincount(cell, minlength=len(self.share)).astype(np.float64)
        self.gradient = self._mix(self.gradient, kept * len(kept), cell, count)
        active = self.system.matrix[self.duals != 0]
        removed = active.T @ (_invert((active * (self.free / self.share)) @ active.T) @ (active @ self.gradient))
        product = (kept - (removed / self.share / len(kept)).take(cell)) * free
        whole = float(np.linalg.norm(gradient))
        self.suppressed_share = float(np.linalg.norm(gradient - product)) / whole if whole > 0 else 0.0
        return product

    def _mix(self, mean: FloatArray, values: FloatArray, cell: IntArray, count: FloatArray) -> FloatArray:
        batch = np.bincount(cell, values, len(mean)) / np.maximum(count, 1.0)
        return mean + self.rate * (batch - mean)


class PrimalDualLoss(ProjectedLoss):
    """Loss of the scores that the multipliers move, in training; after the fairness layer, in evaluation.

    Args:
        criteria: What is enforced.
        config: Score space, loss and η₀.
        rows: All training rows.

    Raises:
        InputError: An inferred attribute, whose cells have no rows of their own.
    """

    def __init__(self, criteria: Sequence[Criterion], config: TuneConfig, rows: HeadRows) -> None:
        super().__init__(criteria, config)
        inferred = {name for criterion in criteria for name in criterion.columns} & set(rows.groups.inferred)
        if inferred:
            raise InputError(
                f"mode 'primal_dual' needs known attributes; {sorted(inferred)} are inferred: use mode 'layer'"
            )
        system = build_constraints(rows.groups, criteria, labels=rows.labels.numpy().astype(np.float64))
        bounds = PROBABILITY_BOUNDS if config.score_space == "probability" else None
        self.pool = PooledState(system, bounds=bounds, dual_step=config.dual_step)
        table = system.known_cells.table
        self._number = {_values(table, c): c for c in range(table.n_cells)}

    def __call__(self, head: FairHead, rows: HeadRows) -> Tensor:
        """The loss of a head on some rows."""
        if not head.training:
            return super().__call__(head, rows)
        moved = _Move.apply(head(rows.features), self.pool, self._cells(rows))
        return prediction_loss(moved, rows.labels, self.config)  # type: ignore[arg-type]

    def project(self, scores: Tensor, rows: HeadRows) -> tuple[Tensor, PullBack]:
        """The moved scores, and the map of the gradient, which also lets the multipliers climb."""
        cell = self._cells(rows)
        output, free = _move(scores, self.pool, cell)
        return output, lambda gradient: _return(gradient, self.pool, free, cell)

    @property
    def suppressed_share(self) -> float | None:
        """Part of the gradient of the last step that the projection took off."""
        return self.pool.suppressed_share

    def multipliers(self, n_rows: int) -> dict[str, float]:
        """Largest multiplier of every criterion; they are per row already."""
        del n_rows
        return self._largest(self.pool.system.owner, np.abs(self.pool.duals))

    def state(self, kept: Sequence[Groups]) -> dict[str, Any]:
        """Multipliers and running means beside those of the layer."""
        pool = {name: torch.as_tensor(getattr(self.pool, name)) for name in _ARRAYS}
        return {"layer": super().state(kept), "pool": pool, "steps": self.pool.steps}

    def restore(self, state: dict[str, Any], kept: Sequence[Groups]) -> None:
        """Take up what `state` returned."""
        super().restore(state["layer"], kept)
        for name in _ARRAYS:
            setattr(self.pool, name, state["pool"][name].numpy())
        self.pool.steps = state["steps"]

    def _cells(self, rows: HeadRows) -> IntArray:
        """Cell of every row of a batch among those of all rows."""
        if "pooled cells" not in rows.derived:
            names = self.pool.system.known_cells.table.names
            cells = rows.groups.cells(names, labels=rows.labels)
            number = [self._number[_values(cells.table, c)] for c in range(cells.table.n_cells)]
            rows.derived["pooled cells"] = np.array(number, dtype=np.int64).take(cells.index)
        return rows.derived["pooled cells"]


_ARRAYS = ("duals", "seen", "base", "free", "gradient")


def _invert(matrix: FloatArray) -> FloatArray:
    """The pseudo-inverse of a symmetric matrix; of a single number without the price of a decomposition."""
    if matrix.shape == (1, 1):
        return np.divide(1.0, matrix, out=np.zeros_like(matrix), where=matrix > 0)
    return np.asarray(np.linalg.pinv(matrix, rcond=1e-12, hermitian=True), dtype=np.float64)


def _values(table: Any, cell: int) -> tuple[Any, ...]:
    return tuple(table.value(cell, name) for name in table.names)


def _move(scores: Tensor, pool: PooledState, cell: IntArray) -> tuple[Tensor, FloatArray]:
    """clip(z + δ), and which rows no bound holds."""
    moved = to_host(scores).astype(np.float64) + pool.shift.take(cell)
    output = moved if pool.bounds is None else np.clip(moved, *pool.bounds)
    free = (output == moved).astype(np.float64)
    pool.observe(output, free, cell)
    return torch.from_numpy(output).to(scores.dtype), free


def _return(gradient: Tensor, pool: PooledState, free: FloatArray, cell: IntArray) -> Tensor:
    """The gradient that is passed on, with one step of the multipliers after it."""
    product = pool.pass_on(to_host(gradient).astype(np.float64), free, cell)
    pool.climb()
    return torch.from_numpy(product).to(gradient.dtype)


class _Move(Function):
    """z ↦ clip(z + δ), with one step of the multipliers after the gradient has been passed on."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, pool: PooledState, cell: IntArray) -> Tensor:
        output, ctx.free = _move(scores, pool, cell)
        ctx.pool, ctx.cell = pool, cell
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return _return(gradients[0], ctx.pool, ctx.free, ctx.cell), None, None
