"""The paper's experiments: their readers on published layouts and real files, and what they print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from auditkit.baselines import Prediction, Sample
from auditkit.criteria import Criterion
from auditkit.errors import InputError, SchemaError
from auditkit.finetuning import TuneConfig
from auditkit.metrics import Estimate
from experiments import (
    employee,
    face_layouts,
    faces,
    labelled_sets,
    loans,
    post_processing,
    post_processing_tables,
    synthetic,
)
from experiments.protocol import Protocol, average_precision, relative_change, run
from experiments.results import standing
from tests.real_data import data_path

EMPLOYEE, LOANS = "tabular/Employee_Performance.xls", "tabular/SBAcase.11.13.17.csv"


def test_celeba_is_read_in_both_published_layouts(tmp_path: Path) -> None:
    header = "5_o_Clock_Shadow Male Smiling Young"
    rows = ["000001.jpg -1  1 -1  1", "000002.jpg  1 -1  1 -1", "000003.jpg -1 -1  1  1"]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["3", header + " ", *rows]) + "\n")
    table = faces.read_celeba(tmp_path)
    assert table.frame["path"].tolist() == [f"img_align_celeba/00000{i}.jpg" for i in (1, 2, 3)]
    assert table.frame["label"].tolist() == [0, 1, 1]
    assert table.frame["gender"].tolist() == ["male", "female", "female"]
    assert table.frame["age"].tolist() == ["young", "older", "young"]
    assert table.criteria[0].attributes == ("gender", "age")
    lines = ["image_id," + ",".join(header.split()), *(",".join(row.split()) for row in rows)]
    (tmp_path / "list_attr_celeba.csv").write_text("\n".join(lines) + "\n")
    pd.testing.assert_frame_equal(faces.read_celeba(tmp_path).frame, table.frame)


def test_fairface_is_read_in_its_published_layout(tmp_path: Path) -> None:
    head = "file,age,gender,race,service_test"
    (tmp_path / "fairface_label_train.csv").write_text(
        f"{head}\ntrain/1.jpg,50-59,Male,East Asian,True\ntrain/2.jpg,20-29,Female,White,False\n"
    )
    (tmp_path / "fairface_label_val.csv").write_text(f"{head}\nval/1.jpg,more than 70,Female,Black,False\n")
    table = faces.read_fairface(tmp_path)
    assert table.frame["path"].tolist() == ["train/1.jpg", "train/2.jpg", "val/1.jpg"]
    assert table.frame["label"].tolist() == [1, 0, 1]
    assert table.frame["race"].tolist() == ["East Asian", "White", "Black"]
    assert [criterion.attributes for criterion in table.criteria] == [("gender",), ("race",)]
    (tmp_path / "fairface_label_val.csv").write_text(f"{head}\nval/1.jpg,Sep-03,Female,Black,False\n")
    with pytest.raises(SchemaError, match=r"names the ages \['Sep-03'\]"):
        faces.read_fairface(tmp_path)


def test_other_layouts_of_faces_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"there is no list_attr_celeba\.txt"):
        faces.read_celeba(tmp_path)
    (tmp_path / "list_attr_celeba.csv").write_text("image_id,Male,Smiling\n1.jpg,1,1\n")
    with pytest.raises(SchemaError, match="list_attr_celeba has no column Young"):
        faces.read_celeba(tmp_path)
    (tmp_path / "list_attr_celeba.csv").write_text("image_id,Male,Smiling,Young\n1.jpg,1,0,1\n")
    with pytest.raises(SchemaError, match="must hold −1 and 1"):
        faces.read_celeba(tmp_path)
    with pytest.raises(SystemExit) as stop:
        faces.main(["--images", f"fairface:{tmp_path}", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "there is no fairface_label_train.csv" in capsys.readouterr().err


def test_real_faces_are_read() -> None:
    table = faces.read_utkface(data_path("faces/labels.csv").parent)
    assert len(table.frame) == 3000
    assert set(table.frame["label"]) == {0, 1}
    assert all((table.folder / path).is_file() for path in table.frame["path"].iloc[:20])


def test_employees_are_read_as_the_file_says() -> None:
    path = data_path(EMPLOYEE)
    dataset = employee.read_employees(path)
    raw = pd.read_excel(path, engine="xlrd")
    assert (dataset.labels.min(), dataset.labels.max(), dataset.n_rows) == (0, 1, 1200)
    assert (dataset.groups.values("age_50_or_more") == "yes").sum() == (raw["Age"] >= 50).sum()
    married = sum((dataset.groups.values(name) == "yes").astype(int) for name in ("single", "married", "divorced"))
    assert (married == 1).all()
    correlation = [abs(np.corrcoef(column, dataset.labels)[0, 1]) for column in np.asarray(dataset.features).T]
    assert max(correlation) < 0.9  # the wage is no input


def test_employee_constraints_are_counted_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = employee.read_employees(data_path(EMPLOYEE))
    quick = replace(
        employee.CONFIG, methods=("projection",), tune=TuneConfig(score_space="identity", epochs=3, learning_rate=0.02)
    )
    criteria = [employee.EER(name, tolerance=1e-4) for name in employee.ATTRIBUTES]
    comparison = Protocol(tmp_path, (0, 1)).compare("employee", dataset, criteria, quick)
    assert employee.count_met(dataset, comparison, "projection") == [10, 10]
    assert max(employee.count_met(dataset, comparison, "unconstrained")) < 10
    found = comparison.runs_of("projection")[0].prediction
    assert found is not None
    assert found.scores is not None
    assert 0 <= found.scores.min() <= found.scores.max() <= 1
    text = employee.describe(dataset, comparison)
    assert "| `projection` | 20 of 20 | 10 | replicated 30 of 30 |" in text
    Protocol(tmp_path, (0, 1)).write("employee", comparison, text)
    assert text in capsys.readouterr().out
    assert (tmp_path / "employee" / "RESULTS.md").read_text(encoding="utf-8") == text + "\n"
    assert json.loads((tmp_path / "employee" / "comparison.json").read_text())["score_space"] == "identity"


def test_loans_are_read_as_the_file_says() -> None:
    dataset = loans.read_sample(data_path(LOANS))
    raw = pd.read_csv(data_path(LOANS), encoding="utf-8-sig")
    assert dataset.labels.sum() == (raw["MIS_Status"].str.strip() == "CHGOFF").sum()
    assert (dataset.groups.values("urban") == "urban").sum() == (raw["UrbanRural"] == 1).sum()
    assert (dataset.groups.values("new") == "new").sum() == (raw["NewExist"] == 2).sum()
    assert np.isfinite(np.asarray(dataset.features)).all()


def test_relative_changes_are_those_of_scikit_learn_on_the_judged_rows(tmp_path: Path) -> None:
    from sklearn.metrics import average_precision_score

    from auditkit.datasets import split_rows

    whole = loans.read_sample(data_path(LOANS))
    dataset = whole.take(np.arange(600))
    quick = replace(
        loans.CONFIG,
        methods=("layer", "head", "projection"),
        tune=TuneConfig(score_space="logit", epochs=5, learning_rate=0.05),
    )
    criteria = [loans.ECP(name, tolerance=0.01) for name in ("new", "urban")]
    comparison = Protocol(tmp_path, (0, 1)).compare("loans", dataset, criteria, quick)
    changes = []
    for seed in (0, 1):
        rows = split_rows(600, fractions={"tune": 0.6, "calibrate": 0.1, "test": 0.3}, seed=seed)["test"]
        first, second = (
            average_precision_score(dataset.labels[rows], found.prediction.scores)
            for name in ("projection", "layer")
            for found in comparison.runs_of(name)
            if found.seed == seed and found.prediction is not None
        )
        changes.append(100 * (first / second - 1))
    found = relative_change(comparison, dataset, "projection", "layer", average_precision)
    assert found.value == pytest.approx(np.mean(changes))
    assert max(run.score_gaps["ECP(new)"] for run in comparison.runs_of("layer")) <= 0.01 + 1e-9
    assert "−1.38 %" in loans.describe(dataset, comparison)


def test_standing_is_read_off_the_interval() -> None:
    assert standing(Estimate(0.02, 0.01, 0.03)) == "ahead"
    assert standing(Estimate(0.02, 0.01, 0.03), lower_is_better=True) == "behind"
    assert standing(Estimate(0.02, -0.01, 0.05)) == "level"


def test_a_missing_file_is_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["employee", "--data", str(tmp_path), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        run(employee.run_employee, "", seeds=2)
    assert stop.value.code == 2
    assert "there is no tabular/Employee_Performance.xls" in capsys.readouterr().err


def test_synthetic_sets_are_32_and_drawn_as_stated() -> None:
    assert len({setting.name for setting in synthetic.SETTINGS}) == 32
    setting = synthetic.Setting(split=0.1, signal=2.0, noise=0.1, bounded=False, linear=True)
    sample = synthetic.draw(setting, 20_000, seed=0)
    member = sample.groups.values("group") == "b"
    assert member.mean() == pytest.approx(0.1, abs=0.01)
    assert sample.labels[member].mean() - sample.labels[~member].mean() == pytest.approx(2.0, abs=0.1)
    features = np.asarray(sample.features)
    design = np.column_stack([features, member, np.ones(len(member))])
    residual = sample.labels - design @ np.linalg.lstsq(design, sample.labels, rcond=None)[0]
    assert residual.std() == pytest.approx(0.1, abs=0.005)


def test_a_synthetic_set_is_measured_once_and_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["--out", str(tmp_path), "--rows", "2000", "--sets", "1", "--epochs", "2"]
    synthetic.main(line)
    first = capsys.readouterr().out
    (found,) = (json.loads(path.read_text()) for path in (tmp_path / "synthetic").glob("*.json"))
    figures = found["figures"]
    assert figures["unconstrained"]["gap"] > 0.1
    assert figures["projection"]["gap"] <= 0.05 + 1e-9
    assert figures["large batch"]["gap"] <= 0.05 + 1e-9
    assert figures["2000 → 16"]["gap"] < figures["unconstrained"]["gap"]
    monkeypatch.setattr(synthetic, "measure_set", lambda *_, **__: pytest.fail("measured again"))
    synthetic.main(line)
    assert capsys.readouterr().out == first


def test_faces_are_written_in_the_published_layouts(tmp_path: Path) -> None:
    from PIL import Image

    source = tmp_path / "faces"
    (source / "images").mkdir(parents=True)
    ages = [19, 20, 39, 40, 70, 101]
    for k in range(6):
        Image.new("RGB", (8, 8), (40 * k,) * 3).save(source / "images" / f"{k}.jpg")
    pd.DataFrame(
        {"file": [f"{k}.jpg" for k in range(6)], "age": ages, "gender": ["male", "female"] * 3, "race": ["White"] * 6}
    ).to_csv(source / "labels.csv", index=False)
    face_layouts.write_layouts(source, tmp_path)
    celeba = faces.read_celeba(tmp_path / "celeba").frame
    assert celeba["label"].tolist() == [0, 0, 0, 1, 1, 1]  # brighter than the median
    assert celeba["age"].tolist() == ["young"] * 3 + ["older"] * 3
    assert celeba["gender"].tolist() == ["male", "female"] * 3
    fairface = faces.read_fairface(tmp_path / "fairface").frame.sort_values("path", key=lambda path: path.str[-5:])
    assert fairface["label"].tolist() == [int(age >= 30) for age in ages]
    for folder, frame in {"celeba": celeba, "fairface": fairface}.items():
        assert all((tmp_path / folder / path).is_file() for path in frame["path"])
    face_layouts.write_layouts(source, tmp_path / "few", rows=2)
    assert len(faces.read_celeba(tmp_path / "few" / "celeba").frame) == 2


def _labelled(n_rows: int, seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    member = rng.random(n_rows) < 0.4
    features = rng.normal(size=(n_rows, 3)) + 0.6 * member[:, None]
    labels = (rng.random(n_rows) < 1 / (1 + np.exp(-2 * features[:, 0]))).astype(float)
    return labelled_sets.make_sample(np.column_stack([features, member]), labels, np.where(member, "b", "a"))


def test_the_tolerance_follows_from_the_sizes_of_the_groups_alone() -> None:
    few, many = _labelled(1500, 0), _labelled(40_000, 0)
    assert post_processing.choose_tolerance(many, "demographic parity") == 0.05
    for name in post_processing.CRITERIA:
        assert post_processing.choose_tolerance(few, name) > post_processing.choose_tolerance(many, name)


def test_methods_are_certified_from_the_tightest_tolerance_on_until_one_is_not() -> None:
    dataset, criterion = _labelled(8000, 1), post_processing.CRITERIA["demographic parity"](0.1)
    parts = [dataset.take(np.arange(k, 8000, 4)) for k in range(4)]
    rows = post_processing.Rows(*parts, joined=None, reference=None)
    asked: list[float] = []

    def fit(at: Criterion) -> post_processing.Predict:
        asked.append(at.tolerance / 0.1)
        lift = at.tolerance / 0.1 * 0.2
        return lambda s: Prediction(0.4 + lift * s.groups.codes(labelled_sets.ATTRIBUTE))

    found = post_processing.certify(fit, rows, criterion, "scores")
    assert asked == pytest.approx([0.0, 0.2, 0.4, 0.6])  # gaps of 0, 0.04, 0.08 and 0.12
    assert (found["certified"], found["share"]) == (True, 0.4)
    assert found["gap"] == pytest.approx(0.08)
    assert found["accuracy"] == pytest.approx(np.mean(rows.test.labels == 0))
    nothing = post_processing.certify(lambda _: lambda s: Prediction(s.labels), rows, criterion, "scores")
    assert nothing == {"certified": False}


def test_a_setting_is_measured_once_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(post_processing, "LOADERS", {"law": lambda *_: _labelled(3000, 2)})
    monkeypatch.setattr(post_processing, "CONFIG", TuneConfig(epochs=3))
    monkeypatch.setitem(post_processing.BASELINES, "scores", ("calibrated_projection",))
    monkeypatch.setitem(post_processing.BASELINES, "decisions", ("threshold_optimizer", "calibrated_projection"))
    line = ["--data", str(tmp_path), "--out", str(tmp_path), "--seeds", "2", "--sets", "law"]
    post_processing.main(line)
    text = capsys.readouterr().out
    assert "of 2 settings" in text
    assert "| law | demographic parity |" in text
    places = sorted((tmp_path / "post_processing").glob("*.json"))
    assert len(places) == 4
    found = json.loads(places[0].read_text())
    ours = found["levels"]["decisions"]["tuned head"]
    assert ours["certified"] is (ours["accuracy"] > 0.5)
    monkeypatch.setattr(post_processing, "measure", lambda *_: pytest.fail("measured again"))
    post_processing.main(line)
    assert capsys.readouterr().out == text


def test_a_missing_certificate_counts_against_the_tuned_head() -> None:
    def run(seed: int, ours: float | None, other: float | None) -> dict:
        entries = {"tuned head": ours, "rival": other}
        level = {
            name: {"certified": value is not None, "accuracy": value, "gap": 0.0} for name, value in entries.items()
        }
        return {"dataset": "d", "criterion": "c", "seed": seed, "tolerance": 0.1, "levels": {"scores": level}}

    parts = {"test": 0.2}
    ahead = post_processing_tables.describe([run(0, 0.8, 0.7), run(1, 0.82, 0.71)], parts, "tuned head")
    assert "at or above that of every baseline in 1; the same or better" in ahead
    refused = post_processing_tables.describe([run(0, None, 0.7), run(1, None, 0.71)], parts, "tuned head")
    assert "at or above that of every baseline in 0; the same or better" in refused
    assert "behind one beyond the paired interval, or without a certificate where one has it, in 1" in refused
    apart = post_processing_tables.describe([run(0, 0.8, None), run(1, None, 0.7)], parts, "tuned head")
    assert "at or above that of every baseline in 0; the same or better" in apart
    sole = post_processing_tables.describe([run(0, 0.8, None), run(1, 0.8, None)], parts, "tuned head")
    assert "at or above that of every baseline in 1; the same or better" in sole
    near = post_processing_tables.describe([run(k, 0.8 + 0.001 * k, 0.804) for k in range(3)], parts, "tuned head")
    assert (
        "every baseline in 0; the same or better (not behind by the paired interval, and in mean at most 0.005" in near
    )
    assert "below any) in 1; shown not to be more than 0.005 below any in 0; behind one" in near
