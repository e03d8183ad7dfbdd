"""Decision thresholds per cell, deterministic or randomised, applied row by row.

    P(decision = 1 | z, g) = max over k of p_gk · 1[z ≥ t_gk]         t_g1 > t_g2 > …,  1 = p_g1 > p_g2 > … > 0

A deterministic rule has one threshold. A randomised one draws one of its thresholds for every row, which is the same
as deciding positively where the chance above exceeds a uniform number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from auditkit._typing import BoolArray, FloatArray, IntArray, VectorLike
from auditkit._validation import check_vector, to_numpy
from auditkit.criteria import Criterion
from auditkit.deployment.guarantee import ContrastGuarantee
from auditkit.deployment.lookup import CellValues, find_cells, read_json, write_json
from auditkit.errors import InputError
from auditkit.groups import Groups

SCHEMA = "auditkit.decision_thresholds/1"
LARGEST_SEED = 10**16 - 1

OnUnseenDecision = Literal["raise", "pooled"]


@dataclass(frozen=True)
class ThresholdRule:
    """How the rows of one cell are decided.

    Attributes:
        thresholds: t, strictly falling; −∞ decides positively for every row, ∞ for none.
        chances: Chance of a positive decision for scores from each threshold up to the one before, falling from 1.
    """

    thresholds: tuple[float, ...]
    chances: tuple[float, ...]

    def __post_init__(self) -> None:
        t, p = self.thresholds, self.chances
        falls = all(a > b for a, b in pairwise(t))
        fades = all(a > b for a, b in pairwise(p))
        if not (t and len(t) == len(p) and falls and fades and p[0] == 1 and p[-1] > 0 and not any(map(math.isnan, t))):
            raise InputError(
                f"a threshold rule needs falling thresholds with as many chances that fall from 1; got {t} and {p}"
            )

    @property
    def is_randomized(self) -> bool:
        """Whether rows of one score can be decided differently."""
        return len(self.thresholds) > 1

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON-ready values; infinite thresholds as text."""
        return {"thresholds": [_to_json(t) for t in self.thresholds], "chances": list(self.chances)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ThresholdRule:
        """The rule that `to_dict` wrote."""
        return cls(tuple(float(t) for t in content["thresholds"]), tuple(float(p) for p in content["chances"]))


@dataclass(frozen=True, eq=False)
class DecisionThresholds:
    """Thresholds per cell, applied row by row without a solver, a batch or labels.

    Attributes:
        criteria: What the decisions satisfy.
        columns: The columns that a row is looked up by.
        cells: The values of those columns, one tuple per cell, length c.
        counts: Calibration rows per cell, length c.
        rules: One rule per cell.
        pooled: The single threshold of least cost over all calibration rows, whatever the group.
        costs: Costs of a false positive and of a false negative.
        cost: Mean cost per calibration row under these rules; the error rate where both costs are 1.
        confidence: Joint confidence of the guarantee; None when no margin was taken off.
        contrasts: What is guaranteed; empty without a confidence.
        on_unseen: What happens to a row whose cell was not among the calibration rows: "raise", or decide it by
            "pooled", which nothing is guaranteed for.
    """

    criteria: tuple[Criterion, ...]
    columns: tuple[str, ...]
    cells: tuple[CellValues, ...]
    counts: tuple[int, ...]
    rules: tuple[ThresholdRule, ...]
    pooled: float
    costs: tuple[float, float]
    cost: float
    confidence: float | None = None
    contrasts: tuple[ContrastGuarantee, ...] = ()
    on_unseen: OnUnseenDecision = "raise"

    @property
    def is_guaranteed(self) -> bool:
        """Whether every contrast of every criterion carries the guarantee."""
        return bool(self.contrasts) and all(contrast.guaranteed for contrast in self.contrasts)

    @property
    def is_randomized(self) -> bool:
        """Whether any cell has more than one threshold."""
        return any(rule.is_randomized for rule in self.rules)

    @property
    def tables(self) -> tuple[FloatArray, FloatArray]:
        """Thresholds and chances of every cell, and of the pooled rule last, padded with (∞, 1); shape (c + 1, k)."""
        return _tabulate([*self.rules, self._pooled_rule])

    @property
    def _pooled_rule(self) -> ThresholdRule:
        return ThresholdRule((self.pooled,), (1.0,))

    def chances(self, scores: VectorLike, groups: Groups) -> FloatArray:
        """Chance of a positive decision for every row; 0 or 1 where the rules are deterministic.

        Args:
            scores: z, shape (n,).
            groups: Attributes of the same rows.

        Returns:
            Shape (n,).

        Raises:
            InputError: Wrong shapes, NaN, or a combination of values that the calibration never saw.
        """
        z = check_vector("scores", scores, n_rows=groups.n_rows)
        index = find_cells(
            groups, self.columns, self.cells, "keep" if self.on_unseen == "pooled" else "raise", remedy="pooled"
        )
        return find_chances([*self.rules, self._pooled_rule], z, index)

    def apply(
        self,
        scores: VectorLike,
        groups: Groups,
        *,
        seed: int | None = None,
        uniforms: VectorLike | None = None,
        row_ids: VectorLike | None = None,
    ) -> BoolArray:
        """Decide, each row by itself.

        Args:
            scores: z, shape (n,).
            groups: Attributes of the same rows.
            seed: Seed of the draws of a randomised rule. With ``row_ids`` it is the key of their hash instead.
            uniforms: The draws themselves, in [0, 1), shape (n,).
            row_ids: Whom every row is about, shape (n,): the draw is then a hash of the id (as text) and the seed, so
                that the same person meets the same draw in every batch, process and order of rows.

        Returns:
            Whether the decision is positive, shape (n,).

        Raises:
            InputError: As `chances`; or the rules are randomised and nothing says how to draw, or too much does.
        """
        chance = self.chances(scores, groups)
        if not self.is_randomized:
            return chance > 0.5
        return chance > self._draw(len(chance), seed, uniforms, row_ids)

    def _draw(self, n: int, seed: int | None, uniforms: VectorLike | None, row_ids: VectorLike | None) -> FloatArray:
        if uniforms is not None:
            if seed is not None or row_ids is not None:
                raise InputError("uniforms are the draws themselves; leave out seed and row_ids")
            draws = check_vector("uniforms", uniforms, n_rows=n)
            if ((draws < 0) | (draws >= 1)).any():
                raise InputError("uniforms must lie in [0, 1)")
            return draws
        if row_ids is not None:
            return hash_to_unit(row_ids, n_rows=n, seed=0 if seed is None else seed)
        if seed is None:
            raise InputError(
                "these thresholds are randomised; pass seed=, uniforms= or row_ids= so that the decisions can be "
                "repeated, or calibrate with randomize=False"
            )
        return np.random.default_rng(seed).random(n)

    def to_dict(self) -> dict[str, Any]:
        """The thresholds as JSON-ready values."""
        return {
            "schema": SCHEMA,
            "criteria": [criterion.to_dict() for criterion in self.criteria],
            "columns": list(self.columns),
            "cells": [
                {"cell": list(values), "count": count, **rule.to_dict()}
                for values, count, rule in zip(self.cells, self.counts, self.rules, strict=True)
            ],
            "pooled": _to_json(self.pooled),
            "costs": list(self.costs),
            "cost": self.cost,
            "confidence": self.confidence,
            "contrasts": [asdict(contrast) for contrast in self.contrasts],
            "on_unseen": self.on_unseen,
        }

    def save(self, path: str | Path) -> None:
        """Write the thresholds as JSON; the file appears whole or not at all."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> DecisionThresholds:
        """Read what `save` wrote.

        Raises:
            InputError: The file is missing, not JSON, or does not hold decision thresholds.
        """
        return read_json(path, schema=SCHEMA, what="decision thresholds", build=_from_dict)

    def to_onnx(self, path: str | Path) -> None:
        """Write the thresholds as an ONNX model.

        Inputs are ``scores`` (float64), one string tensor per column and ``uniforms`` (float64), all of shape (n,);
        outputs ``chance`` (float64) and ``decision`` (int64). A combination that the calibration never saw gives a
        chance of NaN and the decision −1, or the pooled threshold's with on_unseen="pooled".
        """
        from auditkit.onnx_export import write_thresholds

        write_thresholds(self, Path(path))


def find_chances(rules: Sequence[ThresholdRule], scores: FloatArray, index: IntArray) -> FloatArray:
    """Chance of a positive decision for every row, shape (n,).

    Args:
        rules: One per cell.
        scores: z, shape (n,).
        index: Cell of every row, shape (n,).
    """
    thresholds, chances = _tabulate(rules)
    return np.where(scores[:, None] >= thresholds[index], chances[index], 0.0).max(axis=1)


def _tabulate(rules: Sequence[ThresholdRule]) -> tuple[FloatArray, FloatArray]:
    """Thresholds and chances of every rule, padded with (∞, 1); shape (r, k)."""
    width = max(len(rule.thresholds) for rule in rules)
    thresholds, chances = np.full((len(rules), width), np.inf), np.ones((len(rules), width))
    for row, rule in enumerate(rules):
        thresholds[row, : len(rule.thresholds)] = rule.thresholds
        chances[row, : len(rule.chances)] = rule.chances
    return thresholds, chances


def hash_to_unit(ids: VectorLike, *, n_rows: int, seed: int) -> FloatArray:
    """A number in [0, 1) for every id, the same in every process: SipHash-2-4 of its text under the seed.

    Raises:
        InputError: Another number of ids than rows, or a seed that is negative or over 16 digits.
    """
    from pandas.util import hash_array

    texts = to_numpy(ids)
    if texts.shape != (n_rows,):
        raise InputError(f"row_ids must have shape ({n_rows},), one per row of groups; got {texts.shape}")
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed must lie between 0 and {LARGEST_SEED} with row_ids; got {seed}")
    hashing: Any = hash_array
    hashed = hashing(texts.astype(str).astype(object), hash_key=f"{seed:016d}", categorize=False)
    return np.asarray((hashed >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _to_json(threshold: float) -> float | str:
    return threshold if math.isfinite(threshold) else str(threshold)


def _from_dict(content: dict[str, Any]) -> DecisionThresholds:
    cells = content["cells"]
    return DecisionThresholds(
        criteria=tuple(Criterion.from_dict(entry) for entry in content["criteria"]),
        columns=tuple(content["columns"]),
        cells=tuple(tuple(entry["cell"]) for entry in cells),
        counts=tuple(entry["count"] for entry in cells),
        rules=tuple(ThresholdRule.from_dict(entry) for entry in cells),
        pooled=float(content["pooled"]),
        costs=(content["costs"][0], content["costs"][1]),
        cost=content["cost"],
        confidence=content["confidence"],
        contrasts=tuple(ContrastGuarantee.from_dict(entry) for entry in content["contrasts"]),
        on_unseen=content["on_unseen"],
    )
