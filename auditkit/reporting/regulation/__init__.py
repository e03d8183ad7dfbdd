"""Templates of what sets of rules ask to be documented, filled in from a run: one module each.

Every template names the version of its rules and the date up to which they were read, states facts and computed
figures, and draws no legal conclusion. What the run and its audit file do not say is listed as not stated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from auditkit.errors import InputError
from auditkit.reporting.document import ReportDocument
from auditkit.reporting.regulation import eu_ai_act, four_fifths, ll144, model_risk, nist
from auditkit.reporting.sections import RegulatoryReport


@dataclass(frozen=True)
class Template:
    """A template of a set of rules.

    Attributes:
        title: What its section is called.
        fill: Makes the section of a run.
    """

    title: str
    fill: Callable[[ReportDocument], RegulatoryReport]


TEMPLATES: dict[str, Template] = {
    "ll144": Template(ll144.TITLE, ll144.fill),
    "four-fifths": Template(four_fifths.TITLE, four_fifths.fill),
    "eu-ai-act": Template(eu_ai_act.TITLE, eu_ai_act.fill),
    "nist": Template(nist.TITLE, nist.fill),
    "model-risk": Template(model_risk.TITLE, model_risk.fill),
}
"""By the names of the audit file and of ``--template``."""


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
    return TEMPLATES[name].fill(document)
