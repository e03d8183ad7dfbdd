"""Image manifests, and frozen features computed once and kept on disk under a name made of their content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from auditkit._typing import FloatArray, VectorLike
from auditkit._validation import to_numpy
from auditkit.datasets import AttributeSpec, AuditData, from_frame, hash_file, read_table
from auditkit.errors import InputError, SchemaError
from auditkit.groups import Groups

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from auditkit.models.timm_model import TimmModel

FeatureArray: TypeAlias = np.memmap[tuple[int, int], np.dtype[np.float32]]
Progress: TypeAlias = Callable[[int, int], None]

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class ImageManifest:
    """A data set whose rows are image files.

    Attributes:
        data: Labels and attributes of every image, n rows.
        paths: The image files, n of them, all inside the manifest's folder.
        keys: The paths as the manifest writes them.
    """

    data: AuditData
    paths: tuple[Path, ...]
    keys: tuple[str, ...]

    @property
    def n_rows(self) -> int:
        """Number of images n."""
        return len(self.paths)

    @property
    def labels(self) -> FloatArray | None:
        """Label of every image, shape (n,)."""
        return self.data.labels

    @property
    def groups(self) -> Groups:
        """The attributes as Groups."""
        return self.data.groups

    def take(self, rows: VectorLike) -> ImageManifest:
        """Some of the images (indices or a boolean mask)."""
        chosen = np.arange(self.n_rows)[to_numpy(rows)]
        paths, keys = (tuple(values[i] for i in chosen) for values in (self.paths, self.keys))
        return ImageManifest(self.data.take(rows), paths, keys)

    def hash_images(self) -> str:
        """SHA-256 over the names and bytes of all images, in order."""
        digest = hashlib.sha256()
        for key, path in zip(self.keys, self.paths, strict=True):
            digest.update(f"{key}\0{hash_file(path)}\n".encode())
        return digest.hexdigest()


def read_manifest(
    path: str | Path,
    *,
    attributes: Sequence[AttributeSpec] | AttributeSpec,
    image_column: str = "path",
    label: str | None = None,
    positive_label: Hashable | None = None,
    strata: Sequence[AttributeSpec] | AttributeSpec = (),
    folder: str | Path | None = None,
    name: str | None = None,
) -> ImageManifest:
    """Read a table that names one image per row.

    Args:
        path: A .csv, .parquet, .arrow or .feather file.
        attributes: Protected attributes, as in ``load_table``.
        image_column: Column of image paths, relative to ``folder``.
        label: Column of outcomes.
        positive_label: Value of ``label`` that becomes 1.0.
        strata: Legitimate conditions, as in ``load_table``.
        folder: Where the images are; the manifest's own folder by default. Paths that lead out of it are refused.
        name: What reports call the data; the file's stem by default.

    Raises:
        SchemaError: A column is missing.
        InputError: Images are missing or lie outside the folder.
    """
    source = Path(path)
    frame = read_table(source)
    if image_column not in frame.columns:
        raise SchemaError(f"image_column {image_column!r} is not in the manifest; it has: {', '.join(frame.columns)}")
    table = from_frame(
        frame,
        attributes=attributes,
        label=label,
        positive_label=positive_label,
        features=[],
        strata=strata,
        name=name or source.stem,
    )
    data = AuditData(table.name, table.attributes, None, table.labels, None, hash_file(source), str(path))
    keys = _keys(cast("pd.Series", frame[image_column]), image_column)
    return ImageManifest(data, _resolve(keys, source.parent if folder is None else Path(folder)), keys)


def extract_features(
    model: TimmModel,
    manifest: ImageManifest,
    *,
    cache_dir: str | Path,
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
) -> FeatureArray:
    """Features of every image by a frozen backbone, computed once.

    The file's name is a hash of the model's fingerprint (weights, architecture and preprocessing) and of the names and
    bytes of the images, so a change in any of them computes anew and nothing stale is read.

    Args:
        model: A frozen backbone with ``prepare`` and ``features``.
        manifest: The images.
        cache_dir: Where feature files are kept; made when missing.
        batch_size: Images per step of the backbone.
        workers: Threads that decode images; 0 decodes in this one.
        progress: Called with (images done, images in all) after every batch.

    Returns:
        A read-only memory map of shape (n, d), float32.

    Raises:
        InputError: An image cannot be decoded (the message names it), or the cache file is damaged.
    """
    if batch_size < 1 or workers < 0:
        raise InputError(f"batch_size must be ≥ 1 and workers ≥ 0; got batch_size={batch_size}, workers={workers}")
    stored = Path(cache_dir) / f"{_cache_key(model.fingerprint, manifest.hash_images())}.npy"
    shape = (manifest.n_rows, model.n_features)
    if not stored.exists():
        stored.parent.mkdir(parents=True, exist_ok=True)
        batches = _feature_batches(model, manifest.paths, batch_size, workers)
        _write_atomically(stored, shape, batches, progress)
    return _open(stored, shape)


def _keys(values: pd.Series, name: str) -> tuple[str, ...]:
    missing = np.flatnonzero(values.isna().to_numpy())
    if missing.size:
        raise InputError(f"image_column {name!r} has {missing.size} empty paths (first at row {missing[0]})")
    return tuple(str(value) for value in values)


def _resolve(keys: Sequence[str], folder: Path) -> tuple[Path, ...]:
    root = folder.resolve()
    paths = [(root / key).resolve() for key in keys]
    outside = [key for key, path in zip(keys, paths, strict=True) if not path.is_relative_to(root)]
    if outside:
        raise InputError(
            f"manifest: {len(outside)} paths lead out of its folder ({_first(outside)}); move the images in"
        )
    missing = [key for key, path in zip(keys, paths, strict=True) if not path.is_file()]
    if missing:
        raise InputError(f"manifest: {len(missing)} of {len(keys)} images are missing ({_first(missing)})")
    return tuple(paths)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _cache_key(model: str, images: str) -> str:
    content = {"format": FORMAT_VERSION, "images": images, "model": model}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _feature_batches(
    model: TimmModel, paths: Sequence[Path], batch_size: int, workers: int
) -> Iterator[NDArray[np.float32]]:
    import torch

    with _decoder(workers) as decode:
        for start in range(0, len(paths), batch_size):
            images = decode(lambda path: _load_image(model, path), paths[start : start + batch_size])
            yield model.features(torch.stack(list(images))).float().cpu().numpy()


@contextlib.contextmanager
def _decoder(workers: int) -> Iterator[Callable[..., Iterator[torch.Tensor]]]:
    if workers == 0:
        yield map
        return
    # Pillow releases the interpreter lock while it decodes, so threads suffice and nothing has to be pickled.
    with ThreadPoolExecutor(workers) as pool:
        yield pool.map


def _load_image(model: TimmModel, path: Path) -> torch.Tensor:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return model.prepare(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"image {str(path)!r} cannot be read: {error}; replace it or drop its row") from error


def _write_atomically(
    stored: Path, shape: tuple[int, int], batches: Iterator[NDArray[np.float32]], progress: Progress | None
) -> None:
    temporary = stored.with_name(f"{stored.stem}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        target = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        done = 0
        for batch in batches:
            target[done : done + len(batch)] = batch
            done += len(batch)
            if progress is not None:
                progress(done, shape[0])
        target.flush()
        del target
        temporary.replace(stored)
    finally:
        temporary.unlink(missing_ok=True)


def _open(stored: Path, shape: tuple[int, int]) -> FeatureArray:
    try:
        features = np.load(stored, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cache_dir: {str(stored)!r} is damaged ({error}); delete it and run again") from error
    if features.shape != shape or features.dtype != np.float32:
        raise InputError(
            f"cache_dir: {str(stored)!r} holds {features.dtype} {features.shape} instead of float32 {shape}"
        )
    return features
