"""The affine mode: training through the correction that is deployed where criteria are conditioned on the label.

The layer knows the labels of the rows that it projects; what `auditkit.calibrate` makes of such a criterion does not.
A head trained through the layer may learn what only the labels can take back. Here training sees what is deployed:

    ỹ = clip(z + α_o + β_o z),   (α, β) = argmin ½ Σ (α_o + β_o z)²   subject to   L ≤ T·M·ỹ ≤ U

with o the cell of the attributes and strata other than the label. With F the rows that no bound holds, A the active
rows of T, B the unknowns of every row (1 and z less the mean of its cell) and H = BᵀB, the gradient is that of

    ỹ = F(z + B·u) + (1 − F)ỹ,   u = H⁻¹Cᵀ(C·H⁻¹Cᵀ)⁻¹(A-th bounds − A·M(Fz + (1 − F)ỹ)),   C = A·M·F·B

in z, F and A held where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from auditkit._typing import FloatArray, IntArray
from auditkit.constraints import ConstraintSystem, build_constraints
from auditkit.criteria import Criterion, columns_of
from auditkit.errors import InputError
from auditkit.groups import LABEL, Cells
from auditkit.heads import FairHead
from auditkit.projection import build_problem
from auditkit.solvers.affine import AffineCorrection, solve_affine
from auditkit.tuning.config import PROBABILITY_BOUNDS, TuneConfig
from auditkit.tuning.losses import prediction_loss
from auditkit.tuning.rows import HeadRows

ACTIVE = 1e-7
"""Distance to its bound within which a constraint is active."""


class AffineLoss:
    """Loss of the scores after the affine correction of the batch.

    Args:
        criteria: What the correction enforces; one of them at least is given the label.
        config: Score space and loss.

    Raises:
        InputError: No criterion is given the label: then the layer trains through what is deployed.
    """

    def __init__(self, criteria: Sequence[Criterion], config: TuneConfig) -> None:
        if not any(LABEL in criterion.given for criterion in criteria):
            raise InputError("mode 'affine' is for criteria given the label, as equalized odds; use mode 'layer'")
        self.criteria, self.config = tuple(criteria), config
        self.bounds = PROBABILITY_BOUNDS if config.score_space == "probability" else None

    def __call__(self, head: FairHead, rows: HeadRows) -> Tensor:
        """The loss of a head on some rows.

        Raises:
            InputError: An inferred attribute.
            InfeasibleError: No affine correction satisfies the criteria on the rows.
            SolverError: The correction did not converge.
        """
        scores = head(rows.features)
        return prediction_loss(self.correct(scores, rows).to(scores.dtype), rows.labels, self.config)

    def correct(self, scores: Float[Tensor, " n"], rows: HeadRows) -> Float[Tensor, " n"]:
        """ỹ in float64, differentiable in the scores."""
        system, cells = self._assemble(rows)
        exact = scores.to(torch.float64)
        found = solve_affine(build_problem(exact.detach(), system, bounds=self.bounds), cells)
        output = torch.from_numpy(found.scores)
        if not exact.requires_grad:
            return output
        answer = _follow(exact, found, system, torch.from_numpy(cells.index), cells.table.n_cells)
        return output + (answer - answer.detach())  # the value of the solver, the slope of the formula

    def _assemble(self, rows: HeadRows) -> tuple[ConstraintSystem, Cells]:
        key = ("affine", self.criteria)
        if key not in rows.derived:
            columns = [name for name in columns_of(self.criteria) if name != LABEL]
            if inferred := sorted(set(columns) & set(rows.groups.inferred)):
                raise InputError(f"mode 'affine' needs known attributes; {inferred} are inferred: use mode 'layer'")
            labels = rows.labels.numpy().astype(np.float64)
            system = build_constraints(rows.groups, self.criteria, labels=labels)
            rows.derived[key] = system, rows.groups.cells(columns)
        return rows.derived[key]


@dataclass(frozen=True, eq=False)
class _Sums:
    """Means over the cells of the constraints, by observable cell where asked for."""

    cell: Int[Tensor, " n"]
    observed: Int[Tensor, " n"]
    weight: Float[Tensor, " c"]
    n_observed: int

    def means(self, values: Float[Tensor, " n"]) -> Float[Tensor, " c"]:
        """M·v."""
        return torch.zeros_like(self.weight).index_add(0, self.cell, values) / self.weight

    def response(self, values: Float[Tensor, " n"]) -> Float[Tensor, "c o"]:
        """M·diag(v)·1[cell of row = o]."""
        size = len(self.weight) * self.n_observed
        sums = values.new_zeros(size).index_add(0, self.cell * self.n_observed + self.observed, values)
        return sums.reshape(-1, self.n_observed) / self.weight[:, None]


def _follow(
    scores: Float[Tensor, " n"], found: AffineCorrection, system: ConstraintSystem, observed: Tensor, size: int
) -> Float[Tensor, " n"]:
    """ỹ near a solution, as a formula of the scores."""
    plain, output = scores.detach(), torch.from_numpy(found.scores)
    moved = plain + torch.from_numpy(found.shift)[observed] + torch.from_numpy(found.slope)[observed] * plain
    free = ((moved - output).abs() <= ACTIVE).to(torch.float64)
    kept = free * scores + (1 - free) * output
    sums = _Sums(torch.from_numpy(system.index), observed, torch.from_numpy(system.safe_weight), size)
    active, bound = _find_active(system, sums.means(output).numpy())
    if not len(active):
        return kept
    count = torch.bincount(observed, minlength=size).to(torch.float64)
    offset = scores - (scores.new_zeros(size).index_add(0, observed, scores) / count)[observed]
    length = torch.cat([count, scores.new_zeros(size).index_add(0, observed, offset**2)])
    rows = torch.from_numpy(system.matrix[active])
    response = rows @ torch.cat([sums.response(free), sums.response(free * offset)], dim=1)
    spread = response / length
    missing = torch.from_numpy(bound) - rows @ sums.means(kept)
    unknown = spread.T @ (torch.linalg.pinv(spread @ response.T, rtol=1e-12, hermitian=True) @ missing)
    return kept + free * (unknown[:size][observed] + unknown[size:][observed] * offset)


def _find_active(system: ConstraintSystem, means: FloatArray) -> tuple[IntArray, FloatArray]:
    """The constraints that hold with equality, and at what."""
    values = system.matrix @ means
    above = values >= system.upper - ACTIVE
    active = np.flatnonzero(above | (values <= system.lower + ACTIVE))
    bound: FloatArray = np.where(above, system.upper, system.lower)
    return active.astype(np.int64), bound[active]
