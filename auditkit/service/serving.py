"""Run the application under uvicorn until it is told to stop."""

from __future__ import annotations

import gc
import logging
import sys
from typing import Any

from auditkit._extras import import_extra
from auditkit.errors import StoreError
from auditkit.online_enforcer import OnlineEnforcer
from auditkit.service.application import STEP, ServiceConfig, make_app
from auditkit.service.endpoints import Shortcut
from auditkit.service.protocol import make_protocol

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
    server = make_server(stream, config, host=host, port=port)
    logging.basicConfig(stream=sys.stderr, format='{"at":"%(asctime)s","level":"%(levelname)s","log":%(message)s}')
    logging.getLogger("auditkit.service").setLevel(logging.INFO)
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()  # what was imported lives as long as the process: to look through it again takes milliseconds
    try:
        server.run()
    except SystemExit as stop:
        raise StoreError(f"the service did not start on {host}:{port}; is the port taken?") from stop
    if not server.started:
        raise StoreError(f"the service did not start on {host}:{port}; is the port taken?")


def make_server(stream: OnlineEnforcer, config: ServiceConfig, *, host: str, port: int) -> Any:
    """The uvicorn server around the application of `make_app`; it serves when its ``run`` is called.

    Args:
        stream: What enforces; it is closed when the server stops.
        config: Limits and the token.
        host: Address to listen on.
        port: Port to listen on.

    Raises:
        MissingExtraError: uvicorn or FastAPI is not installed.
    """
    uvicorn: Any = import_extra("uvicorn")
    app = make_app(stream, config)
    settings = uvicorn.Config(
        Shortcut(app, STEP, app.state.step), http=make_protocol(app.state.service, STEP), host=host, port=port,
        access_log=False, log_level="error", timeout_graceful_shutdown=DRAIN_SECONDS, server_header=False,
        proxy_headers=False,
    )  # fmt: skip
    return uvicorn.Server(settings)
