"""The fairness layer: the projection onto the fairness constraint set as the last module of a network.

    ỹ = argmin ½ Σ wᵢ (yᵢ − zᵢ)²   subject to   L ≤ T·M·y ≤ U   and, if bounds are given,   lb ≤ y ≤ ub

The forward pass finds which constraints and bounds are active; the backward pass applies J = D − D·Aᵀ(A·D·Aᵀ)⁺·A·D
(A: active rows of T·M, D: rows that no bound holds) without a solver. Source: arXiv 2605.17118.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from auditkit._typing import FloatArray, VectorLike
from auditkit.affine_criteria import AnyCriterion, check_enforceable
from auditkit.autograd import attach
from auditkit.batches import (
    Batch,
    BoundBatch,
    CriteriaKey,
    assemble_batch,
    check_bound_form,
    check_finite,
    check_form,
)
from auditkit.constraints import ConstraintSystem
from auditkit.enforcement import Bounds, check_divergence, check_simplex, solve_and_round
from auditkit.errors import InputError
from auditkit.groups import LABEL, Groups
from auditkit.jacobian import ColumnsJacobian, GradientRecord, as_tensor, find_jacobian, to_host
from auditkit.moment_maps import ALONE
from auditkit.projection import Divergence, bounds_on_host, build_problem
from auditkit.solvers.closed_form import PreparedBatch, prepare_batch, project_prepared, recover_duals
from auditkit.solvers.feasibility import OnInfeasible, ensure_feasible
from auditkit.solvers.levels import LevelPlan, find_plan, project_levels, project_levels_within
from auditkit.solvers.replay import as_inputs, column_of, replay, requires_grad


class FairnessLayer(nn.Module):
    """Projection of a batch of scores onto the fairness constraint set, as the last module of a network.

        ỹ = argmin ½‖y − z‖²   subject to   |contrast of cell means − target| ≤ ε for every criterion,   lb ≤ y ≤ ub

    The guarantee is about the batch it is given: parity on every batch is not parity on their union. A group without
    a row in the batch has no mean and is not constrained there. The layer holds no parameters, and nothing that it
    keeps from one batch changes the answer for the next.

    Args:
        criteria: One criterion or several that must hold together.
        bounds: (lb, ub), each a number or None.
        simplex: Whether every row of (n, k) scores must be a probability distribution; not together with bounds.
        divergence: "euclidean", or for logits "log_loss", as for `project`.
        solver: "newton", "osqp" or "cvxpy"; osqp supplies its own gradient.
        on_infeasible: "raise", or "relax" for the scores with the least violation.
        strict: Whether the output must satisfy every tolerance after rounding to its dtype, when summed in float64.
        warm_start: Whether to start from the multipliers of the last batch with the same `Groups`, as when all rows are
            trained on at once; the answer is the same to rounding.
        process_group: A torch.distributed group over which the rows are spread: their union is projected as one batch.
            Every process of the group must call forward and backward. `torch.distributed.group.WORLD` is all of them.

    Attributes:
        suppressed_share: ‖(I − J)g‖/‖g‖ of the last backward pass: the part of the gradient that was taken off because
            it would have changed an active gap or a held row; where distance is log-loss, how much the gradient
            changes, which may be more than its length. None before the first backward pass, and where the
            layer's own gradient does not run (compiled, on a device, or with respect to more than the scores).

    Raises:
        InputError: No criterion, or something that is not one.

    Source: arXiv 2605.17118, the fairness layer and its gradient.
    """

    def __init__(
        self,
        criteria: AnyCriterion | Sequence[AnyCriterion],
        *,
        bounds: Bounds = None,
        simplex: bool = False,
        divergence: Divergence = "euclidean",
        solver: str = "newton",
        on_infeasible: OnInfeasible = "raise",
        strict: bool = False,
        warm_start: bool = False,
        process_group: Any = None,
    ) -> None:
        super().__init__()
        self.criteria = check_enforceable(criteria)
        self.bounds = bounds
        self.simplex = simplex
        self.divergence: Divergence = divergence
        self.solver = solver
        self.on_infeasible: OnInfeasible = on_infeasible
        self.strict = strict
        self.warm_start = warm_start
        self._collective = _connect(process_group)
        self._record = GradientRecord(self._collective or ALONE)
        self._key = CriteriaKey(self.criteria)
        self._needs_labels = any(criterion.needs_labels for criterion in self.criteria)

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        return f"{', '.join(c.name for c in self.criteria)}, bounds={self.bounds}, solver={self.solver!r}"

    @property
    def suppressed_share(self) -> float | None:
        """Part of the last gradient that was taken off: between 0 and 1, but where distance is log-loss."""
        return self._record.suppressed_share

    @property
    def start_key(self) -> tuple[Any, ...]:
        """Under which, with the column, `Groups` keep the multipliers that a warm start begins from."""
        return "duals", self.criteria, self.divergence

    @property
    def duals(self) -> FloatArray | None:
        """Multipliers of the distance, such as ½‖y − z‖², in the last forward pass, shape (m,), one per constraint.

        Columns of scores follow one after the other, or, under a simplex, change fastest. None before the first
        pass, and where `prepare`, a device or another gradient than that of the scores leaves none.
        """
        found = self._record.duals
        return np.concatenate([find(*given) for _, (find, *given) in sorted(found.items())]) if found else None

    def forward(
        self,
        scores: Float[Tensor, " n *k"],
        groups: Groups | PreparedBatch | BoundBatch,
        labels: VectorLike | None = None,
        *,
        weights: VectorLike | None = None,
        bounds: Bounds = None,
        tolerances: VectorLike | None = None,
    ) -> Float[Tensor, " n *k"]:
        """Project a batch.

        Gradients flow to the scores and, where they are tensors that require them, to labels, weights, bounds and
        tolerances.

        Args:
            scores: z, shape (n,), or (n, k): every column is constrained.
            groups: Attributes of the same rows, or what `bind` or `prepare` made of them; then nothing else is given.
            labels: y, shape (n,); needed by EER and by criteria given the label; see `project` for (n, k) scores.
            weights: Row weights, shape (n,).
            bounds: (lb, ub) of this batch, each a number, one per row, or None; in place of the layer's own.
            tolerances: ε of every criterion in order, or one for all, in place of the criteria's own.

        Returns:
            ỹ, of the shape, dtype and device of ``scores``.

        Raises:
            InputError: Wrong shapes, NaN or infinite values, labels missing.
            InfeasibleError: The criteria contradict each other or the bounds.
        """
        if torch.compiler.is_compiling():
            if isinstance(groups, PreparedBatch):
                return project_prepared(scores, groups)
            outside = torch.compiler.disable(self.forward)  # groups are read by Python, outside of any compiled graph
            return outside(scores, groups, labels, weights=weights, bounds=bounds, tolerances=tolerances)  # type: ignore[call-arg]
        self._record.duals.clear()
        if isinstance(groups, PreparedBatch):
            return project_prepared(scores, groups)
        if isinstance(groups, BoundBatch):
            if any(given is not None for given in (labels, weights, bounds, tolerances)):
                raise InputError(
                    "a bound batch holds its labels, and the layer its bounds and tolerances; pass nothing beside it, "
                    "or pass the groups themselves"
                )
            return attach(scores, self._bound_projection(scores, groups))
        columns = check_form(scores, groups)
        limits = self.bounds if bounds is None else bounds
        if self.simplex:
            check_simplex(scores, simplex=True, bounds=limits)
        check_divergence(self.divergence, simplex=self.simplex, bounds=limits, solver=self.solver)
        if tolerances is not None or requires_grad(labels, weights, limits):
            return self._replay(scores, groups, labels, weights, limits, tolerances)
        batch = self._assemble(groups, labels, weights, columns)
        if not scores.is_cpu and limits is None and self._is_plain:  # there nothing waits for the device
            prepared = _prepare(batch, scores.device, columns)
            if prepared is not None:
                return project_prepared(scores, prepared)
        return attach(scores, _Projection(self, batch, limits, groups, self._record))

    def bind(self, groups: Groups, labels: VectorLike | None = None, *, columns: int | None = None) -> BoundBatch:
        """The constraints of rows that will be projected many times, as in full-batch training: assembled once.

        Args:
            groups: Attributes of the rows.
            labels: As in `forward`; read now, and not again.
            columns: k of scores of shape (n, k); None for shape (n,).

        Returns:
            What `forward` takes in place of ``groups`` and ``labels``.

        Raises:
            InputError: Labels missing, or of a shape that the criteria cannot use.
        """
        return BoundBatch(self._assemble(groups, labels, None, columns), groups, columns)

    def prepare(
        self,
        groups: Groups,
        labels: VectorLike | None = None,
        *,
        weights: VectorLike | None = None,
        columns: int | None = None,
        device: torch.device | str = "cpu",
    ) -> PreparedBatch:
        """Everything about a batch but its scores, as tensors, for compiled code and CUDA graphs.

        Args:
            groups: Attributes of the rows.
            labels: As in `forward`.
            weights: Row weights, shape (n,).
            columns: k of scores of shape (n, k); None for shape (n,).
            device: Where the scores will be.

        Returns:
            What `forward` takes in place of ``groups``; then it is torch operations only, and does not look at the
            scores: NaN comes out as NaN.

        Raises:
            InputError: The layer has bounds, several criteria or another setting that the closed form does not cover.
        """
        if self.bounds is None and self._is_plain:
            batch = self._assemble(groups, labels, weights, columns)
            prepared = _prepare(batch, torch.device(device), columns)
            if prepared is not None:
                return prepared
        raise InputError(
            "prepare needs one criterion on known groups, without bounds, simplex, strict mode or process group, "
            "solver='newton' and divergence='euclidean'; call the layer with groups instead, outside of compiled code"
        )

    def solve(self, scores: Float[Tensor, " n *k"], bound: BoundBatch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Project a bound batch outside of autograd: ỹ, and the map from ∂ℓ/∂ỹ to ∂ℓ/∂z = Jᵀ ∂ℓ/∂ỹ.

        Raises:
            InputError: As `forward`.
            InfeasibleError: As `forward`.
        """
        self._record.duals.clear()
        request = self._bound_projection(scores, bound)
        output = request.solve(scores)
        return output, partial(request.jacobian.pull_back, record=self._record)

    def _bound_projection(self, scores: Tensor, bound: BoundBatch) -> _Projection:
        check_bound_form(scores, bound)
        check_simplex(scores, simplex=self.simplex, bounds=self.bounds)
        check_divergence(self.divergence, simplex=self.simplex, bounds=self.bounds, solver=self.solver)
        return _Projection(self, bound.batch, self.bounds, bound.groups, self._record)

    @property
    def _is_plain(self) -> bool:
        """Whether no setting but the bounds keeps the closed form in torch operations from applying."""
        return self._is_euclidean and not self.strict and not self.simplex and self._collective is None

    @property
    def _is_euclidean(self) -> bool:
        """Whether the default solver finds the nearest scores by squared differences."""
        return self.solver == "newton" and self.divergence == "euclidean"

    def _assemble(self, groups: Groups, labels: Any, weights: Any, columns: int | None) -> Batch:
        """The constraints of the batch, kept with the groups where nothing else enters."""
        key = (self._key, columns, self.simplex, self._collective)
        keep = weights is None and not self._needs_labels
        found = groups.derived.get(key) if keep else None
        if found is not None:
            return found
        batch = assemble_batch(
            groups, self.criteria, labels=labels, weights=weights, columns=columns, simplex=self.simplex,
            collective=self._collective,
        )  # fmt: skip
        if keep:
            groups.derived[key] = batch
        return batch

    def _replay(
        self, scores: Tensor, groups: Groups, labels: Any, weights: Any, bounds: Bounds, tolerances: Any
    ) -> Tensor:
        """Differentiable in everything, at the price of a matrix of cells by rows."""
        if self.strict or self._collective is not None or self.divergence != "euclidean":
            raise InputError(
                "tolerances=, and gradients with respect to labels, weights or bounds, go with neither strict mode "
                "nor a process group nor divergence='log_loss'"
            )
        columns = scores.shape[1] if scores.ndim == 2 else None
        strata = any(LABEL in getattr(criterion, "given", ()) for criterion in self.criteria)
        plain = labels if strata or not self._needs_labels else np.zeros(scores.shape)
        batch = assemble_batch(groups, self.criteria, labels=plain, columns=columns, simplex=self.simplex)
        inputs = as_inputs(scores, labels if self._needs_labels else None, weights, bounds, tolerances, self.criteria)
        if columns is None or self.simplex:
            parts = [(inputs, batch.systems[0])]
        else:
            parts = [(column_of(inputs, k), system) for k, system in enumerate(batch.systems)]
        outputs = [replay(*part, solver=self.solver, on_infeasible=self.on_infeasible) for part in parts]
        return outputs[0] if columns is None or self.simplex else torch.stack(outputs, dim=1)


