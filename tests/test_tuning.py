"""Batches, modes, optimisers, checkpoints and sweeps of the training through the layer."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import torch

import auditkit as ak
from auditkit.constraints import build_constraints, measure_gaps
from auditkit.errors import InputError, SolverError
from auditkit.heads import check_features
from auditkit.progress import NullProgress
from auditkit.tuning import training
from auditkit.tuning.checkpoints import load_checkpoint, save_checkpoint
from auditkit.tuning.frontiers import sweep
from auditkit.tuning.losses import PlainLoss, ProjectedLoss
from auditkit.tuning.optimizers import FusedSteps
from auditkit.tuning.primal_dual import PooledState
from auditkit.tuning.rows import Batches, _cells, check_rows, spread_and_mean
from auditkit.tuning.training import train

ROOT = Path(__file__).parent.parent
CRITERION = ak.ECP("sex", tolerance=0.02)


def make_rows(n: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, ak.Groups]:
    rng = np.random.default_rng(seed)
    sex, race = rng.integers(0, 2, n), rng.integers(0, 3, n)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    features[:, 0] += sex
    features[:, 1] += race == 1
    labels = (rng.random(n) < 1 / (1 + np.exp(-features[:, 0] - features[:, 1] + 0.5))).astype(float)
    return features, labels, ak.Groups({"sex": sex, "race": race})


ROWS = make_rows()


def weights_of(head: ak.FairHead) -> np.ndarray:
    return torch.cat([parameter.detach().ravel() for parameter in head.parameters()]).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standardisation_is_that_of_torch_and_leaves_constant_columns_alone(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=40_000), rng.normal(50.0, 0.1, 40_000), np.full(40_000, 1000.1), np.full(40_000, 0.1)]
    features = torch.as_tensor(np.column_stack(columns)).to(dtype)
    features[0, 0] = 1e3  # the first row is nothing to rely on
    spread, mean = spread_and_mean(features)
    exact = torch.std_mean(features.double(), dim=0, unbiased=False)
    rounding = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(spread.double(), exact[0], rtol=rounding, atol=1e-10)
    torch.testing.assert_close(mean.double(), exact[1], rtol=rounding, atol=rounding)
    assert (spread[2:] == 0).all()


def test_a_start_does_not_hide_that_a_training_diverged() -> None:
    features, labels, groups = ROWS
    config = ak.TuneConfig(epochs=2, learning_rate=1e30, score_space="identity")
    rows = check_rows(features, labels, groups, config, start=labels)
    with pytest.raises(SolverError, match="training diverged: no epoch had a finite validation loss"):
        train(rows, PlainLoss(config), (), config, NullProgress())


def test_batches_have_the_proportions_of_all_rows_and_keep_their_composition() -> None:
    config = ak.TuneConfig(batch_size=150)
    rows = check_rows(*ROWS, config)
    batches, rng = Batches(rows, [ak.ECP(("sex", "race"), tolerance=0.1)], config), np.random.default_rng(0)
    cell = rows.groups.cells(("sex", "race")).index * 2 + rows.labels.numpy().astype(int)
    share = np.bincount(cell, minlength=6 * 2) / len(cell)
    first, second = [list(batches.draw(rng)) for _ in range(2)]
    for epoch in (first, second):
        assert np.array_equal(np.sort(np.concatenate([places for _, places in epoch])), np.arange(2000))
        for batch, places in epoch:
            counts = np.bincount(cell[places], minlength=len(share))
            assert np.abs(counts - share * len(places)).max() < 2
            assert torch.equal(batch.labels, rows.labels[torch.as_tensor(places)])
            assert torch.equal(batch.features, rows.features[torch.as_tensor(places)])
            for name in ("sex", "race"):
                assert np.array_equal(batch.groups.values(name), rows.groups.values(name)[places])
    assert not np.array_equal(first[0][1], second[0][1])
    assert all(a.groups is b.groups for (a, _), (b, _) in zip(first, second, strict=True))
    sizes = [len(places) for _, places in first]
    assert len(sizes) == 14
    assert max(sizes) - min(sizes) <= 1


def test_batches_of_one_composition_share_what_is_assembled() -> None:
    config = ak.TuneConfig(batch_size=8)
    rows = check_rows(*ROWS, config)
    batches, rng = Batches(rows, [CRITERION], config), np.random.default_rng(0)
    drawn = [batch for batch, _ in batches.draw(rng)]
    assert len(drawn) == 250
    assert len({id(batch.derived) for batch in drawn}) <= 5  # of four cells of sex and label
    assert len(batches.kept) <= 3  # of two of sex alone
    for batch in drawn:
        cell = batch.groups.codes("sex") * 2 + batch.labels.numpy().astype(int)
        assert (np.diff(cell) >= 0).all()


def test_cells_too_many_for_small_integers_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    groups = ak.Groups({"street": np.arange(400), "number": rng.permutation(400)})
    rows = check_rows(np.ones((400, 1)), rng.integers(0, 2, 400), groups, ak.TuneConfig())
    found = _cells(rows, ["street", "number"], classes=2)
    assert np.array_equal(found, np.arange(400) * 2 + rows.labels.numpy())
    few = _cells(rows, ["street"], classes=2)
    assert np.array_equal(few, groups.codes("street") * 2 + rows.labels.numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_steps_are_those_of_the_optimizer(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=dtype) for shape in ((1, 7), (1,))]
    one, other = ([torch.nn.Parameter(weight.clone()) for weight in start] for _ in range(2))
    plain, fused = (torch.optim.AdamW(weights, lr=0.03, weight_decay=0.1, fused=True) for weights in (one, other))
    step = FusedSteps(fused)
    for number in range(12):
        for first, second in zip(one, other, strict=True):
            first.grad = torch.randn(first.shape, generator=generator, dtype=dtype)
            second.grad = first.grad.clone()
        plain.step()
        step()
        assert all(map(torch.equal, one, other))
        if number == 5:
            fused.load_state_dict(copy.deepcopy(plain.state_dict()))  # as when a training is taken up
    states = plain.state_dict()["state"], fused.state_dict()["state"]
    assert all(torch.equal(states[0][k][name], states[1][k][name]) for k in (0, 1) for name in states[0][0])


def test_a_bound_batch_projects_and_explains_itself_as_groups_and_labels_do() -> None:
    criteria = [ak.equalized_odds("sex", tolerance=0.01), ak.EER("race", tolerance=0.02)]
    scores = torch.as_tensor(np.random.default_rng(1).random(2000)).requires_grad_()
    layer = ak.FairnessLayer(criteria, bounds=(0, 1))
    expected = layer(scores, ROWS[2], ROWS[1])
    found = layer(scores, layer.bind(ROWS[2], ROWS[1]))
    assert torch.equal(found, expected)
    duals = ak.project(scores.detach(), ROWS[2], criteria, labels=ROWS[1], bounds=(0, 1)).duals
    np.testing.assert_allclose(layer.duals, duals, atol=1e-9)
    with pytest.raises(InputError, match=r"scores must have shape \(n,\), for which the batch was bound; got"):
        layer(torch.zeros(2000, 2), layer.bind(ROWS[2], ROWS[1]))
    with pytest.raises(InputError, match="a bound batch holds its labels"):
        layer(scores, layer.bind(ROWS[2], ROWS[1]), ROWS[1])
    again = pickle.loads(pickle.dumps(layer))
    assert np.array_equal(again.duals, layer.duals)


@pytest.mark.parametrize("bounds", [None, (0.1, 0.9)])
def test_multipliers_of_the_short_path_are_those_of_the_general_one(bounds: tuple[float, float] | None) -> None:
    scores = torch.as_tensor(np.random.default_rng(1).random(2000) + 0.2 * ROWS[2].codes("sex"))
    layer = ak.FairnessLayer(CRITERION, bounds=bounds)
    assert layer.duals is None
    layer(scores, ROWS[2])
    result = ak.project(scores, ROWS[2], CRITERION, bounds=bounds)
    np.testing.assert_allclose(layer.duals, result.duals, rtol=1e-9)
    assert np.abs(layer.duals).max() > 1
    layer(scores, ROWS[2], tolerances=0.1)  # a path that leaves none: those of the pass before would be wrong
    assert layer.duals is None


def test_many_rows_within_bounds_settle() -> None:
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, 400_000)
    scores = torch.sigmoid(torch.as_tensor(rng.normal(size=400_000) + 0.5 * sex)).float()
    groups = ak.Groups({"sex": sex})
    result = ak.project(scores, groups, ak.ECP("sex", tolerance=1e-3), bounds=(1e-3, 1 - 1e-3))
    assert measure_gaps(result.scores.double(), groups, [ak.ECP("sex", tolerance=1e-3)])["ECP(sex)"] < 1e-3 + 1e-7


def test_history_holds_gap_loss_multipliers_and_suppressed_share() -> None:
    config = ak.TuneConfig(epochs=5, batch_size=400)
    head = ak.tune_head(*ROWS, [CRITERION, ak.ECP("race", tolerance=10.0)], config=config)
    last = head.history[-1]
    assert last.gap > 0.02
    assert last.multipliers["ECP(sex)"] > 0
    assert last.multipliers["ECP(race)"] == 0
    assert last.suppressed_share is not None
    assert 0 < last.suppressed_share < 1


def test_a_full_batch_head_is_the_optimum_that_cvxpy_finds() -> None:
    """In the space "identity" with a linear head and squared error the whole training is one convex problem."""
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, 300)
    features = np.column_stack([rng.normal(size=300) + sex, rng.normal(size=300)])
    target = features @ [1.0, 0.5] + rng.normal(size=300)
    groups = ak.Groups({"sex": sex})
    config = ak.TuneConfig(
        score_space="identity", optimizer="lbfgs", learning_rate=1.0, epochs=60, patience=60, weight_decay=0.0,
        validation_fraction=0.003,
    )  # fmt: skip
    criterion = ak.ECP("sex", tolerance=0.05)
    rows = check_rows(features, target, groups, config)
    loss = ProjectedLoss([criterion], config)
    head = train(rows, loss, [criterion], config, NullProgress())
    kept = np.sort(np.random.default_rng(0).permutation(300)[1:])
    x, y, g = features[kept], target[kept], sex[kept]
    w, b = cp.Variable(2), cp.Variable()
    z = x @ w + b
    # the projection of a linear head moves each group by a constant, so that the problem over both is the same minimum
    size = np.bincount(g)
    gap = cp.sum(z[g == 1]) / size[1] - cp.sum(z[g == 0]) / size[0]
    level = cp.Variable(2)
    fair = z + level[1] * g + level[0] * (1 - g)
    oracle = cp.Problem(
        cp.Minimize(cp.sum_squares(fair - y) / len(y)),
        [gap + level[1] - level[0] == 0.05, size[0] * level[0] + size[1] * level[1] == 0],
    )
    best = oracle.solve(solver="CLARABEL")
    assert min(record.loss for record in head.history) == pytest.approx(best, rel=1e-6)


def test_lbfgs_needs_fewer_epochs_than_adamw() -> None:
    quick = ak.TuneConfig(epochs=8, optimizer="lbfgs", learning_rate=1.0)
    slow = ak.TuneConfig(epochs=8)
    losses = [ak.tune_head(*ROWS, CRITERION, config=config).history[-1].loss for config in (quick, slow)]
    assert losses[0] < losses[1]


def test_single_precision_features_are_trained_on_as_they_are() -> None:
    features, labels, groups = ROWS
    config = ak.TuneConfig(epochs=20)
    single = ak.tune_head(features, labels, groups, CRITERION, config=config)
    double = ak.tune_head(features.astype(float), labels, groups, CRITERION, config=config)
    assert check_rows(features, labels, groups, config).features.dtype == torch.float32
    assert single.linear.weight.dtype == torch.float64
    np.testing.assert_allclose(single.predict(features), double.predict(features), atol=1e-4)
    far = features + np.float32(1e5)
    assert np.isfinite(ak.tune_head(far, labels, groups, CRITERION, config=config).predict(far)).all()


def test_finite_features_may_have_a_sum_that_is_not() -> None:
    features = np.full((4, 2), 3e38, dtype=np.float32)
    assert torch.equal(check_features(features, keep_single=True), torch.from_numpy(features))
    features[3, 1] = np.nan
    with pytest.raises(InputError, match="features hold NaN or infinite values"):
        check_features(features)


class TestPrimalDual:
    def test_multipliers_converge_to_those_of_the_projection_of_all_rows(self) -> None:
        rng = np.random.default_rng(0)
        scores = rng.random(2000) + 0.3 * ROWS[2].codes("sex")
        criteria = [CRITERION, ak.ECP("race", tolerance=0.01)]
        system = build_constraints(ROWS[2], criteria)
        pool = PooledState(system, bounds=None, dual_step=0.9)
        cell = system.index
        for _ in range(400):
            pool.observe(scores + pool.shift[cell], np.ones(2000), cell)
            pool.climb()
        expected = ak.project(scores, ROWS[2], criteria)
        np.testing.assert_allclose(scores + pool.shift[cell], expected.scores, atol=2e-3)

    def test_its_gradient_is_that_of_the_layer_on_all_rows(self) -> None:
        rng = np.random.default_rng(0)
        scores = torch.as_tensor(rng.random(2000) + 0.3 * ROWS[2].codes("sex")).requires_grad_()
        upstream = torch.as_tensor(rng.normal(size=2000))
        layer = ak.FairnessLayer(CRITERION)
        (expected,) = torch.autograd.grad(layer(scores, ROWS[2]), scores, upstream)
        system = build_constraints(ROWS[2], [CRITERION])
        pool = PooledState(system, bounds=None, dual_step=0.5)
        pool.duals = layer.duals / 2000
        pool.observe(scores.detach().numpy() + pool.shift[system.index], np.ones(2000), system.index)
        found = pool.pass_on(upstream.numpy(), np.ones(2000), system.index)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)
        assert pool.suppressed_share == pytest.approx(layer.suppressed_share or 0.0)

    def test_small_batches_reach_the_loss_of_all_rows_at_once(self) -> None:
        def best(**settings: object) -> float:
            config = ak.TuneConfig(**settings)  # type: ignore[arg-type]
            return min(record.validation_loss for record in ak.tune_head(*ROWS, CRITERION, config=config).history)

        whole = best(epochs=40, optimizer="lbfgs", learning_rate=1.0)
        assert best(epochs=30, mode="primal_dual", batch_size=16) == pytest.approx(whole, rel=0.01)

    def test_batches_that_lack_a_group_are_no_trouble(self) -> None:
        config = ak.TuneConfig(epochs=2, mode="primal_dual", batch_size=2)
        head = ak.tune_head(ROWS[0][:200], ROWS[1][:200], ROWS[2].take(np.arange(200)),
                            ak.equalized_odds(("sex", "race"), tolerance=0.05), config=config)  # fmt: skip
        assert np.isfinite(head.history[-1].loss)

    def test_inferred_attributes_are_refused(self) -> None:
        groups = ak.Groups(probabilities={"sex": np.full((2000, 2), 0.5)})
        config = ak.TuneConfig(mode="primal_dual", batch_size=100)
        with pytest.raises(InputError, match=r"needs known attributes; \['sex'\] are inferred"):
            ak.tune_head(ROWS[0], ROWS[1], groups, CRITERION, config=config)


@pytest.fixture
def epochs_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per epoch that any training runs."""
    numbers: list[int] = []
    run_epoch = training._Training.run_epoch

    def count(run: training._Training) -> None:
        numbers.append(len(run.history))
        run_epoch(run)

    monkeypatch.setattr(training._Training, "run_epoch", count)
    return numbers


