"""Report: take the report and the run away."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import streamlit as st

import auditkit as ak

from .parts import snippets, words
from .parts.session import KINDS, Run, errors_shown, step_buttons, workspace


def show() -> None:
    """Draw the page."""
    st.title("Report")
    space = workspace()
    runs = [kind for kind in reversed(KINDS) if kind in space.runs]
    if not runs:
        st.info("There is no run yet. Run the audit on the page Audit first.", icon=":material/info:")
        step_buttons(back="audit")
        return
    kind = st.radio("Run", runs, format_func=KINDS.__getitem__, key="report-run", horizontal=True)
    run = space.runs[kind or runs[0]]
    st.markdown(
        "The report is one file that opens without a network. It states what was measured and how; it draws no legal "
        "conclusion. The run folder holds everything it was made from, with the hash of every file."
    )
    _show_downloads(run)
    _show_record(run)
    if st.toggle("Show the report here", key="report-preview"):
        st.iframe(run.folder / "report.html", height=900)
    with errors_shown():
        snippets.show(run.kind, ak.make_config(run.plan, folder=space.folder))
    step_buttons(back="stream")


def _show_downloads(run: Run) -> None:
    name = run.kind
    html, numbers, everything = st.columns(3)
    report = (run.folder / "report.html").read_bytes()
    html.download_button(
        "report.html", report, file_name=f"auditkit-{name}.html", mime="text/html", type="primary", key="get-report",
        icon=":material/download:", width="stretch", on_click="ignore",
    )  # fmt: skip
    numbers.download_button(
        "audit.json", (run.folder / "audit.json").read_bytes(), file_name="audit.json", mime="application/json",
        key="get-audit", icon=":material/download:", width="stretch", on_click="ignore",
    )  # fmt: skip
    everything.download_button(
        "Run folder (zip)", lambda: zip_folder(run.folder), file_name=f"auditkit-{name}.zip", mime="application/zip",
        key="get-folder", icon=":material/download:", width="stretch", on_click="ignore",
    )  # fmt: skip


def zip_folder(folder: Path) -> bytes:
    """Every file of a run folder in one zip."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return held.getvalue()


def _show_record(run: Run) -> None:
    record, timing = run.read("run") or {}, run.read("timing") or {}
    hashes = record.get("hashes") or {}
    lines = [
        f"Started {timing.get('started')}, auditkit {record.get('auditkit')}, seed {record.get('seed')}",
        f"Data: {words.plain((record.get('data') or {}).get('source', words.DASH))}, sha256 `{hashes.get('data')}`",
        f"Plan: sha256 `{hashes.get('plan')}`",
    ]
    if hashes.get("model"):
        lines.append(f"Model: fingerprint `{hashes['model']}`")
    st.markdown("\n".join(f"- {line}" for line in lines))
