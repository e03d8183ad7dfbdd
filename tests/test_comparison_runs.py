"""Comparisons over seeds and tolerances: resumed, in parallel, with intervals that know that splits overlap."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import auditkit as ak
from auditkit.baselines import Sample, base
from auditkit.comparison import REFERENCE, MethodRun, running
from auditkit.comparison.differences import Resampling, find_winner
from auditkit.errors import InputError, SolverError
from auditkit.metrics import Metric

ENFORCED = (ak.ECP("sex", tolerance=0.05),)
CONFIG = ak.CompareConfig(methods=("layer", "projection"), tune=ak.TuneConfig(epochs=3, learning_rate=0.05))
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def dataset() -> Sample:
    rng = np.random.default_rng(1)
    sex = rng.choice(["f", "m"], 900)
    labels = (rng.random(900) < 0.35 + 0.2 * (sex == "m")).astype(float)
    features = rng.normal(size=(900, 3))
    features[:, 0] += 1.2 * labels
    features[:, 1] += 1.2 * (sex == "m")
    scores = 1 / (1 + np.exp(0.6 - 1.2 * features[:, 0] - 0.6 * features[:, 1]))
    return Sample(scores, labels, ak.Groups({"sex": sex}), features)


def text(comparison: ak.Comparison) -> str:
    return json.dumps(comparison.to_dict(), allow_nan=False)


@pytest.fixture(scope="module")
def uninterrupted(dataset: Sample) -> str:
    return text(ak.compare(dataset, ENFORCED, seeds=SEEDS, tolerances=[0.1], config=CONFIG))


def test_a_stopped_comparison_goes_on_to_the_same_result(
    dataset: Sample, uninterrupted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = running.predict_on_split, []

    def stop_in_the_second_split(*arguments: Any) -> Any:
        calls.append(arguments)
        for number, found in enumerate(real(*arguments)):
            if len(calls) == 2 and number == 1:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(running, "predict_on_split", stop_in_the_second_split)
    with pytest.raises(KeyboardInterrupt):
        ak.compare(dataset, ENFORCED, seeds=SEEDS, tolerances=[0.1], config=CONFIG, folder=tmp_path)
    done = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.npz"))
    assert len(done) == 4  # three methods of the first split, one of the second
    monkeypatch.setattr(running, "predict_on_split", real)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    resumed = ak.compare(dataset, ENFORCED, seeds=SEEDS, tolerances=[0.1], config=CONFIG, folder=tmp_path)
    assert text(resumed) == uninterrupted
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_finished_folder_is_read_and_nothing_is_fitted(
    dataset: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ak.compare(dataset, ENFORCED, seeds=(0, 1), config=CONFIG, folder=tmp_path)
    monkeypatch.setattr(running, "run_task", lambda *_: pytest.fail("a task ran"))
    assert text(ak.compare(dataset, ENFORCED, seeds=(0, 1), config=CONFIG, folder=tmp_path)) == text(first)


def test_folders_of_other_comparisons_and_broken_files_are_refused(dataset: Sample, tmp_path: Path) -> None:
    quick = ak.CompareConfig(methods=("projection",))
    ak.compare(dataset, ENFORCED, config=quick, folder=tmp_path)
    other = (ak.ECP("sex", tolerance=0.01),)
    with pytest.raises(InputError, match="folder holds the predictions of another comparison.*differs in criteria"):
        ak.compare(dataset, other, config=quick, folder=tmp_path)
    with pytest.raises(InputError, match="differs in data_sha256"):
        ak.compare(dataset.take(np.arange(800)), ENFORCED, config=quick, folder=tmp_path)
    (tmp_path / "seed-0" / "as-given" / "projection.npz").write_bytes(b"PK\x03\x04 not a zip file")
    with pytest.raises(InputError, match=r"cannot be read: .*projection\.npz.*delete it"):
        ak.compare(dataset, ENFORCED, config=quick, folder=tmp_path)
    (tmp_path / "request.json").write_text("{")
    with pytest.raises(InputError, match=r"holds a request\.json that is not JSON"):
        ak.compare(dataset, ENFORCED, config=quick, folder=tmp_path)


def test_stored_objects_are_not_unpickled(dataset: Sample, tmp_path: Path) -> None:
    quick = ak.CompareConfig(methods=("projection",))
    ak.compare(dataset, ENFORCED, config=quick, folder=tmp_path)
    hostile = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "seed-0" / "as-given" / "projection.npz", error=hostile)
    with pytest.raises(InputError, match="cannot be read"):
        ak.compare(dataset, ENFORCED, config=quick, folder=tmp_path)


def test_more_seeds_and_methods_may_be_added_to_a_folder(dataset: Sample, tmp_path: Path) -> None:
    ak.compare(dataset, ENFORCED, methods=["projection"], seeds=(0,), config=CONFIG, folder=tmp_path)
    grown = ak.compare(dataset, ENFORCED, seeds=(0, 1), config=CONFIG, folder=tmp_path)
    assert text(grown) == text(ak.compare(dataset, ENFORCED, seeds=(0, 1), config=CONFIG))


def test_scores_in_single_precision_are_resumed_to_the_same_result(dataset: Sample, tmp_path: Path) -> None:
    single = Sample(dataset.scores.astype(np.float32), dataset.labels, dataset.groups)
    quick = ak.CompareConfig(methods=("recalibration_isotonic", "wasserstein_repair"))
    first = ak.compare(single, ENFORCED, config=quick, folder=tmp_path)
    assert text(ak.compare(single, ENFORCED, config=quick, folder=tmp_path)) == text(first)


def test_the_head_is_tuned_and_calibrated_once_and_the_data_hashed_once(
    dataset: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def count(module: Any, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **named: [calls.append(name), real(*given, **named)][1])

    count(base, "tune_head")
    count(base, "calibrate")
    count(running, "describe_request")
    methods = ["layer", "layer_batched", "head", "calibrated"]
    ak.compare(dataset, ENFORCED, methods=methods, seeds=(0, 1), config=CONFIG, folder=tmp_path)
    assert sorted(calls) == ["calibrate"] * 2 + ["describe_request"] + ["tune_head"] * 2


@pytest.mark.slow
def test_processes_give_the_result_of_one(dataset: Sample, uninterrupted: str, tmp_path: Path) -> None:
    found = ak.compare(
        dataset, ENFORCED, seeds=SEEDS, tolerances=[0.1], config=CONFIG, folder=tmp_path, workers=2
    )  # fmt: skip
    assert text(found) == uninterrupted


def test_methods_are_spread_over_processes_with_the_shared_head_in_one() -> None:
    methods = ("unconstrained", "layer", "projection", "head")
    assert list(running._chunk(methods, workers=4, splits=1)) == [
        ("layer", "head"),
        ("unconstrained",),
        ("projection",),
    ]
    assert list(running._chunk(methods, workers=2, splits=3)) == [methods]
    assert list(running._chunk((), workers=1, splits=1)) == []


def test_the_frontier_holds_every_tolerance(dataset: Sample) -> None:
    found = ak.compare(dataset, ENFORCED, methods=["projection"], seeds=(0, 1), tolerances=[0.02, 0.1]).to_dict()
    assert [level["tolerance"] for level in found["frontier"]] == [0.02, 0.1]
    for level in found["frontier"]:
        gaps = {method["name"]: method["score_gaps"][0]["gap"] for method in level["methods"]}
        assert gaps["projection"] == pytest.approx(level["tolerance"], abs=1e-9)
        assert gaps[REFERENCE] > 0.1
        assert all(method["decision_gaps"] for method in level["methods"])


def test_the_reference_may_be_trained_on_every_split(dataset: Sample) -> None:
    bare = Sample(np.zeros(dataset.n_rows), dataset.labels, dataset.groups, dataset.features)
    config = ak.CompareConfig(
        methods=("projection", "head"), tune=ak.TuneConfig(epochs=60, learning_rate=0.1), train_reference=True
    )
    found = ak.compare(bare, ENFORCED, config=config).to_dict()["methods"]
    assert [method["error"] for method in found] == ["", "", ""]
    assert found[0]["utility"]["auc"]["value"] > 0.7


def test_regressions_are_compared_by_their_errors(dataset: Sample) -> None:
    wage = dataset.labels + 0.1 * np.asarray(dataset.features)[:, 0]
    sample = Sample(dataset.scores, wage, dataset.groups, dataset.features)
    config = ak.CompareConfig(
        methods=("projection",), threshold=None, tune=ak.TuneConfig(score_space="identity"), bounds=(-2.0, 3.0)
    )
    run = ak.compare(sample, [ak.EER("sex", tolerance=1e-4)], config=config).runs_of("projection")[0]
    assert run.error == ""
    assert run.score_gaps["EER(sex)"] <= 1e-4 + 1e-12
    assert run.decision_gaps == {}
    rows = ak.split_rows(900, fractions={"tune": 0.4, "calibrate": 0.3, "test": 0.3}, seed=0)["test"]
    assert run.prediction is not None
    expected = np.mean((np.asarray(run.prediction.scores) - wage[rows]) ** 2)
    assert run.utility["mse"] is not None
    assert run.utility["mse"].value == pytest.approx(expected)


def test_the_interval_over_splits_is_the_corrected_resampled_t() -> None:
    values = [0.01, 0.03, 0.02, 0.05, 0.015]
    found = Resampling(0.9, ratio=0.25).pool(values)
    error = np.sqrt((1 / 5 + 0.25) * np.var(values, ddof=1))
    low, high = stats.t.interval(0.9, 4, loc=np.mean(values), scale=error)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_the_corrected_interval_covers_where_the_plain_one_does_not() -> None:
    """Mean estimates on random test halves of one sample: 95 % intervals over 10 splits, 300 samples."""
    rng, covered = np.random.default_rng(0), {"corrected": 0, "plain": 0}
    for _ in range(300):
        sample = rng.normal(size=200)
        values = [sample[rng.permutation(200)[:100]].mean() for _ in range(10)]
        for name, ratio in {"corrected": 1.0, "plain": 0.0}.items():
            interval = Resampling(0.95, ratio).pool(values)
            covered[name] += interval.low <= 0 <= interval.high
    assert covered["corrected"] / 300 > 0.85
    assert covered["plain"] / 300 < 0.7


def test_the_ratio_is_that_of_the_test_rows_to_all_rows_that_methods_are_fitted_on(dataset: Sample) -> None:
    found = ak.compare(dataset, ENFORCED, methods=["projection"], seeds=(0, 1))
    assert found.rows == {"tune": 360, "calibrate": 270, "test": 270}
    assert found.resampling.ratio == 270 / 630


def runs(method: str, values: Sequence[float]) -> list[MethodRun]:
    return [
        MethodRun(method, seed, None, True, {"accuracy": Metric(value, np.full(4, value)), "brier": None})
        for seed, value in enumerate(values)
    ]


def test_a_winner_is_stated_only_where_the_intervals_say_so() -> None:
    resampling = Resampling(0.95, ratio=0.4)
    clear = {"a": runs("a", [0.9, 0.91, 0.92]), "b": runs("b", [0.8, 0.812, 0.821])}
    found = find_winner(clear, "accuracy", "scores", resampling)
    assert (found.winner, found.eligible) == ("a", ("a", "b"))
    assert found.statement == (
        "accuracy, gaps of scores: 'a' is ahead of every other method that is not shown to exceed the tolerances"
    )
    noisy = {**clear, "c": runs("c", [0.95, 0.80, 0.91])}
    found = find_winner(noisy, "accuracy", "scores", resampling)
    assert found.winner is None
    assert found.statement.endswith("no winner; 'a' has the best mean, and is not shown to be ahead of 'c'")
    alone = find_winner({"a": clear["a"]}, "accuracy", "scores", resampling)
    assert alone.winner is None
    assert alone.statement.endswith("only 'a' is not shown to exceed the tolerances; nothing to compare")
    none = find_winner(clear, "brier", "scores", resampling).statement
    assert none.endswith("every method is shown to exceed the tolerances, or has no such utility; nothing to compare")


def test_only_methods_that_meet_the_tolerances_can_win(dataset: Sample) -> None:
    found = ak.compare(dataset, ENFORCED, methods=["projection"], seeds=SEEDS)
    by_key = {(winner.utility, winner.level): winner for winner in found.winners()}
    assert by_key["auc", "scores"].eligible == ("projection",)
    assert [key for key, level in by_key if level == "decisions"] == ["accuracy"], "the others are of scores"
    assert found.difference("projection", REFERENCE, "auc") is not None
    pair = found.to_dict()["pairs"][0]
    assert (pair["first"], pair["second"]) == (REFERENCE, "projection")


def test_nobody_is_ahead_by_gaps_of_decisions_where_no_criterion_is_of_decisions(dataset: Sample) -> None:
    found = ak.compare(dataset, [ak.EER("sex", tolerance=0.05)], methods=["head"], seeds=SEEDS)
    assert {winner.level for winner in found.winners()} == {"scores"}


def test_the_intervals_of_a_winner_share_their_error_rate() -> None:
    """The t ratio of a − b is 5.84 with two degrees of freedom: beyond 4.30 (95 %), within 6.21 (97.5 %)."""
    resampling = Resampling(0.95, ratio=0.4)
    two = {"a": runs("a", [0.9, 0.9, 0.9]), "b": runs("b", [0.86, 0.85, 0.84])}
    assert find_winner(two, "accuracy", "scores", resampling).winner == "a"
    three = {**two, "c": runs("c", [0.7, 0.701, 0.699])}
    found = find_winner(three, "accuracy", "scores", resampling)
    assert found.winner is None
    assert found.statement.endswith("not shown to be ahead of 'b'")


@pytest.mark.parametrize("seeds", [(0,), SEEDS])
def test_methods_are_eligible_until_a_gap_is_shown_to_exceed_the_tolerance(
    dataset: Sample, seeds: Sequence[int]
) -> None:
    """Over splits by the interval of the mean gap; on one split by the audit, for decisions by the gap itself."""

    def at(tolerance: float) -> ak.Comparison:
        return ak.compare(dataset, [ak.ECP("sex", tolerance=tolerance)], methods=["projection"], seeds=seeds)

    def eligible(tolerance: float, level: str) -> bool:
        winner = next(w for w in at(tolerance).winners() if (w.utility, w.level) == ("accuracy", level))
        assert "projection" in winner.eligible or level == "decisions"
        return REFERENCE in winner.eligible

    found = at(0.05).runs_of(REFERENCE)
    audit = found[0].audit
    assert audit is not None
    if len(seeds) == 1:
        interval = audit.findings[0].interval
        assert interval is not None
        least = {"scores": interval[0], "decisions": found[0].decision_gaps["ECP(sex)"]}
    else:
        pooled = at(0.05).resampling.pool
        gaps = {"scores": [r.score_gaps for r in found], "decisions": [r.decision_gaps for r in found]}
        least = {level: pooled([gap["ECP(sex)"] for gap in mine]).low for level, mine in gaps.items()}
    for level, low in least.items():
        assert low > 0.02
        assert eligible(low + 0.01, level)
        assert not eligible(low - 0.01, level)


def test_tolerances_that_cannot_hold_together_are_an_error_of_the_methods_alone(dataset: Sample) -> None:
    both = [ak.ECP("sex", tolerance=0.0), ak.EER("sex", tolerance=0.0)]
    methods = ["layer", "head", "calibrated", "projection", "recalibration_mean"]
    errors = {run.method: run.error for run in ak.compare(dataset, both, methods=methods, config=CONFIG).runs}
    assert all("no scores satisfy ECP(sex) and EER(sex)" in errors[name] for name in methods[:4])
    assert (errors[REFERENCE], errors["recalibration_mean"]) == ("", "")


def test_errors_are_kept_with_their_split(dataset: Sample, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise SolverError("no accuracy today")

    monkeypatch.setattr("auditkit.baselines.projections.project", fail)
    for _ in range(2):
        found = ak.compare(dataset, ENFORCED, methods=["projection"], seeds=(0, 1), folder=tmp_path)
        assert [run.error for run in found.runs_of("projection")] == ["no accuracy today"] * 2
    assert found.to_dict()["methods"][1]["error"] == "no accuracy today"


def test_wrong_numbers_of_seeds_tolerances_and_workers_are_refused(dataset: Sample) -> None:
    with pytest.raises(InputError, match="tolerances must name none twice"):
        ak.compare(dataset, ENFORCED, tolerances=[0.1, 0.1])
    with pytest.raises(InputError, match="workers must be at least 1; got 0"):
        ak.compare(dataset, ENFORCED, workers=0)
    with pytest.raises(InputError, match="split must give a share to each of tune, calibrate, test"):
        ak.CompareConfig(split=(("tune", 0.5), ("test", 0.5)))
