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
from auditkit.online_enforcer import ObserveRequest, ObserveResult, OnlineEnforcer, StepResult
from auditkit.service.committing import GroupCommitter
from auditkit.service.endpoints import JSON, Answer, Endpoint, Request, Shortcut
from auditkit.service.messages import ObserveBody, make_step_body
from auditkit.service.metrics import ServiceMetrics
from auditkit.service.schema import describe_api

logger = logging.getLogger("auditkit.service")
_quote = json.encoder.encode_basestring
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

Handler = Callable[[Request], Awaitable[Answer]]


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
        ("/v1/step", "POST", service.step),
        ("/v1/observe", "POST", service.observe),
        ("/v1/report", "GET", service.report),
        ("/health", "GET", service.health),
        ("/ready", "GET", service.ready),
        ("/metrics", "GET", service.render_metrics),
    )
    endpoints = {path: Endpoint(service.answering(path, handler)) for path, _, handler in routes}
    for path, method, _ in routes:
        app.router.add_route(path, endpoints[path], methods=[method])
    app.add_middleware(Shortcut, path="/v1/step", endpoint=endpoints["/v1/step"])
    app.openapi = lambda: describe_api(app, service.step_body, has_token=service.config.token is not None)
    app.state.service = service
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
        seconds = self.metrics.seconds.labels(path)
        passed = self.metrics.requests.labels(path, "200")

        async def answer(request: Request) -> Answer:
            begin = time.perf_counter()
            try:
                response = await handler(request)
                passed.inc()
            except Refusal as refusal:
                response = self._refuse(path, refusal)
            except StoreError as error:
                self.failing = str(error)
                response = self._refuse(path, Refusal(503, "store", str(error)))
            seconds.observe(time.perf_counter() - begin)
            return response

        return answer

    def _refuse(self, path: str, refusal: Refusal) -> Answer:
        self.metrics.requests.labels(path, str(refusal.status)).inc()
        self.metrics.rejects.labels(refusal.reason).inc()
        log("refused", path=path, status=refusal.status, reason=refusal.reason)
        headers = {401: ((b"www-authenticate", b"Bearer"),), 503: ((b"retry-after", b"1"),)}.get(refusal.status, ())
        return _json({"error": str(refusal)}, refusal.status, headers)

    async def step(self, request: Request) -> Answer:
        """Release a batch."""
        body = await self._read(request, self.step_body)
        rows = body.rows
        groups = {name: [getattr(row.groups, f"value_{k}") for row in rows] for k, name in enumerate(self.columns)}
        try:
            checked = self.stream.make_step([row.score for row in rows], groups, batch_id=body.batch_id)
        except InputError as error:
            raise Refusal(422, "invalid", str(error)) from error
        result = await self.committer.submit(checked)
        if isinstance(result, StepResult):
            if result.replayed:
                self.metrics.replays.inc()
            else:
                self.metrics.rows.inc(len(rows))
            self.failing = ""
            return Answer(_write_step(result))
        raise self._conflict(result)

    async def observe(self, request: Request) -> Answer:
        """Take in late labels."""
        body = await self._read(request, ObserveBody)
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
        self._authorise(request)
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
        self._authorise(request)
        self.metrics.take(await self.committer.run(self.stream.report), self.committer.waiting)
        return Answer(self.metrics.render(), media=self.metrics.content_type.encode())

    def _authorise(self, request: Request) -> None:
        if self._expected is None:
            return
        if not hmac.compare_digest(request.header(b"authorization") or b"", self._expected):
            raise Refusal(401, "unauthorised", "a bearer token is needed: Authorization: Bearer …")

    async def _read(self, request: Request, model: Any) -> Any:
        """The checked body; nothing is read of one that is too large or not allowed."""
        self._authorise(request)
        kind = request.header(b"content-type") or JSON
        if kind != JSON and kind.partition(b";")[0].strip().lower() != JSON:
            raise Refusal(415, "media type", "the body must be application/json")
        size, most = request.header(b"content-length") or b"0", self.config.max_bytes
        too_large = size.isdigit() and int(size) > most
        body = b"" if too_large else await request.read(most)
        if too_large or len(body) > most:
            raise Refusal(413, "too large", f"the body must be at most {most} bytes")
        try:
            return model.model_validate_json(body)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"])) or "body"
            raise Refusal(422, "invalid", f"{place}: {first['msg']}") from None


def _json(content: Any, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    return Answer(_encode(content).encode("utf-8", "replace"), status, headers=headers)


def _write_step(result: StepResult) -> bytes:
    """The answer to a step as JSON; a list of finite numbers is JSON as Python writes it, in half the time."""
    replayed = "true" if result.replayed else "false"
    text = f'{{"batch_id":{_quote(result.batch_id)},"scores":{result.scores.tolist()},"replayed":{replayed}}}'
    return text.encode()


def log(event: str, **fields: Any) -> None:
    """One line of JSON about the service; never about a row, a group or an id."""
    logger.info(json.dumps({"event": event, **fields}, ensure_ascii=False))
