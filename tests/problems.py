"""Random projection problems and the independent arithmetic that tests check auditkit against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from auditkit import ECP, EER, AffineCriterion, Criterion, Groups, equal_opportunity, equalized_odds

CRITERIA: tuple[Callable[[float], Criterion], ...] = (
    lambda e: ECP("a", tolerance=e),
    lambda e: ECP("b", tolerance=e),
    lambda e: ECP(("a", "b"), tolerance=e),
    lambda e: ECP("a", given="s", tolerance=e),
    lambda e: EER("a", tolerance=e),
    lambda e: EER("b", tolerance=e, form="pairwise"),
    lambda e: EER("a", given="s", tolerance=e),
    lambda e: equalized_odds("a", tolerance=e),
    lambda e: equal_opportunity("b", tolerance=e),
)


@dataclass(frozen=True, eq=False)
class Problem:
    """Arguments of `auditkit.project`, with the frame that the groups were made from."""

    scores: np.ndarray
    labels: np.ndarray
    frame: pd.DataFrame
    criteria: tuple[Criterion, ...]
    bounds: Any
    weights: np.ndarray | None

    @property
    def groups(self) -> Groups:
        return Groups(self.frame)

    def options(self) -> dict[str, Any]:
        return {"labels": self.labels, "bounds": self.bounds, "weights": self.weights}


def random_problem(seed: int, *, max_rows: int = 80) -> Problem:
    """A problem with random groups, criteria, tolerance, bounds and weights; it may be infeasible."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, max_rows))
    frame = pd.DataFrame(
        {
            "a": rng.integers(0, int(rng.integers(2, 6)), n),
            "b": rng.choice(["x", "y", "z"], n),
            "s": rng.integers(0, 2, n),
        }
    )
    tolerance = float(rng.choice([0.0, 0.01, 0.1, 0.3]))
    chosen = rng.choice(len(CRITERIA), int(rng.integers(1, 4)), replace=False)
    bounds = (None, (0.0, 1.0), (rng.random(n) * 0.3, 0.6 + rng.random(n) * 0.4))[int(rng.integers(0, 3))]
    weights = None if rng.random() < 0.6 else rng.integers(1, 4, n).astype(float)
    return Problem(
        rng.random(n),
        rng.integers(0, 2, n).astype(float),
        frame,
        tuple(CRITERIA[k](tolerance) for k in chosen),
        bounds,
        weights,
    )


@dataclass(frozen=True, eq=False)
class WideProblem:
    """Arguments of `auditkit.project` with inferred groups, several columns or affine criteria."""

    scores: np.ndarray
    groups: Groups
    criteria: tuple[Any, ...]
    options: dict[str, Any]


def random_wide_problem(seed: int, *, max_rows: int = 40) -> WideProblem:
    """A problem of the kinds that `random_problem` leaves out; it may be infeasible."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, max_rows))
    groups = Groups(
        {"a": rng.integers(0, 3, n), "s": rng.integers(0, 2, n)}, probabilities={"p": rng.dirichlet([0.5] * 3, n)}
    )
    tolerance = float(rng.choice([0.0, 0.01, 0.1]))
    own = AffineCriterion(rng.normal(size=(2, n)) / n, lower=[-0.2, -np.inf], upper=[0.2, 0.3])
    choices = (
        (ECP("p", tolerance=tolerance),),
        (ECP(("p", "a"), tolerance=0.05 + tolerance), ECP("s", tolerance=tolerance)),
        (equalized_odds("p", tolerance=tolerance),),
        (EER("p", given="s", tolerance=0.2 + tolerance),),
        (own,),
        (own, ECP("a", tolerance=tolerance)),
        (own, ECP("p", tolerance=tolerance), EER("a", tolerance=0.3)),
        (ECP("a", tolerance=tolerance),),
    )
    kind = str(rng.choice(["vector", "columns", "simplex"]))
    k = int(rng.integers(2, 5))
    options: dict[str, Any] = {"weights": None if rng.random() < 0.6 else rng.uniform(0.5, 3.0, n)}
    if kind == "vector":
        bounds = (None, (0.05, 0.9))[int(rng.integers(0, 2))]
        options |= {"labels": rng.integers(0, 2, n).astype(float), "bounds": bounds}
        return WideProblem(rng.random(n), groups, choices[int(rng.integers(0, len(choices)))], options)
    options |= {"labels": rng.integers(0, k, n), "simplex": kind == "simplex"}
    return WideProblem(rng.dirichlet([1.0] * k, n), groups, choices[int(rng.integers(0, len(choices)))], options)


def gaps_by_mask(
    scores: np.ndarray,
    frame: pd.DataFrame,
    criterion: Criterion,
    *,
    labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> list[float]:
    """Every signed gap of a criterion, from boolean masks over the rows alone."""
    table = frame.copy()
    table["@label"] = 0.0 if labels is None else labels
    weight = np.ones(len(scores)) if weights is None else weights
    value = scores if criterion.family == "ECP" else np.asarray(labels) - scores
    gaps: list[float] = []
    for stratum, rows in _strata(table, criterion.given):
        if criterion.label_value is not None and stratum[criterion.given.index("@label")] != criterion.label_value:
            continue
        means = [
            float(np.average(value[index], weights=weight[index]))
            for index in table.loc[rows].groupby(list(criterion.attributes), observed=True).indices.values()
            for index in [np.asarray(rows)[index]]
            if weight[index].sum() > 0
        ]
        gaps += means if criterion.form == "absolute" else [a - b for a, b in combinations(means, 2)]
    return gaps


def largest_gap(gaps: Sequence[float]) -> float:
    return max((abs(gap) for gap in gaps), default=0.0)


def _strata(table: pd.DataFrame, given: Sequence[str]) -> list[tuple[tuple[Any, ...], np.ndarray]]:
    if not given:
        return [((), np.arange(len(table)))]
    grouped = table.groupby(list(given), observed=True).indices
    return [(key if isinstance(key, tuple) else (key,), np.asarray(rows)) for key, rows in grouped.items()]
