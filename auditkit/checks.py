"""What a verification reports, whether of a run's folder or of a ledger."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was verified.

    Attributes:
        name: What was looked at.
        passed: Whether it is as it should be.
        detail: What was found, in words.
    """

    name: str
    passed: bool
    detail: str
