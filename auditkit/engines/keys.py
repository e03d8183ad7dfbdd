"""The values of attributes and strata, one per combination, as `Groups` takes them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from auditkit.categories import object_array
from auditkit.engines.base import Column
from auditkit.table_roles import Key, bin_titles


def key_values(columns: Mapping[str, Column], key: Key, values: Sequence[Any]) -> Any:
    """What an engine answered for a key, as values of an attribute.

    Args:
        columns: The columns of the table.
        key: What it is made of.
        values: The engine's values, or numbers of bands; shape (combinations,).

    Returns:
        Values in the same order; a categorical where groups without rows are to be kept.
    """
    import pandas as pd

    if key.bins is not None:
        titles = bin_titles(key.bins)
        codes = [-1 if value is None else int(value) for value in values]
        kept = [t for i, t in enumerate(titles) if i in codes or 0 < i < len(titles) - 1]
        return pd.Categorical([None if code < 0 else titles[code] for code in codes], categories=kept)
    plain = [_plain(value) for value in values]
    declared = columns[key.source].categories if key.is_plain else None
    if declared is None:
        return object_array(plain)
    extra = dict.fromkeys(value for value in plain if value is not None and value not in declared)
    return pd.Categorical(plain, categories=[*declared, *extra])


def _plain(value: Any) -> Hashable:
    """A key as a value that JSON can hold; dates and the like become their text."""
    return value if value is None or isinstance(value, str | int | float) else str(value)
