"""Connections of the service: a client cannot tell what uvicorn parsed from what a remembered head answered."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import auditkit as ak
from auditkit.state_store import verify_ledger

pytest.importorskip("fastapi", reason="pip install 'auditkit[serve]'")

from auditkit.service import ServiceConfig
from auditkit.service.application import _Service
from auditkit.service.protocol import MOST_HEADS
from auditkit.service.serving import make_server

JSON_TYPE = "Content-Type: application/json\r\n"


class Counted:
    """Bodies that were answered from a remembered head."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted, answer_step = Counted(), _Service.answer_step

    def count(service: Any, body: bytes, deliver: Any) -> None:
        counted.bodies.append(body)
        answer_step(service, body, deliver)

    monkeypatch.setattr(_Service, "answer_step", count)
    return counted


@contextlib.contextmanager
def serving(place: Path, **limits: Any) -> Iterator[tuple[int, Any]]:
    """A server in a thread, with its port."""
    stream = ak.OnlineEnforcer([ak.ECP("sex", tolerance=0.02)], store=place, bounds=(0, 1))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    server = make_server(stream, ServiceConfig(**limits), host="127.0.0.1", port=port)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield port, server
    finally:
        server.should_exit = True
        thread.join(timeout=30)
    assert not thread.is_alive()
    assert [check for check in verify_ledger(place) if not check.passed] == []


