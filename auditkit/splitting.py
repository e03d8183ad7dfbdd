"""Part the rows of a job as its audit file says, and look for what the parts share."""

from __future__ import annotations

from typing import cast

import pandas as pd

from auditkit._tables import column
from auditkit._typing import IntArray
from auditkit.config import AuditFile
from auditkit.errors import InputError
from auditkit.leakage import Leakage, find_leakage
from auditkit.splits import codes_of, split_by_column, split_by_group, split_by_time, split_rows
from auditkit.subjects import Subject


def split_subject(config: AuditFile, subject: Subject) -> tuple[dict[str, IntArray], Leakage]:
    """The rows that tune, calibrate and test, and what they share.

    Args:
        config: The audit file, whose ``split`` section says how.
        subject: The rows, with the columns that the section names.

    Returns:
        Part name → sorted row numbers; what the parts share.

    Raises:
        InputError: The rows cannot be parted so, or the parts share something and ``split.leakage`` is refuse.
        SchemaError: A column is of the wrong kind.
    """
    spec = config.split
    parts = _split(config, subject)
    ids = None if spec.id_column is None else column(_kept(subject), spec.id_column)
    rows = subject.data.features
    images, texts = (None if name not in subject.keys else pd.Series(subject.keys[name]) for name in ("images", "text"))
    if spec.leakage == "refuse" and ids is None and rows is None and not subject.keys:
        raise InputError("split.leakage is refuse, and there is nothing to compare: name split.id or data.features")
    return parts, find_leakage(parts, ids=ids, rows=rows, images=images, texts=texts, policy=spec.leakage)


def _split(config: AuditFile, subject: Subject) -> dict[str, IntArray]:
    spec, seed = config.split, config.seed
    if spec.by == "random":
        chosen = cast("pd.DataFrame", _kept(subject)[list(spec.stratify)]) if spec.stratify else None
        codes = None if chosen is None else codes_of(chosen)
        return split_rows(subject.sample.n_rows, fractions=spec.fractions, seed=seed, stratify=codes)
    assert spec.column is not None
    values = column(_kept(subject), spec.column)
    if spec.by == "group":
        return split_by_group(values, fractions=spec.fractions, seed=seed)
    if spec.by == "time":
        return split_by_time(values, fractions=spec.fractions)
    return split_by_column(values, parts=spec.part_values)


def _kept(subject: Subject) -> pd.DataFrame:
    if subject.data.kept is None:
        raise InputError("split names a column, and these data were read without it")
    return subject.data.kept
