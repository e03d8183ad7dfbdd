from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from auditkit import jobs
from auditkit.config import load_config
from auditkit.config.report_section import Template
from auditkit.errors import InputError, SchemaError
from auditkit.reporting import load_document, render_html
from auditkit.reporting.document import ReportDocument
from auditkit.reporting.regulation import TEMPLATES, fill_template
from auditkit.reporting.regulation.base import Category
from auditkit.reporting.regulation.four_fifths import compare_rates
from auditkit.reporting.sections import RegulatoryReport, RegulatoryTable
from tests.run_folders import write_case

PEOPLE = [
    ("Male", "White", 100, 50), ("Male", "Black", 50, 20), ("Female", "White", 80, 20), ("Female", "Black", 40, 8),
    ("Female", "Native", 4, 1), ("Male", None, 6, 3),
]  # fmt: skip
"""Sex, race, people and how many of them were selected."""


def people_frame() -> pd.DataFrame:
    rows = [(sex, race, float(k < hits)) for sex, race, n, hits in PEOPLE for k in range(n)]
    return pd.DataFrame(rows, columns=["sex", "race", "score"])


def run(folder: Path, frame: pd.DataFrame, *, report: dict[str, Any] | None = None, **changes: Any) -> Path:
    data = {"path": "predictions.csv", "attributes": ["sex", "race"], "score": "score"}
    criteria = [
        {"family": "ECP", "attributes": "sex", "tolerance": 0.05},
        {"family": "ECP", "attributes": ["sex", "race"], "tolerance": 0.05},
    ]
    settings = {"data": data, "criteria": criteria, "report": report or {}, "methods": ["unconstrained"], **changes}
    return jobs.run_audit(load_config(write_case(folder, frame, **settings)), out=folder / "run").folder


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> ReportDocument:
    folder = tmp_path_factory.mktemp("people")
    report = {"templates": ["ll144"], "facts": {"distribution_date": "2026-02-01", "map_reference": "register 12"}}
    return load_document(run(folder, people_frame(), report=report))


def columns(table: RegulatoryTable) -> dict[str, list[Any]]:
    titles = [column.title for column in table.columns]
    return dict(zip(titles, map(list, zip(*table.rows, strict=True)), strict=True))


def test_local_law_144_by_hand(people: ReportDocument) -> None:
    (report,) = people.regulations
    sex, race, both = map(columns, report.tables)
    assert sex["Sex"] == ["Female", "Male"]
    assert sex["People"] == [124, 156]
    assert sex["Selected"] == [29, 73]
    assert sex["Selection rate"] == pytest.approx([29 / 124, 73 / 156])
    assert sex["Impact ratio"] == pytest.approx([(29 / 124) / (73 / 156), 1])
    assert race["Race/ethnicity"] == ["Black", "Native", "White"]
    assert race["Selection rate"] == pytest.approx([28 / 90, 1 / 4, 70 / 180])
    assert race["Impact ratio"] == pytest.approx([0.8, 0.25 / (70 / 180), 1])
    assert race["Share of the data"] == pytest.approx([90 / 274, 4 / 274, 180 / 274])
    assert dict(zip(both["Sex × Race/ethnicity"], both["Impact ratio"], strict=True)) == pytest.approx(
        {"Female × Black": 0.4, "Female × Native": 0.5, "Female × White": 0.5, "Male × Black": 0.8, "Male × White": 1}
    )
    assert any(note.startswith("0 people are of unknown") for note in report.tables[0].notes)
    assert all(any(note.startswith("6 people are of unknown") for note in t.notes) for t in report.tables[1:])
    assert any("Under 2 % of the data: Native." in note for note in report.tables[1].notes)


def test_small_categories_may_be_left_out_of_the_ratios(tmp_path: Path) -> None:
    frame = people_frame()
    frame.loc[(frame.race == "Native"), "score"] = 1.0  # the highest rate of all, of four people
    document = load_document(run(tmp_path, frame, report={"templates": ["ll144"], "exclude_small": True}))
    table = document.regulations[0].tables[1]
    race = columns(table)
    assert race["Impact ratio"] == [pytest.approx(0.8), None, 1.0]
    assert race["People"][1] == 4
    assert race["Selection rate"][1] == 1.0
    assert any("each being under 2 % of the data" in note and "Native" in note for note in table.notes)
    kept = fill_template("ll144", replace(document, run={**document.run, "plan": {}})).tables[1]
    assert columns(kept)["Impact ratio"] == pytest.approx([28 / 90, 1, 70 / 180])


def test_scoring_rates_are_shares_above_the_full_sample_median(tmp_path: Path) -> None:
    scores = {"Female": [0.1, 0.2, 0.3, 0.6], "Male": [0.4, 0.5, 0.7, 0.8]}  # the median is 0.45
    frame = pd.DataFrame([(sex, "White" if s < 0.5 else "Black", s) for sex, listed in scores.items() for s in listed])
    frame.columns = ["sex", "race", "score"]
    document = load_document(run(tmp_path, frame, report={"templates": ["ll144"]}, threshold="median"))
    table = columns(document.regulations[0].tables[0])
    assert table["Scoring rate"] == [0.25, 0.75]
    assert table["Above the median"] == [1, 3]
    assert table["Impact ratio"] == pytest.approx([1 / 3, 1])


