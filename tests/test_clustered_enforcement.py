"""Several rows per person in splits, tuning, calibrating and comparing; splits that no seed changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from scipy.sparse import csr_array

import auditkit as ak
from auditkit.baselines import Sample
from auditkit.cli import main
from auditkit.clusters import count_clusters, deal_folds, estimate_error
from auditkit.comparison.differences import Resampling
from auditkit.comparison.judging import MethodRun
from auditkit.deployment import calibrate_decisions
from auditkit.errors import InputError, InsufficientDataError
from auditkit.jobs import run_compare, run_tune
from auditkit.metrics import Metric, interval_of, measure_utility, subtract
from auditkit.reporting import verify_run
from auditkit.split_rules import SplitRule
from auditkit.tuning.cross_fitting import cross_fit
from auditkit.tuning.rows import check_rows, split_rows_for_validation

SHARES = {"tune": 0.4, "calibrate": 0.3, "test": 0.3}
ENFORCED = (ak.ECP("sex", tolerance=0.05),)
VISITS = 4


def draw(rng: np.random.Generator, people: int, visits: int = VISITS, *, spread: float = 0.15) -> Sample:
    """Visits of people whose scores and outcomes go together; the rows are sorted by person."""
    person = np.repeat(np.arange(people), visits)
    sex = rng.choice(["f", "m"], people)
    level = 0.42 + 0.12 * (sex == "m") + spread * rng.uniform(-1, 1, people)
    scores = np.clip(level[person] + 0.04 * rng.normal(size=len(person)), 0.01, 0.99)
    labels = (rng.random(people)[person] < scores).astype(float)
    features = np.column_stack([scores, rng.normal(size=(len(person), 2))])
    return Sample(scores, labels, ak.Groups({"sex": sex[person]}), features, person)


def persons(sample: Sample, rows: np.ndarray) -> set[int]:
    assert sample.clusters is not None
    return set(sample.clusters[rows].tolist())


# splits


@pytest.mark.parametrize("seed", range(3))
def test_chance_keeps_the_rows_of_a_person_together(rng: np.random.Generator, seed: int) -> None:
    sample = draw(rng, 200)
    parts = SplitRule().split(sample.n_rows, fractions=SHARES, seed=seed, clusters=sample.clusters)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(sample.n_rows))
    assert sum(len(persons(sample, rows)) for rows in parts.values()) == 200
    assert [len(rows) for rows in parts.values()] == pytest.approx([320, 240, 240], abs=VISITS)


def test_persons_are_stratified_by_what_does_not_change_between_their_rows(rng: np.random.Generator) -> None:
    sample = draw(rng, 400)
    sex = sample.groups.codes("sex")
    parts = SplitRule(stratify=sex).split(sample.n_rows, fractions=SHARES, seed=0, clusters=sample.clusters)
    assert sum(len(persons(sample, rows)) for rows in parts.values()) == 400
    for rows in parts.values():
        assert sex[rows].mean() == pytest.approx(sex.mean(), abs=0.02)
    visit = np.tile(np.arange(VISITS), 400)
    with pytest.raises(InputError, match=r"stratify gives the rows of '0' \(clusters\) several values"):
        SplitRule(stratify=visit).split(sample.n_rows, fractions=SHARES, seed=0, clusters=sample.clusters)


def test_groups_that_share_a_person_stay_together(rng: np.random.Generator) -> None:
    person = np.repeat(np.arange(300), 2)
    clinic = person // 3
    clinic[::60] += 1  # some persons are in two clinics
    parts = SplitRule("group", clinic).split(600, fractions=SHARES, seed=1, clusters=person)
    for values in (person, clinic):
        assert sum(len(set(values[rows])) for rows in parts.values()) == len(set(values))
    alone = SplitRule("group", clinic).split(600, fractions=SHARES, seed=1)
    assert sum(len(set(person[rows])) for rows in alone.values()) > 300


@pytest.mark.parametrize("by", ["time", "column"])
def test_a_fixed_split_heeds_no_seed(rng: np.random.Generator, by: str) -> None:
    values = np.arange(90) if by == "time" else rng.choice(list(SHARES), 90)
    rule = SplitRule(by, values)  # type: ignore[arg-type]
    first, second = (rule.split(90, fractions=SHARES, seed=seed) for seed in (0, 1))
    assert rule.is_fixed
    assert all(np.array_equal(first[name], second[name]) for name in SHARES)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"by": "day"}, "by must be 'random', 'group', 'time' or 'column'; got 'day'"),
        ({"by": "time"}, "by is 'time', which needs values, one per row"),
        ({"by": "random", "values": [1, 2]}, "by is 'random', which takes no values"),
        ({"by": "time", "values": [1, 2], "parts": {}}, "parts belongs to by='column' only"),
        ({"by": "time", "values": [1, 2], "stratify": [1, 2]}, "stratify belongs to by='random' only"),
    ],
)
def test_contradictory_rules_are_refused(rule: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SplitRule(**rule)


def test_rules_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="values must have 3 rows, as many as the data; got 2"):
        SplitRule("time", [1, 2]).split(3, fractions=SHARES, seed=0)


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        (np.arange(89), "clusters must have 90 rows, as many as groups has; got 89"),
        (np.where(np.arange(90) == 3, np.nan, 1.0), "clusters holds missing values; give every row the person"),
    ],
)
@pytest.mark.parametrize("rule", [SplitRule(), SplitRule("time", np.arange(90))])
def test_wrong_clusters_are_refused(rule: SplitRule, clusters: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rule.split(90, fractions=SHARES, seed=0, clusters=clusters)


# tuning


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_validation_rows_are_of_other_people(rng: np.random.Generator, dtype: type) -> None:
    sample = draw(rng, 100)
    assert sample.features is not None
    features, config = sample.features.astype(dtype), ak.TuneConfig()
    rows = check_rows(features, sample.labels, sample.groups, config, clusters=sample.clusters)
    training, held = split_rows_for_validation(rows, np.random.default_rng(0), config)
    assert training.clusters is not None
    assert held.clusters is not None
    assert not set(training.clusters) & set(held.clusters)
    assert len(held.clusters) == pytest.approx(0.2 * sample.n_rows, abs=VISITS)


def test_clusters_reach_the_training(rng: np.random.Generator) -> None:
    """float32 features far from zero are trained on in float64, as a copy of the rows, which keeps its persons."""
    sample = draw(rng, 60)
    assert sample.features is not None
    far = (sample.features + 1e5).astype(np.float32)
    config = ak.TuneConfig(epochs=3)

    def losses(clusters: np.ndarray | None) -> list[float]:
        head = ak.tune_head(far, sample.labels, sample.groups, ENFORCED, clusters=clusters, config=config)
        return [record.validation_loss for record in head.history]

    assert losses(sample.clusters) != losses(None)
    one = np.zeros(sample.n_rows, dtype=int)
    with pytest.raises(InputError, match="clusters names 1 person, too few to hold some back"):
        losses(one)
    with pytest.raises(InputError, match="clusters must have 240 rows, as many as groups has; got 3"):
        losses(one[:3])


def test_folds_keep_people_whole(rng: np.random.Generator) -> None:
    sample = draw(rng, 90)
    codes = np.unique(sample.clusters, return_inverse=True)[1]
    folds = deal_folds(sample.n_rows, folds=3, seed=0, clusters=codes)
    assert sum(len(persons(sample, np.flatnonzero(folds == fold))) for fold in range(3)) == 90
    bare = deal_folds(sample.n_rows, folds=3, seed=0)
    assert np.array_equal(bare, np.random.default_rng(0).permutation(sample.n_rows) % 3)


def test_cross_fitting_keeps_people_whole(rng: np.random.Generator) -> None:
    sample = draw(rng, 90)
    config = ak.TuneConfig(epochs=2, score_space="identity")
    found = cross_fit(sample.features, sample.labels, sample.groups, folds=4, clusters=sample.clusters, config=config)
    assert sum(len(persons(sample, np.flatnonzero(found.fold == fold))) for fold in range(4)) == 90
    with pytest.raises(InputError, match="folds must be from 2 to the number of persons, 90; got 91"):
        cross_fit(sample.features, sample.labels, sample.groups, folds=91, clusters=sample.clusters, config=config)


# calibrating


def repeated(sample: Sample, times: int) -> Sample:
    """Every row several times, as the rows of one person."""
    return sample.take(np.repeat(np.arange(sample.n_rows), times))


@pytest.mark.parametrize("times", [1, 3])
def test_equal_rows_of_a_person_promise_what_one_row_does(rng: np.random.Generator, times: int) -> None:
    single = draw(rng, 600, 1)
    many = repeated(single, times)
    criteria = [ak.ECP("sex", tolerance=0.1), ak.EER("sex", tolerance=0.2)]
    alone = ak.calibrate(single.scores, single.groups, criteria, labels=single.labels, confidence=0.95)
    found = ak.calibrate(
        many.scores, many.groups, criteria, labels=many.labels, clusters=many.clusters, confidence=0.95
    )
    for one, other in zip(alone.contrasts, found.contrasts, strict=True):
        assert other.margin == pytest.approx(one.margin, rel=1e-6)
        assert (one.counted, other.counted) == ("rows", "clusters")
    np.testing.assert_allclose(found.shift, alone.shift, atol=1e-9)
    naive = ak.calibrate(many.scores, many.groups, criteria, labels=many.labels, confidence=0.95)
    if times > 1:
        assert naive.contrasts[0].margin == pytest.approx(alone.contrasts[0].margin / np.sqrt(times), rel=0.05)


def test_what_is_needed_is_said_in_persons(rng: np.random.Generator) -> None:
    single = draw(rng, 200, 1)
    many = repeated(single, 5)
    criterion = ak.ECP("sex", tolerance=0.01)
    with pytest.raises(InsufficientDataError) as alone:
        ak.calibrate(single.scores, single.groups, criterion, confidence=0.95)
    with pytest.raises(
        InsufficientDataError, match="1000 rows of 200 persons cannot guarantee 1 of 1 gaps .* persons of the smaller"
    ) as caught:
        ak.calibrate(many.scores, many.groups, criterion, confidence=0.95, clusters=many.clusters)
    assert caught.value.rows_needed == alone.value.rows_needed
    kept = ak.calibrate(
        many.scores, many.groups, criterion, confidence=0.95, clusters=many.clusters, on_insufficient="equalize"
    )
    assert kept.contrasts[0].rows_needed == pytest.approx(alone.value.rows_needed["f − m"], rel=0.01)
    assert kept.to_dict()["contrasts"][0]["counted"] == "clusters"
    with pytest.raises(InsufficientDataError, match="persons of the smaller group needed"):
        calibrate_decisions(
            many.scores, many.groups, criterion, labels=many.labels, confidence=0.95, clusters=many.clusters
        )


def test_persons_are_counted_in_events_and_expected_in_inferred_ones() -> None:
    clusters = np.array([2, 0, 2, 1, 0])
    shares = csr_array(np.array([[1.0, 0, 1, 0, 0], [0, 1.0, 0, 0, 0], [0.3, 0.5, 0.3, 0.2, 0.5]]).T)
    events = np.array([[True, False, False], [True, True, False], [False, False, True]])
    np.testing.assert_allclose(count_clusters(clusters, shares, events), [1, 2, 1.0])


@pytest.mark.slow
def test_the_guarantee_holds_over_draws_of_persons_and_not_without_them() -> None:
    """The gap of the population is the calibrated one's less that of the rows; broken where it exceeds ε."""
    rng, tolerance, broken, runs = np.random.default_rng(4), 0.08, {True: 0, False: 0}, 250
    for _ in range(runs):
        sample = draw(rng, 150, 6)
        for clustered in broken:
            found = ak.calibrate(
                sample.scores, sample.groups, ak.ECP("sex", tolerance=tolerance), confidence=0.9,
                clusters=sample.clusters if clustered else None,
            )  # fmt: skip
            shift = dict(zip([cell[0] for cell in found.cells], found.shift, strict=True))
            broken[clustered] += abs(0.12 + shift["m"] - shift["f"]) > tolerance
    assert broken[True] / runs <= 0.1
    assert broken[False] / runs > 0.2


