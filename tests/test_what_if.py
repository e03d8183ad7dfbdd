"""The audit from score bins must be the audit of the rows, at every threshold, rule and tolerance on offer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import auditkit as ak
from auditkit.what_if import RULES, ScoreProfile


def make_rows(seed: int, *, rows: int = 400, logits: bool = False, digits: int = 6) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sex, region = rng.integers(0, 2, rows), rng.integers(0, 3, rows)
    scores = rng.normal(sex * 0.5, 1.0, rows)
    scores = np.round(scores if logits else 1 / (1 + np.exp(-scores)), digits)
    return {
        "scores": scores,
        "groups": ak.Groups({"sex": np.array(["f", "m"])[sex], "region": np.array(["n", "s", "w"])[region]}),
        "labels": rng.integers(0, 2, rows).astype(float),
        "weights": rng.uniform(0.5, 2.0, rows),
    }


CRITERIA = [ak.ECP(("sex", "region"), tolerance=0.05), ak.EER("sex", tolerance=0.1)]


def plain(outcome: ak.AuditResult) -> dict[str, Any]:
    content = outcome.to_dict()
    return {key: content[key] for key in ("verdict", "n_rows", "threshold", "decision_rule", "findings", "decisions")}


def assert_same(found: Any, expected: Any, place: str = "") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected:
            assert_same(found[key], expected[key], f"{place}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), place
        for k, one in enumerate(expected):
            assert_same(found[k], one, f"{place}[{k}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-9), place
    elif place.endswith(("reason", "rows_needed")) or ".rows_by_group" in place:
        return  # rounded from the figures that are compared
    else:
        assert found == expected, place


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000), rule=st.sampled_from([0.0, 0.35, 0.5, 1.0, *RULES]), weighted=st.booleans(),
    digits=st.sampled_from([1, 2, 6]),
)  # fmt: skip
def test_the_audit_from_bins_is_the_audit_of_the_rows(seed: int, rule: Any, weighted: bool, digits: int) -> None:
    rows = make_rows(seed, digits=digits)
    weights = rows["weights"] if weighted else None
    profile = ScoreProfile.from_rows(rows["scores"], rows["groups"], CRITERIA, labels=rows["labels"], weights=weights)
    expected = ak.audit(
        rows["scores"], rows["groups"], [one.with_tolerance(0.07) for one in CRITERIA], labels=rows["labels"],
        weights=weights, threshold=rule, confidence=0.9,
    )  # fmt: skip
    assert_same(plain(profile.evaluate(rule=rule, tolerance=0.07, confidence=0.9)), plain(expected))


def test_logits_and_a_threshold_of_the_plan() -> None:
    rows = make_rows(3, logits=True)
    profile = ScoreProfile.from_rows(
        rows["scores"], rows["groups"], CRITERIA, labels=rows["labels"], thresholds=[0.123]
    )
    expected = ak.audit(rows["scores"], rows["groups"], CRITERIA, labels=rows["labels"], threshold=0.123)
    assert_same(plain(profile.evaluate(rule=0.123)), plain(expected))
    assert profile.evaluate(rule=None).decisions == ()
    table = profile.decisions("median", ["sex"]).to_dict()
    assert_same(table, profile.evaluate(rule="median").decisions[1].to_dict())
    assert profile.describe_rule(0.123) == "a score of 0.123 or more"


@pytest.mark.parametrize("bars", [1, 8, 20, 40, 200])
@pytest.mark.parametrize("logits", [False, True])
def test_distributions_are_those_of_numpy(bars: int, logits: bool) -> None:
    """Also with a threshold of the plan outside of the range of the scores, and with scores at the ends of bars."""
    rows = make_rows(5, rows=2000, logits=logits, digits=2)
    scores = rows["scores"]
    profile = ScoreProfile.from_rows(scores, rows["groups"], CRITERIA, labels=rows["labels"], thresholds=[17.5])
    found = profile.distributions(["sex"], bars=bars)
    json.dumps(found)
    ends = profile.grid[:: 200 // bars]
    assert (ends[0], ends[-1]) == ((scores.min(), scores.max()) if logits else (0, 1))
    for group in found:
        chosen = np.asarray(rows["groups"].values("sex")) == group["group"]
        expected = np.histogram(scores[chosen], bins=ends)[0]
        assert group["count"] == chosen.sum()
        assert group["mean"] == pytest.approx(rows["scores"][chosen].mean())
        np.testing.assert_allclose([bar["share"] * group["count"] for bar in group["bars"]], expected, atol=1e-9)


def test_what_is_not_on_offer_is_refused() -> None:
    rows = make_rows(1)
    profile = ScoreProfile.from_rows(rows["scores"], rows["groups"], CRITERIA, labels=rows["labels"])
    with pytest.raises(ak.AuditkitError, match=r"threshold 0\.1234 is not on offer; the nearest one is 0\.125"):
        profile.evaluate(rule=0.1234)
    with pytest.raises(ak.AuditkitError, match="rule 'top 3%' is not on offer"):
        profile.evaluate(rule="top 3%")
    with pytest.raises(ak.AuditkitError, match="no criterion looks at 'age'"):
        profile.distributions(["age"])
    with pytest.raises(ak.AuditkitError, match="no criterion protects region"):
        profile.decisions(0.5, ["region"])
    with pytest.raises(ak.AuditkitError, match="confidence must"):
        profile.evaluate(rule=None, confidence=1.5)
    for bars in (0, -40, 30, 400):
        with pytest.raises(ak.AuditkitError, match=f"bars must divide 200.*; got {bars}"):
            profile.distributions(["sex"], bars=bars)


def test_the_profile_of_an_audit_file() -> None:
    config = ak.sample_config()
    profile = ak.profile_scores(config)
    data = ak.load_table(config.data_path, **config.table_options())
    scores = ak.load_model("sample:adult_mlp").scores(data.features).double().numpy()
    expected = ak.audit(scores, data.groups, config.build_criteria(), labels=data.labels, threshold="top 10%")
    assert_same(plain(profile.evaluate(rule="top 10%")), plain(expected))
