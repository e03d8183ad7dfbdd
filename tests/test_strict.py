"""Strict mode: scores that satisfy the tolerance exactly in the dtype in which they leave, summed in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import auditkit as ak
from auditkit.errors import SolverError


def largest_gap(scores: torch.Tensor, codes: np.ndarray) -> float:
    """From float64 means by mask, summed by Python: another order of summation than the library's."""
    values = scores.detach().double().tolist()
    means = []
    for code in np.unique(codes):
        mine = [value for value, other in zip(values, codes, strict=True) if other == code]
        means.append(sum(mine) / len(mine))
    return max(means) - min(means)


def count_violations(dtype: torch.dtype, batches: int, *, seed: int) -> tuple[int, int]:
    """Batches whose output breaks ε or a bound in float64, and batches that were refused."""
    rng = np.random.default_rng(seed)
    broken = refused = 0
    for k in range(batches):
        codes = rng.permutation(np.arange(int(rng.integers(64, 257))) % int(rng.integers(2, 5)))
        scores = torch.as_tensor(rng.normal(size=len(codes))).to(dtype)
        tolerance, bounds = float(rng.choice([0.01, 0.1])), None if k % 2 else (-1.3, 1.1)
        try:
            result = ak.project(
                scores, ak.Groups({"g": codes}), ak.ECP("g", tolerance=tolerance), bounds=bounds, strict=True
            )
        except SolverError:
            refused += 1
            continue
        exact = result.scores.double()
        broken += largest_gap(result.scores, codes) > tolerance
        broken += bounds is not None and bool((exact < bounds[0]).any() or (exact > bounds[1]).any())
        assert result.scores.dtype == dtype
    return broken, refused


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rounded_scores_satisfy_the_tolerance_exactly(dtype: torch.dtype) -> None:
    broken, refused = count_violations(dtype, 300, seed=0)
    assert broken == 0
    assert refused <= (3 if dtype == torch.bfloat16 else 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(1, 6))
def test_rounded_scores_satisfy_the_tolerance_exactly_in_a_hundred_thousand_batches(
    dtype: torch.dtype, seed: int
) -> None:
    broken, refused = count_violations(dtype, 10_000, seed=seed)
    assert broken == 0
    assert refused <= (100 if dtype == torch.bfloat16 else 0)


def test_without_strict_rounding_breaks_the_tolerance_by_a_little() -> None:
    rng = np.random.default_rng(3)
    broken = 0
    for _ in range(50):
        codes = rng.integers(0, 3, 100)
        scores = torch.as_tensor(rng.normal(size=100)).to(torch.bfloat16)
        broken += (
            largest_gap(ak.project(scores, ak.Groups({"g": codes}), ak.ECP("g", tolerance=0.01)).scores, codes) > 0.01
        )
    assert broken > 10


@pytest.mark.parametrize("bounds", [None, (-1.0, 1.0)])
def test_the_strict_layer_keeps_the_gradient(bounds: tuple[float, float] | None, rng: np.random.Generator) -> None:
    codes = rng.integers(0, 3, 60)
    groups, direction = ak.Groups({"g": codes}), torch.linspace(-1, 1, 60)
    gradients = []
    for strict in (False, True):
        scores = torch.as_tensor(rng.normal(size=60) * 0 + np.linspace(-1.2, 1.2, 60)).float().requires_grad_()
        output = ak.FairnessLayer(ak.ECP("g", tolerance=0.01), bounds=bounds, strict=strict)(scores, groups)
        gradients.append(torch.autograd.grad(output @ direction, scores)[0])
    assert largest_gap(output, codes) <= 0.01
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=0)


def test_a_tolerance_that_the_dtype_cannot_express_is_refused() -> None:
    groups, scores = ak.Groups({"g": list("ab")}), torch.tensor([0.0, 1.0])
    with pytest.raises(SolverError, match="no float32 scores near the solution satisfy the tolerances exactly"):
        ak.project(scores, groups, ak.ECP("g", tolerance=0.0), strict=True)
