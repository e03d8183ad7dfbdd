"""Audits of models with several outputs and of inferred attributes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import auditkit as ak
from auditkit.errors import InputError
from auditkit.margins import split_outputs

RNG = np.random.default_rng(5)
N, K = 600, 3
SEX = RNG.choice(["f", "m"], N)
CLASSES = RNG.integers(0, K, N)
SCORES = RNG.dirichlet([2, 3, 4], N) * 0.8 + 0.2 * np.eye(K)[CLASSES]


def softened(values, sharpness=0.8):
    shares = np.where((values == "f")[:, None], [sharpness, 1 - sharpness], [1 - sharpness, sharpness])
    return pd.DataFrame(shares, columns=["f", "m"])


def test_every_output_is_audited_as_by_itself():
    criteria = [ak.ECP("sex", tolerance=0.05), ak.EER("sex", tolerance=0.05)]
    outcome = ak.audit(SCORES, ak.Groups({"sex": SEX}), criteria, labels=CLASSES, threshold=0.5)
    assert (outcome.n_rows, outcome.outputs) == (N, (0, 1, 2))
    for k in range(K):
        alone = ak.audit(
            SCORES[:, k], ak.Groups({"sex": SEX}), criteria, labels=(k == CLASSES).astype(float), threshold=0.5
        )
        for whole, single in zip(outcome.findings, alone.findings, strict=True):
            mine = [gap for gap in whole.gaps if gap.name.endswith(f"output={k}")]
            assert [g.gap for g in mine] == pytest.approx([g.gap for g in single.gaps], abs=1e-12)
            assert [g.standard_error for g in mine] == pytest.approx([g.standard_error for g in single.gaps], rel=1e-9)
        of_output = lambda tables: next(table for table in tables if table.output == k)  # noqa: B023, E731
        for name in ("decisions", "errors", "reliability"):
            found, expected = of_output(getattr(outcome, name)).to_dict(), getattr(alone, name)[0].to_dict()
            assert_close({**found, "output": None}, expected)


def assert_close(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_close(*pair)
    else:
        assert found == (pytest.approx(expected, rel=1e-7, abs=1e-12) if isinstance(expected, float) else expected)


def test_intervals_hold_over_all_outputs_at_once():
    criterion = ak.ECP("sex", tolerance=0.05)
    whole = ak.audit(SCORES, ak.Groups({"sex": SEX}), criterion).findings[0]
    alone = ak.audit(SCORES[:, 0], ak.Groups({"sex": SEX}), criterion).findings[0]
    first = next(gap for gap in whole.gaps if gap.name.endswith("output=0"))
    widths = [gap.interval[1] - gap.interval[0] for gap in (first, alone.gaps[0])]
    assert widths[0] > 1.05 * widths[1]
    assert whole.criterion == criterion


def test_simultaneous_coverage_over_outputs():
    """The true gap of every output is zero: at most about 5 % of the audits miss it anywhere."""
    rng, missed, runs = np.random.default_rng(0), 0, 400
    groups = ak.Groups({"g": np.repeat(["a", "b"], 40)})
    for _ in range(runs):
        scores = rng.dirichlet([1, 1, 2, 4], 80)
        gaps = ak.audit(scores, groups, ak.ECP("g", tolerance=0.1)).findings[0].gaps
        missed += any(not gap.interval[0] <= 0 <= gap.interval[1] for gap in gaps)
    assert missed / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_highest_output_is_the_decision():
    outcome = ak.audit(
        SCORES, ak.Groups({"sex": SEX}), ak.ECP("sex", tolerance=0.1), labels=CLASSES, threshold="highest"
    )
    chosen = SCORES.argmax(axis=1)
    for table in outcome.decisions:
        for group in table.groups:
            rows = group.group == SEX
            assert group.selection_rate == pytest.approx((chosen[rows] == table.output).mean(), abs=1e-12)
            of_class = rows & (table.output == CLASSES)
            assert group.true_positive_rate == pytest.approx((chosen[of_class] == table.output).mean(), abs=1e-12)
    assert outcome.decision_rule == "the output of the highest score"


def test_columns_name_the_outputs_and_labels_may_use_the_names():
    frame = pd.DataFrame(SCORES, columns=["cat", "dog", "bird"])
    groups, criterion = ak.Groups({"sex": SEX}), ak.EER("sex", tolerance=0.1)
    named = ak.audit(frame, groups, criterion, labels=np.array(frame.columns)[CLASSES])
    assert named.outputs == ("cat", "dog", "bird")
    by_code = ak.audit(SCORES, groups, criterion, labels=CLASSES)
    assert [g.gap for g in named.findings[0].gaps] == [g.gap for g in by_code.findings[0].gaps]


def test_equalized_odds_conditions_on_the_class():
    outcome = ak.audit(SCORES, ak.Groups({"sex": SEX}), ak.equalized_odds("sex", tolerance=0.1), labels=CLASSES)
    gap = next(g for g in outcome.findings[0].gaps if g.name == "f − m | label=2, output=1")
    means = [SCORES[(value == SEX) & (CLASSES == 2), 1].mean() for value in ("f", "m")]
    assert gap.gap == pytest.approx(means[0] - means[1], abs=1e-12)


def test_certain_probabilities_are_the_attribute_itself():
    z, y = SCORES[:, 0], (CLASSES == 0).astype(float)
    criteria = [ak.ECP("sex", tolerance=0.05), ak.EER("sex", tolerance=0.05)]
    known = ak.audit(z, ak.Groups({"sex": SEX}), criteria, labels=y)
    inferred = ak.audit(z, ak.Groups(probabilities={"sex": softened(SEX, 1.0)}), criteria, labels=y)
    assert inferred.inferred == ("sex",)
    assert known.inferred == ()
    assert inferred.n_rows == known.n_rows
    for one, other in zip(inferred.findings, known.findings, strict=True):
        assert [g.gap for g in one.gaps] == pytest.approx([g.gap for g in other.gaps], abs=1e-12)
        assert [g.standard_error for g in one.gaps] == pytest.approx([g.standard_error for g in other.gaps], rel=1e-9)
        assert [c.count for c in one.cells] == [c.count for c in other.cells]


def test_inferred_gaps_are_those_of_weighted_means_and_of_the_projection():
    z, shares = SCORES[:, 0], softened(SEX, 0.7).to_numpy()
    groups = ak.Groups(probabilities={"sex": softened(SEX, 0.7)})
    outcome = ak.audit(z, groups, ak.ECP("sex", tolerance=0.05))
    means = (shares * z[:, None]).sum(axis=0) / shares.sum(axis=0)
    assert outcome.findings[0].gap == pytest.approx(abs(means[0] - means[1]), abs=1e-12)
    fair = ak.project(z, groups, [ak.ECP("sex", tolerance=0.0)])
    assert ak.audit(fair.scores, groups, ak.ECP("sex", tolerance=0.05)).findings[0].gap == pytest.approx(0, abs=1e-12)


def test_standard_error_of_an_inferred_gap_is_that_of_simulation():
    rng = np.random.default_rng(1)
    gaps, errors = [], []
    for _ in range(400):
        p = rng.beta(1, 1, 200)
        z = np.where(rng.random(200) < p, 0.3, 0.6) + rng.normal(0, 0.1, 200)
        groups = ak.Groups(probabilities={"g": np.column_stack([p, 1 - p])})
        gap = ak.audit(z, groups, ak.ECP("g", tolerance=0.1)).findings[0].gaps[0]
        gaps.append(gap.gap)
        errors.append(gap.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(gaps), rel=0.12)


def test_chunks_of_rows_add_up(monkeypatch):
    groups = ak.Groups({"sex": SEX}, probabilities={"race": RNG.dirichlet([1, 2, 3], N)})
    criteria = [ak.ECP(("sex", "race"), tolerance=0.1)]
    whole = ak.take_moments(SCORES, groups, criteria, labels=CLASSES, threshold="highest")
    monkeypatch.setattr("auditkit.observations._CHUNK", 47)
    parts = ak.take_moments(SCORES, groups, criteria, labels=CLASSES, threshold="highest")
    np.testing.assert_allclose(parts.gram, whole.gram, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(parts.score2_w2, whole.score2_w2, rtol=1e-12)


def test_rows_of_one_person_stay_tied_within_an_output():
    clusters = np.arange(N) // 2
    moments = ak.take_moments(SCORES, ak.Groups({"sex": SEX}), [ak.ECP("sex", tolerance=0.1)], clusters=clusters)
    assert all(part.gram is not None for _, part in split_outputs(moments))
    alone = ak.take_moments(SCORES, ak.Groups({"sex": SEX}), [ak.ECP("sex", tolerance=0.1)])
    assert all(part.gram is None for _, part in split_outputs(alone))


def test_rows_that_are_not_independent_have_no_reliability_curve():
    z, y = SCORES[:, 0], (CLASSES == 0).astype(float)
    criterion = ak.ECP("sex", tolerance=0.1)
    assert ak.audit(z, ak.Groups({"sex": SEX}), criterion, labels=y).reliability
    assert not ak.audit(z, ak.Groups({"sex": SEX}), criterion, labels=y, clusters=np.arange(N) // 2).reliability
    assert not ak.audit(z, ak.Groups(probabilities={"sex": softened(SEX)}), criterion, labels=y).reliability


def test_subgroups_are_searched_in_every_output():
    scores = SCORES.copy()
    scores[SEX == "f", 1] += 0.3
    outcome = ak.audit(scores, ak.Groups({"sex": SEX}), ak.ECP("sex", tolerance=0.05))
    found = {(subgroup.values["sex"], subgroup.output) for subgroup in outcome.subgroups[0].found}
    assert found == {("f", 1), ("m", 1)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": CLASSES + 1}, "must be the classes 0 to 2"),
        ({"labels": np.zeros((N, 2))}, r"labels must have shape \(600, 3\)"),
        ({"scores": SCORES[:, :0]}, "at least one column"),
        ({"scores": SCORES[:5]}, "must have 600 rows"),
        ({"scores": SCORES[:, 0], "threshold": "highest"}, "needs scores of several outputs"),
    ],
)
def test_refusals(arguments, message):
    arguments = {"scores": SCORES, "labels": CLASSES, **arguments}
    scores = arguments.pop("scores")
    with pytest.raises(InputError, match=message):
        ak.audit(scores, ak.Groups({"sex": SEX}), ak.EER("sex", tolerance=0.1), **arguments)
