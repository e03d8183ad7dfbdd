"""Requests and answers straight on ASGI: Starlette's objects would add half a step to a single-row request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

JSON = b"application/json"

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, and values."""


def find_header(headers: Headers, name: bytes) -> bytes | None:
    """The first header of this name, in lower case; None where there is none."""
    for key, value in headers:
        if key == name:
            return value
    return None


class Gone(Exception):  # noqa: N818 - nothing went wrong here
    """The client went away before its request had arrived."""


class Request:
    """What a handler may ask of a request."""

    __slots__ = ("_receive", "headers")

    def __init__(self, scope: Any, receive: Any) -> None:
        self.headers, self._receive = scope["headers"], receive

    async def read(self, most: int) -> bytes:
        """The body, cut off as soon as it is longer than ``most``.

        Raises:
            Gone: The client went away.
        """
        body = b""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            body += message.get("body", b"")
            if len(body) > most or not message.get("more_body", False):
                return body


class Answer(NamedTuple):
    """What a request is answered with."""

    body: bytes
    status: int = 200
    media: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers with those of the body."""
        return [(b"content-length", b"%d" % len(self.body)), (b"content-type", self.media), *self.headers]


Deliver = Callable[[Answer], None]
"""What an answer is handed to."""


class Endpoint:
    """An ASGI application that answers with what a handler returns."""

    def __init__(self, handler: Callable[[Request], Awaitable[Answer]]) -> None:
        self.handler = handler

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        try:
            answer = await self.handler(Request(scope, receive))
        except Gone:
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.all_headers()})
        await send({"type": "http.response.body", "body": answer.body})


class Shortcut:
    """Takes the requests that come by the thousand past the framework, which would cost as much as a step."""

    def __init__(self, app: Any, path: str, endpoint: Endpoint) -> None:
        self.app, self.path, self.endpoint = app, path, endpoint

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "http" and scope["path"] == self.path and scope["method"] == "POST":
            await self.endpoint(scope, receive, send)
        else:
            await self.app(scope, receive, send)