# metrics and differences


def test_errors_of_clusters_by_hand(rng: np.random.Generator) -> None:
    influence, clusters = rng.normal(size=60), np.repeat(np.arange(20), 3)
    error, freedom = estimate_error(influence, clusters)
    means = influence.reshape(20, 3).mean(axis=1)
    assert error == pytest.approx(means.std(ddof=1) / np.sqrt(20))
    assert freedom == pytest.approx(19)
    assert estimate_error(influence, np.arange(60))[0] == pytest.approx(estimate_error(influence, None)[0])


@pytest.mark.parametrize("name", ["accuracy", "auc"])
def test_differences_over_persons_cover_and_those_over_rows_do_not(name: str) -> None:
    """Two methods that are equally good in the population: one's scores are the other's with noise of its own."""
    rng, covered, runs = np.random.default_rng(9), {True: 0, False: 0}, 300
    for _ in range(runs):
        person = np.repeat(np.arange(80), 5)
        label = (rng.random(80) < 0.5).astype(float)[person]
        first, second = (
            1 / (1 + np.exp(-(label - 0.5 + rng.normal(size=80)[person] + 0.3 * rng.normal(size=400))))
            for _ in range(2)
        )
        for clustered in covered:
            made = [
                measure_utility(
                    label, scores=scores, decisions=(scores >= 0.5).astype(float),
                    clusters=person if clustered else None,
                )[name]
                for scores in (first, second)
            ]  # fmt: skip
            assert made[0] is not None
            assert made[1] is not None
            interval = interval_of([subtract(made[0], made[1])], confidence=0.95)
            covered[clustered] += interval.low <= 0 <= interval.high
    assert 0.92 <= covered[True] / runs <= 0.98
    assert covered[False] / runs < 0.75


