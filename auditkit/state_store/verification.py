"""`verify_ledger`: does a ledger still say what was released, and does the state follow from it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditkit.checks import Check
from auditkit.state_store.base import GENESIS, LedgerEntry
from auditkit.streaming import CellSums, LabelSums, StreamConfig, StreamState
from auditkit.streaming.layout import labelled_layout, pooled_gaps, released_layout

if TYPE_CHECKING:
    from auditkit.state_store.sql_store import SqlStore
    from auditkit.state_store.sqlite_store import SqliteStore

    DurableStore = SqliteStore | SqlStore


def verify_ledger(place: str | Path) -> tuple[Check, ...]:
    """Check every entry of a ledger, and derive the pooled gaps from its counts and sums alone.

    Args:
        place: The file or the URL of a store.

    Returns:
        The file, the chain of hashes, the agreement with the state, and every pooled gap (which is stated, not judged).

    Raises:
        StoreError: The store cannot be read.
    """
    store = open_ledger(place)
    try:
        config, state = store.read_config(), store.read_state()
        checks = [Check("file", (said := store.check_file()) == "ok", said)]
        ledger = _Ledger(config)
        for entry in store.read_entries():
            ledger.take(entry)
        head = store.read_head()
    finally:
        store.close()
    ended = (ledger.sequence, ledger.previous) == (head.sequence, head.hash)
    whole = ledger.broken or (
        f"{ledger.sequence} entries, each hashed onto the one before"
        if ended
        else f"the ledger ends at entry {ledger.sequence}, the stream at {head.sequence}: entries are missing"
    )
    checks.append(Check("chain", not ledger.broken and ended, whole))
    return (*checks, ledger.compare(state), *ledger.gaps())


def open_ledger(place: str | Path) -> DurableStore:
    """A store that lies somewhere durable, to be read only where that can be had.

    Raises:
        StoreError: It cannot be opened.
    """
    if "://" in str(place):
        from auditkit.state_store.sql_store import SqlStore

        return SqlStore(str(place))
    from auditkit.state_store.sqlite_store import SqliteStore

    return SqliteStore(Path(place), read_only=True)


class _Ledger:
    """Adds up a ledger, entry by entry, in the order and with the operations of the stream itself."""

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.sequence, self.previous, self.broken, self.at = 0, GENESIS, "", ""
        self.released: dict[Any, CellSums] = {}
        self.labelled: dict[Any, LabelSums] = {}
        self.rows = self.batches = 0

    def take(self, entry: LedgerEntry) -> None:
        """Check one entry against the one before, and add its counts and sums."""
        if not self.broken:
            self.broken = self._complaint(entry)
        self.sequence, self.previous, self.at = entry.sequence, entry.hash, entry.at
        content = json.loads(entry.entry)
        if entry.kind == "step":
            self.rows, self.batches = self.rows + content["rows"], self.batches + 1
            for key, rows, released in content["cells"]:
                sums = CellSums(rows=float(rows), released=released)
                self.released[tuple(key)] = (
                    self.released[tuple(key)].plus(sums) if tuple(key) in self.released else sums
                )
        else:
            for key, rows, released, label in content["cells"]:
                late = LabelSums(rows=float(rows), released=released, label=label)
                self.labelled[tuple(key)] = (
                    self.labelled[tuple(key)].plus(late) if tuple(key) in self.labelled else late
                )

    def _complaint(self, entry: LedgerEntry) -> str:
        if entry.sequence != self.sequence + 1:
            return f"entry {self.sequence + 1} is missing; {entry.sequence} follows {self.sequence}"
        if entry.previous != self.previous:
            return f"entry {entry.sequence} does not follow the entry before it"
        if entry.hash != entry.expected_hash():
            return f"entry {entry.sequence} (batch {entry.batch_id!r}) was changed after it was written"
        return f"entry {entry.sequence} is earlier than the one before it" if entry.at < self.at else ""

    def compare(self, state: StreamState) -> Check:
        """Whether the state's totals are those of the ledger, to the last bit."""
        wrong = [] if (self.rows, self.batches) == (state.rows, state.batches) else ["rows"]
        for mine, theirs, name in (
            (self.released, state.total, "released"),
            (self.labelled, state.labelled_total, "labelled"),
        ):
            fields = ("rows", "released") if name == "released" else ("rows", "released", "label")
            same = mine.keys() == theirs.keys() and all(
                getattr(mine[key], part) == getattr(theirs[key], part) for key in mine for part in fields
            )
            wrong += [] if same else [name]
        detail = "counts and sums are those of the ledger, to the last bit"
        if wrong:
            detail = f"the state does not follow from the ledger: {', '.join(wrong)} differ"
        return Check("state", not wrong, detail)

    def gaps(self) -> list[Check]:
        """Every pooled gap, from the ledger alone."""
        found = []
        parts = (
            (released_layout(self.config, tuple(self.released)), self.released),
            (labelled_layout(self.config, tuple(self.labelled)), self.labelled),
        )
        for layout, table in parts:
            for k, gap in enumerate(pooled_gaps(layout, table) if layout.plus else []):
                name = f"{self.config.criteria[layout.owner[k]].name}: {layout.contrasts.describe(k)}"
                found.append(Check(name, True, f"pooled gap {gap:.6g}, tolerance {layout.tolerance[k]:g}"))
        return found
