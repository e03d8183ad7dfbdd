"""DuckDB, embedded: parquet, csv and arrow files larger than memory, and frames that are in memory already."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from auditkit._tables import check_names_unique, read_arrow_table, refuse_file
from auditkit.engines.base import SOURCE, Column, Engine, Kind, OutOfRangeError
from auditkit.errors import InputError
from auditkit.table_files import describe_files, open_dataset

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pa_dataset

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_NUMBERS = {"FLOAT", "DOUBLE", "HUGEINT", "UHUGEINT", "UBIGINT"}
_RAW = "auditkit_raw"
_KEPT = "auditkit_kept"


class DuckDBEngine(Engine):
    """A table in DuckDB.

    Args:
        table: A path or glob pattern of .parquet, .csv, .arrow or .feather files, several of them, or a frame: pandas,
            pyarrow, or anything else that speaks the Arrow stream protocol (polars among them).
        threads: Number of threads; None takes one per core.
        max_gib: Largest decoded size that each file may declare; None takes `auditkit.table_limits.SCANNED_GIB`.

    Raises:
        InputError: No such file, or one that cannot be read; a frame of an unknown kind.
        SchemaError: Two columns have the same name.
        UntrustedFileError: The file is a pickle.
    """

    def __init__(self, table: Any, *, threads: int | None = None, max_gib: float | None = None) -> None:
        # nothing may be fetched or loaded on the way: the table is local, and DuckDB's own formats suffice
        config: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        # what does not fit in memory goes where temporary files go, not into the folder that happens to be current
        self._spill = tempfile.TemporaryDirectory(prefix="auditkit-", ignore_cleanup_errors=True)
        config["temp_directory"] = self._spill.name
        self._connection = duckdb.connect(config=config if threads is None else {**config, "threads": threads})
        self._frame: Any = None
        self._dataset: pa_dataset.Dataset | None = None
        if isinstance(table, str | Path) or _is_path_list(table):
            self.files = find_files(table)
            self.names, self.source = self._open(max_gib), describe_files(self.files)
        else:
            self._frame = table
            self.names, self.source = _frame_names(table), f"the {type(table).__name__}"
        check_names_unique(self.names, self.source)

    def _open(self, max_gib: float | None) -> tuple[str, ...]:
        """Open the files, and tell the names of their columns."""
        if Path(self.files[0]).suffix.lower() in (".npy", ".npz"):
            import pyarrow as pa

            self._frame = pa.concat_tables([read_arrow_table(file, max_gib=max_gib) for file in self.files])
            return tuple(self._frame.column_names)
        dataset = self._dataset = open_dataset(self.files, max_gib=max_gib)
        return tuple(dataset.schema.names)

    def bind(self, names: Iterable[str]) -> Mapping[str, Column]:
        """As `Engine.bind`."""
        wanted = tuple(dict.fromkeys(names))
        relation, order = self._relation(wanted)
        relation.create_view(_RAW)
        aliases = {name: f"c{position}" for position, name in enumerate(order)}
        self._connection.execute(f"CREATE VIEW {SOURCE}({', '.join(aliases.values())}) AS SELECT * FROM {_RAW}")
        types = dict(zip(order, map(str, relation.types), strict=True))
        declared = self._declared(wanted)
        return {name: Column(aliases[name], _kind(types[name]), types[name], declared.get(name)) for name in wanted}

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """As `Engine.query`."""
        return self._execute(statement, parameters).fetchall()

    def keep(self, statement: str, parameters: Sequence[Any] = ()) -> str:
        """As `Engine.keep`, in a temporary table."""
        self._execute(f"CREATE OR REPLACE TEMP TABLE {_KEPT} AS {statement}", parameters)
        return _KEPT

    def _execute(self, statement: str, parameters: Sequence[Any]) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.execute(statement, list(parameters))
        except duckdb.ConversionException as error:
            raise OutOfRangeError(str(error)) from error
        except duckdb.Error as error:
            raise InputError(f"{self.source} cannot be read: {' '.join(str(error).split())[:300]}") from error

    def integer(self, expression: str) -> str:
        """As `Engine.integer`; DuckDB's cast rounds."""
        return f"CAST({expression} AS BIGINT)"

    def integer_total(self, expression: str) -> str:
        """As `Engine.integer_total`; sums of BIGINT are 128 bits wide."""
        return f"sum({self.integer(expression)})"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._spill.cleanup()

    def _relation(self, wanted: tuple[str, ...]) -> tuple[duckdb.DuckDBPyRelation, tuple[str, ...]]:
        """The table as DuckDB sees it, and the names of its columns, which DuckDB may have changed."""
        if self._frame is not None:
            return self._connection.from_arrow(_frame_to_arrow(self._frame, wanted)), wanted
        assert self._dataset is not None
        if Path(self.files[0]).suffix.lower() == ".parquet":
            try:
                return self._connection.read_parquet([glob.escape(file) for file in self.files]), self.names
            except duckdb.Error as error:
                raise InputError(f"{self.source} cannot be read: {' '.join(str(error).split())[:300]}") from error
        return self._connection.from_arrow(self._dataset), self.names

    def _declared(self, wanted: tuple[str, ...]) -> dict[str, tuple[Hashable, ...]]:
        """The categories of the columns that are categorical in pandas or dictionary-encoded in Arrow."""
        import pandas as pd
        import pyarrow as pa

        if isinstance(self._frame, pd.DataFrame):
            dtypes = {str(name): dtype for name, dtype in self._frame.dtypes.items()}
            return {
                name: tuple(dtypes[name].categories.tolist())
                for name in wanted
                if isinstance(dtypes[name], pd.CategoricalDtype)
            }
        if self._dataset is None:
            return {}
        encoded = [name for name in wanted if pa.types.is_dictionary(self._dataset.schema.field(name).type)]
        first = self._dataset.head(1, columns=encoded) if encoded else None
        return {} if first is None else {n: tuple(first.column(n).chunk(0).dictionary.to_pylist()) for n in encoded}


