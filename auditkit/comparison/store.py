"""A folder of finished predictions, one file per seed, tolerance and method: what a comparison resumes from.

A file appears whole or not at all. A folder belongs to one request; another request is refused, never mixed in.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from auditkit._files import write_whole
from auditkit.baselines import Prediction, Sample
from auditkit.clusters import check_clusters
from auditkit.comparison.judging import Outcome
from auditkit.comparison.settings import CompareConfig
from auditkit.criteria import Criterion
from auditkit.errors import InputError
from auditkit.feature_rows import FeatureRows
from auditkit.split_rules import SplitRule

REQUEST = "request.json"
SCHEMA = "auditkit.comparison-request/1"
AS_GIVEN = "as-given"


class PredictionStore:
    """Finished predictions in a folder.

    Args:
        folder: Where; made when it is not there.
        request: What the predictions answer (`describe_request`).

    Raises:
        InputError: The folder holds the predictions of another request.
    """

    def __init__(self, folder: str | Path, request: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / REQUEST
        if place.exists():
            _check_same(place, request)
        else:
            _write(place, json.dumps(request, indent=2, sort_keys=True).encode())

    def read(self, seed: int, tolerance: float | None, method: str) -> Outcome | None:
        """What is stored; None when it is not there yet.

        Raises:
            InputError: The file cannot be read.
        """
        place = self._place(seed, tolerance, method)
        if not place.is_file():
            return None
        try:
            with np.load(place, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
            error = str(arrays["error"])
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as problem:
            raise InputError(f"folder holds a file that cannot be read: {place} ({problem}); delete it") from problem
        if error:
            return Outcome(None, error)
        return Outcome(Prediction(arrays.get("scores"), arrays.get("decisions")))

    def write(self, seed: int, tolerance: float | None, method: str, outcome: Outcome) -> None:
        """Store an outcome that asking again would not change."""
        if not outcome.is_final:
            return
        arrays: dict[str, Any] = {"error": np.array(outcome.error)}
        if outcome.prediction is not None:
            for name in ("scores", "decisions"):
                values = getattr(outcome.prediction, name)
                if values is not None:
                    arrays[name] = values  # in its own precision, so that it is judged as if it had not been stored
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        _write(self._place(seed, tolerance, method), buffer.getvalue())

    def _place(self, seed: int, tolerance: float | None, method: str) -> Path:
        level = AS_GIVEN if tolerance is None else f"tolerance-{float(tolerance)!r}"
        return self.folder / f"seed-{seed}" / level / f"{method}.npz"


def describe_request(
    dataset: Sample, criteria: tuple[Criterion, ...], config: CompareConfig, rule: SplitRule
) -> dict[str, Any]:
    """What a prediction depends on, but for seed, tolerance and method, as JSON-ready values."""
    settings = asdict(config)
    kept = {name: settings[name] for name in ("guarantee", "split", "tune", "bounds", "train_reference")}
    request = {
        "schema": SCHEMA,
        "auditkit": version("auditkit"),
        "data_sha256": _hash(dataset),
        "criteria": [criterion.to_dict() for criterion in criteria],
        "config": kept,
        "split_sha256": rule.fingerprint(),
    }
    return json.loads(json.dumps(request))


def _hash(dataset: Sample) -> str:
    digest = hashlib.sha256()
    for values in (dataset.scores, dataset.labels, dataset.features):
        for block in values.blocks() if isinstance(values, FeatureRows) else (values,):
            digest.update(b"-" if block is None else np.ascontiguousarray(block, dtype=np.float64).tobytes())
    groups = dataset.groups
    for name in groups.names:
        digest.update(repr((name, groups.categories(name))).encode())
        inferred = name in groups.inferred
        digest.update(np.ascontiguousarray(groups.shares(name) if inferred else groups.codes(name)).tobytes())
    if (clusters := check_clusters(dataset.clusters, n_rows=dataset.n_rows)) is not None:
        digest.update(b"clusters" + clusters.tobytes())
    return digest.hexdigest()


def _check_same(place: Path, request: dict[str, Any]) -> None:
    try:
        stored = json.loads(place.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"folder holds a {REQUEST} that is not JSON ({error}); choose another folder") from error
    known = stored if isinstance(stored, dict) else {}
    differing = sorted(name for name in request if known.get(name) != request[name])
    if differing:
        raise InputError(
            f"folder holds the predictions of another comparison, which differs in {', '.join(differing)}: "
            f"{place.parent}; choose another folder, or delete this one"
        )


def _write(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, content)
