"""What a job is about: the rows, and their scores by the frozen model or by whoever made the predictions table."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit.auditing import AuditResult, audit
from auditkit.baselines import Sample
from auditkit.batch_scoring import score_in_pieces
from auditkit.config import AuditFile
from auditkit.datasets import AuditData, load_table
from auditkit.errors import InputError
from auditkit.feature_cache import Ranks, current_ranks, hash_together
from auditkit.feature_rows import FeatureRows
from auditkit.feature_tables import is_read_in_pieces
from auditkit.image_scoring import read_images, score_images
from auditkit.models import load_model
from auditkit.predictions import describe_decisions
from auditkit.progress import NullProgress, Progress
from auditkit.row_scoring import ScoredRows, refuse_without_score, require_cache
from auditkit.run_folder import Clock, describe_data
from auditkit.table_scoring import ScoredTable, score_table
from auditkit.text_scoring import read_text_table, score_texts

if TYPE_CHECKING:
    from auditkit.models import FrozenModel


@dataclass(frozen=True, eq=False)
class Subject:
    """What is audited: the data, scored by the frozen model or by whoever made the predictions table.

    Attributes:
        data: The table.
        sample: Scores, labels, groups and features of its rows.
        model: The frozen model; None for a table of predictions.
        has_scores: Whether the sample's scores are those of somebody's model; else they are NaN: the model has several
            outputs, and its features alone are of use.
        files: What run.json holds about the "images" or the "text" that the model reads; empty where it reads columns.
        keys: What every row's image or text is known by, under the same name; or the hashes of the columns that the
            model reads, as "rows"; empty where the rows are in memory.
    """

    data: AuditData
    sample: Sample
    model: FrozenModel | None
    has_scores: bool = True
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)

    def describe_data(self) -> dict[str, Any]:
        """What run.json holds about the data."""
        return {**describe_data(self.data), **self.files}


def load_subject(
    config: AuditFile, *, features: bool = True, progress: Progress | None = None, clock: Clock | None = None
) -> Subject:
    """Read the data and score it with the frozen model.

    Args:
        config: The audit file.
        features: Whether the model's features are needed as well; a model that has none gives none. Where they are,
            a model may do without one score per row.
        progress: Where to report.
        clock: Where to note the time taken.

    Returns:
        The data with its scores and features.

    Raises:
        InputError: The data or the model cannot be used; the model gives several scores per row.
    """
    watch, reporter = clock or Clock(), progress or NullProgress()
    if config.reads_files:
        return _of_rows(config, _score_files(config, features, reporter, watch))
    with watch.stage("load"):
        model = _load_together(config) if features else _load_model(config, headless=False)
    if _can_be_pieces(config, model):
        if features:
            found = score_table(config, model, progress=reporter, clock=watch)
            assert found is not None
            return _of_table(found, model)
        if model is not None:
            with watch.stage("score"):
                return _score_in_pieces(config, model, reporter)
    with watch.stage("read"):
        data = load_table(config.data_path, **config.table_options(), name=config.name)
    if model is None:
        return Subject(data, _predictions_sample(data), None)
    with watch.stage("score"), reporter.stage("scoring the frozen model", 2) as advance:
        scores = np.full(data.n_rows, np.nan)
        if model.gives_one_score:
            scores = _flat(model.scores(data.features).double().numpy())
        advance(1)
        frozen = model.features(data.features).double().numpy() if features and model.n_features else None
        advance(1)
    return Subject(data, _sample(data, scores, frozen), model, model.gives_one_score)


def _load_model(config: AuditFile, *, headless: bool) -> FrozenModel | None:
    if config.model_spec is None:
        return None
    model = load_model(config.model_spec, **config.model_options)
    if not model.gives_one_score:
        refuse_without_score(model, headless=headless)
    return model


def _load_together(config: AuditFile) -> FrozenModel | None:
    """The model where features are wanted, which every process of a group computes its share of."""
    ranks = current_ranks() if is_read_in_pieces(config.data_path) else Ranks()

    def load() -> FrozenModel | None:
        require_cache(config.table_cache, ranks.size)
        return _load_model(config, headless=True)

    return ranks.together(load)


def _can_be_pieces(config: AuditFile, model: FrozenModel | None) -> bool:
    """Whether the table can be read in pieces, and the model reads it so."""
    return is_read_in_pieces(config.data_path) and not (model is not None and model.needs_all_rows)


def _of_table(found: ScoredTable, model: FrozenModel | None) -> Subject:
    keys = {} if found.row_keys is None else {"rows": found.row_keys}
    sample = _sample(found.data, _flat(found.scores), found.features)
    return Subject(found.data, sample, model, model is None or model.gives_one_score, keys=keys)


def _score_in_pieces(config: AuditFile, model: FrozenModel, progress: Progress) -> Subject:
    path, options = config.data_path, config.table_options()
    data, scores = score_in_pieces(path, model, options, name=config.name, progress=progress)
    return Subject(data, _sample(data, _flat(scores), None), model)


def share_features(config: AuditFile, *, features: bool = True) -> None:
    """What every process but the first of a group does for a job: its share of the features.

    Args:
        config: The audit file.
        features: As `load_subject` takes it in the first process.

    Raises:
        InputError: As there.
    """
    if config.reads_files:
        _score_files(config, features, NullProgress(), Clock())
        return
    if features and is_read_in_pieces(config.data_path):
        model = _load_together(config)
        if _can_be_pieces(config, model):
            score_table(config, model, progress=NullProgress(), clock=Clock())


def _score_files(config: AuditFile, headless: bool, reporter: Progress, watch: Clock) -> ScoredRows:
    """Images or texts with their scores and features, which one pass gives: whatever the job, the next finds them."""
    ranks = current_ranks()
    if config.images is not None:
        with watch.stage("read"), reporter.stage("reading the manifest and hashing the images", 1) as advance:
            manifest = hash_together(ranks.together(lambda: read_images(config)), ranks)
            manifest.hash_images()  # here, and not within the time of scoring
            advance()
        with watch.stage("score"):
            return score_images(config, manifest, headless=headless, progress=reporter)
    with watch.stage("read"), reporter.stage("reading the table and hashing the texts", 1) as advance:
        table = ranks.on_first(lambda: read_text_table(config))
        advance()
    with watch.stage("score"):
        return score_texts(config, table, headless=headless, progress=reporter)


def _of_rows(config: AuditFile, found: ScoredRows) -> Subject:
    kind = "text" if config.images is None else "images"
    sample = _sample(found.data, found.scores, found.features)
    one_score = found.model.gives_one_score
    return Subject(found.data, sample, found.model, one_score, {kind: found.facts}, {kind: found.keys})


def audit_sample(config: AuditFile, sample: Sample, scores: np.ndarray, data: AuditData | None = None) -> AuditResult:
    """Audit some scores of a sample as the audit file says.

    Args:
        config: The audit file.
        sample: Labels, groups and clusters.
        scores: The scores, shape (n,), or (n, k) for the outputs that ``data`` names.
        data: The same rows with their weights and decisions; None where the file names none.
    """
    labels = None if np.isnan(sample.labels).all() else sample.labels
    criteria, settings = config.build_criteria(), {"confidence": config.confidence, "seed": config.seed}
    rows: dict[str, Any] = {"clusters": sample.clusters, "weights": None if data is None else data.weights}
    named: Any = scores
    if data is not None and data.outputs is not None:
        import pandas as pd

        named = pd.DataFrame(scores, columns=pd.Index(data.outputs))
    if data is None or data.decisions is None:
        return audit(named, sample.groups, criteria, labels=labels, threshold=config.threshold, **rows, **settings)
    outcome = audit(named, sample.groups, criteria, labels=labels, decisions=data.decisions, **rows, **settings)
    return replace(outcome, decision_rule=describe_decisions(config.data.decision))


def _predictions_sample(data: AuditData) -> Sample:
    if data.scores is None:
        raise InputError("data.score is missing; name the column of scores, or give a model")
    features = None if data.features is None else _numeric_features(data)
    return _sample(data, data.scores, features)


def _sample(data: AuditData, scores: np.ndarray, features: np.ndarray | FeatureRows | None) -> Sample:
    clusters = None if data.clusters is None else data.clusters.to_numpy()
    return Sample(scores, _labels(data), data.groups, features, clusters)


def _numeric_features(data: AuditData) -> np.ndarray:
    assert data.features is not None
    text = [
        str(name)
        for name in data.features.columns
        if not np.issubdtype(data.features[name].to_numpy().dtype, np.number)
    ]
    if text:
        raise InputError(f"data.features of a predictions table must be numbers; {', '.join(text)} are not")
    return data.features.to_numpy(dtype=np.float64)


def _labels(data: AuditData) -> np.ndarray:
    """Labels, or NaN for every row where there are none."""
    return np.full(data.n_rows, np.nan) if data.labels is None else data.labels


def _flat(scores: np.ndarray) -> np.ndarray:
    if scores.ndim != 1:
        raise InputError(f"the model gives scores of shape {scores.shape}; this job needs one score per row")
    return scores
