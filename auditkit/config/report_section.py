"""The section `report:` of an audit file: what the report is asked to document, and facts that no data hold."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from auditkit.config.scalars import Section

Template = Literal["ll144", "four-fifths", "eu-ai-act", "nist", "model-risk"]


class ReportColumns(Section):
    """Which attributes are what a rule calls sex and race/ethnicity."""

    sex: str | None = None
    race: str | None = None


class ReportFacts(Section):
    """What a report states and no computation knows; what is left out is said to be left out."""

    owner: str | None = Field(default=None, description="Who answers for the model.")
    contact: str | None = Field(default=None, description="Where questions go.")
    version: str | None = Field(default=None, description="Version of the model.")
    license: str | None = Field(default=None, description="Licence of the model.")
    intended_use: str | None = Field(default=None, description="What the scores are used for.")
    users: str | None = Field(default=None, description="Who uses them.")
    out_of_scope: str | None = Field(default=None, description="Uses that the audit does not speak about.")
    trade_offs: str | None = Field(default=None, description="What was weighed against what, and why.")
    ethics: str | None = Field(default=None, description="Risks for the people concerned, and what is done about them.")
    data_explanation: str | None = Field(default=None, description="Where the rows come from, and how they were taken.")
    data_kind: Literal["historical", "test"] | None = Field(default=None, description="Of LL144: which data these are.")
    test_data_reason: str | None = Field(
        default=None, description="Of LL144, with test data: why not historical data, and how they were obtained."
    )
    data_gaps: str | None = Field(default=None, description="What the data lack, and how that is made up for.")
    distribution_date: str | None = Field(default=None, description="Of LL144: when the tool was put into use.")
    map_reference: str | None = Field(default=None, description="Of NIST: where MAP identifies these risks.")
    pretrained_parts: str | None = Field(default=None, description="Parts of the model that others trained.")
    human_oversight: str | None = Field(default=None, description="Who can overrule the model, and how.")
    feedback_loops: str | None = Field(default=None, description="Whether outputs come back as training data.")
    inventory: str | None = Field(default=None, description="Entry of the model in the inventory.")
    monitoring: str | None = Field(default=None, description="What is watched in use, how often, and by whom.")
    challenge: str | None = Field(default=None, description="Who reviewed the model independently, and when.")


class ReportSpec(Section):
    """What the report is asked for."""

    templates: tuple[Template, ...] = Field(default=(), description="Sets of rules to document the run for.")
    columns: ReportColumns = ReportColumns()
    reference: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="Attribute → value → its share in the population that the model is used on."
    )
    exclude_small: bool = Field(
        default=False, description="Of LL144: leave categories under 2 % of the data out of the impact ratios."
    )
    facts: ReportFacts = ReportFacts()

    @pydantic.model_validator(mode="after")
    def _check(self) -> ReportSpec:
        for attribute, shares in self.reference.items():
            if any(not 0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 0.005:
                raise ValueError(f"reference.{attribute} must hold shares that sum to 1; got {sum(shares.values()):g}")
        if self.facts.data_kind == "test" and self.facts.test_data_reason is None:
            raise ValueError("facts.data_kind is test; say in facts.test_data_reason why, and how they were obtained")
        return self
