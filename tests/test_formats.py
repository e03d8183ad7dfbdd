"""Each output format, read back by a parser of its own kind; a table alone as a request; the step summary."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest

from auditkit import jobs
from auditkit.config import load_config
from auditkit.reporting import FORMATS, render_run
from tests.run_folders import HOSTILE, MARKED, Run, predictions, write_case

PARITY = [{"family": "ECP", "attributes": "sex", "tolerance": 0.05}]
AUDIT_SCHEMA = {
    "type": "object",
    "required": ["schema", "verdict", "n_rows", "confidence", "findings", "decisions", "moments"],
    "properties": {
        "schema": {"const": "auditkit.audit/3"},
        "verdict": {"enum": ["pass", "fail", "inconclusive"]},
        "n_rows": {"type": "integer", "minimum": 1},
        "findings": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["criterion", "gap", "interval", "verdict", "reason", "gaps", "cells"],
                "properties": {"interval": {"type": ["array", "null"], "items": {"type": "number"}}},
            },
        },
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a failing audit whose group names are hostile to markup."""
    place = tmp_path_factory.mktemp("case")
    file = write_case(place, predictions(hostile=True), name="Pipes | and <b>bold</b>\x0b [link](http://x)")
    return jobs.run_audit(load_config(file), out=place / "run").folder


def test_json_is_the_audit(folder: Path) -> None:
    content = json.loads(render_run(folder, "json"))
    jsonschema.validate(content, AUDIT_SCHEMA)
    assert content == json.loads((folder / "audit.json").read_text(encoding="utf-8"))


def test_junit_has_one_case_per_criterion(folder: Path) -> None:
    root = ElementTree.fromstring(render_run(folder, "junit"))
    findings = json.loads((folder / "audit.json").read_text(encoding="utf-8"))["findings"]
    suite = root[0]
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [finding["criterion"]["name"] for finding in findings]
    assert suite.get("tests") == str(len(findings))
    assert suite.get("failures") == str(len(suite.findall("testcase/failure"))) != "0"
    for case, finding in zip(cases, findings, strict=True):
        values = {item.get("name"): item.get("value") for item in case.findall("properties/property")}
        assert float(values["gap"] or "nan") == finding["gap"]
        assert values["interval"] == " ".join(map(str, finding["interval"]))
        assert values["tolerance"] == "0.05"
        problem = case.find("failure")
        assert (problem is not None) == (finding["verdict"] == "fail")
        assert problem is None or problem.get("message") == finding["reason"]


def test_an_open_criterion_is_an_error_in_junit_not_a_pass(tmp_path: Path) -> None:
    file = write_case(tmp_path, predictions(rows=150, gap=0.05), criteria=PARITY)
    root = ElementTree.fromstring(render_run(jobs.run_audit(load_config(file), out=tmp_path / "run").folder, "junit"))
    assert (root.get("failures"), root.get("errors")) == ("0", "1")
    problem = root.find("testsuite/testcase/error")
    assert problem is not None
    assert problem.get("type") == "inconclusive"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.opened.append(tag)


def test_html_is_the_report(folder: Path) -> None:
    text = render_run(folder, "html")
    tags = Tags()
    tags.feed(text)
    assert tags.opened[0] == "html"
    assert text.rstrip() == (folder / "report.html").read_text(encoding="utf-8").rstrip()


def test_markdown_tables_are_whole_and_data_is_escaped(folder: Path) -> None:
    text = render_run(folder, "md")
    lines = text.splitlines()
    assert lines[0].startswith("## ❌ Pipes \\| and \\<b\\>bold\\</b\\>")
    blocks = re.split(r"\n\n", text)
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(widths) == 1, table
    assert re.search(r"\| ECP\\\(sex\\\) \| 0\.05 \| 0\.\d{3} \| \\\[0\.\d+, 0\.\d+\\\] \| ❌ fail \|", text)
    assert HOSTILE not in text
    assert MARKED not in text
    assert not re.search(r"(?<!\\)<", text)


def test_every_format_is_printed_alone(run: Run, tmp_path: Path) -> None:
    file = write_case(tmp_path, predictions(gap=0.3), criteria=PARITY)
    for form in FORMATS:
        code, out, err = run("audit", file, "--out", tmp_path / "run", "--format", form)
        assert (code, err) == (1, "")
        assert out == render_run(tmp_path / "run", form)
    code, _, err = run("audit", file, "--out", tmp_path / "run", "--format", "yaml")
    assert (code, err) == (2, "auditkit: --format must be one of text, json, md, html, junit; got 'yaml'\n")


