"""Which columns of a table are what: attributes, bands and expressions of them, labels, scores, features."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from auditkit._tables import column
from auditkit._validation import check_vector
from auditkit.errors import InputError, SchemaError
from auditkit.expressions import Expression, parse_expression

if TYPE_CHECKING:
    import pandas as pd

AttributeSpec: TypeAlias = "str | Mapping[str, Mapping[str, Any]]"
"""A column name, ``{new name: {"column": numeric column, "bins": increasing edges}}``,
``{new name: {"expression": text}}`` in the language of `auditkit.expressions`, or, where an attribute is inferred,
``{new name: {"probabilities": {group: column of its probability}}}``."""

ScoreSpec: TypeAlias = "str | Sequence[str] | Mapping[str, str]"
"""A column of scores; for a model of several outputs the columns, or ``{output: column}``."""


@dataclass(frozen=True)
class Key:
    """An attribute or stratum, and what it is made of.

    Attributes:
        name: What criteria call it.
        source: The column; empty for an expression.
        bins: Edges that the column is cut at; None without.
        expression: Over several columns; None without.
        probabilities: Group → column of its probability, of an inferred attribute; empty otherwise.
    """

    name: str
    source: str
    bins: tuple[float, ...] | None = None
    expression: Expression | None = None
    probabilities: tuple[tuple[str, str], ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The columns that are read."""
        if self.probabilities:
            return tuple(column for _, column in self.probabilities)
        return (self.source,) if self.expression is None else self.expression.columns

    @property
    def is_plain(self) -> bool:
        """Whether it is a column as it is."""
        return self.bins is None and self.expression is None and not self.probabilities


