"""What a table's own metadata say about its size, checked before anything in it is unpacked.

A file of a few kilobytes can declare billions of rows (one value, repeated) or pages of gigabytes. The decoded size is
taken to be the larger of what the columns declare as uncompressed and rows × the width of a row, with 8 bytes for what
has no fixed width. It is compared with a limit that the caller can raise (``data.max_gib`` in an audit file).
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from auditkit.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

WHOLE_GIB = 16.0
"""Limit of a table that is read into memory."""

SCANNED_GIB = 1024.0
"""Limit of a table that is scanned in pieces; each piece has the limit of a whole table."""

_GIB = 1 << 30
_TEXT_BYTES = 8
_MAGIC = b"ARROW1"
_MOST_BUFFERS = 1_000_000


def check_declared_size(path: Path, *, max_gib: float | None = None, scanned: bool = False) -> None:
    """Raise where a file declares more than the limit; csv declares nothing, and is bounded by its bytes.

    Args:
        path: A .parquet, .arrow, .feather, .npy or .npz file.
        max_gib: The limit, decoded, in GiB; None takes ``WHOLE_GIB``, or ``SCANNED_GIB`` where ``scanned``.
        scanned: Whether the table is read in pieces.

    Raises:
        InputError: It declares more, or its metadata are damaged.
    """
    limit = (SCANNED_GIB if scanned else WHOLE_GIB) if max_gib is None else max_gib
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows, whole, piece = _parquet_size(path)
    elif suffix in (".arrow", ".feather"):
        rows, whole, piece = _arrow_size(path)
    else:
        return
    _refuse(path, "", rows, whole, limit)
    _refuse(path, " in one piece", rows, piece, max(WHOLE_GIB, max_gib or 0))


def refuse_size(path: Path, n_bytes: int, *, max_gib: float | None = None) -> None:
    """Raise where unpacking a file would take more bytes than the limit of a table in memory."""
    _refuse(path, "", None, n_bytes, WHOLE_GIB if max_gib is None else max_gib)


def _refuse(path: Path, what: str, rows: int | None, n_bytes: int, limit: float) -> None:
    if n_bytes <= limit * _GIB:
        return
    counted = "" if rows is None else f" ({rows:,} rows)"
    size = path.stat().st_size
    raise InputError(
        f"path: {path.name!r} has {size:,} bytes and declares {n_bytes / _GIB:,.3g} GiB{what}{counted}; the limit is "
        f"{limit:g} GiB: if this is no mistake, raise it (data.max_gib in the audit file, max_gib= in Python)"
    )


def _parquet_size(path: Path) -> tuple[int, int, int]:
    """Rows, decoded bytes, and decoded bytes of the largest row group; pages that contradict the footer are refused."""
    from pyarrow import parquet

    from auditkit.parquet_pages import check_pages

    with parquet.ParquetFile(path) as stored:
        metadata = stored.metadata
        width = row_width(stored.schema_arrow)
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        sizes = [_group_size(group, width) for group in groups]
        check_pages(path, metadata)
    return metadata.num_rows, max(sum(sizes), metadata.num_rows * width), max(sizes, default=0)


def _group_size(group: object, width: int) -> int:
    columns = [group.column(i) for i in range(group.num_columns)]  # pyright: ignore[reportAttributeAccessIssue]
    declared = sum(max(0, column.total_uncompressed_size) for column in columns)
    return max(declared, group.num_rows * width)  # pyright: ignore[reportAttributeAccessIssue]


def row_width(schema: pa.Schema) -> int:
    """Bytes of a row, counting what has no fixed width as a pointer."""

    def width(kind: pa.DataType) -> int:
        try:
            return max(1, kind.bit_width // 8)
        except ValueError:
            return _TEXT_BYTES

    return sum(width(field.type) for field in schema)


def _arrow_size(path: Path) -> tuple[int, int, int]:
    """Rows and decoded bytes by the footer and the header of every record batch; nothing is unpacked."""
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            return 0, 0, 0  # an older file, never compressed, or no Arrow file at all: the reader says
        try:
            sizes = [_batch_size(stream, place, width) for place, width in _blocks(stream, path)]
        except (struct.error, IndexError, OSError, ValueError, OverflowError) as error:
            raise InputError(
                f"path: {path.name!r} cannot be read as {path.suffix}: its footer or a header is damaged; it may be "
                "cut off: write it again"
            ) from error
    rows, decoded = (sum(size[i] for size in sizes) for i in (0, 1))
    return rows, decoded, max((size[1] for size in sizes), default=0)


def _blocks(stream: object, path: Path) -> list[tuple[int, int]]:
    """Where the record batches and dictionaries begin, and the width of a row."""
    read = _Reader(stream)
    end = path.stat().st_size
    length = struct.unpack("<i", read.at(end - 10, 4))[0]
    if not 0 < length <= end:
        raise ValueError(length)
    footer = _Flat(read.at(end - 10 - length, length))
    table = footer.root()
    n_fields = 1
    schema = footer.table(table, 1)
    if schema is not None:
        n_fields = max(1, len(footer.vector(schema, 1, 4)))
    starts = [struct.unpack("<q", block[:8])[0] for field in (2, 3) for block in footer.vector(table, field, 24)]
    return [(start, n_fields * _TEXT_BYTES) for start in starts]


def _batch_size(stream: object, start: int, width: int) -> tuple[int, int]:
    """Rows and decoded bytes of one record batch."""
    read = _Reader(stream)
    prefix = read.at(start, 8)
    continued = prefix[:4] == b"\xff\xff\xff\xff"
    length = struct.unpack("<i", prefix[4:] if continued else prefix[:4])[0]
    head = start + (8 if continued else 4)
    message = _Flat(read.at(head, length))
    header = message.table(message.root(), 2)
    if header is None:
        return 0, 0
    if message.byte(message.root(), 1) == 2:  # a dictionary, which wraps its batch
        header = message.table(header, 1)
    if header is None:
        return 0, 0
    rows = message.long(header, 0)
    buffers = [struct.unpack("<qq", one) for one in message.vector(header, 2, 16)]
    packed = message.table(header, 3) is not None
    decoded = 0
    for offset, stored in buffers:
        known = struct.unpack("<q", read.at(head + length + offset, 8))[0] if packed and stored >= 8 else stored
        decoded += stored if known < 0 else known  # -1: this buffer was left as it is
    return rows, max(decoded, rows * width)


class _Reader:
    """Bytes at a place of a file; a short answer is an error."""

    def __init__(self, stream: object) -> None:
        self.stream = stream

    def at(self, place: int, length: int) -> bytes:
        if place < 0 or length < 0 or length > _GIB // 4:
            raise ValueError(place)
        self.stream.seek(place)  # pyright: ignore[reportAttributeAccessIssue]
        found: bytes = self.stream.read(length)  # pyright: ignore[reportAttributeAccessIssue]
        if len(found) != length:
            raise ValueError(length)
        return found


class _Flat:
    """The few reads of a FlatBuffer that the size of a batch needs (https://flatbuffers.dev/internals)."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def number(self, form: str, place: int) -> int:
        if place < 0:
            raise ValueError(place)
        return struct.unpack_from(form, self.data, place)[0]

    def root(self) -> int:
        return self.number("<I", 0)

    def field(self, table: int, index: int) -> int:
        """Where a field lies; 0 where it is left out."""
        directory = table - self.number("<i", table)
        if 4 + 2 * index >= self.number("<H", directory):
            return 0
        offset = self.number("<H", directory + 4 + 2 * index)
        return table + offset if offset else 0

    def byte(self, table: int, index: int) -> int:
        place = self.field(table, index)
        return self.number("<B", place) if place else 0

    def long(self, table: int, index: int) -> int:
        place = self.field(table, index)
        return self.number("<q", place) if place else 0

    def table(self, table: int, index: int) -> int | None:
        place = self.field(table, index)
        return place + self.number("<I", place) if place else None

    def vector(self, table: int, index: int, width: int) -> list[bytes]:
        place = self.field(table, index)
        if not place:
            return []
        begin = place + self.number("<I", place)
        count = self.number("<I", begin)
        if count > _MOST_BUFFERS or begin + 4 + count * width > len(self.data):
            raise ValueError(count)
        return [self.data[begin + 4 + i * width : begin + 4 + (i + 1) * width] for i in range(count)]


def unpacked_size(path: Path) -> int:
    """Bytes that a zip declares to unpack to.

    Raises:
        InputError: It is no zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"path: {path.name!r} is no .npz file, or is cut off ({error}); write it again") from error
