"""Data sets whose rows are texts: a column of a table that is read in pieces, as often as it is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditkit._tables import check_names_unique, hashing, is_stored_index, refuse_file
from auditkit.datasets import AttributeSpec, FileRows, assemble
from auditkit.errors import InputError, SchemaError
from auditkit.table_files import infer_types, open_dataset, read_pieces
from auditkit.table_roles import TableRoles, describe_missing

if TYPE_CHECKING:
    import pyarrow as pa

PIECE_ROWS = 1_024
"""Texts that are in memory at a time."""

KINDS = (".csv", ".parquet", ".arrow", ".feather")


@dataclass(frozen=True, eq=False)
class TextTable(FileRows):
    """A data set whose rows are texts, which stay in their file.

    Attributes:
        data: Labels and attributes of every text, n rows.
        path: The file.
        column: The column of texts.
        keys: The first 8 bytes of every text's SHA-256, shape (n,); those of a missing text are 0.
        sha256: SHA-256 over all texts, in order.
    """

    path: Path
    column: str
    keys: NDArray[np.uint64]
    sha256: str

    def texts(self) -> Iterator[str | None]:
        """Every text in order, read from the file anew; None where there is none."""
        types = _as_text(self.path, [self.column])
        for piece in read_pieces(self.path, [self.column], rows=PIECE_ROWS, types=types):
            yield from piece.column(0).to_pylist()


def text_key(text: str | None) -> int:
    """What a text is known by: the first 8 bytes of its SHA-256; 0 where there is none."""
    return 0 if text is None else int.from_bytes(_digest(text)[:8], "little")


def read_texts(
    path: str | Path,
    *,
    text_column: str,
    attributes: Sequence[AttributeSpec] | AttributeSpec,
    label: str | None = None,
    positive_label: Hashable | None = None,
    strata: Sequence[AttributeSpec] | AttributeSpec = (),
    exclude: Sequence[str] = (),
    name: str | None = None,
    max_gib: float | None = None,
    **columns: Any,
) -> TextTable:
    """Read a table with a column of texts, of which only the other columns that are named stay in memory.

    Args:
        path: A .csv, .parquet, .arrow or .feather file.
        text_column: Column of texts; in a csv file, text whatever it looks like.
        attributes: Protected attributes, as in ``load_table``.
        label: Column of outcomes.
        positive_label: Value of ``label`` that becomes 1.0.
        strata: Legitimate conditions, as in ``load_table``.
        exclude: Columns to leave out; they must be there. The model reads the texts alone, in any case.
        name: What reports call the data; the file's stem by default.
        max_gib: Largest decoded size that the file may declare, in GiB; 1,024 by default.
        columns: ``weight``, ``decision``, ``cluster`` and ``keep``, as in ``load_table``.

    Raises:
        SchemaError: A column is missing or has the wrong kind.
        InputError: The file cannot be read.
    """
    source = Path(path)
    roles = TableRoles.parse(attributes, strata, label, positive_label, score=None, features=(), exclude=exclude)
    roles = replace(roles, **columns)
    refuse_file(source)
    if source.suffix.lower() not in KINDS:
        raise InputError(f"path: texts are read from {', '.join(KINDS)} files; got {source.name!r}")
    with hashing([source]) as digest:
        rows, keys, texts_hash = _scan(source, roles, text_column, max_gib)
        data = assemble(rows.to_pandas(ignore_metadata=True), roles, origin=(name or source.stem, digest(), str(path)))
    return TextTable(replace(data, features=None), source, text_column, keys, texts_hash)


def _scan(path: Path, roles: TableRoles, text: str, max_gib: float | None) -> tuple[pa.Table, NDArray[np.uint64], str]:
    """The columns beside the texts, and the hashes of the texts, by one reading of the file."""
    import pyarrow as pa

    beside = [name for name in roles.read_beside_features if name != text]
    kept_text = text in roles.read_beside_features
    types = _as_text(path, [text, *beside])
    _check(open_dataset([path], max_gib=max_gib, types=types).schema, roles, path, text)
    keys: list[NDArray[np.uint64]] = []
    kept: list[pa.Table] = []
    digest = hashlib.sha256()
    wanted = [*beside, text] if kept_text else beside
    for piece in read_pieces(path, [*beside, text], rows=PIECE_ROWS, types=types):
        found = [b"" if value is None else _digest(value) for value in piece.column(text).to_pylist()]
        digest.update(b"".join(one or bytes(32) for one in found))
        keys.append(np.array([int.from_bytes(one[:8], "little") for one in found], dtype=np.uint64))
        # a copy: what is kept may lie in one buffer with the texts, and would hold them
        kept.append(piece.select(wanted).take(np.arange(piece.num_rows)))
    if not kept:
        raise InputError(f"path: {str(path)!r} has columns but no rows")
    rows = pa.concat_tables(kept)
    return infer_types(rows) if types else rows, np.concatenate(keys), digest.hexdigest()


def _as_text(path: Path, columns: Sequence[str]) -> dict[str, pa.DataType]:
    """Columns of a csv file as they are written; other files know their types."""
    import pyarrow as pa

    return dict.fromkeys(columns, pa.string()) if path.suffix.lower() == ".csv" else {}


def _check(schema: pa.Schema, roles: TableRoles, path: Path, text: str) -> None:
    """Raise for columns that are not there, and for texts that are none.

    Raises:
        SchemaError: It is so.
    """
    import pandas as pd
    import pyarrow as pa

    check_names_unique(schema.names, f"path: {path.name!r}")
    present = [name for name in schema.names if not is_stored_index(name)]
    if text not in present:
        raise SchemaError(describe_missing("text_column", text, present))
    roles.check(pd.DataFrame(columns=pd.Index(present)))
    kind = schema.field(text).type
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(held) or pa.types.is_large_string(held) or pa.types.is_string_view(held)):
        raise SchemaError(f"text_column {text!r} must hold text; it is {kind}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
