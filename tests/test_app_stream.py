"""The app's stream page: what is drawn is what the library reports, and the snippets do the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import auditkit as ak

from .test_app import app, assert_clean, choose, csv_of, go, predictions, press, script_folder, space_of, tables_with
from .test_app import upload as upload_table

__all__ = ["app", "script_folder"]


def open_stream(app: Any) -> Any:
    """From Data & model to the stream, without running what lies between."""
    upload_table(app, "scores.csv", csv_of(predictions(rows=900)))
    choose(app, score="score", attributes=["sex", "region"])
    press(app, "usual")
    press(go(app, "audit"), "run-audit")
    return go(app, "enforce", "compare", "stream")


def gaps_of(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["rows"] == frame["rows"].max()]


def test_replaying_a_table_shows_what_the_stream_reports(app: Any, tmp_path: Path, monkeypatch: Any) -> None:
    open_stream(app)
    press(app, "run-stream")
    assert_clean(app)
    replayed = space_of(app).stream
    found = ak.describe_stream(replayed.store)
    assert found["rows"] == 900
    last = gaps_of(tables_with(app, "bound", "compared")[0])
    assert list(last["gap"]) == [gap["gap"] for gap in found["gaps"]]
    assert list(last["bound"]) == [gap["bound"] for gap in found["gaps"]]
    shifts = tables_with(app, "group", "value")[0]
    assert list(gaps_of(shifts)["value"]) == [one["shift"] for one in found["corrections"]]
    assert {"get-store", "get-batches", "stream-gap-csv"} <= {button.key for button in app.download_button}
    check_outside(app, found, tmp_path, monkeypatch)


def check_outside(app: Any, found: dict[str, Any], folder: Path, monkeypatch: Any) -> None:
    """The command and the code on the page must come to the same figures."""
    from screens.parts import planning, streams

    text, command, code = [block.value for block in app.code][-3:]
    batches = streams.table_batches(planning.build(space_of(app)), 50, labels=False)
    (folder / "batches.jsonl").write_bytes(streams.as_lines(batches))
    (folder / "stream.yaml").write_text(text, encoding="utf-8")
    assert "criteria" in yaml.safe_load(text)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    assert [gap.gap for gap in names["report"].gaps] == [gap["gap"] for gap in found["gaps"]]
    (folder / "state.db").unlink()
    for line in command.splitlines():
        arguments, _, target = line.removeprefix("auditkit ").partition(" > ")
        done = subprocess.run([sys.executable, "-m", "auditkit", *arguments.split()], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not target or len(done.stdout.splitlines()) == 18
    assert [gap["gap"] for gap in ak.describe_stream("state.db")["gaps"]] == [gap["gap"] for gap in found["gaps"]]


def lines_of(batches: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(batch) + "\n" for batch in batches).encode()


def test_a_file_of_batches_is_replayed_and_a_wrong_line_is_named(app: Any) -> None:
    open_stream(app)
    app.radio(key="stream-source").set_value("file").run()
    assert app.button(key="run-stream").disabled
    batches = [{"batch_id": str(k), "scores": [0.2 + 0.01 * k, 0.7], "groups": {"sex": ["f", "m"]}} for k in range(30)]
    app.file_uploader(key="stream-file").upload("batches.jsonl", lines_of(batches), "text/plain").run()
    press(app, "run-stream")
    assert_clean(app)
    assert space_of(app).stream.points[-1]["rows"] == 60
    wrong = lines_of(batches[:2]) + b'{"batch_id": "2", "scores": [0.1], "groups": {"race": ["a"]}}\n'
    app.file_uploader(key="stream-file").upload("other.jsonl", wrong, "text/plain").run()
    press(app, "run-stream")
    assert app.error[0].value.replace("\\", "").startswith("other.jsonl, line 3: ")


@pytest.mark.parametrize("content", [b"no json\n", b"[1]\n", b'{"scores": [1]}\n', b"\n"])
def test_what_is_no_file_of_batches_is_refused(content: bytes, script_folder: None) -> None:
    from screens.parts import streams

    with pytest.raises(ak.AuditkitError, match=r"b\.jsonl"):
        streams.attributes_of(content, "b.jsonl")


def test_a_store_is_shown_only_where_the_operator_allows_it(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from screens.parts import running, streams

    with ak.OnlineEnforcer(ak.ECP("sex", tolerance=0.02), store=tmp_path / "live.db") as stream:
        stream.step([0.2, 0.9, 0.4], {"sex": ["f", "m", "f"]})
        open_stream(app)
        assert list(app.radio(key="stream-source").options) == ["Rows of the plan's data", "A file of batches"]
        monkeypatch.setenv(streams.STORES, str(tmp_path))
        monkeypatch.setattr(running, "look_again", lambda seconds: None)  # it would look at the store again and again
        (tmp_path / "outside.db").symlink_to("/etc/hostname")
        assert [path.name for path in streams.stored_streams() or []] == ["live.db"]
        app.run()
        app.radio(key="stream-source").set_value("store").run()
        assert_clean(app)
        assert tables_with(app, "bound", "compared")[0]["rows"].max() == 3
        stream.step([0.5, 0.6], {"sex": ["f", "m"]})
        app.run()
        assert tables_with(app, "bound", "compared")[0]["rows"].max() == 5
