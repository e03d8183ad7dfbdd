"""Parts of a data set: which rows tune, calibrate and test.

By chance (`split_rows`), with all rows of a person together (`split_by_group`), earlier rows before later ones
(`split_by_time`), or as a column of the table says (`split_by_column`). `auditkit.leakage` says what the parts share.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from auditkit._typing import FloatArray, IntArray
from auditkit._validation import check_vector
from auditkit.errors import InputError, SchemaError

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 10


def split_rows(
    n_rows: int, *, fractions: Mapping[str, float], seed: int, stratify: IntArray | None = None
) -> dict[str, IntArray]:
    """Split row numbers into named parts, the same way for the same seed.

    Args:
        n_rows: Number of rows n.
        fractions: Part name → share of the rows; positive, summing to 1.
        seed: Seed of the shuffle.
        stratify: Code of every row, shape (n,); each code is split in the given fractions, so that labels or groups
            are equally common in every part.

    Returns:
        Part name → sorted row numbers; every row is in exactly one part.
    """
    cumulative = np.cumsum(_check_shares(fractions))
    codes = np.zeros(n_rows, dtype=np.int64) if stratify is None else np.asarray(stratify)
    if codes.shape != (n_rows,):
        raise InputError(f"stratify must have shape ({n_rows},), one code per row; got {codes.shape}")
    part_of_row = _assign_parts(codes, cumulative, np.random.default_rng(seed))
    return _collect(part_of_row, fractions, advice="enlarge that fraction")


def split_by_group(
    ids: pd.Series, *, fractions: Mapping[str, float], seed: int, stratify: IntArray | None = None
) -> dict[str, IntArray]:
    """Split rows so that all rows of an id are in one part.

    The ids are shuffled; an id falls into the part that holds the middle of its rows. The parts follow from the ids
    and the seed alone: the same ids in another order of rows fall into the same parts.

    Args:
        ids: Whom or what every row is of, n rows.
        fractions: Part name → share of the rows, met as closely as whole ids allow.
        seed: Seed of the shuffle.
        stratify: Code of every row, shape (n,), the same for all rows of an id; the ids of each code are split in the
            given fractions.

    Returns:
        Part name → sorted row numbers.

    Raises:
        InputError: An id is missing, an id has rows of several codes, or the ids are too few or too large to fill every
            part.
    """
    import pandas as pd

    cumulative = np.cumsum(_check_shares(fractions))
    _refuse_missing(ids, "an id")
    hashes = cast("Any", pd).util.hash_pandas_object(ids, index=False).to_numpy()
    _, first, codes, sizes = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    if stratify is None:
        part_of_id = _assign_ids(sizes, cumulative, rng)
    else:
        _refuse_mixed(ids, codes, first, stratify)
        part_of_id = np.empty(len(sizes), dtype=np.int64)
        for code in np.unique(stratify[first]):
            mine = np.flatnonzero(stratify[first] == code)
            part_of_id[mine] = _assign_ids(sizes[mine], cumulative, rng, offset=rng.random() - 0.5)
    return _collect(
        part_of_id[codes], fractions, advice=f"{len(sizes)} ids fill {len(fractions)} parts; enlarge the fraction"
    )


def split_by_time(times: pd.Series, *, fractions: Mapping[str, float]) -> dict[str, IntArray]:
    """Split rows by time: the first part holds the earliest rows, the last part the latest.

    Rows of one moment stay together, in the earlier of the parts that they lie between.

    Args:
        times: Dates, moments (ISO 8601 where they are text) or numbers, n rows.
        fractions: Part name → share of the rows, from the earliest part to the latest.

    Returns:
        Part name → sorted row numbers.

    Raises:
        SchemaError: The times are neither dates nor numbers.
        InputError: A time is missing, or ties leave a part without rows.
    """
    cumulative = np.cumsum(_check_shares(fractions))
    _refuse_missing(times, "a time")
    _, codes, sizes = np.unique(_moments(times), return_inverse=True, return_counts=True)
    begin = np.cumsum(sizes) - sizes
    cuts = np.floor(cumulative[:-1] * len(codes) + 0.5)
    part_of_time = np.searchsorted(cuts, begin, side="right")
    return _collect(
        part_of_time[codes], fractions, advice=f"there are {len(sizes)} moments, and rows of one moment stay together"
    )


def split_by_column(values: pd.Series, *, parts: Mapping[str, Sequence[Hashable]]) -> dict[str, IntArray]:
    """Split rows as a column says.

    Args:
        values: The part of every row in the table's own words, n rows.
        parts: Part name → the values that stand for it; whole numbers are the same as text and as numbers.

    Returns:
        Part name → sorted row numbers.

    Raises:
        InputError: A value belongs to no part or to two, a part has no rows, or a value is missing.
    """
    import pandas as pd

    _refuse_missing(values, "the name of a part")
    listed = [(part, _text(value)) for part, named in parts.items() for value in named]
    place = {text: list(parts).index(part) for part, text in listed}
    if len(place) < len(listed):
        twice = sorted({text for _, text in listed if [t for _, t in listed].count(text) > 1})
        raise InputError(f"split names the value {twice[0]!r} for two parts; name each value once")
    codes, uniques = pd.factorize(values)
    texts = [_text(value) for value in uniques.tolist()]
    unknown = [text for text in texts if text not in place]
    if unknown:
        raise InputError(
            f"split column {values.name!r} holds {', '.join(map(repr, sorted(unknown)[:_SHOWN]))}, which "
            f"{'stand' if len(unknown) > 1 else 'stands'} for no part; name values for {', '.join(parts)}, or drop "
            "those rows"
        )
    part_of_row = np.array([place[text] for text in texts], dtype=np.int64)[codes]
    return _collect(part_of_row, parts, advice=f"column {values.name!r} holds {', '.join(map(repr, sorted(texts)))}")


def codes_of(frame: pd.DataFrame) -> IntArray:
    """One code per combination of the columns' values, shape (n,): what `split_rows` takes to stratify."""
    return frame.groupby(list(frame.columns), dropna=False, observed=True, sort=True).ngroup().to_numpy()


