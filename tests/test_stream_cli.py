"""`auditkit stream` and `auditkit verify`: lines in, lines out, exit codes, and repeating a run that was cut short."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

import auditkit as ak
from auditkit.config import load_stream_file
from auditkit.errors import InputError, SchemaError
from auditkit.stream_job import run_stream
from tests.run_folders import Run

DOCS = Path(__file__).parent.parent / "docs" / "streaming.md"
PLAN = "criteria: [{family: ECP, attributes: sex, tolerance: 0.02}]\nbounds: [0, 1]\nstore: state.db\n"


def write_plan(folder: Path, text: str = PLAN) -> Path:
    (folder / "stream.yaml").write_text(text, encoding="utf-8")
    return folder / "stream.yaml"


def lines_of(count: int, *, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        n = int(rng.integers(1, 4))
        groups = {"sex": rng.choice(["f", "m"], n).tolist()}
        lines.append(json.dumps({"batch_id": str(number), "scores": rng.random(n).tolist(), "groups": groups}))
    return lines


def test_a_file_is_released_as_the_library_would(tmp_path: Path, run: Run) -> None:
    lines = lines_of(600)
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    code, out, said = run("stream", write_plan(tmp_path), tmp_path / "in.jsonl", "--report", tmp_path / "r.json")
    stream = ak.OnlineEnforcer([ak.ECP("sex", tolerance=0.02)], bounds=(0, 1))
    for line, answer in zip(map(json.loads, lines), map(json.loads, out.splitlines()), strict=True):
        expected = stream.step(line["scores"], line["groups"], batch_id=line["batch_id"]).scores.tolist()
        assert answer == {"batch_id": line["batch_id"], "scores": expected, "replayed": False}
    assert code == 0
    assert "pooled gap" in said
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == stream.state.rows
    code, out, _ = run("verify", tmp_path / "state.db")
    assert code == 0
    assert "600 entries" in out
    again = run("stream", tmp_path / "stream.yaml", tmp_path / "in.jsonl")[1]
    assert all(json.loads(line)["replayed"] for line in again.splitlines())


def test_stdin_is_answered_line_by_line(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '\n{"batch_id":"1","scores":[0.2],"groups":{"sex":["f"]}}\n{"batch_id":"1","labels":[1]}\n'
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    plan = write_plan(tmp_path, "criteria: [{family: EER, attributes: sex, tolerance: 0.02}]\n")
    code, out, _ = run("stream", plan)
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"batch_id": "1", "scores": [0.2], "replayed": False},
        {"batch_id": "1", "labels": 1, "replayed": False},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "this is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"scores": [0.1], "groups": {"sex": ["f"]}}', "'batch_id' is missing"),
        ('{"batch_id": 7, "scores": [0.1], "groups": {"sex": ["f"]}}', "batch_id must be text"),
        ('{"batch_id": "x", "scores": [NaN], "groups": {"sex": ["f"]}}', "NaN is no number"),
        ('{"batch_id": "x", "scores": [true], "groups": {"sex": ["f"]}}', "scores must be a list of numbers"),
        ('{"batch_id": "x", "scores": [1e999], "groups": {"sex": ["f"]}}', "infinite"),
        ('{"batch_id": "x", "scores": [0.1], "groups": {"age": [3]}}', "no attribute 'sex'"),
        ('{"batch_id": "x", "scores": [0.1], "sex": ["f"]}', "no key 'sex'"),
        ('{"batch_id": "x", "labels": [1]}', "takes labels late"),
        ('{"batch_id": "x"}', "needs scores and groups"),
        ('{"batch_id": "0", "scores": [0.5], "groups": {"sex": ["f"]}}', "used before"),
    ],
)
def test_a_wrong_line_is_named_and_what_came_before_is_released(line: str, message: str) -> None:
    stream = ak.OnlineEnforcer([ak.ECP("sex", tolerance=0.02)])
    output = io.StringIO()
    with pytest.raises(InputError, match=rf"data, line 4: .*{re.escape(message)}"):
        run_stream(stream, [*lines_of(3), line, *lines_of(9)[4:]], output, name="data", group=100)
    assert len(output.getvalue().splitlines()) == 3
    assert stream.state.batches == 3


def test_an_alarm_is_exit_code_1(tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(0)
    rows = [(rng.random() + (0.5 if k % 2 else 0.0), "fm"[k % 2]) for k in range(1200)]
    lines = [json.dumps({"batch_id": str(k), "scores": [z], "groups": {"sex": [s]}}) for k, (z, s) in enumerate(rows)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    plan = write_plan(tmp_path, "criteria: [{family: ECP, attributes: sex, tolerance: 0.02}]\nrule: scalar\n")
    code, _, said = run("stream", plan, tmp_path / "in.jsonl")
    assert code == 1
    assert "ALARM (pooled)" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("criteria: []", "criteria: tuple should have at least 1 item"),
        ("criteria: [{family: ECP, attributes: sex, tolerance: -1}]", "tolerance must be finite"),
        ("criteria: [{family: ECP, attributes: sex, tolerance: 0.1}]\nspeed: 3", "speed: there is no such key"),
        ("- 1", "is a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_stream_file_is_named(tmp_path: Path, run: Run, text: str, message: str) -> None:
    plan = write_plan(tmp_path, text)
    with pytest.raises(SchemaError, match=message):
        load_stream_file(plan)
    code, _, said = run("stream", plan)
    assert code == 2
    assert "stream.yaml" in said
    assert run("stream", tmp_path / "none.yaml")[0] == 2
    assert run("stream", write_plan(tmp_path), tmp_path / "none.jsonl")[0] == 2


def test_the_stream_file_sets_everything(tmp_path: Path) -> None:
    text = (
        "criteria: [{family: equalized_odds, attributes: sex, tolerance: 0.1}]\nwindow: 500\nband: 2\nmin_labels: 7\n"
    )
    file = load_stream_file(write_plan(tmp_path, text))
    stream = ak.OnlineEnforcer(file.build_criteria(), **file.enforcer_options())
    assert (stream.config.window, stream.config.band, stream.config.min_labels) == (500, 2, 7)
    assert stream.config.criteria == (ak.equalized_odds("sex", tolerance=0.1),)


def test_the_documented_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.chdir(tmp_path)
    text = DOCS.read_text(encoding="utf-8")
    space: dict[str, object] = {}
    exec(
        compile(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0], "streaming.md", "exec"), space
    )
    assert space["report"].rows == 2  # type: ignore[attr-defined]
    plan = write_plan(tmp_path, re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0])
    line = re.findall(r'`(\{"batch_id": "7", "scores".*?\}\})`', text)[0]
    (tmp_path / "in.jsonl").write_text(line, encoding="utf-8")
    assert run("stream", plan, tmp_path / "in.jsonl")[0] == 0
    assert run("verify", tmp_path / "state.db")[0] == 0