def test_no_pass_mark_is_printed_for_local_law_144(people: ReportDocument) -> None:
    report = people.regulations[0]
    words = " ".join([*report.notes, *(note for table in report.tables for note in table.notes)])
    assert "sets no mark" in words
    assert "four" not in words
    assert "0.8" not in words
    assert {column.title for table in report.tables for column in table.columns}.isdisjoint({"Below 4/5", "Verdict"})


def test_local_law_144_says_why_a_table_is_missing(people: ReportDocument) -> None:
    without = replace(people, audit={**people.audit, "decision_rule": None})
    assert not fill_template("ll144", without).tables
    assert "holds no decisions" in fill_template("ll144", without).items[-1].text
    inferred = fill_template("ll144", replace(people, audit={**people.audit, "inferred": ["race"]}))
    assert [table.title for table in inferred.tables] == ["Sex, as found"]
    assert "race is inferred" in inferred.items[-1].text
    renamed = {**people.run, "plan": {"report": {"columns": {"sex": "gender"}}}}
    report = fill_template("ll144", replace(people, run=renamed))
    assert "No criterion of the audit names gender" in report.items[-1].text


def test_four_fifths_by_hand(people: ReportDocument) -> None:
    report = fill_template("four-fifths", people)
    table = columns(next(table for table in report.tables if table.title == "By sex, as found"))
    female, male, n, m = 29 / 124, 73 / 156, 124, 156
    pooled = (29 + 73) / (n + m)
    z = (female - male) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    assert table["z"][0] == pytest.approx(z)
    chi_square = stats.chi2_contingency([[29, 95], [73, 83]], correction=False)
    assert table["z"][0] ** 2 == pytest.approx(chi_square.statistic)
    assert table["p"][0] == pytest.approx(chi_square.pvalue)
    assert table["Below 4/5"] == ["yes", "highest"]
    assert table["Effect size h"][0] == pytest.approx(2 * math.asin(female**0.5) - 2 * math.asin(male**0.5))
    assert table["Difference in rates"][0] == pytest.approx(female - male)


def test_fishers_test_where_there_are_few_people() -> None:
    name, z, p_value = compare_rates(Category("a", 8, 8.0, 1.0), Category("b", 40, 40.0, 20.0))
    chances = [stats.hypergeom.pmf(k, 48, 21, 8) for k in range(9)]
    assert (name, z) == ("Fisher", None)
    assert p_value == pytest.approx(sum(chance for chance in chances if chance <= chances[1] * (1 + 1e-9)))
    assert compare_rates(Category("a", 30, 30.0, 1.0), Category("b", 40, 40.0, 2.0))[0] == "Fisher"  # expected counts
    assert compare_rates(Category("a", 30, 30.0, 10.0), Category("b", 40, 40.0, 20.0))[0] == "z"
    assert compare_rates(Category("a", 30, 31.5, 10.0), Category("b", 40, 40.0, 20.0)) == (None, None, None)
    assert compare_rates(Category("a", 30, 30.0, 0.0), Category("b", 40, 40.0, 0.0)) == (None, None, None)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_states_its_rules_and_concludes_nothing(name: str, people: ReportDocument) -> None:
    report: RegulatoryReport = fill_template(name, people)
    assert report.template == name
    assert report.rule_set
    assert report.as_of == "2026-11-23"
    assert "draws no legal conclusion" in report.notes[0]
    assert report.items
    assert all(item.text and item.reference and item.title for item in report.items)
    page = render_html(replace(people, regulations=(report,)), static=True)
    assert f'id="rules-{name}"' in page
    assert report.rule_set.split(",")[0] in page


def test_what_the_audit_file_does_not_say_is_open(people: ReportDocument) -> None:
    items = {item.reference: item for item in fill_template("nist", people).items if item.reference == "MAP"}
    assert items["MAP"].text == "register 12"
    assert items["MAP"].stated
    owner = next(item for item in fill_template("model-risk", people).items if item.title == "Owner")
    assert not owner.stated
    assert "report.facts.owner" in owner.text


def test_templates_of_the_audit_file_are_those_there_are() -> None:
    assert set(Template.__args__) == set(TEMPLATES)  # type: ignore[attr-defined]


def test_unknown_template(people: ReportDocument) -> None:
    with pytest.raises(InputError, match="--template must be one of ll144, four-fifths"):
        fill_template("gdpr", people)


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"templates": ["gdpr"]}, "templates"),
        ({"reference": {"sex": {"Female": 0.5, "Male": 0.3}}}, "shares that sum to 1; got 0.8"),
        ({"facts": {"data_kind": "test"}}, "say in facts.test_data_reason why"),
        ({"facts": {"colour": "blue"}}, "colour"),
    ],
)
def test_report_section_is_checked(report: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, SchemaError), match=said):
        load_config(write_case(tmp_path, report=report))


def test_representation_against_the_population(tmp_path: Path) -> None:
    reference = {"sex": {"Female": 0.5, "Male": 0.49, "Other": 0.01}}
    document = load_document(run(tmp_path, people_frame(), report={"reference": reference}))
    sex, race = document.representation
    assert [(g.value, g.rows, g.audited_rows) for g in sex.groups] == [
        ("Female", 124, 124), ("Male", 156, 156), ("Other", 0, 0),
    ]  # fmt: skip
    assert [g.difference for g in sex.groups] == pytest.approx([124 / 280 - 0.5, 156 / 280 - 0.49, -0.01])
    assert all(g.reference_share is None and g.difference is None for g in race.groups)
    assert np.isclose(sum(g.share or 0 for g in race.groups), 1)
