"""What one visitor has chosen and run. It lives in the visitor's own session and nowhere else."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.navigation.page import StreamlitPage

import auditkit as ak

from . import words
from .uploads import Table

Json = dict[str, Any]
KINDS = {"audit": "Audit", "tune": "Enforcement", "compare": "Comparison"}


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its folder, what the files in it say, and the sums that what-if questions start from.

    Attributes:
        kind: "audit", "tune" or "compare".
        folder: The run folder.
        plan: The plan it was run with.
        outcome: The audit of the model as found, with its moments.
    """

    kind: str
    folder: Path
    plan: Json
    outcome: ak.AuditResult

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
        place: A temporary folder, removed with the session.
        memory: Values of widgets by key, also of those that are not on the present page.
        criteria: The criteria of the plan, as in an audit file.
        table: The uploaded table, if any.
        runs: The latest finished run of each kind.
        generation: Goes up with every new table, so that no widget keeps a column of the old one.
        numbers: Numbers for run folders.
    """

    place: tempfile.TemporaryDirectory[str]
    memory: dict[str, Any] = field(default_factory=dict)
    criteria: list[Json] = field(default_factory=list)
    table: Table | None = None
    runs: dict[str, Run] = field(default_factory=dict)
    generation: int = 0
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

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

    def restart(self, criteria: list[Json]) -> None:
        """Begin anew with other data."""
        self.criteria = criteria
        self.runs.clear()


def workspace() -> Workspace:
    """The visitor's workspace."""
    if "workspace" not in st.session_state:
        fresh = Workspace(tempfile.TemporaryDirectory(prefix="auditkit-app-", ignore_cleanup_errors=True))
        fresh.restart(sample_plan()["criteria"])
        st.session_state["workspace"] = fresh
    return st.session_state["workspace"]


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
        st.switch_page(pages[back])
    if onward is not None and right.button(f"Next: {pages[onward].title}", key=f"on-{onward}", width="stretch"):
        st.switch_page(pages[onward])


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
