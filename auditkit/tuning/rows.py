"""The rows that a head is trained on: checked, split, and dealt into batches of equal composition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from auditkit._typing import IntArray, VectorLike
from auditkit._validation import check_binary, check_vector
from auditkit.clusters import check_clusters
from auditkit.criteria import Criterion, columns_of
from auditkit.errors import InputError
from auditkit.feature_rows import FeatureRows
from auditkit.groups import LABEL, Groups
from auditkit.heads import check_features
from auditkit.tuning.config import TuneConfig

CHUNK_ROWS = 16_384
SPREAD = "standard deviation and mean"
MOST_VALUES = 2**20
"""Features gathered at once, of as many batches as they make up: one copy costs less than many."""
MOST_CODES = 2**15
"""Codes that an int16 holds, for which NumPy's stable sort takes one pass or two."""


@dataclass(frozen=True, eq=False)
class SourceRows:
    """Checked rows, before some of them are taken to train on.

    Attributes:
        features: Frozen features, float32 or float64, shape (n, d); inputs of shape (n, …) where a backbone moves.
            Those of a file stay there until rows are taken.
        labels: Labels in the dtype of the features, shape (n,).
        groups: Attributes of the same rows.
        start: Scores of the frozen model, shape (n,).
        clusters: Code of every row's cluster, shape (n,); None where the rows are independent.
        derived: What losses computed from groups and labels, kept for the next time they see the same rows.
    """

    features: Float[Tensor, "n ..."] | FeatureRows
    labels: Float[Tensor, " n"]
    groups: Groups
    start: Float[Tensor, " n"] | None = None
    clusters: IntArray | None = None
    derived: dict[Any, Any] = field(default_factory=dict)

    def take(self, rows: IntArray) -> HeadRows:
        """Some of the rows."""
        index = torch.as_tensor(rows)
        start = None if self.start is None else self.start[index]
        clusters = None if self.clusters is None else self.clusters[rows]
        if isinstance(self.features, FeatureRows):
            features = torch.from_numpy(self.features.take(rows))
        else:
            features = self.features.index_select(0, index)  # several times as fast as brackets
        return HeadRows(features, self.labels[index], self.groups.take(rows), start, clusters)


@dataclass(frozen=True, eq=False)
class HeadRows(SourceRows):
    """Rows that a loss is taken over.

    Attributes:
        features: Frozen features, float32 or float64, shape (n, d); inputs of shape (n, …) where a backbone moves. Many
            rows of a file are a working copy in another (`auditkit.feature_rows`).
    """

    features: Float[Tensor, "n ..."]


def check_rows(
    features: VectorLike | FeatureRows,
    labels: VectorLike,
    groups: Groups,
    config: TuneConfig,
    *,
    start: VectorLike | None = None,
    clusters: VectorLike | None = None,
) -> SourceRows:
    """Features, labels and groups of the same rows, checked; float32 features stay float32."""
    x = features if isinstance(features, FeatureRows) else check_features(features, keep_single=True)
    y = check_vector("labels", labels, n_rows=groups.n_rows)
    if config.score_space != "identity":
        check_classes(y, config)
    if len(x) != groups.n_rows:
        raise InputError(f"features must have {groups.n_rows} rows, as many as groups has; got {len(x)}")
    first = None if start is None else torch.as_tensor(check_vector("start", start, n_rows=groups.n_rows))
    if first is not None and config.outputs > 1:
        raise InputError("start takes one score per row, which a head of several classes does not have; leave it out")
    codes = check_clusters(clusters, n_rows=groups.n_rows)
    return SourceRows(x, torch.as_tensor(y, dtype=x.dtype), groups, first, codes)


def check_classes(labels: Any, config: TuneConfig) -> None:
    """Raise unless every label is one of the classes."""
    if config.classes == 2:
        check_binary("labels", labels)
        return
    wrong = labels[(labels != np.round(labels)) | (labels < 0) | (labels >= config.classes)]
    if len(wrong):
        raise InputError(f"labels must be classes 0 to {config.classes - 1}, as classes={config.classes} says; "
                         f"got {wrong[0]:g}")  # fmt: skip


def split_rows_for_validation(
    rows: SourceRows, rng: np.random.Generator, config: TuneConfig
) -> tuple[HeadRows, HeadRows]:
    """Training and validation rows; all rows of a cluster are of one kind."""
    if rows.clusters is not None:
        return _split_clusters_for_validation(rows, rows.clusters, rng, config)
    order = rng.permutation(rows.groups.n_rows)
    size = max(1, round(config.validation_fraction * len(order)))
    if size >= len(order):
        raise InputError(f"labels has {len(order)} rows, too few to hold some back for validation; pass more rows")
    held = np.zeros(len(order), dtype=bool)
    held[order[:size]] = True
    return rows.take(np.flatnonzero(~held)), rows.take(np.flatnonzero(held))


def _split_clusters_for_validation(
    rows: SourceRows, clusters: IntArray, rng: np.random.Generator, config: TuneConfig
) -> tuple[HeadRows, HeadRows]:
    """Shuffled clusters are held back until they have the share of the rows."""
    _, codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    order = rng.permutation(len(sizes))
    before = np.cumsum(sizes[order]) - sizes[order] / 2
    held = np.zeros(len(sizes), dtype=bool)
    held[order] = before < config.validation_fraction * len(codes)
    held[order[0]] = True
    chosen = held[codes]
    if chosen.all():
        named = "1 person" if len(sizes) == 1 else f"{len(sizes)} persons"
        raise InputError(f"clusters names {named}, too few to hold some back for validation; pass more persons")
    return rows.take(np.flatnonzero(~chosen)), rows.take(np.flatnonzero(chosen))


