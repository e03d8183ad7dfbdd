"""The tables of a durable store and what is done with them, in SQL that SQLite and PostgreSQL share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from auditkit.errors import StoreError
from auditkit.state_store.base import (
    Answer,
    Answered,
    Head,
    Kind,
    LedgerEntry,
    Transaction,
    following_entry,
    write_time,
)
from auditkit.streaming import PendingRows, StreamState

STORE_SCHEMA = "auditkit.store/1"

T = TypeVar("T")
Execute = Callable[[str, Mapping[str, Any]], Sequence[Sequence[Any]]]

TABLES = (
    """CREATE TABLE IF NOT EXISTS stream (
        id INTEGER PRIMARY KEY CHECK (id = 1), schema TEXT NOT NULL, config TEXT NOT NULL, state TEXT NOT NULL,
        sequence BIGINT NOT NULL, hash TEXT NOT NULL, at TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS ledger (
        sequence {whole} PRIMARY KEY, kind TEXT NOT NULL, batch_id TEXT NOT NULL, payload TEXT NOT NULL,
        answer TEXT NOT NULL, entry TEXT NOT NULL, at TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL,
        UNIQUE (kind, batch_id))""",
    "CREATE TABLE IF NOT EXISTS pending (batch_id TEXT PRIMARY KEY, rows TEXT NOT NULL)",
)
"""One state, its ledger, and the rows that wait for labels; ``whole`` is the type of a 64-bit number that is a key."""

FIND = "SELECT batch_id, payload, answer FROM ledger WHERE kind = :kind AND batch_id IN ({})"
COLUMNS = ("sequence", "kind", "batch_id", "payload", "answer", "entry", "at", "previous", "hash")
APPEND = f"INSERT INTO ledger ({', '.join(COLUMNS)}) VALUES {{}}"
KEEP = "INSERT INTO pending (batch_id, rows) VALUES (:batch_id, :rows)"
TAKE = "SELECT rows FROM pending WHERE batch_id = :batch_id"
DROP = "DELETE FROM pending WHERE batch_id = :batch_id"
WRITE = "UPDATE stream SET state = :state, sequence = :sequence, hash = :hash, at = :at WHERE id = 1"
BEGIN_STREAM = """INSERT INTO stream (id, schema, config, state, sequence, hash, at)
    VALUES (1, :schema, :config, :state, :sequence, :hash, :at)"""
PAGE = f"SELECT {', '.join(COLUMNS)} FROM ledger WHERE sequence > :after ORDER BY sequence LIMIT 500"

MOST_AT_ONCE = 64
"""Entries that one statement writes or looks up at most."""


class SqlTransaction(Transaction):
    """The work of one transaction; entries, the state and the end of the ledger are written together, at the end.

    Every statement lets other threads run and then waits for its turn again, so many requests share few statements.

    Args:
        execute: Runs a statement with named parameters and returns its rows.
        state: The committed state.
        head: The committed end of the ledger.
    """

    def __init__(self, execute: Execute, state: StreamState, head: Head) -> None:
        self.execute, self.state, self.head = execute, state, head
        self._at = write_time(head)
        self._known: dict[tuple[Kind, str], Answered | None] = {}
        self._lines: list[LedgerEntry] = []

    def expect(self, kind: Kind, batch_ids: Sequence[str]) -> None:
        """Look up many ids at once."""
        self._known.update(((kind, batch_id), None) for batch_id in batch_ids)
        for part in _parts(batch_ids):
            statement, names = _find_many(len(part))
            for batch_id, payload, answer in self.execute(statement, {"kind": kind, **_named(names, part)}):
                self._known[kind, batch_id] = Answered(payload, json.loads(answer))

    def find(self, kind: Kind, batch_id: str) -> Answered | None:
        """The earlier request under this id."""
        if (kind, batch_id) not in self._known:
            self.expect(kind, [batch_id])
        return self._known[kind, batch_id]

    def append(
        self, kind: Kind, batch_id: str, *, payload: str, answer: Answer, entry: Any, state: StreamState
    ) -> None:
        """Add an entry to the ledger, and the state that it leads to."""
        line = following_entry(self.head, kind, batch_id, payload=payload, answer=answer, entry=entry, at=self._at)
        self._lines.append(line)
        self._known[kind, batch_id] = Answered(payload, answer)
        self.head, self.state = Head(line.sequence, line.hash, line.at), state

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
        """Write the entries, the state and the end of the ledger, where anything happened."""
        if not self._lines:
            return
        for part in _parts(self._lines):
            statement, names = _append_many(len(part))
            self.execute(statement, _named(names, [value for line in part for value in line]))
        text = json.dumps(self.state.to_dict(), separators=(",", ":"))
        self.execute(WRITE, {"state": text, **self.head._asdict()})


def _named(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Named parameters of a statement."""
    return dict(zip(names, values, strict=True))


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """The values in runs of `MOST_AT_ONCE` and what is left; every length has a statement of its own, kept prepared."""
    for first in range(0, len(values), MOST_AT_ONCE):
        yield values[first : first + MOST_AT_ONCE]


@cache
def _find_many(size: int) -> tuple[str, tuple[str, ...]]:
    names = tuple(f"id{k}" for k in range(size))
    return FIND.format(", ".join(f":{name}" for name in names)), names


@cache
def _append_many(size: int) -> tuple[str, tuple[str, ...]]:
    rows = [[f"{column}{k}" for column in COLUMNS] for k in range(size)]
    values = ", ".join(f"({', '.join(f':{name}' for name in row)})" for row in rows)
    return APPEND.format(values), tuple(name for row in rows for name in row)


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
