"""Start: what this is, and the two ways in."""

from __future__ import annotations

import streamlit as st

from .parts import opening, planning, running, words
from .parts.session import IDLE_HOURS, Workspace, forget, goto, sample_plan, step_buttons, workspace

STEPS = """
1. **Data & model**: what is assessed, for whom, and how large a gap is accepted, chosen before any result is seen.
2. **Audit**: every gap with intervals that hold jointly, errors and calibration by group, and what-if questions.
3. **Enforce** and **Compare**: a head tuned so that the criteria hold, and what that costs beside other methods.
4. **Stream**: the same criteria on scores that arrive one by one.
5. **Report**: one file that opens anywhere, and the folder that it was made from.
"""


def show() -> None:
    """Draw the page."""
    st.title("Audit a model for group fairness")
    st.markdown(
        "auditkit measures how far the scores of a frozen model differ between groups, says what the data can and "
        "cannot settle, and can enforce what you choose. Nothing here draws a legal conclusion."
    )
    space = workspace()
    left, right = st.columns(2)
    with left.container(border=True):
        st.header("See it on a sample")
        people = words.count(planning.sample_table().n_rows)
        st.markdown(f"A small network that predicts income, and {people} people it has never seen. Ready to run.")
        if st.button("Audit the sample model", key="start-sample", type="primary", width="stretch"):
            _audit_sample(space)
    with right.container(border=True):
        st.header("Bring your predictions")
        st.markdown("A table with one row per case: a column of scores, columns of groups, the outcome if it is known.")
        if st.button("Use my own table", key="start-table", width="stretch"):
            _take("table", space)
            goto("data")
    with st.expander("Open a run that was made elsewhere", icon=":material/folder_open:"):
        opening.show()
    st.header("The pages")
    st.markdown(STEPS)
    _show_privacy(space)
    step_buttons(onward="data")


def _audit_sample(space: Workspace) -> None:
    if space.source != "sample":
        _take("sample", space)
    idle = space.job is None or not space.job.is_running
    if idle and "audit" not in space.runs:
        space.job = running.audit_job(space, planning.build(space)).start()
    goto("audit")


def _take(source: str, space: Workspace) -> None:
    if space.source != source:
        space.stop()
        space.memory["source"] = source
        space.restart(sample_plan()["criteria"] if source == "sample" else [])


def _show_privacy(space: Workspace) -> None:
    when_stopped = "" if space.is_kept else "when the app stops, "
    with st.expander("Your data here", icon=":material/lock:"):
        st.markdown(
            "What you upload and find lies in a folder of your session alone. The address of this page holds the key "
            "to it: a reload or a bookmark brings everything back, and **whoever has the full address sees what you "
            f"see**, so share the report and not the address. A session is removed {IDLE_HOURS:g} hours after the "
            f"last visit, {when_stopped}or now:"
        )
        if st.button("Forget everything of this session", key="forget", icon=":material/delete:"):
            forget(space)
            st.session_state.clear()
            st.query_params.clear()
            st.rerun()
