"""The label that counts as 1, in the type of its column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from auditkit.engines.base import SOURCE, Column, Engine
from auditkit.engines.statements import Roles
from auditkit.errors import InputError

_SHOWN = 10


def read_positive(engine: Engine, columns: Mapping[str, Column], roles: Roles) -> Any:
    """The positive label as a value that its column can be compared with; None without one.

    Raises:
        InputError: The column cannot hold it.
    """
    given = roles.positive_label
    if given is None or roles.label is None:
        return None
    kind = columns[roles.label].kind
    if kind == "text":
        return str(given)
    if kind in ("integer", "number") and _is_number(given):
        return float(given)
    for value in _values(engine, columns, roles):
        if value == given or str(value) == str(given):
            return value
    raise _never_occurs(engine, columns, roles)


def check_occurs(engine: Engine, columns: Mapping[str, Column], roles: Roles) -> None:
    """Raise where the positive label never occurs; to be asked where every sum of labels is 0.

    Raises:
        InputError: It does not.
    """
    if roles.positive_label is not None and roles.positive_label not in _values(engine, columns, roles):
        raise _never_occurs(engine, columns, roles)


def _values(engine: Engine, columns: Mapping[str, Column], roles: Roles) -> list[Any]:
    assert roles.label is not None
    found = engine.query(f"SELECT DISTINCT {columns[roles.label].alias} FROM {SOURCE} LIMIT 1000")
    return [value for (value,) in found if value is not None]


def _never_occurs(engine: Engine, columns: Mapping[str, Column], roles: Roles) -> InputError:
    shown = ", ".join(sorted(map(repr, _values(engine, columns, roles)))[:_SHOWN])
    return InputError(
        f"positive_label {roles.positive_label!r} never occurs in column {roles.label!r}; values: {shown}"
    )


def _is_number(value: Any) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except (TypeError, ValueError):
        return False
