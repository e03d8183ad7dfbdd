"""Frozen plans: their hash, what they refuse, and audits that state whether they followed one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import auditkit as ak
from auditkit import cli
from auditkit.config import load_config
from auditkit.errors import InputError, SchemaError
from auditkit.jobs import run_audit
from auditkit.plans import Plan, freeze_plan

CRITERIA = [ak.ECP("sex", tolerance=0.1), ak.equalized_odds("sex", tolerance=0.2)]


def outcome(plan: Plan, **options: object) -> ak.AuditResult:
    rng = np.random.default_rng(0)
    settings = {"threshold": 0.5, "confidence": 0.95} | options
    criteria = settings.pop("criteria", CRITERIA)
    return ak.audit(
        rng.random(100), ak.Groups({"sex": list("fm") * 50}), criteria, labels=rng.integers(0, 2, 100), plan=plan,
        **settings,
    )  # fmt: skip


def test_a_saved_plan_reads_back_and_keeps_its_hash(tmp_path: Path) -> None:
    plan = freeze_plan(CRITERIA, threshold="top 5%")
    assert Plan.load(plan.save(tmp_path / "plan.json")) == plan
    assert json.loads((tmp_path / "plan.json").read_text())["hash"] == plan.hash


def test_a_plan_is_never_overwritten_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    path = freeze_plan(CRITERIA).save(tmp_path / "plan.json")
    with pytest.raises(InputError, match="a frozen plan stays as it is"):
        freeze_plan(CRITERIA).save(path)
    content = json.loads(path.read_text())
    content["criteria"][0]["tolerance"] = 0.5
    path.write_text(json.dumps(content))
    with pytest.raises(SchemaError, match=r"plan\.json was changed after it was frozen"):
        Plan.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a plan"),
        ("[1", "is not a plan"),
        ('{"schema": "auditkit.plan/9"}', "has schema 'auditkit.plan/9'"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(SchemaError, match=message):
        Plan.load(tmp_path / "plan.json")


def test_an_audit_states_that_it_followed_its_plan() -> None:
    plan = freeze_plan(CRITERIA, threshold=0.5)
    check = outcome(plan).plan
    assert (check.followed, check.differences, check.hash) == (True, (), plan.hash)
    assert outcome(plan).to_dict()["plan"]["followed"] is True


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"confidence": 0.9}, "confidence was planned as 0.95 and is 0.9"),
        ({"threshold": 0.6}, "threshold was planned as 0.5 and is 0.6"),
        ({"criteria": CRITERIA[:1]}, "criterion equalized odds(sex) was planned and not audited"),
        ({"criteria": [*CRITERIA, ak.EER("sex", tolerance=1)]}, "criterion EER(sex) was audited and not planned"),
    ],
)
def test_an_audit_states_where_it_departed(options: dict, difference: str) -> None:
    check = outcome(freeze_plan(CRITERIA, threshold=0.5), **options).plan
    assert not check.followed
    assert check.differences == (difference,)


def test_columns_that_change_what_is_estimated_are_frozen(tmp_path: Path) -> None:
    plan = freeze_plan(CRITERIA, columns={"weight": "people", "cluster": "person"})
    assert Plan.load(plan.save(tmp_path / "plan.json")) == plan
    assert plan.hash != freeze_plan(CRITERIA).hash
    settings = {"confidence": 0.95, "threshold": None, "seed": 0}
    assert plan.check(CRITERIA, **settings, columns={"weight": "people", "cluster": "person"}).followed
    assert plan.check(CRITERIA, **settings, columns={"weight": None, "cluster": None}).followed  # arrays have no name
    assert plan.check(CRITERIA, **settings, columns={"weight": "rows", "decision": "hired"}).differences == (
        "weight was planned as 'people' and is 'rows'",
        "decision was planned as none and is 'hired'",
        "cluster was planned as 'person' and is none",
    )
    with pytest.raises(InputError, match="columns has roles weight, decision, cluster; got label"):
        freeze_plan(CRITERIA, columns={"label": "y"})


def test_an_audit_with_other_weights_or_clusters_departs_from_its_plan() -> None:
    check = outcome(freeze_plan(CRITERIA, threshold=0.5), weights=np.ones(100)).plan
    assert check.differences == ("weight was planned as none and is 'given'",)
    check = outcome(freeze_plan(CRITERIA), threshold=None, decisions=np.arange(100) % 2).plan
    assert check.differences == ("decision was planned as none and is 'given'",)


def test_the_command_freezes_a_plan_without_reading_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    audit_file = tmp_path / "audit.yaml"
    audit_file.write_text(
        "data: {path: later.csv, attributes: [sex], score: score}\n"
        "criteria: [{family: ECP, attributes: sex, tolerance: 0.5}]\n"
        "plan: plan.json\n"
    )
    with pytest.raises(SystemExit) as stop:
        cli.main(["plan", "audit.yaml"])
    assert stop.value.code == 0
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.hash in capsys.readouterr().out.replace("\n", "")
    rows = "\n".join(f"{'fm'[i % 2]},{(i % 7) / 10}" for i in range(200))
    (tmp_path / "later.csv").write_text(f"sex,score\n{rows}\n")
    with pytest.raises(SystemExit) as stop:
        cli.main(["audit", "audit.yaml", "--out", "run"])
    assert stop.value.code == 0
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["plan"]["followed"] is True
    assert plan.hash in (tmp_path / "run" / "report.html").read_text()


def test_a_missing_plan_is_noticed_before_the_data_are_read(tmp_path: Path) -> None:
    from tests.run_folders import predictions, write_case

    config = load_config(write_case(tmp_path, predictions(), plan="no plan.json"))
    Path(config.data_path).unlink()  # whoever read the data first would complain about them
    with pytest.raises(InputError, match="there is no plan"):
        run_audit(config, out=tmp_path / "run")
