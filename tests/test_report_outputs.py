from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from auditkit import OnlineEnforcer, jobs
from auditkit.cli import main
from auditkit.config import load_config
from auditkit.criteria import demographic_parity
from auditkit.errors import InputError, MissingExtraError, SchemaError
from auditkit.reporting import (
    ReportRequest,
    html,
    load_document,
    read_document,
    render_html,
    report_schema,
    verify_run,
    write_report,
)
from auditkit.reporting.changes import compare_runs
from auditkit.reporting.markdown import render_whole_markdown
from auditkit.reporting.model_card import render_model_card
from auditkit.reporting.public import render_public_json, summarize_publicly
from auditkit.reporting.static_charts import draw_svg
from auditkit.reporting.suppression import Sums, hide_small
from tests.run_folders import HOSTILE, predictions, write_case

REPORT = {"templates": ["ll144", "four-fifths"], "facts": {"license": "MIT", "owner": "Team | *A*"}}


def make_run(folder: Path, *, hostile: bool = False, **options: Any) -> Path:
    frame = predictions(rows=600, hostile=hostile, **options)
    parity = {"family": "ECP", "attributes": "sex", "tolerance": 0.05}
    given_outcome = {"family": "equalized_odds", "attributes": "sex", "tolerance": 0.05}
    file = write_case(folder, frame, report=REPORT, criteria=[parity, given_outcome], name=f"Audit {HOSTILE}")
    return jobs.run_audit(load_config(file), out=folder / "run").folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("made"), hostile=True)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("earlier"), hostile=True, gap=0.05, seed=1)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def failed(folder: Path, **options: Any) -> dict[str, str]:
    return {check.name: check.detail for check in verify_run(folder, **options) if not check.passed}


# the document


def test_the_page_follows_from_the_json_alone(made: Path) -> None:
    text = (made / "report.json").read_text(encoding="utf-8")
    jsonschema.validate(json.loads(text), report_schema())
    assert render_html(read_document(text)) == (made / "report.html").read_text(encoding="utf-8")


