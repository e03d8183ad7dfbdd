"""Leakage: what the parts of a split share, so that a test row was seen while tuning or calibrating.

    leaked(a, b) = |{i in b : key_i occurs in a}|,   a before b in the order of the parts

where the key is an id, a person, the hash of a row's features, of an image or of a text. Keys are compared as 64-bit
hashes: among a million rows, a chance of 3e-8 that two different ones are taken for equal.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from auditkit._typing import IntArray
from auditkit.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Policy = Literal["refuse", "report", "ignore"]
Kind = Literal["id", "cluster", "row", "image", "text"]

_WORDS = {
    "id": "the same id", "cluster": "the same person", "row": "identical features", "image": "the same image",
    "text": "the same text",
}  # fmt: skip


@dataclass(frozen=True)
class SharedKeys:
    """Rows of one part whose key also occurs in an earlier part.

    Attributes:
        kind: What was compared.
        earlier: The part that was used first.
        later: The part that should hold nothing of it.
        rows: Rows of the later part that occur in the earlier one.
        of: Rows of the later part.
    """

    kind: Kind
    earlier: str
    later: str
    rows: int
    of: int

    @property
    def sentence(self) -> str:
        """The finding in words."""
        counts = f"{self.rows:,} of {self.of:,}".replace(",", "\u202f")  # as in reports
        return f"{counts} {self.later} rows have {_WORDS[self.kind]} as rows of {self.earlier}"


@dataclass(frozen=True)
class Leakage:
    """What was compared between the parts, and what they share.

    Attributes:
        policy: What the audit file says is done about it.
        checked: What was compared.
        found: One entry per kind and pair of parts that share something; empty where they share nothing.
    """

    policy: Policy
    checked: tuple[Kind, ...]
    found: tuple[SharedKeys, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """The findings in words."""
        return tuple(shared.sentence for shared in self.found)

    def to_dict(self) -> dict[str, Any]:
        """What run.json holds."""
        found = [
            {"kind": s.kind, "earlier": s.earlier, "later": s.later, "rows": s.rows, "of": s.of, "words": s.sentence}
            for s in self.found
        ]
        return {"policy": self.policy, "checked": list(self.checked), "found": found}


def find_leakage(
    parts: Mapping[str, IntArray],
    *,
    ids: pd.Series | None = None,
    clusters: pd.Series | None = None,
    rows: pd.DataFrame | NDArray[np.uint64] | None = None,
    images: pd.Series | None = None,
    texts: pd.Series | None = None,
    policy: Policy = "report",
) -> Leakage:
    """Find what the parts of a split share.

    Args:
        parts: Part name → row numbers, in the order in which the parts are used.
        ids: Whom or what every row is of, n rows; missing ids are compared with nothing.
        clusters: Whom every row is of, where several rows are of one person, n rows.
        rows: What the model reads, n rows, which are compared by all columns; or the hashes of such rows, shape (n,).
        images: Hash of every row's image, n rows.
        texts: Hash of every row's text, n rows.
        policy: "refuse" raises where anything is shared, "report" counts it, "ignore" looks for nothing.

    Returns:
        What was compared and found.

    Raises:
        InputError: The policy is "refuse" and the parts share something.
    """
    if policy == "ignore":
        return Leakage(policy, (), ())
    keys: dict[Kind, tuple[Any, Any]] = {}
    if ids is not None:
        keys["id"] = _hash(ids), ids.notna().to_numpy()
    if clusters is not None:
        keys["cluster"] = _hash(clusters), clusters.notna().to_numpy()
    if rows is not None and (isinstance(rows, np.ndarray) or len(rows.columns)):
        keys["row"] = rows if isinstance(rows, np.ndarray) else _hash(rows), np.ones(len(rows), dtype=bool)
    files: dict[Kind, pd.Series | None] = {"image": images, "text": texts}
    for kind, hashes in files.items():
        if hashes is not None:
            keys[kind] = _hash(hashes), hashes.notna().to_numpy()
    found = [s for kind, (hashes, known) in keys.items() for s in _find_shared(kind, hashes, known, parts) if s.rows]
    leakage = Leakage(policy, tuple(keys), tuple(found))
    if found and policy == "refuse":
        raise InputError(
            f"split.leakage is refuse, and {'; '.join(leakage.sentences)}; split by: group, drop the repeated rows, or "
            "say leakage: report"
        )
    return leakage


def _find_shared(kind: Kind, hashes: Any, known: Any, parts: Mapping[str, IntArray]) -> list[SharedKeys]:
    found = []
    for earlier, later in itertools.combinations(parts, 2):
        there, here = (parts[name][known[parts[name]]] for name in (earlier, later))
        n_shared = int(np.isin(hashes[here], hashes[there]).sum())
        found.append(SharedKeys(kind, earlier, later, n_shared, len(parts[later])))
    return found


def _hash(values: pd.Series | pd.DataFrame) -> Any:
    import pandas as pd

    return cast("Any", pd).util.hash_pandas_object(values, index=False).to_numpy()
