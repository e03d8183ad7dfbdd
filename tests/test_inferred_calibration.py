"""Calibration where groups are known by their probabilities: expected corrections, and gaps that they weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import auditkit as ak
from auditkit.constraints import measure_gaps
from auditkit.errors import InputError, InsufficientDataError

CRITERIA = {
    "parity": [ak.ECP("race", tolerance=0.04)],
    "residuals": [ak.EER("race", tolerance=0.03)],
    "with a known attribute": [ak.ECP(("sex", "race"), tolerance=0.06)],
    "marginal": [ak.ECP("sex", tolerance=0.04), ak.ECP("race", tolerance=0.05)],
}
every_criterion = pytest.mark.parametrize("criteria", CRITERIA.values(), ids=CRITERIA.keys())


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, ak.Groups, np.ndarray]:
    """Rows whose score depends on the probability of a group alone; the group is drawn with that probability."""
    share = rng.beta(0.6, 0.9, n)
    race = (rng.random(n) < share).astype(int)
    labels = (rng.random(n) < 0.3 + 0.2 * share).astype(float)
    scores = np.clip(0.3 + 0.25 * share + 0.1 * labels + rng.normal(0, 0.12, n), 0, 1)
    sex = rng.choice(["f", "m"], n)
    return scores, labels, ak.Groups({"sex": sex}, probabilities={"race": np.column_stack([1 - share, share])}), race


@every_criterion
@pytest.mark.parametrize("bounds", [None, (0, 1)], ids=["unbounded", "bounded"])
def test_it_is_the_projection_row_by_row(criteria: list, bounds: object, rng: np.random.Generator) -> None:
    scores, labels, groups, _ = draw(rng, 1500)
    calibration = ak.calibrate(scores, groups, criteria, labels=labels, bounds=bounds)
    corrected = calibration.apply(scores, groups)
    raw = measure_gaps(scores, groups, criteria, labels=labels)
    assert any(raw[criterion.name] > criterion.tolerance for criterion in criteria)
    for criterion in criteria:
        gap = measure_gaps(corrected, groups, [criterion], labels=labels)[criterion.name]
        assert gap <= criterion.tolerance + 1e-9
    projected = ak.project(scores, groups, criteria, labels=labels, bounds=bounds).scores
    np.testing.assert_allclose(corrected, projected, atol=1e-9)
    alone = [calibration.apply(scores[[k]], groups.take([k]))[0] for k in range(10)]
    np.testing.assert_allclose(alone, corrected[:10], atol=1e-14)


def test_a_row_gets_the_expectation_of_the_corrections(rng: np.random.Generator) -> None:
    scores, _, groups, _ = draw(rng, 800)
    calibration = ak.calibrate(scores, groups, CRITERIA["parity"])
    assert calibration.inferred == ("race",)
    assert calibration.cells == ((0,), (1,))
    expected = scores + groups.shares("race") @ calibration.shift
    np.testing.assert_allclose(calibration.apply(scores, groups), expected, atol=1e-14)
    assert sum(calibration.counts) == pytest.approx(800)


def test_the_true_gap_is_within_tolerance_where_the_probabilities_say_it_all() -> None:
    """Groups drawn with their probabilities, and scores that depend on nothing else: both gaps are held."""
    rng = np.random.default_rng(5)
    scores, _, groups, race = draw(rng, 200_000)
    true, criterion = ak.Groups({"race": race}), ak.ECP("race", tolerance=0.05)
    exceeded = np.zeros(2)
    for _ in range(30):
        sample, _, shares, _ = draw(rng, 2500)
        calibration = ak.calibrate(sample, shares, criterion, confidence=0.95)
        assert calibration.is_guaranteed
        corrected = calibration.apply(scores, groups)
        exceeded += measure_gaps(corrected, groups, [criterion])["ECP(race)"] > 0.05
        exceeded[1] += measure_gaps(corrected, true, [criterion])["ECP(race)"] > 0.052  # its own sampling error
    assert exceeded[0] <= 5  # 5 % of 30 is 1.5; P(more than 5) < 1 %
    assert exceeded[1] <= 10


def test_the_true_gap_is_not_held_where_the_score_knows_more_than_the_probabilities() -> None:
    """Why the guarantee is about weighted gaps only: a score that moves with the group itself keeps its gap."""
    rng = np.random.default_rng(6)
    share = rng.beta(2, 2, 5000)
    race = (rng.random(5000) < share).astype(int)
    scores = 0.4 + 0.2 * race + rng.normal(0, 0.1, 5000)
    groups = ak.Groups(probabilities={"race": np.column_stack([1 - share, share])})
    calibration = ak.calibrate(scores, groups, ak.ECP("race", tolerance=0.02), confidence=0.95)
    corrected = calibration.apply(scores, groups)
    true = ak.Groups({"race": race})
    assert measure_gaps(corrected, groups, [ak.ECP("race", tolerance=0.02)])["ECP(race)"] <= 0.02
    assert measure_gaps(corrected, true, [ak.ECP("race", tolerance=0.02)])["ECP(race)"] > 0.1


def test_margins_are_those_of_the_audit_of_the_corrected_scores(rng: np.random.Generator) -> None:
    scores, _, groups, _ = draw(rng, 2000)
    criterion = ak.ECP("race", tolerance=0.05)
    calibration = ak.calibrate(scores, groups, criterion, confidence=0.95)
    audited = ak.audit(calibration.apply(scores, groups), groups, criterion)
    assert audited.verdict == "pass"
    low, high = audited.findings[0].interval
    assert calibration.contrasts[0].margin <= high - low
    with pytest.raises(InsufficientDataError, match="40 rows cannot guarantee 1 of 1 gaps") as caught:
        ak.calibrate(scores[:40], groups.take(np.arange(40)), criterion, confidence=0.95)
    assert 10 < caught.value.rows_needed["0 − 1"] < 200


def test_values_and_probabilities_are_not_mixed_up(rng: np.random.Generator) -> None:
    scores, labels, groups, race = draw(rng, 500)
    known = ak.Groups({"sex": groups.values("sex"), "race": race})
    by_share = ak.calibrate(scores, groups, CRITERIA["parity"])
    with pytest.raises(InputError, match="'race' comes as values, but the correction was calibrated on its prob"):
        by_share.apply(scores, known)
    by_value = ak.calibrate(scores, known, CRITERIA["parity"])
    with pytest.raises(InputError, match="'race' comes as probabilities, but the correction was calibrated on its v"):
        by_value.apply(scores, groups)
    with pytest.raises(InputError, match=r"equalized odds\(race\) is conditioned on the label.*its probabilities only"):
        ak.calibrate(scores, groups, ak.equalized_odds("race", tolerance=0.1), labels=labels)
    with pytest.raises(InputError, match=r"the corrections for inferred attributes \(race\) have no ONNX form"):
        by_share.to_onnx("never.onnx")


def test_a_group_never_seen_is_refused_or_its_share_left_alone(rng: np.random.Generator) -> None:
    scores, _, groups, _ = draw(rng, 500)
    stranger = ak.Groups(probabilities={"race": [[0.5, 0.0, 0.5], [0.0, 0.0, 1.0]]})
    with pytest.raises(InputError, match="combinations of .'race',. that the calibration rows did not"):
        ak.calibrate(scores, groups, CRITERIA["parity"]).apply([0.5, 0.5], stranger)
    kept = ak.calibrate(scores, groups, CRITERIA["parity"], on_unseen="keep")
    np.testing.assert_allclose(kept.apply([0.5, 0.5], stranger), [0.5 + 0.5 * kept.shift[0], 0.5], atol=1e-15)


def test_a_saved_calibration_is_the_same(rng: np.random.Generator, tmp_path: Path) -> None:
    scores, _, groups, _ = draw(rng, 1500)
    calibration = ak.calibrate(scores, groups, CRITERIA["marginal"], bounds=(0, 1), confidence=0.9)
    calibration.save(tmp_path / "calibration.json")
    restored = ak.Calibration.load(tmp_path / "calibration.json")
    assert restored.to_dict() == calibration.to_dict()
    np.testing.assert_array_equal(restored.apply(scores, groups), calibration.apply(scores, groups))
