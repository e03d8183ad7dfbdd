"""Over what a comparison is made: how its rows were parted, how many persons they are of, what the parts share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from auditkit._typing import IntArray
from auditkit.baselines import Sample
from auditkit.leakage import find_leakage
from auditkit.split_rules import SplitRule


@dataclass(frozen=True)
class Design:
    """How the rows were parted.

    Attributes:
        rows: Rows per part.
        by: "random", "group", "time" or "column".
        is_fixed: Whether every seed has the same parts, and another training only.
        persons: Persons per part; None where the rows are independent.
        shared: In words, what a part shares with an earlier one: persons that a time or a column puts into both.
    """

    rows: Mapping[str, int]
    by: str = "random"
    is_fixed: bool = False
    persons: Mapping[str, int] | None = None
    shared: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """n_test / n_fit, in persons where several rows are of one."""
        size = self.rows if self.persons is None else self.persons
        return size["test"] / (size["tune"] + size["calibrate"])

    def to_dict(self) -> dict[str, Any]:
        """What comparison.json holds as ``split``."""
        return {
            "by": self.by,
            "fixed": self.is_fixed,
            "persons": None if self.persons is None else dict(self.persons),
            "shared": list(self.shared),
        }


def describe_design(dataset: Sample, parts: Mapping[str, IntArray], rule: SplitRule) -> Design:
    """The design of one split.

    Args:
        dataset: All rows.
        parts: Part name → row numbers.
        rule: How they were parted.
    """
    rows = {name: len(part) for name, part in parts.items()}
    if dataset.clusters is None:
        return Design(rows, rule.by, rule.is_fixed)
    clusters = pd.Series(np.asarray(dataset.clusters))
    persons = {name: int(clusters.iloc[part].nunique()) for name, part in parts.items()}
    shared = find_leakage(parts, clusters=clusters).sentences
    return Design(rows, rule.by, rule.is_fixed, persons, shared)
