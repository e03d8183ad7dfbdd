"""Engines: the moments of an audit from a table that need not fit in memory, by one aggregation where the rows are.

    moments = engines.scan("predictions/*.parquet", criteria, score="score", label="hired", threshold=0.5)
    outcome = auditkit.evaluate_moments(moments, criteria, threshold=0.5)

The same table gives the same moments on every engine and on any number of threads, to the last bit.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditkit.engines.base import Engine, TableScan
    from auditkit.engines.scanning import scan, scan_table
    from auditkit.engines.statements import Roles
    from auditkit.engines.summaries import ColumnSummary, summarize_table

__all__ = ["ColumnSummary", "Engine", "Roles", "TableScan", "scan", "scan_table", "summarize_table"]

_HOMES = {
    "ColumnSummary": "summaries",
    "Engine": "base",
    "Roles": "statements",
    "TableScan": "base",
    "scan": "scanning",
    "scan_table": "scanning",
    "summarize_table": "summaries",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
