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

_DAMAGED = (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, EOFError, json.JSONDecodeError)


def list_untrusted(path: Path) -> list[str]:
    """The types that a .skops file would construct beyond those that skops knows to be harmless; none is constructed.

    Raises:
        UntrustedFileError: It unpacks to far more than it weighs.
        InputError: The file is missing or damaged.
        MissingExtraError: skops is not installed.
    """
    if not path.is_file():
        raise InputError(f"spec: there is no file {str(path)!r}")
    io = import_extra("skops.io")
    try:
        check_archive(path, what="skops file")
        return sorted(set(io.get_untrusted_types(file=path)))
    except UntrustedFileError:
        raise
    except _DAMAGED as error:
        raise InputError(f"spec: {str(path)!r} is damaged or no skops file ({error}); save it again") from error


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
    unknown = [name for name in list_untrusted(file) if name not in trust]
    if unknown:
        raise UntrustedFileError(
            f"spec: {file.name!r} would construct {', '.join(unknown)}; if you trust all of these types, "
            f"pass trust={unknown!r}"
        )
    try:
        estimator = import_extra("skops.io").load(file, trusted=list(trust))
    except _DAMAGED as error:
        raise InputError(f"spec: {str(path)!r} is damaged ({error}); save it again") from error
    return EstimatorModel(estimator, name=file.stem, trust=", ".join(sorted(trust)))
