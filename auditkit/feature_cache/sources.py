"""Where the rows come from: tables, arrays and image files, a batch at a time, each with a hash of its content."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from auditkit.datasets import AuditData
from auditkit.errors import InputError
from auditkit.feature_cache.batches import Batch, RowSource, Span
from auditkit.feature_cache.table_rows import TableFileRows, TableRows
from auditkit.feature_tables import FeatureTable
from auditkit.images import MAX_PIXELS, CorruptImageError, ImageManifest, decode_image
from auditkit.texts import TextTable, text_key

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from auditkit.models import FrozenModel

Prepare: TypeAlias = "Callable[[Image], torch.Tensor]"

IMAGE_BATCH = 64
"""Images per step of the model."""

IMAGE_PACKAGES = ("pillow", "timm", "torchvision")


@dataclass(frozen=True)
class ImagePreprocessing:
    """What turns an image into numbers: x = (rgb / 255 − mean) / std, after resizing, shape (3, height, width).

    Models of timm bring their own; this is for graphs and modules that do not say what they expect.

    Attributes:
        size: Height and width.
        mean: Subtracted, per channel.
        std: Divided by, per channel.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"size must be height and width, both at least 1; got {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(f"mean and std must be three numbers each, std positive; got {self.mean} and {self.std}")

    def __call__(self, image: Image) -> torch.Tensor:
        """One prepared image."""
        import torch
        from PIL.Image import Resampling

        resized = image.resize((self.size[1], self.size[0]), Resampling.BILINEAR)
        values = np.asarray(resized, dtype=np.float32) / np.float32(255)
        scaled = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


@dataclass(eq=False)
class TextRows:
    """Texts streamed from their file, as frames of one column: pipelines of scikit-learn read them as well."""

    table: TextTable
    batch_rows: int
    packages: tuple[str, ...]
    preprocessing: str = "text: the model's own"
    unit: str = "texts"

    def __post_init__(self) -> None:
        self.n_rows = self.table.n_rows

    def hash_rows(self) -> str:
        """SHA-256 over all texts, in order."""
        return self.table.sha256

    def batches(self, spans: Sequence[Span], *, workers: int) -> Iterator[Batch]:
        """The texts of every span, in order; what lies between spans is read over."""
        del workers  # nothing has to be decoded
        texts, place = self.table.texts(), 0
        for start, end in spans:
            found = list(itertools.islice(texts, start - place, end - place))
            place = end
            yield self._batch(start, end, found)

    def _batch(self, start: int, end: int, found: list[str | None]) -> Batch:
        import pandas as pd

        table = self.table
        if [text_key(text) for text in found] != table.keys[start:end].tolist():
            return Batch(start, end, None, (), fatal=f"{table.path.name!r} changed while its texts were read")
        rows = [(row, text) for row, text in enumerate(found, start) if text is not None]
        skipped = tuple((row, _lacking(row, table.column)) for row, text in enumerate(found, start) if text is None)
        values = pd.DataFrame({table.column: [text for _, text in rows]}, dtype=object) if rows else None
        return Batch(start, end, values, tuple(row for row, _ in rows), skipped)


@dataclass(eq=False)
class ImageRows:
    """Image files, decoded and prepared batch by batch, by worker processes where there are any."""

    manifest: ImageManifest
    prepare: Prepare
    preprocessing: str
    batch_rows: int
    max_pixels: int = MAX_PIXELS
    packages: tuple[str, ...] = IMAGE_PACKAGES
    unit: str = "images"

    def __post_init__(self) -> None:
        self.n_rows = self.manifest.n_rows

    def hash_rows(self) -> str:
        """SHA-256 over the names and bytes of all images, in order."""
        return self.manifest.hash_images()

    def batches(self, spans: Sequence[Span], *, workers: int) -> Iterator[Batch]:
        """The images of every span, in order."""
        import torch
        from torch.utils.data import DataLoader

        dataset = _Spans(
            tuple(spans), self.manifest.keys, self.manifest.paths, self.manifest.hashes, self.prepare, self.max_pixels
        )
        if workers == 0:
            yield from map(dataset.__getitem__, range(len(spans)))
            return
        # A generator of its own: drawing from the global one would let training depend on whether the cache was filled
        yield from DataLoader(
            cast("Any", dataset),
            batch_size=None,
            num_workers=min(workers, len(spans)),
            worker_init_fn=_start_worker,
            generator=torch.Generator(),
            collate_fn=cast("Any", _as_is),
        )


