from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from auditkit import cli, jobs
from auditkit.cli import application
from auditkit.cli.exit_codes import VERDICTS
from auditkit.config import load_config
from auditkit.errors import InputError
from auditkit.progress import NullProgress, RichProgress
from auditkit.reporting import outputs
from tests.run_folders import HOSTILE, Run, plan, predictions, write_case

ROOT = Path(__file__).parent.parent
PARITY = [{"family": "ECP", "attributes": "sex", "tolerance": 0.05}]


@pytest.mark.parametrize(
    ("rows", "gap", "code", "verdict"), [(4000, 0.0, 0, "pass"), (1000, 0.3, 1, "fail"), (150, 0.05, 3, "inconclusive")]
)
def test_audit_leaves_with_its_verdict(
    rows: int, gap: float, code: int, verdict: str, run: Run, tmp_path: Path
) -> None:
    file = write_case(tmp_path, predictions(rows=rows, gap=gap), criteria=PARITY)
    left, out, err = run("audit", file, "--out", tmp_path / "run", "--seed", "3")
    assert (left, err) == (code, "")
    assert verdict in out
    assert "report.html" in out
    stored = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))
    assert (stored["verdict"], stored["seed"]) == (verdict, 3)
    assert (tmp_path / "run" / "report.html").is_file()
    assert run("verify", tmp_path / "run")[0] == 0


