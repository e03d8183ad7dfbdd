"""Report: choose its forms, have them written, and take the report and the run away."""

from __future__ import annotations

import streamlit as st

import auditkit as ak
from auditkit.reporting import ReportRequest, load_document, render_html

from .parts import reports, running, snippets, words
from .parts.jobs import Job
from .parts.session import KINDS, Run, Workspace, errors_shown, step_buttons, workspace


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
    request = reports.choose(run)

    def begin(space: Workspace) -> Job:
        del space
        return reports.job(run, request)

    running.job_button("report", "Write the report", begin)
    st.header("Take away")
    reports.show_downloads(run)
    _show_record(run)
    if st.toggle("Show the report here", key="report-preview"):
        with errors_shown():
            _show_preview(run, request)
    with errors_shown():
        then = (reports.command(run, request), reports.python(run, request))
        snippets.show(run.kind, ak.make_config(run.plan, folder=space.folder), then=then)
    step_buttons(back="stream")


def _show_preview(run: Run, request: ReportRequest) -> None:
    """The page; of a run from elsewhere drawn anew, since a stranger's page could hold a script."""
    own = run.folder / "report.html"
    page = render_html(load_document(run.folder, templates=request.templates)) if run.opened else own
    st.iframe(page, height=900)


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