def runs_of(method: str, influences: np.ndarray, clusters: np.ndarray | None) -> list[MethodRun]:
    return [
        MethodRun(method, seed, None, True, {"accuracy": Metric(float(values.mean()), values, clusters)})
        for seed, values in enumerate(influences)
    ]


def test_trainings_on_one_split_are_averaged_by_hand(rng: np.random.Generator) -> None:
    first, second = rng.normal(size=(2, 3, 40))
    found = Resampling(0.9, ratio=0.4, is_fixed=True).difference(
        runs_of("a", first, None), runs_of("b", second, None), "accuracy"
    )
    assert found is not None
    rows = (first - second).mean(axis=0).var(ddof=1) / 40
    trainings = (first - second).mean(axis=1).var(ddof=1) / 3
    freedom = (rows + trainings) ** 2 / (trainings**2 / 2)
    low, high = stats.t.interval(0.9, freedom, loc=(first - second).mean(), scale=np.sqrt(rows + trainings))
    assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize("clustered", [False, True])
def test_trainings_on_one_split_cover_and_a_resampled_interval_would_not(clustered: bool) -> None:
    """Differences of persons' rows and of trainings around zero; the splits that the other interval needs are one."""
    rng, covered, runs = np.random.default_rng(2), {True: 0, False: 0}, 400
    person = np.repeat(np.arange(60), 4 if clustered else 1)
    for _ in range(runs):
        rows = rng.normal(size=60)[person] + 0.3 * rng.normal(size=len(person))
        trainings = 0.08 * rng.normal(size=(4, 1))
        first = rows + trainings + 0.5 * rng.normal(size=(4, len(person)))
        mine = runs_of("a", first, person if clustered else None)
        other = runs_of("b", np.zeros_like(first), person if clustered else None)
        for fixed in covered:
            found = Resampling(0.95, ratio=3 / 7, is_fixed=fixed).difference(mine, other, "accuracy")
            assert found is not None
            covered[fixed] += found.low <= 0 <= found.high
    assert 0.925 <= covered[True] / runs <= 0.985
    assert covered[False] / runs < 0.9


