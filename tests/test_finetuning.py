from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import auditkit as ak
from auditkit.constraints import measure_gaps
from auditkit.errors import InputError, SolverError


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, ak.Groups]:
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, 3000)
    labels = (rng.random(3000) < 0.3 + 0.2 * sex).astype(float)
    features = rng.normal(size=(3000, 6))
    features[:, 0] += 1.5 * labels
    features[:, 1] += 1.5 * sex
    return features * [1, 1, 50, 1, 1, 0] + 7, labels, ak.Groups({"sex": sex})  # scales differ, the last is constant


CRITERION = ak.ECP("sex", tolerance=0.02)
QUICK = ak.TuneConfig(epochs=60, learning_rate=0.05)


def log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    kept = np.clip(scores, 1e-3, 1 - 1e-3)
    return float(-(labels * np.log(kept) + (1 - labels) * np.log(1 - kept)).mean())


@pytest.mark.parametrize("hidden", [None, 8])
def test_the_head_learns_and_its_projection_satisfies_the_criterion(rows: tuple, hidden: int | None) -> None:
    features, labels, groups = rows
    config = ak.TuneConfig(epochs=60, learning_rate=0.05, hidden=hidden)
    head = ak.tune_head(features, labels, groups, CRITERION, config=config)
    projected = ak.project(head.predict(features), groups, CRITERION, bounds=(0, 1)).scores
    assert measure_gaps(projected, groups, [CRITERION])["ECP(sex)"] <= 0.02 + 1e-12
    assert log_loss(projected, labels) < 0.9 * log_loss(np.full(3000, labels.mean()), labels)


def test_training_through_the_layer_beats_projecting_afterwards(rows: tuple) -> None:
    features, labels, groups = rows
    losses = []
    for criterion in (CRITERION, ak.ECP("sex", tolerance=10.0)):  # the second never binds: an unconstrained head
        head = ak.tune_head(features, labels, groups, criterion, config=QUICK)
        projected = ak.project(head.predict(features), groups, CRITERION, bounds=(0, 1)).scores
        losses.append(log_loss(projected, labels))
    assert losses[0] < losses[1]


def test_the_best_epoch_is_kept_and_the_history_is_whole(rows: tuple) -> None:
    head = ak.tune_head(*rows, CRITERION, config=QUICK)
    losses = [record.validation_loss for record in head.history]
    assert head.best_epoch == int(np.argmin(losses))
    assert [record.epoch for record in head.history] == list(range(len(losses)))
    assert head.history[0].gap > 0


def test_the_same_seed_gives_the_same_head_and_another_does_not(rows: tuple) -> None:
    config = ak.TuneConfig(epochs=5, batch_size=500, seed=3)
    weights = [ak.tune_head(*rows, CRITERION, config=config).linear.weight for _ in range(2)]
    other = ak.tune_head(*rows, CRITERION, config=ak.TuneConfig(epochs=5, batch_size=500, seed=4)).linear.weight
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], other)


def test_the_random_state_of_the_caller_is_left_alone(rows: tuple) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    ak.tune_head(*rows, CRITERION, config=ak.TuneConfig(epochs=1))
    assert torch.equal(before, torch.get_rng_state())


def test_a_start_reproduces_the_frozen_scores_that_are_linear_in_the_features(rows: tuple) -> None:
    features, labels, groups = rows
    frozen = 1 / (1 + np.exp(-(features - 7) @ np.array([1.0, 0.5, 0.01, 0, 0, 0])))
    config = ak.TuneConfig(epochs=1, learning_rate=1e-12)
    head = ak.tune_head(features, labels, groups, CRITERION, start=frozen, config=config)
    np.testing.assert_allclose(head.predict(features), frozen, atol=1e-6)


def test_the_anchor_holds_the_head_at_its_start_and_less_so_with_more_rows(rows: tuple) -> None:
    features, labels, groups = rows
    frozen = 1 / (1 + np.exp(-(features - 7) @ np.array([0.2, 0.5, 0.01, 0, 0, 0])))
    moved = {}
    for anchor in (0.0, 40.0, 1e6):
        config = ak.TuneConfig(epochs=100, anchor=anchor)
        head = ak.tune_head(features, labels, groups, CRITERION, start=frozen, config=config)
        moved[anchor] = np.abs(head.predict(features) - frozen).mean()
    assert moved[1e6] < 0.01 < moved[40.0] <= moved[0.0]
    few = np.arange(150)
    small = ak.tune_head(features[few], labels[few], groups.take(few), CRITERION, start=frozen[few],
                         config=ak.TuneConfig(epochs=100)).predict(features)  # fmt: skip
    assert np.abs(small - frozen).mean() < moved[40.0]


