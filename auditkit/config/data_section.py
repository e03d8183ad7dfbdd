"""`data:` of the audit file: the table, or the images, and the roles of its columns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from auditkit.config.images_section import ImagesSection
from auditkit.config.scalars import Names, Number, Section
from auditkit.expressions import parse_expression


def _specs(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class BinSpec(Section):
    """A numeric column cut into bands."""

    column: str
    bins: tuple[Number, ...] = Field(description="Increasing inner edges; each band holds its lower edge.")


class ExpressionSpec(Section):
    """Groups made of several columns, in the small language of `auditkit.expressions`."""

    expression: str = Field(description='Such as: age >= 65 and tongue in ["de", "fr"].')

    @field_validator("expression")
    @classmethod
    def _check(cls, text: str) -> str:
        parse_expression(text)
        return text


def _rule_kind(value: Any) -> str:
    """Which of the two a rule is meant to be; its mistakes are then told as that one's."""
    return "ExpressionSpec" if isinstance(value, dict) and "expression" in value else "BinSpec"


KeyRule = Annotated[
    Annotated[BinSpec, Tag("BinSpec")] | Annotated[ExpressionSpec, Tag("ExpressionSpec")], Discriminator(_rule_kind)
]
AttributeSpec = str | dict[str, KeyRule]
Attributes = Annotated[tuple[AttributeSpec, ...], BeforeValidator(_specs)]


class DataSpec(Section):
    """The table and the roles of its columns."""

    path: str = Field(description="csv, parquet or arrow, relative to this file; sample:<name> is a bundled table.")
    attributes: Attributes = Field(description="Protected attributes: columns, name: {column, bins} or {expression}.")
    strata: Attributes = Field(default=(), description="Legitimate conditions that a criterion may be given.")
    label: str | None = Field(default=None, description="Column of outcomes.")
    positive_label: str | int | float | bool | None = Field(
        default=None, description="Value of the label that counts as 1."
    )
    score: str | None = Field(default=None, description="Column of scores, when the table holds predictions.")
    weight: str | None = Field(default=None, description="Column of row weights: how many people a row stands for.")
    decision: str | None = Field(
        default=None, description="Column of the decisions themselves, 0 or 1, in place of a threshold."
    )
    cluster: str | None = Field(
        default=None, description="Column that says whom a row is of, where several rows are of one person."
    )
    engine: Literal["duckdb", "spark", "pandas"] | None = Field(
        default=None,
        description="What reads the table: duckdb (by default) or spark where it is, or pandas, whole into memory; "
        "pandas (by default) where a model scores it.",
    )
    features: Names | None = Field(default=None, description="Columns the model reads; by default all others.")
    exclude: Names = Field(default=(), description="Columns to leave out.")
    max_gib: Number | None = Field(
        default=None,
        gt=0,
        description="Largest size that the file may declare, decoded, in GiB; by default 16 where it is read whole and "
        "1024 where it is scanned.",
    )
    images: ImagesSection | None = Field(default=None, description="Where the rows are image files: how they are read.")
