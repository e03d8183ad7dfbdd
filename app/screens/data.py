"""Data & model, and what they are to be assessed for, before any result is seen."""

from __future__ import annotations

import streamlit as st

import auditkit as ak

from .parts import columns, criteria, planning, running, snippets, uploads, words
from .parts.jobs import Job
from .parts.session import Workspace, errors_shown, keep, kept, sample_plan, step_buttons, workspace

SOURCES = {"sample": "Bundled sample", "table": "My predictions"}


def show() -> None:
    """Draw the page."""
    st.title("Data & model")
    st.markdown(
        "Choose what is assessed and how large a gap is accepted **before** looking at results. "
        "The plan is stored, with its hash, beside everything that is found."
    )
    space = workspace()
    st.header("Data")
    _choose_source(space)
    attributes, strata, has_label = _show_sample(space) if space.source == "sample" else _show_upload(space)
    if space.source == "table" and space.table is None:
        return
    st.header("Criteria")
    criteria.edit(space, attributes=attributes, strata=strata, has_label=has_label)
    st.header("Settings")
    _show_settings(space)
    _finish(space)


def _choose_source(space: Workspace) -> None:
    before = space.source
    kept(
        st.radio, "Source", key="source", default="sample", options=list(SOURCES),
        format_func=SOURCES.__getitem__, horizontal=True, label_visibility="collapsed",
    )  # fmt: skip
    if space.source != before:
        space.stop()
        space.restart(sample_plan()["criteria"] if space.source == "sample" else [])


def _show_sample(space: Workspace) -> tuple[list[str], list[str], bool]:
    table = planning.sample_table()
    st.markdown(
        f"**Adult income** (UCI, CC BY 4.0): {words.count(table.n_rows)} people held out of training, and a small "
        f"network that predicts who earns more than {words.count(50_000)} dollars a year. Sex and "
        "race are attributes, not inputs."
    )
    _show_preview(table)
    plan = sample_plan()
    others = [name for name in table.levels if name not in plan["data"]["attributes"]]
    strata = kept(
        st.multiselect, "Legitimate conditions (strata)", key=space.key("strata"), default=[], options=others,
        help="A criterion may compare groups within each value of these.",
    )  # fmt: skip
    return list(plan["data"]["attributes"]), list(strata), True


def _show_upload(space: Workspace) -> tuple[list[str], list[str], bool]:
    file = st.file_uploader(
        "A table of predictions", type=list(uploads.SUFFIXES), key="upload", on_change=_note_new_file,
        help="One row per person or case: a column of scores, columns of attributes, and the outcome if it is known.",
    )  # fmt: skip
    st.caption(
        "csv, parquet, arrow or feather. The file lies in a folder of this session alone and is removed with it, as "
        "the page Start says."
    )
    if file is not None and st.session_state.pop("new-file", False):
        space.stop()
        name, content = file.name, file.getvalue()
        space.job = Job("upload", lambda job: take_upload(space, name, content, job)).start()
        st.rerun()
    running.follow("upload")
    if space.table is None:
        return [], [], False
    st.markdown(f"**{words.plain(space.table.file_name)}**")
    _show_preview(space.table)
    return columns.choose(space, space.table)


def _note_new_file() -> None:
    st.session_state["new-file"] = True
    space = workspace()
    space.table = None
    space.restart([])


def take_upload(space: Workspace, name: str, content: bytes, job: Job) -> None:
    """Make an upload the data of this session.

    Raises:
        AuditkitError: It is refused; the session is without a table then.
    """
    job.report(f"reading {name}", 0.2)
    table = uploads.accept(space.folder, name, content)
    job.report(f"reading {name}", 1.0)
    space.table = table
    space.generation += 1
    space.restart([])
    keep(space, at_end_of_job=True)


def _show_preview(table: uploads.Table) -> None:
    with st.expander(f"First rows of {words.count(table.n_rows)}", icon=":material/table:"):
        st.dataframe(table.preview, hide_index=True)


def _show_settings(space: Workspace) -> None:
    decide = kept(st.toggle, "Look at decisions as well", key=space.key("decide"), default=True)
    if decide:
        _choose_rule(space)
    left, right = st.columns(2)
    with left:
        kept(
            st.slider, "Confidence", key=space.key("confidence"), default=0.95, min_value=0.8, max_value=0.99,
            step=0.01, help="Joint confidence of all intervals of the audit.",
        )  # fmt: skip
    with right:
        kept(st.number_input, "Seed", key=space.key("seed"), default=0, min_value=0, step=1)


def _choose_rule(space: Workspace) -> None:
    left, right = st.columns(2)
    with left:
        rule = kept(
            st.selectbox, "Positive are", key=space.key("rule"), default="threshold", options=list(words.RULES),
            format_func=words.RULES.__getitem__,
        )  # fmt: skip
    with right:
        if rule == "threshold":
            kept(
                st.number_input, "Threshold", key=space.key("threshold"), default=0.5, step=0.05,
                help="Scores at or above it are positive decisions.",
            )  # fmt: skip
        elif rule == "top":
            kept(
                st.number_input, "Percent of the rows", key=space.key("top"), default=10.0, min_value=0.1,
                max_value=100.0, step=1.0, help="Rows with equal scores at the cut share the places that are left.",
            )  # fmt: skip


def _finish(space: Workspace) -> None:
    config: ak.AuditFile | None = None
    with errors_shown():
        config = planning.build(space)
    if config is not None:
        snippets.show("audit", config)
        step_buttons(back="start", onward="audit")
