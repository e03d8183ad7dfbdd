"""What one visitor has chosen and run, kept under a secret that only the visitor's address bar holds.

A workspace outlives a reload: the address carries a random token, made here and never taken from a visitor, and whoever
brings a token that is known gets its workspace back. It is forgotten on request, after `IDLE_HOURS` without a visit,
and when the app stops.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
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

from . import words
from .uploads import Table

if TYPE_CHECKING:
    from .jobs import Job
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
        place: A temporary folder, removed with the workspace.
        token: The secret in the visitor's address.
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

    place: tempfile.TemporaryDirectory[str]
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
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
    def folder(self) -> Path:
        """The visitor's temporary folder."""
        return Path(self.place.name)

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
_GUARD = threading.Lock()


def workspace() -> Workspace:
    """The visitor's workspace: the one of this visit, or of the token in the address, or a new one."""
    space: Workspace | None = st.session_state.get("workspace")
    if space is None or space.token not in _KNOWN:
        space = _recall(st.query_params.get(TOKEN)) or _begin()
        st.session_state["workspace"] = space
    space.seen = time.monotonic()
    return space


def note_address() -> None:
    """Write the token into the address, which changing the page takes away."""
    token = workspace().token
    if st.query_params.get(TOKEN) != token:
        st.query_params[TOKEN] = token


def forget(space: Workspace) -> None:
    """Remove a workspace with everything in it; a job that runs is cancelled."""
    with _GUARD:
        _KNOWN.pop(space.token, None)
    if space.job is not None:
        space.job.cancel()
    space.place.cleanup()


def _recall(token: str | None) -> Workspace | None:
    with _GUARD:
        return _KNOWN.get(token or "")


def _begin() -> Workspace:
    _forget_idle()
    fresh = Workspace(tempfile.TemporaryDirectory(prefix="auditkit-app-", ignore_cleanup_errors=True))
    fresh.restart(sample_plan()["criteria"])
    with _GUARD:
        _KNOWN[fresh.token] = fresh
    return fresh


def _forget_idle() -> None:
    oldest = time.monotonic() - 3600 * IDLE_HOURS
    with _GUARD:
        idle = [space for space in _KNOWN.values() if space.seen < oldest and not (space.job and space.job.is_running)]
    for space in idle:
        forget(space)


def sample_plan() -> Json:
    """The plan of the bundled sample; of each criterion, the keys that say something."""
    plan = ak.sample_config().model_dump(mode="json", exclude_defaults=True)
    return {**plan, "criteria": [{**spec} for spec in plan["criteria"]]}


def kept(widget: Callable[..., Any], label: str, *, key: str, default: Any, **options: Any) -> Any:
    """A widget whose value outlives a visit to another page."""
    memory = workspace().memory
    value = st.session_state[key] if key in st.session_state else memory.get(key, default)
    st.session_state[key] = _still_possible(value, default, options.get("options"))
    memory[key] = widget(label, key=key, **options)
    return memory[key]


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
