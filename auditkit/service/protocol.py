"""A connection that does not parse twice what a client sends with every request.

uvicorn parses every request, starts a task for it and passes messages between the two: for a single-row step, more work
than the step. A client that keeps its connection sends the same head, byte for byte, over and over: only the length of
the body varies. So a head is parsed once, by uvicorn's parser, and remembered if it led to a step that was let in;
when a whole request with a remembered head arrives, its body goes straight to the service and the answer straight to
the socket. Every other request, and every other connection, is served by uvicorn as it is. Answers are the same bytes.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from auditkit._extras import import_extra
from auditkit.service.endpoints import Answer

MOST_HEADS = 64
"""Heads that a connection remembers: one for every length of a body, where nothing else varies."""

LONGEST_HEAD = 4096
_END = b"\r\n\r\n"
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


_UvicornsProtocol: Any = object
"""Stands for the class that is mixed in only when uvicorn is there."""


class StepConnection(_UvicornsProtocol):
    """One connection; mixed into uvicorn's protocol by `make_protocol`."""

    service: Any
    path: str

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lengths: dict[bytes, int] = {}
        """Remembered heads, and how long the body is that each announces."""
        self.waits = self.closes = False
        """Whether an answer is awaited that uvicorn knows nothing of; whether it is the last."""
        self.held: list[bytes] = []
        self.rendered: tuple[Any, bytes] = (None, b"")

    def data_received(self, data: bytes) -> None:
        """Answer a request with a remembered head, or leave it to uvicorn."""
        if self.waits:  # the client does not wait for its answer: one after the other
            self.held.append(data)
            self.flow.pause_reading()
            return
        between = self._is_between()
        end = data.find(_END, 0, LONGEST_HEAD) + len(_END)
        if between and self.lengths.get(data[:end]) == len(data) - end and not self.flow.write_paused:
            self._unset_keepalive_if_required()
            self.waits = True
            self.service.answer_step(data[end:], self.deliver)
            return
        super().data_received(data)
        if between and end >= len(_END) and len(self.lengths) < MOST_HEADS and self._is_plain_step(data[end:]):
            self.lengths[data[:end]] = len(data) - end

    def _is_between(self) -> bool:
        """Whether the parser waits for a new request and nothing is under way."""
        cycle = self.cycle
        return cycle is None or (cycle.response_complete and not cycle.more_body and self.scope is cycle.scope)

    def _is_plain_step(self, body: bytes) -> bool:
        """Whether what was just parsed is one step with exactly this body, and would be answered as such again."""
        cycle, scope = self.cycle, self.scope
        return (
            cycle is not None
            and cycle.scope is scope
            and not (cycle.more_body or cycle.response_complete or cycle.waiting_for_100_continue)
            and cycle.keep_alive
            and bytes(cycle.body) == body
            and (scope["method"], scope["path"], scope["http_version"]) == ("POST", self.path, "1.1")
            and self.service.approves(scope["headers"], len(body))
        )

    def deliver(self, answer: Answer) -> None:
        """Send an answer, then take what came meanwhile."""
        self.waits = False
        if self.transport.is_closing():
            return
        self.transport.write(self._render(answer))
        if self.closes:
            self.transport.close()
        self.on_response_complete()
        held, self.held = b"".join(self.held), []
        if held and not self.transport.is_closing():
            self.data_received(held)

    def _render(self, answer: Answer) -> bytes:
        """The bytes of an answer, as uvicorn writes them."""
        defaults = self.server_state.default_headers  # a new list every second, with the date
        if self.rendered[0] is not defaults:
            self.rendered = defaults, b"".join(b"%b: %b\r\n" % header for header in defaults)
        lines = b"".join([b"%b: %b\r\n" % header for header in answer.all_headers()])
        last = b"connection: close\r\n" if self.closes else b""
        return b"".join((_STATUS[answer.status], self.rendered[1], lines, last, b"\r\n", answer.body))

    def shutdown(self) -> None:
        """Close once what is under way was answered."""
        if self.waits:
            self.closes = True
        else:
            super().shutdown()


def make_protocol(service: Any, path: str) -> type:
    """The protocol of the connections of one service, for uvicorn.

    Args:
        service: With ``answer_step(body, deliver)`` and ``approves(headers, length)``.
        path: Where steps are sent.

    Returns:
        A class that uvicorn makes an object of for every connection.

    Raises:
        MissingExtraError: uvicorn is not installed.
    """
    base = import_extra("uvicorn.protocols.http.httptools_impl").HttpToolsProtocol
    return type("StepProtocol", (StepConnection, base), {"service": service, "path": path})
