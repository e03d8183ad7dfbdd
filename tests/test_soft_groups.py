"""Inferred attributes: probabilities per group in place of known values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import auditkit as ak
from auditkit.errors import InputError

SHARES = pd.DataFrame({"a": [0.5, 1.0, 0.0, 0.25], "b": [0.5, 0.0, 1.0, 0.75]})


def test_gaps_are_differences_of_probability_weighted_means() -> None:
    scores, weights = np.array([0.1, 0.4, 0.9, 0.2]), np.array([1.0, 2.0, 1.0, 3.0])
    groups = ak.Groups(probabilities={"race": SHARES})
    result = ak.project(scores, groups, ak.ECP("race", tolerance=0.05), weights=weights)
    means = [np.average(result.scores, weights=weights * SHARES[name]) for name in ("a", "b")]
    assert abs(means[0] - means[1]) == pytest.approx(0.05, abs=1e-15)
    assert result.constraints == ("a − b",)


def test_probabilities_of_zero_and_one_are_known_groups(rng: np.random.Generator) -> None:
    codes, sex, scores = rng.integers(0, 3, 60), rng.choice(["f", "m"], 60), rng.random(60)
    labels = rng.integers(0, 2, 60)
    known = ak.Groups({"race": codes, "sex": sex})
    inferred = ak.Groups({"sex": sex}, probabilities={"race": np.eye(3)[codes]})
    for criteria in (
        [ak.ECP("race", tolerance=0.01)],
        [ak.ECP(("race", "sex"), tolerance=0.05)],
        [ak.equalized_odds("race", tolerance=0.02), ak.ECP("sex", tolerance=0.01)],
        [ak.EER("race", given="sex", tolerance=0.1)],
    ):
        for bounds in (None, (0.1, 0.9)):
            ours = ak.project(scores, inferred, criteria, labels=labels, bounds=bounds)
            theirs = ak.project(scores, known, criteria, labels=labels, bounds=bounds)
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-12)
            assert set(ours.constraints) == set(theirs.constraints)


def test_crossed_shares_multiply_and_add_up_to_one(rng: np.random.Generator) -> None:
    first, second = rng.dirichlet([1, 1], 10), rng.dirichlet([1, 1, 1], 10)
    groups = ak.Groups({"sex": list("fm") * 5}, probabilities={"race": first, "age": second})
    cells = groups.soft_cells(["age", "sex", "race"])
    assert cells.table.names == ("age", "sex", "race")
    shares = cells.membership.toarray()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    for cell, (age, sex, race) in enumerate(cells.table.codes):
        expected = second[:, age] * first[:, race] * (np.arange(10) % 2 == sex)
        np.testing.assert_allclose(shares[:, cell], expected, atol=1e-15)


def test_rows_can_be_taken(rng: np.random.Generator) -> None:
    shares = rng.dirichlet([1, 1], 10)
    part = ak.Groups(probabilities={"race": shares}).take([3, 1])
    assert part.n_rows == 2
    np.testing.assert_allclose(part.shares("race"), shares[[3, 1]], atol=1e-15)


def test_what_needs_known_groups_says_so() -> None:
    groups = ak.Groups(probabilities={"race": SHARES})
    assert groups.inferred == ("race",)
    assert "race (2, inferred)" in repr(groups)
    with pytest.raises(InputError, match="attribute 'race' is known by its probabilities only"):
        groups.codes("race")
    odds = ak.equalized_odds("race", tolerance=0.1)
    with pytest.raises(InputError, match=r"equalized odds\(race\) is conditioned on the label.*'race' is known by its"):
        ak.calibrate([0.1, 0.2, 0.3, 0.4], groups, odds, labels=[0, 1, 0, 1])


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([[0.5, 0.4]], r"probabilities of 'g' must add up to 1 in every row; row 0 adds up to 0.9"),
        ([[1.5, -0.5]], r"probabilities of 'g' hold NaN, infinite or negative values"),
        ([[float("nan"), 1.0]], r"probabilities of 'g' hold NaN, infinite or negative values"),
        ([0.5, 0.5], r"probabilities of 'g' must have shape \(n, g\).*\(2,\)"),
        ([["a", "b"]], r"probabilities of 'g' must be numbers"),
        (pd.DataFrame([[0.5, 0.5]], columns=["a", "a"]), r"probabilities of 'g' name a group twice"),
    ],
)
def test_wrong_probabilities_are_refused(shares: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ak.Groups(probabilities={"g": shares})


def test_names_and_lengths_must_agree() -> None:
    with pytest.raises(InputError, match="attribute 'g' is given by its values and by probabilities"):
        ak.Groups({"g": ["a"]}, probabilities={"g": [[1.0, 0.0]]})
    with pytest.raises(InputError, match="all attributes must have the same number of rows"):
        ak.Groups({"g": ["a", "b"]}, probabilities={"h": [[1.0, 0.0]]})
    with pytest.raises(InputError, match="groups needs at least one attribute"):
        ak.Groups()
    many = {name: np.full((2, 30), 1 / 30) for name in "abc"}
    with pytest.raises(InputError, match="makes 27000 combinations, over the 10000"):
        ak.Groups(probabilities=many).soft_cells(["a", "b", "c"])


def test_weights_of_zero_are_refused_with_probabilities() -> None:
    with pytest.raises(InputError, match="with probabilities or affine criteria, weights must be positive"):
        ak.project(
            [0.1, 0.2, 0.3, 0.4],
            ak.Groups(probabilities={"race": SHARES}),
            ak.ECP("race", tolerance=0.1),
            weights=[0, 1, 1, 1],
        )