# comparing


def test_equal_rows_of_a_person_compare_as_one_row_does(rng: np.random.Generator) -> None:
    """Interval by interval, on the same split: by a column, since chance would part other rows."""
    people = draw(rng, 300, 1)
    many, single = repeated(people, 4), replace(people, clusters=None)
    part = rng.choice(list(SHARES), 300, p=list(SHARES.values()))
    methods = ["projection", "recalibration_mean", "wasserstein_repair"]
    found, expected = (
        ak.compare(sample, ENFORCED, methods=methods, split=SplitRule("column", values)).to_dict()
        for sample, values in ((many, np.repeat(part, 4)), (single, part))
    )
    assert found["split"]["persons"] == expected["rows"]
    for mine, other in zip(found["methods"], expected["methods"], strict=True):
        assert mine["error"] == other["error"] == ""
        for key in ("accuracy", "brier", "auc"):
            one, two = mine["difference"][key], other["difference"][key]
            half, wanted = ((e["high"] - e["low"]) / 2 for e in (one, two))
            assert one["value"] == pytest.approx(two["value"], abs=2e-3)
            assert half == pytest.approx(wanted, rel=0.05, abs=1e-12)
        assert mine["gaps"][0]["interval"] == pytest.approx(other["gaps"][0]["interval"], abs=2e-3)
    assert "t interval of the per-row differences, summed over the rows of each person" in found["intervals"]
    assert "normal interval of the per-row differences" in expected["intervals"]


