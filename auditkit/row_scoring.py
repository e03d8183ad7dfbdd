"""Images and texts, which a model reads from files: scored by it, with their features kept in the cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit._typing import FloatArray
from auditkit.config import AuditFile
from auditkit.errors import InputError
from auditkit.feature_cache import Extracted, ExtractionConfig, cache_folder, current_ranks, extract_outputs
from auditkit.feature_rows import FeatureRows
from auditkit.images import ImageManifest
from auditkit.models import load_model
from auditkit.progress import Progress
from auditkit.texts import TextTable

if TYPE_CHECKING:
    from auditkit.datasets import AuditData
    from auditkit.models import FrozenModel

SHOWN = 100
"""Skipped rows that a run names; it counts all of them."""


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """The rows that could be read, with what the model makes of them.

    Attributes:
        data: Labels and attributes of n rows.
        model: The frozen model.
        found: Its features and scores of all rows, read and skipped.
        facts: What run.json holds about the images or texts.
        keys: What each of the n images or texts is known by; equal keys are one image or text.
    """

    data: AuditData
    model: FrozenModel
    found: Extracted
    facts: dict[str, Any] = field(default_factory=dict)
    keys: Any = ()

    @property
    def scores(self) -> FloatArray:
        """Their scores, shape (n,); NaN for a model of several outputs, which gives features alone."""
        kept = self.found.kept
        return self.found.scores()[kept] if self.model.gives_one_score else np.full(len(kept), np.nan)

    @property
    def features(self) -> FeatureRows | None:
        """Their features, shape (n, d), where they were computed; None for a model that has none."""
        return self.found.feature_rows() if self.model.n_features else None


def score_rows(
    config: AuditFile,
    rows: ImageManifest | TextTable,
    data: AuditData,
    extraction: ExtractionConfig,
    *,
    cache: Path | bool,
    headless: bool,
    progress: Progress,
) -> ScoredRows:
    """Score rows with the frozen model, in one pass with its features where it has any.

    Args:
        config: The audit file.
        rows: Its images or texts.
        data: Their labels and attributes, with the hash of all that is read.
        extraction: How they are read and computed.
        cache: Folder that keeps features; True is the user's cache folder, False none.
        headless: Whether the features alone will do, for a job that trains heads on them.
        progress: Where to report.

    Returns:
        The rows that could be read.

    Raises:
        InputError: A row cannot be read and may not be skipped; the model gives several scores per row, which this job
            cannot use; it cannot read such rows.
    """
    ranks = current_ranks()
    model = ranks.together(lambda: _load(config, headless=headless, cache=cache, processes=ranks.size))
    outputs = tuple(
        name for name, there in (("features", model.n_features), ("scores", model.gives_one_score)) if there
    )
    found = extract_outputs(
        model, rows, cache_dir=locate_cache(cache), outputs=outputs, config=extraction, progress=progress
    )
    return ScoredRows(data if len(found.kept) == data.n_rows else data.take(found.kept), model, found)


def require_cache(cache: Path | bool, processes: int) -> None:
    """Raise for several processes without a cache.

    Raises:
        InputError: It is so.
    """
    if processes > 1 and not cache:
        raise InputError(
            "several processes share their work through the cache of features; let it be kept, in a folder that all see"
        )


def _load(config: AuditFile, *, headless: bool, cache: Path | bool, processes: int) -> FrozenModel:
    require_cache(cache, processes)
    assert config.model_spec is not None
    model = load_model(config.model_spec, **config.model_options)
    if not model.gives_one_score:  # before hours of work
        refuse_without_score(model, headless=headless)
    return model


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
    model.require_scores()
    what = "heads can be tuned without one, and it has no features" if headless else "this job needs it"
    raise InputError(
        f"model {model.name!r} is multiclass and does not give one score per row; {what}: name the output that is the "
        "score in model.output, by number or class"
        + ("" if headless or not model.n_features else "; or tune a head on its features (`auditkit tune`)")
    )


def locate_cache(cache: Path | bool) -> Path | None:
    """The folder of a cache: as it is named, the user's for True, None for False."""
    if isinstance(cache, Path):
        return cache
    return cache_folder() if cache else None
