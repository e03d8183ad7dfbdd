"""The store for several machines: PostgreSQL through SQLAlchemy, one row locked by the worker whose turn it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any, TypeVar

from auditkit._extras import import_extra
from auditkit.errors import StoreError
from auditkit.state_store import sql
from auditkit.state_store.base import Head, LedgerEntry, StateStore, Transaction, check_same_config
from auditkit.streaming import StreamConfig, StreamState

T = TypeVar("T")


class SqlStore(StateStore):
    """A store in a database server.

    Every transaction locks the row of the stream before it reads, so workers take turns and none applies a batch to an
    old state. The server's own durability applies: with PostgreSQL's defaults a commit is on the disk.

    Args:
        url: As SQLAlchemy writes them, e.g. ``postgresql+psycopg://user@host/name``.

    Raises:
        StoreError: The server cannot be reached.
        MissingExtraError: SQLAlchemy is not installed.
    """

    def __init__(self, url: str) -> None:
        self._sqlalchemy = import_extra("sqlalchemy")
        self._lock = RLock()
        self._cached: tuple[Head, StreamState] | None = None
        self._statements: dict[str, Any] = {}
        with self._explained():
            self.engine = self._sqlalchemy.create_engine(url, pool_pre_ping=True)
        self.place = self.engine.url.render_as_string(hide_password=True)
        if self.engine.dialect.name != "postgresql":
            raise StoreError(f"store {self.place}: a URL must name a PostgreSQL server; give a file name for SQLite")

    def start(self, config: StreamConfig) -> None:
        """Begin a stream, or go on with the one that is there."""
        with self._held() as execute:
            execute("SELECT pg_advisory_xact_lock(7305081)", {})  # two workers may start at the same moment
            for table in sql.TABLES:
                execute(table.format(whole="BIGINT"), {})
            found = execute("SELECT schema, config FROM stream WHERE id = 1", {})
            if not found:
                begin = {"schema": sql.STORE_SCHEMA, "config": json.dumps(config.to_dict()),
                         "state": json.dumps(StreamState().to_dict()), **Head()._asdict()}  # fmt: skip
                execute(sql.BEGIN_STREAM, begin)
            elif found[0][0] != sql.STORE_SCHEMA:
                raise StoreError(
                    f"store {self.place} is of schema {found[0][0]!r}; this version needs {sql.STORE_SCHEMA!r}"
                )
            else:
                check_same_config(found[0][1], config, self.place)

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run some work on the newest state and commit it, or leave everything as it was."""
        with self._lock:
            with self._held() as execute:
                head = sql.read_head(execute, lock=" FOR UPDATE")
                if self._cached is None or self._cached[0] != head:
                    self._cached = head, sql.read_state(execute)
                transaction = sql.SqlTransaction(execute, self._cached[1], head)
                result = work(transaction)
                transaction.finish()
            self._cached = transaction.head, transaction.state
            return result

    def read_state(self) -> StreamState:
        """The newest committed state."""
        with self._held() as execute:
            return sql.read_state(execute)

    def read_config(self) -> StreamConfig:
        """What the stream was started with."""
        with self._held() as execute:
            found = execute("SELECT config FROM stream WHERE id = 1", {})
        if not found:
            raise StoreError(f"store {self.place} holds no stream")
        return StreamConfig.from_dict(json.loads(found[0][0]))

    def read_head(self) -> Head:
        """The end of the ledger as the stream has it."""
        with self._held() as execute:
            return sql.read_head(execute)

    def read_entries(self) -> Iterator[LedgerEntry]:
        """The ledger in order."""
        with self._held() as execute:
            yield from sql.read_entries(execute)

    def check_file(self) -> str:
        """The server looks after its own files."""
        return "ok"

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    @contextmanager
    def _held(self) -> Iterator[sql.Execute]:
        """One transaction; rolled back on any error."""
        with self._explained(), self.engine.begin() as connection:

            def execute(statement: str, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
                prepared = self._statements.setdefault(statement, self._sqlalchemy.text(statement))
                result = connection.execute(prepared, dict(values))
                return result.fetchall() if result.returns_rows else []

            yield execute

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._sqlalchemy.exc.SQLAlchemyError as error:
            said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            place = getattr(self, "place", "")
            raise StoreError(
                f"store {place}: the database refused ({said}); whether a commit that was under way counts is answered "
                "by sending the batch again under the same id"
            ) from error
