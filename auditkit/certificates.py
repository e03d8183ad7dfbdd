"""What a run records of the exact projection of its tuned scores: the certificate, and how the corrections compare."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import numpy as np

from auditkit._typing import FloatArray
from auditkit.baselines import FitContext
from auditkit.baselines.base import frozen_features
from auditkit.constraints import measure_gaps
from auditkit.enforcement import project
from auditkit.errors import SolverError

SCHEMA = "auditkit.projection/1"


def certify_projection(context: FitContext) -> dict[str, Any] | None:
    """Project the tuned head's scores on the calibration rows, and say how good that projection is.

    Args:
        context: With the head and its calibration.

    Returns:
        What projection.json holds: the certificate and the multipliers of the projection onto the criteria at their own
        tolerances, the SHA-256 of the scores (float64, little-endian), and the gaps that the row-by-row corrections
        leave on the same rows; None where nothing was tuned and calibrated. A projection that did not reach its
        accuracy is recorded as failed, without a certificate: what was tuned does not depend on it, and is not lost.
    """
    head, calibration, rows = context.head, context.calibration, context.calibrate
    if head is None or calibration is None:
        return None
    scores = head.predict(frozen_features(rows))
    corrected = measure_gaps(calibration.apply(scores, rows.groups), rows.groups, context.criteria, labels=rows.labels)
    return {
        "schema": SCHEMA,
        "rows": rows.n_rows,
        "scores_sha256": hashlib.sha256(np.ascontiguousarray(scores, dtype="<f8").tobytes()).hexdigest(),
        **_project(scores, context),
        "corrected": [
            {"criterion": one.name, "tolerance": one.tolerance, "gap": _finite(corrected[one.name])}
            for one in context.criteria
        ],
    }


def _project(scores: FloatArray, context: FitContext) -> dict[str, Any]:
    rows, bounds = context.calibrate, context.score_bounds
    try:
        result = project(
            scores, rows.groups, context.criteria, labels=rows.labels, bounds=bounds, on_infeasible="relax"
        )
    except SolverError as error:
        return {"status": "failed", "explanation": str(error), "certificate": None, "constraints": []}
    return {
        "solver": result.solver,
        "iterations": result.iterations,
        "status": result.status.name.lower(),
        "explanation": result.status.explanation,
        "certificate": asdict(result.certificate),
        "constraints": [
            {"name": name, "multiplier": float(dual)}
            for name, dual in zip(result.constraints, result.duals, strict=True)
        ],
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
