"""The application: validates, authorises, counts, and hands every request to the group commit."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pydantic

from auditkit._extras import import_extra
from auditkit.errors import AuditkitError, InputError, StoreError
from auditkit.online_enforcer import ObserveRequest, ObserveResult, OnlineEnforcer, StepRequest, StepResult
from auditkit.service.committing import GroupCommitter, Result
from auditkit.service.endpoints import JSON, Answer, Deliver, Endpoint, Gone, Headers, Request, find_header
from auditkit.service.messages import ObserveBody, make_step_body
from auditkit.service.metrics import ServiceMetrics
from auditkit.service.schema import describe_api

logger = logging.getLogger("auditkit.service")
_quote = json.encoder.encode_basestring
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

Handler = Callable[[Request], Awaitable[Answer]]

STEP = "/v1/step"
"""Where requests come by the thousand."""


@dataclass(frozen=True)
class ServiceConfig:
    """Limits of the service.

    Attributes:
        token: What clients must bring as a bearer token; None lets everybody in.
        max_bytes: Size of a request body.
        max_batch: Rows of a request.
        max_waiting: Requests that may wait for the store.
    """

    token: str | None = None
    max_bytes: int = 1_000_000
    max_batch: int = 10_000
    max_waiting: int = 5_000

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_batch", "max_waiting"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.token is not None and (not self.token or not self.token.isascii() or " " in self.token):
            raise InputError("token must be ASCII text without spaces")


class Refusal(Exception):  # noqa: N818 - an answer, not an error of the service
    """A request that is refused, with the status to answer and the reason to count."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


def make_app(stream: OnlineEnforcer, config: ServiceConfig | None = None) -> Any:
    """The FastAPI application around a stream; it closes the stream when it shuts down.

    Args:
        stream: What enforces.
        config: Limits and the token.

    Returns:
        The application.

    Raises:
        MissingExtraError: FastAPI or the Prometheus client is not installed.
    """
    service = _Service(stream, config or ServiceConfig())
    fastapi = import_extra("fastapi")
    app = fastapi.FastAPI(
        title="auditkit streaming enforcement", version="1", lifespan=service.lifespan,
        description="Scores and groups in, enforced scores out; every batch id is applied once.",
    )  # fmt: skip
    routes = (
        (STEP, "POST", service.step),
        ("/v1/observe", "POST", service.observe),
        ("/v1/report", "GET", service.report),
        ("/health", "GET", service.health),
        ("/ready", "GET", service.ready),
        ("/metrics", "GET", service.render_metrics),
    )
    endpoints = {path: Endpoint(service.answering(path, handler)) for path, _, handler in routes}
    for path, method, _ in routes:
        app.router.add_route(path, endpoints[path], methods=[method])
    app.state.service, app.state.step = service, endpoints[STEP]
    app.openapi = lambda: describe_api(app, service.step_body, has_token=service.config.token is not None)
    return app


