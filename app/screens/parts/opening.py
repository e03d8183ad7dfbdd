"""Runs made elsewhere: a zip that a visitor brings, or a folder that whoever runs the app has named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import streamlit as st

import auditkit as ak
from auditkit.reporting import recompute
from auditkit.run_archive import MAX_BYTES, copy_run, unpack_run

from .session import Json, Run, Workspace, errors_shown, goto, workspace

RUNS = "AUDITKIT_APP_RUNS"
"""Environment variable by which whoever runs the app names the folder whose runs visitors may open."""

PAGES = {"audit": "audit", "tune": "enforce", "compare": "compare"}
_KIND_OF = {"audit": "audit", "tune": "tune", "compare": "compare", "demo": "compare"}


def show() -> None:
    """The two ways to open a run."""
    space = workspace()
    st.markdown(
        "A run folder that the command line wrote, or one downloaded from the page Report, as a zip. Names, sizes, "
        f"every hash and every finding are checked before it is opened (at most {MAX_BYTES // 2**20} MB unpacked); "
        "nothing in it is run."
    )
    brought = st.file_uploader("Run folder (zip)", type=["zip"], key="open-zip", max_upload_size=MAX_BYTES // 2**20)
    if brought is not None and st.button("Open this run", key="open-uploaded"):
        _open(space, brought.name, lambda into: unpack_run(brought.getvalue(), into))
    _show_shelf(space)


def _show_shelf(space: Workspace) -> None:
    shelf = stored_runs()
    if shelf is None:
        return
    if not shelf:
        st.caption("The folder of runs that this app was started with is empty.")
        return
    place = st.selectbox(
        "A run of this machine", range(len(shelf)), format_func=lambda k: shelf[k].name, key="open-name"
    )
    chosen = shelf[min(place or 0, len(shelf) - 1)]
    if st.button("Open the run of this machine", key="open-stored"):
        _open(space, chosen.name, lambda into: copy_run(chosen, into))


def stored_runs() -> list[Path] | None:
    """The runs that visitors may open; None where whoever runs the app has named no folder of them."""
    named = os.environ.get(RUNS)
    if not named:
        return None
    folder = Path(named).resolve()
    return sorted(path.parent for path in folder.glob("*/run.json") if path.resolve().is_relative_to(folder))


def _open(space: Workspace, name: str, take_in: Callable[[Path], Path]) -> None:
    with errors_shown():
        run = open_run(space, name, take_in)
        space.runs[run.kind] = run
        goto(PAGES[run.kind])


def open_run(space: Workspace, name: str, take_in: Callable[[Path], Path]) -> Run:
    """A run from elsewhere, in the visitor's own folder.

    Args:
        space: The visitor's workspace.
        name: What the visitor knows it by.
        take_in: Writes the checked folder to the path that it is given.

    Raises:
        AuditkitError: It is not a run that these pages can show.
    """
    folder = take_in(space.folder / f"opened-{next(space.numbers)}")
    record, audit = _read(folder, "run"), _read(folder, "audit")
    kind = _KIND_OF.get(str(record.get("command")))
    if kind is None:
        raise ak.AuditkitError(f"this is a run of {record.get('command')!r}; the pages show {', '.join(_KIND_OF)}")
    if kind == "compare" and not (folder / "comparison.json").is_file():
        raise ak.AuditkitError("this run of compare holds no comparison.json")
    return Run(kind, folder, record["plan"], recompute(audit), opened=name)


def _read(folder: Path, name: str) -> Json:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
