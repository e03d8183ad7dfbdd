"""Calibrated corrections: what they do to the rows they saw, to the population, and to rows nobody foresaw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import auditkit as ak
from auditkit.constraints import build_constraints, measure_gaps
from auditkit.errors import InfeasibleError, InputError, InsufficientDataError


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, ak.Groups]:
    """Rows of a population whose mean score, residual and odds all differ between the groups."""
    sex, race = rng.choice(["f", "m"], n), rng.choice(["a", "b"], n, p=[0.8, 0.2])
    labels = (rng.random(n) < 0.3 + 0.25 * (sex == "m")).astype(float)
    scores = np.clip(0.25 + 0.3 * labels + 0.12 * (sex == "m") - 0.05 * (race == "b") + rng.normal(0, 0.15, n), 0, 1)
    return scores, labels, ak.Groups({"sex": sex, "race": race})


CRITERIA = {
    "parity": [ak.ECP("sex", tolerance=0.05)],
    "marginal": [ak.ECP("sex", tolerance=0.05), ak.ECP("race", tolerance=0.05)],
    "intersectional": [ak.ECP(("sex", "race"), tolerance=0.05)],
    "residuals": [ak.EER("sex", tolerance=0.03)],
    "equalized odds": [ak.equalized_odds("sex", tolerance=0.05)],
    "equal opportunity": [ak.equal_opportunity("sex", tolerance=0.05)],
    "odds and residuals": [ak.equalized_odds("sex", tolerance=0.05), ak.EER("race", tolerance=0.1)],
}
every_criterion = pytest.mark.parametrize("criteria", CRITERIA.values(), ids=CRITERIA.keys())


@every_criterion
@pytest.mark.parametrize("bounds", [None, (0, 1)], ids=["unbounded", "bounded"])
def test_the_calibration_rows_satisfy_the_criteria(criteria: list, bounds: object, rng: np.random.Generator) -> None:
    scores, labels, groups = draw(rng, 4000)
    calibration = ak.calibrate(scores, groups, criteria, labels=labels, bounds=bounds)
    corrected = calibration.apply(scores, groups)
    assert any(measure_gaps(scores, groups, [c], labels=labels)[c.name] > c.tolerance for c in criteria)
    for criterion in criteria:
        gap = measure_gaps(corrected, groups, [criterion], labels=labels)[criterion.name]
        assert gap <= criterion.tolerance + 1e-10
    if bounds is not None:
        assert (corrected.min(), corrected.max()) >= (0, 0)
        assert corrected.max() <= 1


def test_without_label_strata_it_is_the_projection(rng: np.random.Generator) -> None:
    scores, _, groups = draw(rng, 1000)
    criteria = CRITERIA["marginal"]
    calibration = ak.calibrate(scores, groups, criteria, bounds=(0, 1))
    assert not calibration.slope.any()
    np.testing.assert_allclose(
        calibration.apply(scores, groups), ak.project(scores, groups, criteria, bounds=(0, 1)).scores, atol=1e-12
    )


@pytest.mark.parametrize("name", ["marginal", "residuals", "equalized odds"])
def test_the_population_gap_is_within_tolerance_as_often_as_promised(name: str) -> None:
    """The guarantee, by repetition: fresh calibration rows each time, gaps of a large population."""
    rng = np.random.default_rng(7)
    population = draw(rng, 200_000)
    exceeded, criteria = 0, CRITERIA[name]
    for _ in range(60):
        scores, labels, groups = draw(rng, 3000)
        calibration = ak.calibrate(scores, groups, criteria, labels=labels, confidence=0.95)
        assert calibration.is_guaranteed
        gaps = measure_gaps(
            calibration.apply(population[0], population[2]), population[2], criteria, labels=population[1]
        )
        exceeded += any(gaps[c.name] > c.tolerance for c in criteria)
    assert exceeded <= 8  # 5 % of 60 is 3; P(more than 8) < 1 %


def test_without_a_margin_the_population_gap_exceeds_the_tolerance_about_half_the_time() -> None:
    rng = np.random.default_rng(8)
    population = draw(rng, 200_000)
    exceeded = 0
    for _ in range(40):
        scores, _, groups = draw(rng, 3000)
        calibration = ak.calibrate(scores, groups, CRITERIA["parity"])
        corrected = calibration.apply(population[0], population[2])
        exceeded += measure_gaps(corrected, population[2], CRITERIA["parity"])["ECP(sex)"] > 0.05
    assert 10 <= exceeded <= 30


def test_affine_corrections_are_found_where_the_optimum_has_a_row_on_a_bound() -> None:
    """Nothing smaller that an independent optimiser finds nearby, on draws where the optimum is often at a kink."""
    criterion = ak.equalized_odds("g", tolerance=0.05)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        g = rng.integers(0, 2, 400)
        labels = (rng.random(400) < 0.3 + 0.2 * g).astype(float)
        mean = 0.15 + 0.4 * labels + 0.2 * g
        scores, groups = rng.beta(6 * mean, 6 * (1 - mean)), ak.Groups({"g": g})
        found = ak.calibrate(scores, groups, criterion, labels=labels, bounds=(0, 1))
        system = build_constraints(groups, [criterion], labels=labels)
        means = system.moment_matrix(None)

        def size(x: np.ndarray, z: np.ndarray = scores, g: np.ndarray = g) -> float:
            return float(((x[:2][g] + x[2:][g] * z) ** 2).sum())

        def slack(
            x: np.ndarray, z: np.ndarray = scores, g: np.ndarray = g, s: object = system, m: object = means
        ) -> np.ndarray:
            gaps = s.matrix @ (m @ np.clip(z + x[:2][g] + x[2:][g] * z, 0, 1))
            return np.concatenate([s.upper - gaps, gaps - s.lower])

        start = np.concatenate([found.shift, found.slope])
        assert slack(start).min() >= -1e-10
        better = minimize(
            size, start, method="SLSQP", constraints={"type": "ineq", "fun": slack}, options={"ftol": 1e-12}
        )
        if slack(better.x).min() >= -1e-9:
            assert size(start) <= better.fun * 1.001 + 1e-9


def test_too_few_rows_are_refused_with_the_number_needed(rng: np.random.Generator) -> None:
    scores, _, groups = draw(rng, 200)
    with pytest.raises(InsufficientDataError, match="200 rows cannot guarantee 1 of 1 gaps") as caught:
        ak.calibrate(scores, groups, ak.ECP("sex", tolerance=0.02), confidence=0.95)
    needed = caught.value.rows_needed["f − m"]
    scores, _, groups = draw(rng, int(2.3 * needed))
    assert ak.calibrate(scores, groups, ak.ECP("sex", tolerance=0.02), confidence=0.95).is_guaranteed


def test_what_cannot_be_guaranteed_can_be_equalized_and_says_so(rng: np.random.Generator) -> None:
    scores, _, groups = draw(rng, 400)
    criteria = [ak.ECP("sex", tolerance=0.2), ak.ECP("race", tolerance=0.01)]
    calibration = ak.calibrate(scores, groups, criteria, confidence=0.95, on_insufficient="equalize")
    sex, race = calibration.contrasts
    assert (sex.guaranteed, race.guaranteed) == (True, False)
    assert race.enforced_tolerance == 0
    assert race.rows_needed > 80
    assert measure_gaps(calibration.apply(scores, groups), groups, criteria)["ECP(race)"] <= 1e-12


def test_a_group_missing_from_the_calibration_rows_cannot_be_guaranteed() -> None:
    groups = ak.Groups({"sex": ["f", "m"] * 50}).take(np.arange(0, 100, 2))
    with pytest.raises(InsufficientDataError, match="no calibration rows for m"):
        ak.calibrate(np.linspace(0, 1, 50), groups, ak.ECP("sex", tolerance=0.1), confidence=0.95)
    three = ak.Groups({"sex": ["f", "m", "x"] * 200}).take(np.flatnonzero(np.arange(600) % 3))  # no f
    calibration = ak.calibrate(
        np.tile([0.4, 0.6], 200), three, ak.ECP("sex", tolerance=0.3), confidence=0.95, on_insufficient="equalize"
    )
    assert [(c.name, c.guaranteed) for c in calibration.contrasts] == [("f (no rows)", False), ("m − x", True)]
    assert not calibration.is_guaranteed


def test_rows_are_corrected_by_themselves(rng: np.random.Generator) -> None:
    scores, _, groups = draw(rng, 500)
    calibration = ak.calibrate(scores, groups, CRITERIA["marginal"], bounds=(0, 1))
    together = calibration.apply(scores, groups)
    alone = [calibration.apply(scores[[k]], groups.take([k]))[0] for k in range(20)]
    assert together[:20].tolist() == alone


def test_a_combination_never_seen_is_refused_or_kept(rng: np.random.Generator) -> None:
    scores, _, groups = draw(rng, 500)
    stranger = ak.Groups({"sex": ["x", "f"], "race": ["a", "a"]})
    strict = ak.calibrate(scores, groups, CRITERIA["intersectional"])
    with pytest.raises(InputError, match=r"1 combinations of \('sex', 'race'\).*first: \('x', 'a'\)"):
        strict.apply([0.5, 0.5], stranger)
    kept = ak.calibrate(scores, groups, CRITERIA["intersectional"], on_unseen="keep").apply([0.5, 0.5], stranger)
    assert kept[0] == 0.5 != kept[1]


def test_the_kind_of_the_scores_is_kept(rng: np.random.Generator) -> None:
    scores, _, groups = draw(rng, 100)
    calibration = ak.calibrate(scores, groups, CRITERIA["parity"])
    assert calibration.apply(torch.as_tensor(scores).float(), groups).dtype == torch.float32
    assert calibration.apply(scores.astype(np.float32), groups).dtype == np.float32


@every_criterion
def test_a_saved_calibration_is_the_same(criteria: list, rng: np.random.Generator, tmp_path: object) -> None:
    scores, labels, groups = draw(rng, 3000)
    calibration = ak.calibrate(
        scores, groups, criteria, labels=labels, bounds=(0, 1), confidence=0.9, on_insufficient="equalize"
    )
    calibration.save(tmp_path / "calibration.json")
    restored = ak.Calibration.load(tmp_path / "calibration.json")
    assert restored.to_dict() == calibration.to_dict()
    assert np.array_equal(restored.apply(scores, groups), calibration.apply(scores, groups))


@pytest.mark.parametrize("content", ["", "{}", '{"schema": "other"}', "[1, 2]"])
def test_a_file_that_is_no_calibration_is_refused(content: str, tmp_path: object) -> None:
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(InputError, match=r"holds no calibration of schema 'auditkit.calibration/1'"):
        ak.Calibration.load(tmp_path / "file.json")
    with pytest.raises(InputError, match="path cannot be read"):
        ak.Calibration.load(tmp_path / "missing.json")


@pytest.mark.parametrize("on_unseen", ["raise", "keep"])
@pytest.mark.parametrize("name", ["intersectional", "equalized odds"])
def test_onnxruntime_applies_the_same_corrections(
    name: str, on_unseen: str, rng: np.random.Generator, tmp_path: object
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    scores, labels, groups = draw(rng, 2000)
    calibration = ak.calibrate(scores, groups, CRITERIA[name], labels=labels, bounds=(0, None), on_unseen=on_unseen)
    calibration.to_onnx(tmp_path / "calibration.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "calibration.onnx")
    feed = {"scores": scores, **{column: groups.values(column) for column in calibration.columns}}
    np.testing.assert_allclose(session.run(None, feed)[0], calibration.apply(scores, groups), atol=1e-14)
    feed["sex"] = np.array(["x"] * 2000, dtype=object)
    unseen = session.run(None, feed)[0]
    assert np.isnan(unseen).all() if on_unseen == "raise" else np.array_equal(unseen, scores)


def test_a_correction_that_reverses_ranks_is_refused() -> None:
    # among the few f a high score goes with label 0, among the many m with label 1
    scores = np.concatenate([np.linspace(0, 1, 50), np.linspace(0, 1, 500)])
    labels = np.concatenate([scores[:50] < 0.5, scores[50:] > 0.5]).astype(float)
    groups = ak.Groups({"sex": ["f"] * 50 + ["m"] * 500})
    with pytest.raises(InfeasibleError, match="reverses the order of the scores of f"):
        ak.calibrate(scores, groups, ak.equalized_odds("sex", tolerance=0.01), labels=labels)


def test_bounds_per_row_make_no_sense_row_by_row(rng: np.random.Generator) -> None:
    scores, _, groups = draw(rng, 10)
    with pytest.raises(InputError, match="bounds must be two numbers here"):
        ak.calibrate(scores, groups, CRITERIA["parity"], bounds=(np.zeros(10), 1))
