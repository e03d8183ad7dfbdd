"""Projection of logits that adds the least log-loss, against CVXPY's exponential cone, finite differences and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.metrics import log_loss, roc_auc_score

import auditkit as ak
from auditkit.baselines import METHODS, FitContext, Sample
from auditkit.errors import InfeasibleError, InputError
from auditkit.projection import build_problem
from auditkit.tuning.config import LOGIT_BOUNDS

BOUNDS = (-4.0, 4.0)
CRITERIA = [ak.ECP("g", tolerance=0.05), ak.ECP("h", tolerance=0.2)]


def draw(seed: int, *, rows: int = 60, weighted: bool = False) -> tuple[np.ndarray, ak.Groups, np.ndarray | None]:
    rng = np.random.default_rng(seed)
    g, h = rng.permutation(np.arange(rows) % 3), rng.permutation(np.arange(rows) % 2)
    scores = 1.5 * rng.normal(size=rows) + rng.uniform(-1, 1, 3)[g] + rng.uniform(-1, 1) * h
    return scores, ak.Groups({"g": g, "h": h}), rng.uniform(0.5, 2, rows) if weighted else None


def mean_gaps(scores: np.ndarray, groups: ak.Groups, name: str, weights: np.ndarray | None = None) -> float:
    values = groups.values(name)
    means = [
        np.average(scores[values == v], weights=None if weights is None else weights[values == v])
        for v in np.unique(values)
    ]
    return float(max(means) - min(means))


def added_loss(scores: np.ndarray, values: np.ndarray, weights: np.ndarray) -> float:
    """Σ w KL(σ(z) ‖ σ(y)), written out."""
    p, q = expit(scores), expit(values)
    return float(weights @ (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_exponential_cone_program(seed: int) -> None:
    scores, groups, weights = draw(seed, weighted=seed % 2 == 1)
    found = ak.project(scores, groups, CRITERIA, bounds=BOUNDS, divergence="log_loss", weights=weights)
    w = np.ones(len(scores)) if weights is None else weights
    y = cp.Variable(len(scores))
    inside: list[Any] = [y >= BOUNDS[0], y <= BOUNDS[1]]
    for criterion, name in zip(CRITERIA, ("g", "h"), strict=True):
        codes = groups.codes(name)
        means = [(w * (codes == k)) @ y / w[codes == k].sum() for k in range(codes.max() + 1)]
        inside += [cp.abs(a - b) <= criterion.tolerance for a in means for b in means if a is not b]
    problem = cp.Problem(cp.Minimize(w @ (cp.logistic(y) - cp.multiply(expit(scores), y))), inside)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    assert y.value is not None
    for criterion, name in zip(CRITERIA, ("g", "h"), strict=True):
        assert mean_gaps(found.scores, groups, name, weights) <= criterion.tolerance + 1e-11
    np.testing.assert_allclose(found.scores, y.value, rtol=0, atol=2e-4)
    ours, oracle = added_loss(scores, found.scores, w), added_loss(scores, np.clip(y.value, *BOUNDS), w)
    assert ours <= oracle + 1e-8  # the cone solver stops a little off
    assert found.certificate.primal_objective == pytest.approx(ours, abs=1e-10)


@given(seed=st.integers(0, 10**6), width=st.floats(1.0, 8.0))
def test_what_comes_out_satisfies_the_criteria_bounds_and_optimality(seed: int, width: float) -> None:
    scores, groups, weights = draw(seed, weighted=True)
    found = ak.project(scores, groups, CRITERIA, bounds=(-width, width), divergence="log_loss", weights=weights)
    assert mean_gaps(found.scores, groups, "g", weights) <= 0.05 + 1e-11
    assert mean_gaps(found.scores, groups, "h", weights) <= 0.2 + 1e-11
    assert np.abs(found.scores).max() <= width
    assert found.certificate.stationarity <= 1e-9
    assert abs(found.certificate.duality_gap) <= 1e-9
    again = ak.verify_certificate(
        found, scores, groups, CRITERIA, bounds=(-width, width), divergence="log_loss", weights=weights
    )
    assert again == found.certificate


@given(seed=st.integers(0, 10**6))
def test_rows_of_a_cell_keep_their_order_and_fair_scores_stay(seed: int) -> None:
    scores, groups, _ = draw(seed)
    found = ak.project(scores, groups, CRITERIA, bounds=BOUNDS, divergence="log_loss").scores
    cell = groups.codes("g") * 2 + groups.codes("h")
    for k in range(6):
        order = np.argsort(scores[cell == k])
        assert (np.diff(found[cell == k][order]) >= -1e-12).all()
    twice = ak.project(found, groups, CRITERIA, bounds=BOUNDS, divergence="log_loss").scores
    np.testing.assert_allclose(twice, found, rtol=0, atol=1e-10)


def test_a_correction_moves_probabilities_by_the_same_within_a_cell() -> None:
    scores, groups, _ = draw(5)
    found = ak.project(scores, groups, CRITERIA, bounds=BOUNDS, divergence="log_loss").scores
    cell = groups.codes("g") * 2 + groups.codes("h")
    for k in range(6):
        rows = (cell == k) & (np.abs(found) < 3.999)
        moved = expit(found[rows]) - expit(scores[rows])
        assert np.ptp(moved) <= 1e-12


@pytest.mark.parametrize("weighted", [False, True])
def test_first_derivatives_equal_finite_differences(weighted: bool) -> None:
    scores, groups, weights = draw(7, rows=40, weighted=weighted)
    layer = ak.FairnessLayer(CRITERIA, bounds=(-2.5, 2.5), divergence="log_loss")

    def fair(z: torch.Tensor) -> torch.Tensor:
        return layer(z, groups, weights=weights)

    inputs = torch.as_tensor(scores).requires_grad_()
    assert (fair(inputs).abs() == 2.5).any()  # some rows are held
    assert torch.autograd.gradcheck(fair, inputs, eps=1e-6, atol=1e-6)
    reverse = torch.autograd.functional.jacobian(fair, inputs)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(fair)(inputs.detach()), reverse, rtol=0, atol=1e-12)
    fair(inputs).square().sum().backward()
    gradient = 2 * fair(inputs.detach())
    share = (gradient - reverse.T @ gradient).norm() / gradient.norm()
    assert layer.suppressed_share == pytest.approx(float(share))


@pytest.mark.parametrize(
    "derive",
    [
        lambda f, z: torch.autograd.grad(torch.autograd.grad(f(z), z, create_graph=True)[0].sum(), z),
        lambda f, z: torch.func.hessian(f)(z.detach()),
        lambda f, z: torch.func.jvp(torch.func.grad(f), (z.detach(),), (torch.ones_like(z),)),
    ],
)
@pytest.mark.parametrize("power", [1, 2])
def test_second_derivatives_are_refused_and_not_wrong(derive: Callable[..., Any], power: int) -> None:
    scores, groups, _ = draw(7, rows=40)
    layer = ak.FairnessLayer(CRITERIA, bounds=BOUNDS, divergence="log_loss")
    with pytest.raises(InputError, match="first derivatives only"):
        derive(lambda z: (layer(z, groups) ** power).sum(), torch.as_tensor(scores).requires_grad_())


def test_columns_inferred_groups_and_float32_take_it_too(rng: np.random.Generator) -> None:
    scores, groups, _ = draw(3)
    both = np.stack([scores, -scores], axis=1)
    found = ak.project(both, groups, CRITERIA, bounds=BOUNDS, divergence="log_loss").scores
    for k in range(2):
        one = ak.project(both[:, k], groups, CRITERIA, bounds=BOUNDS, divergence="log_loss").scores
        np.testing.assert_allclose(found[:, k], one, rtol=0, atol=1e-12)
    small = torch.as_tensor(scores, dtype=torch.float32)
    output = ak.FairnessLayer(CRITERIA, bounds=BOUNDS, divergence="log_loss", strict=True)(small, groups)
    assert output.dtype == torch.float32
    assert mean_gaps(output.double().numpy(), groups, "g") <= 0.05
    shares = rng.dirichlet(np.ones(2), len(scores))
    inferred = ak.Groups(probabilities={"race": shares})
    fair = ak.project(scores, inferred, ak.ECP("race", tolerance=0.01), bounds=BOUNDS, divergence="log_loss").scores
    means = shares.T @ fair / shares.sum(axis=0)
    assert abs(means[0] - means[1]) <= 0.01 + 1e-11


def test_residual_criteria_and_conflicts_are_handled() -> None:
    scores, groups, _ = draw(4)
    labels = (np.random.default_rng(4).random(len(scores)) < 0.5) * 1.0
    found = ak.project(
        scores, groups, ak.EER("g", tolerance=0.5), labels=labels, bounds=BOUNDS, divergence="log_loss"
    ).scores
    residuals = [np.mean((labels - found)[groups.codes("g") == k]) for k in range(3)]
    assert np.abs(residuals).max() <= 0.5 + 1e-11
    with pytest.raises(InfeasibleError, match="no scores satisfy"):
        ak.project(
            scores, groups, ak.EER("g", tolerance=0.01), labels=labels + 9, bounds=BOUNDS,
            divergence="log_loss",
        )  # fmt: skip


def test_more_of_the_order_of_rows_and_less_log_loss_is_lost_than_under_equal_shifts(rng: np.random.Generator) -> None:
    """Where the scores are the log-odds of the labels; and what stays with the order is the gap of decisions."""
    n = 20_000
    g = rng.integers(0, 2, n)
    scores = 2.0 * rng.normal(size=n) + 1.5 * g - 1.5
    labels, groups = rng.random(n) < expit(scores), ak.Groups({"g": g})
    parity = ak.ECP("g", tolerance=0.01)
    equal = ak.project(scores, groups, parity).scores
    ours = ak.project(scores, groups, parity, bounds=LOGIT_BOUNDS, divergence="log_loss").scores
    assert mean_gaps(ours, groups, "g") <= 0.01 + 1e-11
    assert roc_auc_score(labels, equal) + 0.01 < roc_auc_score(labels, ours) <= roc_auc_score(labels, scores)
    assert log_loss(labels, expit(ours)) < log_loss(labels, expit(equal)) - 0.01
    gap = {name: abs((y > 0)[g == 1].mean() - (y > 0)[g == 0].mean()) for name, y in (("e", equal), ("o", ours))}
    assert gap["o"] > gap["e"] + 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "kl"}, "divergence must be one of 'euclidean', 'log_loss'; got 'kl'"),
        ({"divergence": "log_loss"}, r"needs bounds=\(lower, upper\) for the logits"),
        ({"divergence": "log_loss", "bounds": (None, 4.0)}, r"needs bounds=\(lower, upper\) for the logits"),
        ({"divergence": "log_loss", "bounds": (-50.0, 4.0)}, "needs bounds between ±20"),
        ({"divergence": "log_loss", "bounds": BOUNDS, "solver": "osqp"}, "by solver='newton'"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    scores, groups, _ = draw(0)
    with pytest.raises(InputError, match=message):
        ak.project(scores, groups, CRITERIA, **options)
    with pytest.raises(InputError, match=message):
        ak.FairnessLayer(CRITERIA, **options)(torch.as_tensor(scores), groups)


def test_what_the_layer_cannot_do_by_log_loss_is_refused() -> None:
    scores, groups, _ = draw(0)
    layer = ak.FairnessLayer(CRITERIA[0], bounds=BOUNDS, divergence="log_loss")
    with pytest.raises(InputError, match="divergence='log_loss'"):
        layer(torch.as_tensor(scores), groups, tolerances=[0.1])
    with pytest.raises(InputError, match="prepare needs"):
        ak.FairnessLayer(CRITERIA[0], divergence="log_loss").prepare(groups)
    for changes in ({"score_space": "probability"}, {"classes": 3}, {"mode": "primal_dual"}):
        with pytest.raises(InputError, match="divergence 'log_loss' is for score_space 'logit'"):
            ak.TuneConfig(**{"score_space": "logit", "divergence": "log_loss", **changes})  # type: ignore[arg-type]


def test_the_problem_keeps_probabilities_and_its_scale() -> None:
    scores, groups, _ = draw(0)
    layer = ak.FairnessLayer(CRITERIA)
    system = layer.bind(groups).batch.systems[0]
    problem = build_problem(torch.as_tensor(scores), system, bounds=BOUNDS, divergence="log_loss")
    np.testing.assert_allclose(problem.scores.numpy(), expit(scores))
    assert problem.scale == 4.0
    assert problem.objective(torch.as_tensor(logit(expit(scores)))) == pytest.approx(0.0, abs=1e-12)


def _sample(rng: np.random.Generator, rows: int = 400) -> Sample:
    g = rng.integers(0, 2, rows)
    features = rng.normal(size=(rows, 3)) + 0.7 * g[:, None]
    scores = features @ np.array([1.0, 0.5, 0.0]) - 0.5
    return Sample(scores, (rng.random(rows) < expit(scores)) * 1.0, ak.Groups({"g": g}), features)


def test_heads_are_tuned_and_methods_compared_through_it(rng: np.random.Generator) -> None:
    tune, test = _sample(rng), _sample(rng)
    config = ak.TuneConfig(score_space="logit", epochs=30, learning_rate=0.05, divergence="log_loss")
    parity = ak.ECP("g", tolerance=0.01)
    context = FitContext(tune, tune, (parity,), config)
    affine = replace(context, config=ak.TuneConfig(score_space="logit", mode="affine"))  # of heads, not of scores
    assert METHODS["projection_log_loss"].fit(affine)(test).scores is not None
    for name in ("layer", "projection_log_loss", "layer_batched"):
        fair = METHODS[name].fit(context)(test).scores
        assert fair is not None
        assert np.abs(fair).max() <= LOGIT_BOUNDS[1]
        if name != "layer_batched":
            assert mean_gaps(fair, test.groups, "g") <= 0.01 + 1e-11
    expected = ak.project(test.scores, test.groups, parity, bounds=LOGIT_BOUNDS, divergence="log_loss").scores
    np.testing.assert_array_equal(METHODS["projection_log_loss"].fit(context)(test).scores, expected)
    chance = replace(context, config=ak.TuneConfig())
    with pytest.raises(InputError, match="score_space 'logit'"):
        METHODS["projection_log_loss"].fit(chance)


def test_training_goes_on_from_a_checkpoint_to_the_same_head(rng: np.random.Generator, tmp_path: Any) -> None:
    sample, parity = _sample(rng), ak.ECP("g", tolerance=0.01)
    config = ak.TuneConfig(score_space="logit", epochs=6, divergence="log_loss", patience=6)
    given = sample.features, sample.labels, sample.groups, parity
    whole = ak.tune_head(*given, config=config)
    place = tmp_path / "head.safetensors"
    ak.tune_head(*given, config=replace(config, epochs=3), checkpoint=place, checkpoint_every=1)
    resumed = ak.tune_head(*given, config=config, checkpoint=place)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(InputError, match="differs in: config"):
        ak.tune_head(*given, config=replace(config, divergence="euclidean"), checkpoint=place)
