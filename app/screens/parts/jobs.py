"""Jobs that run beside the pages: what they report can be looked at from any page, also after a reload."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import auditkit as ak

_SECONDS_BETWEEN = 0.15
_ONE_AT_A_TIME = threading.Lock()  # holds nobody's data


class Advance(Protocol):
    """Reports that ``n`` more units are done."""

    def __call__(self, n: int = 1) -> None:
        """Advance by ``n`` units."""


class _Cancelled(BaseException):
    """Leaves a job; not an Exception, so that nothing in the library takes it for a failure to handle."""


class Job:
    """Something that runs in a thread of its own.

    Args:
        kind: "audit", "tune", "compare", "stream" or "upload".
        work: What is done; is given the job to report to, and stops where it does so once the job is cancelled.

    Attributes:
        text: What it is doing, in words.
        share: How far that is, in [0, 1].
        state: "running", "done", "cancelled" or "failed".
        error: Why it failed.
    """

    def __init__(self, kind: str, work: Callable[[Job], Any]) -> None:
        self.kind = kind
        self.text, self.share = "starting", 0.0
        self.state = "running"
        self.error: Exception | None = None
        self._work = work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"auditkit-{kind}", daemon=True)

    @classmethod
    def interrupted(cls, kind: str) -> Job:
        """What is left of a job that ran when the app was stopped."""
        job = cls(kind, lambda _: None)
        job.state = "failed"
        job.error = ak.AuditkitError("the app was restarted while this ran, and nothing of it was kept; run it again")
        return job

    @property
    def is_running(self) -> bool:
        """Whether it is not over."""
        return self.state == "running"

    def start(self) -> Job:
        """Begin."""
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Ask it to stop; it does at its next report."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it is over."""
        self._thread.join(seconds)

    def report(self, text: str, share: float = 0.0) -> None:
        """Say how far it is; raises to leave the job where it was cancelled."""
        if self._stop.is_set():
            raise _Cancelled
        self.text, self.share = text, min(1.0, share)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """A stage of the library's progress."""
        done = 0
        self.report(name)

        def advance(n: int = 1) -> None:
            nonlocal done
            done += n
            self.report(f"{name}: {done} of {total}" if total else name, done / total if total else 0.0)

        yield advance
        self.report(f"{name}: done; the next step follows", 1.0)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One job at a time: training seeds the process's random numbers, and two would share the cores anyway."""
        while not _ONE_AT_A_TIME.acquire(timeout=_SECONDS_BETWEEN):
            self.report("waiting for another visitor's run")
        try:
            yield
        finally:
            _ONE_AT_A_TIME.release()

    def _run(self) -> None:
        try:
            self._work(self)
        except _Cancelled:
            self.state = "cancelled"
        except ak.AuditkitError as error:
            self.error, self.state = error, "failed"
        except Exception as error:
            self.error, self.state = error, "failed"
        else:
            self.state = "done"
