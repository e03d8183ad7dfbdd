"""`calibrate_decisions`: thresholds per group that meet tolerances on decision rates, with a population guarantee.

Criteria are read with the decision in place of the score: ECP bounds gaps of selection rates, equal opportunity those
of true positive rates (``positive=0``: of false positive rates), equalized odds both, and EER how much oftener a
group is decided positively than its labels are positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from auditkit._typing import FloatArray, VectorLike
from auditkit._validation import check_binary, check_probability, check_vector, check_weights
from auditkit.clusters import check_clusters
from auditkit.constraints import ConstraintSystem, build_constraints
from auditkit.contrasts import Contrasts
from auditkit.criteria import Criterion, check_criteria, columns_of
from auditkit.deployment.guarantee import ContrastGuarantee, GuaranteeSearch, OnInsufficient
from auditkit.deployment.lookup import check_choice, values_of
from auditkit.deployment.threshold_search import build_program, trace_curve
from auditkit.deployment.thresholds import DecisionThresholds, OnUnseenDecision, ThresholdRule, find_chances
from auditkit.errors import InputError
from auditkit.groups import LABEL, Groups
from auditkit.moments import Moments

Rules = tuple[tuple[ThresholdRule, ...], float]


def calibrate_decisions(
    scores: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    *,
    labels: VectorLike,
    weights: VectorLike | None = None,
    clusters: VectorLike | None = None,
    costs: tuple[float, float] = (1.0, 1.0),
    randomize: bool = True,
    confidence: float | None = None,
    on_insufficient: OnInsufficient = "raise",
    on_unseen: OnUnseenDecision = "raise",
    seed: int = 0,
) -> DecisionThresholds:
    """Find the thresholds of least cost whose decisions satisfy the criteria on held-out rows.

        min E[c₊·1[d=1, y=0] + c₋·1[d=0, y=1]]   subject to   |gap of d| ≤ ε for every contrast

    Args:
        scores: z, shape (n,), of rows that the model was not trained on; higher scores are decided positively.
        groups: Attributes of the same rows.
        criteria: What the decisions shall satisfy; see the module.
        labels: 0 or 1, shape (n,).
        weights: Row weights, shape (n,).
        clusters: Whom each row is of, shape (n,), as for `auditkit.calibrate`.
        costs: (c₊, c₋) of a false positive and a false negative; equal costs maximise accuracy.
        randomize: Whether a group may mix thresholds. Only then is every tolerance down to 0 within reach; False finds
            the best single threshold per group.
        confidence: Joint probability with which the gaps of the population shall be within ε; None takes no margin
            off. Gaps of a randomised rule are those of its chances.
        on_insufficient: When the margin of a contrast exceeds its ε: "raise", or "equalize" to enforce a gap of zero on
            the calibration rows for that contrast and mark it as not guaranteed.
        on_unseen: What `DecisionThresholds.apply` does with combinations that these rows do not hold: "raise", or
            decide by the "pooled" threshold.
        seed: Seed of the simulation that sets the margins.

    Returns:
        The thresholds.

    Raises:
        InputError: Wrong shapes, NaN, labels that are not 0 or 1, negative costs, inferred attributes.
        InsufficientDataError: Too few rows (or persons) for the guarantee; says how many would do.
        InfeasibleError: No thresholds satisfy the criteria.
        SolverError: The single thresholds were not found in time.

    Source: Hardt, Price and Srebro (2016), "Equality of opportunity in supervised learning", with a tolerance.
    """
    listed = check_criteria(criteria)
    check_choice("on_unseen", on_unseen, ("raise", "pooled"))
    check_choice("on_insufficient", on_insufficient, ("raise", "equalize"))
    _check_costs(costs)
    z = check_vector("scores", scores, n_rows=groups.n_rows)
    y = check_binary("labels", check_vector("labels", labels, n_rows=groups.n_rows))
    w = check_weights(weights, n_rows=groups.n_rows)
    codes = check_clusters(clusters, n_rows=groups.n_rows)
    if not len(z):
        raise InputError("scores is empty; thresholds need at least one row")
    columns = tuple(name for name in columns_of(listed) if name != LABEL)
    cells = groups.cells(columns)
    mass = np.ones_like(z) if w is None else w
    system = build_constraints(groups, listed, labels=y, weights=w)
    program = build_program(z, y, mass, cells, system, costs=costs, randomize=randomize)

    def decide(tightened: ConstraintSystem) -> tuple[Rules, FloatArray]:
        rules, cost = program.solve(tightened)
        return (rules, cost), find_chances(rules, z, cells.index)

    def measure(chances: FloatArray) -> tuple[Moments, Contrasts]:
        moments = Moments.from_rows(chances, system.known_cells, labels=y, weights=w, clusters=codes)
        return moments, system.contrasts

    contrasts: tuple[ContrastGuarantee, ...] = ()
    if confidence is None:
        (rules, cost), _ = decide(system)
    else:
        check_probability("confidence", confidence)
        search = GuaranteeSearch(system, decide, measure, confidence, on_insufficient, seed, codes)
        (rules, cost), contrasts = search.run()
    return DecisionThresholds(
        criteria=listed, columns=columns, cells=values_of(cells.table, columns),
        counts=tuple(np.bincount(cells.index, minlength=cells.table.n_cells).tolist()), rules=rules,
        pooled=_best_threshold(z, y, mass, costs), costs=(float(costs[0]), float(costs[1])), cost=cost,
        confidence=confidence, contrasts=contrasts, on_unseen=on_unseen,
    )  # fmt: skip


def _best_threshold(z: FloatArray, y: FloatArray, mass: FloatArray, costs: tuple[float, float]) -> float:
    """The single threshold of least cost over all rows."""
    curve = trace_curve(z, y, mass)
    return float(curve.thresholds[np.argmin(costs[0] * curve.negatives - costs[1] * curve.positives)])


def _check_costs(costs: tuple[float, float]) -> None:
    if len(costs) != 2 or not all(math.isfinite(cost) and cost >= 0 for cost in costs) or sum(costs) == 0:
        raise InputError(
            f"costs must be two numbers ≥ 0, of a false positive and of a false negative, not both 0; got {costs!r}"
        )
