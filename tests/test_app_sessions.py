"""Sessions of the app that are kept on disk: what a restart leaves, and that nobody else gets at it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from .test_app import (
    APP,
    SECONDS,
    choose,
    csv_of,
    go,
    look_at,
    on_data,
    predictions,
    press,
    script_folder,
    space_of,
    tables_with,
    testing,
    upload,
    verdict_tables,
)

__all__ = ["script_folder"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script_folder: None) -> Path:
    """A folder in which the app keeps sessions."""
    from screens.parts import kept_sessions

    monkeypatch.setenv(kept_sessions.SESSIONS, str(tmp_path / "sessions"))
    return tmp_path / "sessions"


def restart() -> None:
    """What is left in memory of the sessions when the app was stopped and started again: nothing."""
    from screens.parts import session

    session._KNOWN.clear()


def visit(token: str) -> Any:
    app = testing.AppTest.from_file(str(APP / "streamlit_app.py"), default_timeout=SECONDS)
    app.query_params["session"] = token
    app.run()
    assert [error.message for error in app.exception] == []
    return app


def audited() -> Any:
    """A session with an uploaded table, a plan and an audit."""
    app = on_data()
    upload(app, "hiring scores.csv", csv_of(predictions()))
    choose(app, score="score", attributes=["sex", "region"], label_choice="hired")
    app.selectbox(key=space_of(app).key("positive-of-hired")).set_value("yes").run()
    press(app, "usual")
    app.slider(key=space_of(app).key("confidence")).set_value(0.9).run()
    return press(go(app, "audit"), "run-audit")


def test_a_restart_loses_nothing_where_sessions_are_kept(home: Path) -> None:
    app = audited()
    before = space_of(app)
    restart()
    again = visit(before.token)
    after = space_of(again)
    assert after is not before
    assert len(again.info) == 0
    assert (after.token, after.folder, after.criteria) == (before.token, before.folder, before.criteria)
    assert (after.table.n_rows, after.table.columns, after.table.levels) == (
        before.table.n_rows, before.table.columns, before.table.levels,
    )  # fmt: skip
    go(again, "data", "audit")
    assert verdict_tables(again) == verdict_tables(app)
    assert len(again.warning) == 0, "the plan is still the one of the run"
    assert after.runs["audit"].outcome.to_dict()["findings"] == before.runs["audit"].outcome.to_dict()["findings"]
    look_at(again, "What if")
    again.slider(key=after.runs["audit"].key("tolerance")).set_value(0.3).run()
    assert verdict_tables(again)[1] == {
        finding.criterion.name: {"pass": "within tolerance"}.get(finding.verdict, finding.verdict)
        for finding in before.runs["audit"].profile.evaluate(rule=None, tolerance=0.3).findings
    }
    spread = tables_with(look_at(again, "Distributions"), "share")[0]
    assert list(spread["share"]) == list(tables_with(look_at(app, "Distributions"), "share")[0]["share"])
    press(again, "run-audit")
    assert space_of(again).runs["audit"].folder.name == "audit-2", "an earlier run is not written over"


def test_a_job_that_ended_unseen_is_not_taken_for_one_that_a_restart_ended(home: Path) -> None:
    from screens.parts import planning, running

    app = on_data()
    space = space_of(app)
    space.job = running.audit_job(space, planning.build(space)).start()
    space.job.wait(SECONDS)
    restart()
    again = go(visit(space.token), "data", "audit")
    assert len(again.error) == 0
    assert set(space_of(again).runs) == {"audit"}


def test_a_kept_session_is_opened_by_its_token_alone(home: Path) -> None:
    space = space_of(audited())
    assert [path.stat().st_mode & 0o777 for path in home.iterdir()] == [0o700]
    names = [str(path) for path in home.rglob("*")]
    contents = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    assert not any(space.token in name for name in names), "who lists the folder could open the session"
    assert not any(space.token.encode() in content for content in contents)
    restart()
    for other in (space.folder.name, space.token[:-1], space.token.lower(), f"../{space.folder.name}", "x"):
        stranger = visit(other)
        assert space_of(stranger).runs == {}
        assert space_of(stranger).table is None
        assert space_of(stranger).folder != space.folder
        assert "no longer here" in stranger.info[0].value


def test_forgetting_and_idleness_remove_a_kept_session(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from screens.parts import session

    app = audited()
    space = space_of(app)
    old = time.time() - 3600 * (session.IDLE_HOURS + 1)
    os.utime(space.folder / "session.json", (old, old))
    on_data()
    assert space.folder.is_dir(), "it is open in this app"
    os.utime(space.folder / "session.json", (old, old))
    restart()
    late = visit(space.token)
    assert "no longer here" in late.info[0].value
    assert not space.folder.exists()
    fresh = space_of(late)
    press(late, "forget")
    assert not fresh.folder.exists()
    restart()
    assert space_of(visit(fresh.token)).token != fresh.token


def test_a_job_that_a_restart_ended_is_reported(home: Path) -> None:
    from screens.parts import session
    from screens.parts.jobs import Job

    app = audited()
    space = space_of(app)
    space.job = Job("audit", lambda job: None)  # never started, so it goes on
    session.keep(space)
    restart()
    again = visit(space.token)
    go(again, "data", "audit")
    assert "the app was restarted while this ran" in again.error[0].value
    assert verdict_tables(again), "what was found before is still there"


@pytest.mark.parametrize("damage", ["", "no json", "[]", '{"schema": "auditkit.app.session/1"}', "table", "audit"])
def test_a_damaged_session_is_not_opened(home: Path, damage: str) -> None:
    space = space_of(audited())
    restart()
    if not damage:
        (space.folder / "session.json").unlink()
    elif damage == "table":
        (space.folder / space.table.file_name).unlink()
    elif damage == "audit":
        (space.runs["audit"].folder / "audit.json").write_text("{}", encoding="utf-8")
    else:
        (space.folder / "session.json").write_text(damage, encoding="utf-8")
    again = visit(space.token)
    assert "no longer here" in again.info[0].value
    assert space_of(again).runs == {}


def test_without_a_folder_for_sessions_nothing_outlives_the_app(script_folder: None) -> None:
    from screens.parts import session

    space = space_of(audited())
    assert not space.is_kept
    assert not (space.folder / "session.json").exists()
    assert space.folder.parent == Path(session._HOME.name)
    restart()
    assert space_of(visit(space.token)).token != space.token


def test_only_what_is_json_is_kept(home: Path) -> None:
    from screens.parts import session

    space = space_of(on_data())
    space.memory |= {"stream-content": ("a.jsonl", b"{}"), "tail-live.db": [{"rows": 1}], "stream-rule": "pooled"}
    session.keep(space)
    kept = json.loads((space.folder / "session.json").read_text("utf-8"))["memory"]
    assert kept["stream-rule"] == "pooled"
    assert not {"stream-content", "tail-live.db"} & set(kept)
