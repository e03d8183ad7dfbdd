"""What the rows of every kind have in common: how a model is handed some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Span: TypeAlias = tuple[int, int]
"""The first of some consecutive rows, and the one behind the last."""


@dataclass(frozen=True)
class Batch:
    """Some consecutive rows as the model reads them.

    Attributes:
        start: The first of them.
        end: The one behind the last.
        values: What the model reads, one row for each of ``kept``; None where none can be read.
        kept: Rows that can be read.
        skipped: Rows that cannot, each with the reason.
        fatal: Why none of it may be used: a file is no longer what was hashed. Empty otherwise.
    """

    start: int
    end: int
    values: Any
    kept: tuple[int, ...]
    skipped: tuple[tuple[int, str], ...] = ()
    fatal: str = ""


class RowSource(Protocol):
    """Rows that a model can be asked about.

    Attributes:
        n_rows: Rows n.
        batch_rows: Rows that suit one step of the model.
        preprocessing: What is done to a row, where the model's fingerprint does not cover it.
        packages: Packages whose versions decide what a row turns into.
        unit: What people call the rows.
    """

    n_rows: int
    batch_rows: int
    preprocessing: str
    packages: tuple[str, ...]
    unit: str

    def hash_rows(self) -> str:
        """SHA-256 over the content of all rows, in order."""
        ...

    def batches(self, spans: Sequence[Span], *, workers: int) -> Iterator[Batch]:
        """The rows of every span, in order."""
        ...