def test_a_report_that_is_none_is_refused(made: Path) -> None:
    content = json.loads((made / "report.json").read_text(encoding="utf-8"))
    with pytest.raises(SchemaError, match=r"no report of schema 'auditkit.report/2': criteria"):
        read_document(json.dumps({**content, "criteria": 3}))
    with pytest.raises(SchemaError, match="auditkit.report/1'; this release reads"):
        read_document(json.dumps({**content, "schema": "auditkit.report/1"}))
    wrong = {**content, "criteria": [{**content["criteria"][0], "tolerance": "wide"}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, report_schema())


def test_schema_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["schema", "report"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["$id"] == "auditkit.report/2"
    with pytest.raises(SystemExit) as stop:
        main(["schema", "colours"])
    assert stop.value.code == 2
    assert "of audit or of report; got 'colours'" in capsys.readouterr().err


def test_stream_figures_beside_the_run_are_reported(copy: Path) -> None:
    rng = np.random.default_rng(0)
    with OnlineEnforcer([demographic_parity("sex", tolerance=0.05)], bounds=(0, 1)) as stream:
        for batch in range(3):
            groups = {"sex": np.where(rng.random(40) < 0.5, "a", "b")}
            stream.step(rng.random(40), groups, batch_id=str(batch))
        figures = stream.report().to_dict()
    (copy / "stream.json").write_text(json.dumps(figures), encoding="utf-8")
    page = write_report(copy).read_text(encoding="utf-8")
    assert 'id="stream"' in page
    assert "120 rows were released in 3 batches" in page
    assert not failed(copy)
    assert "120 rows in 3 batches" in render_whole_markdown(load_document(copy))


def test_a_frontier_beside_the_run_is_reported(copy: Path) -> None:
    points = [
        {"tolerance": e, "loss": 0.4, "quality": q, "gap": e, "head_gap": 0.2, "epochs": 5, "best_epoch": 3}
        for e, q in ((0.1, 0.82), (0.01, 0.79))
    ]
    content = {"schema": "auditkit.frontier/1", "criteria": [], "config": {}, "measure": "accuracy", "points": points}
    (copy / "frontier.json").write_text(json.dumps(content), encoding="utf-8")
    page = write_report(copy).read_text(encoding="utf-8")
    assert 'id="frontier"' in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "0.790" in page
    assert not failed(copy)
    (copy / "frontier.json").write_text(json.dumps({**content, "schema": "auditkit.frontier/9"}), encoding="utf-8")
    with pytest.raises(SchemaError, match=r"frontier\.json has schema 'auditkit\.frontier/9'"):
        write_report(copy)


# integrity


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_changed_byte_is_found(copy: Path) -> None:
    assert not failed(copy)
    for path in files_of(copy):
        if path.name == "manifest.json":
            continue
        content = path.read_bytes()
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert f"manifest.json: {path.relative_to(copy)}" in failed(copy)
        except SchemaError:
            assert path.suffix == ".json"  # no longer JSON, or of no known version: refused before it is compared
        path.write_bytes(content)
    assert not failed(copy)


def test_missing_and_added_files_are_found(copy: Path) -> None:
    (copy / "report.html").unlink()
    (copy / "notes.txt").write_text("x", encoding="utf-8")
    (copy / "link.json").symlink_to(copy / "audit.json")
    found = failed(copy)
    assert found["manifest.json: report.html"] == "missing"
    assert "was added" in found["manifest.json: notes.txt"]
    assert "is a link" in found["manifest.json: link.json"]
    with pytest.raises(InputError, match=r"'link.json' is a link"):
        write_report(copy)
    (copy / "manifest.json").unlink()
    assert "nothing vouches" in failed(copy)["manifest.json"]


def test_writing_a_report_covers_up_no_change(copy: Path) -> None:
    timing = json.loads((copy / "timing.json").read_text(encoding="utf-8"))
    (copy / "timing.json").write_text(json.dumps({**timing, "finished": "2020-01-01T00:00:00+00:00"}), encoding="utf-8")
    write_report(copy)
    assert failed(copy) == {
        "manifest.json: timing.json": "differs from its hash in the manifest",
        "manifest.json": f"1 of {len(files_of(copy)) - 1} files differ",
    }


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A private key, its public half, and somebody else's public key."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519", reason="needs auditkit[sign]")
    from cryptography.hazmat.primitives import serialization as form

    paths = (tmp_path / "key.pem", tmp_path / "public.pem", tmp_path / "other.pem")
    key, other = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    paths[0].write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )  # fmt: skip
    for path, each in zip(paths[1:], (key, other), strict=True):
        public = each.public_key()
        path.write_bytes(public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return paths


def test_signatures(copy: Path, keys: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    key, public, other = keys
    assert failed(copy, public_key=public) == {"manifest.sig": "missing: the folder is not signed"}
    with pytest.raises(SystemExit) as stop:
        main(["report", str(copy), "--sign", str(key)])
    assert stop.value.code == 0
    assert not failed(copy, public_key=public)
    assert any("whose owner was not checked" in check.detail for check in verify_run(copy))
    assert "is not of that key" in failed(copy, public_key=other)["manifest.sig"]
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(copy), "--public-key", str(other)])
    assert stop.value.code == 1
    write_report(copy)  # nothing changes, so the signature holds
    assert not failed(copy, public_key=public)
    with pytest.raises(InputError, match="is signed and its report would change"):
        write_report(copy, ReportRequest(templates=("nist",)))
    write_report(copy, ReportRequest(templates=("nist",), sign=key))
    assert not failed(copy, public_key=public)
    manifest = (copy / "manifest.json").read_text(encoding="utf-8")
    (copy / "manifest.json").write_text(manifest + " ", encoding="utf-8")
    assert "over this manifest" in failed(copy, public_key=public)["manifest.sig"]
    (copy / "manifest.sig").write_text("{}", encoding="utf-8")
    assert "is no signature" in failed(copy)["manifest.sig"]
    capsys.readouterr()


def test_keys_that_are_none(copy: Path, keys: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    elliptic = tmp_path / "ec.pem"
    elliptic.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
        )
    )
    with pytest.raises(InputError, match="an Ed25519 key is needed"):
        write_report(copy, ReportRequest(sign=elliptic))
    with pytest.raises(InputError, match="holds no PEM private key"):
        write_report(copy, ReportRequest(sign=keys[1]))
    with pytest.raises(InputError, match="cannot be read"):
        write_report(copy, ReportRequest(sign=tmp_path / "none.pem"))
    with pytest.raises(InputError, match="holds no PEM public key"):
        verify_run(write_report(copy, ReportRequest(sign=keys[0])).parent, public_key=keys[0])