MODES = {
    "adamw": {"batch_size": 300},
    "lbfgs": {"optimizer": "lbfgs", "learning_rate": 1.0},
    "primal_dual": {"mode": "primal_dual", "batch_size": 64},
}


@pytest.mark.parametrize("mode", MODES)
def test_going_on_from_a_checkpoint_equals_the_uninterrupted_training(
    tmp_path: Path, mode: str, epochs_run: list[int]
) -> None:
    criteria = [CRITERION, ak.ECP("race", tolerance=0.02)]
    place = tmp_path / "tune.safetensors"
    whole = ak.tune_head(*ROWS, criteria, config=ak.TuneConfig(epochs=7, **MODES[mode]))
    epochs_run.clear()
    for epochs in (2, 5, 7):
        config = ak.TuneConfig(epochs=epochs, **MODES[mode])
        head = ak.tune_head(*ROWS, criteria, config=config, checkpoint=place, checkpoint_every=1)
    assert epochs_run == list(range(7))  # none was run twice
    assert np.array_equal(weights_of(head), weights_of(whole))
    assert head.history == whole.history


PROGRAM = """
import sys
import auditkit as ak
from tests.test_tuning import KILLED, ROWS, CRITERION, MODES

config = ak.TuneConfig(**KILLED, **MODES[sys.argv[2]])
print("ready", flush=True)
ak.tune_head(*ROWS, [CRITERION], config=config, checkpoint=sys.argv[1], checkpoint_every=1)
"""
KILLED = {"epochs": 40, "patience": 40}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, mode: str) -> None:
    place = tmp_path / "tune.safetensors"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for kills_at in (3, 11, 25):
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(place), mode], cwd=ROOT, env=environment)
        while child.poll() is None:
            if place.exists() and len(load_checkpoint(place)["history"]) >= kills_at:
                os.kill(child.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        child.wait()
    config = ak.TuneConfig(**KILLED, **MODES[mode])
    resumed = ak.tune_head(*ROWS, [CRITERION], config=config, checkpoint=place)
    whole = ak.tune_head(*ROWS, [CRITERION], config=config)
    assert np.array_equal(weights_of(resumed), weights_of(whole))
    assert resumed.history == whole.history
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["tune.safetensors"]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "tune.safetensors"
    config = ak.TuneConfig(epochs=1)
    ak.tune_head(*ROWS, CRITERION, config=config, checkpoint=place)
    with pytest.raises(InputError, match="belongs to a training that differs in: rows; name another file"):
        ak.tune_head(ROWS[0] + 1, *ROWS[1:], CRITERION, config=config, checkpoint=place)
    with pytest.raises(InputError, match="differs in: criteria"):
        ak.tune_head(*ROWS, ak.ECP("race", tolerance=0.02), config=config, checkpoint=place)
    with pytest.raises(InputError, match="differs in: config"):
        ak.tune_head(*ROWS, CRITERION, config=ak.TuneConfig(epochs=1, hidden=2), checkpoint=place)
    place.write_bytes(place.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"tune\.safetensors cannot be read"):
        ak.tune_head(*ROWS, CRITERION, config=config, checkpoint=place)
    with pytest.raises(InputError, match="checkpoint_every must be at least 1 epoch; got 0"):
        ak.tune_head(*ROWS, CRITERION, config=config, checkpoint=place, checkpoint_every=0)


@pytest.mark.parametrize("missing", ["task", "head", "optimizer", "rng", "best", "history", "loss"])
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path: Path, missing: str) -> None:
    place = tmp_path / "tune.safetensors"
    config = ak.TuneConfig(epochs=1)
    ak.tune_head(*ROWS, CRITERION, config=config, checkpoint=place)
    save_checkpoint(place, {name: value for name, value in load_checkpoint(place).items() if name != missing})
    with pytest.raises(InputError, match=r"tune\.safetensors (is incomplete|does not say).*delete it to start anew"):
        ak.tune_head(*ROWS, CRITERION, config=ak.TuneConfig(epochs=2), checkpoint=place)


