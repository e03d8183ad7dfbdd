"""Every method behind one interface: fit on the tuning (and calibration) rows, then apply to rows it has not seen.

All methods get the same frozen features, the same splits and the same criteria; each is tuned in its own best way.
"""

from __future__ import annotations

from auditkit.baselines.base import FitContext, Method, Prediction, Sample, share_head
from auditkit.baselines.error_parity_thresholds import ErrorParity
from auditkit.baselines.fairret_penalty import FairretPenalty
from auditkit.baselines.oxonfair_thresholds import OxonFair
from auditkit.baselines.penalty import Penalty, StrictPenalty, fit_unconstrained
from auditkit.baselines.projections import (
    BatchLayer,
    BatchProjection,
    Calibrated,
    CalibratedProjection,
    Layer,
    LogLossProjection,
    Projection,
    TunedHead,
    Unconstrained,
)
from auditkit.baselines.recalibration import IsotonicRecalibration, MeanRecalibration
from auditkit.baselines.reductions import Reduction
from auditkit.baselines.repair import WassersteinRepair
from auditkit.baselines.thresholds import Threshold
from auditkit.errors import InputError

__all__ = [
    "METHODS",
    "OPTIONAL",
    "FitContext",
    "Method",
    "Prediction",
    "Sample",
    "find_method",
    "fit_unconstrained",
    "share_head",
]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Unconstrained(), Layer(), Calibrated(), TunedHead(), Projection(), CalibratedProjection(),
        Penalty(blind=False), Penalty(blind=True), Threshold(), BatchLayer(), BatchProjection(),
        LogLossProjection(), StrictPenalty(), Threshold(relaxed=True), Reduction(), MeanRecalibration(),
        IsotonicRecalibration(), WassersteinRepair(), FairretPenalty(), ErrorParity(), OxonFair(),
    )
}  # fmt: skip

OPTIONAL = {"fairret": "fairret", "error_parity": "error_parity", "oxonfair": "oxonfair"}
"""Methods of packages that are not installed with auditkit, and the module each needs."""


def find_method(name: str) -> Method:
    """A method by its name.

    Raises:
        InputError: No such method.
    """
    if name not in METHODS:
        raise InputError(f"methods must be among {', '.join(map(repr, METHODS))}; got {name!r}")
    return METHODS[name]
