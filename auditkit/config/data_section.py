"""`data:` of the audit file: the table, or the images, and the roles of its columns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, field_validator

from auditkit.config.images_section import ImagesSection
from auditkit.config.scalars import Names, Number, Section
from auditkit.config.text_section import TextSection
from auditkit.errors import SchemaError
from auditkit.expressions import parse_expression
from auditkit.table_roles import check_distinct, parse_outputs


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


class InferredSpec(Section):
    """An attribute that is inferred: columns that hold the probability of each group."""

    probabilities: dict[str, str] = Field(description="Group: column of its probability; they add up to 1.")

    @field_validator("probabilities")
    @classmethod
    def _check(cls, columns: dict[str, str]) -> dict[str, str]:
        try:
            check_distinct("probabilities", "group", tuple(columns.items()))
        except SchemaError as error:
            raise ValueError(str(error)) from error
        return columns


def _rule_kind(value: Any) -> str:
    """Which of the forms a rule is meant to be; its mistakes are then told as that one's."""
    named = {"expression": "ExpressionSpec", "probabilities": "InferredSpec"}
    if not isinstance(value, dict):  # a rule that is being written out
        return type(value).__name__ if isinstance(value, Section) else "BinSpec"
    return next((kind for key, kind in named.items() if key in value), "BinSpec")


KeyRule = Annotated[
    Annotated[BinSpec, Tag("BinSpec")]
    | Annotated[ExpressionSpec, Tag("ExpressionSpec")]
    | Annotated[InferredSpec, Tag("InferredSpec")],
    Discriminator(_rule_kind),
]
AttributeSpec = str | dict[str, KeyRule]
Attributes = Annotated[tuple[AttributeSpec, ...], BeforeValidator(_specs)]


def _score(value: Any) -> Any:
    """A column of scores, or the columns of several outputs."""
    if value is None or isinstance(value, str):
        return value
    columns = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(columns, list | tuple) or not all(isinstance(name, str) and name for name in [*columns, *value]):
        raise ValueError(f"must be a column name, a list of column names or {{output: column}}; got {value!r}")
    try:
        parse_outputs(value)
    except SchemaError as error:
        raise ValueError(str(error)) from error
    return dict(value) if isinstance(value, dict) else tuple(value)


_COLUMNS = {"type": "array", "items": {"type": "string"}, "minItems": 2}
_NAMED_COLUMNS = {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 2}
_SCORE = {"anyOf": [{"type": "string"}, _COLUMNS, _NAMED_COLUMNS, {"type": "null"}]}
Score = Annotated[str | tuple[str, ...] | dict[str, str] | None, BeforeValidator(_score), WithJsonSchema(_SCORE)]


class DataSpec(Section):
    """The table and the roles of its columns."""

    path: str = Field(description="csv, parquet or arrow, relative to this file; sample:<name> is a bundled table.")
    attributes: Attributes = Field(
        description="Protected attributes: columns, name: {column, bins} or {expression}; inferred: {probabilities}."
    )
    strata: Attributes = Field(default=(), description="Legitimate conditions that a criterion may be given.")
    label: str | None = Field(default=None, description="Column of outcomes.")
    positive_label: str | int | float | bool | None = Field(
        default=None, description="Value of the label that counts as 1."
    )
    score: Score = Field(
        default=None,
        description="Column of scores, when the table holds predictions; of a model of several outputs a list of "
        "columns, or output: column.",
    )
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
    text: str | TextSection | None = Field(
        default=None, description="Where a model reads texts: their column, or how they are read."
    )

    @property
    def texts(self) -> TextSection | None:
        """How texts are read; None where the rows are none."""
        return TextSection(column=self.text) if isinstance(self.text, str) else self.text

    @property
    def score_columns(self) -> tuple[str, ...]:
        """The columns of scores; empty where a model makes them."""
        if self.score is None or isinstance(self.score, str):
            return () if self.score is None else (self.score,)
        return tuple(column for _, column in parse_outputs(self.score))

    @property
    def has_outputs(self) -> bool:
        """Whether there are several scores per row."""
        return len(self.score_columns) > 1

    @property
    def inferred(self) -> tuple[str, ...]:
        """Names of the attributes and strata that are known by their probabilities only."""
        rules = (spec for spec in (*self.attributes, *self.strata) if not isinstance(spec, str))
        return tuple(name for spec in rules for name, rule in spec.items() if isinstance(rule, InferredSpec))
