"""Parts of a data set: which rows tune, calibrate and test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from auditkit._typing import FloatArray, IntArray
from auditkit._validation import check_vector
from auditkit.errors import InputError


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
    shares = check_vector("fractions", list(fractions.values()))
    if shares.size == 0 or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-9:
        raise InputError(f"fractions must be positive and sum to 1; got {dict(fractions)}")
    codes = np.zeros(n_rows, dtype=np.int64) if stratify is None else np.asarray(stratify)
    if codes.shape != (n_rows,):
        raise InputError(f"stratify must have shape ({n_rows},), one code per row; got {codes.shape}")
    part_of_row = _assign_parts(codes, np.cumsum(shares), np.random.default_rng(seed))
    parts = {name: np.flatnonzero(part_of_row == i) for i, name in enumerate(fractions)}
    empty = [name for name, rows in parts.items() if rows.size == 0]
    if empty:
        raise InputError(f"fractions leave {', '.join(empty)} without rows out of {n_rows}; enlarge that fraction")
    return parts


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
