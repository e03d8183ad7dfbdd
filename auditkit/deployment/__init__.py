"""Corrections and decision thresholds that are found once on held-out rows and applied row by row.

`calibrate` finds a `Calibration` of scores, `calibrate_decisions` finds `DecisionThresholds`; both can carry a
guarantee for the population, or refuse it.
"""

from auditkit.deployment.calibrating import OnInsufficient, calibrate
from auditkit.deployment.calibration import Calibration
from auditkit.deployment.guarantee import ContrastGuarantee
from auditkit.deployment.lookup import OnUnseen

__all__ = ["Calibration", "ContrastGuarantee", "OnInsufficient", "OnUnseen", "calibrate"]
