"""Score bins as another key of a scan: what reliability curves are made of, without another pass over the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from auditkit._typing import IntArray
from auditkit.engines.statements import Roles
from auditkit.margins import BIN_EDGES, SCORE_BIN, SCORE_BINS, marginal
from auditkit.moments import Moments, Rows
from auditkit.table_roles import Key


def with_score_bins(roles: Roles) -> Roles:
    """The roles with the bin of the score among the keys, where there are labels and rows are independent."""
    if roles.label is None or roles.cluster is not None:
        return roles
    return replace(roles, keys={**roles.keys, SCORE_BIN: Key(SCORE_BIN, roles.score, BIN_EDGES)})


def has_probabilities(sample: Rows) -> bool:
    """Whether the scores and labels of some rows lie in [0, 1]."""
    return all(values is not None and values.min() >= 0 and values.max() <= 1 for values in (sample.z, sample.y))


def sample_parts(sample: Rows) -> IntArray:
    """Which bin and label every row of a sample has, as one number."""
    assert sample.y is not None
    place = np.searchsorted(BIN_EDGES, sample.z, side="right")
    _, label = np.unique(sample.y, return_inverse=True)
    return (label * SCORE_BINS + place).astype(np.int64)


def bin_numbers(values: Sequence[int | None]) -> IntArray:
    """The bins of the answer of a scan: scores outside [0, 1], for which bins are not used, have some bin as well."""
    return np.clip(np.array([value or 0 for value in values], dtype=np.int64), 0, SCORE_BINS - 1)


def split_bins(moments: Moments) -> tuple[Moments, Moments | None]:
    """The moments without the score bins, and with them where all scores and labels lie in [0, 1]."""
    if SCORE_BIN not in moments.table.names:
        return moments, None
    inside = not moments.outside.any() and not moments.label_outside.any()
    names = [name for name in moments.table.names if name != SCORE_BIN]
    return marginal(moments, names), moments if inside else None
