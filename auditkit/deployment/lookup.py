"""From the attributes of a row to its position among the cells of a calibration, and files that hold the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from auditkit._files import write_whole
from auditkit._typing import IntArray
from auditkit.errors import InputError
from auditkit.groups import CellTable, Groups

OnUnseen = Literal["raise", "keep"]

CellValues = tuple[Hashable, ...]
Loaded = TypeVar("Loaded")


def values_of(table: CellTable, columns: Sequence[str]) -> tuple[CellValues, ...]:
    """The values of the columns in every cell, in order."""
    return tuple(tuple(table.value(c, name) for name in columns) for c in range(table.n_cells))


def find_cells(
    groups: Groups, columns: Sequence[str], cells: Sequence[CellValues], on_unseen: OnUnseen, *, remedy: str = "keep"
) -> IntArray:
    """Position of every row's combination among ``cells``; their number for one that is not there; shape (n,).

    Args:
        groups: Attributes of the rows.
        columns: What a row is looked up by.
        cells: Values of the columns in every known cell.
        on_unseen: "raise" or "keep".
        remedy: What a caller may pass instead of "raise".

    Raises:
        InputError: A combination that is not there, unless ``on_unseen`` is "keep".
    """
    found = groups.cells(columns)
    return place_cells(found.table, columns, cells, on_unseen, remedy=remedy)[found.index]


def place_cells(
    table: CellTable, columns: Sequence[str], cells: Sequence[CellValues], on_unseen: OnUnseen, *, remedy: str = "keep"
) -> IntArray:
    """Position of every cell of a table among ``cells``; their number for one that is not there; shape (c,)."""
    known = {values: k for k, values in enumerate(cells)}
    values = values_of(table, columns)
    unseen = [value for value in values if value not in known]
    if unseen and on_unseen == "raise":
        raise InputError(
            f"groups holds {len(unseen)} combinations of {tuple(columns)} that the calibration rows did not "
            f"(first: {unseen[0]}); calibrate on rows that cover them, or pass on_unseen={remedy!r}"
        )
    return np.array([known.get(value, len(cells)) for value in values], dtype=np.int64)


def check_choice(name: str, choice: str, known: Sequence[str]) -> None:
    """Raise unless a word is one of those known."""
    if choice not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}; got {choice!r}")


def write_json(content: dict[str, Any], path: str | Path) -> None:
    """Write JSON; the file appears whole or not at all."""
    write_whole(Path(path), json.dumps(content, indent=2).encode())


def read_json(path: str | Path, *, schema: str, what: str, build: Callable[[dict[str, Any]], Loaded]) -> Loaded:
    """Read JSON of a schema and build what it holds.

    Raises:
        InputError: The file is missing, not JSON, or of another schema.
    """
    source = Path(path)
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        if content["schema"] != schema:
            raise ValueError(f"schema is {content['schema']!r}")
        return build(content)
    except OSError as error:
        raise InputError(f"path cannot be read: {source} ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"path holds no {what} of schema {schema!r}: {source} ({error})") from error