def find_files(table: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """The files that paths and glob patterns name, sorted within each pattern.

    Args:
        table: A path, a pattern, or several. A path that exists is taken as it is, whatever characters it holds.

    Returns:
        Paths of files of one kind.

    Raises:
        InputError: A path or pattern matches nothing; the files are of several kinds, empty, or folders.
        UntrustedFileError: A file is a pickle.
    """
    found: list[str] = []
    for path in [table] if isinstance(table, str | Path) else table:
        exact = Path(path)
        matches = [str(exact)] if exact.exists() else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        for file in matches or [str(path)]:
            refuse_file(Path(file))
        found += matches
    kinds = sorted({Path(file).suffix.lower() for file in found})
    if len(kinds) != 1:
        raise InputError(f"path: the files are of several kinds ({', '.join(kinds) or 'none'}); name files of one kind")
    return tuple(found)


def _is_path_list(table: Any) -> bool:
    return isinstance(table, list | tuple) and bool(table) and all(isinstance(item, str | Path) for item in table)


def _frame_names(table: Any) -> tuple[str, ...]:
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        return tuple(map(str, table.columns))
    names = getattr(table, "column_names", None) or getattr(table, "columns", None)
    if not hasattr(table, "__arrow_c_stream__") or names is None:
        raise InputError(
            "table must be a path, a glob pattern, or a frame of pandas, polars or pyarrow that is in memory; "
            f"got {type(table).__name__}"
        )
    return tuple(names)


def _frame_to_arrow(table: Any, wanted: tuple[str, ...]) -> pa.Table:
    import pandas as pd
    import pyarrow as pa

    try:
        if isinstance(table, pd.DataFrame):
            chosen = table.loc[:, [str(name) in wanted for name in table.columns]]
            arrow = pa.Table.from_pandas(chosen.set_axis(list(map(str, chosen.columns)), axis=1), preserve_index=False)
        else:
            arrow = pa.table(table.select(list(wanted)) if hasattr(table, "select") else table)
    except (pa.ArrowException, TypeError) as error:
        raise InputError(f"the {type(table).__name__} cannot be read: {' '.join(str(error).split())[:300]}") from error
    return arrow.select(list(wanted))


def _kind(type_name: str) -> Kind:
    if type_name in _INTEGERS:
        return "integer"
    if type_name in _NUMBERS or type_name.startswith("DECIMAL"):
        return "number"
    if type_name == "BOOLEAN":
        return "boolean"
    return "text" if type_name in {"VARCHAR", "NULL", '"NULL"'} or type_name.startswith("ENUM") else "other"