@dataclass(frozen=True)
class TableRoles:
    """Which columns of a table are what; the options of `auditkit.load_table`.

    ``score`` is the one column of scores; a model of several outputs has ``outputs``, their names and columns, instead.
    """

    attributes: tuple[Key, ...]
    strata: tuple[Key, ...]
    label: str | None
    positive_label: Hashable | None
    score: str | None
    features: tuple[str, ...] | None
    exclude: tuple[str, ...]
    weight: str | None = None
    decision: str | None = None
    cluster: str | None = None
    keep: tuple[str, ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(
        cls,
        attributes: Sequence[AttributeSpec] | AttributeSpec,
        strata: Sequence[AttributeSpec] | AttributeSpec,
        label: str | None,
        positive_label: Hashable | None,
        score: ScoreSpec | None,
        features: Sequence[str] | None,
        exclude: Sequence[str],
    ) -> TableRoles:
        """Check the options against each other.

        Raises:
            InputError: They do not go together.
            SchemaError: A name is given twice, or a key is written wrongly.
        """
        if positive_label is not None and label is None:
            raise InputError("positive_label needs label=, the column that it is a value of")
        parsed = tuple(parse_specs("attributes", attributes)), tuple(parse_specs("strata", strata))
        if not parsed[0]:
            raise InputError('attributes must name at least one protected attribute, such as attributes=["sex"]')
        names = [key.name for key in (*parsed[0], *parsed[1])]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise SchemaError(f"attributes and strata name {', '.join(map(repr, repeated))} twice; name each one once")
        chosen = None if features is None else _names("features", features)
        excluded = _names("exclude", exclude)
        if score is None or isinstance(score, str):
            return cls(*parsed, label, positive_label, score, chosen, excluded)
        outputs = parse_outputs(score)
        if positive_label is not None:
            raise InputError(
                f"positive_label is {positive_label!r}, and score names {len(outputs)} outputs, whose labels are "
                "classes; leave it out"
            )
        return cls(*parsed, label, None, None, chosen, excluded, outputs=outputs)

    def check(self, frame: pd.DataFrame) -> None:
        """Raise SchemaError for the first named column that the frame lacks."""
        wanted = {"label": self.label, **self.beside}
        pairs = [(role, name) for role, name in wanted.items() if name is not None]
        pairs += [("score", name) for name in self.score_columns]
        pairs += [("attributes", name) for key in self.attributes for name in key.sources]
        pairs += [("strata", name) for key in self.strata for name in key.sources]
        pairs += [("features", name) for name in self.features or ()]
        pairs += [("exclude", name) for name in self.exclude]
        pairs += [("keep", name) for name in self.keep]
        for role, name in pairs:
            if name not in frame.columns:
                raise SchemaError(describe_missing(role, name, [str(c) for c in frame.columns]))

    @property
    def score_columns(self) -> tuple[str, ...]:
        """The columns of scores; empty where a model makes them."""
        return tuple(name for _, name in self.outputs) if self.score is None else (self.score,)

    @property
    def beside(self) -> dict[str, str | None]:
        """Columns that say something about a row beside its score and outcome."""
        return {"weight": self.weight, "decision": self.decision, "cluster": self.cluster}

    @property
    def read_beside_features(self) -> list[str]:
        """The columns that say anything but what the model reads, each once."""
        keys = [name for key in (*self.attributes, *self.strata) for name in key.sources]
        named = [self.label, *self.score_columns, *self.beside.values(), *self.keep]
        return list(dict.fromkeys([*keys, *(name for name in named if name is not None)]))

    def feature_columns(self, frame: pd.DataFrame) -> list[str] | None:
        """What the model reads; None where the table holds the scores and names no features."""
        if self.features is not None:
            return [name for name in self.features if name not in self.exclude]
        if self.score_columns:
            return None
        plain = {name for key in self.attributes if key.is_plain or key.probabilities for name in key.sources}
        taken = plain | {self.label, *self.beside.values()} | set(self.exclude)
        return [name for name in frame.columns if name not in taken]


def _names(argument: str, columns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(columns, str):
        raise InputError(f"{argument} must be a list of column names; write {argument}=[{columns!r}]")
    return tuple(columns)


def parse_specs(argument: str, specs: Sequence[AttributeSpec] | AttributeSpec) -> Iterable[Key]:
    """Every attribute with what it is made of."""
    for spec in [specs] if isinstance(specs, str | Mapping) else specs:
        if isinstance(spec, str):
            yield Key(spec, spec)
        elif isinstance(spec, Mapping):
            for name, rule in spec.items():
                yield _parse_rule(f"{argument}[{name!r}]", name, rule)
        else:
            raise InputError(f"{argument} must hold column names or bin mappings; got {spec!r}")


def parse_outputs(score: Sequence[str] | Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The outputs of a model with their columns.

    Raises:
        SchemaError: There are fewer than two, or one column is named twice.
    """
    outputs = tuple(score.items()) if isinstance(score, Mapping) else tuple((name, name) for name in score)
    check_distinct("score", "output", outputs)
    return outputs


def check_distinct(where: str, unit: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Raise unless there are two outputs or groups at least, each with a column of its own.

    Raises:
        SchemaError: There are fewer, or one column is named twice.
    """
    columns = [column for _, column in pairs]
    if len(pairs) < 2:
        raise SchemaError(f"{where} must name a column for each of two {unit}s or more; got {columns}")
    if repeated := [column for column in columns if columns.count(column) > 1]:
        raise SchemaError(f"{where} names column {repeated[0]!r} for two {unit}s; name one of its own for each")


def _parse_rule(where: str, name: str, rule: Mapping[str, Any]) -> Key:
    keys = set(rule) if isinstance(rule, Mapping) else set()
    if keys == {"probabilities"} and isinstance(rule["probabilities"], Mapping):
        pairs = tuple((str(group), str(column)) for group, column in rule["probabilities"].items())
        check_distinct(where, "group", pairs)
        return Key(name, "", probabilities=pairs)
    if keys == {"expression"}:
        return Key(name, "", None, parse_expression(rule["expression"], where=where))
    if keys != {"column", "bins"}:
        raise SchemaError(
            f'{where} must be {{"column": name, "bins": [edges]}}, {{"expression": text}} or '
            f'{{"probabilities": {{group: column}}}}; got {rule!r}'
        )
    edges = check_vector(f"{where} bins", rule["bins"])
    if edges.size == 0 or (np.diff(edges) <= 0).any():
        raise InputError(f"{where} bins must be increasing edges such as [18, 30, 45]; got {list(rule['bins'])}")
    return Key(name, str(rule["column"]), tuple(edges.tolist()))


def describe_missing(role: str, column: str, present: Sequence[str]) -> str:
    """Say that a role names a column that the table lacks, with the nearest name and all there are."""
    close = difflib.get_close_matches(column, present, n=1, cutoff=0.6)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{role} names column {column!r}, which the table lacks{hint}; it has: {', '.join(present)}"


def attribute_values(frame: pd.DataFrame, key: Key) -> pd.Series:
    """The groups of an attribute.

    Raises:
        InputError: There is only one.
    """
    name, groups = key.name, key_values(frame, key)
    if groups.nunique(dropna=False) < 2:
        raise InputError(f"attribute {name!r} has the single value {groups.iloc[0]!r}; there are no groups to compare")
    return groups


def key_values(frame: pd.DataFrame, key: Key) -> pd.Series:
    """An attribute or a stratum as its rule makes it, n rows."""
    if key.expression is not None:
        from auditkit.expression_values import evaluate

        return evaluate(key.expression, frame)
    return _binned(column(frame, key.source), key.name, key.bins)


def _binned(values: pd.Series, name: str, bins: tuple[float, ...] | None) -> pd.Series:
    import pandas as pd

    if bins is None:
        return values
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        raise SchemaError(f"attribute {name!r}: only numeric columns can be cut into bins; it is {values.dtype}")
    titles = bin_titles(bins)
    cut = pd.Series(pd.cut(values, [-np.inf, *bins, np.inf], right=False, labels=titles))
    empty = sorted({titles[0], titles[-1]} - set(cut))
    return cut.cat.remove_categories(empty)  # an open bin nobody falls into is no group the caller asked for


def bin_titles(bins: Sequence[float]) -> list[str]:
    """The names of the bands that inner edges cut a number line into."""
    inner = [f"[{low:g}, {high:g})" for low, high in itertools.pairwise(bins)]
    return [f"<{bins[0]:g}", *inner, f">={bins[-1]:g}"]
