"""The closed-form gradient of a head, against autograd on the same rows."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import auditkit as ak
from auditkit.heads import FairHead
from auditkit.tuning.gradients import find_gradient, loss_and_slope
from auditkit.tuning.losses import PlainLoss, ProjectedLoss, prediction_loss
from auditkit.tuning.primal_dual import PrimalDualLoss
from auditkit.tuning.rows import HeadRows

SPACES = ("probability", "logit", "identity")
CRITERIA = {
    "parity": (ak.ECP("sex", tolerance=0.02),),
    "odds": (ak.equalized_odds("sex", tolerance=0.02),),
    "both": (ak.ECP("sex", tolerance=0.02), ak.ECP("age", tolerance=0.03)),
}


def make_rows(space: str) -> HeadRows:
    rng = np.random.default_rng(0)
    sex, age = rng.integers(0, 2, 300), rng.integers(0, 3, 300)
    features = torch.as_tensor(rng.normal(3.0, 2.0, (300, 6)) + sex[:, None])
    labels = features[:, 0] - features[:, 1] + torch.as_tensor(rng.normal(0, 1, 300))
    if space != "identity":
        labels = (labels > 0).double()
    return HeadRows(features, labels, ak.Groups({"sex": sex, "age": age}))


def make_head(space: str, hidden: int | None, rows: HeadRows) -> FairHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = FairHead(6, hidden=hidden, score_space=space)  # type: ignore[arg-type]
        for parameter in head.parameters():  # the hidden layer starts at zero, which would hide its gradient
            torch.nn.init.normal_(parameter, std=0.5)
    head.get_buffer("mean").copy_(rows.features.mean(0))
    head.get_buffer("scale").copy_(rows.features.std(0))
    return head


KINDS = ("plain", "parity", "odds", "both", "primal_dual")


@pytest.mark.parametrize("hidden", [None, 5])
@pytest.mark.parametrize(
    ("space", "kind"),
    # equalized odds need labels of two classes
    [(space, kind) for space in SPACES for kind in KINDS if (space, kind) != ("identity", "odds")],
)
def test_it_is_what_autograd_finds(space: str, hidden: int | None, kind: str) -> None:
    config = ak.TuneConfig(score_space=space, hidden=hidden)  # type: ignore[arg-type]
    found: list[tuple[float, list[torch.Tensor], float | None]] = []
    for closed in (True, False):
        rows = make_rows(space)
        head = make_head(space, hidden, rows).train()
        loss: PlainLoss | ProjectedLoss
        if kind == "plain":
            loss = PlainLoss(config)
        elif kind == "primal_dual":
            loss = PrimalDualLoss(CRITERIA["parity"], config, rows)
            loss.pool.duals[:] = 0.01  # as after some steps, so that scores are moved
        else:
            loss = ProjectedLoss(CRITERIA[kind], config)
        if closed:
            gradient = find_gradient(head, loss, config)
            assert gradient is not None
            value, scores = gradient(rows)
            np.testing.assert_allclose(scores, head.predict(rows.features), rtol=1e-9)
        else:
            whole = loss(head, rows)
            whole.backward()
            value = float(whole.detach())
        slopes = [torch.clone(parameter.grad) for parameter in head.parameters() if parameter.grad is not None]
        found.append((value, slopes, getattr(loss, "suppressed_share", None)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert len(found[0][1]) == len(found[1][1]) == (2 if hidden is None else 6)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert (found[0][2] or 0.0) == pytest.approx(found[1][2] or 0.0, rel=1e-9)


@pytest.mark.parametrize("hidden", [None, 5])
@pytest.mark.parametrize("kind", ["plain", "parity", "odds", "both", "primal_dual"])
def test_validation_takes_the_loss_that_the_graph_does(kind: str, hidden: int | None) -> None:
    config, rows = ak.TuneConfig(hidden=hidden), make_rows("probability")
    head = make_head("probability", hidden, rows).eval()
    if kind == "plain":
        loss: PlainLoss | ProjectedLoss = PlainLoss(config)
    elif kind == "primal_dual":
        loss = PrimalDualLoss(CRITERIA["both"], config, rows)
        loss.pool.duals[:] = 0.01  # which evaluation, projecting, does not look at
    else:
        loss = ProjectedLoss(CRITERIA[kind], config)
    gradient = find_gradient(head, loss, config)
    assert gradient is not None
    value, scores = gradient.evaluate(rows)
    assert value == pytest.approx(float(loss(head, rows).detach()), rel=1e-12)
    np.testing.assert_allclose(scores, head.predict(rows.features), rtol=1e-12)


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize("space", SPACES)
def test_loss_and_slope_are_those_of_the_loss(space: str, dtype: type, rounding: float) -> None:
    config = ak.TuneConfig(score_space=space)  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    scores = np.r_[0.0, 5e-4, 1e-3, 1 - 1e-3, 1.0, rng.random(50)].astype(dtype)  # at the bounds and beyond them too
    labels = ((rng.random(55) < 0.5) * 1.0).astype(dtype)
    asked = torch.from_numpy(scores.copy()).requires_grad_()
    whole = prediction_loss(asked, torch.from_numpy(labels), config)
    whole.backward()
    value, slope = loss_and_slope(scores, labels, config)
    assert value == pytest.approx(float(whole.detach()), rel=rounding)
    assert asked.grad is not None
    assert slope.dtype == dtype
    np.testing.assert_allclose(slope, asked.grad.numpy(), rtol=10 * rounding, atol=rounding)


def test_what_has_no_closed_form_is_left_to_autograd() -> None:
    config, rows = ak.TuneConfig(), make_rows("probability")
    head = make_head("probability", None, rows)
    loss = PlainLoss(config)
    assert find_gradient(head, loss, config) is not None
    assert find_gradient(head, loss, ak.TuneConfig(optimizer="lbfgs")) is None
    assert find_gradient(head, lambda *_: torch.zeros(()), config) is None
    assert find_gradient(FairHead(6, outputs=3), loss, ak.TuneConfig(classes=3)) is None
    frozen = copy.deepcopy(head)
    frozen.linear.bias.requires_grad_(False)
    assert find_gradient(frozen, loss, config) is None
