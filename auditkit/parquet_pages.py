"""What the pages of a parquet file say about themselves, held against its footer before any of them is unpacked.

A reader takes memory by what the header of a page declares: up to 2 GiB for its bytes, and more for the entries of a
dictionary. A file of some kilobytes can declare both, whatever its footer says. Headers are Thrift structs in the
compact protocol (https://parquet.apache.org/docs/file-format/data-pages); they are walked, and nothing else is read.
"""

from __future__ import annotations

from io import SEEK_END, FileIO
from pathlib import Path
from typing import Any

from auditkit.errors import InputError

SLACK_BYTES = 1 << 16
"""What a page may declare beyond all of its column: some writers do not count headers."""

_HELD_BYTES = 1 << 10
_DEEPEST = 8
_DICTIONARY = 2
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 7, 8, 12
_INTEGERS = (4, 5, 6)
_PAGES = {0: 5, 2: 7, 3: 8}
"""Type of a page → the field of its header with the number of values in it."""


def check_pages(path: Path, metadata: Any) -> None:
    """Raise where a page declares more than its column does in the footer.

    Args:
        path: A .parquet file.
        metadata: Its footer, a `pyarrow.parquet.FileMetaData`.

    Raises:
        InputError: A page declares more bytes, values or entries of a dictionary than can be, or its header is damaged.
    """
    with path.open("rb", buffering=0) as stream:
        content = _Content(stream)
        for i in range(metadata.num_row_groups):
            group = metadata.row_group(i)
            for j in range(group.num_columns):
                _check_column(content, group.column(j), path)


class _Content:
    """The bytes of a file by their places, some of them at a time: a file that is mapped counts as memory."""

    def __init__(self, stream: FileIO) -> None:
        self._stream, self._start, self._held = stream, 0, b""
        self.size = stream.seek(0, SEEK_END)

    def __getitem__(self, place: int) -> int:
        offset = place - self._start
        if not 0 <= offset < len(self._held):
            if not 0 <= place < self.size:
                raise IndexError(place)
            self._stream.seek(place)
            self._start, self._held, offset = place, self._stream.read(_HELD_BYTES), 0
        return self._held[offset]


def _check_column(content: _Content, column: Any, path: Path) -> None:
    place = column.data_page_offset
    if column.dictionary_page_offset and 0 < column.dictionary_page_offset < place:
        place = column.dictionary_page_offset
    end = min(place + column.total_compressed_size, content.size)
    declared, left = column.total_uncompressed_size, column.num_values
    while left > 0 and place < end:
        try:
            header, place = _read_struct(content, place, _DEEPEST)
            kind, size, stored = header[1], header[2], header[3]
            values = header[_PAGES[kind]][1] if kind in _PAGES else 0
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"path: {path.name!r} cannot be read as .parquet: the header of a page of column "
                f"{column.path_in_schema!r} is damaged; write the file again"
            ) from error
        most = size if kind == _DICTIONARY else left
        if min(size, stored, values) < 0 or size > declared + SLACK_BYTES or values > most:
            raise InputError(
                f"path: {path.name!r} has a page of column {column.path_in_schema!r} that declares {size:,} bytes and "
                f"{values:,} values, where the footer says {declared:,} bytes and {column.num_values:,} values for the "
                "whole column: it is damaged, or made to fill the memory; write it again"
            )
        left -= 0 if kind == _DICTIONARY else values
        place += stored


def _read_struct(content: _Content, place: int, depth: int) -> tuple[dict[int, Any], int]:
    """The fields of a struct by their numbers, integers and structs among them, and where it ends.

    Raises:
        ValueError: It is nested too deeply, or holds a type that no header of a page has.
        IndexError: It is cut off.
    """
    if not depth:
        raise ValueError(depth)
    fields: dict[int, Any] = {}
    number = 0
    while head := content[place]:
        place += 1
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, place = _read_signed(content, place)
        if kind in _INTEGERS:
            fields[number], place = _read_signed(content, place)
        elif kind == _BINARY:
            length, place = _read_varint(content, place)
            place += length
        elif kind == _STRUCT:
            fields[number], place = _read_struct(content, place, depth - 1)
        elif kind == _BYTE:
            place += 1
        elif kind == _DOUBLE:
            place += 8
        elif kind not in (_TRUE, _FALSE):
            raise ValueError(kind)
    return fields, place + 1


def _read_varint(content: _Content, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError(shift)


def _read_signed(content: _Content, place: int) -> tuple[int, int]:
    value, place = _read_varint(content, place)
    return (value >> 1) ^ -(value & 1), place
