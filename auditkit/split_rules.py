"""How the rows of a data set are parted, as one value: by chance, by group, by time, or as a column says.

Chance parts other rows for every seed, and never the rows of one person. A time or a column parts the same rows
whatever the seed: between seeds only the training differs, and so what an interval over the seeds can be about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from auditkit._typing import IntArray, VectorLike
from auditkit._validation import to_numpy
from auditkit.clusters import check_clusters
from auditkit.errors import InputError
from auditkit.splits import split_by_column, split_by_group, split_by_time, split_rows

if TYPE_CHECKING:
    import pandas as pd

By = Literal["random", "group", "time", "column"]


@dataclass(frozen=True, eq=False)
class SplitRule:
    """How rows are parted.

    Attributes:
        by: "random"; "group": the rows of one id stay together; "time": earlier rows before later ones; "column": a
            column names the part.
        values: The id, the time or the part of every row, shape (n,); None with "random".
        parts: With "column", part name → the values that stand for it; None takes the parts' own names.
        stratify: With "random", a code per row, shape (n,); each code is split alike.

    Raises:
        InputError: An unknown ``by``, values without a use or missing, or parts and codes of another rule.
    """

    by: By = "random"
    values: VectorLike | None = None
    parts: Mapping[str, Sequence[Hashable]] | None = None
    stratify: IntArray | None = None

    def __post_init__(self) -> None:
        if self.by not in ("random", "group", "time", "column"):
            raise InputError(f"by must be 'random', 'group', 'time' or 'column'; got {self.by!r}")
        if (self.values is None) != (self.by == "random"):
            needs = "takes no values" if self.by == "random" else "needs values, one per row: the ids, times or parts"
            raise InputError(f"by is {self.by!r}, which {needs}")
        if self.parts is not None and self.by != "column":
            raise InputError(f"parts belongs to by='column' only; got it with {self.by!r}")
        if self.stratify is not None and self.by != "random":
            raise InputError(f"stratify belongs to by='random' only; got it with {self.by!r}")

    @property
    def is_fixed(self) -> bool:
        """Whether the parts are the same for every seed."""
        return self.by in ("time", "column")

    def split(
        self, n_rows: int, *, fractions: Mapping[str, float], seed: int, clusters: VectorLike | None = None
    ) -> dict[str, IntArray]:
        """Part the rows.

        Args:
            n_rows: Number of rows n.
            fractions: Part name → share of the rows; with "column" only the names count.
            seed: Seed of what is left to chance.
            clusters: Whom each row is of, shape (n,). What is left to chance keeps the rows of one person together, and
                with "group" also all groups that a person is in; a time or a column may part them.

        Returns:
            Part name → sorted row numbers.

        Raises:
            InputError: Values, codes or clusters of another length, or rows that cannot be parted so.
            SchemaError: The times are neither dates nor numbers.
        """
        self._check_length(n_rows)
        check_clusters(clusters, n_rows=n_rows)
        if self.by == "time":
            return split_by_time(_series(self.values, "time"), fractions=fractions)
        if self.by == "column":
            named = self.parts or {name: (name,) for name in fractions}
            return split_by_column(_series(self.values, "part"), parts=named)
        if self.by == "random" and clusters is None:
            return split_rows(n_rows, fractions=fractions, seed=seed, stratify=self.stratify)
        ids = clusters if self.by == "random" else self.values if clusters is None else _join(self.values, clusters)
        name = "clusters" if self.by == "random" else "id"
        return split_by_group(_series(ids, name), fractions=fractions, seed=seed, stratify=self.stratify)

    def fingerprint(self) -> str | None:
        """SHA-256 of all that decides the parts beside fractions, seed and clusters; None for plain chance."""
        if self.by == "random" and self.stratify is None:
            return None
        import pandas as pd

        digest = hashlib.sha256(repr((self.by, self.parts and sorted(self.parts.items()))).encode())
        for part in (self.values, self.stratify):
            if part is not None:
                hashes: Any = pd.util.hash_pandas_object(_series(part, ""), index=False)  # type: ignore[attr-defined]
                digest.update(hashes.to_numpy().astype("<u8").tobytes())
        return digest.hexdigest()

    def _check_length(self, n_rows: int) -> None:
        for name, given in (("values", self.values), ("stratify", self.stratify)):
            if given is not None and len(given) != n_rows:
                raise InputError(f"{name} must have {n_rows} rows, as many as the data; got {len(given)}")


def _series(values: Any, name: str) -> pd.Series:
    """The values as a column, numbered from 0, that keeps its name where it has one."""
    import pandas as pd

    if isinstance(values, pd.Series):
        return values.reset_index(drop=True)
    return pd.Series(to_numpy(values), name=name)


def _join(groups: Any, clusters: Any) -> IntArray:
    """One id for all groups that share a person, and all persons that share a group, shape (n,)."""
    import pandas as pd
    from scipy.sparse import csgraph, csr_array

    group, cluster = (pd.factorize(_series(values, ""), use_na_sentinel=True)[0] for values in (groups, clusters))
    if (group < 0).any() or (cluster < 0).any():
        raise InputError("values and clusters must be known in every row; drop the rows where one is missing")
    size = int(group.max()) + 1 + int(cluster.max()) + 1
    links = csr_array((np.ones(len(group)), (group, group.max() + 1 + cluster)), shape=(size, size))
    _, component = csgraph.connected_components(links, directed=False)
    return np.asarray(component)[group].astype(np.int64)
