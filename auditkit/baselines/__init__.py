"""Every method behind one interface: fit on the tuning (and calibration) rows, then apply to rows it has not seen.

All methods get the same frozen features, the same splits and the same criteria; each is tuned in its own best way.
"""

from __future__ import annotations

from auditkit.baselines.base import FitContext, Method, Prediction, Sample, share_head
from auditkit.baselines.penalty import Penalty
from auditkit.baselines.projections import (
    Calibrated,
    CalibratedProjection,
    Layer,
    Projection,
    TunedHead,
    Unconstrained,
)
from auditkit.baselines.thresholds import Threshold
from auditkit.errors import InputError

__all__ = ["METHODS", "FitContext", "Method", "Prediction", "Sample", "find_method", "share_head"]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Unconstrained(), Layer(), Calibrated(), TunedHead(), Projection(), CalibratedProjection(),
        Penalty(blind=False), Penalty(blind=True), Threshold(),
    )
}  # fmt: skip


def find_method(name: str) -> Method:
    """A method by its name.

    Raises:
        InputError: No such method.
    """
    if name not in METHODS:
        raise InputError(f"methods must be among {', '.join(map(repr, METHODS))}; got {name!r}")
    return METHODS[name]
