"""Which rows bounds hold, and how a multiplier then moves the moments, against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auditkit.moment_maps import CellMap
from auditkit.row_sets import Box

BOUNDS: dict[str, tuple[Any, Any]] = {
    "none": (None, None),
    "numbers": (torch.tensor(-0.5, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)),
    "lower": (torch.tensor(-0.5, dtype=torch.float64), None),
    "upper": (None, torch.tensor(0.5, dtype=torch.float64)),
    "mixed": (torch.linspace(-1, 0, 40, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)),
    "rows": (torch.linspace(-1, 0, 40, dtype=torch.float64), torch.linspace(0.1, 1, 40, dtype=torch.float64)),
}


def _sides(name: str) -> tuple[np.ndarray, np.ndarray]:
    lower, upper = BOUNDS[name]
    low = np.full(40, -np.inf) if lower is None else np.broadcast_to(lower.numpy(), 40)
    return low, np.full(40, np.inf) if upper is None else np.broadcast_to(upper.numpy(), 40)


@pytest.mark.parametrize("name", BOUNDS)
def test_rows_are_clipped_and_those_at_a_bound_are_held(name: str, rng: np.random.Generator) -> None:
    box, values = Box(*BOUNDS[name]), rng.normal(size=40)
    low, high = _sides(name)
    inside = box.project(torch.as_tensor(values)).numpy()
    np.testing.assert_array_equal(inside, np.clip(values, low, high))
    free = box.derivative(torch.as_tensor(inside)).free
    if name == "none":
        assert free is None
    else:
        assert free is not None
        np.testing.assert_array_equal(free.numpy(), (inside > low) & (inside < high))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", BOUNDS)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_gram_of_cells_is_that_of_their_matrix(name: str, weighted: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = np.append(np.arange(5), rng.integers(0, 5, 35))
    weights = rng.random(40) + 0.1 if weighted else np.ones(40)
    mass = np.bincount(index, weights)
    moments = CellMap(torch.as_tensor(index), mass, torch.as_tensor(weights) if weighted else None)
    box = Box(*BOUNDS[name])
    derivative = box.derivative(box.project(torch.as_tensor(rng.normal(size=40) * rng.choice([0.1, 1, 10]))))
    free = np.ones(40) if derivative.free is None else derivative.free.numpy()
    matrix = (index == np.arange(5)[:, None]) * weights / mass[:, None]
    whole = (matrix * (free / weights)) @ matrix.T
    np.testing.assert_allclose(moments.gram(derivative), np.diag(whole), rtol=0, atol=1e-15)
    assert np.abs(whole - np.diag(np.diag(whole))).max() == 0
