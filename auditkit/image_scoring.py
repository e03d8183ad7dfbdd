"""Rows that are images: read by their manifest, and scored by the frozen model."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from auditkit.config import AuditFile
from auditkit.errors import InputError
from auditkit.feature_cache import ExtractionConfig, ImagePreprocessing
from auditkit.images import ImageManifest, read_manifest
from auditkit.progress import Progress
from auditkit.row_scoring import SHOWN, ScoredRows, score_rows

if TYPE_CHECKING:
    from auditkit.config.images_section import ImagesSection, PlacedImages


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
) -> ScoredRows:
    """Score images with the frozen model, in one pass with its features where it has any.

    Args:
        config: The audit file.
        manifest: Its images.
        headless: Whether the features alone will do, for a job that trains heads on them.
        progress: Where to report.

    Returns:
        The images that could be read; the hash of their data covers the bytes of all images of the manifest.

    Raises:
        InputError: As `auditkit.row_scoring.score_rows`; the model has no preprocessing.
    """
    images = _images(config)
    data, extraction = replace(manifest.data, sha256=_hash(manifest)), _extraction(images.section)
    scored = score_rows(config, manifest, data, extraction, cache=images.cache, headless=headless, progress=progress)
    keys = tuple(manifest.hashes[row] for row in scored.found.kept)
    return replace(scored, keys=keys, facts=_describe(images.section, manifest, scored))


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


def _hash(manifest: ImageManifest) -> str:
    """SHA-256 over the manifest's bytes and the images'."""
    return hashlib.sha256(f"{manifest.data.sha256}\n{manifest.hash_images()}".encode()).hexdigest()


def _describe(section: ImagesSection, manifest: ImageManifest, scored: ScoredRows) -> dict[str, Any]:
    """What run.json holds; the folder of the cache is no part of it, since it changes no number."""
    return {
        "column": section.column,
        "files": manifest.n_rows,
        "different": len(set(manifest.hashes)),
        "manifest_sha256": manifest.data.sha256,
        "images_sha256": manifest.hash_images(),
        "on_corrupt": section.on_corrupt,
        "skipped": len(scored.found.skipped),
        "skipped_images": [{"path": manifest.keys[row], "reason": why} for row, why in scored.found.skipped[:SHOWN]],
    }
