"""Run the application under uvicorn until it is told to stop."""

from __future__ import annotations

import logging
import sys
from typing import Any

from auditkit._extras import import_extra
from auditkit.errors import StoreError
from auditkit.online_enforcer import OnlineEnforcer
from auditkit.service.application import ServiceConfig, make_app

DRAIN_SECONDS = 10
"""How long requests that are under way may take after the signal to stop."""

SWITCH_SECONDS = 0.0005
"""How long the thread that commits may keep the interpreter from the one that talks to clients."""


def run_server(stream: OnlineEnforcer, config: ServiceConfig, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; requests that were accepted are finished first.

    Args:
        stream: What enforces; it is closed at the end.
        config: Limits and the token.
        host: Address to listen on.
        port: Port to listen on.

    Raises:
        MissingExtraError: uvicorn or FastAPI is not installed.
        StoreError: The server did not start, e.g. because the port is taken.
    """
    uvicorn: Any = import_extra("uvicorn")
    app = make_app(stream, config)
    logging.basicConfig(stream=sys.stderr, format='{"at":"%(asctime)s","level":"%(levelname)s","log":%(message)s}')
    logging.getLogger("auditkit.service").setLevel(logging.INFO)
    settings = uvicorn.Config(
        app, host=host, port=port, access_log=False, log_level="error", timeout_graceful_shutdown=DRAIN_SECONDS,
        server_header=False,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        server.run()
    except SystemExit as stop:
        raise StoreError(f"the service did not start on {host}:{port}; is the port taken?") from stop
    if not server.started:
        raise StoreError(f"the service did not start on {host}:{port}; is the port taken?")
