"""NumPy files as tables: .npy with a structured array, .npz with a vector per column; never with Python objects."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit.errors import InputError, SchemaError, UntrustedFileError
from auditkit.table_limits import refuse_size, unpacked_size

if TYPE_CHECKING:
    import pyarrow as pa

_DAMAGED = (OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, KeyError)
"""What reading raises beside ValueError: checksums, compressed data, methods of packing, passwords, lost members."""


def read_npy(file: Path, *, max_gib: float | None = None) -> pa.Table:
    """A structured array as a table.

    Raises:
        UntrustedFileError: It holds Python objects.
        SchemaError: Its fields have no names.
        InputError: It is damaged or too large.
    """
    values = _load(file, lambda: np.load(_checked(file, max_gib), allow_pickle=False))
    if values.dtype.names is None:
        raise SchemaError(
            f"path: {file.name!r} holds an array of shape {values.shape} without column names; save a structured "
            "array, np.savez(file, column=values, …), or pass the array to auditkit.from_frame with columns="
        )
    if values.ndim != 1:
        raise SchemaError(f"path: {file.name!r} must hold one structured row per row; got shape {values.shape}")
    return _table({name: values[name] for name in values.dtype.names}, file)


def read_npz(file: Path, *, max_gib: float | None = None) -> pa.Table:
    """Vectors of one length as the columns of a table.

    Raises:
        UntrustedFileError: A vector holds Python objects.
        SchemaError: The vectors are no columns of one table.
        InputError: It is damaged or too large.
    """
    refuse_size(file, unpacked_size(file), max_gib=max_gib)

    def read() -> dict[str, Any]:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    return _table(_load(file, read), file)


def _checked(file: Path, max_gib: float | None) -> Path:
    """The file, once what its header declares is within the limit and there."""
    with file.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version} of the format")
        shape, _, kind = readers[version](stream)
        size = int(np.prod(shape, dtype=object)) * kind.itemsize
        if not kind.hasobject:
            refuse_size(file, size, max_gib=max_gib)
            if size > file.stat().st_size - stream.tell():
                raise ValueError("it is cut off")
    return file


def _load(file: Path, read: Any) -> Any:
    try:
        return read()
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        if "pickle" in str(error):
            raise UntrustedFileError(
                f"path: {file.name!r} holds Python objects, which can run code when they are read; convert its columns "
                "to numbers or fixed-width text (array.astype(str)) and save it again, or save a table with to_parquet"
            ) from error
        raise InputError(f"path: {file.name!r} cannot be read as {file.suffix}: {error}") from error
    except _DAMAGED as error:
        raise InputError(f"path: {file.name!r} cannot be read as {file.suffix}: {error}") from error


def _table(columns: dict[str, Any], file: Path) -> pa.Table:
    import pyarrow as pa

    shapes = {name: values.shape for name, values in columns.items()}
    if not shapes or any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) > 1:
        shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise SchemaError(f"path: {file.name!r} must hold one vector per column, all of one length; got {shown}")
    return pa.table({name: pa.array(values) for name, values in columns.items()})
