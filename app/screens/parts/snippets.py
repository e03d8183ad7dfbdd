"""The same on the command line and in Python."""

from __future__ import annotations

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


def show(kind: str, config: ak.AuditFile) -> None:
    """An expander with the three."""
    with st.expander("The same outside this app", icon=":material/terminal:"):
        text = audit_file(config)
        st.caption("Save this as audit.yaml" + ("" if config.model else ", beside the table") + ":")
        st.code(text, language="yaml")
        st.download_button(
            "Download audit.yaml", text, file_name="audit.yaml", mime="application/yaml", key=f"yaml-{kind}"
        )
        st.caption("On the command line:")
        st.code(command(kind), language="bash")
        st.caption("In Python:")
        st.code(python(kind), language="python")
