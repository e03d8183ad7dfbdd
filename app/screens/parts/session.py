"""What one visitor has chosen and run, kept under a secret that only the visitor's address bar holds.

A workspace outlives a reload: the address carries a random token, made here and never taken from a visitor, and whoever
brings a token that is known gets its workspace back. It is forgotten on request, after `IDLE_HOURS` without a visit,
and when the app stops, unless whoever runs the app has it keep sessions (`kept_sessions`).
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import streamlit as st
from streamlit.navigation.page import StreamlitPage

import auditkit as ak
from auditkit.reporting import recompute

from . import kept_sessions, uploads, words
from .jobs import Job
from .uploads import Table

if TYPE_CHECKING:
    from .streams import Replay

Json = dict[str, Any]
TOKEN = "session"
IDLE_HOURS = 12.0
KINDS = {"audit": "Audit", "tune": "Enforcement", "compare": "Comparison"}


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its folder, what the files in it say, and the sums that what-if questions start from.

    Attributes:
        kind: "audit", "tune" or "compare".
        folder: The run folder.
        plan: The plan it was run with.
        outcome: The audit of the model as found, with its moments.
        profile: The sums by score, from which other thresholds are answered; None where there are none.
        opened: What the visitor knows it by when it was made elsewhere; empty for a run of these pages.
    """

    kind: str
    folder: Path
    plan: Json
    outcome: ak.AuditResult
    profile: Any = None
    opened: str = ""

    def key(self, name: str) -> str:
        """The key of a widget that belongs to this run and to no later one."""
        return f"{self.folder.name}-{name}"

    def read(self, name: str) -> Json | None:
        """One JSON file of the folder; None when the run has none of that name."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


@dataclass(eq=False)
class Workspace:
    """Everything that belongs to one visitor.

    Attributes:
        folder: The visitor's folder, removed with the workspace.
        token: The secret in the visitor's address.
        is_kept: Whether it outlives the app.
        memory: Values of widgets by key, also of those that are not on the present page.
        criteria: The criteria of the plan, as in an audit file.
        table: The uploaded table, if any.
        runs: The latest finished run of each kind.
        generation: Goes up with every new table, so that no widget keeps a column of the old one.
        numbers: Numbers for run folders.
        job: The job that runs, or that ran last.
        stream: What is known of the stream that was replayed last.
        seen: When the visitor was here last, by the monotonic clock.
    """

    folder: Path
    token: str
    is_kept: bool = False
    memory: dict[str, Any] = field(default_factory=dict)
    criteria: list[Json] = field(default_factory=list)
    table: Table | None = None
    runs: dict[str, Run] = field(default_factory=dict)
    generation: int = 0
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    job: Job | None = None
    stream: Replay | None = None
    seen: float = field(default_factory=time.monotonic)

    @property
    def source(self) -> str:
        """Where the data come from: "sample" or "table"."""
        return self.memory.get("source", "sample")

    def key(self, name: str) -> str:
        """The key of a widget that belongs to the present data."""
        return f"{self.source}-{self.generation}-{name}"

    def recall(self, name: str, default: Any = None) -> Any:
        """The value of such a widget."""
        return self.memory.get(self.key(name), default)

    def stop(self) -> None:
        """Cancel what runs on data that are about to be replaced."""
        if self.job is not None:
            self.job.cancel()
            self.job = None

    def restart(self, criteria: list[Json]) -> None:
        """Begin anew with other data."""
        self.criteria = criteria
        self.runs.clear()


_KNOWN: dict[str, Workspace] = {}
_GUARD, _OPENING = threading.Lock(), threading.Lock()
_HOME = tempfile.TemporaryDirectory(prefix="auditkit-app-", ignore_cleanup_errors=True)  # gone when the app stops


def workspace() -> Workspace:
    """The visitor's workspace: the one of this visit, or of the token in the address, or a new one."""
    space: Workspace | None = st.session_state.get("workspace")
    if space is None or space.token not in _KNOWN:
        asked = st.query_params.get(TOKEN)
        space = _recall(asked) if asked else None
        st.session_state["is-lost"] = bool(asked) and space is None
        space = space or _begin()
        st.session_state["workspace"] = space
    space.seen = time.monotonic()
    return space