@dataclass(eq=False, slots=True)
class _Projection:
    """One forward pass: which path runs, and the Jacobian that it leaves."""

    layer: FairnessLayer
    batch: Batch
    bounds: Bounds
    groups: Groups
    record: GradientRecord
    jacobian: Any = None

    def solve(self, scores: Tensor) -> Tensor:
        """The projection of the values of the scores; keeps its Jacobian."""
        if scores.ndim == 1 or self.layer.simplex:
            output, self.jacobian = self._column(scores, self.batch.systems[0], 0)
            return output
        columns = zip(scores.detach().T.contiguous(), self.batch.systems, strict=True)
        parts = [self._column(column, system, k) for k, (column, system) in enumerate(columns)]
        self.jacobian = ColumnsJacobian(tuple(part[1] for part in parts))
        return torch.stack([output for output, _ in parts], dim=1)

    def _column(self, scores: Tensor, system: ConstraintSystem, column: int) -> tuple[Tensor, Any]:
        layer = self.layer
        if layer._is_euclidean and not layer.strict and scores.ndim == 1 and scores.is_cpu:
            plan = find_plan(system)
            if plan is not None and self.bounds is None:
                found = project_levels(to_host(scores), plan, weights=self.batch.weights)
            else:
                found = None if plan is None else self._within_bounds(scores, plan)
            if found is not None:
                output, shift, jacobian = found
                self.record.duals[column] = recover_duals, system, shift
                return as_tensor(output, scores.dtype), jacobian
        check_finite(scores)
        return self._general(scores.detach(), system, column)

    def _within_bounds(self, scores: Tensor, plan: LevelPlan) -> tuple[Any, FloatArray, Any] | None:
        bounds = bounds_on_host(self.bounds, len(scores))
        return project_levels_within(to_host(scores), plan, bounds=bounds, weights=self.batch.weights)

    def _general(self, scores: Tensor, system: ConstraintSystem, column: int) -> tuple[Tensor, Any]:
        layer, key = self.layer, (*self.layer.start_key, column)
        problem = build_problem(
            scores, system, weights=self.batch.weights, bounds=self.bounds, divergence=layer.divergence
        )
        problem = ensure_feasible(problem, on_infeasible=layer.on_infeasible)
        start = self.groups.derived.get(key) if layer.warm_start else None
        start = start if start is None or len(start) == len(system.owner) else None
        solution, output = solve_and_round(problem, scores.dtype, solver=layer.solver, strict=layer.strict, start=start)
        if layer.warm_start:
            self.groups.derived[key] = solution.duals
        self.record.duals[column] = np.asarray, solution.duals
        return output, find_jacobian(problem, solution)


def _prepare(batch: Batch, device: torch.device, columns: int | None) -> PreparedBatch | None:
    """The batch as tensors where the closed form applies, else None."""
    if not batch.systems[0].is_cellwise:
        return None
    means = [system.label_mean for system in batch.systems]
    target = None if columns is None or means[0] is None else np.stack(means, axis=1)  # type: ignore[arg-type]
    return prepare_batch(batch.systems[0], device, weights=batch.weights, target=target)


def _connect(process_group: Any) -> Any:
    """The collective of a process group; None for one process."""
    if process_group is None:
        return None
    from auditkit.engines.distributed import ProcessGroup

    return ProcessGroup(process_group)
