"""`OnlineEnforcer`: enforce criteria on a stream of scores, batch by batch, with a state that survives the process.

    stream = OnlineEnforcer([ECP("sex", tolerance=0.02)], store="state.db")
    fair = stream.step(scores, {"sex": sex}, batch_id="2024-06-07/0001").scores
    stream.observe(labels, batch_id="2024-06-07/0001")

A batch id is applied exactly once: state, ledger and answer are committed together before the answer is returned, and
the same request under the same id is answered from the ledger. See docs/streaming.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from auditkit._typing import FloatArray, VectorLike
from auditkit.criteria import Criterion
from auditkit.errors import AuditkitError, InputError
from auditkit.state_store import StateStore, Transaction, open_store
from auditkit.streaming import (
    Bounds,
    GroupsLike,
    Rule,
    StreamBatch,
    StreamConfig,
    StreamReport,
    StreamState,
    check_labels,
    describe,
    keep_pending,
    make_batch,
    observe,
    step,
)

MAX_ID_LENGTH = 200


@dataclass(frozen=True, eq=False)
class StepResult:
    """What was released for one batch; also an array of the released scores.

    Attributes:
        scores: y, shape (n,), float64.
        batch_id: Under which the batch is in the ledger.
        replayed: Whether the answer is that of an earlier, identical request.
    """

    scores: FloatArray
    batch_id: str
    replayed: bool = False

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.scores, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.scores)


class StepRequest(NamedTuple):
    """A checked batch that waits to be released.

    Attributes:
        batch: The rows.
        batch_id: Under which they are released.
        labels: Labels at release, which only the scalar rule reads.
    """

    batch: StreamBatch
    batch_id: str
    labels: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class ObserveRequest:
    """Labels of a batch that was released before.

    Attributes:
        labels: One per row; NaN or None where unknown.
        batch_id: Of the batch.
    """

    labels: Any
    batch_id: str


Request = StepRequest | ObserveRequest


@dataclass(frozen=True)
class ObserveResult:
    """What became of late labels.

    Attributes:
        rows: Labels that were taken in.
        batch_id: Of the batch.
        replayed: Whether the same labels had arrived before.
    """

    rows: int
    batch_id: str
    replayed: bool = False


class OnlineEnforcer:
    """Online enforcement: scores and groups in, enforced scores out, batches of any size down to one row.

    The pooled rule releases ``clip(z + α_cell + repayment)`` so that every pooled gap stays within ε + band/√N; the
    scalar rule is the paper's, per batch. Which guarantee holds is stated in docs/streaming.md and by `report`.

    Args:
        criteria: What is enforced: ECP, EER, equalized odds, any groups, strata and intersections.
        store: A file (SQLite), a PostgreSQL URL, or None to keep the state in memory.
        bounds: (lb, ub) of every released score.
        rule: "pooled" or "scalar".
        repayment: κ: what earlier corrections missed is repaid over N/κ rows.
        band: The pooled gap that is aimed at is ε + band/√N, in the unit of the scores.
        min_labels: Labelled rows per group before a criterion that needs labels is enforced.
        window: Rows after which a row weighs 1/e in steering; None forgets nothing.
        hard_rows: b_τ of the scalar rule: batches from this size on are projected by the hard layer.
        eta: η₀ of the scalar rule.
        confidence: Of the intervals for the population.

    Raises:
        InputError: An argument is wrong, or the store holds a stream with other settings.
        StoreError: The store cannot be opened.
    """

    def __init__(
        self,
        criteria: Criterion | Sequence[Criterion],
        *,
        store: str | Path | None = None,
        bounds: Bounds | None = None,
        rule: Rule = "pooled",
        repayment: float = 4.0,
        band: float = 1.0,
        min_labels: int = 20,
        window: float | None = None,
        hard_rows: int | None = None,
        eta: float = 0.5,
        confidence: float = 0.95,
    ) -> None:
        listed = (criteria,) if isinstance(criteria, Criterion) else tuple(criteria)
        self.config = StreamConfig(
            listed, bounds or (None, None), rule, repayment, band, min_labels, window, hard_rows, eta, confidence
        )  # fmt: skip
        self.store: StateStore = open_store(store)
        self._columns, self._keeps = self.config.columns, self.config.needs_labels and rule == "pooled"
        try:
            self.store.start(self.config)
        except BaseException:
            self.store.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def state(self) -> StreamState:
        """The newest committed state."""
        return self.store.read_state()

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()

    def step(
        self, scores: VectorLike, groups: GroupsLike, *, batch_id: str | None = None, labels: VectorLike | None = None
    ) -> StepResult:
        """Release one batch.

        Args:
            scores: z, shape (n,), n ≥ 1.
            groups: `Groups`, or column name → one value per row.
            batch_id: Under which the batch is applied once; None makes one up.
            labels: Labels at release, for the scalar rule where a criterion needs them; never read by the pooled rule.

        Returns:
            The released scores.

        Raises:
            InputError: The batch is malformed, or other scores came before under this id.
            StoreError: The store cannot be written; nothing was applied.
        """
        request = self.make_step(scores, groups, batch_id=batch_id, labels=labels)
        return self.store.transact(lambda transaction: self._step(transaction, request))

    def observe(self, labels: VectorLike, *, batch_id: str) -> ObserveResult:
        """Take in the labels of a batch, whenever they arrive.

        Args:
            labels: One per row of the batch, in its order; None or NaN for a row whose label will never be known.
            batch_id: Of the batch.

        Returns:
            How many were taken in.

        Raises:
            InputError: No criterion needs labels, no such batch, other labels came before, or too few of them.
            StoreError: The store cannot be written; nothing was applied.
        """
        return self.store.transact(
            lambda transaction: self._observe(transaction, ObserveRequest(labels, _check_id(batch_id)))
        )

    def report(self) -> StreamReport:
        """Pooled gaps, their bounds, intervals for the population, and alarms, as the stream stands."""
        return describe(self.state, self.config)

    def make_step(
        self, scores: VectorLike, groups: GroupsLike, *, batch_id: str | None = None, labels: VectorLike | None = None
    ) -> StepRequest:
        """Check a batch without releasing it, for `apply`.

        Raises:
            InputError: The batch is malformed.
        """
        batch = make_batch(scores, groups, self._columns)
        late = None if labels is None else check_labels(labels, batch.n_rows)
        return StepRequest(batch, _new_id() if batch_id is None else _check_id(batch_id), late)

    def apply(
        self, requests: Sequence[Request], *, stop: bool = False
    ) -> list[StepResult | ObserveResult | AuditkitError]:
        """Apply many requests in one transaction, in order: one commit pays for all of them.

        Args:
            requests: What `make_step` made, and labels.
            stop: Whether to leave out what comes after a request that is refused.

        Returns:
            One result per request; an error in place of the result of a request that was refused, which changed
            nothing. With ``stop`` such an error is the last.

        Raises:
            StoreError: The store cannot be written; nothing was applied.
        """

        def work(transaction: Transaction) -> list[StepResult | ObserveResult | AuditkitError]:
            results: list[StepResult | ObserveResult | AuditkitError] = []
            transaction.expect("step", [each.batch_id for each in requests if isinstance(each, StepRequest)])
            for request in requests:
                results.append(self._try(transaction, request))
                if stop and isinstance(results[-1], AuditkitError):
                    break
            return results

        return self.store.transact(work)

    def _try(self, transaction: Transaction, request: Request) -> StepResult | ObserveResult | AuditkitError:
        try:
            if isinstance(request, StepRequest):
                return self._step(transaction, request)
            return self._observe(transaction, request)
        except InputError as error:
            return error

    def _step(self, transaction: Transaction, request: StepRequest) -> StepResult:
        batch, batch_id = request.batch, request.batch_id
        payload = batch.fingerprint()
        if request.labels is not None:
            payload = hashlib.sha256(payload.encode() + request.labels.tobytes()).hexdigest()
        if earlier := transaction.find("step", batch_id):
            if earlier.payload != payload:
                raise InputError(
                    f"batch_id {batch_id!r} was used before for another batch; give every batch its own id"
                )
            return StepResult(np.array(earlier.answer, dtype=np.float64), batch_id, replayed=True)
        state, release = step(transaction.state, batch, self.config, labels=request.labels)
        if self._keeps:
            transaction.keep_pending(batch_id, keep_pending(state, batch, release))
        answer = release.scores.copy()  # the caller may write to what is returned
        transaction.append("step", batch_id, payload=payload, answer=answer, entry=release.entry, state=state)
        return StepResult(release.scores, batch_id)

    def _observe(self, transaction: Transaction, request: ObserveRequest) -> ObserveResult:
        batch_id = request.batch_id
        if not self._keeps:
            raise InputError("no criterion of this stream takes labels late; observe serves EER and criteria given the "
                             'label, under rule="pooled"')  # fmt: skip
        if earlier := transaction.find("observe", batch_id):
            labels = check_labels(request.labels, len(np.atleast_1d(request.labels)))
            if earlier.payload != _hash_labels(labels):
                raise InputError(f"other labels arrived before for batch_id {batch_id!r}; what was learned stays")
            return ObserveResult(int(np.asarray(earlier.answer)), batch_id, replayed=True)
        rows = transaction.take_pending(batch_id)
        if rows is None:
            raise InputError(f"there is no batch {batch_id!r} that waits for labels; pass the batch_id of its step")
        try:
            labels = check_labels(request.labels, len(rows.scores))
        except InputError:
            transaction.keep_pending(batch_id, rows)
            raise
        state, entry = observe(transaction.state, rows, labels, self.config)
        transaction.append(
            "observe", batch_id, payload=_hash_labels(labels), answer=entry["rows"], entry=entry, state=state
        )  # fmt: skip
        return ObserveResult(entry["rows"], batch_id)


def read_labels(values: Sequence[float | None]) -> FloatArray:
    """Labels from JSON, where null stands for a label that is not known."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _hash_labels(labels: FloatArray) -> str:
    canonical = np.where(np.isnan(labels), np.nan, labels)
    return hashlib.sha256(np.ascontiguousarray(canonical).tobytes()).hexdigest()


def _new_id() -> str:
    return os.urandom(16).hex()


def _check_id(batch_id: Any) -> str:
    if not isinstance(batch_id, str) or not 0 < len(batch_id) <= MAX_ID_LENGTH:
        raise InputError(f"batch_id must be text of 1 to {MAX_ID_LENGTH} characters; got {batch_id!r}")
    if "\x00" in batch_id or not batch_id.isprintable():
        raise InputError("batch_id must be printable text")
    return batch_id