def test_a_checkpoint_whose_weights_do_not_fit_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "tune.safetensors"
    ak.tune_head(*ROWS, CRITERION, config=ak.TuneConfig(epochs=1), checkpoint=place)
    state = load_checkpoint(place)
    del state["head"]["linear.bias"]
    save_checkpoint(place, state)
    with pytest.raises(InputError, match=r"is incomplete or damaged \(RuntimeError: .*linear\.bias"):
        ak.tune_head(*ROWS, CRITERION, config=ak.TuneConfig(epochs=2), checkpoint=place)


def test_a_checkpoint_holds_any_tree_of_plain_values(tmp_path: Path) -> None:
    state = {"a": [torch.arange(3.0), None, {1: 0.1 + 0.2, "inf": float("inf")}], "b": 2**127 + 1, "c": True}
    save_checkpoint(tmp_path / "deep" / "x.safetensors", state)
    found = load_checkpoint(tmp_path / "deep" / "x.safetensors")
    assert torch.equal(found["a"][0], state["a"][0])  # type: ignore[index]
    assert found["a"][1:] == state["a"][1:]  # type: ignore[index]
    assert (found["b"], found["c"]) == (2**127 + 1, True)
    with pytest.raises(TypeError, match="a checkpoint cannot hold set"):
        save_checkpoint(tmp_path / "x.safetensors", {"a": {1}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]


class TestClasses:
    def test_every_column_satisfies_the_criterion(self) -> None:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 900)
        sex = (rng.random(900) < 0.3 + 0.2 * labels).astype(int)
        features = rng.normal(size=(900, 3)) + np.eye(3)[labels] * 1.5
        groups = ak.Groups({"sex": sex})
        config = ak.TuneConfig(classes=3, epochs=25, learning_rate=0.1)
        head = ak.tune_head(features, labels, groups, CRITERION, config=config)
        scores = head.predict(features)
        assert scores.shape == (900, 3)
        np.testing.assert_allclose(scores.sum(axis=1), 1)
        fair = ak.project(scores, groups, CRITERION, simplex=True).scores
        assert (fair.argmax(axis=1) == labels).mean() > 0.6
        for column in fair.T:
            assert measure_gaps(column, groups, [CRITERION])["ECP(sex)"] <= 0.02 + 1e-9
        assert head.history[0].multipliers["ECP(sex)"] > 0

    def test_in_the_space_of_logits_without_a_binding_constraint_it_is_multinomial_regression(self) -> None:
        from sklearn.linear_model import LogisticRegression

        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 600)
        features = rng.normal(size=(600, 2)) + np.eye(3)[labels][:, :2]
        config = ak.TuneConfig(classes=3, score_space="logit", optimizer="lbfgs", learning_rate=1.0, epochs=30,
                               patience=30, weight_decay=0.0, validation_fraction=0.0017)  # fmt: skip
        groups = ak.Groups({"g": np.zeros(600, dtype=int)})
        head = ak.tune_head(features, labels, groups, ak.ECP("g", tolerance=1.0), config=config)
        kept = np.sort(np.random.default_rng(0).permutation(600)[1:])
        peer = LogisticRegression(C=1e8, tol=1e-10, max_iter=1000).fit(features[kept], labels[kept])
        loss = -peer.predict_log_proba(features[kept])[np.arange(599), labels[kept]].mean()
        assert head.history[-1].loss == pytest.approx(loss, rel=1e-6)

    def test_labels_must_be_classes(self) -> None:
        with pytest.raises(InputError, match="labels must be classes 0 to 2, as classes=3 says; got 5"):
            ak.tune_head(ROWS[0], ROWS[1] * 5, ROWS[2], CRITERION, config=ak.TuneConfig(classes=3))

    def test_a_saved_head_of_several_classes_predicts_the_same(self, tmp_path: Path) -> None:
        head = ak.FairHead(4, outputs=3, hidden=2)
        head.save(tmp_path)
        assert np.array_equal(ak.FairHead.load(tmp_path).predict(ROWS[0]), head.predict(ROWS[0]))


