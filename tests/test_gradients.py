"""Gradients with respect to everything that is not the scores, and how much of a gradient the layer takes off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import auditkit as ak
from auditkit.errors import InputError

RNG = np.random.default_rng(0)
ROWS = 16
LABELS = np.arange(ROWS) % 2.0
WEIGHTS = RNG.uniform(0.5, 2, ROWS)
SCORES = 0.8 * RNG.random(ROWS) + 0.2 * (np.arange(ROWS) // 2 % 3 == 0)
GROUPS = ak.Groups(
    {"a": np.arange(ROWS) // 2 % 3, "b": RNG.choice(["x", "y"], ROWS)}, probabilities={"p": RNG.dirichlet([1, 1], ROWS)}
)
CASES = {
    "one attribute": [ak.ECP("a", tolerance=0.05)],
    "strata": [ak.ECP("a", given="b", tolerance=0.02)],
    "residuals": [ak.EER("a", tolerance=0.05)],
    "pairwise residuals": [ak.EER("a", tolerance=0.05, form="pairwise")],
    "equalized odds": [ak.equalized_odds("a", tolerance=0.05)],
    "marginal": [ak.ECP("a", tolerance=0.05), ak.ECP("b", tolerance=0.01)],
    "inferred": [ak.ECP("p", tolerance=0.01)],
    "affine": [ak.ECP("a", tolerance=0.05), ak.AffineCriterion(RNG.normal(size=(1, ROWS)) / ROWS, upper=-0.2)],
}
every_case = pytest.mark.parametrize("name", CASES)
every_bound = pytest.mark.parametrize("bounded", [False, True], ids=["unbounded", "bounded"])


def leaf(values: object) -> torch.Tensor:
    return torch.tensor(np.asarray(values, dtype=float), requires_grad=True)


def layer_of_everything(name: str, bounded: bool) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor]]:
    """The layer as a function of scores, weights, tolerances, labels of residuals and bounds, and its arguments."""
    criteria, residuals = CASES[name], "residuals" in name
    layer = ak.FairnessLayer(criteria)
    arguments = [leaf(SCORES), leaf(WEIGHTS), leaf([getattr(c, "tolerance", 0.0) for c in criteria])]
    arguments += [leaf(LABELS)] if residuals else []
    arguments += [leaf(0.1), leaf(np.full(ROWS, 0.85))] if bounded else []

    def function(
        scores: torch.Tensor, weights: torch.Tensor, epsilon: torch.Tensor, *rest: torch.Tensor
    ) -> torch.Tensor:
        labels = rest[0] if residuals else LABELS
        bounds = rest[-2:] if bounded else None
        return layer(scores, GROUPS, labels, weights=weights, tolerances=epsilon, bounds=bounds)

    return function, arguments


@every_bound
@every_case
def test_gradients_of_every_input_equal_finite_differences(name: str, bounded: bool) -> None:
    function, arguments = layer_of_everything(name, bounded)
    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


@every_bound
@every_case
def test_the_value_and_the_gradient_of_the_scores_are_those_of_the_plain_path(name: str, bounded: bool) -> None:
    function, arguments = layer_of_everything(name, bounded)
    bounds = (0.1, 0.85) if bounded else None
    scores, direction = leaf(SCORES), torch.linspace(-1, 1, ROWS, dtype=torch.float64)
    plain = ak.FairnessLayer(CASES[name], bounds=bounds)(scores, GROUPS, LABELS, weights=WEIGHTS)
    traced = function(*arguments)
    torch.testing.assert_close(traced, plain, atol=1e-13, rtol=0)
    (expected,) = torch.autograd.grad(plain @ direction, scores)
    torch.testing.assert_close(torch.autograd.grad(traced @ direction, arguments[0])[0], expected, atol=1e-12, rtol=0)


@every_bound
@pytest.mark.parametrize("name", ["one attribute", "residuals"])
def test_functional_transforms_of_every_input(name: str, bounded: bool) -> None:
    function, arguments = layer_of_everything(name, bounded)
    points = [argument.detach() for argument in arguments]
    positions = tuple(range(len(points)))
    expected = torch.autograd.functional.jacobian(function, tuple(points))
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        for found, wanted in zip(transform(function, argnums=positions)(*points), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("simplex", [False, True])
def test_gradients_of_every_input_with_several_columns(simplex: bool) -> None:
    rows, classes = RNG.dirichlet([1, 2, 1], 9), np.arange(9) % 3
    groups = GROUPS.take(np.arange(9))
    for criteria in ([ak.ECP("a", tolerance=0.03)], [ak.EER("a", tolerance=0.25)], [ak.ECP("p", tolerance=0.01)]):
        layer = ak.FairnessLayer(criteria, simplex=simplex)
        arguments = (leaf(rows), leaf([criteria[0].tolerance]), leaf(WEIGHTS[:9]))

        def function(scores: torch.Tensor, epsilon: torch.Tensor, weights: torch.Tensor, layer=layer) -> torch.Tensor:
            return layer(scores, groups, classes, tolerances=epsilon, weights=weights)

        assert torch.autograd.gradcheck(function, arguments)
        plain = layer(leaf(rows), groups, classes, weights=WEIGHTS[:9])
        torch.testing.assert_close(function(*arguments), plain, atol=1e-12, rtol=0)


def test_a_tolerance_can_be_learned() -> None:
    epsilon = torch.tensor(0.0, requires_grad=True)
    layer = ak.FairnessLayer(ak.ECP("a", tolerance=0.0))
    optimizer = torch.optim.SGD([epsilon], lr=0.02)
    scores = torch.tensor(SCORES)
    distances = []
    for _ in range(20):
        distance = (layer(scores, GROUPS, tolerances=epsilon.clamp_min(0)) - scores).square().sum() + 0.01 * epsilon
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        distances.append(distance.item())
    assert distances[-1] < 0.9 * distances[0]
    assert epsilon > 0.01


def test_what_cannot_be_differentiated_is_refused() -> None:
    weights = leaf(WEIGHTS)
    with pytest.raises(InputError, match="go with neither strict mode nor a process group"):
        ak.FairnessLayer(ak.ECP("a", tolerance=0.1), strict=True)(leaf(SCORES), GROUPS, weights=weights)
    with pytest.raises(InputError, match="weights must be positive where they are differentiated"):
        ak.FairnessLayer(ak.ECP("a", tolerance=0.1))(leaf(SCORES), GROUPS, weights=weights - weights.max())
    with pytest.raises(InputError, match="tolerances must be one number or 1, one per criterion"):
        ak.FairnessLayer(ak.ECP("a", tolerance=0.1))(leaf(SCORES), GROUPS, tolerances=[0.1, 0.2])
    layer = ak.FairnessLayer(ak.equalized_odds("a", tolerance=0.1))
    with pytest.raises(InputError, match=r"a torch.func transform hides the values of this argument"):
        torch.func.grad(lambda y: layer(torch.tensor(SCORES), GROUPS, y).sum())(torch.tensor(LABELS))


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@every_bound
@every_case
def test_the_suppressed_share_is_the_part_of_the_gradient_that_was_removed(
    name: str, bounded: bool, weights: np.ndarray | None
) -> None:
    layer = ak.FairnessLayer(CASES[name], bounds=(0.1, 0.85) if bounded else None)
    scores, direction = leaf(SCORES), torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    assert layer.suppressed_share is None
    output = layer(scores, GROUPS, LABELS, weights=weights)
    (gradient,) = torch.autograd.grad(output, scores, direction)
    expected = float((direction - gradient).norm() / direction.norm())
    assert layer.suppressed_share == pytest.approx(expected, abs=1e-12)
    assert 0 < expected <= (1 + 1e-12 if weights is None else 2)


def test_nothing_is_suppressed_where_nothing_is_active() -> None:
    layer, scores = ak.FairnessLayer(ak.ECP("a", tolerance=5.0)), leaf(SCORES)
    layer(scores, GROUPS).sum().backward()
    assert layer.suppressed_share == 0.0
