"""Tables, predictions and splits: what an audit reads, with protected attributes kept apart from features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from auditkit._tables import column, hash_file, hashing, read_table, refuse_file
from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import check_vector, to_numpy
from auditkit.categories import check_shares
from auditkit.errors import InputError
from auditkit.frames import to_pandas
from auditkit.groups import Groups
from auditkit.splits import split_rows
from auditkit.table_roles import AttributeSpec, Key, ScoreSpec, TableRoles, attribute_values, key_values

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AttributeSpec", "AuditData", "from_frame", "hash_file", "load_table", "read_table", "split_rows"]


@dataclass(frozen=True, eq=False)
class AuditData:
    """One data set, ready to audit.

    Attributes:
        name: What reports call it.
        attributes: Protected attributes and strata that are known, one column each, n rows.
        features: What the model reads, n rows; None for a table of predictions.
        labels: Outcome of every row, shape (n,); 1.0 and 0.0 where a positive label was named.
        scores: Score of every row, shape (n,), when the table holds predictions; (n, k) for k outputs.
        sha256: Hash of the file's bytes, or of the frame's content when no file was read.
        source: The file name as the caller gave it.
        weights: How many people each row stands for, shape (n,); None is one for every row.
        decisions: The decision that was made on each row, shape (n,), when the table holds them.
        clusters: Whom each row is of, shape (n,), when several rows are of one person.
        kept: Columns as they are in the table that were asked for beside the roles, n rows: ids, times, parts.
        outputs: Names of the outputs, where there are several scores per row; the labels are then their numbers.
        probabilities: Inferred attribute → probability of every group, a column each, n rows.
    """

    name: str
    attributes: pd.DataFrame
    features: pd.DataFrame | None
    labels: FloatArray | None
    scores: FloatArray | None
    sha256: str
    source: str
    weights: FloatArray | None = None
    decisions: FloatArray | None = None
    clusters: pd.Series | None = None
    kept: pd.DataFrame | None = None
    outputs: tuple[str, ...] | None = None
    probabilities: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return len(self.attributes)

    @cached_property
    def groups(self) -> Groups:
        """The attributes and strata as Groups."""
        return Groups(self.attributes, probabilities=self.probabilities)

    def take(self, rows: VectorLike) -> AuditData:
        """Some of the rows (indices or a boolean mask); the hash is derived from this one's and the rows."""
        chosen = _row_indices(rows, n_rows=self.n_rows)
        return AuditData(
            name=self.name,
            attributes=self.attributes.iloc[chosen].reset_index(drop=True),
            features=None if self.features is None else self.features.iloc[chosen].reset_index(drop=True),
            labels=None if self.labels is None else self.labels[chosen],
            scores=None if self.scores is None else self.scores[chosen],
            sha256=hashlib.sha256(self.sha256.encode() + chosen.astype("<i8").tobytes()).hexdigest(),
            source=self.source,
            weights=None if self.weights is None else self.weights[chosen],
            decisions=None if self.decisions is None else self.decisions[chosen],
            clusters=None if self.clusters is None else self.clusters.iloc[chosen].reset_index(drop=True),
            kept=None if self.kept is None else self.kept.iloc[chosen].reset_index(drop=True),
            outputs=self.outputs,
            probabilities={name: p.iloc[chosen].reset_index(drop=True) for name, p in self.probabilities.items()},
        )


@dataclass(frozen=True, eq=False)
class FileRows:
    """Rows whose content stays in files.

    Attributes:
        data: Labels and attributes of every row, n rows.
    """

    data: AuditData

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return self.data.n_rows

    @property
    def labels(self) -> FloatArray | None:
        """Label of every row, shape (n,)."""
        return self.data.labels

    @property
    def groups(self) -> Groups:
        """The attributes as Groups."""
        return self.data.groups


