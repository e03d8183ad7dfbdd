"""Group commit: the requests that arrive while one transaction is written share the next one.

One thread owns the store. The slower the disk, the more requests each commit pays for, so durable single-row requests
cost a share of a sync each instead of a sync.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from auditkit.errors import AuditkitError, StoreError
from auditkit.online_enforcer import ObserveResult, OnlineEnforcer, Request, StepResult

T = TypeVar("T")

MAX_GROUP = 512
"""Requests that share a commit at most, so that none waits long."""

COMPANY_SECONDS = 0.001
"""How long a group smaller than the one before waits for clients that were just answered to come back."""

Result = StepResult | ObserveResult | AuditkitError

Done = Callable[[Result | None, Exception | None], None]
"""Called with the result of a request once it is on the disk, or with the error for which it was not applied."""


class Overloaded(StoreError):  # noqa: N818 - a state of the service, not a mistake of the caller
    """More requests wait than the service takes."""


class GroupCommitter:
    """Applies requests in the order of their arrival, many to a commit.

    Args:
        stream: What enforces.
        max_waiting: Requests that may wait; those beyond are turned away.
    """

    def __init__(self, stream: OnlineEnforcer, *, max_waiting: int) -> None:
        self.stream, self.max_waiting = stream, max_waiting
        self._waiting: deque[tuple[Request, Done]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="auditkit-commit")
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._last = 1
        self._company: asyncio.Future[None] | None = None
        self.commits = 0

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def enqueue(self, request: Request, done: Done) -> None:
        """Apply a request with the next commit; must be called on the loop, where ``done`` is called too.

        Args:
            request: What is applied, after all that were enqueued before.
            done: Told the result once it is on the disk. It must not raise.

        Raises:
            Overloaded: The service is shutting down, or too many requests wait.
        """
        if self._closed or len(self._waiting) >= self.max_waiting:
            raise Overloaded("the service is shutting down" if self._closed else "too many requests wait; try again")
        self._waiting.append((request, done))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        elif self._company is not None and len(self._waiting) >= self._last:
            self._go_on()

    async def submit(self, request: Request) -> Result:
        """Apply a request; returns when it is on the disk.

        Raises:
            StoreError: It could not be written, and was not applied; or too many requests wait.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(result: Result | None, error: Exception | None) -> None:
            if future.done():  # the client may have gone; what was applied stays in the ledger under its id
                return
            if result is None:
                future.set_exception(error or AssertionError("a request ended without a result"))
            else:
                future.set_result(result)

        self.enqueue(request, done)
        return await future

    async def run(self, work: Callable[[], T]) -> T:
        """Run something else on the thread that owns the store."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                if len(self._waiting) < self._last and not self._closed:
                    await self._wait_for_company()
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP))]
                self._last = len(group)
                await self._commit(group)
        finally:
            self._task = None

    async def _wait_for_company(self) -> None:
        """Let as many requests as shared the last commit share the next: a commit costs as much as several steps."""
        loop = asyncio.get_running_loop()
        self._company = loop.create_future()
        timer = loop.call_later(COMPANY_SECONDS, self._go_on)
        await self._company
        timer.cancel()
        self._company = None

    def _go_on(self) -> None:
        if self._company is not None and not self._company.done():
            self._company.set_result(None)

    async def _commit(self, group: list[tuple[Request, Done]]) -> None:
        requests = [request for request, _ in group]
        try:
            results = await self.run(lambda: self.stream.apply(requests))
        except Exception as error:
            for _, done in group:
                done(None, error)
            return
        self.commits += 1
        for (_, done), result in zip(group, results, strict=True):
            done(result, None)

    async def close(self) -> None:
        """Take no more, finish what waits, and stop the thread."""
        self._closed = True
        if self._task is not None:
            await self._task
        self._thread.shutdown(wait=True)
