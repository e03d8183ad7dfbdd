"""What an engine is: a table whose columns have safe aliases, and a way to ask it one SQL question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from auditkit.decision_rules import Cut
from auditkit.moments import Moments

Kind = Literal["integer", "number", "boolean", "text", "other"]

SOURCE = "auditkit_rows"
"""The view that every statement reads from; its columns are called c0, c1, … whatever the table calls them."""


class OutOfRangeError(Exception):
    """A number could not be written as a 64-bit integer: it is NaN, infinite, or larger than the sample foretold."""


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        alias: What statements call it; made by auditkit, so that no name of the caller's ever enters a statement.
        kind: What it holds.
        type_name: Its type in the engine's own words, for messages.
        categories: Values that it may have, where the table declares them (a categorical column), also unused ones.
    """

    alias: str
    kind: Kind
    type_name: str
    categories: tuple[Hashable, ...] | None = None


class Engine(ABC):
    """A table that answers aggregations.

    Attributes:
        names: The table's column names, in order.
        source: The table in words, for messages.
        files: The files it is read from; empty for a table in memory.
        ordered: Whether its rows have an order, so that a row can be pointed at by number.
    """

    names: tuple[str, ...]
    source: str
    files: tuple[str, ...] = ()
    ordered: bool = True

    @abstractmethod
    def bind(self, names: Iterable[str]) -> Mapping[str, Column]:
        """Make the view ``SOURCE`` over the named columns.

        Args:
            names: Columns that statements will read; each is in ``self.names``.

        Returns:
            Name → column.
        """

    @abstractmethod
    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a statement's answer.

        Args:
            statement: SQL over ``SOURCE``; holds nothing that the caller wrote.
            parameters: Values of its question marks.

        Returns:
            One tuple per row.

        Raises:
            OutOfRangeError: A number does not fit the integer it is cast to.
            InputError: The table cannot be read.
        """

    @abstractmethod
    def keep(self, statement: str, parameters: Sequence[Any] = ()) -> str:
        """Keep a statement's answer where the rows are, for further statements; one at a time.

        Args:
            statement: As `query`.
            parameters: As `query`.

        Returns:
            What to select from.

        Raises:
            OutOfRangeError: As `query`.
            InputError: As `query`.
        """

    @abstractmethod
    def integer(self, expression: str) -> str:
        """SQL that rounds an expression to the nearest 64-bit integer, ties to even, or raises."""

    @abstractmethod
    def integer_total(self, expression: str) -> str:
        """SQL that sums an expression, rounded as by `integer`, without overflow."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the table."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, eq=False)
class TableScan:
    """What was read from a table.

    Attributes:
        moments: The sums per cell.
        counts: Rows by value of every attribute and stratum.
        label_mean: Mean label, by weight; None without labels.
        files: The files read; empty for a table in memory.
        sha256: Hash of the file's bytes, or of the list of the files' hashes; None for a table in memory.
        n_rows: Number of rows.
        cut: Where the decision rule cut the scores; None without a rule.
        bins: The moments by bin of the score; None where scores or labels are no probabilities, or rows are clustered.
    """

    moments: Moments
    counts: dict[str, dict[Hashable, int]]
    label_mean: float | None
    files: tuple[str, ...]
    sha256: str | None
    n_rows: int
    cut: Cut | None
    bins: Moments | None
