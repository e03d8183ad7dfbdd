"""Every exception auditkit raises, in one tree.

AuditkitError
├── InputError             a value the caller passed is wrong (also a ValueError)
│   ├── SchemaError        a column or a field of a file is missing or has the wrong kind
│   └── UntrustedFileError a file that could run code when it is loaded was refused
├── InfeasibleError        no scores satisfy the criteria together with the bounds
├── InsufficientDataError  the data cannot support the guarantee that was asked for
├── ModelChangedError      a frozen model is not what it was when it was loaded
├── SolverError            a solver stopped without reaching its accuracy
├── StoreError             the durable store of a stream cannot be read or written; nothing was released
└── MissingExtraError      an optional package is not installed (also an ImportError)
"""

from __future__ import annotations

__all__ = [
    "AuditkitError",
    "InfeasibleError",
    "InputError",
    "InsufficientDataError",
    "MissingExtraError",
    "ModelChangedError",
    "SchemaError",
    "SolverError",
    "StoreError",
    "UntrustedFileError",
]


class AuditkitError(Exception):
    """Base of every exception that auditkit raises on purpose."""


class InputError(AuditkitError, ValueError):
    """An argument is wrong; the message names it, what arrived and what to do instead."""


class SchemaError(InputError):
    """A column or field is missing or has the wrong kind; the message lists what is there."""


class UntrustedFileError(InputError):
    """Loading the file could execute code that it contains."""


class InfeasibleError(AuditkitError):
    """No scores satisfy every criterion within the bounds.

    Attributes:
        criteria: Names of the criteria in conflict.
        smallest_relaxation: How much every tolerance must grow for a solution to exist, in score units.
    """

    def __init__(
        self, message: str, *, criteria: tuple[str, ...] = (), smallest_relaxation: float = float("nan")
    ) -> None:
        super().__init__(message)
        self.criteria = criteria
        self.smallest_relaxation = smallest_relaxation


class InsufficientDataError(AuditkitError):
    """There are too few rows for the guarantee asked for.

    Attributes:
        rows_needed: Estimated number of rows that would be enough, by group.
    """

    def __init__(self, message: str, *, rows_needed: dict[str, int] | None = None) -> None:
        super().__init__(message)
        self.rows_needed = rows_needed or {}


class SolverError(AuditkitError):
    """A solver stopped before it reached its accuracy; nothing it computed is returned."""


class ModelChangedError(AuditkitError):
    """A parameter or buffer of a frozen model has changed since it was loaded."""


class StoreError(AuditkitError):
    """The store of a stream cannot be read or written; nothing of the request was applied, and it may be repeated."""


class MissingExtraError(AuditkitError, ImportError):
    """An optional package is needed; the message holds the pip command that installs it."""