def test_seeds_on_a_split_by_time_are_trainings(rng: np.random.Generator) -> None:
    sample = draw(rng, 200)
    when = rng.permutation(sample.n_rows)
    config = ak.CompareConfig(tune=ak.TuneConfig(epochs=5, learning_rate=0.1))
    found = ak.compare(
        sample, ENFORCED, methods=["projection", "head"], seeds=(0, 1, 2), split=SplitRule("time", when), config=config
    )
    content = found.to_dict()
    assert content["split"]["by"] == "time"
    assert content["split"]["fixed"]
    assert "3 trainings" in content["intervals"]
    assert "Nadeau" not in content["intervals"]
    assert any("test rows have the same person as rows of tune" in words for words in content["split"]["shared"])
    projected = found.runs_of("projection")
    assert len({run.utility["accuracy"].value for run in projected if run.utility["accuracy"]}) == 1
    one = ak.compare(sample, ENFORCED, methods=["projection"], split=SplitRule("time", when))
    for key in ("accuracy", "auc"):  # a method that no training changes has the interval of one training
        several, alone = (c.difference("projection", "unconstrained", key) for c in (found, one))
        assert several is not None
        assert alone is not None
        assert (several.low, several.high) == pytest.approx((alone.low, alone.high))
    gap = next(m for m in content["methods"] if m["name"] == "unconstrained")["gaps"][0]
    audit = one.runs_of("unconstrained")[0].audit
    assert audit is not None
    assert gap["interval"] == pytest.approx(list(audit.findings[0].interval or ()))


def test_splits_by_chance_count_persons_in_the_correction(rng: np.random.Generator) -> None:
    found = ak.compare(draw(rng, 200), ENFORCED, methods=["projection"], seeds=(0, 1))
    persons = found.design.persons
    assert persons is not None
    assert sum(persons.values()) == 200
    assert found.resampling.ratio == persons["test"] / (persons["tune"] + persons["calibrate"])
    assert "corrected resampled t interval (Nadeau and Bengio, 2003)" in found.to_dict()["intervals"]
    assert found.to_dict()["intervals"].endswith("in persons")
    assert found.to_dict()["split"]["shared"] == []


def test_a_folder_belongs_to_its_persons_and_its_split(rng: np.random.Generator, tmp_path: Path) -> None:
    sample = draw(rng, 100)
    when = SplitRule("time", np.arange(sample.n_rows))
    ak.compare(sample, ENFORCED, methods=["projection"], split=when, folder=tmp_path)
    with pytest.raises(InputError, match="another comparison, which differs in split_sha256"):
        ak.compare(sample, ENFORCED, methods=["projection"], folder=tmp_path)
    with pytest.raises(InputError, match="another comparison, which differs in data_sha256"):
        ak.compare(replace(sample, clusters=None), ENFORCED, methods=["projection"], split=when, folder=tmp_path)


def test_one_person_among_the_test_rows_is_refused(rng: np.random.Generator) -> None:
    sample = draw(rng, 30)
    assert sample.clusters is not None
    part = np.where(sample.clusters < 20, "tune", np.where(sample.clusters < 29, "calibrate", "test"))
    with pytest.raises(InputError, match="clusters names one person for all test rows"):
        ak.compare(sample, ENFORCED, methods=["projection"], split=SplitRule("column", part))


# the audit file


@pytest.fixture
def visits(rng: np.random.Generator, tmp_path: Path) -> Path:
    sample = draw(rng, 300)
    assert sample.features is not None
    frame = pd.DataFrame({"sex": sample.groups.values("sex"), "score": sample.scores, "label": sample.labels})
    frame["person"] = [f"p{code}" for code in sample.clusters or ()] if sample.clusters is None else sample.clusters
    frame["x"], frame["day"] = sample.features[:, 1], rng.permutation(sample.n_rows)
    frame.to_csv(tmp_path / "visits.csv", index=False)
    return tmp_path


