"""Training through the affine correction that is deployed for criteria given the label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import auditkit as ak
from auditkit.errors import InputError
from auditkit.tuning.affine import AffineLoss
from auditkit.tuning.config import PROBABILITY_BOUNDS
from auditkit.tuning.rows import HeadRows, check_rows
from auditkit.tuning.training import make_loss

CRITERION = ak.equalized_odds("group", tolerance=0.02)


def make_rows(groups: int, n_rows: int = 400) -> tuple[np.ndarray, HeadRows]:
    """Scores and rows; the higher the group, the more the scores depend on the label."""
    rng = np.random.default_rng(0)
    group, labels = rng.integers(0, groups, n_rows), rng.integers(0, 2, n_rows).astype(float)
    scores = 1 / (1 + np.exp(-(rng.normal(0, 1.2, n_rows) + (1 + group) * (labels - 0.5) + 0.5 * group)))
    features = torch.as_tensor(np.column_stack([scores, rng.normal(size=n_rows)]))
    return scores, HeadRows(features, torch.as_tensor(labels), ak.Groups({"group": group}))


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("space", ["probability", "identity"])
def test_training_sees_what_is_deployed(groups: int, space: str) -> None:
    scores, rows = make_rows(groups)
    found = AffineLoss([CRITERION], ak.TuneConfig(score_space=space)).correct(torch.as_tensor(scores), rows)  # type: ignore[arg-type]
    bounds = PROBABILITY_BOUNDS if space == "probability" else None
    deployed = ak.calibrate(scores, rows.groups, CRITERION, labels=rows.labels, bounds=bounds)
    np.testing.assert_allclose(found.numpy(), deployed.apply(scores, rows.groups), atol=1e-9)


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("space", ["probability", "identity"])
def test_its_gradient_is_that_of_finite_differences(groups: int, space: str) -> None:
    values, rows = make_rows(groups)
    loss = AffineLoss([CRITERION], ak.TuneConfig(score_space=space))  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    upstream = torch.as_tensor(rng.normal(size=len(values)))
    scores = torch.as_tensor(values).requires_grad_()
    (slope,) = torch.autograd.grad(loss.correct(scores, rows), scores, upstream)
    assert not torch.allclose(slope, upstream, atol=1e-3)
    for _ in range(5):
        direction = torch.as_tensor(rng.normal(size=len(values)))
        ahead, behind = (loss.correct(scores.detach() + side * 1e-6 * direction, rows) for side in (1, -1))
        expected = float(upstream @ (ahead - behind)) / 2e-6
        assert float(slope @ direction) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_head_that_needs_no_correction_is_trained_for_its_loss_alone() -> None:
    values, rows = make_rows(2)
    loss = AffineLoss([CRITERION.with_tolerance(1.0)], ak.TuneConfig())
    scores = torch.as_tensor(values).clamp(*PROBABILITY_BOUNDS).requires_grad_()
    corrected = loss.correct(scores, rows)
    torch.testing.assert_close(corrected, scores)
    (slope,) = torch.autograd.grad(corrected.sum(), scores)
    torch.testing.assert_close(slope, torch.ones_like(slope))


def test_what_is_deployed_loses_less_than_through_the_layer() -> None:
    """The layer lets a head learn the group from a feature, since it takes the gap back label by label."""
    rng = np.random.default_rng(2)
    n_rows = 6000
    group = rng.integers(0, 2, n_rows)
    labels = (rng.random(n_rows) < np.where(group == 1, 0.9, 0.6)).astype(float)
    features = np.column_stack([labels + rng.normal(0, 1.0, n_rows), 3.0 * group + rng.normal(0, 0.3, n_rows)])
    groups, half = ak.Groups({"group": group}), np.arange(n_rows) < n_rows // 2
    losses = {}
    for mode in ("layer", "affine"):
        config = ak.TuneConfig(mode=mode, epochs=150, learning_rate=0.03)  # type: ignore[arg-type]
        head = ak.tune_head(features[half], labels[half], groups.take(half), CRITERION, config=config)
        scores, rest = head.predict(features), groups.take(~half)
        correction = ak.calibrate(
            scores[half], groups.take(half), CRITERION, labels=labels[half], bounds=PROBABILITY_BOUNDS
        )
        fair = np.clip(correction.apply(scores[~half], rest), *PROBABILITY_BOUNDS)
        losses[mode] = -np.log(np.where(labels[~half] == 1, fair, 1 - fair)).mean()
    assert losses["affine"] < losses["layer"] - 0.005


def test_going_on_from_a_checkpoint_equals_the_uninterrupted_training(tmp_path: Path) -> None:
    _, rows = make_rows(2)
    heads = []
    for epochs, place in ((6, None), (2, tmp_path / "tune"), (6, tmp_path / "tune")):
        config = ak.TuneConfig(mode="affine", epochs=epochs)
        heads.append(ak.tune_head(rows.features, rows.labels, rows.groups, CRITERION, config=config, checkpoint=place))
    assert torch.equal(heads[0].linear.weight, heads[2].linear.weight)
    assert heads[0].history == heads[2].history


def test_what_it_is_not_for_is_refused() -> None:
    _, rows = make_rows(2)
    with pytest.raises(InputError, match="mode 'affine' is for criteria given the label"):
        make_loss([ak.ECP("group", tolerance=0.02)], ak.TuneConfig(mode="affine"))
    with pytest.raises(InputError, match="mode 'affine' takes one score per row and the optimizer 'adamw'"):
        ak.TuneConfig(mode="affine", classes=3)
    groups = ak.Groups(probabilities={"group": np.full((400, 2), 0.5)})
    config = ak.TuneConfig(mode="affine")
    inferred = check_rows(rows.features, rows.labels, groups, config)
    with pytest.raises(InputError, match=r"mode 'affine' needs known attributes; \['group'\] are inferred"):
        AffineLoss([CRITERION], config).correct(rows.features[:, 0], inferred)
