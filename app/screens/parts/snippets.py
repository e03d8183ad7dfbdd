"""The same on the command line and in Python."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
import yaml

import auditkit as ak

from .session import Json

COMMANDS = {"audit": "audit", "tune": "tune", "compare": "compare"}
_TABLE = """\
import auditkit as ak

config = ak.load_config("audit.yaml")
result = ak.{job}(config, out="runs/{command}")
print(result.outcome.verdict)
for finding in result.outcome.findings:
    print(finding.criterion.name, finding.gap, finding.interval, finding.verdict)
"""
_AFTER = """\
for finding in result.after.findings if result.after else ():
    print("after:", finding.criterion.name, finding.gap, finding.interval, finding.verdict)
"""
_METHODS = """\
for method in result.comparison["methods"]:
    print(method["title"], method["utility"]["accuracy"], [gap["gap"] for gap in method["gaps"]])
"""


STREAM_COMMAND = "auditkit stream stream.yaml batches.jsonl > released.jsonl"
_STORE = """\
import auditkit as ak

found = ak.describe_stream("{store}", points=300)
for gap in found["gaps"]:
    print(gap["criterion"], gap["name"], gap["gap"], gap["bound"], gap["interval"])
"""
_STREAM = """\
import json

import auditkit as ak

criteria = [ak.Criterion.from_dict(one) for one in {criteria}]
with ak.OnlineEnforcer(criteria, store="state.db"{options}) as stream, open("batches.jsonl", encoding="utf-8") as lines:
    for batch in map(json.loads, lines):
        if "scores" in batch:
            stream.step(batch["scores"], batch["groups"], batch_id=batch["batch_id"])
        else:
            stream.observe(batch["labels"], batch_id=batch["batch_id"])
    report = stream.report()
for gap in report.gaps:
    print(gap.criterion, gap.name, gap.gap, gap.bound, gap.interval)
"""


def _show_code(text: str, language: str | None) -> None:
    """Code whose lines are wrapped, since what scrolls sideways is not reached by keyboard."""
    st.code(text, language=language, wrap_lines=True)


def audit_file(config: ak.AuditFile) -> str:
    """The audit file as YAML, without what is default anyway."""
    content: Json = config.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def python(kind: str) -> str:
    """The same run in Python."""
    code = _TABLE.format(job=f"run_{COMMANDS[kind]}", command=COMMANDS[kind])
    return code + {"audit": "", "tune": _AFTER, "compare": _METHODS}[kind]


def command(kind: str) -> str:
    """The same run on the command line."""
    return f"auditkit {COMMANDS[kind]} audit.yaml --out runs/{COMMANDS[kind]}"


def show(kind: str, config: ak.AuditFile, *, then: tuple[str, str] | None = None) -> None:
    """An expander with the three.

    Args:
        kind: Of the run.
        config: Its audit file.
        then: A command and code that follow on the run.
    """
    after = ("", "") if then is None else (f"\n{then[0]}", f"\n\n{then[1]}")
    with st.expander("The same outside this app", icon=":material/terminal:"):
        text = audit_file(config)
        st.caption("Save this as audit.yaml" + ("" if config.model else ", beside the table") + ":")
        _show_code(text, None)  # its colours for keys are too pale to read
        st.download_button(
            "Download audit.yaml", text, file_name="audit.yaml", mime="application/yaml", key=f"yaml-{kind}"
        )
        st.caption("On the command line:")
        _show_code(command(kind) + after[0], "bash")
        st.caption("In Python:")
        _show_code(python(kind).rstrip() + after[1], "python")


def stream_file(settings: Json) -> str:
    """A stream file as YAML."""
    return yaml.safe_dump({**settings, "store": "state.db"}, sort_keys=False, allow_unicode=True, width=100)


def stream_python(settings: Json, criteria: Sequence[ak.Criterion]) -> str:
    """The same stream in Python."""
    options = "".join(f", {name}={value!r}" for name, value in settings.items() if name != "criteria")
    return _STREAM.format(criteria=[one.to_dict() for one in criteria], options=options)


def show_stream(settings: Json, criteria: Sequence[ak.Criterion]) -> None:
    """An expander with a stream file, the command and the code."""
    with st.expander("The same outside this app", icon=":material/terminal:"):
        text = stream_file(settings)
        st.caption("Save this as stream.yaml, beside the batches:")
        _show_code(text, None)  # its colours for keys are too pale to read
        st.download_button(
            "Download stream.yaml", text, file_name="stream.yaml", mime="application/yaml", key="yaml-stream"
        )
        st.caption("On the command line:")
        _show_code(f"{STREAM_COMMAND}\nauditkit verify state.db", "bash")
        st.caption("In Python:")
        _show_code(stream_python(settings, criteria), "python")


def show_store(name: str) -> None:
    """An expander with how a store is checked and read."""
    with st.expander("The same outside this app", icon=":material/terminal:"):
        st.caption("On the command line:")
        _show_code(f"auditkit verify {name}", "bash")
        st.caption("In Python:")
        _show_code(_STORE.format(store=name), "python")