class _Service:
    """The handlers of one application."""

    def __init__(self, stream: OnlineEnforcer, config: ServiceConfig) -> None:
        self.stream, self.config = stream, config
        self.committer = GroupCommitter(stream, max_waiting=config.max_waiting)
        self.metrics = ServiceMetrics()
        self.columns = stream.config.columns
        self.step_body: Any = make_step_body(self.columns, config.max_batch)
        self.failing = ""
        self._fields = [(name, f"value_{position}") for position, name in enumerate(self.columns)]
        self._step_tally = _Tally(self, STEP)
        self._expected = None if config.token is None else f"Bearer {config.token}".encode()

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Serve, then finish what waits and close the store."""
        del app
        log("started", criteria=[criterion.name for criterion in self.stream.config.criteria])
        yield
        await self.committer.close()
        self.stream.close()
        log("stopped", commits=self.committer.commits)

    def answering(self, path: str, handler: Handler) -> Handler:
        """A handler that counts, times, and turns refusals into answers."""
        tally = self._step_tally if path == STEP else _Tally(self, path)

        async def answer(request: Request) -> Answer:
            begin = time.perf_counter()
            try:
                return tally.count(begin, await handler(request))
            except Gone:
                raise
            except Exception as error:
                return tally.count(begin, error)

        return answer

    def refuse(self, path: str, error: Exception) -> Answer:
        """The answer to a request that is not applied."""
        if isinstance(error, Refusal):
            status, reason, content = error.status, error.reason, _json({"error": str(error)})
        elif isinstance(error, StoreError):
            self.failing = str(error)
            status, reason, content = 503, "store", _json({"error": str(error)})
        else:
            logger.error(json.dumps({"event": "failed", "path": path}), exc_info=error)
            status, reason = 500, "failure"
            content = Answer(b"Internal Server Error", media=b"text/plain; charset=utf-8")
        self.metrics.requests.labels(path, str(status)).inc()
        self.metrics.rejects.labels(reason).inc()
        log("refused", path=path, status=status, reason=reason)
        headers = {401: ((b"www-authenticate", b"Bearer"),), 503: ((b"retry-after", b"1"),)}.get(status, ())
        return content._replace(status=status, headers=headers)

    async def step(self, request: Request) -> Answer:
        """Release a batch."""
        checked = self._check_step(await self._read(request))
        return self._say_step(await self.committer.submit(checked))

    def answer_step(self, body: bytes, deliver: Deliver) -> None:
        """`step` without a task: the same answers and counts for a body whose head `approves` let in.

        Args:
            body: Of the request, whole.
            deliver: Given the answer, at once where the request is refused, else when it is on the disk.
        """
        begin = time.perf_counter()

        def done(result: Result | None, error: Exception | None) -> None:
            deliver(self._step_tally.count(begin, error or self._try_say(result)))

        try:
            self.committer.enqueue(self._check_step(body), done)
        except Exception as error:
            deliver(self._step_tally.count(begin, error))

    def _check_step(self, body: bytes) -> StepRequest:
        message = self._parse(body, self.step_body)
        rows = message.rows
        groups = {name: [getattr(row.groups, field) for row in rows] for name, field in self._fields}
        try:
            return self.stream.make_step([row.score for row in rows], groups, batch_id=message.batch_id)
        except InputError as error:
            raise Refusal(422, "invalid", str(error)) from error

    def _say_step(self, result: object) -> Answer:
        if not isinstance(result, StepResult):
            raise self._conflict(result)
        if result.replayed:
            self.metrics.replays.inc()
        else:
            self.metrics.rows.inc(len(result))
        self.failing = ""
        return Answer(_write_step(result))

    def _try_say(self, result: object) -> Answer | Exception:
        try:
            return self._say_step(result)
        except Exception as error:
            return error

    async def observe(self, request: Request) -> Answer:
        """Take in late labels."""
        body = self._parse(await self._read(request), ObserveBody)
        result = await self.committer.submit(ObserveRequest(body.labels, body.batch_id))
        if isinstance(result, ObserveResult):
            self.metrics.replays.inc(result.replayed)
            return _json({"batch_id": result.batch_id, "labels": result.rows, "replayed": result.replayed})
        raise self._conflict(result)

    @staticmethod
    def _conflict(result: object) -> Refusal:
        assert isinstance(result, AuditkitError)
        return Refusal(409, "conflict", str(result))

    async def report(self, request: Request) -> Answer:
        """The figures of the stream."""
        self._authorise(request.headers)
        report = await self.committer.run(self.stream.report)
        return _json(json.loads(json.dumps(report.to_dict()), parse_constant=lambda name: None))

    async def health(self, request: Request) -> Answer:
        """Whether the process runs."""
        del request
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Answer:
        """Whether the store answers."""
        del request
        await self.committer.run(self.stream.store.read_state)
        if self.failing:
            raise Refusal(503, "store", "the last write to the store failed")
        return _json({"status": "ready"})

    async def render_metrics(self, request: Request) -> Answer:
        """Counters for Prometheus."""
        self._authorise(request.headers)
        self.metrics.take(await self.committer.run(self.stream.report), self.committer.waiting)
        return Answer(self.metrics.render(), media=self.metrics.content_type.encode())

    def approves(self, headers: Headers, length: int) -> bool:
        """Whether a step with these headers and a body of this length is let in."""
        try:
            self._check_head(headers)
        except Refusal:
            return False
        return length <= self.config.max_bytes

    def _check_head(self, headers: Headers) -> None:
        self._authorise(headers)
        kind = find_header(headers, b"content-type") or JSON
        if kind != JSON and kind.partition(b";")[0].strip().lower() != JSON:
            raise Refusal(415, "media type", "the body must be application/json")

    def _authorise(self, headers: Headers) -> None:
        if self._expected is None:
            return
        if not hmac.compare_digest(find_header(headers, b"authorization") or b"", self._expected):
            raise Refusal(401, "unauthorised", "a bearer token is needed: Authorization: Bearer …")

    async def _read(self, request: Request) -> bytes:
        """The body; nothing is read of one that is too large or not allowed."""
        self._check_head(request.headers)
        size, most = find_header(request.headers, b"content-length") or b"0", self.config.max_bytes
        too_large = size.isdigit() and int(size) > most
        body = b"" if too_large else await request.read(most)
        if too_large or len(body) > most:
            raise Refusal(413, "too large", f"the body must be at most {most} bytes")
        return body

    @staticmethod
    def _parse(body: bytes, model: Any) -> Any:
        try:
            return model.model_validate_json(body)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"])) or "body"
            raise Refusal(422, "invalid", f"{place}: {first['msg']}") from None


class _Tally:
    """What is counted and timed of one path."""

    def __init__(self, service: _Service, path: str) -> None:
        self.service, self.path = service, path
        self.passed = service.metrics.requests.labels(path, "200")
        self.seconds = service.metrics.seconds.labels(path)

    def count(self, begin: float, found: Answer | Exception) -> Answer:
        """The answer to send, counted; an error becomes a refusal."""
        if isinstance(found, Answer):
            self.passed.inc()
        else:
            found = self.service.refuse(self.path, found)
        self.seconds.observe(time.perf_counter() - begin)
        return found


def _json(content: Any) -> Answer:
    return Answer(_encode(content).encode("utf-8", "replace"))


def _write_step(result: StepResult) -> bytes:
    """The answer to a step as JSON; a list of finite numbers is JSON as Python writes it, in half the time."""
    replayed = "true" if result.replayed else "false"
    text = f'{{"batch_id":{_quote(result.batch_id)},"scores":{result.scores.tolist()},"replayed":{replayed}}}'
    return text.encode()


def log(event: str, **fields: Any) -> None:
    """One line of JSON about the service; never about a row, a group or an id."""
    logger.info(json.dumps({"event": event, **fields}, ensure_ascii=False))
