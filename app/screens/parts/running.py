"""Buttons that start a job, a bar that follows it, and the run that came out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

import auditkit as ak

from . import words
from .jobs import Job
from .session import KINDS, Json, Run, Workspace, error_line, errors_shown, keep, profile_of, workspace

JOBS: dict[str, Callable[..., Any]] = {"audit": ak.run_audit, "tune": ak.run_tune, "compare": ak.run_compare}
NAMES = {**KINDS, "stream": "Stream", "upload": "Reading of the table", "report": "Writing of the report"}
_NOTHING_KEPT = "Nothing of that run was kept; earlier results are as they were."
_AFTER_CANCEL = {
    "stream": "What had been released until then is in the store, whole.",
    "report": "The report is as it was.",
}
_STEP = 0.25
_SLOT, _PAUSE = "progress-slot", "pause"


def start_button(kind: str, label: str, make: Callable[[], ak.AuditFile], *, disabled: bool = False) -> None:
    """A button that runs a job of the library; a run folder appears whole or not at all.

    Args:
        kind: "audit", "tune" or "compare".
        label: Of the button.
        make: Builds the audit file.
        disabled: Whether the button cannot be pressed.
    """

    def begin(space: Workspace) -> Job:
        config = make()
        return Job(kind, lambda job: _run(space, kind, config, job))

    job_button(kind, label, begin, disabled=disabled)


def job_button(kind: str, label: str, begin: Callable[[Workspace], Job], *, disabled: bool = False) -> None:
    """A button that starts a job, a bar while it runs, and a line when it was cancelled or failed.

    Args:
        kind: Of the job.
        label: Of the button.
        begin: Makes the job; what it raises is shown.
        disabled: Whether the button cannot be pressed.
    """
    space = workspace()
    busy = space.job is not None and space.job.is_running
    if st.button(label, key=f"run-{kind}", type="primary", disabled=disabled or busy, width="stretch"):
        with errors_shown():
            space.job = begin(space).start()
            st.rerun()
    follow(kind)


def follow(kind: str) -> None:
    """Show the job of the visitor, if there is one to speak of on this page."""
    job = workspace().job
    if job is None:
        return
    if job.is_running and job.kind != kind:
        st.info(f"{NAMES[job.kind]} is running; it goes on whatever page you are on.", icon=":material/hourglass_top:")
    elif job.is_running:
        _show_progress(kind, job)
    elif job.kind == kind and job.state == "cancelled":
        st.info(f"Cancelled. {_AFTER_CANCEL.get(kind, _NOTHING_KEPT)}", icon=":material/block:")
    elif job.kind == kind and job.error is not None:
        known = isinstance(job.error, ak.AuditkitError)
        text = error_line(job.error) if known else f"It failed with {type(job.error).__name__}; nothing was kept."
        st.error(text, icon=":material/error:")


def _show_progress(kind: str, job: Job) -> None:
    with st.container(border=True):
        st.session_state[_SLOT] = st.empty()
        st.session_state[_SLOT].progress(job.share, text=job.text)
        st.button("Cancel", key=f"cancel-{kind}", on_click=job.cancel)


def look_again(seconds: float) -> None:
    """Have this page drawn again after some seconds."""
    st.session_state[_PAUSE] = seconds


@contextmanager
def watched() -> Iterator[None]:
    """Draw a page, stay with a job that it shows, and draw it again when that is over or `look_again` asked for it.

    Whatever the visitor does ends the stay. Fragments that a timer runs again (`run_every`) are no substitute: a timer
    that fires while the visitor leaves for another page leaves that one blank.
    """
    for name in (_SLOT, _PAUSE):
        st.session_state.pop(name, None)  # of a page that was left before it had been drawn
    yield
    slot, seconds = st.session_state.get(_SLOT), st.session_state.get(_PAUSE, math.inf)
    if slot is not None or seconds < math.inf:
        _stay(slot, seconds)
        st.rerun()


def _stay(slot: DeltaGenerator | None, seconds: float) -> None:
    """Show how far the job is until it is over, for some seconds at most."""
    job, until, pause = workspace().job, time.monotonic() + seconds, st.empty()
    while time.monotonic() < until:
        if slot is None or job is None:
            pause.empty()  # where the visitor's next step can end this
        elif job.is_running:
            slot.progress(job.share, text=job.text)
        else:
            return
        time.sleep(_STEP)


def audit_job(space: Workspace, config: ak.AuditFile) -> Job:
    """The audit of an audit file, to be started."""
    return Job("audit", lambda job: _run(space, "audit", config, job))


def _run(space: Workspace, kind: str, config: ak.AuditFile, job: Job) -> None:
    folder = space.folder / f"{kind}-{next(space.numbers)}"
    with job.turn(), job.stage("reading the data"):
        result = JOBS[kind](config, out=folder, progress=job)
        profile = profile_of(config, progress=job) if kind == "audit" else None
    space.runs[kind] = Run(kind, folder, config.to_dict(), result.outcome, profile)
    keep(space, at_end_of_job=True)


def warn_if_outdated(run: Run, make: Callable[[], ak.AuditFile]) -> None:
    """Say so when the plan is no longer the one that a run was made with, or when it was made elsewhere."""
    if run.opened:
        st.info(
            f"Opened from {words.plain(run.opened)}; it was verified, and is shown as it was recorded.",
            icon=":material/folder_open:",
        )
        return
    try:
        same = _essence(make().to_dict(), run.kind) == _essence(run.plan, run.kind)
    except ak.AuditkitError:
        same = False
    if not same:
        st.warning("The plan has changed since this run. Run it again to bring the figures up to date.")


def _essence(plan: Json, kind: str) -> Json:
    """What of a plan matters to a kind of run."""
    ignored = {
        "audit": ("enforce", "tune", "methods", "frontier", "split"),
        "tune": ("methods",),
        "compare": (),
    }[kind]
    return {key: value for key, value in plan.items() if key not in ignored}
