"""Where a stream keeps its state and the ledger of what it released: memory, SQLite, or PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from auditkit.state_store.base import StateStore, Transaction
from auditkit.state_store.memory_store import MemoryStore
from auditkit.state_store.verification import open_ledger, verify_ledger

__all__ = ["MemoryStore", "StateStore", "Transaction", "open_ledger", "open_store", "verify_ledger"]


def open_store(place: str | Path | None) -> StateStore:
    """Open a store.

    Args:
        place: A file for SQLite, a URL such as ``postgresql+psycopg://user@host/name``, or None for memory only.

    Returns:
        The store; it is made where it does not exist.

    Raises:
        StoreError: It cannot be opened, or is no store of this version.
        MissingExtraError: A URL was given and SQLAlchemy is not installed.
    """
    if place is None:
        return MemoryStore()
    if "://" in str(place):
        from auditkit.state_store.sql_store import SqlStore

        return SqlStore(str(place))
    from auditkit.state_store.sqlite_store import SqliteStore

    return SqliteStore(Path(place))
