"""The report of a run: its content as data, as one HTML page, on the console, and its verification."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditkit.reporting.document import ReportDocument
    from auditkit.reporting.formats import FORMATS, render_run, write_step_summary
    from auditkit.reporting.html import render_html
    from auditkit.reporting.outputs import ReportRequest, write_report
    from auditkit.reporting.reading import load_document, read_document, report_schema
    from auditkit.reporting.regulation import TEMPLATES
    from auditkit.reporting.verification import recompute, verify_run

__all__ = [
    "FORMATS",
    "TEMPLATES",
    "ReportDocument",
    "ReportRequest",
    "load_document",
    "read_document",
    "recompute",
    "render_html",
    "render_run",
    "report_schema",
    "verify_run",
    "write_report",
    "write_step_summary",
]

_HOMES = {
    "FORMATS": "formats",
    "ReportDocument": "document",
    "ReportRequest": "outputs",
    "TEMPLATES": "regulation",
    "load_document": "reading",
    "read_document": "reading",
    "recompute": "verification",
    "render_html": "html",
    "render_run": "formats",
    "report_schema": "reading",
    "verify_run": "verification",
    "write_report": "outputs",
    "write_step_summary": "formats",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
