"""Rows that are images: read by their manifest, and scored by the frozen model with its features kept in the cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit._typing import FloatArray
from auditkit.config import AuditFile
from auditkit.errors import InputError
from auditkit.feature_cache import Extracted, ExtractionConfig, ImagePreprocessing, cache_folder, extract_outputs
from auditkit.images import ImageManifest, read_manifest
from auditkit.models import load_model
from auditkit.progress import Progress

if TYPE_CHECKING:
    from auditkit.config.images_section import ImagesSection, PlacedImages
    from auditkit.datasets import AuditData
    from auditkit.models import FrozenModel

SHOWN = 100
"""Skipped images that a run names; it counts all of them."""


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """The images that could be read, with what the model makes of them.

    Attributes:
        data: Labels and attributes of n images; the hash covers the bytes of all images of the manifest.
        scores: Their scores, shape (n,); NaN for a model of several outputs, which gives features alone.
        features: Their features, shape (n, d); None for a model that has none.
        model: The frozen model.
        facts: What run.json holds about the images.
        hashes: SHA-256 of every image's bytes, n of them.
    """

    data: AuditData
    scores: FloatArray
    features: FloatArray | None
    model: FrozenModel
    facts: dict[str, Any]
    hashes: tuple[str, ...]


def read_images(config: AuditFile) -> ImageManifest:
    """The manifest that an audit file names.

    Raises:
        InputError: Images are missing or lie outside their folder.
    """
    options = config.table_options()
    for name in ("features", "score"):
        options.pop(name)
    images = _images(config)
    return read_manifest(
        config.data_path, image_column=images.section.column, folder=images.root, name=config.name, **options
    )


def score_images(
    config: AuditFile, manifest: ImageManifest, *, headless: bool = False, progress: Progress
) -> ScoredImages:
    """Score images with the frozen model, in one pass with its features where it has any.

    Args:
        config: The audit file.
        manifest: Its images.
        headless: Whether the features alone will do, for a job that trains heads on them.
        progress: Where to report.

    Returns:
        The images that could be read.

    Raises:
        InputError: An image cannot be read and the file does not say to skip it; the model gives several scores per
            row, which this job cannot use; it has no preprocessing.
    """
    images = _images(config)
    section = images.section
    assert config.model_spec is not None
    model = load_model(config.model_spec, **config.model_options)
    if not model.gives_one_score:  # before hours of work
        refuse_without_score(model, headless=headless)
    outputs = tuple(
        name for name, there in (("features", model.n_features), ("scores", model.gives_one_score)) if there
    )
    found = extract_outputs(
        model, manifest, cache_dir=_cache_dir(images), outputs=outputs, config=_extraction(section), progress=progress
    )
    kept = found.kept
    data = replace(manifest.data, sha256=_hash(manifest))
    features = np.asarray(found.output("features")[kept], dtype=np.float64) if model.n_features else None
    return ScoredImages(
        data if len(kept) == data.n_rows else data.take(kept),
        found.scores()[kept] if model.gives_one_score else np.full(len(kept), np.nan), features, model,
        _describe(section, manifest, found), tuple(manifest.hashes[row] for row in kept),
    )  # fmt: skip


def refuse_without_score(model: FrozenModel, *, headless: bool) -> None:
    """Raise for a model of several outputs where a job needs one score per row, or features that it lacks.

    Args:
        model: A model that does not give one score per row.
        headless: Whether the features alone will do.

    Raises:
        InputError: They will not, or there are none.
    """
    if headless and model.n_features:
        return
    what = "heads can be tuned without one, and it has no features" if headless else "this job needs it"
    raise InputError(
        f"model {model.name!r} is multiclass and does not give one score per row; {what}: name the output that is the "
        "score in model.output, by number or class"
        + ("" if headless or not model.n_features else "; or tune a head on its features (`auditkit tune`)")
    )


def _images(config: AuditFile) -> PlacedImages:
    images = config.images
    if images is None:
        raise InputError("data.images is missing; it says where the images are")
    return images


def _extraction(section: ImagesSection) -> ExtractionConfig:
    preprocessing = section.preprocessing_options()
    return ExtractionConfig(
        **section.extraction_options(),
        preprocessing=None if preprocessing is None else ImagePreprocessing(**preprocessing),
    )


def _cache_dir(images: PlacedImages) -> Path | None:
    if isinstance(images.cache, Path):
        return images.cache
    return cache_folder() if images.cache else None


def _hash(manifest: ImageManifest) -> str:
    """SHA-256 over the manifest's bytes and the images'."""
    return hashlib.sha256(f"{manifest.data.sha256}\n{manifest.hash_images()}".encode()).hexdigest()


def _describe(section: ImagesSection, manifest: ImageManifest, found: Extracted) -> dict[str, Any]:
    """What run.json holds; the folder of the cache is no part of it, since it changes no number."""
    return {
        "column": section.column,
        "files": manifest.n_rows,
        "different": len(set(manifest.hashes)),
        "manifest_sha256": manifest.data.sha256,
        "images_sha256": manifest.hash_images(),
        "on_corrupt": section.on_corrupt,
        "skipped": len(found.skipped),
        "skipped_images": [{"path": manifest.keys[row], "reason": why} for row, why in found.skipped[:SHOWN]],
    }