def write(folder: Path, **changes: object) -> Path:
    content = {
        "data": {
            "path": "visits.csv", "attributes": ["sex"], "label": "label", "score": "score", "features": ["x", "score"],
            "cluster": "person",
        },
        "criteria": [{"family": "ECP", "attributes": "sex", "tolerance": 0.05}],
        "tune": {"epochs": 5},
        "methods": ["calibrated", "projection"],
        **changes,
    }  # fmt: skip
    place = folder / "audit.yaml"
    place.write_text(yaml.safe_dump(content), encoding="utf-8")
    return place


def test_tuning_heeds_the_persons_of_the_audit_file(visits: Path) -> None:
    config = ak.load_config(write(visits, split={"leakage": "refuse"}))
    result = run_tune(config, out=visits / "run")
    record = json.loads((result.folder / "run.json").read_text())
    assert record["leakage"]["checked"] == ["cluster", "row"]
    assert record["leakage"]["found"] == []
    assert all(contrast["counted"] == "clusters" for contrast in record["calibration"]["contrasts"])
    frame = pd.read_csv(visits / "visits.csv")
    parts = SplitRule().split(len(frame), fractions=SHARES, seed=0, clusters=frame.person)
    test = frame.iloc[parts["test"]]
    expected = ak.audit(
        test.score, ak.Groups({"sex": test.sex}), config.build_criteria(), labels=test.label, threshold=0.5,
        clusters=test.person,
    )  # fmt: skip
    assert result.outcome.findings[0].interval == pytest.approx(expected.findings[0].interval)
    assert all(check.passed for check in verify_run(result.folder))
    report = (result.folder / "report.html").read_text()
    assert "the draw of the persons whose rows were calibrated on" in report
    assert "Persons needed in the smaller group" in report
    assert "Rows of one person are taken together, as one observation; what the split left to chance put them" in report


@pytest.mark.parametrize("by", ["random", "time"])
def test_comparing_heeds_persons_seeds_and_the_split(visits: Path, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    split = {"by": "time", "column": "day"} if by == "time" else {}
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(write(visits, split=split, seeds=[1, 2], frontier=[0.1])), "--out", str(visits / "run")])
    assert stopped.value.code in (0, 1, 3)
    printed = " ".join(capsys.readouterr().out.split())
    content = json.loads((visits / "run" / "comparison.json").read_text())
    assert content["seeds"] == [0, 1, 2]
    assert content["split"]["fixed"] == (by == "time")
    wanted = "3 trainings" if by == "time" else "over 3 splits: corrected resampled t"
    assert wanted in content["intervals"]
    assert content["intervals"][:40] in printed
    assert wanted in (visits / "run" / "report.html").read_text()
    assert [level["tolerance"] for level in content["frontier"]] == [0.1]
    assert all(check.passed for check in verify_run(visits / "run"))
    if by == "random":  # as in Python, on the same rows
        config = ak.load_config(visits / "audit.yaml")
        frame = pd.read_csv(visits / "visits.csv")
        sample = Sample(
            frame.score.to_numpy(),
            frame.label.to_numpy(float),
            ak.Groups({"sex": frame.sex}),
            clusters=frame.person.to_numpy(),
        )
        again = ak.compare(sample, config.build_criteria(), methods=["projection"], seeds=(0, 1, 2))
        found = again.difference("projection", "unconstrained", "accuracy")
        mine = next(m for m in content["methods"] if m["name"] == "projection")["difference"]["accuracy"]
        assert found is not None
        assert (mine["low"], mine["high"]) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("seeds", [[0, 1], [1, 1]])
def test_seeds_that_repeat_are_refused(visits: Path, seeds: list[int]) -> None:
    with pytest.raises(InputError, match="seeds must name further seeds, none twice and not seed itself"):
        ak.load_config(write(visits, seeds=seeds))


def test_persons_in_two_parts_are_reported_or_refused(visits: Path) -> None:
    split = {"by": "time", "column": "day", "leakage": "refuse"}
    with pytest.raises(InputError, match="test rows have the same person as rows of tune"):
        run_compare(ak.load_config(write(visits, split=split)), out=visits / "run")
