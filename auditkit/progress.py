"""How long jobs say where they are, without knowing whether anybody looks.

A job opens a stage, advances it, and closes it; what is shown is the business of the `Progress` it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

LONG = 100
"""Units from which on a stage also shows how many it does a second, and the time left."""

__all__ = ["Advance", "NullProgress", "Progress", "RichProgress"]


class Advance(Protocol):
    """Reports that ``n`` more units of a stage are done."""

    def __call__(self, n: int = 1) -> None:
        """Advance by ``n`` units."""
        ...


class Progress(Protocol):
    """What a job needs to report where it is."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` units (None: unknown); the context yields the callable that advances it."""
        ...


class NullProgress:
    """Says nothing."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Yield a callable that does nothing."""
        del name, total
        yield _ignore


class RichProgress:
    """Shows one line per stage on stderr; silent where stderr is not a terminal.

    Args:
        console: Where to draw; None makes one for stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = Console(stderr=True) if console is None else console

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Draw a bar (a spinner without ``total``) until the context closes; the finished line stays.

        A stage of many units also shows how many it does a second, and the time left.
        """
        from rich import progress as parts

        columns = (
            parts.SpinnerColumn(finished_text="[green]✓[/]"),
            parts.TextColumn("{task.description}", markup=False),
            parts.BarColumn(bar_width=24),
            parts.TimeElapsedColumn(),
        )
        if total is not None and total >= LONG:
            columns = (*columns, parts.TextColumn("{task.fields[rate]}", markup=False), parts.TimeRemainingColumn())
        with parts.Progress(*columns, console=self._console, disable=not self._console.is_terminal) as bars:
            task = bars.add_task(name, total=total, rate="")

            def step(n: int) -> None:
                bars.advance(task, n)
                bars.update(task, rate=_shown_rate(bars.tasks[0].speed))

            yield _advancer(step)
            bars.update(task, total=total or 1, completed=total or 1)


def _shown_rate(speed: float | None) -> str:
    return "" if speed is None else f"{speed:,.0f}/s"


def _ignore(n: int = 1) -> None:
    del n


def _advancer(advance: Callable[[int], None]) -> Advance:
    def step(n: int = 1) -> None:
        advance(n)

    return step
