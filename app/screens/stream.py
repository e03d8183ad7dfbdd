"""Stream: the criteria on scores that arrive batch by batch, replayed or looked at where they are released."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

import auditkit as ak

from .parts import planning, running, snippets, stream_charts, streams, words
from .parts.jobs import Job
from .parts.session import Json, Workspace, errors_shown, kept, step_buttons, workspace

SOURCES = {"data": "Rows of the plan's data", "file": "A file of batches", "store": "A store of this machine"}
PACES = {0: "as fast as possible", 20: "20 batches a second", 5: "5 batches a second"}
RULES = {"pooled": "pooled: the gap of everything released", "scalar": "scalar: every batch by itself"}


@dataclass(frozen=True)
class Prepared:
    """What is ready to be replayed.

    Attributes:
        specs: The criteria, as a stream file says them.
        criteria: The same as objects.
        batches: Yields what to release, anew each time.
    """

    specs: list[Json]
    criteria: tuple[ak.Criterion, ...]
    batches: Callable[[], Iterable[Json]]


def show() -> None:
    """Draw the page."""
    st.title("Stream")
    st.markdown(
        "Scores arrive batch by batch and leave enforced. What is held is the gap of **everything released**, since "
        "that is what an auditor will measure; a bound on it follows from the ledger at every moment."
    )
    space = workspace()
    stores = streams.stored_streams()
    options = [name for name in SOURCES if name != "store" or stores is not None]
    source = kept(
        st.radio, "What is shown", key="stream-source", default="data", options=options,
        format_func=SOURCES.__getitem__, horizontal=True,
    )  # fmt: skip
    if source == "store":
        _show_store(stores or [])
    else:
        _show_replay(space, source)
    step_buttons(back="compare", onward="report")


def _show_replay(space: Workspace, source: str) -> None:
    prepared: Prepared | None = None
    with errors_shown():
        prepared = _choose_data(space) if source == "data" else _choose_file(space)
    settings = _choose_settings(space) if prepared is not None else {}

    def begin(space: Workspace) -> Job:
        assert prepared is not None
        store = space.folder / f"stream-{next(space.numbers)}.db"
        replayed = streams.Replay(store, prepared.criteria, {"criteria": prepared.specs, **settings})
        batches, pace = prepared.batches, float(space.memory.get("stream-pace", 0))
        space.stream = replayed
        return Job("stream", lambda job: streams.replay(replayed, batches(), job, pace))

    running.job_button("stream", "Replay", begin, disabled=prepared is None or not prepared.specs)
    replayed = space.stream
    if replayed is None:
        return
    _show_live(space)
    snippets.show_stream(replayed.settings, replayed.criteria)
    if space.job is None or not space.job.is_running:
        _show_downloads(replayed, prepared)


def _choose_data(space: Workspace) -> Prepared:
    config = planning.build(space)
    built = config.build_criteria()
    names = [criterion.name for criterion in built]
    default = planning.enforced_default(space)
    chosen = kept(
        st.multiselect, "Criteria to enforce", key=space.key("stream-criteria"), default=default,
        options=list(range(len(names))), format_func=lambda place: names[place],
        help="Those that need outcomes begin to act once outcomes have arrived.",
    )  # fmt: skip
    rows = kept(
        st.number_input, "Rows in a batch", key=space.key("stream-rows"), default=50, min_value=1, max_value=10_000,
        step=10,
    )  # fmt: skip
    labels = any(built[place].needs_labels for place in chosen)
    if labels:
        st.caption("Outcomes are told right after the batch that they are of has been released.")
    specs = [space.criteria[place] for place in chosen]
    criteria = tuple(built[place] for place in chosen)
    return Prepared(specs, criteria, lambda: streams.table_batches(config, int(rows), labels=labels))


def _choose_file(space: Workspace) -> Prepared | None:
    file = st.file_uploader(
        "A file of batches", type=["jsonl"], key="stream-file",
        help='JSON, one object a line: {"batch_id": "7", "scores": [0.2, 0.9], "groups": {"sex": ["f", "m"]}}',
    )  # fmt: skip
    if file is not None:
        space.memory["stream-content"] = (file.name, file.getvalue())
    if "stream-content" not in space.memory:
        return None
    name, content = space.memory["stream-content"]
    st.markdown(f"**{words.plain(name)}**")
    known = streams.attributes_of(content, name)
    attributes = kept(st.multiselect, "Attributes", key="stream-attributes", default=known, options=known)
    tolerance = kept(
        st.number_input, "Tolerance", key="stream-tolerance", default=0.05, min_value=0.0, step=0.01, format="%.3f"
    )
    specs = [{"family": "ECP", "attributes": [one], "tolerance": tolerance} for one in attributes]
    criteria = tuple(ak.ECP(one, tolerance=tolerance) for one in attributes)
    return Prepared(specs, criteria, lambda: streams.file_batches(content, name))


def _choose_settings(space: Workspace) -> Json:
    left, right = st.columns(2)
    with left:
        rule = kept(
            st.selectbox, "Rule", key="stream-rule", default="pooled", options=list(RULES),
            format_func=RULES.__getitem__,
        )  # fmt: skip
    with right:
        kept(st.selectbox, "Speed", key="stream-pace", default=0, options=list(PACES), format_func=PACES.__getitem__)
    inside = kept(st.toggle, "Keep released scores in [0, 1]", key=space.key("stream-bounds"), default=True)
    return {"rule": rule} | ({"bounds": [0, 1]} if inside else {})


def _show_live(space: Workspace) -> None:
    if space.job is not None and space.job.is_running and space.job.kind == "stream":
        running.look_again(1.0)
    if space.stream is None or not space.stream.points:
        st.caption("Nothing has been released yet.")
        return
    _draw_points(list(space.stream.points))


def _draw_points(points: list[Json]) -> None:
    now = points[-1]
    rows, batches, labelled, alarms = st.columns(4)
    rows.metric("Rows released", words.count(now["rows"]))
    batches.metric("Batches", words.count(now["batches"]))
    labelled.metric("With outcomes", words.count(now["labelled_rows"]))
    alarms.metric("Alarms now", len(now["alarms"]))
    stream_charts.show_gap(points, key="stream-gap")
    st.header("Multipliers")
    stream_charts.show_corrections(points, key="stream-corrections")
    st.header("Alarms")
    stream_charts.show_alarms(points, key="stream-alarms")


def _show_store(stores: list[Path]) -> None:
    if not stores:
        st.info("The folder that this app may look at holds no store (*.db) yet.", icon=":material/info:")
        return
    store = st.selectbox("Store", stores, format_func=lambda path: path.name, key="stream-store")
    st.caption("The store is only read, every two seconds. Gaps come from its ledger, the rest from its newest state.")
    _tail(store)
    snippets.show_store(store.name)


def _tail(store: Path) -> None:
    running.look_again(2.0)
    with errors_shown():
        found = ak.describe_stream(store, points=streams.MOST_POINTS)
        seen: list[Json] = workspace().memory.setdefault(f"tail-{store.name}", [])
        if not seen or seen[-1]["rows"] != found["rows"]:
            seen.append({key: value for key, value in found.items() if key not in ("history", "compared")})
            del seen[: -streams.MOST_POINTS]
        before = [one for one in stream_charts.ledger_points(found)[:-1] if one["rows"] < seen[0]["rows"]]
        _draw_points([*before, *seen])


def _show_downloads(replayed: streams.Replay, prepared: Prepared | None) -> None:
    left, right = st.columns(2)
    if replayed.store.is_file():
        left.download_button(
            "Store with its ledger (SQLite)", replayed.store.read_bytes, file_name="state.db",
            mime="application/vnd.sqlite3", key="get-store", icon=":material/download:", width="stretch",
            on_click="ignore", help="auditkit verify state.db checks it, and auditkit stream goes on from it.",
        )  # fmt: skip
    if prepared is not None:
        batches = prepared.batches
        right.download_button(
            "The batches (jsonl)", lambda: streams.as_lines(batches()), file_name="batches.jsonl",
            mime="application/x-ndjson", key="get-batches", icon=":material/download:", width="stretch",
            on_click="ignore",
        )  # fmt: skip
