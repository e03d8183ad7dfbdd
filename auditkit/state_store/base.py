"""What a store does: a transaction reads the state, applies batches once each, and commits all or nothing."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from auditkit._typing import FloatArray
from auditkit.errors import InputError
from auditkit.streaming import PendingRows, StreamConfig, StreamState

Kind = Literal["step", "observe"]
T = TypeVar("T")

Answer = FloatArray | Sequence[float] | int
"""What a request was answered: released scores, or how many labels were taken in."""

_encode = json.JSONEncoder(separators=(",", ":")).encode
_quote = json.encoder.encode_basestring

GENESIS = hashlib.sha256(b"auditkit.ledger/1").hexdigest()
"""What the first entry of a ledger follows."""


class LedgerEntry(NamedTuple):
    """One line of a ledger.

    Attributes:
        sequence: Its number, from 1 on without a gap.
        kind: "step" or "observe".
        batch_id: Which batch.
        payload: SHA-256 of the request.
        answer: What was returned, as JSON.
        entry: Counts, sums and corrections, as JSON.
        at: When it was written, UTC; never earlier than the entry before, whatever the clock does.
        previous: Hash of the entry before.
        hash: Hash of this one.
    """

    sequence: int
    kind: Kind
    batch_id: str
    payload: str
    answer: str
    entry: str
    at: str
    previous: str
    hash: str

    def expected_hash(self) -> str:
        """The hash that the entry should carry."""
        return _hash(
            self.previous, self.sequence, self.kind, self.batch_id, self.payload, self.answer, self.entry, self.at
        )


class Head(NamedTuple):
    """The end of a ledger: number, hash and time of the last entry."""

    sequence: int = 0
    hash: str = GENESIS
    at: str = ""


def _hash(
    previous: str, sequence: int, kind: str, batch_id: str, payload: str, answer: str, entry: str, at: str
) -> str:
    """SHA-256 of the parts of an entry as a JSON array, the answer by its own hash."""
    answered = hashlib.sha256(answer.encode()).hexdigest()
    parts = (_quote(previous), str(sequence), *map(_quote, (kind, batch_id, payload, answered, entry, at)))
    return hashlib.sha256(f"[{','.join(parts)}]".encode()).hexdigest()


def write_time(head: Head) -> str:
    """Now, UTC, or the time of the last entry where the clock went back."""
    return max(datetime.now(UTC).isoformat(timespec="microseconds"), head.at)


def following_entry(
    head: Head, kind: Kind, batch_id: str, *, payload: str, answer: Answer, entry: Any, at: str
) -> LedgerEntry:
    """The entry that comes after ``head``."""
    text = _encode(entry)
    # as text a list of finite numbers is JSON, and this is the quicker way to write it
    said = str(answer) if isinstance(answer, int) else str(np.asarray(answer).tolist())
    number = head.sequence + 1
    digest = _hash(head.hash, number, kind, batch_id, payload, said, text, at)
    return LedgerEntry(number, kind, batch_id, payload, said, text, at, head.hash, digest)


class Answered(NamedTuple):
    """An earlier request under the same id: the hash of its payload and what it was answered."""

    payload: str
    answer: Answer


class Transaction(ABC):
    """What may be done while a store is held; nobody sees any of it before the commit."""

    state: StreamState

    def expect(self, kind: Kind, batch_ids: Sequence[str]) -> None:  # noqa: B027 - only a hint
        """Say that `find` will be asked for these ids, so that a store can look them up at once."""

    @abstractmethod
    def find(self, kind: Kind, batch_id: str) -> Answered | None:
        """The earlier request under this id."""

    @abstractmethod
    def append(
        self, kind: Kind, batch_id: str, *, payload: str, answer: Answer, entry: Any, state: StreamState
    ) -> None:
        """Add an entry to the ledger, and the state that it leads to."""

    @abstractmethod
    def keep_pending(self, batch_id: str, rows: PendingRows) -> None:
        """Remember rows until their labels arrive."""

    @abstractmethod
    def take_pending(self, batch_id: str) -> PendingRows | None:
        """The remembered rows of a batch, which are then forgotten; None where there are none."""


class StateStore(ABC):
    """A state and its ledger."""

    @abstractmethod
    def start(self, config: StreamConfig) -> None:
        """Begin a stream, or go on with the one that is there.

        Raises:
            InputError: The store holds a stream that enforces something else.
        """

    @abstractmethod
    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run some work on the newest state and commit it, or leave everything as it was.

        Raises:
            StoreError: The store cannot be read or written.
        """

    @abstractmethod
    def read_state(self) -> StreamState:
        """The newest committed state."""

    def close(self) -> None:  # noqa: B027 - memory has nothing to close
        """Let go of files and connections."""


def check_same_config(stored: str, wanted: StreamConfig, place: str) -> None:
    """Raise when a store was started with another configuration."""
    have, want = json.loads(stored), json.loads(json.dumps(wanted.to_dict()))
    differing = [name for name in want if have.get(name) != want[name]]
    if differing:
        raise InputError(
            f"store {place} holds a stream with other {', '.join(differing)}; what a stream promises cannot change on "
            "its way: give the new stream a store of its own, or pass the same settings"
        )
