"""Uploaded tables: written to the visitor's own folder, read by the library, refused in one line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import auditkit as ak

SUFFIXES = ("csv", "parquet", "arrow", "feather")
MOST_LEVELS = 50
_PREVIEW_ROWS, _PEEK_ROWS = 5, 5000


@dataclass(frozen=True, eq=False)
class Table:
    """What the app needs to know of a table to offer its columns.

    Attributes:
        file_name: Its name in the visitor's folder.
        n_rows: Rows.
        columns: Every column.
        numeric: Columns of numbers.
        levels: Distinct values of every column that has few of them.
        preview: The first rows.
    """

    file_name: str
    n_rows: int
    columns: tuple[str, ...]
    numeric: tuple[str, ...]
    levels: dict[str, tuple[Any, ...]]
    preview: pd.DataFrame


def accept(folder: Path, name: str, content: bytes) -> Table:
    """Write an upload into a folder and read it.

    Args:
        folder: The visitor's folder.
        name: The file's name as the browser gave it.
        content: Its bytes.

    Returns:
        The table.

    Raises:
        AuditkitError: It cannot be read, could run code, or holds no numbers.
    """
    path = folder / _safe_name(name)
    path.write_bytes(content)
    try:
        return _describe(path, read_all(path))
    except ak.AuditkitError:
        path.unlink(missing_ok=True)
        raise
    except UnicodeError as error:
        path.unlink(missing_ok=True)
        raise ak.AuditkitError(f"{path.name} is not UTF-8 text; save it again as UTF-8, or as parquet") from error


def read_again(path: Path) -> Table:
    """A table that was accepted before, from the visitor's folder.

    Raises:
        AuditkitError: It cannot be read any more.
    """
    return _describe(path, read_all(path))


def read_all(path: Path) -> pd.DataFrame:
    """Every column of a table, as the library reads it.

    Raises:
        AuditkitError: It cannot be read, or no column has two values.
    """
    varying = _varying(path)
    if varying == []:
        raise ak.AuditkitError(f"{path.name}: every column holds a single value; there are no groups to compare")
    data = ak.load_table(path, attributes=(varying or ["?"])[0])
    parts = [data.attributes] if data.features is None else [data.attributes, data.features]
    return pd.concat(parts, axis=1)


def describe(file_name: str, frame: pd.DataFrame) -> Table:
    """What the app needs to know of a frame."""
    numeric = [str(name) for name in frame if pd.api.types.is_numeric_dtype(frame[name])]
    few = {str(name): frame[name].dropna().unique() for name in frame}
    levels = {
        name: tuple(sorted(values.tolist(), key=str)) for name, values in few.items() if len(values) <= MOST_LEVELS
    }
    columns = tuple(map(str, frame.columns))
    return Table(file_name, len(frame), columns, tuple(numeric), levels, frame.head(_PREVIEW_ROWS))


def _describe(path: Path, frame: pd.DataFrame) -> Table:
    table = describe(path.name, frame)
    if not table.numeric:
        raise ak.AuditkitError(f"{path.name} has no numeric column; an audit needs a column of scores")
    return table


def _varying(path: Path) -> list[str] | None:
    """Columns with at least two values; None when only the library can say what is wrong with the file."""
    readers = {".csv": _peek_csv, ".parquet": pd.read_parquet, ".arrow": pd.read_feather, ".feather": pd.read_feather}
    if path.suffix not in readers:
        return None
    try:
        frame = readers[path.suffix](path)
    except (ValueError, OSError, TypeError, NotImplementedError):
        return None
    return [str(name) for name in frame if frame[name].nunique(dropna=False) > 1]


def _peek_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, nrows=_PEEK_ROWS)


def _safe_name(name: str) -> str:
    stem, suffix = Path(name).stem, Path(name).suffix.lower()
    return (re.sub(r"[^\w-]+", "-", stem).strip("-")[:60] or "table") + suffix
