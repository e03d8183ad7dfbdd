from __future__ import annotations

import numpy as np
import pytest

from auditkit import Groups, Moments
from auditkit.errors import InputError


def sums(groups: Groups, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, shift: float) -> Moments:
    return Moments.from_rows(scores, groups.cells(groups.names), labels=labels, weights=weights, shift=shift)


def by_value(moments: Moments) -> dict[tuple[object, ...], tuple[float, ...]]:
    table = moments.table
    keys = [tuple(table.value(c, name) for name in table.names) for c in range(table.n_cells)]
    columns = (moments.count, moments.weight, moments.score, moments.score2, moments.label, moments.cross)
    return {key: tuple(column[c] for column in columns) for c, key in enumerate(keys)}


def test_parts_add_up_to_the_whole_even_with_different_groups(rng: np.random.Generator) -> None:
    a, b = rng.choice(["x", "y", "z"], 300), rng.integers(0, 3, 300)
    a[:150] = "x"  # the first part knows one value of a only
    scores, labels, weights = rng.normal(size=300), rng.random(300), rng.random(300)
    parts = [
        sums(Groups({"a": a[rows], "b": b[rows]}), scores[rows], labels[rows], weights[rows], 0.5)
        for rows in (slice(0, 150), slice(150, 300))
    ]
    whole = by_value(sums(Groups({"a": a, "b": b}), scores, labels, weights, 0.5))
    merged = by_value(parts[0] + parts[1])
    assert merged.keys() == whole.keys()
    for key, values in whole.items():
        np.testing.assert_allclose(merged[key], values, rtol=1e-12)


def test_a_shift_keeps_the_digits_of_a_variance_far_from_zero(rng: np.random.Generator) -> None:
    scores = 1e8 + rng.normal(size=1000)
    moments = Moments.from_rows(scores, Groups({"a": ["x"] * 1000}).cells(("a",)))
    spread = moments.score2[0] / 1000 - (scores.mean() - moments.shift) ** 2
    assert spread == pytest.approx(scores.var(), rel=1e-6)


def test_moments_of_different_columns_or_shifts_do_not_add() -> None:
    first = Moments.from_rows(np.array([1.0]), Groups({"a": [1]}).cells(("a",)), shift=0.0)
    other = Moments.from_rows(np.array([1.0]), Groups({"b": [1]}).cells(("b",)), shift=0.0)
    shifted = Moments.from_rows(np.array([1.0]), Groups({"a": [1]}).cells(("a",)), shift=1.0)
    with pytest.raises(InputError, match="same columns"):
        first + other
    with pytest.raises(InputError, match="same shift"):
        first + shifted
