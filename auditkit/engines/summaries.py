"""What the columns of a table look like, by one aggregation: the rows are never loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditkit._tables import is_stored_index
from auditkit.engines.base import SOURCE, Kind
from auditkit.engines.opening import open_engine
from auditkit.engines.statements import present
from auditkit.errors import InputError


@dataclass(frozen=True)
class ColumnSummary:
    """One column of a table.

    Attributes:
        kind: What it holds.
        distinct: Number of different values, missing ones aside.
        lowest: The least of them; None where all are missing.
        highest: The greatest of them.
    """

    kind: Kind
    distinct: int
    lowest: Any
    highest: Any


def summarize_table(table: str | Path, choose: Callable[[str], bool]) -> tuple[list[str], dict[str, ColumnSummary]]:
    """The columns of a table, and what some of them hold.

    Args:
        table: A path or glob pattern, as `scan` takes it.
        choose: Whether a column of this name is to be looked at.

    Returns:
        All names in order, and the summaries of the chosen ones.

    Raises:
        InputError: The table cannot be read or has no rows.
    """
    with open_engine(table, "duckdb") as engine:
        names = [name for name in engine.names if not is_stored_index(name)]
        columns = engine.bind([name for name in names if choose(name)] or names[:1])
        values = [present(column) for column in columns.values()]
        asked = [f"count(DISTINCT {value}), min({value}), max({value})" for value in values]
        n_rows, *found = engine.query(f"SELECT count(*), {', '.join(asked)} FROM {SOURCE}")[0]
        if not n_rows:
            raise InputError(f"{engine.source} has columns but no rows")
    summaries = {
        name: ColumnSummary(column.kind, *found[3 * i : 3 * i + 3]) for i, (name, column) in enumerate(columns.items())
    }
    return names, summaries