def test_a_comparison_is_printed_in_every_format(run: Run, tmp_path: Path) -> None:
    file = write_case(tmp_path)
    code, out, err = run("compare", file, "--out", tmp_path / "run", "--format", "json")
    assert (code, err) == (0, "")
    comparison = json.loads(out)
    assert comparison == json.loads((tmp_path / "run" / "comparison.json").read_text(encoding="utf-8"))
    text = render_run(tmp_path / "run", "md")
    table = next(part for part in text.split("\n\n") if part.startswith("| method |"))
    lines = table.splitlines()
    assert len(lines) == 2 + len(comparison["methods"])
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    for method, line in zip(comparison["methods"], lines[2:], strict=True):
        assert f"{method['utility']['accuracy']['value']:.3f}" in line
    assert run("compare", file, "--format", "yaml")[0] == 2
    assert run("demo", "--format", "yaml")[2].startswith("auditkit: --format must be one of text, json,")


def test_the_same_command_prints_the_same_json_twice(run: Run, tmp_path: Path) -> None:
    file = write_case(tmp_path, predictions(rows=4000))
    texts = {run("audit", file, "--out", tmp_path / name, "--format", "json")[1] for name in ("one", "two")}
    assert len(texts) == 1


def test_a_step_summary_is_appended_where_there_is_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run("audit", write_case(tmp_path, criteria=PARITY), "--out", tmp_path / "run")
    assert summary.read_text(encoding="utf-8") == "before\n" + render_run(tmp_path / "run", "md")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "folder"))
    code, _, err = run("audit", tmp_path / "audit.yaml", "--out", tmp_path / "run")
    assert code == 1
    assert "the summary was not written" in err


def test_a_table_alone_is_a_request(run: Run, tmp_path: Path) -> None:
    frame = predictions(rows=2000, gap=0.3)
    frame.assign(outcome=frame.outcome.map({0: "no", 1: "yes"})).to_parquet(tmp_path / "staff.parquet")
    code, out, err = run(
        "audit", tmp_path / "staff.parquet", "--score", "score", "--attributes", "sex", "--attributes", "sex*region",
        "--label", "outcome", "--positive-label", "yes", "--criteria", "ECP", "--criteria", "equalized_odds",
        "--tolerance", "0.1", "--threshold", "0.4", "--out", tmp_path / "run", "--format", "json",
    )  # fmt: skip
    assert (code, err) == (1, "")
    content = json.loads(out)
    asked = [(f["criterion"]["attributes"], f["criterion"]["tolerance"]) for f in content["findings"]]
    assert asked == [(["sex"], 0.1), (["sex", "region"], 0.1)] * 2
    assert content["threshold"] == 0.4
    again = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert again["data"]["rows"] == 2000
    assert again["data"]["attributes"]["region"].keys() == {"north", "south"}
    assert run("verify", tmp_path / "run")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t.csv", "--attributes", "sex"], "t.csv is a table of predictions: give --score COLUMN, or an audit file"),
        (["t.csv", "--score", "score"], "t.csv is a table of predictions: give --attributes COLUMN"),
        (["t.csv", "--score", "s", "--attributes", "sex"], "score names column 's', which the table lacks"),
        (["t.csv", "--score", "sex", "--attributes", "sex"], "score column 'sex' of .* holds VARCHAR"),
        (
            ["t.csv", "--score", "score", "--attributes", "sex", "--criteria", "fairness"],
            "criteria.*fairness|fairness.*criteria|family",
        ),
        (
            ["t.csv", "--score", "score", "--attributes", "sex", "--criteria", "EER"],
            "EER needs the outcomes; name their column in data.label",
        ),
        (["audit.yaml", "--tolerance", "0.1"], "--tolerance: only for a table; in audit.yaml write it under data"),
    ],
)
def test_wrong_requests_for_a_table(
    arguments: list[str], message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_case(tmp_path)
    predictions(rows=50).to_csv("t.csv", index=False)
    code, out, err = run("audit", *arguments)
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
