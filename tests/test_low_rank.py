"""Low-rank adaptation: what is learnt, and that nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import auditkit as ak
from auditkit.errors import InputError, ModelChangedError
from auditkit.tuning.low_rank import adapt_backbone

CRITERION = ak.ECP("sex", tolerance=0.02)


def make_problem() -> tuple[nn.Module, torch.Tensor, np.ndarray, ak.Groups]:
    """A backbone whose random features hide the label, so that a head alone does not find it."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3), nn.Dropout(0.5))
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, 800)
    inputs = torch.as_tensor(rng.normal(size=(800, 6)) + 0.5 * sex[:, None], dtype=torch.float32)
    labels = (rng.random(800) < torch.sigmoid(2 * inputs[:, 0] - 2 * inputs[:, 1]).numpy()).astype(float)
    return backbone.eval(), inputs, labels, ak.Groups({"sex": sex})


def test_only_the_named_weight_moves_and_it_helps() -> None:
    backbone, inputs, labels, groups = make_problem()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    config = ak.TuneConfig(epochs=60, learning_rate=0.02)
    found = adapt_backbone(backbone, inputs, labels, groups, CRITERION, layers=["3"], rank=2, config=config)
    assert found.moved == ("3.weight",)
    assert set(found.unmoved) == set(before) - {"3.weight"}
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    after = found.backbone.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in found.unmoved)
    change = found.backbone.state_dict()["3.weight"] - before["3.weight"]
    assert torch.linalg.matrix_rank(change.double(), rtol=1e-5) == 2
    with torch.no_grad():
        features = backbone(inputs)
        scores = found.head(found.backbone(inputs))
    alone = ak.tune_head(features, labels, groups, CRITERION, config=config)
    assert min(r.validation_loss for r in found.history) < min(r.validation_loss for r in alone.history)
    assert scores.shape == (800,)
    assert not any(parameter.requires_grad for parameter in found.backbone.parameters())


def test_persons_are_held_back_whole() -> None:
    backbone, inputs, labels, groups = make_problem()
    config = ak.TuneConfig(epochs=3, learning_rate=0.02)

    def losses(clusters: np.ndarray | None) -> list[float]:
        found = adapt_backbone(
            backbone, inputs, labels, groups, CRITERION, layers=["3"], rank=2, clusters=clusters, config=config
        )
        return [record.validation_loss for record in found.history]

    person = np.arange(800) // 4
    assert losses(person) == losses(person + 7) != losses(None)
    with pytest.raises(InputError, match="clusters must have 800 rows, as many as groups has; got 2"):
        losses(person[:2])


def test_at_the_start_the_adapted_backbone_is_the_frozen_one() -> None:
    backbone, inputs, labels, groups = make_problem()
    config = ak.TuneConfig(epochs=1, learning_rate=1e-12)
    found = adapt_backbone(backbone, inputs, labels, groups, CRITERION, layers=["0", "3"], rank=1, config=config)
    torch.testing.assert_close(found.backbone(inputs), backbone(inputs))


class _Counting(nn.Module):
    """A backbone that changes itself whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return self.linear(inputs)


def test_a_backbone_that_changes_itself_is_refused() -> None:
    _, inputs, labels, groups = make_problem()
    config = ak.TuneConfig(epochs=1)
    with pytest.raises(ModelChangedError, match=r"runs changed while only linear\.weight were adapted"):
        adapt_backbone(_Counting(), inputs, labels, groups, CRITERION, layers=["linear"], rank=1, config=config)


def test_wrong_requests_are_refused() -> None:
    problem = make_problem()
    with pytest.raises(
        InputError, match="layers names '1', which is no linear layer of the backbone; there are: '0', '3'"
    ):
        adapt_backbone(*problem, CRITERION, layers=["1"])
    with pytest.raises(InputError, match="layers is empty"):
        adapt_backbone(*problem, CRITERION, layers=[])
    with pytest.raises(InputError, match="rank must lie between 1 and 3 for layer '3'; got 4"):
        adapt_backbone(*problem, CRITERION, layers=["3"], rank=4)
    with pytest.raises(InputError, match="inputs must be floating-point with 800 rows"):
        adapt_backbone(problem[0], problem[1][:5], *problem[2:], CRITERION, layers=["3"], rank=1)
