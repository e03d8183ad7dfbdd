"""Score a table with a frozen model piece by piece: features never lie in memory whole, scores and groups do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit._tables import hashing, refuse_file
from auditkit._typing import FloatArray
from auditkit.datasets import AuditData, assemble
from auditkit.errors import InputError
from auditkit.feature_tables import find_columns, parse_options, refuse_scores
from auditkit.progress import Progress
from auditkit.table_files import TypeChangeError, find_csv_types, open_dataset, read_pieces

if TYPE_CHECKING:
    import pyarrow as pa

    from auditkit.models import FrozenModel

PIECE_ROWS = 65_536
"""Rows that are scored at a time; what a model takes at a time of a table in memory."""


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
    refuse_file(path)
    roles, limit = parse_options(options)
    refuse_scores(roles)
    with hashing([path]) as digest:
        dataset = open_dataset([path], max_gib=limit)
        columns = find_columns(dataset, roles, path) or []
        wanted = columns, roles.read_beside_features
        n_rows = None if path.suffix.lower() == ".csv" else dataset.count_rows()  # csv would be read to be counted
        try:
            scores, rows = _score(path, model, wanted, progress, n_rows=n_rows)
        except TypeChangeError:  # once more, by what all values of the columns say
            types = find_csv_types(path, list(dict.fromkeys([*wanted[0], *wanted[1]])))
            scores, rows = _score(path, model, wanted, progress, types=types)
        frame = rows.to_pandas(ignore_metadata=True)
        data = assemble(frame, replace(roles, features=(), exclude=()), origin=(name, digest(), str(path)))
    return replace(data, features=None), scores


def _score(
    path: Path,
    model: FrozenModel,
    wanted: tuple[list[str], list[str]],
    progress: Progress,
    *,
    n_rows: int | None = None,
    types: Mapping[str, pa.DataType] | None = None,
) -> tuple[FloatArray, pa.Table]:
    """Scores by the columns that the model reads, and the columns beside them, in one reading of the file."""
    import pyarrow as pa

    columns, beside = wanted
    scores: list[FloatArray] = []
    kept: list[pa.Table] = []
    every = list(dict.fromkeys([*beside, *columns]))
    with progress.stage("scoring the frozen model", n_rows) as advance:
        for piece in read_pieces(path, every, rows=PIECE_ROWS, types=types):
            scores.append(model.scores(piece.select(columns).to_pandas(ignore_metadata=True)).double().numpy())
            # a copy: what is kept may lie in one buffer with the features, and would hold them
            kept.append(piece.select(beside).take(np.arange(piece.num_rows)))
            advance(piece.num_rows)
    if not kept:
        raise InputError(f"path: {str(path)!r} has columns but no rows")
    return np.concatenate(scores), pa.concat_tables(kept)
