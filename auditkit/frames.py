"""Tables that are in memory already, of whatever library, as a pandas frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from auditkit._tables import check_names_unique
from auditkit.errors import InputError, SchemaError

if TYPE_CHECKING:
    import pandas as pd

_KINDS = "a frame of pandas or polars, a pyarrow table, a structured or two-dimensional NumPy array, or a Bunch"
TARGET = "target"


def to_pandas(table: Any, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A table as a pandas frame; a pandas frame is returned as it is.

    Args:
        table: A pandas frame; anything that speaks the Arrow stream protocol (polars, pyarrow, DuckDB, …); a NumPy
            array, structured or of shape (n, d); a scikit-learn Bunch, whose outcome becomes the column "target".
        columns: Names of the d columns of an array without names.

    Returns:
        The frame, its columns named by texts.

    Raises:
        InputError: It is none of these, or columns are given for a table that has names.
        SchemaError: Columns have no names, the wrong number of them, or one name twice.
    """
    import pandas as pd

    if isinstance(table, np.ndarray):
        return _from_array(table, columns)
    if columns is not None:
        raise InputError(f"columns names those of a NumPy array; a {type(table).__name__} has names of its own")
    if isinstance(table, pd.DataFrame):
        return table
    if isinstance(table, Mapping) and {"data", TARGET} <= set(table):
        return _from_bunch(table)
    if not hasattr(table, "__arrow_c_stream__"):
        hint = "; use load_table for a file" if isinstance(table, str) or hasattr(table, "__fspath__") else ""
        raise InputError(f"frame must be {_KINDS}; got {type(table).__name__}{hint}")
    return _from_arrow(table)


def _from_arrow(table: Any) -> pd.DataFrame:
    import pyarrow as pa

    try:
        arrow = pa.table(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the {type(table).__name__} cannot be read as a table: {reason}") from error
    check_names_unique(arrow.column_names, f"the {type(table).__name__}")
    return arrow.to_pandas(ignore_metadata=True)


def _from_array(values: np.ndarray[Any, Any], columns: Sequence[str] | None) -> pd.DataFrame:
    import pandas as pd

    if values.dtype.names is not None:
        if columns is not None:
            raise InputError("columns names those of a plain array; a structured array has names of its own")
        if values.ndim != 1:
            raise InputError(f"a structured array must hold one record per row; got shape {values.shape}")
        return pd.DataFrame({name: values[name] for name in values.dtype.names})
    if values.ndim != 2:
        raise InputError(f"an array must have shape (n, d), one column per name; got {values.shape}")
    if columns is None:
        raise SchemaError(f"an array of shape {values.shape} has no column names; pass {values.shape[1]} columns=")
    if len(columns) != values.shape[1]:
        raise SchemaError(f"columns has {len(columns)} names for an array of {values.shape[1]} columns")
    check_names_unique(columns, "the array")
    frame = pd.DataFrame(values, columns=pd.Index(list(columns)))
    return frame.infer_objects() if values.dtype == object else frame


def _from_bunch(bunch: Mapping[str, Any]) -> pd.DataFrame:
    """The columns of a Bunch and its outcome."""
    import pandas as pd

    data, target, names = bunch["data"], bunch[TARGET], bunch.get("feature_names")
    if not isinstance(data, pd.DataFrame):
        if hasattr(data, "toarray"):
            raise InputError("the Bunch holds a sparse matrix, whose columns are no attributes; build a frame from it")
        data = _from_array(np.asarray(data), None if names is None else [str(name) for name in names])
    if target is None:
        return data
    outcomes = _from_outcomes(target)
    clash = [name for name in outcomes if name in data]
    if clash:
        raise SchemaError(f"the Bunch has a feature called {clash[0]!r}, as is its outcome; rename it")
    return cast("pd.DataFrame", pd.concat([data.reset_index(drop=True), outcomes.reset_index(drop=True)], axis=1))


def _from_outcomes(target: Any) -> pd.DataFrame:
    import pandas as pd

    if isinstance(target, pd.DataFrame):
        return target
    values = target if isinstance(target, pd.Series) else np.asarray(target)
    if values.ndim == 1:
        name = getattr(target, "name", None) or TARGET
        return pd.DataFrame({name: values})
    return pd.DataFrame(values, columns=pd.Index([f"{TARGET}_{i}" for i in range(values.shape[1])]))
