"""Part the rows of a job as its audit file says, and look for what the parts share."""

from __future__ import annotations

from typing import cast

import pandas as pd

from auditkit._tables import column
from auditkit._typing import IntArray
from auditkit.config import AuditFile
from auditkit.errors import InputError
from auditkit.leakage import Leakage, find_leakage
from auditkit.split_rules import SplitRule
from auditkit.splits import codes_of
from auditkit.subjects import Subject


def read_rule(config: AuditFile, subject: Subject) -> SplitRule:
    """The rule that the ``split`` section of the audit file states, over the rows at hand."""
    spec = config.split
    if spec.by == "random":
        chosen = cast("pd.DataFrame", _kept(subject)[list(spec.stratify)]) if spec.stratify else None
        return SplitRule(stratify=None if chosen is None else codes_of(chosen))
    assert spec.column is not None
    values = column(_kept(subject), spec.column)
    return SplitRule(spec.by, values, parts=spec.part_values if spec.by == "column" else None)


def split_subject(config: AuditFile, subject: Subject, *, seed: int | None = None) -> dict[str, IntArray]:
    """The rows that tune, calibrate and test; what is left to chance keeps the rows of one person together.

    Args:
        config: The audit file, whose ``split`` section says how.
        subject: The rows, with the columns that the section names.
        seed: Seed of what is left to chance; None takes that of the audit file.

    Returns:
        Part name → sorted row numbers.

    Raises:
        InputError: The rows cannot be parted so.
        SchemaError: A column is of the wrong kind.
    """
    chosen, sample = config.seed if seed is None else seed, subject.sample
    return read_rule(config, subject).split(
        sample.n_rows, fractions=config.split.fractions, seed=chosen, clusters=sample.clusters
    )


def check_leakage(config: AuditFile, subject: Subject, parts: dict[str, IntArray]) -> Leakage:
    """What the parts share.

    Args:
        config: The audit file, whose ``split`` section says what is done about it.
        subject: The rows, with the columns that the section names.
        parts: Part name → row numbers.

    Raises:
        InputError: The parts share something and ``split.leakage`` is refuse.
    """
    spec, clusters = config.split, subject.data.clusters
    ids = None if spec.id_column is None else column(_kept(subject), spec.id_column)
    if spec.id_column == config.data.cluster:
        clusters = None  # one finding for one column
    rows = subject.keys.get("rows", subject.data.features)
    images, texts = (None if name not in subject.keys else pd.Series(subject.keys[name]) for name in ("images", "text"))
    if spec.leakage == "refuse" and all(known is None for known in (ids, clusters, rows, images, texts)):
        raise InputError("split.leakage is refuse, and there is nothing to compare: name split.id or data.features")
    return find_leakage(parts, ids=ids, clusters=clusters, rows=rows, images=images, texts=texts, policy=spec.leakage)


def _kept(subject: Subject) -> pd.DataFrame:
    if subject.data.kept is None:
        raise InputError("split names a column, and these data were read without it")
    return subject.data.kept
