"""Score a table with a frozen model piece by piece: features never lie in memory whole, scores and groups do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit._tables import hashing, refuse_file
from auditkit._typing import FloatArray
from auditkit.datasets import AuditData, assemble
from auditkit.errors import InputError, SchemaError
from auditkit.progress import Progress
from auditkit.table_files import open_dataset, read_columns, read_pieces
from auditkit.table_roles import TableRoles

if TYPE_CHECKING:
    from auditkit.models import FrozenModel

PIECE_ROWS = 65_536
"""Rows that are scored at a time; what a model takes at a time of a table in memory."""

WHOLE_CSV_BYTES = 1 << 30
"""A csv file up to this size is read whole, since only the whole of it tells the type of its columns."""


def is_scored_in_pieces(path: Path) -> bool:
    """Whether the features of a table are read in pieces: of every kind but short csv files and arrays."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return path.is_file() and path.stat().st_size > WHOLE_CSV_BYTES
    return suffix in (".parquet", ".arrow", ".feather")


def score_in_pieces(
    path: Path, model: FrozenModel, options: dict[str, Any], *, name: str, progress: Progress
) -> tuple[AuditData, FloatArray]:
    """Score a table without loading its features whole.

    Args:
        path: A .parquet, .arrow, .feather or .csv file.
        model: The frozen model.
        options: As `auditkit.load_table` takes them.
        name: What reports call the data.
        progress: Where to report.

    Returns:
        The data without features, and the scores, shape (n,) or (n, k).

    Raises:
        SchemaError: A named column is missing or has the wrong kind.
        InputError: The file cannot be read, or the model cannot read it.
    """
    import pandas as pd

    refuse_file(path)
    given = dict(options)
    limit = given.pop("max_gib", None)
    beside = {role: given.pop(role, None) for role in ("weight", "decision", "cluster")}
    keep = tuple(given.pop("keep", ()))
    roles = replace(TableRoles.parse(**given), **beside, keep=keep)
    with hashing([path]) as digest:
        dataset = open_dataset([path], max_gib=limit)
        names = _unique([column for column in dataset.schema.names if not column.startswith("__index_level_")], path)
        empty = pd.DataFrame(columns=pd.Index(names))
        roles.check(empty)
        columns = roles.feature_columns(empty)
        if columns is None:
            raise InputError("data.score names scores that are there, and model: makes others; give one of them")
        frame = read_columns(dataset, roles.read_beside_features, [path]).to_pandas(ignore_metadata=True)
        if frame.empty:
            raise InputError(f"path: {str(path)!r} has columns but no rows")
        parts = []
        with progress.stage("scoring the frozen model", len(frame)) as advance:
            for piece in read_pieces(dataset, columns, [path], rows=PIECE_ROWS):
                parts.append(model.scores(piece.to_pandas(ignore_metadata=True)).double().numpy())
                advance(piece.num_rows)
        data = assemble(frame, replace(roles, features=(), exclude=()), origin=(name, digest(), str(path)))
    return replace(data, features=None), np.concatenate(parts)


def _unique(names: list[str], path: Path) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SchemaError(
            f"path: {path.name!r} has several columns called {', '.join(map(repr, repeated))}; rename them"
        )
    return names