@dataclass(frozen=True, eq=False)
class _Spans:
    """The batches as a data set: what travels to a worker process."""

    spans: tuple[Span, ...]
    keys: tuple[str, ...]
    paths: tuple[Path, ...]
    hashes: tuple[str, ...]
    prepare: Prepare
    max_pixels: int

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, position: int) -> Batch:
        import torch

        start, end = self.spans[position]
        images: list[torch.Tensor] = []
        kept: list[int] = []
        skipped: list[tuple[int, str]] = []
        for row in range(start, end):
            name = Path(self.keys[row])
            try:
                content = self.paths[row].read_bytes()
            except OSError as error:
                return Batch(start, end, None, (), fatal=f"image {str(name)!r} is gone: {error.strerror}")
            if hashlib.sha256(content).hexdigest() != self.hashes[row]:
                return Batch(start, end, None, (), fatal=f"image {str(name)!r} changed while the data were read")
            try:
                images.append(self.prepare(decode_image(name, content, max_pixels=self.max_pixels)))
                kept.append(row)
            except CorruptImageError as error:
                skipped.append((row, str(error)))
        values = torch.stack(images) if images else None
        return Batch(start, end, values, tuple(kept), tuple(skipped))


def make_source(
    model: FrozenModel,
    rows: Any,
    *,
    preprocessing: ImagePreprocessing | None = None,
    batch_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> RowSource:
    """The rows as a source for a model.

    Args:
        model: The frozen model.
        rows: An ImageManifest, a TextTable, a FeatureTable, an AuditData with features, a DataFrame, an array or a
            tensor.
        preprocessing: What turns an image into numbers; models of timm bring their own.
        batch_size: Rows per step of the model; by default 64 images, or the model's own chunk of a table.
        max_pixels: Largest image that is decoded.

    Raises:
        InputError: Rows of another kind; images without preprocessing, or with two.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be ≥ 1; got batch_size={batch_size}")
    if isinstance(rows, ImageManifest):
        own = model.image_transform()
        if own is None and preprocessing is None:
            raise InputError(
                f"model {model.name!r} does not say how images become its input; give preprocessing= "
                "(data.images.size, mean and std in an audit file)"
            )
        if own is not None and preprocessing is not None:
            raise InputError(f"model {model.name!r} brings its own preprocessing; leave preprocessing= out")
        if preprocessing is not None:
            described = f"images: {asdict(preprocessing)}, at most {max_pixels} pixels"
            return ImageRows(rows, preprocessing, described, batch_size or IMAGE_BATCH, max_pixels)
        described = f"images: the model's own, at most {max_pixels} pixels"
        packages = (*IMAGE_PACKAGES, *model.packages)
        return ImageRows(rows, cast("Prepare", own), described, batch_size or IMAGE_BATCH, max_pixels, packages)
    if isinstance(rows, TextTable):
        if preprocessing is not None:
            raise InputError("preprocessing is for images; a model of texts brings its tokenizer: leave it out")
        return TextRows(rows, batch_size or model.chunk_rows, model.packages)
    if isinstance(rows, FeatureTable):
        return TableFileRows.for_model(model, rows, batch_size)
    if isinstance(rows, AuditData):
        if rows.features is None:
            raise InputError(f"rows: the data {rows.name!r} hold no features for a model to read")
        rows = rows.features
    if not hasattr(rows, "__len__") or not hasattr(rows, "dtypes" if hasattr(rows, "iloc") else "dtype"):
        raise InputError(
            "rows must be an ImageManifest, a TextTable, an AuditData, a DataFrame, an array or a tensor; got "
            f"{type(rows).__name__}"
        )
    return TableRows(rows, batch_size or model.chunk_rows)


def package_versions(packages: Sequence[str]) -> Mapping[str, str]:
    """Version of each package that is installed."""
    found: dict[str, str] = {}
    for package in sorted(packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _lacking(row: int, column: str) -> str:
    return (
        f"row {row:,} (from 0) has no text in column {column!r}; fill it in, drop the row, or let it be skipped "
        "(data.text.on_missing: skip)"
    )


def _start_worker(worker: int) -> None:
    """One thread per worker: the model has the others."""
    import torch

    del worker
    torch.set_num_threads(1)


def _as_is(batch: Batch) -> Batch:
    return batch
