"""Read a table file into a DataFrame without running anything in it; every failure says what is wrong with the file."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from auditkit.errors import InputError, SchemaError, UntrustedFileError
from auditkit.table_limits import check_declared_size

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MISSING_TEXTS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL")
"""CSV texts read as missing; "None" is not among them, because it is a legitimate category."""

_CHUNK = 1 << 20
_PICKLES = (".pkl", ".pickle", ".joblib")
_PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".lz4")
_PACKED_MAGIC = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")


def read_table(path: str | Path, *, max_gib: float | None = None) -> pd.DataFrame:
    """Read a .csv, .parquet, .arrow, .feather, .npy or .npz file.

    Args:
        path: The file. CSV must be UTF-8, comma-separated and have a header; the texts in ``MISSING_TEXTS`` are
            missing values. An .npy file holds a structured array, an .npz file a vector per column.
        max_gib: Largest decoded size that the file may declare, in GiB; None takes `table_limits.WHOLE_GIB`.

    Returns:
        The rows, numbered from 0; a pandas index stored in the file is dropped.

    Raises:
        InputError: The file is missing, a folder, empty, damaged, ragged, too large or of an unsupported kind.
        SchemaError: Two columns have the same name.
        UntrustedFileError: The file is a pickle, or holds Python objects.
    """
    table = read_arrow_table(path, max_gib=max_gib)
    frame = table.to_pandas(ignore_metadata=True)
    return frame.drop(columns=[column for column in frame if is_stored_index(str(column))])


def read_arrow_table(path: str | Path, *, max_gib: float | None = None) -> pa.Table:
    """As `read_table`, as an Arrow table."""
    file = Path(path)
    refuse_file(file)
    table = _read_checked(_READERS[file.suffix.lower()], file, max_gib)
    _check_columns(table, file)
    return table


def is_stored_index(name: str) -> bool:
    """Whether a column is the index of a pandas frame that was written with it."""
    return name.startswith("__index_level_")


def check_names_unique(names: Sequence[str], where: str) -> None:
    """Raise SchemaError for a table that has two columns of one name."""
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        raise SchemaError(f"{where} has several columns called {', '.join(map(repr, sorted(repeated)))}; rename them")


def column(frame: pd.DataFrame, name: str) -> pd.Series:
    """One column of a frame whose column names are unique."""
    return cast("pd.Series", frame[name])


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return _hash_file(path, threading.Event())


@contextmanager
def hashing(files: Sequence[str | Path]) -> Iterator[Callable[[], str]]:
    """Hash files on a thread of its own while the block reads them.

    The bytes and the parsed rows are two readings of a file, but not of the disk: the one that is behind finds them in
    the page cache. Hashing leaves the interpreter free, so that it adds to the block only what the other cores have no
    time for; where the block fails, it stops.

    Args:
        files: The files.

    Yields:
        A function that waits for the hash and returns it: of the one file's bytes, or of the list of the files' hashes.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="auditkit-hash") as pool:
        task = pool.submit(_hash_files, files, stop)
        try:
            yield task.result
        finally:
            stop.set()