class Client:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.reader = self.socket.makefile("rb")

    def read_status(self) -> int:
        """The status of the next answer."""
        return int(self.reader.readline().split()[1])

    def receive(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        return self.read_rest(self.read_status())

    def read_rest(self, status: int) -> tuple[int, dict[str, str], bytes]:
        """What follows a status."""
        headers = dict(line.decode().rstrip("\r\n").split(": ", 1) for line in iter(self.reader.readline, b"\r\n"))
        return status, headers, self.reader.read(int(headers["content-length"]))

    def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request and wait for its answer."""
        self.socket.sendall(request)
        return self.receive()

    def close(self) -> None:
        self.reader.close()
        self.socket.close()


@contextlib.contextmanager
def connect(port: int) -> Iterator[Client]:
    client = Client(port)
    try:
        yield client
    finally:
        client.close()


def request(body: bytes, *, more: str = JSON_TYPE) -> bytes:
    return f"POST /v1/step HTTP/1.1\r\nHost: here\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def step(batch_id: str, score: float = 0.5, sex: str = "f") -> bytes:
    return json.dumps({"batch_id": batch_id, "rows": [{"score": score, "groups": {"sex": sex}}]}).encode()


def test_answers_from_a_remembered_head_are_those_that_uvicorn_gives(tmp_path: Path, short: Counted) -> None:
    """Released, repeated, conflicting, invalid and malformed: every body on a new connection and on an old one."""
    bodies = [step("9"), step("9"), step("9", 0.6), step("8", 1e13), step("8", sex="m" * 300), b"{" * 80, step("")]
    found = []
    for place, many in ((tmp_path / "new.db", True), (tmp_path / "old.db", False)):
        with serving(place) as (port, _), connect(port) as kept:
            for length in sorted({len(body) for body in bodies}):
                kept.ask(request(b" " * length))  # refused as no JSON; its head is known from here on
            before, answers = len(short.bodies), []
            for body in bodies:
                with connect(port) as fresh:
                    status, headers, said = (fresh if many else kept).ask(request(body))
                assert headers.pop("date")
                answers.append((status, headers, said))
            assert short.bodies[before:] == ([] if many else bodies)
            found.append(answers)
            metrics = kept.ask(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")[2].decode()
            assert 'auditkit_requests_total{path="/v1/step",status="200"} 2.0' in metrics
            assert 'auditkit_requests_total{path="/v1/step",status="409"} 1.0' in metrics
            assert "auditkit_rows_total 1.0" in metrics
    assert found[0] == found[1]
    assert [status for status, _, _ in found[0]] == [200, 200, 409, 422, 422, 422, 422]


def test_scores_over_a_kept_connection_are_those_of_the_library(tmp_path: Path, short: Counted) -> None:
    stream = ak.OnlineEnforcer([ak.ECP("sex", tolerance=0.02)], bounds=(0, 1))
    with serving(tmp_path / "state.db") as (port, _), connect(port) as client:
        for k in range(300):
            score, sex = ((37 * k) % 101) / 101, "fm"[k % 2]
            status, _, said = client.ask(request(step(f"{k:03d}", score, sex)))
            expected = stream.step([score], {"sex": [sex]}, batch_id=str(k)).scores.tolist()
            assert (status, json.loads(said)["scores"]) == (200, expected)
    assert len(short.bodies) > 250  # all but the first of every length


def test_requests_sent_ahead_are_answered_in_order(tmp_path: Path, short: Counted) -> None:
    with serving(tmp_path / "state.db") as (port, _), connect(port) as client:
        client.ask(request(step("first")))
        names = [f"ahead{k}" for k in range(5)]
        parts = [request(step("alone")), b"".join(request(step(name)) for name in names), request(step("after"))]
        for part in parts:
            client.socket.sendall(part)
            time.sleep(0.002)
        answers = [client.receive() for _ in range(7)]
        assert [json.loads(said)["batch_id"] for _, _, said in answers] == ["alone", *names, "after"]
        assert step("alone") in short.bodies
        again = client.ask(request(step("alone")))
        assert json.loads(again[2])["replayed"]


def test_a_request_that_comes_in_pieces_is_answered(tmp_path: Path, short: Counted) -> None:
    with serving(tmp_path / "state.db") as (port, _), connect(port) as client:
        client.ask(request(step("first")))
        for k, cut in enumerate((1, 30, 90, len(request(step("piece0"))) - 1)):
            whole = request(step(f"piece{k}"))
            client.socket.sendall(whole[:cut])
            time.sleep(0.02)
            status, _, said = client.ask(whole[cut:])
            assert (status, json.loads(said)["batch_id"]) == (200, f"piece{k}")
        assert short.bodies == []
        assert client.ask(request(step("other")))[0] == 200
        assert short.bodies == [step("other")]


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        (JSON_TYPE, [401, 401, 401]),
        (JSON_TYPE + "Authorization: Bearer wrong\r\n", [401, 401, 401]),
        ("Content-Type: text/plain\r\nAuthorization: Bearer secret\r\n", [415, 415, 415]),
        (JSON_TYPE + "Authorization: Bearer secret\r\nExpect: 100-continue\r\n", [100, 100, 100]),
    ],
)
def test_heads_that_are_refused_or_ask_for_more_are_not_remembered(
    tmp_path: Path, short: Counted, head: str, statuses: list[int]
) -> None:
    with serving(tmp_path / "state.db", token="secret") as (port, _), connect(port) as client:
        found = []
        for _ in statuses:
            client.socket.sendall(request(step("1"), more=head))
            found.append(client.read_status())
            if found[-1] == 100:
                assert client.reader.readline() == b"\r\n"
                assert client.receive()[0] == 200
            else:
                assert b"error" in client.read_rest(found[-1])[2]
        assert found == statuses
        assert short.bodies == []


def test_a_body_over_the_limit_is_refused_on_a_kept_connection(tmp_path: Path, short: Counted) -> None:
    with serving(tmp_path / "state.db", max_bytes=200) as (port, _), connect(port) as client:
        for _ in range(3):
            assert client.ask(request(step("1")))[0] == 200
            assert client.ask(request(b" " * 201))[0] == 413
    assert len(short.bodies) <= 2


def test_a_connection_that_the_client_wants_closed_is_closed(tmp_path: Path, short: Counted) -> None:
    with serving(tmp_path / "state.db") as (port, _), connect(port) as client:
        _, headers, _ = client.ask(request(step("1"), more=JSON_TYPE + "Connection: close\r\n"))
        assert headers["connection"] == "close"
        assert client.reader.read() == b""
    assert short.bodies == []


def test_a_connection_remembers_so_many_heads_and_no_more(tmp_path: Path, short: Counted) -> None:
    with serving(tmp_path / "state.db") as (port, _), connect(port) as client:
        for k in range(MOST_HEADS + 5):
            assert client.ask(request(step("1"), more=f"{JSON_TYPE}Trace: {k}\r\n"))[0] == 200
        assert short.bodies == []
        for k in (0, MOST_HEADS - 1, MOST_HEADS, MOST_HEADS + 4):
            assert client.ask(request(step("1"), more=f"{JSON_TYPE}Trace: {k}\r\n"))[0] == 200
        assert len(short.bodies) == 2


def test_a_server_that_stops_answers_what_it_took_and_says_that_it_closes(
    tmp_path: Path, short: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, waits = ak.OnlineEnforcer.apply, threading.Event()
    begun = threading.Event()

    def slow(stream: Any, requests: Any) -> Any:
        if short.bodies:
            begun.set()
            assert waits.wait(20)
        return apply(stream, requests)

    monkeypatch.setattr(ak.OnlineEnforcer, "apply", slow)
    with serving(tmp_path / "state.db") as (port, server), connect(port) as client:
        assert client.ask(request(step("1")))[0] == 200
        client.socket.sendall(request(step("2")))
        assert begun.wait(20)
        server.should_exit = True
        time.sleep(0.3)
        waits.set()
        status, headers, said = client.receive()
        assert (status, headers["connection"], json.loads(said)["batch_id"]) == (200, "close", "2")
        assert client.reader.read() == b""


def test_an_error_nobody_foresaw_is_said_without_details(
    tmp_path: Path, short: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stream: Any, requests: Any) -> Any:
        raise ArithmeticError("a secret")

    with serving(tmp_path / "state.db") as (port, _), connect(port) as client:
        assert client.ask(request(step("1")))[0] == 200
        monkeypatch.setattr(ak.OnlineEnforcer, "apply", fail)
        answers = [client.ask(request(step(name)))[::2] for name in ("2", "3")]
        assert answers == [(500, b"Internal Server Error")] * 2
        monkeypatch.undo()
        assert client.ask(request(step("4")))[0] == 200
    assert len(short.bodies) >= 2