# pages without scripts, and PDF


def test_a_page_for_print_holds_no_script(made: Path) -> None:
    document = load_document(made)
    page = render_html(document, static=True)
    assert "<script" not in page
    assert page.count("<svg") == len(html.build_charts(document))
    assert "script-src 'none'" in page


def test_drawn_gaps_are_the_gaps(made: Path) -> None:
    document = load_document(made)
    drawing = draw_svg(html.build_charts(document)["gaps-1"])
    ticks = [
        (float(x), float(label.replace("−", "-")))
        for x, label in re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="middle">(−?[\d.]+)</text>', drawing)
    ]
    slope, start = np.polyfit(*zip(*ticks, strict=True), 1)
    drawn = sorted(slope * float(x) + start for x in re.findall(r'<circle cx="([\d.]+)" cy="[\d.]+" r="4.5"', drawing))
    gaps = sorted(gap["gap"] for gap in document.criteria[1].before.gaps)
    assert drawn == pytest.approx(gaps, abs=2e-3)
    assert HOSTILE not in drawing
    assert "&lt;/script&gt;" in drawing


@pytest.mark.usefixtures("pdf_writer")
def test_pdf(copy: Path) -> None:
    write_report(copy, ReportRequest(formats=("pdf",)))
    content = (copy / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
    opened = [zlib.decompressobj().decompress(stream) for stream in streams if stream[:1] == b"x"]
    assert any(b"/StructTreeRoot" in stream for stream in opened)
    assert not failed(copy)


@pytest.mark.usefixtures("pdf_writer")
def test_writing_a_pdf_leaves_the_reading_of_images_as_it_was() -> None:
    code = (
        "from auditkit.reporting.pdf import import_weasyprint; from PIL import ImageFile; import_weasyprint(); "
        "from weasyprint import images; print(ImageFile.LOAD_TRUNCATED_IMAGES)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_pdf_without_its_library(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auditkit.reporting import pdf

    def refuse(_name: str) -> None:
        raise OSError("cannot load library 'libpango-1.0-0'")

    monkeypatch.setattr(pdf, "import_extra", refuse)
    with pytest.raises(MissingExtraError, match="needs the library Pango"):
        pdf.render_pdf(load_document(made))


def test_forms_of_an_earlier_report_are_written_anew(copy: Path) -> None:
    write_report(copy, ReportRequest(formats=("md", "card"), public=True))
    first = {name: (copy / name).read_bytes() for name in ("report.md", "model_card.md", "public.html", "public.json")}
    assert b"MEASURE 2.11" not in first["report.md"]
    for name in first:
        (copy / name).write_bytes(b"stale")
    write_report(copy, ReportRequest(templates=("nist",)))
    assert b"MEASURE 2.11" in (copy / "report.md").read_bytes()
    for name in ("model_card.md", "public.html", "public.json"):
        assert (copy / name).read_bytes() == first[name]
    assert not (copy / "report.pdf").exists()
    assert not failed(copy)


def test_an_earlier_form_that_cannot_be_written_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auditkit.reporting import pdf

    def refuse(_name: str) -> None:
        raise MissingExtraError("weasyprint is missing")

    monkeypatch.setattr(pdf, "import_extra", refuse)
    (copy / "report.pdf").write_bytes(b"%PDF-")
    before = (copy / "report.html").read_bytes()
    with pytest.raises(MissingExtraError, match=r"weasyprint is missing \(written again, .*: report\.pdf\)"):
        write_report(copy, ReportRequest(templates=("nist",)))
    assert (copy / "report.html").read_bytes() == before
    with pytest.raises(MissingExtraError, match=r"missing$"):
        write_report(copy, ReportRequest(formats=("pdf",)))


def test_unknown_format(made: Path) -> None:
    with pytest.raises(InputError, match="--write must be one of pdf, md, card; got 'docx'"):
        write_report(made, ReportRequest(formats=("docx",)))


# Markdown and the model card


def test_whole_markdown_has_every_section(made: Path) -> None:
    text = render_whole_markdown(load_document(made))
    titles = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert titles == [
        "Summary", "Scope", "Plan", "Methods", "Errors by group", "Reliability by group", "Subgroups",
        "New York City Local Law 144", "Four-fifths rule",
        "Limits", "Glossary", "Reproduction", "Sign-off",
    ]  # fmt: skip
    assert HOSTILE not in text
    widths = {row.count(" | ") for row in text.splitlines() if row.startswith("| **")}
    assert len(widths) <= 1


def test_model_card(made: Path) -> None:
    document = load_document(made)
    card = render_model_card(document)
    matter = yaml.safe_load(card.split("---\n")[1])
    assert matter["license"] == "MIT"
    metrics = {metric["name"]: metric for metric in matter["model-index"][0]["results"][0]["metrics"]}
    gap = metrics["largest gap, ECP(sex)"]
    assert gap["value"] == document.criteria[0].before.gap
    assert gap["args"]["confidence_interval"] == list(document.criteria[0].before.interval or ())
    assert any(name.startswith("selection rate, sex = ") for name in metrics)
    assert "Team \\| \\*A\\*" in card
    assert "- **Users**: not stated" in card
    assert HOSTILE not in card.split("---\n", 2)[2]


# against an earlier run


def test_changes_of_other_rows_take_the_samples_as_independent(made: Path, earlier: Path) -> None:
    before, after = load_document(earlier), load_document(made)
    changes = compare_runs(before, after)
    assert not changes.same_rows
    pairs = [(a, b) for x, y in zip(before.criteria, after.criteria, strict=True)
             for a, b in zip(x.before.gaps, y.before.gaps, strict=True)]  # fmt: skip
    factor = stats.norm.ppf(1 - 0.05 / len(pairs) / 2) / stats.norm.ppf(0.975)
    found = [gap for criterion in changes.criteria for gap in criterion.gaps]
    for (a, b), gap in zip(pairs, found, strict=True):
        (l1, u1), (l2, u2) = a["pointwise_interval"], b["pointwise_interval"]
        low = factor * np.hypot(b["gap"] - l2, u1 - a["gap"])
        high = factor * np.hypot(u2 - b["gap"], a["gap"] - l1)
        assert gap.change == pytest.approx(b["gap"] - a["gap"])
        assert gap.interval == pytest.approx((gap.change - low, gap.change + high))
    assert found[0].said == "farther from zero"
    page = render_html(replace(after, changes=changes))
    assert "Against the earlier run" in page


def test_changes_on_the_same_rows_hold_for_any_dependence(made: Path, earlier: Path) -> None:
    after = load_document(made)
    assert all(
        gap.change == 0 and gap.said == "no change shown"
        for criterion in compare_runs(after, after).criteria
        for gap in criterion.gaps
    )
    before = load_document(earlier)
    same = {**before.run, "data": after.run["data"]}
    wide, narrow = compare_runs(replace(before, run=same), after), compare_runs(before, after)
    assert wide.same_rows
    assert "whatever the dependence" in wide.basis
    for one, other in zip(wide.criteria[0].gaps, narrow.criteria[0].gaps, strict=True):
        assert one.interval is not None and other.interval is not None  # noqa: PT018
        assert one.interval[0] < other.interval[0] < other.interval[1] < one.interval[1]


@pytest.mark.slow
def test_intervals_of_changes_cover(rng: np.random.Generator, made: Path) -> None:
    import auditkit as ak

    document, truth, covered, draws = load_document(made), 0.1 - 0.3, 0, 300

    def draw(gap: float) -> Any:
        first = np.repeat([True, False], 150)
        scores = (rng.random(300) < np.where(first, 0.4 + gap, 0.4)).astype(float)
        groups = ak.Groups({"sex": np.where(first, "a", "b")})
        audit = ak.audit(scores, groups, [ak.ECP("sex", tolerance=0.05)], threshold=0.5).to_dict()
        finding = audit["findings"][0]
        row = document.criteria[0]
        outcome = replace(row.before, gaps=tuple(finding["gaps"]))
        return replace(document, criteria=(replace(row, before=outcome),))

    for number in range(draws):
        first = draw(0.3)
        changed = compare_runs(replace(first, run={"data": {"sha256": str(number)}}), draw(0.1))
        low, high = changed.criteria[0].gaps[0].interval or (0.0, 0.0)
        covered += low <= truth <= high
    assert covered / draws > 0.92  # 0.95 less 2.4 standard errors


# the public summary


def test_hand_made_table_with_margins() -> None:
    #             a   b   c        the 4 follows from either margin, and so does what is hidden beside it
    counts = [4.0, 40.0, 50.0, 30.0, 60.0, 70.0]
    rows = np.kron(np.eye(2), np.ones(3))
    columns = np.kron(np.ones((1, 2)), np.eye(3))
    members = np.vstack([rows, columns, np.eye(6)])
    sums = Sums(members, members @ counts, np.repeat([0, 1, 2], [2, 3, 6]), sum(counts))
    hidden = hide_small(sums, sums.values < 10)
    assert hidden[5]
    assert not hidden[:5].any()
    assert hidden[5:].reshape(2, 3).tolist() == [[True, True, False], [True, True, False]]
    assert not hide_small(sums, sums.values < 3).any()


@settings(max_examples=25)
@given(st.lists(st.integers(0, 60), min_size=6, max_size=6), st.integers(2, 12))
def test_hidden_counts_cannot_be_found_by_subtraction(counts: list[int], smallest: int) -> None:
    members = np.vstack([np.kron(np.eye(2), np.ones(3)), np.kron(np.ones((1, 2)), np.eye(3)), np.eye(6)])
    sums = Sums(members, members @ np.array(counts, float), np.repeat([0, 1, 2], [2, 3, 6]), float(sum(counts)))
    small = sums.values < smallest
    if sum(counts) < smallest:
        return
    hidden = hide_small(sums, small, smallest=smallest)
    assert (hidden | ~small).all()
    published = np.vstack([np.ones(6), members[~hidden]])
    for target in np.flatnonzero(small):
        residual = members[target] - published.T @ np.linalg.lstsq(published.T, members[target], rcond=None)[0]
        assert np.linalg.norm(residual) > 1e-6


def test_public_summary_holds_no_small_count_and_no_trace(tmp_path: Path) -> None:
    frame = predictions(rows=400)
    frame.loc[:5, "sex"] = "Other"
    criteria = [{"family": "ECP", "attributes": "sex", "tolerance": 0.05}]
    folder = jobs.run_audit(load_config(write_case(tmp_path, frame, criteria=criteria)), out=tmp_path / "run").folder
    write_report(folder, ReportRequest(public=True))
    text = (folder / "public.json").read_text(encoding="utf-8") + (folder / "public.html").read_text(encoding="utf-8")
    groups = {g["group"]: g for g in json.loads((folder / "public.json").read_text())["tables"][0]["groups"]}
    assert groups["Other"] == {"group": "Other", "people": None, "rate": None, "ratio": None}
    assert sum(group["people"] is None for group in groups.values()) == 2  # else the total gives it back
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    hashes = (record["hashes"]["data"], record["hashes"]["plan"])
    for secret in (*hashes, "predictions.csv", "rows_needed", "fewer than 10 rows"):
        assert secret not in text
    gap = json.loads((folder / "public.json").read_text())["criteria"][0]
    assert gap["gap"] is None
    assert gap["verdict"] == load_document(folder).criteria[0].before.verdict
    assert not failed(folder)


def test_public_summary_of_too_few_people(made: Path) -> None:
    document = load_document(made)
    with pytest.raises(InputError, match="of 7 people, fewer than 10"):
        summarize_publicly(replace(document, audit={**document.audit, "n_rows": 7}))
    with pytest.raises(InputError, match="smallest must be at least 2"):
        summarize_publicly(document, smallest=1)
    summary = json.loads(render_public_json(summarize_publicly(document)))
    rates = [group["rate"] for table in summary["tables"] for group in table["groups"]]
    assert all(rate is None or rate == round(rate, 2) for rate in rates)