def note_address() -> None:
    """Write the token into the address, which changing the page takes away."""
    token = workspace().token
    if st.query_params.get(TOKEN) != token:
        st.query_params[TOKEN] = token


def show_loss() -> None:
    """Say so when the address led to a session that is not there."""
    space = workspace()
    if st.session_state.get("is-lost") and not space.runs and space.table is None:
        st.info(
            f"The session of this address is no longer here: nobody visited it for {IDLE_HOURS:g} hours, it was "
            "forgotten, or the app was restarted. This is a new one. A run folder that you have downloaded can be "
            "opened on the page Start.",
            icon=":material/history:",
        )


def forget(space: Workspace) -> None:
    """Remove a workspace with everything in it; a job that runs is cancelled, and what it still writes removed too."""
    with _GUARD:
        _KNOWN.pop(space.token, None)
    shutil.rmtree(space.folder, ignore_errors=True)
    if (job := space.job) is not None and job.is_running:
        job.cancel()

        def remove_again() -> None:
            job.wait()
            shutil.rmtree(space.folder, ignore_errors=True)

        threading.Thread(target=remove_again, daemon=True).start()


def keep(space: Workspace, *, at_end_of_job: bool = False) -> None:
    """Store what a restart of the app would lose, where sessions are kept.

    Args:
        space: The workspace.
        at_end_of_job: Whether it is the job that calls, having done its work.
    """
    if not space.is_kept:
        return
    runs = {
        kind: {"folder": run.folder.name, "plan": run.plan, "opened": run.opened} for kind, run in space.runs.items()
    }
    record = {
        "memory": {name: value for name, value in space.memory.items() if _is_plain(name, value)},
        "criteria": space.criteria,
        "table": None if space.table is None else space.table.file_name,
        "generation": space.generation,
        "runs": runs,
        "job": space.job.kind if space.job is not None and space.job.is_running and not at_end_of_job else None,
    }
    kept_sessions.write(space.folder, record)