def test_tune_and_compare_and_report(run: Run, tmp_path: Path) -> None:
    file = write_case(tmp_path, predictions(rows=3000))
    code, out, err = run("compare", file, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "Methods on the test rows" in out
    assert "ThresholdOptimizer" in out
    code, out, err = run("tune", file, "--out", tmp_path / "tuned")
    after = json.loads((tmp_path / "tuned" / "audit_after.json").read_text(encoding="utf-8"))
    assert code == VERDICTS[after["findings"][0]["verdict"]]
    (tmp_path / "tuned" / "report.html").unlink()
    assert run("report", tmp_path / "tuned")[0] == 0
    assert (tmp_path / "tuned" / "report.html").is_file()


def test_tuning_writes_and_prints_the_frontier_that_the_audit_file_asks_for(run: Run, tmp_path: Path) -> None:
    file = write_case(tmp_path, predictions(rows=2000), tune={"epochs": 15}, frontier=[0.01, 0.1])
    _, out, err = run("tune", file, "--out", tmp_path / "run")
    assert err == ""
    assert "Frontier on the test rows" in out
    found = json.loads((tmp_path / "run" / "frontier.json").read_text(encoding="utf-8"))
    assert (found["schema"], found["measure"]) == ("auditkit.frontier/1", "accuracy")
    assert [point["tolerance"] for point in found["points"]] == [0.1, 0.01]
    for point in found["points"]:
        assert point["gap"] <= point["tolerance"] + 1e-9
        assert f"accuracy {point['quality']:.4f}" in out
    assert 'id="frontier"' in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert run("verify", tmp_path / "run")[0] == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["plan"]["frontier"] == [0.01, 0.1]
    assert "frontier.json" in record["files"]


def test_a_frontier_of_impossible_tolerances_is_refused(run: Run, tmp_path: Path) -> None:
    file = write_case(tmp_path, frontier=[0.1, -0.1])
    code, _, err = run("tune", file, "--out", tmp_path / "run")
    assert code == 2
    assert "frontier[1]" in err
    assert "greater than or equal to 0" in err


def test_a_comparison_has_the_head_at_every_tolerance_among_its_methods(run: Run, tmp_path: Path) -> None:
    """What `tune` measures at a tolerance is not trained a second time."""
    file = write_case(
        tmp_path, predictions(rows=2000), tune={"epochs": 15}, frontier=[0.02], methods=["layer", "projection"]
    )
    assert run("compare", file, "--out", tmp_path / "run")[2] == ""
    comparison = json.loads((tmp_path / "run" / "comparison.json").read_text(encoding="utf-8"))
    (level,) = comparison["frontier"]
    by_name = {method["name"]: method for method in level["methods"]}
    assert by_name["layer"]["utility"]["accuracy"]["value"] > 0.5
    assert by_name["layer"]["score_gaps"][0]["gap"] <= 0.02 + 1e-9
    assert not (tmp_path / "run" / "frontier.json").exists()


def test_methods_without_features_have_a_frontier_and_tuning_is_refused(run: Run, tmp_path: Path) -> None:
    data = {name: value for name, value in plan()["data"].items() if name != "features"}
    methods = ["projection", "recalibration_mean"]
    file = write_case(tmp_path, data=data, frontier=[0.1], methods=methods)
    assert run("compare", file, "--out", tmp_path / "run")[2] == ""
    comparison = json.loads((tmp_path / "run" / "comparison.json").read_text(encoding="utf-8"))
    assert [level["tolerance"] for level in comparison["frontier"]] == [0.1]
    code, _, err = run("tune", file, "--out", tmp_path / "tuned")
    assert code == 2
    assert "tuning needs frozen features" in err
    assert not (tmp_path / "tuned").exists()


def test_default_folder_is_named_after_the_audit(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_case(tmp_path, criteria=PARITY, name="../Börse: 1/2")
    run("audit", "audit.yaml")
    assert (tmp_path / "runs" / "börse-1-2" / "run.json").is_file()


def test_demo_is_done_when_it_ran(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_case(tmp_path, predictions(gap=0.3), criteria=PARITY)
    seen: dict[str, Any] = {}

    def small(*, out: Path, seed: int, progress: object) -> jobs.RunResult:
        seen.update(out=out, seed=seed)
        return jobs.run_audit(load_config(file).model_copy(update={"seed": seed}), out=out)

    monkeypatch.setattr(jobs, "run_demo", small)
    code, out, _ = run("demo", "--out", tmp_path / "demo", "--seed", "5")
    assert (code, seen) == (0, {"out": tmp_path / "demo", "seed": 5})
    assert "fail" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit"], "Missing argument 'FILE'"),
        (["audit", "missing.yaml"], "no audit file"),
        (["audit", "missing.yaml", "--seed", "x"], "--seed"),
        (["demo", "--seed", "-1"], "--seed"),
        (["frobnicate"], "No such command"),
        (["audit", "--bogus"], "No such option"),
        (["report", "missing"], "no folder"),
        (["verify", "missing"], "no run.json"),
        (["init", "missing.csv"], "no file"),
    ],
)
def test_wrong_requests_are_one_line_on_stderr(
    arguments: list[str], message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("auditkit: ")
    assert err.count("\n") == 1


def test_wrong_input_points_at_the_line(run: Run, tmp_path: Path) -> None:
    file = write_case(tmp_path, tune={"epochs": 0})
    code, _, err = run("tune", file, "--out", tmp_path / "run")
    assert code == 2
    assert "audit.yaml, line" in err
    assert "tune.epochs" in err
    assert not (tmp_path / "run").exists()


def test_a_column_that_is_missing(run: Run, tmp_path: Path) -> None:
    file = write_case(tmp_path, predictions().drop(columns="outcome"))
    code, _, err = run("audit", file, "--out", tmp_path / "run")
    assert code == 2
    assert "'outcome'" in err


def failing_job(error: BaseException) -> Callable[..., object]:
    def job(*_arguments: object, **_options: object) -> object:
        raise error

    return job


def test_unexpected_errors_name_themselves(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "run_audit", failing_job(ZeroDivisionError("by\nzero")))
    file = write_case(tmp_path)
    code, _, err = run("audit", file)
    assert code == 70
    assert err == "auditkit: ZeroDivisionError: by zero; run with --debug for the traceback\n"
    for place in (["--debug", "audit", str(file)], ["audit", str(file), "--debug"]):
        with pytest.raises(ZeroDivisionError):
            cli.main(place)


def test_errors_of_auditkit_are_wrong_input(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "run_audit", failing_job(InputError("scores must be finite;\n  got NaN")))
    code, _, err = run("audit", write_case(tmp_path))
    assert (code, err) == (2, "auditkit: scores must be finite; got NaN\n")


@pytest.mark.parametrize(("module", "name"), [(jobs, "audit_predictions"), (outputs, "render_html")])
def test_interrupted_runs_leave_nothing(
    module: object, name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, failing_job(KeyboardInterrupt()))
    code, _, err = run("audit", write_case(tmp_path), "--out", tmp_path / "runs" / "one")
    assert code == 130
    assert "interrupted" in err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_verify_finds_what_was_changed(run: Run, tmp_path: Path) -> None:
    run("audit", write_case(tmp_path), "--out", tmp_path / "run")
    audit = tmp_path / "run" / "audit.json"
    content = json.loads(audit.read_text(encoding="utf-8"))
    content["findings"][0]["gap"] /= 2
    audit.write_text(json.dumps(content), encoding="utf-8")
    code, out, _ = run("verify", tmp_path / "run")
    assert code == 1
    assert "differs from the hash" in out
    assert "differs in gap" in out


def test_names_from_the_data_are_not_markup(run: Run, tmp_path: Path) -> None:
    frame = predictions().replace({"Female": "[red]F[/red]", "Male": HOSTILE})
    code, out, _ = run("audit", write_case(tmp_path, frame, name="[bold]x[/bold]"), "--out", tmp_path / "run")
    assert code == 1
    assert "[bold]x[/bold]" in out


def test_schema_and_init(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("schema")
    assert code == 0
    assert json.loads(out)["title"] == "auditkit audit file"
    target = tmp_path / "audit.yaml"
    assert run("init", "--out", target)[0] == 0
    assert target.read_text(encoding="utf-8") == run("init")[1]
    code, _, err = run("init", "--out", target)
    assert code == 2
    assert "exists" in err


def test_init_for_a_table_makes_a_file_that_runs(run: Run, tmp_path: Path) -> None:
    predictions(rows=500).rename(columns={"outcome": "hired"}).to_csv(tmp_path / "staff.csv", index=False)
    target = tmp_path / "audit.yaml"
    assert run("init", tmp_path / "staff.csv", "--out", target)[0] == 0
    assert run("audit", target, "--out", tmp_path / "run")[0] == 1


def test_a_table_alone_takes_weights_decisions_clusters_and_rules(run: Run, tmp_path: Path) -> None:
    frame = predictions(rows=600).assign(person=np.arange(600) // 3, people=2.0, hired=[0, 1] * 300)
    frame.to_parquet(tmp_path / "t.parquet")
    common = ["audit", tmp_path / "t.parquet", "--score", "score", "--attributes", "sex", "--format", "json", "--out"]
    columns = ["--weight", "people", "--cluster", "person", "--engine", "pandas"]
    code, out, err = run(*common, tmp_path / "a", *columns, "--threshold", "top 10%")
    assert (code, err) == (1, "")
    assert json.loads(out)["decision_rule"] == "one of the 60 highest scores (top 10%)"
    assert json.loads(out)["moments"]["gram"] is not None
    code, out, _ = run(*common, tmp_path / "b", "--decision", "hired")
    assert (code, json.loads(out)["decision_rule"]) == (1, "what column 'hired' holds")
    rates = [group["selection_rate"] for group in json.loads(out)["decisions"][0]["groups"]]
    assert rates == pytest.approx(frame.groupby("sex").hired.mean().tolist())
    assert run(*common, tmp_path / "c", "--decision", "hired", "--threshold", "0.5")[2].startswith(
        "auditkit: audit file, threshold: threshold is 0.5, and data.decision names the column 'hired'"
    )
    assert "threshold must be a number" in run(*common, tmp_path / "d", "--threshold", "best")[2]


def test_version_and_help(run: Run) -> None:
    assert run("--version")[1].startswith("auditkit ")
    code, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in ("demo", "audit", "tune", "compare", "report", "verify", "schema", "init"))
    code, out, err = run()
    assert (code, err) == (2, "")
    assert "Usage: auditkit" in out


@pytest.mark.slow
def test_help_takes_less_than_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        code = "from auditkit.cli import main; main(['--help'])"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.5


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (NullProgress(), RichProgress()):
        with progress.stage("scoring", 2) as advance:
            advance()
            advance(1)
    assert capsys.readouterr() == ("", "")


def test_progress_names_the_stage_on_a_terminal() -> None:
    console = Console(force_terminal=True, width=80, record=True)
    with RichProgress(console).stage("scoring [the model]") as advance:
        advance()
    assert "scoring [the model]" in console.export_text()


def test_the_module_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "auditkit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "auditkit"


def test_warnings_are_said_once_and_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    before = warnings.showwarning
    try:
        application._show_warnings_plainly()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            shown = warnings.showwarning
            application._show_warnings_plainly()
            warnings.warn("2 unknown categories", stacklevel=1)
            warnings.warn("2 unknown categories", stacklevel=1)
        assert shown is not before
    finally:
        warnings.showwarning = before
    assert capsys.readouterr().err == "auditkit: note: 2 unknown categories\n"
