"""Features and scores of a frozen model, computed once for each content of model and rows."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from auditkit._locks import hold_lock
from auditkit._typing import FloatArray, IntArray
from auditkit.errors import InputError
from auditkit.feature_cache.batches import Batch, RowSource
from auditkit.feature_cache.devices import half_precision, placed
from auditkit.feature_cache.entries import Content, Entry, FeatureArray, Layout, Skipped, collect, disk_error
from auditkit.feature_cache.folders import lock_path
from auditkit.feature_cache.ranks import Ranks, current_ranks, hash_together
from auditkit.feature_cache.sources import ImagePreprocessing, make_source, package_versions
from auditkit.feature_rows import FeatureRows
from auditkit.images import LARGEST_LIMIT, MAX_PIXELS, ImageManifest
from auditkit.progress import Advance, NullProgress, Progress

if TYPE_CHECKING:
    import torch

    from auditkit.models import FrozenModel

Outputs: TypeAlias = tuple[str, ...]
Chunk: TypeAlias = tuple[int, NDArray[Any], Skipped]
OUTPUTS: tuple[Outputs, ...] = (("features",), ("scores",), ("features", "scores"))
CHUNK_BATCHES = 4
"""Batches to a chunk: what a kill costs at most."""


@dataclass(frozen=True)
class ExtractionConfig:
    """How rows are read and computed.

    Attributes:
        batch_size: Rows per step of the model; by default 64 images, or the model's own chunk of a table.
        workers: Processes that decode images; 0 decodes in this one.
        device: "auto" is the GPU where there is one and the model can be moved to it.
        mixed: Let autocast choose half precision, on a GPU only.
        on_corrupt: "fail" at an image that cannot be read, or "skip" it.
        max_pixels: Largest width × height of an image that is decoded.
        preprocessing: What turns an image into numbers, for models that do not bring it.
    """

    batch_size: int | None = None
    workers: int = 0
    device: str = "auto"
    mixed: bool = False
    on_corrupt: Literal["fail", "skip"] = "fail"
    max_pixels: int = MAX_PIXELS
    preprocessing: ImagePreprocessing | None = None

    def __post_init__(self) -> None:
        if (self.batch_size is not None and self.batch_size < 1) or self.workers < 0:
            raise InputError(
                f"batch_size must be ≥ 1 and workers ≥ 0; got batch_size={self.batch_size}, workers={self.workers}"
            )
        if not 1 <= self.max_pixels <= LARGEST_LIMIT:
            raise InputError(f"max_pixels must lie in 1…{LARGEST_LIMIT}; got {self.max_pixels}")
        if self.on_corrupt not in ("fail", "skip"):
            raise InputError(f"on_corrupt must be 'fail' or 'skip'; got {self.on_corrupt!r}")


@dataclass(frozen=True, eq=False)
class Extracted:
    """What was computed or read.

    Attributes:
        values: Features, scores or both side by side, one row per row of the source; NaN where a row was skipped.
        widths: Columns of each output.
        outputs: Names of the outputs.
        skipped: Rows without values, each with the reason.
        key: Name of the entry.
        folder: Where the entry lies; None when nothing was kept.
    """

    values: FeatureArray | NDArray[Any]
    widths: tuple[int, ...]
    outputs: Outputs
    skipped: Skipped
    key: str
    folder: Path | None

    @property
    def kept(self) -> IntArray:
        """Rows that have values."""
        rows = np.ones(len(self.values), dtype=bool)
        rows[[row for row, _ in self.skipped]] = False
        return np.flatnonzero(rows).astype(np.int64)

    def output(self, name: str) -> FeatureArray | NDArray[Any]:
        """One of the outputs, shape (n, width)."""
        place = self.outputs.index(name)
        start = sum(self.widths[:place])
        return self.values if len(self.widths) == 1 else self.values[:, start : start + self.widths[place]]

    def feature_rows(self) -> FeatureRows:
        """The features of the rows that have values, in float64 where they are read, and nowhere copied before."""
        rows = self.kept if self.skipped else None
        return FeatureRows(self.output("features"), rows, folder=None if self.folder is None else self.folder.parent)

    def scores(self) -> FloatArray:
        """The scores, shape (n,) or (n, k), float64."""
        found = np.asarray(self.output("scores"), dtype=np.float64)
        return found[:, 0] if found.shape[1] == 1 else found


def extract_features(
    model: FrozenModel,
    rows: Any,
    *,
    cache_dir: str | Path | None,
    batch_size: int | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> FeatureArray | NDArray[Any]:
    """Features of every row by a frozen model, computed once.

    Args:
        model: A frozen model with features: of timm, of torch, an ONNX graph with a named value inside, a table's.
        rows: An ImageManifest, a TextTable, a FeatureTable, an AuditData, a DataFrame, an array or a tensor.
        cache_dir: Where entries are kept, made when missing; None keeps nothing.
        batch_size: Rows per step of the model; by default 64 images, or the model's own chunk of a table.
        workers: Processes that decode images; 0 decodes in this one.
        progress: Where to report.
        options: The other fields of ExtractionConfig, but for ``on_corrupt``: see `extract_outputs`.

    Returns:
        A read-only memory map of shape (n, d), float32 (float64 where the model computes so).

    Raises:
        InputError: An image cannot be read (the message names it), the model has no features, or the disk is full.
    """
    config = ExtractionConfig(batch_size=batch_size, workers=workers, **options)
    if config.on_corrupt != "fail":
        raise InputError("on_corrupt='skip' leaves rows without features; extract_outputs says which they are")
    return extract_outputs(model, rows, cache_dir=cache_dir, config=config, progress=progress).values


def extract_outputs(
    model: FrozenModel,
    rows: Any,
    *,
    cache_dir: str | Path | None,
    outputs: Outputs = ("features",),
    config: ExtractionConfig | None = None,
    progress: Progress | None = None,
) -> Extracted:
    """Features, scores or both of every row by a frozen model, computed once.

    The entry's name is a hash of the model's fingerprint, the rows' content, the preprocessing, the outputs, the kind
    of device, the precision and the versions of the packages that decode and compute. Work that was cut short goes on
    after its last finished chunk, and ends in the same bits. Two processes that want the same entry do not compute it
    twice: the second waits. In a torch.distributed group every process computes its share of the chunks into one
    folder, which all of them must see.

    Args:
        model: The frozen model.
        rows: An ImageManifest, a TextTable, a FeatureTable, an AuditData, a DataFrame, an array or a tensor.
        cache_dir: Where entries are kept, made when missing; None keeps nothing.
        outputs: ("features",), ("scores",) or ("features", "scores"), the last by one pass where the model can.
        config: How rows are read and computed.
        progress: Where to report.

    Returns:
        The values, with the rows that had to be skipped.

    Raises:
        InputError: An image cannot be read and skipping was not asked for; none can; the model has no such output; the
            disk is full.
    """
    if outputs not in OUTPUTS:
        raise InputError(f"outputs must be one of {', '.join(map(str, OUTPUTS))}; got {outputs!r}")
    if "features" in outputs:
        model.require_features()
    chosen = config or ExtractionConfig()
    if isinstance(rows, ImageManifest):
        rows = hash_together(rows, current_ranks())
    source = make_source(
        model, rows, preprocessing=chosen.preprocessing, batch_size=chosen.batch_size, max_pixels=chosen.max_pixels
    )
    if source.n_rows == 0:
        raise InputError("rows must hold at least one row; got none")
    with placed(model, chosen.device) as device:
        job = _Job(model, source, outputs, chosen, device, progress or NullProgress())
        found = _in_memory(job) if cache_dir is None else _in_cache(job, Path(cache_dir))
    _refuse_skipped(found.skipped, job)
    return found


@dataclass(frozen=True, eq=False)
class _Job:
    """What is asked of whom, and how."""

    model: FrozenModel
    source: RowSource
    outputs: Outputs
    config: ExtractionConfig
    device: torch.device
    progress: Progress
    ranks: Ranks = field(default_factory=current_ranks)

    def content(self) -> Content:
        """What decides the numbers; processes of a group take it from the first."""
        precision = half_precision(self.device) if self.config.mixed else "full"
        versions = package_versions(["torch", "onnxruntime", *self.source.packages])
        described = self.ranks.on_first(
            lambda: Content(
                self.model.fingerprint, self.source.hash_rows(), self.source.preprocessing, self.outputs,
                self.device.type, precision, versions,
            )
        )  # fmt: skip
        if described.model != self.model.fingerprint:
            raise InputError("every process must have the same model; the fingerprints differ")
        return described

    def layout(self) -> Layout:
        """The layout of a new entry; the model is asked about the first row that can be read."""
        reasons: list[str] = []
        for row in range(self.source.n_rows):
            batch = next(iter(self.source.batches([(row, row + 1)], workers=0)))
            self.refuse(batch)
            if batch.kept:
                parts = self.compute(batch.values)
                widths = tuple(part.shape[1] for part in parts)
                rows = self.source.batch_rows
                dtype = np.dtype(np.result_type(*parts)).str
                return Layout(self.source.n_rows, widths, dtype, rows, rows * CHUNK_BATCHES)
            reasons += [reason for _, reason in batch.skipped]
        raise InputError(f"none of the {self.source.n_rows} {self.source.unit} can be read; the first: {reasons[0]}")

    def compute(self, values: Any) -> list[NDArray[Any]]:
        """Every output of some rows, shape (rows, width) each."""
        import torch

        half = self.config.mixed and self.device.type == "cuda"
        precision = getattr(torch, half_precision(self.device)) if half else None
        with torch.autocast(self.device.type, dtype=precision, enabled=half):
            if self.outputs == ("features", "scores"):
                parts = self.model.features_and_scores(values)
            elif self.outputs == ("features",):
                parts = (self.model.features(values),)
            else:
                parts = (self.model.scores(values),)
        wide = [part.float() if part.dtype in (torch.float16, torch.bfloat16) else part for part in parts]
        return [part.reshape(len(part), -1).cpu().numpy() for part in wide]

    def chunks(self, layout: Layout, chunks: list[int], advance: Advance) -> Iterator[Chunk]:
        """Compute some chunks: number, values and skipped rows of each."""
        spans = {chunk: layout.batches_of(chunk) for chunk in chunks}
        flat = [span for batches in spans.values() for span in batches]
        batches = iter(self.source.batches(flat, workers=self.config.workers)) if flat else iter(())
        for chunk, parts in spans.items():
            first, end = layout.bounds(chunk)
            values = np.full((end - first, layout.shape[1]), np.nan, dtype=layout.dtype)
            skipped: list[tuple[int, str]] = []
            for batch in itertools.islice(batches, len(parts)):
                self.refuse(batch)
                if batch.kept:
                    values[np.array(batch.kept) - first] = np.concatenate(self.compute(batch.values), axis=1)
                skipped += batch.skipped
                advance(batch.end - batch.start)
            yield chunk, values, tuple(skipped)

    def refuse(self, batch: Batch) -> None:
        """Raise for rows that may not be used, or not be left out."""
        if batch.fatal:
            raise InputError(f"{batch.fatal}; run again when nothing writes there")
        if batch.skipped and self.config.on_corrupt == "fail":
            raise InputError(batch.skipped[0][1])

    def stage(self, total: int) -> contextlib.AbstractContextManager[Advance]:
        """A stage of the progress; only the first process of a group reports."""
        shown = self.progress if self.ranks.rank == 0 else NullProgress()
        return shown.stage(f"{' and '.join(self.outputs)} of {total:,} {self.source.unit}", total)


def _in_memory(job: _Job) -> Extracted:
    layout, content = job.layout(), job.content()
    values, skipped = np.empty(layout.shape, dtype=layout.dtype), []
    with job.stage(layout.n_rows) as advance:
        for chunk, part, bad in job.chunks(layout, list(range(layout.n_chunks)), advance):
            start, end = layout.bounds(chunk)
            values[start:end] = part
            skipped += bad
    return Extracted(values, layout.widths, job.outputs, tuple(skipped), content.key, None)


def _in_cache(job: _Job, root: Path) -> Extracted:
    content = job.content()
    folder = root / content.key
    with contextlib.ExitStack() as held:
        missing = job.ranks.on_first(lambda: _prepare(job, folder, content, held))
        entry = Entry.read(folder)
        if entry is None:
            raise InputError(f"cache: process {job.ranks.rank} does not see {str(folder)!r}; all must see one folder")
        if missing is not None:
            try:
                job.ranks.together(lambda: _write(job, entry, missing))
                job.ranks.on_first(entry.finish)
            except Exception:
                if job.ranks.rank == 0 and not entry.listed():  # nothing to go on from
                    shutil.rmtree(folder, ignore_errors=True)
                raise
        try:
            values, skipped = entry.open(), collect(entry.listed())
        except FileNotFoundError as error:
            raise InputError(f"cache: entry {content.key[:12]} was removed while it was read; run again") from error
    return Extracted(values, entry.layout.widths, job.outputs, skipped, content.key, folder)


def _prepare(job: _Job, folder: Path, content: Content, held: contextlib.ExitStack) -> list[int] | None:
    """Hold the entry's lock and return the chunks that are missing; None, and no lock, where the entry is whole."""
    with contextlib.suppress(FileNotFoundError):  # somebody removes it at this moment
        entry = Entry.read(folder)
        if entry is not None and entry.is_whole() and len(entry.finished()) == entry.layout.n_chunks:
            return None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held.enter_context(hold_lock(lock_path(folder), on_wait=lambda: _say_waiting(job)))
    except OSError as error:
        raise disk_error(folder.parent, error) from error
    entry = Entry.read(folder)
    asked = job.config.batch_size
    if entry is None or (not entry.is_whole() and asked is not None and asked != entry.layout.batch_rows):
        about = {
            "model": job.model.name, "unit": job.source.unit, "process": os.getpid(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        entry = Entry.create(folder, content, job.layout(), about)
    done = entry.reopen()
    missing = [chunk for chunk in range(entry.layout.n_chunks) if chunk not in done]
    return None if not missing and entry.is_whole() else missing


def _write(job: _Job, entry: Entry, missing: list[int]) -> None:
    layout = entry.layout
    with job.stage(layout.n_rows) as advance:
        advance(layout.n_rows - layout.rows_of(missing))
        steps = job.chunks(layout, job.ranks.share(missing), advance)
        for chunk, values, skipped in steps:
            entry.write_chunk(chunk, values, skipped, writer=job.ranks.rank)


def _say_waiting(job: _Job) -> None:
    with job.progress.stage("waiting for another process that computes the same features", 1) as advance:
        advance()


def _refuse_skipped(skipped: Skipped, job: _Job) -> None:
    reasons = [reason for _, reason in skipped]
    if reasons and job.config.on_corrupt == "fail":
        more = f" ({len(reasons) - 1} more like it)" if len(reasons) > 1 else ""
        raise InputError(f"{reasons[0]}{more}")
