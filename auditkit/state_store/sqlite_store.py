"""The embedded store: one SQLite file in WAL mode, synced at every commit, shared by processes of one machine."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

from auditkit.errors import StoreError
from auditkit.state_store import sql
from auditkit.state_store.base import Head, LedgerEntry, StateStore, Transaction, check_same_config
from auditkit.streaming import StreamConfig, StreamState

T = TypeVar("T")

LOCK_SECONDS = 30.0
"""How long a transaction waits for another process before it gives up."""


class SqliteStore(StateStore):
    """A store in one file.

    A transaction takes the write lock before it reads, so two workers can never apply batches to the same state. A
    commit returns when the log is on the disk (synchronous=FULL): what was answered survives the process and the power.

    Args:
        path: The file.
        read_only: Look only; the file must exist.
        lock_seconds: How long to wait for another process.

    Raises:
        StoreError: The file cannot be opened, or is no store.
    """

    def __init__(self, path: Path, *, read_only: bool = False, lock_seconds: float = LOCK_SECONDS) -> None:
        self.path = path
        self._lock = RLock()
        self._cached: tuple[Head, StreamState] | None = None
        if read_only and not path.is_file():
            raise StoreError(f"there is no store {str(path)!r}")
        with self._explained():
            self.connection = sqlite3.connect(
                path, timeout=lock_seconds, isolation_level=None, check_same_thread=False,
                cached_statements=4 * sql.MOST_AT_ONCE,
            )  # fmt: skip
            if read_only:
                self.connection.execute("PRAGMA query_only = ON")
            else:
                self.connection.execute("PRAGMA journal_mode = WAL")
                self.connection.execute("PRAGMA synchronous = FULL")

    def execute(self, statement: str, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Run a statement and return its rows."""
        text, names = _number(statement)
        return self.connection.execute(text, [values[name] for name in names]).fetchall()

    def start(self, config: StreamConfig) -> None:
        """Begin a stream, or go on with the one that is there."""
        with self._held():
            for table in sql.TABLES:
                self.connection.execute(table.format(whole="INTEGER"))  # the row number itself, without an index
            found = self.execute("SELECT schema, config FROM stream WHERE id = 1", {})
            if not found:
                begin = {"schema": sql.STORE_SCHEMA, "config": json.dumps(config.to_dict()),
                         "state": json.dumps(StreamState().to_dict()), **Head()._asdict()}  # fmt: skip
                self.execute(sql.BEGIN_STREAM, begin)
            elif found[0][0] != sql.STORE_SCHEMA:
                raise StoreError(
                    f"store {self.path} is of schema {found[0][0]!r}; this version needs {sql.STORE_SCHEMA!r}"
                )
            else:
                check_same_config(found[0][1], config, str(self.path))

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run some work on the newest state and commit it, or leave everything as it was."""
        with self._held():
            head = sql.read_head(self.execute)
            if self._cached is None or self._cached[0] != head:
                self._cached = head, sql.read_state(self.execute)
            transaction = sql.SqlTransaction(self.execute, self._cached[1], head)
            result = work(transaction)
            transaction.finish()
        self._cached = transaction.head, transaction.state
        return result

    def read_state(self) -> StreamState:
        """The newest committed state."""
        with self._lock, self._explained():
            return sql.read_state(self.execute)

    def read_config(self) -> StreamConfig:
        """What the stream was started with."""
        with self._lock, self._explained():
            found = self.execute("SELECT config FROM stream WHERE id = 1", {})
        if not found:
            raise StoreError(f"store {self.path} holds no stream")
        return StreamConfig.from_dict(json.loads(found[0][0]))

    def read_head(self) -> Head:
        """The end of the ledger as the stream has it."""
        with self._lock, self._explained():
            return sql.read_head(self.execute)

    def read_entries(self) -> Iterator[LedgerEntry]:
        """The ledger in order."""
        with self._lock, self._explained():
            yield from sql.read_entries(self.execute)

    def check_file(self) -> str:
        """What SQLite says of the file: "ok", or what is damaged."""
        with self._lock, self._explained():
            return str(self.execute("PRAGMA integrity_check(1)", {})[0][0])

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """One transaction that holds the write lock from its start; rolled back on any error."""
        with self._lock, self._explained():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"store {self.path}: {_explain(error)}; nothing of this request was applied") from error


@cache
def _number(statement: str) -> tuple[str, list[str]]:
    """A statement with its parameters by position, and their names: SQLite finds each name by a walk over all."""
    return re.sub(r":\w+", "?", statement), re.findall(r":(\w+)", statement)


def _explain(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    words = {
        sqlite3.SQLITE_BUSY: f"another process held it for more than {LOCK_SECONDS:g} s; try again",
        sqlite3.SQLITE_LOCKED: "it is locked; try again",
        sqlite3.SQLITE_FULL: "the disk is full; make room and send the batch again under the same id",
        sqlite3.SQLITE_IOERR: "the disk cannot be written or read; check it and send the batch again under the same id",
        sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a copy, `auditkit verify` says what it proves",
        sqlite3.SQLITE_NOTADB: "the file is no SQLite database; name another file",
        sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check that its folder exists and may be written",
        sqlite3.SQLITE_READONLY: "the file may not be written; check its permissions",
    }
    return f"{words.get(code, 'the database refused')} ({error})"
