"""Corrections and decision thresholds that are found once on held-out rows and applied row by row.

`calibrate` finds a `Calibration` of scores, `calibrate_decisions` finds `DecisionThresholds`; both can carry a
guarantee for the population, or refuse it.
"""

from auditkit.deployment.calibrating import OnInsufficient, calibrate
from auditkit.deployment.calibration import Calibration
from auditkit.deployment.decisions import calibrate_decisions
from auditkit.deployment.guarantee import ContrastGuarantee
from auditkit.deployment.lookup import OnUnseen
from auditkit.deployment.thresholds import DecisionThresholds, ThresholdRule

__all__ = [
    "Calibration",
    "ContrastGuarantee",
    "DecisionThresholds",
    "OnInsufficient",
    "OnUnseen",
    "ThresholdRule",
    "calibrate",
    "calibrate_decisions",
]
