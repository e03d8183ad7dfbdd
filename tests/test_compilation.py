"""The layer in compiled code, under autocast, and in the loops that people train with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import auditkit as ak
from auditkit.errors import InputError

CRITERIA = {
    "parity": ak.ECP("a", tolerance=0.01),
    "strata": ak.ECP("a", given="b", tolerance=0.01),
    "residuals": ak.EER("a", tolerance=0.01),
    "odds": ak.equalized_odds("a", tolerance=0.01),
}
every_criterion = pytest.mark.parametrize("name", CRITERIA)


def make_batch(seed: int, n: int = 200) -> tuple[torch.Tensor, ak.Groups, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = ak.Groups({"a": rng.permutation(np.arange(n) % 5), "b": rng.permutation(np.arange(n) % 2)})
    return torch.as_tensor(rng.normal(size=(n, 4)), dtype=torch.float32), groups, np.arange(n) % 2


@every_criterion
@pytest.mark.parametrize("columns", [None, 3])
def test_a_prepared_batch_gives_the_same_scores_and_gradients(name: str, columns: int | None) -> None:
    features, groups, labels = make_batch(0)
    scores = features[:, :3].double() if columns else features[:, 0].double()
    layer = ak.FairnessLayer(CRITERIA[name])
    weights = np.linspace(1, 2, len(features))
    prepared = layer.prepare(groups, labels, weights=weights, columns=columns)
    results = []
    for batch, options in ((groups, {"labels": labels, "weights": weights}), (prepared, {})):
        z = scores.clone().requires_grad_()
        output = layer(z, batch, **options)
        results.append((output, torch.autograd.grad(output.square().sum(), z)[0]))
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-13, rtol=0)


def test_what_the_closed_form_does_not_cover_cannot_be_prepared() -> None:
    _, groups, _ = make_batch(0)
    for layer in (
        ak.FairnessLayer(CRITERIA["parity"], bounds=(0, 1)),
        ak.FairnessLayer([CRITERIA["parity"], ak.ECP("b", tolerance=0.1)]),
        ak.FairnessLayer(CRITERIA["parity"], strict=True),
    ):
        with pytest.raises(InputError, match="prepare needs one criterion on known groups"):
            layer.prepare(groups)


@pytest.mark.slow
@every_criterion
def test_it_compiles_without_a_graph_break_and_without_recompiling_for_the_next_batch(name: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    head, layer = nn.Linear(4, 1), ak.FairnessLayer(CRITERIA[name])

    def loss(features: torch.Tensor, batch: object) -> torch.Tensor:
        return layer(head(features).squeeze(1), batch).square().mean()

    compiled = torch.compile(loss, fullgraph=True)
    for seed in range(3):
        features, groups, labels = make_batch(seed)
        prepared = layer.prepare(groups, labels)
        with torch._dynamo.config.patch(error_on_recompile=seed > 0):
            value = compiled(features, prepared)
        (gradient,) = torch.autograd.grad(value, head.weight)
        expected = layer(head(features).squeeze(1), groups, labels).square().mean()
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, head.weight)[0])


@pytest.mark.slow
def test_groups_inside_compiled_code_break_the_graph_and_nothing_else() -> None:
    torch._dynamo.reset()
    features, groups, _ = make_batch(0)
    head, layer = nn.Linear(4, 1), ak.FairnessLayer(CRITERIA["parity"], bounds=(-1, 1))

    def loss(features: torch.Tensor) -> torch.Tensor:
        return (2 * layer(head(features).squeeze(1), groups)).square().mean()

    torch.testing.assert_close(torch.compile(loss)(features), loss(features))


@pytest.mark.parametrize("bounds", [None, (-1, 1)])
@pytest.mark.parametrize("several", [False, True])
def test_autocast_scores_keep_their_dtype_and_their_gradient(bounds: object, several: bool) -> None:
    features, groups, _ = make_batch(0)
    criteria = [CRITERIA["parity"], ak.ECP("b", tolerance=0.01)] if several else CRITERIA["parity"]
    head, layer = nn.Linear(4, 1), ak.FairnessLayer(criteria, bounds=bounds)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head(features).squeeze(1)
        output = layer(scores, groups)
    assert output.dtype == scores.dtype == torch.bfloat16
    means = [float(output.detach().double()[groups.codes("a") == code].mean()) for code in range(5)]
    assert max(means) - min(means) <= 0.01 + 2 * torch.finfo(torch.bfloat16).eps
    output.float().square().sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_is_kept(dtype: torch.dtype) -> None:
    features, groups, _ = make_batch(1)
    scores = features[:, 0].to(dtype).requires_grad_()
    for layer in (ak.FairnessLayer(CRITERIA["parity"]), ak.FairnessLayer(CRITERIA["parity"], bounds=(-1, 1))):
        output = layer(scores, groups)
        assert output.dtype == dtype
        assert torch.autograd.grad(output.sum(), scores)[0].dtype == dtype


def test_a_warm_start_changes_the_steps_and_not_the_answer() -> None:
    features, groups, _ = make_batch(2, n=1000)
    criteria = [CRITERIA["parity"], ak.ECP("b", tolerance=0.001)]
    cold, warm = (ak.FairnessLayer(criteria, bounds=(-1, 1), warm_start=warm) for warm in (False, True))
    scores = features[:, 0].double()
    for step in range(4):
        moved = scores + 0.01 * step * features[:, 1].double()
        torch.testing.assert_close(warm(moved, groups), cold(moved, groups), atol=1e-12, rtol=0)
    first = ak.project(scores, groups, criteria, bounds=(-1, 1))
    again = ak.project(scores, groups, criteria, bounds=(-1, 1), warm_start=first)
    assert again.iterations == 0 < first.iterations
    torch.testing.assert_close(again.scores, first.scores, atol=1e-13, rtol=0)
    with pytest.raises(InputError, match="result.duals must have 1 multipliers"):
        ak.project(scores, groups, ak.ECP("b", tolerance=0.1), warm_start=first)


def test_a_module_with_the_layer_saves_loads_and_copies() -> None:
    import copy

    features, groups, _ = make_batch(3)
    layer = ak.FairnessLayer(CRITERIA["parity"])
    net = nn.ModuleList([nn.Linear(4, 1), layer])
    assert list(net.state_dict()) == ["0.weight", "0.bias"]
    clone = copy.deepcopy(net)
    torch.testing.assert_close(clone[1](features[:, 0], groups), layer(features[:, 0], groups))