def _check_shares(fractions: Mapping[str, float]) -> FloatArray:
    shares = check_vector("fractions", list(fractions.values()))
    if shares.size == 0 or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-9:
        raise InputError(f"fractions must be positive and sum to 1; got {dict(fractions)}")
    return shares


def _collect(part_of_row: IntArray, names: Mapping[str, Any], *, advice: str) -> dict[str, IntArray]:
    parts = {name: np.flatnonzero(part_of_row == i) for i, name in enumerate(names)}
    empty = [name for name, rows in parts.items() if rows.size == 0]
    if empty:
        raise InputError(f"fractions leave {', '.join(empty)} without rows out of {len(part_of_row)}; {advice}")
    return parts


def _refuse_missing(values: pd.Series, what: str) -> None:
    missing = np.flatnonzero(values.isna().to_numpy())
    if missing.size:
        raise InputError(
            f"split column {values.name!r} has {missing.size} missing values (first at row {missing[0]}); give every "
            f"row {what}, or drop those rows"
        )


def _moments(times: pd.Series) -> np.ndarray[Any, Any]:
    """Times as numbers that sort as the times do."""
    import pandas as pd

    if pd.api.types.is_bool_dtype(times):
        raise SchemaError(f"split column {times.name!r} holds true and false; name a column of dates or numbers")
    if pd.api.types.is_numeric_dtype(times):
        return times.to_numpy()
    try:
        return pd.to_datetime(times, format="ISO8601", utc=True).to_numpy().astype("datetime64[ns]").astype(np.int64)
    except (ValueError, TypeError) as error:
        raise SchemaError(
            f"split column {times.name!r} holds {times.iloc[0]!r}, …, not all of which are dates; name a column of "
            "numbers, or of dates such as 2024-03-31 or 2024-03-31T09:30:00"
        ) from error


def _text(value: Hashable) -> str:
    """A value as text; 1 and 1.0 are the same part, whatever type the table stores."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _assign_ids(sizes: IntArray, cumulative: FloatArray, rng: np.random.Generator, *, offset: float = 0.0) -> IntArray:
    """Part of every id, all ids shuffled; the offset keeps the ids of a small stratum from always falling alike."""
    order = rng.permutation(len(sizes))
    middle = np.empty(len(sizes))
    middle[order] = np.cumsum(sizes[order]) - sizes[order] / 2
    return np.searchsorted(cumulative[:-1] * sizes.sum(), middle + offset * sizes.mean(), side="right")


def _refuse_mixed(ids: pd.Series, codes: IntArray, first: IntArray, stratify: IntArray) -> None:
    mixed = np.flatnonzero(stratify != stratify[first][codes])
    if mixed.size:
        raise InputError(
            f"stratify gives the rows of {str(ids.iloc[int(mixed[0])])!r} ({ids.name}) several values, and they stay "
            "together; stratify by columns that are the same in all rows of one, or leave it out"
        )


def _assign_parts(codes: IntArray, cumulative: FloatArray, rng: np.random.Generator) -> IntArray:
    part_of_row = np.empty(len(codes), dtype=np.int64)
    strata = np.unique(codes)
    for code in strata:
        rows = rng.permutation(np.flatnonzero(codes == code))
        # A random rounding offset keeps small strata from always falling into the same part.
        offset = 0.5 if len(strata) == 1 else rng.random()
        cuts = np.floor(cumulative[:-1] * len(rows) + offset).astype(np.int64)
        part_of_row[rows] = np.searchsorted(cuts, np.arange(len(rows)), side="right")
    return part_of_row
