"""Read a .skops file, which names every type before it constructs any."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from auditkit._extras import import_extra
from auditkit.errors import InputError, UntrustedFileError
from auditkit.models.archives import check_archive
from auditkit.models.estimator_model import EstimatorModel


def load_skops(path: str | Path, *, trust: Sequence[str] = ()) -> EstimatorModel:
    """Load a scikit-learn estimator from a .skops file.

    Args:
        path: The file.
        trust: Names of types it may construct beyond those that skops knows to be harmless.

    Returns:
        The frozen estimator.

    Raises:
        UntrustedFileError: It would construct a type that is not trusted (the message lists them), or unpacks to far
            more than it weighs.
        InputError: The file is missing or damaged, or holds no classifier or regressor.
        MissingExtraError: skops is not installed.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"spec: there is no file {str(path)!r}")
    io = import_extra("skops.io")
    damaged = (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, EOFError, json.JSONDecodeError)
    try:
        check_archive(file, what="skops file")
        unknown = sorted(set(io.get_untrusted_types(file=file)) - set(trust))
    except UntrustedFileError:
        raise
    except damaged as error:
        raise InputError(f"spec: {str(path)!r} is damaged or no skops file ({error}); save it again") from error
    if unknown:
        raise UntrustedFileError(
            f"spec: {file.name!r} would construct {', '.join(unknown)}; if you trust all of these types, "
            f"pass trust={unknown!r}"
        )
    try:
        estimator = io.load(file, trusted=list(trust))
    except damaged as error:
        raise InputError(f"spec: {str(path)!r} is damaged ({error}); save it again") from error
    return EstimatorModel(estimator, name=file.stem, trust=", ".join(sorted(trust)))