def test_score_spaces(rows: tuple) -> None:
    features, labels, groups = rows
    logit = ak.tune_head(features, labels, groups, CRITERION, config=ak.TuneConfig(epochs=20, score_space="logit"))
    assert logit.predict(features).min() < 0
    regression = ak.TuneConfig(epochs=100, learning_rate=0.1, score_space="identity")
    target = features @ np.array([1.0, 0, 0, 0.5, 0, 0])
    fitted = ak.tune_head(features, target, groups, ak.EER("sex", tolerance=0.01), config=regression).predict(features)
    assert np.corrcoef(fitted, target)[0, 1] > 0.9


def test_calling_the_head_does_not_look_at_groups_and_folding_the_scale_changes_nothing(rows: tuple) -> None:
    features, labels, groups = rows
    head = ak.tune_head(features, labels, groups, CRITERION, config=ak.TuneConfig(epochs=3, hidden=4))
    standard = (torch.as_tensor(features) - head.mean) / head.scale
    by_hand = torch.sigmoid(head.linear(standard) + head.deep(standard)).squeeze(1)
    np.testing.assert_allclose(head.predict(features), by_hand.detach().numpy(), atol=1e-12)


def test_a_saved_head_predicts_the_same(rows: tuple, tmp_path: object) -> None:
    features = rows[0]
    head = ak.tune_head(*rows, CRITERION, config=ak.TuneConfig(epochs=2, hidden=3))
    head.save(tmp_path)
    assert np.array_equal(ak.FairHead.load(tmp_path).predict(features), head.predict(features))
    with pytest.raises(InputError, match=r"holds no head\.safetensors"):
        ak.FairHead.load(tmp_path / "nothing")


def test_a_head_of_an_earlier_version_is_read_and_replaced_whole(rows: tuple, tmp_path: Path) -> None:
    features = rows[0]
    old, new = (ak.tune_head(*rows, CRITERION, config=ak.TuneConfig(epochs=1, hidden=h)) for h in (2, 3))
    settings = {"n_features": old.n_features, "hidden": 2, "score_space": "probability"}
    (tmp_path / "head.json").write_text(json.dumps(settings))
    save_file(old.state_dict(), tmp_path / "head.safetensors")
    assert np.array_equal(ak.FairHead.load(tmp_path).predict(features), old.predict(features))
    new.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]
    (tmp_path / "head.json").write_text(json.dumps(settings))  # a kill before it was removed
    assert np.array_equal(ak.FairHead.load(tmp_path).predict(features), new.predict(features))


@pytest.mark.parametrize("settings", ["", "[]", '{"n_features": 4}', '{"n_features": 9, "hidden": null}'])
def test_a_head_that_cannot_be_read_is_refused(rows: tuple, tmp_path: Path, settings: str) -> None:
    head = ak.tune_head(*rows, CRITERION, config=ak.TuneConfig(epochs=1))
    save_file(head.state_dict(), tmp_path / "head.safetensors", metadata={"head": settings})
    with pytest.raises(InputError, match="holds a head that cannot be read"):
        ak.FairHead.load(tmp_path)
    head.save(tmp_path)
    place = tmp_path / "head.safetensors"
    place.write_bytes(place.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"holds a head that cannot be read.*save it again"):
        ak.FairHead.load(tmp_path)


def test_diverging_training_is_an_error(rows: tuple) -> None:
    config = ak.TuneConfig(epochs=3, learning_rate=1e300, score_space="identity")
    with pytest.raises(SolverError, match="training diverged in epoch [0-9]+: the head.s scores are no longer finite"):
        ak.tune_head(rows[0] * 1e100, rows[1], rows[2], ak.EER("sex", tolerance=1), config=config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"anchor": -1.0}, "anchor must be at least 0; got -1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, or None; got 0"),
        ({"score_space": "odds"}, "score_space must be 'probability', 'logit' or 'identity'; got 'odds'"),
        ({"validation_fraction": 1.0}, "validation_fraction must lie strictly between 0 and 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ak.TuneConfig(**settings)


@pytest.mark.usefixtures("without_shape_checks")
def test_wrong_rows_are_refused(rows: tuple) -> None:
    features, labels, groups = rows
    with pytest.raises(InputError, match=r"labels must be binary \(0 or 1\); got values 0, 2"):
        ak.tune_head(features, labels * 2, groups, CRITERION)
    with pytest.raises(InputError, match=r"features must have shape \(n, d\); got \(3000,\)"):
        ak.tune_head(labels, labels, groups, CRITERION)
    with pytest.raises(InputError, match="features must have 3000 rows"):
        ak.tune_head(features[:5], labels, groups, CRITERION)
    with pytest.raises(InputError, match="features hold NaN"):
        ak.tune_head(np.where(features > 7, np.nan, features), labels, groups, CRITERION)