def load_table(
    path: str | Path,
    *,
    attributes: Sequence[AttributeSpec] | AttributeSpec,
    label: str | None = None,
    positive_label: Hashable | None = None,
    score: ScoreSpec | None = None,
    features: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    strata: Sequence[AttributeSpec] | AttributeSpec = (),
    weight: str | None = None,
    decision: str | None = None,
    cluster: str | None = None,
    keep: Sequence[str] = (),
    max_gib: float | None = None,
    name: str | None = None,
) -> AuditData:
    """Read a table and sort its columns into attributes, features, labels and scores.

    Args:
        path: A .csv, .parquet, .arrow, .feather, .npy or .npz file.
        attributes: Protected attributes: column names, or numeric columns to cut into bins, such as
            ``{"age_band": {"column": "age", "bins": [18, 30, 45, 60]}}``, or expressions such as
            ``{"native": {"expression": 'tongue in ["de", "fr"]'}}`` (`auditkit.expressions`). Bins hold their lower
            edge; values below the first or from the last edge on form open bins of their own. An attribute that is
            inferred is ``{"race": {"probabilities": {"white": "p_white", "black": "p_black"}}}``, a column of
            probabilities per group.
        label: Column of outcomes.
        positive_label: Value of ``label`` that becomes 1.0 (every other value 0.0); needed for text labels.
        score: Column of scores, for a table of predictions; for a model of several outputs their columns, or
            ``{output: column}``. Labels are then classes: numbers from 0 on, or names of the outputs.
        features: Columns the model reads. By default none when ``score`` is given, and otherwise every column that is
            not a plain attribute, the label, weight, decision, cluster or excluded. The columns that bands and
            expressions are made of, and the strata, stay features: a model may legitimately read them.
        exclude: Columns to drop.
        strata: Legitimate conditions, written like ``attributes``.
        weight: Column of row weights: how many people a row stands for.
        decision: Column of the decisions that were made, 0 or 1 (or their probabilities).
        cluster: Column that says whom a row is of, where several rows are of one person.
        keep: Columns to keep beside the roles, such as an id or a time to split by; they stay features unless excluded.
        max_gib: Largest decoded size that the file may declare, in GiB; 16 by default.
        name: What reports call the data; the file's stem by default.

    Raises:
        SchemaError: A named column is missing or has the wrong kind.
        InputError: The file cannot be read; a label or score is NaN; an attribute has a single value.
    """
    source = Path(path)
    roles = TableRoles.parse(attributes, strata, label, positive_label, score, features, exclude)
    refuse_file(source)
    with hashing([source]) as digest:
        frame = read_table(source, max_gib=max_gib)
        origin = (name or source.stem, digest(), str(path))
    return assemble(
        frame, replace(roles, weight=weight, decision=decision, cluster=cluster, keep=tuple(keep)), origin=origin
    )


def from_frame(
    frame: Any,
    *,
    attributes: Sequence[AttributeSpec] | AttributeSpec,
    label: str | None = None,
    positive_label: Hashable | None = None,
    score: ScoreSpec | None = None,
    features: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    strata: Sequence[AttributeSpec] | AttributeSpec = (),
    weight: str | None = None,
    decision: str | None = None,
    cluster: str | None = None,
    keep: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    name: str | None = None,
) -> AuditData:
    """Sort the columns of a table in memory into roles.

    Args:
        frame: A frame of pandas or polars, a pyarrow table, or anything else that speaks the Arrow stream protocol; a
            NumPy array, structured or with ``columns``; a scikit-learn Bunch, whose outcome is the column "target".
            Text columns reach the model as they are.
        attributes: Protected attributes, as in :func:`load_table`; so is every other option but ``columns``.
        label: As there.
        positive_label: As there.
        score: As there.
        features: As there.
        exclude: As there.
        strata: As there.
        weight: As there.
        decision: As there.
        cluster: As there.
        keep: As there.
        columns: Names of the columns of a two-dimensional array.
        name: What reports call the data; "frame" by default.

    Raises:
        SchemaError: A named column is missing or has the wrong kind; the message lists those there are.
        InputError: It is no such table, or has no rows; a label or score is NaN; an attribute has a single value.
    """
    table = to_pandas(frame, columns=columns)
    if table.empty:
        raise InputError(f"frame must have rows and columns; got shape {table.shape}")
    roles = TableRoles.parse(attributes, strata, label, positive_label, score, features, exclude)
    return assemble(
        table.reset_index(drop=True),
        replace(roles, weight=weight, decision=decision, cluster=cluster, keep=tuple(keep)),
        origin=(name or "frame", hash_frame(table), f"({type(frame).__name__})"),
    )


def hash_frame(frame: pd.DataFrame) -> str:
    """SHA-256 of a frame's column names, types and values; its index does not count."""
    import pandas as pd

    digest = hashlib.sha256(json.dumps([[str(c), str(frame[c].dtype)] for c in frame]).encode())
    digest.update(cast("Any", pd).util.hash_pandas_object(frame, index=False).to_numpy().astype("<u8").tobytes())
    return digest.hexdigest()


def assemble(frame: pd.DataFrame, roles: TableRoles, *, origin: tuple[str, str, str]) -> AuditData:
    """A frame with its columns sorted into roles.

    Args:
        frame: The rows, numbered from 0.
        roles: Which columns are what.
        origin: Name, SHA-256 and source.

    Raises:
        SchemaError: A named column is missing or has the wrong kind.
        InputError: A label or score is NaN; an attribute has a single value.
    """
    import pandas as pd

    roles.check(frame)
    columns = roles.feature_columns(frame)
    attributes = {key.name: attribute_values(frame, key) for key in roles.attributes if not key.probabilities}
    strata = {key.name: key_values(frame, key) for key in roles.strata if not key.probabilities}
    inferred = [key for key in (*roles.attributes, *roles.strata) if key.probabilities]
    return AuditData(
        name=origin[0],
        attributes=pd.DataFrame(attributes | strata, index=frame.index),
        features=None if columns is None else cast("pd.DataFrame", frame[columns]),
        labels=_read_labels(frame, roles),
        scores=_scores(frame, roles),
        sha256=origin[1],
        source=origin[2],
        weights=None if roles.weight is None else _weights(column(frame, roles.weight), roles.weight),
        decisions=None if roles.decision is None else _decisions(column(frame, roles.decision), roles.decision),
        clusters=None if roles.cluster is None else _clusters(column(frame, roles.cluster), roles.cluster),
        kept=cast("pd.DataFrame", frame[list(roles.keep)]) if roles.keep else None,
        outputs=tuple(name for name, _ in roles.outputs) or None,
        probabilities={key.name: _probabilities(frame, key) for key in inferred},
    )