def _hash_files(files: Sequence[str | Path], stop: threading.Event) -> str:
    hashes = [_hash_file(file, stop) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _hash_file(path: str | Path, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while not stop.is_set() and (chunk := stream.read(_CHUNK)):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"path: {str(path)!r} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def refuse_file(file: Path) -> None:
    """Raise for a file that is missing, empty, a folder, or of a kind that is not read.

    Raises:
        InputError: It is one of these.
        UntrustedFileError: It is a pickle.
    """
    suffix = file.suffix.lower()
    if suffix in _PICKLES:
        raise UntrustedFileError(
            f"path: {file.name!r} is a pickle, which can run code when it is read; "
            "save the table with DataFrame.to_parquet or to_csv instead"
        )
    if suffix not in _READERS:
        unpack = "; unpack it first" if suffix in _PACKED else ""
        raise InputError(f"path: {file.name!r} has the suffix {suffix!r}; supported are {_supported()}{unpack}")
    if not file.exists():
        raise InputError(f"path: there is no file {str(file)!r}; check the spelling and the working directory")
    if file.is_dir():
        raise InputError(f"path: {str(file)!r} is a folder; name one {_supported()} file in it")
    if file.stat().st_size == 0:
        raise InputError(f"path: {str(file)!r} is empty (0 bytes)")


def refuse_binary(file: Path) -> None:
    """Raise for a csv file that is compressed, UTF-16 or damaged: text in UTF-8 holds no zero byte.

    Raises:
        InputError: It is one of these.
    """
    with file.open("rb") as stream:  # not mapped: what is mapped counts as memory of the process
        if stream.read(4).startswith(_PACKED_MAGIC):
            raise InputError(f"path: {file.name!r} is compressed; unpack it first, since it can unpack to any size")
        stream.seek(0)
        start = 0
        while chunk := stream.read(_CHUNK):
            if (place := chunk.find(b"\0")) >= 0:
                raise InputError(
                    f"path: {file.name!r} holds a zero byte (at byte {start + place:,}), so it is not UTF-8 text: it "
                    "is damaged, or UTF-16; save it again as UTF-8"
                )
            start += len(chunk)


def _read_checked(reader: Callable[[Path, float | None], pa.Table], file: Path, max_gib: float | None) -> pa.Table:
    import pyarrow as pa

    try:
        check_declared_size(file, max_gib=max_gib)
        table = reader(file, max_gib)
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"path: {str(file)!r} cannot be read as {file.suffix}: {reason}") from error
    if table.num_rows == 0:
        raise InputError(f"path: {str(file)!r} has columns but no rows")
    return table


def _check_names(table: pa.Table, file: Path) -> None:
    try:
        table.schema.names  # noqa: B018  (Arrow decodes the header only when it is looked at)
    except UnicodeDecodeError as error:
        raise InputError(f"path: the header of {file.name!r} is not UTF-8; save the file again as UTF-8") from error


def _check_columns(table: pa.Table, file: Path) -> None:
    _check_names(table, file)
    check_names_unique(table.column_names, f"path: {file.name!r}")
    if file.suffix.lower() == ".csv":
        check_csv_schema(table.schema, file)


def check_csv_schema(schema: pa.Schema, file: Path) -> None:
    """Raise for a csv file that is not text in UTF-8, or not separated by commas.

    Raises:
        InputError: A column is not UTF-8.
        SchemaError: Its one column holds other separators.
    """
    import pyarrow as pa

    undecoded = [field.name for field in schema if pa.types.is_binary(field.type)]
    if undecoded:
        raise InputError(f"path: {file.name!r} is not UTF-8 in column {undecoded[0]!r}; save it again as UTF-8")
    only = schema.names[0] if len(schema.names) == 1 else ""
    if ";" in only or "\t" in only:
        raise SchemaError(f"path: {file.name!r} is not separated by commas (header {only[:60]!r}); save it with commas")


def _read_csv(file: Path, max_gib: float | None) -> pa.Table:
    from pyarrow import csv

    del max_gib  # rows take about as much memory as their text
    refuse_binary(file)
    # Arrow rejects rows that are too short as well as too long; pandas would fill the short ones in silence.
    return csv.read_csv(file, **csv_options())


def csv_options(
    types: Mapping[str, pa.DataType] | None = None, *, columns: Sequence[str] = (), empty_lines: bool = False
) -> dict[str, Any]:
    """How a csv file is read, whole or in pieces.

    Args:
        types: Of columns whose type is not told by their values.
        columns: Those that are read, in this order; all by default.
        empty_lines: Whether an empty line is a row, which it is where the one column has a missing value.
    """
    from pyarrow import csv

    return {
        "parse_options": csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=not empty_lines),
        "convert_options": csv.ConvertOptions(
            strings_can_be_null=True,
            null_values=list(MISSING_TEXTS),
            column_types=dict(types or {}),
            include_columns=list(columns),
        ),
    }


def _read_parquet(file: Path, max_gib: float | None) -> pa.Table:
    from pyarrow import parquet

    del max_gib  # checked by what the file declares
    with parquet.ParquetFile(file) as stored:
        return stored.read()


def _read_arrow(file: Path, max_gib: float | None) -> pa.Table:
    from pyarrow import feather

    del max_gib  # checked by what the file declares
    return feather.read_table(file, memory_map=False)


def _read_npy(file: Path, max_gib: float | None) -> pa.Table:
    from auditkit.array_files import read_npy

    return read_npy(file, max_gib=max_gib)


def _read_npz(file: Path, max_gib: float | None) -> pa.Table:
    from auditkit.array_files import read_npz

    return read_npz(file, max_gib=max_gib)


_READERS: dict[str, Callable[[Path, float | None], pa.Table]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
    ".npy": _read_npy,
    ".npz": _read_npz,
}


TABLE_SUFFIXES = tuple(_READERS)
"""Suffixes of the files that are read."""


def _supported() -> str:
    return ", ".join(TABLE_SUFFIXES)
