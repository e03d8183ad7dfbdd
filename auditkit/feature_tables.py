"""Tables whose columns a model reads: surveyed once, then read piece by piece, never whole in memory.

The survey reads every column once, and keeps of a row only what says something beside its features (labels, attributes,
ids) and a 64-bit hash of them. It also finds what pieces cannot tell: the types that the columns of a csv file have by
all of their values, and which whole numbers and truth values are missing somewhere, which changes their type in pandas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from auditkit._tables import check_names_unique, hashing, is_stored_index, refuse_file
from auditkit.datasets import AuditData, assemble
from auditkit.errors import InputError
from auditkit.table_files import TypeChangeError, find_csv_types, open_dataset, read_pieces
from auditkit.table_roles import TableRoles

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PIECE_ROWS = 65_536
"""Rows that are read at a time; what a model takes at a time of a table in memory."""
KINDS = (".csv", ".parquet", ".arrow", ".feather")
"""Suffixes of the files that can be read in pieces: of every table but arrays."""


@dataclass(frozen=True)
class FeatureTable:
    """The columns of a file that a model reads.

    Attributes:
        path: The file.
        columns: Their names, in order.
        n_rows: Rows n.
        sha256: Hash of the file's bytes.
        types: Types of columns of a csv file that its beginning does not tell.
        gaps: Columns of whole numbers or truth values of which some are missing.
        stamp: Size and time of the file when it was surveyed.
    """

    path: Path
    columns: tuple[str, ...]
    n_rows: int
    sha256: str
    types: Mapping[str, pa.DataType] | None
    gaps: frozenset[str]
    stamp: tuple[int, int]

    def is_unchanged(self) -> bool:
        """Whether nobody has written the file since."""
        return _stamp(self.path) == self.stamp

    def pieces(self, rows: int) -> Iterator[pd.DataFrame]:
        """The columns in pieces of ``rows`` rows, the last one shorter, with the types that they have as a whole."""
        for piece in read_pieces(self.path, self.columns, rows=rows, types=self.types):
            yield self._with_gaps(piece.to_pandas(ignore_metadata=True))

    def _with_gaps(self, frame: pd.DataFrame) -> pd.DataFrame:
        whole = {name: object if frame[name].dtype.kind in "bO" else np.float64 for name in self.gaps}
        return frame.astype(whole) if whole else frame


@dataclass(frozen=True, eq=False)
class Survey:
    """What a table holds beside the columns that a model reads.

    Attributes:
        table: The columns that it reads.
        data: Labels, attributes and everything else of n rows, without features.
        row_keys: Hash of what it reads of every row, shape (n,); None where there is nothing, or nobody asked.
    """

    table: FeatureTable
    data: AuditData
    row_keys: NDArray[np.uint64] | None


def is_read_in_pieces(path: Path) -> bool:
    """Whether a table can be read in pieces."""
    return path.suffix.lower() in KINDS


def parse_options(options: Mapping[str, Any]) -> tuple[TableRoles, float | None]:
    """The roles of the columns, and the largest size that the file may declare, of the options of `load_table`."""
    given = dict(options)
    limit = given.pop("max_gib", None)
    beside = {role: given.pop(role, None) for role in ("weight", "decision", "cluster")}
    keep = tuple(given.pop("keep", ()))
    return replace(TableRoles.parse(**given), **beside, keep=keep), limit


def refuse_scores(roles: TableRoles) -> None:
    """Raise where a table has scores, and a model is to make others.

    Raises:
        InputError: It is so.
    """
    if roles.score_columns:
        raise InputError("data.score names scores that are there, and model: makes others; give one of them")


def find_columns(dataset: Any, roles: TableRoles, path: Path) -> list[str] | None:
    """The columns that a model reads; None where the table holds the scores and names no features.

    Raises:
        SchemaError: A named column is missing, or there twice.
    """
    import pandas as pd

    check_names_unique(dataset.schema.names, f"path: {path.name!r}")
    empty = pd.DataFrame(columns=pd.Index([name for name in dataset.schema.names if not is_stored_index(name)]))
    roles.check(empty)
    return roles.feature_columns(empty)


def survey_table(path: Path, options: Mapping[str, Any], *, name: str, with_keys: bool = True) -> Survey:
    """Read a table once for everything but its features.

    Args:
        path: A .csv, .parquet, .arrow or .feather file.
        options: As `auditkit.load_table` takes them.
        name: What reports call the data.
        with_keys: Whether equal rows will be looked for.

    Raises:
        SchemaError: A named column is missing or has the wrong kind.
        InputError: The file cannot be read.
    """
    refuse_file(path)
    stamp = _stamp(path)
    roles, limit = parse_options(options)
    with hashing([path]) as digest:
        columns = find_columns(open_dataset([path], max_gib=limit), roles, path) or []
        scan = _Scan(path, columns, roles.read_beside_features, with_keys=with_keys and bool(columns))
        types: dict[str, Any] | None = None
        try:
            scan.read()
        except TypeChangeError:  # once more, by what all values of the columns say
            types = find_csv_types(path, scan.every)
            scan.read(types)
        rows, sha256 = scan.rows.to_pandas(ignore_metadata=True), digest()
        data = assemble(rows, replace(roles, features=(), exclude=()), origin=(name, sha256, str(path)))
    table = FeatureTable(path, tuple(columns), len(rows), sha256, types, frozenset(scan.gaps), stamp)
    return Survey(table, replace(data, features=None), scan.row_keys)


class _Scan:
    """One reading of a file: what is kept of its rows."""

    def __init__(self, path: Path, columns: list[str], beside: list[str], *, with_keys: bool) -> None:
        self.path, self.columns, self.beside, self.with_keys = path, columns, beside, with_keys
        self.every = list(dict.fromkeys([*beside, *columns]))
        self.gaps: set[str] = set()
        self._kept: list[pa.Table] = []
        self._keys: list[NDArray[np.uint64]] = []

    def read(self, types: Mapping[str, pa.DataType] | None = None) -> None:
        """Read the file from its beginning."""
        self.gaps, self._kept, self._keys = set(), [], []
        for piece in read_pieces(self.path, self.every, rows=PIECE_ROWS, types=types):
            # a copy: what is kept may lie in one buffer with the features, and would hold them
            self._kept.append(piece.select(self.beside).take(np.arange(piece.num_rows)))
            features = piece.select(self.columns)
            self.gaps.update(_find_gaps(features))
            if self.with_keys:
                self._keys.append(_hash_rows(features))

    @property
    def rows(self) -> pa.Table:
        """The columns beside the features, of all rows."""
        import pyarrow as pa

        if not self._kept:
            raise InputError(f"path: {str(self.path)!r} has columns but no rows")
        return pa.concat_tables(self._kept)

    @property
    def row_keys(self) -> NDArray[np.uint64] | None:
        """Hash of the features of every row."""
        return np.concatenate(self._keys) if self._keys else None


def _find_gaps(piece: pa.Table) -> Iterator[str]:
    """The columns of whole numbers or truth values of which some are missing here."""
    import pyarrow as pa

    for field in piece.schema:
        if (pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)) and piece[field.name].null_count:
            yield field.name


def _hash_rows(features: pa.Table) -> NDArray[np.uint64]:
    """Equal rows have equal hashes, in whatever pieces they are."""
    import pandas as pd
    import pyarrow as pa

    nullable: dict[Any, Any] = {pa.bool_(): pd.BooleanDtype()}
    for size in ("8", "16", "32", "64"):
        nullable[getattr(pa, f"int{size}")()] = getattr(pd, f"Int{size}Dtype")()
        nullable[getattr(pa, f"uint{size}")()] = getattr(pd, f"UInt{size}Dtype")()
    frame = features.to_pandas(ignore_metadata=True, types_mapper=nullable.get)
    return cast("Any", pd).util.hash_pandas_object(frame, index=False).to_numpy()


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
