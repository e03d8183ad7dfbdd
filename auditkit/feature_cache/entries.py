"""One entry of the cache: a folder with a matrix written chunk by chunk, and a checksum for every chunk.

::

    <key>/entry.json          what the rows, the model and the layout are; the key is a hash of the first two
    <key>/chunks*.jsonl       a line per finished chunk: number, SHA-256, rows that had to be skipped
    <key>/features.npy.part   the matrix while chunks are missing, its disk space reserved from the start
    <key>/features.npy        the whole matrix
    <key>.lock                held by whoever writes

A chunk counts as finished when its line is there and the bytes have the line's checksum, so that neither a kill, a full
disk nor a flipped bit passes for features.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from auditkit._files import write_whole
from auditkit.errors import InputError

SCHEMA = "auditkit.features/1"
DESCRIPTION, MATRIX, UNFINISHED = "entry.json", "features.npy", "features.npy.part"
JOURNAL, JOURNALS = "chunks.jsonl", "chunks*.jsonl"

FeatureArray: TypeAlias = np.memmap[tuple[int, int], np.dtype[np.floating[Any]]]
Skipped: TypeAlias = tuple[tuple[int, str], ...]
"""Rows that have no features, each with the reason."""


@dataclass(frozen=True)
class Content:
    """What decides every number of an entry; its hash is the entry's name.

    Attributes:
        model: Fingerprint of the frozen model.
        rows: SHA-256 of the rows.
        preprocessing: What turns a row into what the model reads, where the model's fingerprint does not cover it.
        outputs: What is kept of every row: "features", "scores" or both.
        device: Kind of device the model ran on.
        precision: "full", or the type that autocast computed in.
        versions: Versions of the packages that decode and compute.
    """

    model: str
    rows: str
    preprocessing: str
    outputs: tuple[str, ...]
    device: str
    precision: str
    versions: Mapping[str, str]

    @property
    def key(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256(json.dumps([SCHEMA, asdict(self)], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """How the rows lie in the matrix.

    Attributes:
        n_rows: Rows n.
        widths: Columns of every output, in order.
        dtype: Type of the numbers.
        batch_rows: Rows the model sees at a time; a chunk begins a batch, whatever was computed before it.
        chunk_rows: Rows that are finished at a time.
    """

    n_rows: int
    widths: tuple[int, ...]
    dtype: str
    batch_rows: int
    chunk_rows: int

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.n_rows // self.chunk_rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.n_rows, sum(self.widths)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """First row of a chunk, and the one behind its last."""
        return chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.n_rows)

    def batches_of(self, chunk: int) -> list[tuple[int, int]]:
        """Bounds of the batches of a chunk."""
        first, end = self.bounds(chunk)
        return [(start, min(start + self.batch_rows, end)) for start in range(first, end, self.batch_rows)]

    def rows_of(self, chunks: Iterable[int]) -> int:
        """Rows in some chunks."""
        return sum(end - start for start, end in map(self.bounds, chunks))


@dataclass(frozen=True, eq=False)
class Entry:
    """A folder of the cache.

    Attributes:
        folder: Where it is.
        content: What it holds.
        layout: How it lies there.
        about: What people want to know of it: names, time of creation.
    """

    folder: Path
    content: Content
    layout: Layout
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Entry | None:
        """The entry in a folder; None where there is none, or its description is damaged."""
        try:
            stored = json.loads((folder / DESCRIPTION).read_bytes())
            content = Content(**{**stored["content"], "outputs": tuple(stored["content"]["outputs"])})
            layout = Layout(**{**stored["layout"], "widths": tuple(stored["layout"]["widths"])})
            about = dict(stored["about"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(folder, content, layout, about) if content.key == folder.name else None

    @classmethod
    def create(cls, folder: Path, content: Content, layout: Layout, about: Mapping[str, Any]) -> Entry:
        """A new entry in place of whatever is there, with its disk space reserved.

        Raises:
            InputError: The disk has no room for it; nothing is left behind.
        """
        shutil.rmtree(folder, ignore_errors=True)
        entry = cls(folder, content, layout, about)
        try:
            folder.mkdir(parents=True)
            entry._reserve()
            stored = {"schema": SCHEMA, "content": asdict(content), "layout": asdict(layout), "about": dict(about)}
            write_whole(folder / DESCRIPTION, json.dumps(stored, indent=1).encode())
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise disk_error(folder.parent, error, size=entry.n_bytes) from error
        return entry

    @property
    def n_bytes(self) -> int:
        """Bytes of the matrix."""
        return self.layout.shape[0] * self.layout.shape[1] * np.dtype(self.layout.dtype).itemsize

    def is_whole(self) -> bool:
        """Whether no chunk was missing when it was last written; the checksums are another question."""
        return (self.folder / MATRIX).is_file()

    def listed(self) -> dict[int, tuple[str, Skipped]]:
        """Checksum and skipped rows of every chunk that a journal lists, unchecked; torn lines count for nothing."""
        found: dict[int, tuple[str, Skipped]] = {}
        for journal in sorted(self.folder.glob(JOURNALS)):
            for line in journal.read_bytes().splitlines():
                try:
                    chunk = json.loads(line)
                    found[int(chunk["chunk"])] = (
                        chunk["sha256"],
                        tuple((int(r), str(why)) for r, why in chunk["skipped"]),
                    )
                except (ValueError, KeyError, TypeError):
                    continue
        return {chunk: record for chunk, record in found.items() if 0 <= chunk < self.layout.n_chunks}

    def finished(self) -> dict[int, tuple[str, Skipped]]:
        """The chunks that are listed and whose bytes have the listed checksum."""
        file = self.folder / (MATRIX if self.is_whole() else UNFINISHED)
        header = self._header()
        if not file.is_file():
            return {}
        with file.open("rb") as stream:
            if stream.read(len(header)) != header:
                return {}
            return {
                chunk: (digest, skipped)
                for chunk, (digest, skipped) in self.listed().items()
                if digest == checksum(chunk, self._read_chunk(stream, chunk), skipped)
            }

    def reopen(self) -> dict[int, tuple[str, Skipped]]:
        """Prepare for writing: drop what is torn or damaged, and return the finished chunks that remain."""
        done = self.finished()
        if len(done) == self.layout.n_chunks:
            return done
        try:
            if self.is_whole():  # until it is mended, nobody may take it for features
                (self.folder / MATRIX).replace(self.folder / UNFINISHED)
            self._reserve()
            self._write_journal(done)
        except OSError as error:
            raise disk_error(self.folder.parent, error, size=self.n_bytes) from error
        return done

    def write_chunk(self, chunk: int, values: np.ndarray[Any, Any], skipped: Skipped, *, writer: int = 0) -> None:
        """Write a finished chunk, then its line in the writer's journal.

        Raises:
            InputError: The disk is full; the chunk stays unfinished, and those before it stay finished.
        """
        data = np.ascontiguousarray(values, dtype=self.layout.dtype).reshape(-1).view(np.uint8).data  # no copy
        line = {"chunk": chunk, "sha256": checksum(chunk, data, skipped), "skipped": skipped}
        journal = self.folder / (JOURNAL if writer == 0 else f"chunks-{writer}.jsonl")
        try:
            with (self.folder / UNFINISHED).open("r+b") as stream:
                stream.seek(self._offset(chunk))
                stream.write(data)
            with journal.open("ab") as stream:
                stream.write(b"\n" + json.dumps(line).encode() + b"\n")  # a torn line before it ends here
        except OSError as error:
            raise disk_error(self.folder.parent, error) from error

    def finish(self) -> Skipped:
        """Check every chunk, put the journals into one, and give the matrix its name.

        Returns:
            The rows without features.

        Raises:
            InputError: Chunks are missing or damaged: another process wrote here, or the disk does not keep its bytes.
        """
        done = self.finished()
        missing = self.layout.n_chunks - len(done)
        if missing:
            raise InputError(
                f"cache: {missing} of {self.layout.n_chunks} chunks in {str(self.folder)!r} lack their checksums right "
                "after they were written; check the disk, and whether every process sees the same folder"
            )
        part = self.folder / UNFINISHED
        if part.is_file():
            try:
                self._write_journal(done)
                with part.open("r+b") as stream:
                    os.fsync(stream.fileno())
                part.replace(self.folder / MATRIX)
            except OSError as error:
                raise disk_error(self.folder.parent, error) from error
        return collect(done)

    def open(self) -> FeatureArray:
        """The matrix as a read-only memory map, shape (n, sum of widths)."""
        return np.load(self.folder / MATRIX, mmap_mode="r", allow_pickle=False)

    def _reserve(self) -> None:
        """A file of the full size whose blocks are taken, so that a full disk shows before anything is computed."""
        header, file = self._header(), self.folder / UNFINISHED
        with file.open("r+b" if file.exists() else "wb") as stream:
            stream.write(header)
            stream.flush()
            size = len(header) + self.n_bytes
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)
            else:
                stream.truncate(size)

    def _write_journal(self, done: Mapping[int, tuple[str, Skipped]]) -> None:
        lines = [
            json.dumps({"chunk": chunk, "sha256": digest, "skipped": skipped})
            for chunk, (digest, skipped) in sorted(done.items())
        ]
        write_whole(self.folder / JOURNAL, "".join(f"{line}\n" for line in lines).encode())
        for journal in self.folder.glob(JOURNALS):
            if journal.name != JOURNAL:
                journal.unlink(missing_ok=True)

    def _header(self) -> bytes:
        buffer = io.BytesIO()
        described = {"descr": np.lib.format.dtype_to_descr(np.dtype(self.layout.dtype)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(buffer, {**described, "shape": self.layout.shape})
        return buffer.getvalue()

    def _offset(self, chunk: int) -> int:
        row_bytes = self.layout.shape[1] * np.dtype(self.layout.dtype).itemsize
        return len(self._header()) + self.layout.bounds(chunk)[0] * row_bytes

    def _read_chunk(self, stream: io.BufferedReader, chunk: int) -> bytes:
        start, end = self.layout.bounds(chunk)
        stream.seek(self._offset(chunk))
        return stream.read((end - start) * self.layout.shape[1] * np.dtype(self.layout.dtype).itemsize)


def checksum(chunk: int, data: bytes | memoryview, skipped: Skipped) -> str:
    """SHA-256 over the number, the skipped rows and the bytes of a chunk."""
    digest = hashlib.sha256(json.dumps([chunk, skipped]).encode())
    digest.update(data)
    return digest.hexdigest()


def collect(chunks: Mapping[int, tuple[str, Skipped]]) -> Skipped:
    """The skipped rows of all chunks, in order."""
    return tuple(pair for _, (_, skipped) in sorted(chunks.items()) for pair in skipped)


def disk_error(folder: Path, error: OSError, *, size: int = 0) -> InputError:
    """What to say when the cache cannot be written."""
    wanted = f"{size / 2**20:,.1f} MiB of features do not fit" if size else "it cannot be written"
    return InputError(
        f"cache: {wanted} in {str(folder)!r}: {error.strerror or error}; make room (`auditkit cache ls`), name another "
        "folder (AUDITKIT_CACHE, --cache), or do without (--no-cache)"
    )
