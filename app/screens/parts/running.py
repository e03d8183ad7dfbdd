"""Running a job of the library: progress, cancelling, and keeping the run that came out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

import auditkit as ak

from .session import Json, Run, errors_shown, workspace

JOBS: dict[str, Callable[..., Any]] = {"audit": ak.run_audit, "tune": ak.run_tune, "compare": ak.run_compare}
CANCELLED = "cancelled"
_SECONDS_BETWEEN = 0.15
_ONE_AT_A_TIME = threading.Lock()  # holds nobody's data


class Advance(Protocol):
    """Reports that ``n`` more units are done."""

    def __call__(self, n: int = 1) -> None:
        """Advance by ``n`` units."""


class BarProgress:
    """Shows the library's stages on one bar.

    Args:
        place: Where to draw.
    """

    def __init__(self, place: DeltaGenerator) -> None:
        self._place = place

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Draw a stage; every drawing is also where Streamlit stops a run that was cancelled."""
        done, drawn = 0, time.monotonic()
        self._place.progress(0.0, text=name)

        def advance(n: int = 1) -> None:
            nonlocal done, drawn
            done += n
            if time.monotonic() - drawn >= _SECONDS_BETWEEN:
                drawn = time.monotonic()
                text = f"{name}: {done} of {total}" if total else name
                self._place.progress(min(1.0, done / total) if total else 0.0, text=text)

        yield advance
        self._place.progress(1.0, text=f"{name}: done; the next step follows")


def start_button(kind: str, label: str, make: Callable[[], ak.AuditFile], *, disabled: bool = False) -> None:
    """A button that runs a job, with a bar and a button to cancel it.

    A run folder appears whole or not at all, so a cancelled job leaves nothing behind.

    Args:
        kind: "audit", "tune" or "compare".
        label: Of the button.
        make: Builds the audit file.
        disabled: Whether the button cannot be pressed.
    """
    pressed = st.button(label, key=f"run-{kind}", type="primary", disabled=disabled, width="stretch")
    if st.session_state.pop(CANCELLED, None) == kind and not pressed:
        st.info("Cancelled. Nothing of that run was kept; earlier results are as they were.", icon=":material/block:")
    if not pressed:
        return
    with errors_shown():
        config = make()
        with st.container(border=True):
            bar = st.empty()
            st.button("Cancel", key=f"cancel-{kind}", on_click=_note_cancelled, args=(kind,))
            _run(kind, config, BarProgress(bar))
        st.rerun()


def _run(kind: str, config: ak.AuditFile, progress: BarProgress) -> None:
    space = workspace()
    folder = space.folder / f"{kind}-{next(space.numbers)}"
    with _turn(progress), progress.stage("reading the data"):
        result = JOBS[kind](config, out=folder, progress=progress)
    space.runs[kind] = Run(kind, folder, config.to_dict(), result.outcome)


@contextmanager
def _turn(progress: BarProgress) -> Iterator[None]:
    """One job at a time: training seeds the process's random numbers, and two would share the cores anyway."""
    with progress.stage("waiting for another visitor's run") as advance:
        while not _ONE_AT_A_TIME.acquire(timeout=_SECONDS_BETWEEN):
            advance(0)
    try:
        yield
    finally:
        _ONE_AT_A_TIME.release()


def _note_cancelled(kind: str) -> None:
    st.session_state[CANCELLED] = kind


def warn_if_outdated(run: Run, make: Callable[[], ak.AuditFile]) -> None:
    """Say so when the plan is no longer the one that a run was made with."""
    try:
        same = _essence(make().to_dict(), run.kind) == _essence(run.plan, run.kind)
    except ak.AuditkitError:
        same = False
    if not same:
        st.warning("The plan has changed since this run. Run it again to bring the figures up to date.")


def _essence(plan: Json, kind: str) -> Json:
    """What of a plan matters to a kind of run."""
    ignored = {"audit": ("enforce", "tune", "methods", "split"), "tune": ("methods",), "compare": ()}[kind]
    return {key: value for key, value in plan.items() if key not in ignored}
