"""The values of an attribute as codes into sorted categories, and the probabilities of one that is inferred."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from auditkit._typing import FloatArray, IntArray, VectorLike
from auditkit._validation import to_numpy
from auditkit.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MISSING = "(missing)"
"""Category of the rows whose attribute value is None or NaN."""

FEW_CODES = 1 << 12
"""Codes that are counted rather than sorted, however few rows there are."""
SHARE_SLACK = 1e-6


def factorize(name: str, values: VectorLike) -> tuple[IntArray, tuple[Hashable, ...]]:
    """Replace values by codes into their sorted categories, ``"(missing)"`` last."""
    import pandas as pd

    if isinstance(values, pd.Series | pd.Categorical):
        series = pd.Series(values).reset_index(drop=True)
    else:
        array = to_numpy(values)
        if array.ndim != 1:
            raise InputError(f"attribute {name!r} must have shape (n,), one value per row; got shape {array.shape}")
        if (few := _factorize_few(array)) is not None:
            return few
        series = pd.Series(array)
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes, categories = series.cat.codes.to_numpy().astype(np.int64), list(series.cat.categories)
    else:
        codes, uniques = pd.factorize(series, use_na_sentinel=True)
        codes, categories = _sort_categories(codes.astype(np.int64), list(uniques))
    plain = [plain_value(value) for value in categories]
    if (codes < 0).any():
        codes = np.where(codes < 0, len(plain), codes)
        plain.append(MISSING)
    return codes, tuple(plain)


def _factorize_few(array: np.ndarray[Any, Any]) -> tuple[IntArray, tuple[Hashable, ...]] | None:
    """Whole numbers and truth values that lie close together, by counting; None for anything else."""
    if array.dtype.kind not in "iub" or not len(array):
        return None
    low, high = int(array.min()), int(array.max())
    if high - low >= FEW_CODES:
        return None
    above = array - array.min() if array.dtype.kind == "u" else array.astype(np.int64) - low
    occurring, codes = number_codes(above.astype(np.int64, copy=False), high - low + 1)
    kind = bool if array.dtype.kind == "b" else int
    return codes, tuple([kind(low + above) for above in occurring.tolist()])


def plain_value(value: Any) -> Hashable:
    """A value as a group is called by it: a whole number without its decimal point, however its column is stored.

    A column of whole numbers with missing values is one of float64 in some kinds of table and not in others.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


def check_shares(name: str, values: VectorLike | pd.DataFrame) -> tuple[FloatArray, tuple[Hashable, ...]]:
    """Probabilities of an inferred attribute, shape (n, g), and the names of its groups."""
    try:
        shares = to_numpy(values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"probabilities of {name!r} must be numbers; {error}") from error
    if shares.ndim != 2 or shares.shape[1] < 1:
        raise InputError(
            f"probabilities of {name!r} must have shape (n, g), one column per group; got shape {shares.shape}"
        )
    if not np.isfinite(shares).all() or (shares < 0).any():
        raise InputError(f"probabilities of {name!r} hold NaN, infinite or negative values; mend or drop those rows")
    off = np.abs(shares.sum(axis=1) - 1.0)
    if (off > SHARE_SLACK).any():
        row = int(off.argmax())
        raise InputError(
            f"probabilities of {name!r} must add up to 1 in every row; row {row} adds up to {shares[row].sum():.6g}"
        )
    groups = list(values.columns) if hasattr(values, "columns") else list(range(shares.shape[1]))  # type: ignore[union-attr]
    if len(set(groups)) != len(groups):
        raise InputError(f"probabilities of {name!r} name a group twice: {groups}")
    return shares / shares.sum(axis=1, keepdims=True), tuple(groups)


def _sort_categories(codes: IntArray, categories: list[Any]) -> tuple[IntArray, list[Any]]:
    try:
        order = sorted(range(len(categories)), key=categories.__getitem__)
    except TypeError:  # values of several types have no common order; their text does
        order = sorted(range(len(categories)), key=lambda i: (type(categories[i]).__name__, str(categories[i])))
    rank = np.empty(len(order) + 1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    rank[-1] = -1  # the missing sentinel stays -1
    return rank[codes], [categories[i] for i in order]


def object_array(values: Sequence[Hashable]) -> np.ndarray[Any, Any]:
    """An object array that keeps tuples whole instead of unpacking them."""
    return np.fromiter(values, dtype=object, count=len(values))


def number_codes(codes: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """The codes below ``size`` that occur, in order, and which of them every row has; sorted where they may be many."""
    if size > max(FEW_CODES, len(codes)):
        return np.unique(codes, return_inverse=True)
    occurs = np.bincount(codes, minlength=size) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1).take(codes)
