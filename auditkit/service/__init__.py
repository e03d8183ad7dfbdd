"""Streaming enforcement over HTTP: a FastAPI application around one `OnlineEnforcer`; needs ``auditkit[serve]``."""

from __future__ import annotations

from auditkit.service.application import ServiceConfig, make_app
from auditkit.service.serving import run_server

__all__ = ["ServiceConfig", "make_app", "run_server"]
