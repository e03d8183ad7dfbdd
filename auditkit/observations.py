"""`take_moments`: the only pass over the rows of an audit, from what callers hand over to sums per cell.

A row stands in one cell. It stands in several where it has several scores (one per output of a multi-class model) or
where an attribute is inferred (with its probability in every group); it is then written once for each, and these
entries are tied together as one cluster, so that the covariances of all gaps stay exact.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import check_matrix, check_vector, check_weights, to_numpy
from auditkit.clusters import check_clusters
from auditkit.constraints import require_labels
from auditkit.criteria import Criterion, columns_of
from auditkit.decision_rules import Rule
from auditkit.decisions import decide
from auditkit.errors import InputError
from auditkit.groups import LABEL, OUTPUT, Cells, CellTable, Groups, SoftCells
from auditkit.margins import BIN_EDGES, OUTCOME, SCORE_BIN, SCORE_BINS, cross, drop_empty, marginal
from auditkit.moments import MAX_CLUSTERED_CELLS, MAX_LABEL_STRATA, Moments, cell_columns

HIGHEST = "highest"
"""Decision rule of scores of several outputs: the output of the highest score."""

_CHUNK = 1 << 17
"""Rows that are written out at a time, where each stands in several cells."""


@dataclass(frozen=True, eq=False)
class Observations:
    """The rows of an audit, checked.

    Attributes:
        scores: z, shape (n, k); k is 1 for one score per row.
        outputs: Names of the columns of scores; None for one score per row.
        groups: Attributes of the rows.
        columns: What is crossed into cells; `LABEL` stands for ``strata``.
        labels: What every score is compared with, shape (n, k).
        strata: Label of every row as a stratum, shape (n,).
        decisions: Shape (n, k).
        weights: Shape (n,).
        clusters: Code of every row's cluster, shape (n,).
    """

    scores: FloatArray
    outputs: tuple[Hashable, ...] | None
    groups: Groups
    columns: tuple[str, ...]
    labels: FloatArray | None
    strata: FloatArray | None
    decisions: FloatArray | None
    weights: FloatArray | None
    clusters: IntArray | None

    @property
    def is_plain(self) -> bool:
        """Whether every row stands in one cell."""
        return self.outputs is None and not set(self.columns) & set(self.groups.inferred)

    @property
    def has_reliability(self) -> bool:
        """Whether scores and labels lie in [0, 1] and the rows of a group are independent of each other.

        The intervals of a reliability curve are those of independent rows, so that clustered rows have no curve, nor
        have inferred attributes, where a row can stand in a group several times.
        """
        if self.clusters is not None or set(self.columns) & set(self.groups.inferred):
            return False
        parts = (self.scores, self.labels)
        return all(part is not None and part.min() >= 0 and part.max() <= 1 for part in parts)


def take_moments(
    scores: VectorLike,
    groups: Groups,
    criteria: Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    threshold: float | str | None = None,
    decisions: VectorLike | None = None,
    weights: VectorLike | None = None,
    clusters: VectorLike | None = None,
) -> Moments:
    """The sums per cell that an audit of these criteria needs: the only pass over the rows.

    Args:
        scores: z, shape (n,), or (n, k) for a model with k outputs; the columns of a DataFrame name the outputs.
        groups: Attributes of the same rows; some may be inferred.
        criteria: The criteria.
        labels: y, shape (n,); with k outputs the classes 0 … k − 1 (or the outputs' names), or shape (n, k).
        threshold: Scores at or above it are positive decisions; or a rule as `auditkit.audit` takes it.
        decisions: The decisions themselves (or their probabilities), of the shape of the scores, in place of a
            threshold.
        weights: Row weights, shape (n,).
        clusters: Whom each row is of, shape (n,); any hashable values.

    Returns:
        The moments over the cells of every column that a criterion or a decision table reads, and of every output.

    Raises:
        InputError: Wrong shapes, NaN or infinite values, labels missing.
    """
    observed = observe(scores, groups, criteria, labels=labels, weights=weights, clusters=clusters)
    made, _, _ = take_decisions(observed, threshold, decisions)
    return sum_rows(with_decisions(observed, criteria, made))[0]


def observe(
    scores: VectorLike,
    groups: Groups,
    criteria: Sequence[Criterion],
    *,
    labels: VectorLike | None = None,
    weights: VectorLike | None = None,
    clusters: VectorLike | None = None,
) -> Observations:
    """Check what callers hand over; arguments, returns and errors as `take_moments`, still without decisions."""
    if not isinstance(groups, Groups):
        raise InputError(f'groups must be an auditkit.Groups, e.g. Groups({{"sex": sex}}); got {type(groups).__name__}')
    require_labels(criteria, labels)
    z, outputs = _check_scores(scores, groups.n_rows)
    if not len(z):
        raise InputError("scores is empty; an audit needs at least one row")
    y, strata = _check_labels(labels, criteria, z.shape[1], outputs, groups.n_rows)
    return Observations(
        z, outputs, groups, columns_of(criteria), y, strata, None,
        check_weights(weights, n_rows=groups.n_rows), check_clusters(clusters, n_rows=groups.n_rows),
    )  # fmt: skip


def take_decisions(
    observed: Observations, rule: Rule | None, decisions: VectorLike | None = None
) -> tuple[FloatArray | None, float | None, str | None]:
    """Decisions as they are given, or from the scores of every output.

    Args:
        observed: The rows.
        rule: As `auditkit.decisions.decide`, applied to every output by itself; or `HIGHEST`; None makes none.
        decisions: The decisions themselves, in place of a rule.

    Returns:
        The decisions, shape (n, k), the cut where all outputs have the same one, and the rule in words.

    Raises:
        InputError: An unknown rule, `HIGHEST` for one score per row, or a rule beside decisions.
    """
    if decisions is not None and rule is not None:
        raise InputError(f"threshold is {rule!r}, and decisions are given as well; keep one of them")
    if decisions is not None:
        return _check_decisions(observed, decisions), None, "what the decisions given are"
    if rule is None:
        return None, None, None
    if rule == HIGHEST:
        if observed.outputs is None:
            raise InputError(f"threshold {HIGHEST!r} needs scores of several outputs, shape (n, k); got shape (n,)")
        best = observed.scores == observed.scores.max(axis=1, keepdims=True)
        return best / best.sum(axis=1, keepdims=True), None, "the output of the highest score"
    made = [decide(column, rule) for column in observed.scores.T]
    values = np.stack([each.values for each in made], axis=1)
    if observed.outputs is None or not isinstance(rule, str):
        return values, made[0].threshold, made[0].rule
    return values, None, f"for every output: {rule}"


def with_decisions(observed: Observations, criteria: Sequence[Criterion], decisions: FloatArray | None) -> Observations:
    """The rows with their decisions, told apart by their binary outcomes where error rates can be stated."""
    binary = observed.labels is not None and bool(np.isin(observed.labels, (0.0, 1.0)).all())
    columns = cell_columns(criteria, binary_labels=binary, has_decisions=decisions is not None)
    if observed.outputs is not None and LABEL in columns and LABEL not in observed.columns:
        columns = (*observed.columns, OUTCOME)
    _check_label_strata(columns, observed.strata)
    return replace(observed, columns=columns, decisions=decisions)


def sum_rows(observed: Observations, *, reliability: bool = False) -> tuple[Moments, Moments | None]:
    """The sums of every cell.

    Args:
        observed: The rows.
        reliability: Whether the sums of every score bin are wanted too.

    Returns:
        The moments, and the moments of the same cells crossed with the score bins; None where those are not wanted or
        reliability curves cannot be made.
    """
    binning = reliability and observed.has_reliability
    layout = _Layout.of(observed)
    tied = layout.is_spread or observed.clusters is not None
    whole: list[Moments] = []
    bins: list[Moments] = []
    for rows in layout.batches():
        entries = layout.write(rows)
        if tied or not binning:
            whole.append(entries.sum(layout.table, layout.shift, tied=tied))
        if binning:
            bins.append(entries.binned().sum(_cross_bins(layout.table), layout.shift, tied=False))
    binned = drop_empty(reduce(add, bins)) if bins else None
    if whole:
        return reduce(add, whole), binned
    assert binned is not None
    return marginal(binned, layout.table.names), binned


@dataclass(frozen=True, eq=False)
class _Entries:
    """What the rows of a batch contribute to cells; arrays have one value per entry.

    Attributes:
        cell: Which cell.
        z: The score.
        y: The label.
        d: The decision.
        w: The weight of the row.
        share: Probability that the row is of the cell.
        cluster: What ties entries together.
    """

    cell: IntArray
    z: FloatArray
    y: FloatArray | None
    d: FloatArray | None
    w: FloatArray | None
    share: FloatArray | None
    cluster: IntArray | None

    def binned(self) -> _Entries:
        """The same entries in the cells crossed with the score bins."""
        place = np.searchsorted(BIN_EDGES, self.z, side="right")
        return replace(self, cell=self.cell * SCORE_BINS + place)

    def sum(self, table: CellTable, shift: float, *, tied: bool) -> Moments:
        """Their sums."""
        return Moments.from_rows(
            self.z, Cells(table, self.cell), labels=self.y, decisions=self.d, weights=self.w, shift=shift,
            clusters=self.cluster if tied else None, shares=self.share,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where every row stands.

    Attributes:
        observed: The rows.
        cells: Their cells by attributes and strata.
        table: The same crossed with the outputs and the binary outcomes.
        shift: What is taken off scores before they are squared.
    """

    observed: Observations
    cells: Cells | SoftCells
    table: CellTable
    shift: float

    @classmethod
    def of(cls, observed: Observations) -> _Layout:
        """Cross the columns into cells."""
        names = [name for name in observed.columns if name != OUTCOME]
        inferred = set(names) & set(observed.groups.inferred)
        cells = (observed.groups.soft_cells if inferred else observed.groups.cells)(names, labels=observed.strata)
        table = cells.table
        if observed.outputs is not None:
            table = cross(table, OUTPUT, observed.outputs)
        if OUTCOME in observed.columns:
            table = cross(table, OUTCOME, (0, 1))
        if table.n_cells > MAX_CLUSTERED_CELLS and (inferred or observed.outputs is not None):
            raise InputError(
                f"{table.n_cells} combinations of values and outputs are more than the {MAX_CLUSTERED_CELLS} whose "
                "estimates can be tied together; audit fewer attributes or outputs at once"
            )
        return cls(observed, cells, table, float(observed.scores.mean()))

    @property
    def is_spread(self) -> bool:
        """Whether a row stands in several cells."""
        return self.observed.outputs is not None or isinstance(self.cells, SoftCells)

    def batches(self) -> Iterator[slice]:
        """Parts of the rows that no cluster has a share in two of."""
        n = self.observed.groups.n_rows
        step = _CHUNK if self.is_spread and self.observed.clusters is None else n
        yield from (slice(start, min(start + step, n)) for start in range(0, n, step))

    def write(self, rows: slice) -> _Entries:
        """Write some rows out, once for every cell that each stands in."""
        observed = self.observed
        z, y, d = observed.scores[rows], _part(observed.labels, rows), _part(observed.decisions, rows)
        if not self.is_spread:
            assert isinstance(self.cells, Cells)
            return _Entries(
                self.cells.index[rows], z[:, 0], _first(y), _first(d), _part(observed.weights, rows), None,
                _part(observed.clusters, rows),
            )  # fmt: skip
        row, cell, share = self._places(rows)
        k = z.shape[1]
        row, column = np.repeat(row, k), np.tile(np.arange(k), len(row))
        cell = np.repeat(cell, k) if observed.outputs is None else np.repeat(cell, k) * k + column
        if OUTCOME in self.table.names:
            cell = cell * 2 + (y[row, column] == 1)
        cluster = np.arange(len(z)) if observed.clusters is None else observed.clusters[rows]
        weights = _part(observed.weights, rows)
        return _Entries(
            cell, z[row, column], None if y is None else y[row, column], None if d is None else d[row, column],
            None if weights is None else weights[row], None if share is None else np.repeat(share, k), cluster[row],
        )  # fmt: skip

    def _places(self, rows: slice) -> tuple[IntArray, IntArray, FloatArray | None]:
        """Rows of the batch with the cells they stand in and the probability of each."""
        if isinstance(self.cells, Cells):
            index = self.cells.index[rows]
            return np.arange(len(index)), index, None
        part = self.cells.membership[rows].tocoo()
        return part.row.astype(np.int64), part.col.astype(np.int64), part.data


def _cross_bins(table: CellTable) -> CellTable:
    return cross(table, SCORE_BIN, tuple(range(SCORE_BINS)))


def _first(values: FloatArray | None) -> FloatArray | None:
    return None if values is None else values[:, 0]


def _part(values: Any, rows: slice) -> Any:
    return None if values is None else values[rows]


def _check_scores(scores: Any, n_rows: int) -> tuple[FloatArray, tuple[Hashable, ...] | None]:
    array = to_numpy(scores)
    if array.ndim != 2:
        return check_vector("scores", scores, n_rows=n_rows)[:, None], None
    if not array.shape[1]:
        raise InputError(f"scores must have at least one column; got shape {array.shape}")
    flat = check_vector("scores", array.ravel())
    if len(array) != n_rows:
        raise InputError(f"scores must have {n_rows} rows, as many as groups has; got {len(array)}")
    names = getattr(scores, "columns", range(array.shape[1]))
    return flat.reshape(array.shape), tuple(names)


def _check_labels(
    labels: Any, criteria: Sequence[Criterion], k: int, outputs: tuple[Hashable, ...] | None, n_rows: int
) -> tuple[FloatArray | None, FloatArray | None]:
    """Labels as what every score is compared with, shape (n, k), and as strata, shape (n,)."""
    if labels is None:
        return None, None
    if outputs is None:
        y = check_vector("labels", labels, n_rows=n_rows)
        return y[:, None], y
    array = to_numpy(labels)
    if array.ndim == 2:
        if conditioned := [criterion.name for criterion in criteria if LABEL in criterion.given]:
            raise InputError(f"{conditioned[0]} needs one label per row, shape (n,); got shape {array.shape}")
        return check_matrix("labels", array, shape=(n_rows, k)), None
    named = {name: place for place, name in enumerate(outputs)}
    if array.dtype.kind not in "fiub" and array.ndim == 1 and named.keys() >= set(array.tolist()):
        array = np.array([named[name] for name in array.tolist()])
    classes = check_vector("labels", array, n_rows=n_rows)
    if not np.isin(classes, np.arange(k)).all():
        raise InputError(
            f"labels of scores with {k} columns must be the classes 0 to {k - 1}, the names of the columns, or one "
            f"label per column, shape ({n_rows}, {k}); got values from {classes.min():g} to {classes.max():g}"
        )
    return np.eye(k)[classes.astype(np.int64)], classes


def _check_decisions(observed: Observations, decisions: Any) -> FloatArray:
    if observed.outputs is None:
        return check_vector("decisions", decisions, n_rows=observed.groups.n_rows)[:, None]
    n_rows, k = observed.scores.shape
    return check_matrix("decisions", decisions, shape=(n_rows, k))


def _check_label_strata(columns: Sequence[str], labels: FloatArray | None) -> None:
    if LABEL in columns and labels is not None and len(np.unique(labels)) > MAX_LABEL_STRATA:
        raise InputError(
            f"labels have {len(np.unique(labels))} different values, too many to condition on; "
            "use binary or binned labels with equalized odds and equal opportunity"
        )
