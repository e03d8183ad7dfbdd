"""Fairness criteria: which contrasts of cell means must stay within the tolerance.

Every criterion is affine in the scores. A criterion only says which *events* (a group within a stratum) it looks at
and what their means are compared with; `compile_contrasts` turns any list of criteria into one set of contrasts, and
the audit and the projection both start from that set, so what is audited is exactly what is enforced.

Source: Troxell, Roemer, Montúfar (2026), arXiv 2605.17118, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from auditkit.errors import InputError
from auditkit.groups import LABEL

Names = str | Sequence[str]
Family = Literal["ECP", "EER"]
Form = Literal["pairwise", "absolute"]


@dataclass(frozen=True)
class Criterion:
    """One fairness criterion; made by `ECP`, `EER` and their named special cases.

    Attributes:
        family: "ECP" compares mean scores, "EER" mean residuals y − z.
        attributes: The protected attributes; several are crossed (intersectional).
        tolerance: ε, in the unit of the scores.
        given: Columns whose values are the strata; `LABEL` is the label.
        form: "pairwise" compares the groups of a stratum with each other, "absolute" each group with zero.
        label_value: With `LABEL` among the strata, the only label looked at; None looks at every label.
        name: What reports call it.
    """

    family: Family
    attributes: tuple[str, ...]
    tolerance: float
    given: tuple[str, ...] = ()
    form: Form = "pairwise"
    label_value: Hashable = None
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _check_criterion(self)
        if not self.name:
            object.__setattr__(self, "name", _default_name(self))

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the criterion looks at, `LABEL` included."""
        return self.attributes + self.given

    @property
    def needs_labels(self) -> bool:
        """Whether evaluating the criterion needs labels."""
        return self.family == "EER" or LABEL in self.given

    def with_tolerance(self, tolerance: float) -> Criterion:
        """The same criterion at another tolerance."""
        return Criterion(
            self.family, self.attributes, tolerance, self.given, self.form, self.label_value, name=self.name
        )

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Criterion:
        """The criterion that `to_dict` wrote."""
        names = {key: tuple(content[key]) for key in ("attributes", "given")}
        return cls(**{**content, **names})

    def to_dict(self) -> dict[str, Any]:
        """The criterion as JSON-ready values."""
        return {
            "name": self.name,
            "family": self.family,
            "attributes": list(self.attributes),
            "given": list(self.given),
            "form": self.form,
            "label_value": self.label_value,
            "tolerance": self.tolerance,
        }


def ECP(attributes: Names, *, tolerance: float, given: Names = (), name: str = "") -> Criterion:
    """Expected Conditional Parity: |E[z | g, s] − E[z | g′, s]| ≤ ε for every stratum s and pair of groups g, g′.

    Args:
        attributes: One attribute of any number of values; a tuple is intersectional (the product is one attribute).
        tolerance: ε ≥ 0, in the unit of the scores.
        given: Columns that form the strata; none compares the groups over all rows (parity of the mean score).
        name: What reports call it; made from the arguments when empty.

    Returns:
        The criterion.

    Raises:
        InputError: A negative or non-finite tolerance, no attribute, or a column used twice.

    Source: arXiv 2605.17118, definition of ECP.
    """
    return Criterion("ECP", _names(attributes), tolerance, _names(given), name=name)


def EER(
    attributes: Names, *, tolerance: float, given: Names = (), form: Form = "absolute", name: str = ""
) -> Criterion:
    """Expected Equalized Residuals: |E[y − z | g]| ≤ ε for every group g (absolute form).

    The pairwise form bounds |E[y − z | g] − E[y − z | g′]| ≤ ε instead.

    Args:
        attributes: One attribute of any number of values; a tuple is intersectional.
        tolerance: ε ≥ 0, in the unit of the scores.
        given: Columns that form the strata.
        form: "absolute" (each group against zero) or "pairwise" (groups against each other).
        name: What reports call it; made from the arguments when empty.

    Returns:
        The criterion; evaluating it needs labels.

    Raises:
        InputError: A negative or non-finite tolerance, no attribute, an unknown form, or a column used twice.

    Source: arXiv 2605.17118, definition of EER.
    """
    return Criterion("EER", _names(attributes), tolerance, _names(given), form, name=name)


def demographic_parity(attributes: Names, *, tolerance: float) -> Criterion:
    """Parity of the mean score: |E[z | g] − E[z | g′]| ≤ ε, which is ECP without strata."""
    names = _names(attributes)
    return Criterion("ECP", names, tolerance, name=f"demographic parity({'×'.join(names)})")


def equalized_odds(attributes: Names, *, tolerance: float) -> Criterion:
    """Equalized odds of the mean score: |E[z | g, y] − E[z | g′, y]| ≤ ε for every label y: ECP given the label."""
    names = _names(attributes)
    return Criterion("ECP", names, tolerance, (LABEL,), name=f"equalized odds({'×'.join(names)})")


def equal_opportunity(attributes: Names, *, tolerance: float, positive: Hashable = 1) -> Criterion:
    """Equal opportunity of the mean score: |E[z | g, y=1] − E[z | g′, y=1]| ≤ ε: ECP given the positive label."""
    names = _names(attributes)
    return Criterion(
        "ECP", names, tolerance, (LABEL,), label_value=positive, name=f"equal opportunity({'×'.join(names)})"
    )


def check_criteria(criteria: Criterion | Sequence[Criterion]) -> tuple[Criterion, ...]:
    """Return the criteria as a tuple.

    Raises:
        InputError: Not criteria, or none at all.
    """
    listed = (criteria,) if isinstance(criteria, Criterion) else tuple(criteria)
    if not listed:
        raise InputError('criteria is empty; pass at least one, e.g. [ECP("sex", tolerance=0.02)]')
    for criterion in listed:
        if not isinstance(criterion, Criterion):
            raise InputError(f"criteria must hold Criterion objects (made by ECP, EER, …); got {criterion!r}")
    return listed


def columns_of(criteria: Sequence[Criterion]) -> tuple[str, ...]:
    """Every column that the criteria look at, once, in a stable order."""
    return tuple(dict.fromkeys(name for criterion in criteria for name in criterion.columns))


def _names(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _check_criterion(criterion: Criterion) -> None:
    if not criterion.attributes:
        raise InputError(f"attributes of {criterion.family} is empty; name at least one protected attribute")
    if LABEL in criterion.attributes:
        raise InputError(f"{LABEL!r} cannot be a protected attribute; use it in given=")
    if not all(isinstance(name, str) for name in criterion.columns):
        raise InputError(f"attributes and given must be column names; got {criterion.columns!r}")
    if len(set(criterion.columns)) != len(criterion.columns):
        raise InputError(f"a column is used twice in {criterion.columns}; each may be an attribute or a stratum, once")
    if criterion.form not in ("pairwise", "absolute"):
        raise InputError(f"form must be 'pairwise' or 'absolute'; got {criterion.form!r}")
    tolerance = criterion.tolerance
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float | np.number):
        raise InputError(f"tolerance must be a number; got {tolerance!r}")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"tolerance must be finite and ≥ 0, in the unit of the scores; got {tolerance!r}")


def _default_name(criterion: Criterion) -> str:
    name = f"{criterion.family}({'×'.join(criterion.attributes)}"
    if criterion.given:
        name += " | " + ", ".join(criterion.given)
    return name + (", pairwise)" if criterion.family == "EER" and criterion.form == "pairwise" else ")")
