"""Rows of a table, with the features that a head is tuned on: computed piece by piece, and kept where they are many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from auditkit._typing import FloatArray
from auditkit.config import AuditFile
from auditkit.errors import InputError
from auditkit.feature_cache import Extracted, current_ranks, extract_outputs
from auditkit.feature_rows import FeatureRows
from auditkit.feature_tables import FeatureTable, Survey, parse_options, refuse_scores, survey_table
from auditkit.models.table_columns import TableColumns
from auditkit.progress import Progress
from auditkit.row_scoring import locate_cache
from auditkit.run_folder import Clock

if TYPE_CHECKING:
    from auditkit.datasets import AuditData
    from auditkit.models import FrozenModel

KEPT_BYTES = 1 << 26
"""Size from which the outputs of a model for a table are kept in the cache; fewer are computed again sooner."""


@dataclass(frozen=True, eq=False)
class ScoredTable:
    """The rows of a table, with what the model makes of them.

    Attributes:
        data: Everything of n rows but what the model reads; with the scores, where the table holds them.
        scores: Their scores, shape (n,); NaN for a model of several outputs.
        features: Their features; None where there are none.
        row_keys: Hash of what the model reads of every row, shape (n,); None where nobody asks.
    """

    data: AuditData
    scores: FloatArray
    features: FeatureRows | None
    row_keys: NDArray[np.uint64] | None


def score_table(
    config: AuditFile, model: FrozenModel | None, *, progress: Progress, clock: Clock
) -> ScoredTable | None:
    """Read a table in pieces, and compute the scores and features of its rows.

    In a torch.distributed group the first process surveys the table, and each computes its share of the features.

    Args:
        config: The audit file.
        model: The frozen model; None where the table holds the scores, and perhaps features as columns.
        progress: Where to report.
        clock: Where to note the time taken.

    Returns:
        The rows; None in every process of a group but the first.

    Raises:
        SchemaError: A named column is missing or has the wrong kind.
        InputError: The file cannot be read, the model cannot read it, or it has no score.
    """
    surveys: list[Survey] = []

    def survey() -> FeatureTable:
        surveys.append(_survey(config, model))
        return surveys[0].table

    with clock.stage("read"), progress.stage("reading the table", 1) as advance:
        table = current_ranks().on_first(survey)
        advance()
    with clock.stage("score"):
        found = _extract(config, model, table, progress)
    return _assemble(surveys[0], model, found) if surveys else None


def _survey(config: AuditFile, model: FrozenModel | None) -> Survey:
    options = config.table_options()
    if model is not None:
        refuse_scores(parse_options(options)[0])
    return survey_table(config.data_path, options, name=config.name, with_keys=config.split.leakage != "ignore")


def _extract(config: AuditFile, model: FrozenModel | None, table: FeatureTable, progress: Progress) -> Extracted | None:
    """The outputs of a model for the rows; the columns themselves, where there is none; None where there are none."""
    if model is None and not table.columns:
        return None
    source = TableColumns(table.columns) if model is None else model
    outputs = tuple(
        name for name, there in (("features", source.n_features), ("scores", source.gives_one_score)) if there
    )
    folder = locate_cache(config.table_cache)
    if current_ranks().size == 1 and table.n_rows * (source.n_features + 1) * 8 < KEPT_BYTES:
        folder = None
    return extract_outputs(source, table, cache_dir=folder, outputs=outputs, progress=progress)


def _assemble(survey: Survey, model: FrozenModel | None, found: Extracted | None) -> ScoredTable:
    data, features = survey.data, None
    if found is not None and "features" in found.outputs:
        features = found.feature_rows()
    if model is None:
        if data.scores is None:
            raise InputError("data.score is missing; name the column of scores, or give a model")
        return ScoredTable(data, data.scores, features, survey.row_keys)
    scores = np.full(data.n_rows, np.nan) if found is None or "scores" not in found.outputs else found.scores()
    return ScoredTable(data, scores, features, survey.row_keys)
