"""CSV that auditkit writes, safe to open in a spreadsheet: text that would be run as a formula is kept as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_RUN = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a cell begins with that spreadsheets take for a formula, also in its full-width form."""


def write_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV text; a text cell or a column name that begins like a formula gets an apostrophe in front.

    Numbers stay numbers, negative ones too: only texts are looked at.

    Args:
        frame: The rows; the index is left out.

    Returns:
        The text, with a header.

    Source: OWASP, "CSV Injection".
    """
    safe = frame.rename(columns=_neutral)
    for place in range(safe.shape[1]):
        values = safe.iloc[:, place]
        if not _is_number(values):
            safe.isetitem(place, values.astype(object).map(_neutral))
    return safe.to_csv(index=False)


def _is_number(values: pd.Series) -> bool:
    import pandas as pd

    return pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values)


def _neutral(value: Any) -> Any:
    if not isinstance(value, str) or not value.lstrip(" ").startswith(_RUN):
        return value
    try:
        float(value)  # a number that is stored as text, such as "-0.5", is no formula
    except ValueError:
        return f"'{value}"
    return value
