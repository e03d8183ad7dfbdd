"""Expressions on the rows of a frame in memory, by whole columns: values next to which of them are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from auditkit._tables import column
from auditkit.errors import SchemaError
from auditkit.expressions import Expression, Node

_KINDS = {
    "string": "text", "empty": "text", "boolean": "boolean", "integer": "number", "floating": "number",
    "mixed-integer-float": "number", "decimal": "number",
}  # fmt: skip
_FILLED: dict[str, Any] = {"text": "", "boolean": False, "number": 0.0}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": np.equal, "<>": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip
_COMPUTE: dict[str, Callable[[Any, Any], Any]] = {"+": np.add, "-": np.subtract, "*": np.multiply}


@dataclass(frozen=True, eq=False)
class Values:
    """A value per row.

    Attributes:
        data: The values, shape (n,); whatever they are where they are missing.
        missing: Which of them are missing, shape (n,).
    """

    data: Any
    missing: Any


def evaluate(expression: Expression, frame: pd.DataFrame) -> pd.Series:
    """The value of an expression on every row.

    Raises:
        SchemaError: A column does not suit what is done with it.
    """
    kinds = {name: _column_kind(column(frame, name)) for name in expression.columns}
    result = expression.check(kinds)
    columns = {name: _read(column(frame, name), kinds[name]) for name in expression.columns}
    with np.errstate(all="ignore"):
        found = _Evaluator(columns, len(frame)).value(expression.root)
    if result == "number":
        return pd.Series(np.where(found.missing, np.nan, found.data), dtype=np.float64)
    if result == "boolean" and not found.missing.any():
        return pd.Series(found.data.astype(bool))
    values = found.data.astype(object)
    values[found.missing] = None
    return pd.Series(values, dtype=object)


def _column_kind(values: pd.Series) -> str:
    inferred = pd.api.types.infer_dtype(_plain(values), skipna=True)
    if inferred not in _KINDS:
        return "other"
    return _KINDS[inferred]


def _plain(values: pd.Series) -> pd.Series:
    return values.astype(object) if isinstance(values.dtype, pd.CategoricalDtype) else values


def _read(values: pd.Series, kind: str) -> Values:
    missing = values.isna().to_numpy()
    if kind == "number":
        return Values(values.to_numpy(dtype=np.float64, na_value=np.nan), missing)
    data = _plain(values).to_numpy(dtype=object, copy=True)
    data[missing] = _FILLED[kind]
    return Values(data.astype(bool) if kind == "boolean" else data, missing)


class _Evaluator:
    def __init__(self, columns: Mapping[str, Values], n_rows: int) -> None:
        self.columns, self.n_rows = columns, n_rows

    def value(self, node: Node) -> Values:
        match node.step:
            case "column":
                return self.columns[str(node.value)]
            case "literal":
                data = np.full(self.n_rows, node.value, dtype=object if isinstance(node.value, str) else None)
                return Values(data, np.zeros(self.n_rows, dtype=bool))
        parts = [self.value(part) for part in node.parts]
        match node.step:
            case "not":
                return Values(~parts[0].data, parts[0].missing)
            case "negate":
                return Values(-parts[0].data, parts[0].missing)
            case "and" | "or":
                return _junction(parts, decisive=node.step == "or")
            case "is_missing":
                return Values(parts[0].missing, np.zeros(self.n_rows, dtype=bool))
            case "in":
                return Values(pd.Series(parts[0].data).isin(list(node.values)).to_numpy(), parts[0].missing)
            case "if":
                return _choose(*parts)
            case "compare":
                data = _COMPARE[node.sign](parts[0].data, parts[1].data).astype(bool)
                return Values(data, parts[0].missing | parts[1].missing)
            case "arithmetic":
                return _compute(node.sign, *parts)
        raise SchemaError(f"there is no step {node.step!r}")


def _junction(parts: list[Values], *, decisive: bool) -> Values:
    """Kleene: one decisive part settles it; else a missing part leaves it missing."""
    settled = reduce(np.logical_or, [(part.data == decisive) & ~part.missing for part in parts])
    missing = reduce(np.logical_or, [part.missing for part in parts]) & ~settled
    return Values(np.where(settled, decisive, not decisive), missing)


def _choose(condition: Values, chosen: Values, other: Values) -> Values:
    data = np.where(condition.data, chosen.data, other.data)
    return Values(data, condition.missing | np.where(condition.data, chosen.missing, other.missing))


def _compute(sign: str, left: Values, right: Values) -> Values:
    missing = left.missing | right.missing
    if sign == "/":
        zero = right.data == 0
        data = left.data / np.where(zero, 1.0, right.data)
        missing = missing | zero
    else:
        data = _COMPUTE[sign](left.data, right.data)
    return Values(data, missing | np.isnan(data))
