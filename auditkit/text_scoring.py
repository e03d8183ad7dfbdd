"""Rows that are texts: a column of a table, streamed to the frozen model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit.config import AuditFile
from auditkit.errors import InputError
from auditkit.feature_cache import ExtractionConfig
from auditkit.progress import Progress
from auditkit.row_scoring import SHOWN, ScoredRows, score_rows
from auditkit.texts import TextTable, read_texts

if TYPE_CHECKING:
    from auditkit.config.text_section import PlacedTexts, TextSection


def read_text_table(config: AuditFile) -> TextTable:
    """The table of texts that an audit file names; the texts stay in their file.

    Raises:
        SchemaError: A column is missing or has the wrong kind.
        InputError: The file cannot be read.
    """
    options = config.table_options()
    for name in ("features", "score"):
        options.pop(name)
    return read_texts(config.data_path, text_column=_texts(config).section.column, name=config.name, **options)


def score_texts(config: AuditFile, table: TextTable, *, headless: bool = False, progress: Progress) -> ScoredRows:
    """Score texts with the frozen model, in one pass with its features where it has any.

    Args:
        config: The audit file.
        table: Its texts.
        headless: Whether the features alone will do, for a job that trains heads on them.
        progress: Where to report.

    Returns:
        The rows that have a text.

    Raises:
        InputError: As `auditkit.row_scoring.score_rows`.
    """
    texts = _texts(config)
    extraction = ExtractionConfig(**texts.section.extraction_options())
    scored = score_rows(config, table, table.data, extraction, cache=texts.cache, headless=headless, progress=progress)
    return replace(scored, keys=table.keys[scored.found.kept], facts=_describe(texts.section, table, scored))


def _texts(config: AuditFile) -> PlacedTexts:
    texts = config.texts
    if texts is None:
        raise InputError("data.text is missing; it says which column holds the texts")
    return texts


def _describe(section: TextSection, table: TextTable, scored: ScoredRows) -> dict[str, Any]:
    """What run.json holds; the folder of the cache is no part of it, since it changes no number."""
    return {
        "column": section.column,
        "rows": table.n_rows,
        "different": len(np.unique(table.keys[scored.found.kept])),
        "texts_sha256": table.sha256,
        "on_missing": section.on_missing,
        "skipped": len(scored.found.skipped),
        "skipped_rows": [row for row, _ in scored.found.skipped[:SHOWN]],
    }
