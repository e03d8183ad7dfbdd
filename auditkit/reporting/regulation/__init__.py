"""Templates of what sets of rules ask to be documented, filled in from a run: one module each.

Every template names the version of its rules and the date up to which they were read, states facts and computed
figures, and draws no legal conclusion. What the run and its audit file do not say is listed as not stated.
"""

from __future__ import annotations

from collections.abc import Callable

from auditkit.errors import InputError
from auditkit.reporting.document import ReportDocument
from auditkit.reporting.regulation import eu_ai_act, four_fifths, ll144, model_risk, nist
from auditkit.reporting.sections import RegulatoryReport

TEMPLATES: dict[str, Callable[[ReportDocument], RegulatoryReport]] = {
    "ll144": ll144.fill,
    "four-fifths": four_fifths.fill,
    "eu-ai-act": eu_ai_act.fill,
    "nist": nist.fill,
    "model-risk": model_risk.fill,
}
"""Name → how to fill it in."""


def fill_template(name: str, document: ReportDocument) -> RegulatoryReport:
    """One template, filled in.

    Args:
        name: One of ``TEMPLATES``.
        document: The run.

    Returns:
        The section.

    Raises:
        InputError: There is no such template.
    """
    if name not in TEMPLATES:
        raise InputError(f"--template must be one of {', '.join(TEMPLATES)}; got {name!r}")
    return TEMPLATES[name](document)
