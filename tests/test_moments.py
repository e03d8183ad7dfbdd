from __future__ import annotations

import numpy as np
import pytest

from auditkit import Groups, Moments
from auditkit.errors import InputError
from auditkit.moments import FACTORS, SUMS, products


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


def test_every_sum_is_the_mask_of_what_it_declares(rng: np.random.Generator) -> None:
    z, y, w = rng.normal(size=200), rng.random(200), rng.random(200)
    d, codes, shift = (z > 0).astype(float), rng.integers(0, 3, 200), 0.3
    moments = Moments.from_rows(z, Groups({"a": codes}).cells(("a",)), labels=y, decisions=d, weights=w, shift=shift)
    names = {"z": z, "y": y, "w": w, "d": d, "shift": shift}
    for name, factors in SUMS.items():
        row = np.ones(200)
        for factor in factors:
            row = row * eval(FACTORS[factor].sql, {"abs": np.abs}, names)  # the SQL of a factor is also Python
        np.testing.assert_allclose(getattr(moments, name), [row[codes == k].sum() for k in range(3)], rtol=1e-12)


def test_sums_of_rows_without_labels_or_weights_are_zero_or_counts() -> None:
    moments = Moments.from_rows(np.array([0.2, 0.4]), Groups({"a": ["x", "x"]}).cells(("a",)))
    assert moments.weight[0] == moments.weight2[0] == moments.count[0] == 2
    assert not moments.label[0] + moments.label2[0] + moments.cross[0] + moments.selected[0]
    assert products({"z"}) == ((), ("z",), ("z-shift", "z-shift"), ("z-outside",))
