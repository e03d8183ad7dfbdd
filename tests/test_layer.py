"""The layer: equal to `project`, with gradients checked by finite differences and by the formula of its Jacobian."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import auditkit as ak
from auditkit.errors import InputError

CASES = {
    "one attribute": [ak.ECP("a", tolerance=0.05)],
    "strata": [ak.ECP("a", given="b", tolerance=0.02)],
    "intersection": [ak.ECP(("a", "b"), tolerance=0.05)],
    "residuals": [ak.EER("a", tolerance=0.05)],
    "pairwise residuals": [ak.EER("a", tolerance=0.05, form="pairwise")],
    "equalized odds": [ak.equalized_odds("a", tolerance=0.05)],
    "equality": [ak.ECP("a", tolerance=0.0)],
    "marginal": [ak.ECP("a", tolerance=0.05), ak.ECP("b", tolerance=0.01)],
    "mixed": [ak.ECP(("a", "b"), tolerance=0.05), ak.EER("b", tolerance=0.3)],
}
every_case = pytest.mark.parametrize("criteria", CASES.values(), ids=CASES.keys())
every_bound = pytest.mark.parametrize("bounds", [None, (0.1, 0.85)], ids=["unbounded", "bounded"])


@pytest.fixture
def batch() -> tuple[torch.Tensor, ak.Groups, torch.Tensor]:
    rng = np.random.default_rng(0)
    groups = ak.Groups({"a": rng.integers(0, 3, 24), "b": rng.choice(["x", "y"], 24)})
    labels = torch.as_tensor(rng.integers(0, 2, 24).astype(float))
    return torch.as_tensor(rng.random(24)).requires_grad_(), groups, labels


@every_bound
@every_case
def test_forward_equals_project(batch: tuple, criteria: list, bounds: object) -> None:
    scores, groups, labels = batch
    expected = ak.project(scores, groups, criteria, labels=labels, bounds=bounds).scores
    torch.testing.assert_close(
        ak.FairnessLayer(criteria, bounds=bounds)(scores, groups, labels), expected, atol=1e-14, rtol=0
    )


@every_bound
@every_case
def test_gradients_equal_finite_differences(batch: tuple, criteria: list, bounds: object) -> None:
    scores, groups, labels = batch
    layer = ak.FairnessLayer(criteria, bounds=bounds)
    assert torch.autograd.gradcheck(lambda z: layer(z, groups, labels), (scores,))
    assert torch.autograd.gradgradcheck(lambda z: layer(z, groups, labels) ** 2, (scores,))


@every_bound
@every_case
def test_the_jacobian_is_a_symmetric_projection_that_removes_active_gaps(
    batch: tuple, criteria: list, bounds: object
) -> None:
    scores, groups, labels = batch
    layer = ak.FairnessLayer(criteria, bounds=bounds)
    jacobian = torch.autograd.functional.jacobian(lambda z: layer(z, groups, labels), scores)
    torch.testing.assert_close(jacobian, jacobian.T, atol=1e-13, rtol=0)
    torch.testing.assert_close(jacobian @ jacobian, jacobian, atol=1e-13, rtol=0)
    assert torch.linalg.matrix_norm(jacobian, 2) <= 1 + 1e-12
    assert torch.linalg.matrix_rank(jacobian) < len(scores)  # some constraint is active in every case


@every_bound
@every_case
@pytest.mark.parametrize("solver", ["osqp", "cvxpy"])
def test_every_solver_gives_the_same_scores_and_gradients(
    batch: tuple, criteria: list, bounds: object, solver: str
) -> None:
    scores, groups, labels = batch
    direction = torch.linspace(-1, 1, len(scores), dtype=torch.float64)
    gradients, outputs = [], []
    for name in ("newton", solver):
        output = ak.FairnessLayer(criteria, bounds=bounds, solver=name)(scores, groups, labels)
        outputs.append(output)
        gradients.append(torch.autograd.grad(output @ direction, scores)[0])
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=0)


ONE = [ak.ECP("a", tolerance=0.05)]


@every_bound
@every_case
def test_forward_mode_equals_the_jacobian(batch: tuple, criteria: list, bounds: object) -> None:
    scores, groups, labels = batch
    layer = ak.FairnessLayer(criteria, bounds=bounds)
    jacobian = torch.autograd.functional.jacobian(lambda z: layer(z, groups, labels), scores)
    direction = torch.linspace(-1, 1, len(scores), dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(scores.detach(), direction)
        tangent = torch.autograd.forward_ad.unpack_dual(layer(dual, groups, labels)).tangent
    torch.testing.assert_close(tangent, jacobian @ direction, atol=1e-13, rtol=0)


@every_bound
@every_case
def test_functional_transforms_equal_autograd(batch: tuple, criteria: list, bounds: object) -> None:
    scores, groups, labels = batch
    layer, point = ak.FairnessLayer(criteria, bounds=bounds), scores.detach()

    def project(z: torch.Tensor) -> torch.Tensor:
        return layer(z, groups, labels)

    jacobian = torch.autograd.functional.jacobian(project, point)
    for transform in (torch.func.jacfwd, torch.func.jacrev):
        torch.testing.assert_close(transform(project)(point), jacobian, atol=1e-13, rtol=0)
    direction = torch.linspace(-1, 1, len(point), dtype=torch.float64)
    value, pull = torch.func.vjp(project, point)
    torch.testing.assert_close(pull(direction)[0], jacobian.T @ direction, atol=1e-13, rtol=0)
    torch.testing.assert_close(value, project(point))
    hessian = torch.func.hessian(lambda z: (project(z) ** 2).sum())(point)
    torch.testing.assert_close(hessian, 2 * jacobian, atol=1e-12, rtol=0)


@every_bound
def test_batches_are_mapped_one_by_one(batch: tuple, bounds: object) -> None:
    scores, groups, _ = batch
    layer = ak.FairnessLayer(ONE, bounds=bounds)
    several = torch.stack([scores.detach(), scores.detach() ** 2, 1 - scores.detach()])
    mapped = torch.func.vmap(lambda z: layer(z, groups))(several)
    torch.testing.assert_close(mapped, torch.stack([layer(z, groups) for z in several]))


def test_weights_reach_the_means_and_the_gradient(batch: tuple) -> None:
    scores, groups, _ = batch
    weights = np.arange(1, 25)
    layer = ak.FairnessLayer(ak.ECP("a", tolerance=0.01))
    assert torch.autograd.gradcheck(lambda z: layer(z, groups, weights=weights), (scores,))
    expected = ak.project(scores, groups, ak.ECP("a", tolerance=0.01), weights=weights).scores
    torch.testing.assert_close(layer(scores, groups, weights=weights), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_the_gap_holds_to_its_rounding(dtype: torch.dtype, rng: np.random.Generator) -> None:
    groups = ak.Groups({"g": rng.integers(0, 14, 1024)})
    output = ak.FairnessLayer(ak.ECP("g", tolerance=1e-3))(torch.as_tensor(rng.normal(size=1024)).to(dtype), groups)
    assert output.dtype == dtype
    means = [float(output[groups.codes("g") == k].double().mean()) for k in range(14)]
    assert max(means) - min(means) <= 1e-3 + (1e-7 if dtype == torch.float32 else 1e-14)


def test_it_trains_as_the_last_module_of_a_network(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    sex = rng.integers(0, 2, 400)
    features = torch.as_tensor(np.column_stack([sex + 0.5 * rng.normal(size=400), rng.normal(size=400)]))
    labels = torch.as_tensor((sex + features[:, 1].numpy() > 0.5).astype(float))
    body, layer = torch.nn.Linear(2, 1).double(), ak.FairnessLayer(ak.ECP("sex", tolerance=0.05))
    groups = ak.Groups({"sex": sex})
    optimizer = torch.optim.SGD(body.parameters(), lr=0.5)
    losses = []
    for _ in range(60):
        output = layer(body(features).squeeze(1), groups)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert abs(output[sex == 0].mean() - output[sex == 1].mean()) <= 0.05 + 1e-12
    assert list(layer.parameters()) == []


def test_the_assembled_constraints_are_kept_with_the_groups(batch: tuple) -> None:
    scores, groups, _ = batch
    layer = ak.FairnessLayer(ak.ECP("a", tolerance=0.05))
    layer(scores, groups)
    kept = dict(groups.derived)
    assert kept
    layer(scores, groups)
    assert list(groups.derived) == list(kept)
    assert all(groups.derived[key] is value for key, value in kept.items())


def test_layers_that_come_and_go_never_take_each_other_s_constraints(batch: tuple) -> None:
    scores, groups, _ = batch
    for place, tolerance in enumerate(np.linspace(0.0, 0.05, 20)):
        criterion = ak.ECP("a", tolerance=float(tolerance))
        expected = ak.project(scores, groups, criterion).scores
        torch.testing.assert_close(ak.FairnessLayer(criterion)(scores, groups), expected, rtol=0, atol=1e-12)
        if place % 5 == 4:
            groups = pickle.loads(pickle.dumps(groups))  # with the constraints of layers that are gone


def test_layers_of_equal_criteria_share_one_assembly(batch: tuple) -> None:
    scores, groups, _ = batch
    for _ in range(20):
        ak.FairnessLayer(ak.ECP("a", tolerance=0.01))(scores, groups)
    assert len(groups.derived) == 1
    ak.FairnessLayer(ak.ECP("a", tolerance=0.02))(scores, groups)
    assert len(groups.derived) == 2


@pytest.mark.parametrize(("bounds", "most"), [(None, 3), ((-1.5, 1.5), 4.5)])
def test_one_pass_holds_few_arrays_of_the_length_of_the_batch(
    bounds: object, most: float, rng: np.random.Generator
) -> None:
    """Output and gradient, which the caller keeps, and few beside them; arrays of NumPy are what is traced."""
    n = 400_000
    groups, layer = ak.Groups({"g": np.arange(n) % 4}), ak.FairnessLayer(ak.ECP("g", tolerance=1e-3), bounds=bounds)
    scores = torch.as_tensor(rng.normal(size=n) + 0.5 * (np.arange(n) % 4 == 0)).requires_grad_()
    upstream = torch.ones(n, dtype=torch.float64)
    torch.autograd.grad(layer(scores, groups), scores, upstream)  # constraints and modules are loaded from here on
    tracemalloc.start()
    try:
        torch.autograd.grad(layer(scores, groups), scores, upstream)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 2 * 8 * n <= peak <= most * 8 * n


def test_layers_of_equal_criteria_keep_their_names(batch: tuple) -> None:
    scores, groups = batch[0], batch[1]
    found = []
    for name in ("hiring", "lending"):
        layer = ak.FairnessLayer(ak.ECP("a", tolerance=0.1, name=name))
        layer(scores, groups)
        found.append(layer._assemble(groups, None, None, None).systems[0].criteria[0].name)
    assert found == ["hiring", "lending"]


def test_what_was_assembled_in_another_process_is_found(batch: tuple, tmp_path: Path) -> None:
    """Texts, and so criteria, have other hashes there."""
    scores, groups, _ = batch
    loose, tight = (ak.FairnessLayer(ak.ECP("a", tolerance=tolerance)) for tolerance in (1.0, 0.01))
    expected = [layer(scores, groups).tolist() for layer in (loose, tight)]
    (tmp_path / "batch").write_bytes(pickle.dumps((scores, groups, expected)))
    code = (
        "import pickle, sys, auditkit as ak\n"
        "scores, groups, expected = pickle.loads(open(sys.argv[1], 'rb').read())\n"
        "layers = [ak.FairnessLayer(ak.ECP('a', tolerance=tolerance)) for tolerance in (1.0, 0.01)]\n"
        "assert [layer(scores, groups).tolist() for layer in layers] == expected\n"
        "assert len(groups.derived) == 2, len(groups.derived)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "batch")]
    for seed in ("1", "2"):
        done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.tensor([1, 2]), "scores must be floating-point"),
        (
            torch.tensor([[[0.1]], [[0.2]]]),
            r"scores must be floating-point of shape \(n,\) or \(n, k\); got torch.float32 of shape \(2, 1, 1\)",
        ),
        (torch.tensor([0.1, 0.2, 0.3]), "scores must have 2 rows"),
        (torch.tensor([0.1, float("nan")]), r"scores holds 1 NaN or infinite values \(first at row 1\)"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_wrong_scores_are_refused(scores: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ak.FairnessLayer(ak.ECP("sex", tolerance=0.1))(scores, ak.Groups({"sex": ["f", "m"]}))


def test_groups_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match=r"groups must be an auditkit.Groups.*got list"):
        ak.FairnessLayer(ak.ECP("sex", tolerance=0.1))(torch.tensor([0.1, 0.2]), ["f", "m"])