class TestSweep:
    def test_the_frontier_satisfies_every_tolerance_and_loss_grows_as_it_shrinks(self) -> None:
        held_out = make_rows(seed=1)
        config = ak.TuneConfig(epochs=60, learning_rate=0.05)
        frontier = sweep(*ROWS, CRITERION, [0.02, 0.3, 0.1], held_out=held_out, config=config)
        assert [point.tolerance for point in frontier.points] == [0.3, 0.1, 0.02]
        for point in frontier.points:
            assert point.gap <= point.tolerance + 1e-9
            scores, criterion = point.head.predict(held_out[0]), CRITERION.with_tolerance(point.tolerance)
            fair = ak.project(scores, held_out[2], criterion, bounds=(1e-3, 1 - 1e-3)).scores
            for found, values in ((point.gap, fair), (point.head_gap, scores)):
                assert found == pytest.approx(measure_gaps(values, held_out[2], [criterion])["ECP(sex)"], abs=1e-12)
            assert point.quality == pytest.approx(((fair >= 0.5) == held_out[1]).mean())
        losses = [point.loss for point in frontier.points]
        assert losses == sorted(losses)
        assert json.loads(json.dumps(frontier.to_dict()))["points"][0]["tolerance"] == 0.3
        assert list(frontier.to_frame()["tolerance"]) == [0.3, 0.1, 0.02]

    def test_a_warm_start_begins_where_the_looser_tolerance_ended(self) -> None:
        config = ak.TuneConfig(epochs=60, learning_rate=0.05)
        frontier = sweep(*ROWS, CRITERION, [0.1, 0.09], held_out=ROWS, config=config)
        cold = ak.tune_head(*ROWS, CRITERION.with_tolerance(0.09), config=config)
        assert frontier.points[1].head.history[0].loss < cold.history[0].loss

    def test_a_sweep_starts_from_the_head_that_it_is_given(self) -> None:
        config = ak.TuneConfig(epochs=30, learning_rate=0.05)
        head = ak.tune_head(*ROWS, CRITERION.with_tolerance(0.1), config=config)
        one_more = ak.TuneConfig(epochs=1, learning_rate=1e-9)
        (point,) = sweep(*ROWS, CRITERION, [0.1], held_out=ROWS, config=one_more, initial=head).points
        np.testing.assert_allclose(point.head.predict(ROWS[0]), head.predict(ROWS[0]), atol=1e-6)
        with pytest.raises(InputError, match="initial must be a head of the form that config describes"):
            sweep(*ROWS, CRITERION, [0.1], held_out=ROWS, config=ak.TuneConfig(hidden=4), initial=head)

    def test_an_interrupted_sweep_goes_on(self, tmp_path: Path, epochs_run: list[int]) -> None:
        config, close = ak.TuneConfig(epochs=4), 0.1 + 1e-9
        whole = sweep(*ROWS, CRITERION, [0.2, close, 0.1], held_out=ROWS, config=config)
        epochs_run.clear()
        for tolerances in ([0.2], [0.2, close], [0.2, close, 0.1]):
            resumed = sweep(*ROWS, CRITERION, tolerances, held_out=ROWS, config=config, checkpoints=tmp_path)
        assert epochs_run == 3 * list(range(4))
        assert resumed.to_dict() == whole.to_dict()

    def test_every_head_is_anchored_to_the_frozen_model(self) -> None:
        scores = 1 / (1 + np.exp(-ROWS[0][:, 0]))
        config = ak.TuneConfig(epochs=2, optimizer="lbfgs", learning_rate=1.0, weight_decay=0.0, anchor=1e8)
        loss, rows = ProjectedLoss([CRITERION], config), check_rows(*ROWS, config, start=scores)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # from one start of fifteen, two epochs of L-BFGS do not arrive
            away = {name: value + 1.0 for name, value in ak.FairHead(4).state_dict().items()}
        head = train(rows, loss, [CRITERION], config, NullProgress(), initial=away)
        anchored = train(rows, loss, [CRITERION], config, NullProgress())
        np.testing.assert_allclose(weights_of(head), weights_of(anchored), atol=1e-3)

    def test_wrong_tolerances_are_refused(self) -> None:
        with pytest.raises(InputError, match="tolerances is empty"):
            sweep(*ROWS, CRITERION, [], held_out=ROWS)
        with pytest.raises(InputError, match="tolerances must be finite and ≥ 0"):
            sweep(*ROWS, CRITERION, [-1.0], held_out=ROWS)


def test_without_a_layer_training_is_plain() -> None:
    config = ak.TuneConfig(epochs=3)
    head = train(check_rows(*ROWS, config), PlainLoss(config), (), config, NullProgress())
    assert head.history[0].multipliers == {}
    assert head.history[0].suppressed_share is None
    assert head.history[0].gap == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer must be 'adamw' or 'lbfgs'; got 'sgd'"),
        ({"mode": "dual"}, "mode must be 'layer', 'primal_dual' or 'affine'; got 'dual'"),
        ({"classes": 1}, "classes must be at least 2; got 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0; got 0.0"),
        ({"classes": 3, "score_space": "identity"}, "is regression and has no classes"),
        ({"mode": "primal_dual", "optimizer": "lbfgs"}, "takes one score per row and the optimizer 'adamw'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ak.TuneConfig(**settings)