def _scores(frame: pd.DataFrame, roles: TableRoles) -> FloatArray | None:
    parts = [check_vector(f"score column {name!r}", column(frame, name)) for name in roles.score_columns]
    if roles.outputs:
        return np.stack(parts, axis=1)
    return parts[0] if parts else None


def _probabilities(frame: pd.DataFrame, key: Key) -> pd.DataFrame:
    """The probabilities of the groups of an inferred attribute.

    Raises:
        InputError: They are no probabilities, or do not add up to 1.
    """
    import pandas as pd

    shares = pd.DataFrame({group: column(frame, name) for group, name in key.probabilities})
    check_shares(key.name, shares)
    return shares


def _read_labels(frame: pd.DataFrame, roles: TableRoles) -> FloatArray | None:
    if roles.label is None:
        return None
    values = column(frame, roles.label)
    if roles.outputs:
        values = _classes(values, roles)
    return _labels(values, roles.label, roles.positive_label)


def _classes(values: pd.Series, roles: TableRoles) -> pd.Series:
    """The number of the output that every label names; numbers stay as they are."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(values):
        return values
    names = {name: number for number, (name, _) in enumerate(roles.outputs)}
    known = values.isna() | values.isin(list(names))
    if not known.all():
        first = values.to_numpy()[~known.to_numpy()][0]
        raise InputError(
            f"label column {roles.label!r} holds {first!r}, which is no output; the outputs are "
            f"{', '.join(map(repr, names))}"
        )
    return values.map(names).astype(np.float64)


def _weights(values: pd.Series, name: str) -> FloatArray:
    weights = check_vector(f"weight column {name!r}", values)
    if (weights < 0).any():
        raise InputError(f"weight column {name!r} must be non-negative; it holds {weights.min():g}")
    if not weights.any():
        raise InputError(f"weight column {name!r} is zero in every row; name the people a row stands for")
    return weights


def _decisions(values: pd.Series, name: str) -> FloatArray:
    decisions = check_vector(f"decision column {name!r}", values)
    outside = decisions[(decisions < 0) | (decisions > 1)]
    if outside.size:
        raise InputError(f"decision column {name!r} must hold 0 and 1, or probabilities; it holds {outside[0]:g}")
    return decisions


def _clusters(values: pd.Series, name: str) -> pd.Series:
    missing = int(values.isna().sum())
    if missing:
        raise InputError(
            f"cluster column {name!r} holds {missing} missing values; give every row the person that it is of"
        )
    return values


def _labels(values: pd.Series, name: str, positive: Hashable | None) -> FloatArray:
    import pandas as pd

    missing = np.flatnonzero(values.isna().to_numpy())
    if missing.size:
        raise InputError(
            f"label column {name!r} has {missing.size} missing values (first at row {missing[0]}); drop those rows"
        )
    if positive is None:
        if not pd.api.types.is_numeric_dtype(values):
            raise InputError(
                f"label column {name!r} holds text; pass positive_label=, the value that counts as 1 "
                f"(values: {_shown_values(values)})"
            )
        return check_vector(f"label column {name!r}", values)
    matches = values.to_numpy() == positive
    if not np.any(matches):
        raise InputError(
            f"positive_label {positive!r} never occurs in column {name!r}; values: {_shown_values(values)}"
        )
    return np.asarray(matches, dtype=np.float64)


def _shown_values(values: pd.Series) -> str:
    texts = sorted({repr(value) for value in values.unique().tolist()})
    return ", ".join(texts[:10]) + (", …" if len(texts) > 10 else "")


def _row_indices(rows: VectorLike, *, n_rows: int) -> IntArray:
    chosen = to_numpy(rows)
    if chosen.dtype == bool:
        if chosen.shape != (n_rows,):
            raise InputError(f"rows, as a mask, must have shape ({n_rows},); got {chosen.shape}")
        return np.flatnonzero(chosen).astype(np.int64)
    if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
        raise InputError(f"rows must be a non-empty vector of row numbers or a boolean mask; got {chosen.dtype}")
    if chosen.min() < 0 or chosen.max() >= n_rows:
        raise InputError(f"rows must lie in 0…{n_rows - 1}; got {chosen.min()}…{chosen.max()}")
    return chosen.astype(np.int64)