def _is_plain(name: str, value: Any) -> bool:
    """Whether a value can be kept as JSON; what was seen of a live store is looked at anew."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return not name.startswith("tail-")


def _recall(token: str) -> Workspace | None:
    """The workspace of a token: of this process, or one that was kept on disk."""
    with _OPENING:
        space = _KNOWN.get(token)
        if space is not None or (found := kept_sessions.find(token, hours=IDLE_HOURS)) is None:
            return space
        try:
            with st.spinner("Opening your session again"):
                space = _restore(token, *found)
        except (ak.AuditkitError, OSError, LookupError, TypeError, ValueError):
            return None  # what is left of it cannot be shown; it goes like every session that nobody visits
        with _GUARD:
            _KNOWN[token] = space
        return space


def _restore(token: str, folder: Path, record: Json) -> Workspace:
    space = Workspace(folder, token, is_kept=True)
    space.memory, space.criteria, space.generation = record["memory"], record["criteria"], record["generation"]
    space.table = uploads.read_again(folder / record["table"]) if record["table"] else None
    space.numbers = itertools.count(1 + max(map(_number_in, folder.iterdir()), default=0))
    for kind, kept_run in record["runs"].items():
        space.runs[kind] = _restore_run(kind, folder, **kept_run)
    if record["job"]:
        space.job = Job.interrupted(record["job"])
    return space


def _restore_run(kind: str, home: Path, *, folder: str, plan: Json, opened: str) -> Run:
    """A run of a kept session; what-if questions begin from the sums of the rows again."""
    audit: Json = json.loads((home / folder / "audit.json").read_text(encoding="utf-8"))
    has_rows = kind == "audit" and not opened
    profile = profile_of(ak.make_config(plan, folder=home)) if has_rows else None
    return Run(kind, home / folder, plan, recompute(audit), profile, opened)


def _number_in(path: Path) -> int:
    """The number at the end of the name of a run folder or a store."""
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def profile_of(config: ak.AuditFile, *, progress: Any = None) -> Any:
    """The sums by score; None where there are too many groups for them, which the audit itself does without."""
    try:
        return ak.profile_scores(config, progress=progress)
    except ak.AuditkitError:
        return None


def _begin() -> Workspace:
    _forget_idle()
    token = secrets.token_urlsafe(24)
    kept = kept_sessions.place_for(token)
    folder = kept or Path(tempfile.mkdtemp(dir=_HOME.name))
    fresh = Workspace(folder, token, is_kept=kept is not None)
    fresh.restart(sample_plan()["criteria"])
    with _GUARD:
        _KNOWN[fresh.token] = fresh
    return fresh


def _forget_idle() -> None:
    oldest = time.monotonic() - 3600 * IDLE_HOURS
    with _GUARD:
        idle = [space for space in _KNOWN.values() if space.seen < oldest and not (space.job and space.job.is_running)]
        tokens = set(_KNOWN)
    for space in idle:
        forget(space)
    kept_sessions.remove_idle(hours=IDLE_HOURS, but=tokens)


def sample_plan() -> Json:
    """The plan of the bundled sample; of each criterion, the keys that say something."""
    plan = ak.sample_config().model_dump(mode="json", exclude_defaults=True)
    return {**plan, "criteria": [{**spec} for spec in plan["criteria"]]}


def kept(widget: Callable[..., Any], label: str, *, key: str, default: Any, **options: Any) -> Any:
    """A widget whose value outlives a visit to another page.

    A value is set where the browser has none for this very widget, or one that is no longer possible, and only there:
    what is set is sent to the browser, where it would replace what the visitor has chosen since the rerun began. At all
    other times it is what the widget says to start from, which a browser heeds that draws the widget anew.
    """
    memory, state = workspace().memory, st.session_state
    value = state[key] if key in state else memory.get(key, default)
    possible = _still_possible(value, default, options.get("options"))
    shape = (label, {name: option for name, option in options.items() if not callable(option)})
    if key not in state or possible != value or state.get(f"{key} shape") != shape:
        state[key] = possible
    else:
        options |= _start_from(widget, possible, options)
    state[f"{key} shape"] = shape
    memory[key] = widget(label, key=key, **options)
    return memory[key]


def _start_from(widget: Callable[..., Any], value: Any, options: Mapping[str, Any]) -> Json:
    """The argument by which a kind of widget is told its first value."""
    if widget in (st.selectbox, st.radio):
        choices = list(options["options"])
        return {"index": choices.index(value) if value in choices else None}
    return {"default" if widget is st.multiselect else "value": value}


def _still_possible(value: Any, default: Any, options: Sequence[Any] | None) -> Any:
    """The value, without what is no longer among the options."""
    if options is None:
        return value
    if isinstance(value, list | tuple):
        return [one for one in value if one in options]
    return value if value in options else default


def set_pages(pages: Mapping[str, StreamlitPage]) -> None:
    """Note the pages, so that buttons can lead to them."""
    st.session_state["pages"] = dict(pages)


def step_buttons(*, back: str | None = None, onward: str | None = None) -> None:
    """Buttons to the step before and the step after."""
    pages: dict[str, StreamlitPage] = st.session_state["pages"]
    left, right = st.columns(2)
    if back is not None and left.button(f"Back: {pages[back].title}", key=f"back-{back}", width="stretch"):
        goto(back)
    if onward is not None and right.button(f"Next: {pages[onward].title}", key=f"on-{onward}", width="stretch"):
        goto(onward)


def goto(name: str) -> NoReturn:
    """Leave for another page."""
    pages: dict[str, StreamlitPage] = st.session_state["pages"]
    st.switch_page(pages[name], query_params={TOKEN: workspace().token})


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show an error of the library, or of an upload, as one line."""
    try:
        yield
    except ak.AuditkitError as error:
        st.error(error_line(error), icon=":material/error:")


def error_line(error: Exception) -> str:
    """An error as one line, without the path of the visitor's folder on this machine."""
    text = str(error).replace(f"{workspace().folder}{os.sep}", "")
    return words.plain(" ".join(text.split()))
