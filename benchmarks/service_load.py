"""A load generator that leaves the cores to the server: requests are written beforehand, sockets waited for by epoll.

    python -m benchmarks.service_load PORT --connections 16 --seconds 5

Every connection sends its next single-row request when the last one is answered. Prints one JSON object: requests,
requests/s, quantiles of the latency in ms, answers other than 200, and the generator's own processor time per request.
`benchmarks.streaming` runs it in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import selectors
import socket
import time
from typing import Any

HEAD = "POST /v1/step HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
FASTEST = 16_000
"""Requests/s for which requests are written beforehand; beyond it the generator stops early."""


def write_requests(rng: random.Random, name: str, number: int) -> list[bytes]:
    """Single-row requests, each with an id of its own."""
    requests = []
    for k in range(number):
        row = {"score": rng.random(), "groups": {"sex": rng.choice("fm")}}
        body = json.dumps({"batch_id": f"{name}-{k}", "rows": [row]})
        requests.append((HEAD.format(length=len(body)) + body).encode())
    return requests


def receive(client: socket.socket) -> bytes:
    """One whole answer."""
    data = client.recv(65536)
    while True:
        end = data.find(b"\r\n\r\n") + 4
        if end >= 4 and (length := LENGTH.search(data, 0, end)) and len(data) >= end + int(length[1]):
            return data
        more = client.recv(65536)
        if not more:
            raise ConnectionError("the service closed the connection")
        data += more


def load(port: int, connections: int, seconds: float, name: str) -> dict[str, Any]:
    """Load a service for some seconds."""
    rng = random.Random(name)
    number = int(FASTEST * seconds / connections) + 1
    plans = [iter(write_requests(rng, f"{name}-{c}", number)) for c in range(connections)]
    clients, began, latencies, refused = [], [0.0] * connections, [], 0
    with selectors.DefaultSelector() as selector:
        for position in range(connections):
            client = socket.create_connection(("127.0.0.1", port))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(client, selectors.EVENT_READ, position)
            clients.append(client)
        processor, first = time.process_time(), time.perf_counter()

        def send(position: int) -> int:
            request = next(plans[position], None) if time.perf_counter() - first < seconds else None
            if request is None:
                return 0
            began[position] = time.perf_counter()
            clients[position].sendall(request)
            return 1

        busy = sum(send(position) for position in range(connections))
        while busy:
            for key, _ in selector.select():
                answer = receive(clients[key.data])
                latencies.append(time.perf_counter() - began[key.data])
                refused += not answer.startswith(b"HTTP/1.1 200")
                busy -= 1 - send(key.data)
        wall, processor = time.perf_counter() - first, time.process_time() - processor
    for client in clients:
        client.close()
    latencies.sort()
    quantiles = {f"p{q}": 1e3 * latencies[int(len(latencies) * q / 100)] for q in (50, 99)}
    return {
        "requests": len(latencies), "rate": len(latencies) / wall, **quantiles, "refused": refused,
        "own_us": 1e6 * processor / len(latencies),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--name", default="load", help="begins the ids; two runs against one store need two names")
    arguments = parser.parse_args()
    print(json.dumps(load(arguments.port, arguments.connections, arguments.seconds, arguments.name)))


if __name__ == "__main__":
    main()
