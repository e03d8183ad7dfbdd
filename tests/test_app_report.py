"""The page Report and runs that come from elsewhere: what the app writes is what the command line reads, and back."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import auditkit as ak
from auditkit.reporting import ReportRequest, verify_run, write_report
from auditkit.run_archive import MAX_FILES, copy_run, pack_run, unpack_run
from tests.run_folders import plan, predictions
from tests.test_app import assert_clean, go, press, script_folder, space_of, start, tables_with, verdict_tables, wait

pytest.importorskip("streamlit.testing.v1")
__all__ = ["script_folder"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command line: an audit of generated predictions."""
    from typer.testing import CliRunner

    from auditkit.cli.application import app as command_line

    place = tmp_path_factory.mktemp("made")
    predictions().to_csv(place / "predictions.csv", index=False)
    (place / "audit.yaml").write_text(yaml.safe_dump(plan()), encoding="utf-8")
    done = CliRunner().invoke(command_line, ["audit", str(place / "audit.yaml"), "--out", str(place / "run")])
    assert (place / "run" / "run.json").is_file(), done.output
    return place / "run"


def zip_of(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return held.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def audited() -> Any:
    app = start()
    app.button(key="on-data").click().run()
    return go(press(go(app, "audit"), "run-audit"), "enforce", "compare", "stream", "report")


def test_the_page_writes_what_the_library_writes(tmp_path: Path) -> None:
    app = audited()
    run = space_of(app).runs["audit"]
    app.multiselect(key=run.key("forms")).set_value(["md", "card"]).run()
    app.multiselect(key=run.key("rules")).set_value(["four-fifths", "nist"]).run()
    app.checkbox(key=run.key("public")).set_value(True).run()
    copy = copy_run(run.folder, tmp_path / "copy")
    press(app, "run-report")
    assert_clean(app)
    request = ReportRequest(templates=("four-fifths", "nist"), formats=("md", "card"), public=True)
    write_report(copy, request)
    assert contents(run.folder) == contents(copy)
    labels = {button.label for button in app.download_button}
    assert {"Report (Markdown)", "Model card", "Public summary (HTML)", "Report (JSON)"} <= labels
    assert "Report (PDF)" not in labels, "it was not asked for"
    code = [block.value for block in app.code]
    command = "auditkit report runs/audit --template four-fifths --template nist --write md --write card --public"
    assert any(command in text for text in code)
    assert any(
        "ReportRequest(templates=('four-fifths', 'nist'), formats=('md', 'card'), public=True)" in t for t in code
    )
    assert all(check.passed for check in verify_run(run.folder))


@pytest.mark.slow
@pytest.mark.usefixtures("pdf_writer")
def test_the_page_writes_a_pdf() -> None:
    app = audited()
    run = space_of(app).runs["audit"]
    app.multiselect(key=run.key("forms")).set_value(["pdf"]).run()
    press(app, "run-report")
    assert_clean(app)
    assert (run.folder / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert "Report (PDF)" in {button.label for button in app.download_button}


def test_the_command_line_reads_a_run_of_the_app(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from auditkit.cli.application import app as command_line

    folder = space_of(audited()).runs["audit"].folder
    with zipfile.ZipFile(io.BytesIO(pack_run(folder))) as archive:
        archive.extractall(tmp_path / "run")
    for command in ("verify", "report"):
        done = CliRunner().invoke(command_line, [command, str(tmp_path / "run")])
        assert done.exit_code == 0, done.output


def test_the_app_opens_a_run_of_the_command_line(made: Path) -> None:
    app = start()
    app.file_uploader(key="open-zip").upload("quarter.zip", pack_run(made), "application/zip").run()
    press(app, "open-uploaded")
    assert_clean(app)
    check_opened(app, made)


def check_opened(app: Any, made: Path) -> None:
    audit = json.loads((made / "audit.json").read_text("utf-8"))
    run = space_of(app).runs["audit"]
    shown = verdict_tables(app)[0]
    assert list(shown) == [finding["criterion"]["name"] for finding in audit["findings"]]
    gaps = tables_with(app, "criterion", "verdict", "largest gap")[0]["largest gap"]
    assert [text.split()[0] for text in gaps] == [f"{finding['gap']:.3f}" for finding in audit["findings"]]
    assert contents(run.folder) == contents(made)
    assert any("Opened from" in one.value for one in app.info)
    app.radio(key=run.key("view")).set_value("What if").run()
    assert_clean(app)
    go(app, "enforce", "compare", "stream", "report")
    app.toggle(key="report-preview").set_value(True).run()
    assert_clean(app)


def test_runs_of_a_named_folder_can_be_opened(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf"
    copy_run(made, shelf / "second quarter")
    (shelf / "linked").symlink_to(made)
    app = start()
    assert "open-name" not in {box.key for box in app.selectbox}, "off unless it was named"
    monkeypatch.setenv("AUDITKIT_APP_RUNS", str(shelf))
    app.run()
    assert app.selectbox(key="open-name").options == ["second quarter"], "a link leads elsewhere"
    press(app, "open-stored")
    check_opened(app, made)


def test_another_visitor_does_not_see_an_opened_run(made: Path) -> None:
    first, second = start(), start()
    first.file_uploader(key="open-zip").upload("quarter.zip", pack_run(made), "application/zip").run()
    press(first, "open-uploaded")
    go(second, "data", "audit")
    assert space_of(second).runs == {}
    assert verdict_tables(second) == []


def changed(name: str, content: bytes) -> Callable[[dict[str, bytes]], bytes]:
    return lambda files: zip_of({**files, name: content})


def linked(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO(zip_of(files))
    with zipfile.ZipFile(held, "a") as archive:
        entry = zipfile.ZipInfo("notes.txt")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return held.getvalue()


def twice(files: dict[str, bytes]) -> bytes:
    return zip_of({**files, "RUN.JSON": b"{}"})


def understated(files: dict[str, bytes]) -> bytes:
    """A zip whose directory states fewer bytes than come out."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return held.getvalue()[:-40]


REFUSED: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "no zip": (lambda files: b"PK no zip", "this is no zip"),
    "cut short": (understated, "this is no zip"),
    "parent": (changed("../evil.txt", b"x"), "no path within a folder"),
    "absolute": (changed("/evil.txt", b"x"), "no path within a folder"),
    "backslash": (changed("..\\evil.txt", b"x"), "no path within a folder"),
    "drive": (changed("C:evil.txt", b"x"), "no path within a folder"),
    "dot": (changed("head/./evil.txt", b"x"), "no path within a folder"),
    "deep": (changed("/".join("abcdefgh"), b"x"), "in 8 parts"),
    "link": (linked, "is a link or a device"),
    "twice": (twice, "twice"),
    "many": (lambda files: zip_of({f"{k}.txt": b"" for k in range(MAX_FILES + 1)}), "may hold 200 files"),
    "no run": (lambda files: zip_of({"notes.txt": b"x"}), "no run.json"),
    "changed": (lambda files: changed("report.html", files["report.html"] + b"<script>")(files), "does not verify"),
    "added": (changed("notes.txt", b"x"), "does not verify: manifest.json: notes.txt was added"),
    "nested": (changed("run.json", b"[" * 200_000), "nested too deeply|must hold a JSON object|is not JSON"),
    "no manifest": (lambda files: zip_of({k: v for k, v in files.items() if k != "manifest.json"}), "does not verify"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_run_is_refused(
    make: Callable[[dict[str, bytes]], bytes], message: str, made: Path, tmp_path: Path
) -> None:
    with pytest.raises(ak.AuditkitError, match=message):
        unpack_run(make(contents(made)), tmp_path / "into" / "run")
    assert not (tmp_path / "evil.txt").exists()
    assert list((tmp_path / "into").glob("*")) == [], "nothing is left of what was refused"


def test_a_bomb_is_refused_before_it_is_written(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run.json", b" " * (2 * 2**20))
    monkeypatch.setattr("auditkit.run_archive.MAX_BYTES", 2**20)
    with pytest.raises(ak.AuditkitError, match="may hold 1 MB; this one holds more"):
        unpack_run(held.getvalue(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_counted_as_they_come_out(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stated size of zero does not let more through."""
    packed = pack_run(made)
    monkeypatch.setattr("auditkit.run_archive.MAX_BYTES", 1000)
    monkeypatch.setattr("auditkit.run_archive._members", lambda archive: {e.filename: e for e in archive.infolist()})
    with pytest.raises(ak.AuditkitError, match="holds more"):
        unpack_run(packed, tmp_path / "run")


def test_a_folder_around_the_run_is_taken_off(made: Path, tmp_path: Path) -> None:
    wrapped = zip_of({f"quarter/{name}": content for name, content in contents(made).items()})
    assert contents(unpack_run(wrapped, tmp_path / "run")) == contents(made)


def test_refusals_are_shown_in_a_line(made: Path) -> None:
    app = start()
    bad = changed("audit.json", b"{}")(contents(made))
    app.file_uploader(key="open-zip").upload("quarter.zip", bad, "application/zip").run()
    app.button(key="open-uploaded").click().run()
    assert [error.message for error in app.exception] == []
    assert len(app.error) == 1
    assert space_of(wait(app)).runs == {}
