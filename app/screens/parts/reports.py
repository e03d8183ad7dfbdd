"""The forms of a report: which ones a visitor wants, the job that writes them, and the files to take away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from auditkit.reporting import TEMPLATES, ReportRequest, write_report
from auditkit.run_archive import pack_run

from .jobs import Job
from .session import Run, kept

FORMS = {"pdf": "PDF", "md": "Markdown", "card": "Model card"}


@dataclass(frozen=True)
class File:
    """A file of a run folder that a visitor may take away.

    Attributes:
        name: In the folder.
        title: Of its button.
        mime: Its media type.
    """

    name: str
    title: str
    mime: str


FILES = (
    File("report.html", "Report (HTML)", "text/html"),
    File("report.pdf", "Report (PDF)", "application/pdf"),
    File("report.md", "Report (Markdown)", "text/markdown"),
    File("report.json", "Report (JSON)", "application/json"),
    File("model_card.md", "Model card", "text/markdown"),
    File("public.html", "Public summary (HTML)", "text/html"),
    File("public.json", "Public summary (JSON)", "application/json"),
    File("audit.json", "Audit (JSON)", "application/json"),
)


def choose(run: Run) -> ReportRequest:
    """What of the report the visitor wants beside HTML and JSON."""
    forms = kept(
        st.multiselect, "Also write", key=run.key("forms"), default=[], options=list(FORMS),
        format_func=FORMS.__getitem__, help="HTML and JSON are always there.",
    )  # fmt: skip
    asked = ((run.plan.get("report") or {}).get("templates")) or []
    rules = kept(
        st.multiselect, "Document the run for these sets of rules", key=run.key("rules"), default=list(asked),
        options=list(TEMPLATES), format_func=lambda name: TEMPLATES[name].title,
        help="Each becomes a section with its version and date: facts and figures, no legal conclusion.",
    )  # fmt: skip
    public = kept(
        st.checkbox, "A public summary, without small groups and without file names", key=run.key("public"),
        default=False,
    )  # fmt: skip
    return ReportRequest(templates=tuple(rules), formats=tuple(forms), public=public)


def job(run: Run, request: ReportRequest) -> Job:
    """Writing the report into the run's folder, to be started."""

    def write(job: Job) -> None:
        with job.turn():
            write_report(run.folder, request, progress=job)

    return Job("report", write)


def show_downloads(run: Run) -> None:
    """A button for every form that lies in the folder, and one for the folder whole."""
    there = [file for file in FILES if (run.folder / file.name).is_file()]
    columns = st.columns(3)
    for place, file in enumerate(there):
        path = run.folder / file.name
        columns[place % 3].download_button(
            file.title, path.read_bytes, file_name=_file_name(run, path), mime=file.mime,
            key=f"get-{file.name.replace('.', '-')}", type="primary" if place == 0 else "secondary",
            icon=":material/download:", width="stretch", on_click="ignore",
        )  # fmt: skip
    columns[len(there) % 3].download_button(
        "Run folder (zip)", lambda: pack_run(run.folder), file_name=f"auditkit-{run.kind}.zip", mime="application/zip",
        key="get-folder", icon=":material/download:", width="stretch", on_click="ignore",
    )  # fmt: skip


def _file_name(run: Run, path: Path) -> str:
    return f"auditkit-{run.kind}-{path.name}"


def command(run: Run, request: ReportRequest) -> str:
    """The same on the command line."""
    parts = [f"auditkit report runs/{run.kind}"]
    parts += [f"--template {name}" for name in request.templates]
    parts += [f"--write {form}" for form in request.formats]
    return " ".join([*parts, *(["--public"] if request.public else [])])


def python(run: Run, request: ReportRequest) -> str:
    """The same in Python."""
    given = {"templates": request.templates, "formats": request.formats, "public": request.public}
    options = ", ".join(f"{name}={value!r}" for name, value in given.items() if value)
    lines = ["from auditkit.reporting import ReportRequest, write_report", ""]
    return "\n".join([*lines, f'write_report("runs/{run.kind}", ReportRequest({options}))'])
