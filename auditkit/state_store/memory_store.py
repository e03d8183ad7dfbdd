"""A store that lasts as long as the process: the same interface, nothing on disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from auditkit.state_store.base import Answer, Answered, Kind, StateStore, Transaction
from auditkit.streaming import PendingRows, StreamConfig, StreamState

T = TypeVar("T")

REMEMBERED = 100_000
"""Answers that are kept for requests that repeat an id; the oldest go first."""


class MemoryStore(StateStore, Transaction):
    """The state of a stream in memory, with the latest answers but without a ledger."""

    def __init__(self) -> None:
        self.state = StreamState()
        self._answers: OrderedDict[tuple[Kind, str], Answered] = OrderedDict()
        self._pending: dict[str, PendingRows] = {}

    def start(self, config: StreamConfig) -> None:
        """Nothing to do: the stream begins with the process."""

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run the work; every request changes the state last, so one that fails changes nothing."""
        return work(self)

    def read_state(self) -> StreamState:
        """The state."""
        return self.state

    def find(self, kind: Kind, batch_id: str) -> Answered | None:
        """The earlier request under this id, unless it is long ago."""
        return self._answers.get((kind, batch_id))

    def append(
        self, kind: Kind, batch_id: str, *, payload: str, answer: Answer, entry: Any, state: StreamState
    ) -> None:
        """Remember the answer and the state."""
        del entry
        self._answers[kind, batch_id] = Answered(payload, answer)
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        self.state = state

    def keep_pending(self, batch_id: str, rows: PendingRows) -> None:
        """Remember rows until their labels arrive."""
        self._pending[batch_id] = rows

    def take_pending(self, batch_id: str) -> PendingRows | None:
        """The remembered rows of a batch, which are then forgotten."""
        return self._pending.pop(batch_id, None)