def measure_features(rows: HeadRows) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of the features, found once."""
    if SPREAD not in rows.derived:
        rows.derived[SPREAD] = spread_and_mean(rows.features)
    return rows.derived[SPREAD]


def spread_and_mean(features: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of every column, by passes over whole rows, which `torch.std` is slow at.

    Rows are taken less the first, so that the spread of a constant column is exactly zero.
    """
    first, parts = features[0], features.split(CHUNK_ROWS)
    apart = torch.stack([(part - first).sum(dim=0) for part in parts]).sum(dim=0) / len(features)
    squares = torch.stack([(part - first).sub_(apart).square_().sum(dim=0) for part in parts]).sum(dim=0)
    return torch.sqrt(squares / len(features)), first + apart


class Batches:
    """Batches with the proportions of all rows, whose composition stays the same from epoch to epoch.

    The rows, shuffled and in the order of their cells (of the criteria's columns and, where labels are classes, of the
    label), are dealt to the batches in turn. Which rows of a cell a batch gets is drawn anew every epoch; how many it
    gets, and at which of its places they are, is not. So the constraints of a batch, which depend on the cells alone,
    are assembled once per training, and once for all batches of one composition; there is at most one composition more
    than there are cells.

    Args:
        rows: All training rows.
        criteria: Whose columns make up the cells.
        config: Says the size of a batch.
    """

    def __init__(self, rows: HeadRows, criteria: Sequence[Criterion], config: TuneConfig) -> None:
        self.rows = rows
        n_rows = rows.groups.n_rows
        self.is_whole = config.batch_size is None or config.batch_size >= n_rows
        if self.is_whole:
            return
        columns = [name for name in columns_of(criteria) if name != LABEL]
        inferred = any(name in rows.groups.inferred for name in columns)
        known = [name for name in columns if name not in rows.groups.inferred]
        self._labels_stay = config.score_space != "identity"
        self._classes = config.classes if self._labels_stay else 1
        self._cell = _cells(rows, known, classes=self._classes)
        self._count = -(-n_rows // int(config.batch_size or n_rows))
        values = rows.features.numel() / self._count
        self._at_once = max(1, int(MOST_VALUES / max(values, 1)))
        self._slots: list[_Slot] | None = None
        if known and not inferred:
            self._slots = self._make_slots(known)

    def _make_slots(self, names: list[str]) -> list[_Slot]:
        """What stays of every batch, once for a composition: the rows of a batch are in the order of their cells."""
        by_cell, slots = np.argsort(self._cell, kind="stable"), []
        known: dict[bytes, Groups] = {}
        kinds: dict[bytes, _Slot] = {}
        for number in range(self._count):
            chosen = by_cell[number :: self._count]
            cell = self._cell[chosen]
            composition, grouping = cell.tobytes(), (cell // self._classes).tobytes()
            if grouping not in known:
                # The other columns do not stay the same from epoch to epoch.
                known[grouping] = self.rows.groups.take(chosen, names=names)
            if composition not in kinds:
                kinds[composition] = _Slot(known[grouping], self.rows.labels[torch.from_numpy(chosen.copy())])
            slots.append(kinds[composition])
        return slots

    def draw(self, rng: np.random.Generator) -> Iterator[tuple[HeadRows, IntArray | slice]]:
        """The batches of one epoch, each with the positions of its rows."""
        if self.is_whole:
            yield self.rows, slice(None)
            return
        shuffled = rng.permutation(self.rows.groups.n_rows)
        by_cell = shuffled[np.argsort(self._cell[shuffled], kind="stable")]
        chosen = [by_cell[number :: self._count] for number in range(self._count)]
        if self._slots is None:
            yield from ((self.rows.take(places), places) for places in chosen)
            return
        for start in range(0, self._count, self._at_once):
            yield from self._gather(self._slots[start : start + self._at_once], chosen[start : start + self._at_once])

    def _gather(self, slots: list[_Slot], chosen: list[IntArray]) -> Iterator[tuple[HeadRows, IntArray]]:
        """Some batches, whose features are copied at once."""
        index = torch.from_numpy(np.concatenate(chosen))
        features = self.rows.features.index_select(0, index).split([len(places) for places in chosen])
        for slot, places, part in zip(slots, chosen, features, strict=True):
            if self._labels_stay:
                yield HeadRows(part, slot.labels, slot.groups, derived=slot.derived), places
            else:
                yield HeadRows(part, self.rows.labels[torch.from_numpy(places.copy())], slot.groups), places

    @property
    def kept(self) -> list[Groups]:
        """The groups of every batch, where they stay the same from epoch to epoch."""
        if self.is_whole:
            return [self.rows.groups]
        return list(dict.fromkeys(slot.groups for slot in self._slots or ()))


@dataclass(frozen=True, eq=False)
class _Slot:
    """What stays of a batch from epoch to epoch: everything but which rows of every cell are in it."""

    groups: Groups
    labels: Tensor
    derived: dict[Any, Any] = field(default_factory=dict)


def _cells(rows: HeadRows, columns: list[str], *, classes: int) -> np.ndarray[Any, Any]:
    """Cell of every row, of the columns and, where there are classes, of the label within; small where they can be."""
    labels = rows.labels.numpy().astype(np.int64) if classes > 1 else np.zeros(rows.groups.n_rows, dtype=np.int64)
    sizes = [len(rows.groups.categories(name)) for name in columns]
    if math.prod(sizes) * classes >= MOST_CODES:
        return rows.groups.cells(columns).index * classes + labels
    code = np.zeros(rows.groups.n_rows, dtype=np.int64)
    for name, size in zip(columns, sizes, strict=True):
        code = code * size + rows.groups.codes(name)
    return (code * classes + labels).astype(np.int16)
