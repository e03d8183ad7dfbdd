"""Margins and parts of moments: columns summed out, a column crossed in, or the cells of one output alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from auditkit._typing import BoolArray, IntArray
from auditkit.groups import LABEL, OUTPUT, CellTable
from auditkit.moments import SUMS, Moments

OUTCOME = "@outcome"
"""Name of the column that tells apart, for every output, the rows whose label is that output."""

SCORE_BINS = 10
BIN_EDGES = tuple(place / SCORE_BINS for place in range(1, SCORE_BINS))
SCORE_BIN = "@score bin"
"""Name of the column of the bins, of equal width in [0, 1], that reliability curves are made of."""


def cross(table: CellTable, name: str, values: tuple[Hashable, ...]) -> CellTable:
    """Every cell once per value of another column, that column running fastest."""
    codes = np.column_stack(
        [np.repeat(table.codes, len(values), axis=0), np.tile(np.arange(len(values)), table.n_cells)]
    )
    return CellTable((*table.names, name), codes, (*table.categories, values))


def drop_empty(moments: Moments) -> Moments:
    """The moments without the cells that no row is in."""
    return _take(moments, moments.count > 0)


def marginal(moments: Moments, names: Sequence[str]) -> Moments:
    """The moments over some columns, all others summed out.

    Args:
        moments: Sums per cell of independent rows.
        names: The columns that are kept.

    Returns:
        The moments of the cells that differ in one of them.
    """
    assert moments.gram is None
    table = moments.table
    columns = table.columns(dict.fromkeys(names))
    codes, index = np.unique(table.codes[:, columns], axis=0, return_inverse=True)
    kept = CellTable(tuple(table.names[c] for c in columns), codes, tuple(table.categories[c] for c in columns))
    sums = {
        field: np.bincount(index.reshape(-1), weights=getattr(moments, field), minlength=len(codes)) for field in SUMS
    }
    return replace(moments, table=kept, **sums)


def split_outputs(moments: Moments) -> list[tuple[Hashable, Moments]]:
    """The moments of every output by itself, without the column that tells them apart.

    Args:
        moments: Sums per cell.

    Returns:
        Pairs of an output and its moments; the moments themselves, of the output None, where there is one score per
        row. Labels that are outputs become 1 for this one and 0 for the others. Rows that are tied to each other only
        through several outputs are independent within each.
    """
    if OUTPUT not in moments.table.names:
        return [(None, moments)]
    column = moments.table.names.index(OUTPUT)
    parts = []
    for code, value in enumerate(moments.table.categories[column]):
        part = _take(moments, moments.table.codes[:, column] == code)
        parts.append((value, replace(part, table=_binary_labels(_without(part.table, OUTPUT), code))))
    return parts


def count_rows(moments: Moments) -> int:
    """Rows that the moments were taken from, each once however many outputs it has."""
    names, categories = moments.table.names, moments.table.categories
    outputs = len(categories[names.index(OUTPUT)]) if OUTPUT in names else 1
    return round(float(moments.count.sum()) / outputs)


def _without(table: CellTable, name: str) -> CellTable:
    kept = [column for column, other in enumerate(table.names) if other != name]
    names = tuple(table.names[column] for column in kept)
    return CellTable(names, table.codes[:, kept], tuple(table.categories[column] for column in kept))


def _binary_labels(table: CellTable, output: int) -> CellTable:
    """The cells of one output with the binary outcome as the label."""
    if OUTCOME in table.names:
        return replace(table, names=tuple(LABEL if name == OUTCOME else name for name in table.names))
    if LABEL not in table.names:
        return table
    column = table.names.index(LABEL)
    codes = table.codes.copy()
    codes[:, column] = np.array([value == output for value in table.categories[column]])[codes[:, column]]
    categories = tuple((0, 1) if k == column else values for k, values in enumerate(table.categories))
    return CellTable(table.names, codes, categories)


def _take(moments: Moments, chosen: BoolArray) -> Moments:
    """The moments of some cells; without a gram where the rows in them are independent."""
    table = replace(moments.table, codes=moments.table.codes[chosen])
    part = replace(moments, table=table, gram=None, **{field: getattr(moments, field)[chosen] for field in SUMS})
    if moments.gram is None or _are_independent(moments, np.flatnonzero(chosen)):
        return part
    places = (np.arange(4)[:, None] * moments.table.n_cells + np.flatnonzero(chosen)).ravel()
    return replace(part, gram=moments.gram[np.ix_(places, places)])


def _are_independent(moments: Moments, cells: IntArray) -> bool:
    """Whether no cluster has two of the rows in these cells: then Σ (Σ w)² over the clusters is Σ w²."""
    assert moments.gram is not None
    block = moments.gram[np.ix_(cells, cells)]
    return bool(np.allclose(block, np.diag(moments.weight2[cells]), rtol=1e-12, atol=1e-12 * block.max(initial=0.0)))
