"""Table files that are read piece by piece: one Arrow data set over files of one kind, never whole in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from auditkit._tables import check_csv_schema, csv_options, refuse_binary
from auditkit.errors import InputError, SchemaError
from auditkit.table_limits import check_declared_size

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import dataset as pa_dataset

_TYPED_ROWS = 65_536
_FORMATS = {".csv": "csv", ".parquet": "parquet", ".arrow": "ipc", ".feather": "ipc"}


class TypeChangeError(InputError):
    """A column of a csv file that is read in pieces turned out to be of another type than its first MiB."""


def open_dataset(
    files: Sequence[str | Path], *, max_gib: float | None = None, types: Mapping[str, pa.DataType] | None = None
) -> pa_dataset.Dataset:
    """Files of one kind as one table that is read in pieces.

    Args:
        files: .csv, .parquet, .arrow or .feather files.
        max_gib: Largest decoded size that each may declare; None takes `auditkit.table_limits.SCANNED_GIB`.
        types: Of columns of csv files; by default what their first MiB looks like.

    Raises:
        InputError: They cannot be read, or declare more than the limit.
        SchemaError: A csv file has a column twice, or is not separated by commas.
    """
    import pyarrow as pa
    from pyarrow import dataset as pa_dataset

    kind = _FORMATS[Path(files[0]).suffix.lower()]
    # the same reading of csv as a table that is loaded whole: strict on ragged rows, same missing values
    reader = pa_dataset.CsvFileFormat(**csv_options(types))
    try:
        for file in files:
            if kind == "csv":
                refuse_binary(Path(file))
            check_declared_size(Path(file), max_gib=max_gib, scanned=True)
        dataset = pa_dataset.dataset([str(file) for file in files], format=reader if kind == "csv" else kind)
        dataset.schema.names  # noqa: B018  (Arrow decodes the header only when it is looked at)
    except UnicodeDecodeError as error:
        raise InputError(f"path: the header of {str(files[0])!r} is not UTF-8; save the file again as UTF-8") from error
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(error, files) from error
    if kind == "csv":
        check_csv_schema(dataset.schema, Path(files[0]))
    return dataset


def infer_types(texts: pa.Table) -> pa.Table:
    """Columns of text with the types that a csv file of them would be read with: by all of their values."""
    import pyarrow as pa
    from pyarrow import csv

    if not texts.num_columns:
        return texts
    content = pa.BufferOutputStream()
    csv.write_csv(texts, content)
    return csv.read_csv(pa.BufferReader(content.getvalue()), **csv_options(empty_lines=True))


def find_csv_types(path: Path, columns: Sequence[str]) -> dict[str, pa.DataType]:
    """The types that columns have by all of their values, as where a csv file is read whole; it is read in pieces.

    Raises:
        InputError: A column holds truth values and whole numbers.
    """
    import pyarrow as pa

    types = dict.fromkeys(columns, pa.null())
    for piece in read_pieces(path, columns, rows=_TYPED_ROWS, types=dict.fromkeys(columns, pa.string())):
        for field in infer_types(piece).schema:
            types[field.name] = _wider(types[field.name], field.type, field.name)
    return types


def _wider(one: pa.DataType, other: pa.DataType, name: str) -> pa.DataType:
    """The type that holds the values of two pieces of a column."""
    import pyarrow as pa

    kinds = {one, other} - {pa.null()}
    if len(kinds) < 2:
        return next(iter(kinds), pa.null())
    if kinds == {pa.int64(), pa.bool_()}:  # the whole of it would say whether 1 is a number or means true
        raise InputError(
            f"path: column {name!r} holds truth values and whole numbers; write one kind, or save as parquet"
        )
    for rising in ((pa.int64(), pa.float64()), (pa.date32(), pa.timestamp("s"), pa.timestamp("ns"))):
        if kinds <= set(rising):
            return max(kinds, key=rising.index)
    return pa.string()


def describe_files(files: Sequence[str | Path]) -> str:
    """The files in words."""
    first = repr(str(files[0]))
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more files"


def read_pieces(
    path: Path, columns: Sequence[str], *, rows: int, types: Mapping[str, pa.DataType] | None = None
) -> Iterator[pa.Table]:
    """Some columns of a file in pieces of exactly ``rows`` rows, the last one shorter, in order.

    A piece holds the same rows however the file is divided, so that what is computed by piece is the same, too. Nothing
    is read ahead of whoever takes the pieces: a data set's scanner would hold up to a GiB for a slow model.

    Args:
        path: A .csv, .parquet, .arrow or .feather file that `open_dataset` took.
        columns: Names of columns that it has.
        rows: Rows of a piece.
        types: As `open_dataset` takes them.

    Raises:
        TypeChangeError: A column of a csv file has another type than its beginning.
        InputError: It cannot be read.
    """
    import pyarrow as pa

    pending: list[pa.RecordBatch] = []
    held = 0
    try:
        for batch in _BATCHES[path.suffix.lower()](path, list(columns), rows, types):
            pending.append(batch)
            held += batch.num_rows
            while held >= rows:
                table = pa.Table.from_batches(pending)
                yield table.slice(0, rows)
                pending = [part for part in table.slice(rows).to_batches() if part.num_rows]
                held -= rows
    except (pa.ArrowException, OSError, MemoryError) as error:
        failure = _unreadable(error, [path])
        raise (TypeChangeError(str(failure)) if "CSV conversion error to" in str(error) else failure) from error
    if held:
        yield pa.Table.from_batches(pending)


def _csv_batches(
    path: Path, columns: list[str], rows: int, types: Mapping[str, pa.DataType] | None
) -> Iterator[pa.RecordBatch]:
    from pyarrow import csv

    del rows  # a block of a MiB at a time
    with csv.open_csv(path, **csv_options(types, columns=columns)) as reader:
        yield from reader


def _parquet_batches(path: Path, columns: list[str], rows: int, types: object) -> Iterator[pa.RecordBatch]:
    from pyarrow import parquet

    del types
    # what was read is let go; by default all of a file stays in memory
    with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as stored:
        for batch in stored.iter_batches(batch_size=rows, columns=columns):
            yield batch.select(columns)


def _arrow_batches(path: Path, columns: list[str], rows: int, types: object) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    del rows, types
    with pa.OSFile(str(path)) as source:
        places = [pa.ipc.open_file(source).schema.get_field_index(name) for name in columns]
        with pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=places)) as stored:
            for i in range(stored.num_record_batches):
                yield stored.get_batch(i).select(columns)


_BATCHES = {".csv": _csv_batches, ".parquet": _parquet_batches, ".arrow": _arrow_batches, ".feather": _arrow_batches}


def _unreadable(error: Exception, files: Sequence[str | Path]) -> InputError:
    reason = " ".join(str(error).split()).rpartition("Invalid: ")[2][:300]  # Arrow wraps it in what it was doing
    _, twice, name = reason.partition("multiple columns named ")
    if twice:
        return SchemaError(f"{describe_files(files)} has several columns called {name!r}; rename them")
    suffix = Path(files[0]).suffix
    return InputError(f"path: {describe_files(files)} cannot be read as {suffix.removeprefix('.')}: {reason}")
