"""The tables of a durable store and what is done with them, in SQL that SQLite and PostgreSQL share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from auditkit.errors import StoreError
from auditkit.state_store.base import Answered, Head, Kind, LedgerEntry, Transaction, following_entry
from auditkit.streaming import PendingRows, StreamState

STORE_SCHEMA = "auditkit.store/1"

Execute = Callable[[str, Mapping[str, Any]], Sequence[Sequence[Any]]]

TABLES = (
    """CREATE TABLE IF NOT EXISTS stream (
        id INTEGER PRIMARY KEY CHECK (id = 1), schema TEXT NOT NULL, config TEXT NOT NULL, state TEXT NOT NULL,
        sequence BIGINT NOT NULL, hash TEXT NOT NULL, at TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS ledger (
        sequence BIGINT PRIMARY KEY, kind TEXT NOT NULL, batch_id TEXT NOT NULL, payload TEXT NOT NULL,
        answer TEXT NOT NULL, entry TEXT NOT NULL, at TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL,
        UNIQUE (kind, batch_id))""",
    "CREATE TABLE IF NOT EXISTS pending (batch_id TEXT PRIMARY KEY, rows TEXT NOT NULL)",
)
"""One state, its ledger, and the rows that wait for labels."""

FIND = "SELECT payload, answer FROM ledger WHERE kind = :kind AND batch_id = :batch_id"
APPEND = """INSERT INTO ledger (sequence, kind, batch_id, payload, answer, entry, at, previous, hash)
    VALUES (:sequence, :kind, :batch_id, :payload, :answer, :entry, :at, :previous, :hash)"""
KEEP = "INSERT INTO pending (batch_id, rows) VALUES (:batch_id, :rows)"
TAKE = "SELECT rows FROM pending WHERE batch_id = :batch_id"
DROP = "DELETE FROM pending WHERE batch_id = :batch_id"
WRITE = "UPDATE stream SET state = :state, sequence = :sequence, hash = :hash, at = :at WHERE id = 1"
BEGIN_STREAM = """INSERT INTO stream (id, schema, config, state, sequence, hash, at)
    VALUES (1, :schema, :config, :state, :sequence, :hash, :at)"""
PAGE = """SELECT sequence, kind, batch_id, payload, answer, entry, at, previous, hash FROM ledger
    WHERE sequence > :after ORDER BY sequence LIMIT 500"""


class SqlTransaction(Transaction):
    """The work of one transaction; the state and the end of the ledger are written once, at the end.

    Args:
        execute: Runs a statement with named parameters and returns its rows.
        state: The committed state.
        head: The committed end of the ledger.
    """

    def __init__(self, execute: Execute, state: StreamState, head: Head) -> None:
        self.execute, self.state, self.head = execute, state, head
        self.changed = False

    def find(self, kind: Kind, batch_id: str) -> Answered | None:
        """The earlier request under this id."""
        rows = self.execute(FIND, {"kind": kind, "batch_id": batch_id})
        return Answered(*rows[0]) if rows else None

    def append(self, kind: Kind, batch_id: str, *, payload: str, answer: str, entry: Any, state: StreamState) -> None:
        """Add an entry to the ledger, and the state that it leads to."""
        line = following_entry(self.head, kind, batch_id, payload, answer, entry)
        self.execute(APPEND, vars(line))
        self.head, self.state, self.changed = Head(line.sequence, line.hash, line.at), state, True

    def keep_pending(self, batch_id: str, rows: PendingRows) -> None:
        """Remember rows until their labels arrive."""
        self.execute(KEEP, {"batch_id": batch_id, "rows": rows.to_json()})

    def take_pending(self, batch_id: str) -> PendingRows | None:
        """The remembered rows of a batch, which are then forgotten."""
        rows = self.execute(TAKE, {"batch_id": batch_id})
        if not rows:
            return None
        self.execute(DROP, {"batch_id": batch_id})
        return PendingRows.from_json(rows[0][0])

    def finish(self) -> None:
        """Write the state and the end of the ledger, where anything happened."""
        if self.changed:
            text = json.dumps(self.state.to_dict(), separators=(",", ":"))
            self.execute(WRITE, {"state": text, **vars(self.head)})


def read_head(execute: Execute, *, lock: str = "") -> Head:
    """The end of the ledger as committed; ``lock`` is appended to the statement.

    Raises:
        StoreError: No stream was started here.
    """
    rows = execute(f"SELECT sequence, hash, at FROM stream WHERE id = 1{lock}", {})
    if not rows:
        raise StoreError("the store holds no stream")
    return Head(*rows[0])


def read_state(execute: Execute) -> StreamState:
    """The committed state.

    Raises:
        StoreError: It is damaged.
    """
    try:
        return StreamState.from_dict(json.loads(execute("SELECT state FROM stream WHERE id = 1", {})[0][0]))
    except (LookupError, TypeError, ValueError) as error:
        raise StoreError(f"the state in the store is damaged ({error}); `auditkit verify` says what the ledger still "
                         "proves; restore the store from a copy") from error  # fmt: skip


def read_entries(execute: Execute) -> Iterator[LedgerEntry]:
    """Every entry of the ledger in order, a page at a time."""
    after = 0
    while page := execute(PAGE, {"after": after}):
        yield from (LedgerEntry(*row) for row in page)
        after = page[-1][0]
