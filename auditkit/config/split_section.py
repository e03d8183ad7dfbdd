"""The section of the audit file that says which rows tune, calibrate and test, and what they may not share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pydantic
from pydantic import Field, model_validator

from auditkit.config.scalars import Names, Number

PARTS = ("tune", "calibrate", "test")

PartValue = str | int | float | bool
PartValues = PartValue | tuple[PartValue, ...]


class SplitSpec(pydantic.BaseModel):
    """Shares of the rows that tune the head, calibrate it and test it, and how the rows are parted."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    tune: Number = Field(default=0.4, gt=0, lt=1)
    calibrate: Number = Field(default=0.3, gt=0, lt=1)
    test: Number = Field(default=0.3, gt=0, lt=1)
    by: Literal["random", "group", "time", "column"] = Field(
        default="random",
        description="random; group: rows of one id stay together; time: earlier rows tune, later ones test; column: "
        "a column names the part.",
    )
    column: str | None = Field(default=None, description="The id, the time or the part of a row, for `by`.")
    values: dict[Literal["tune", "calibrate", "test"], PartValues] | None = Field(
        default=None, description="With by: column, the values that stand for each part; by default the parts' names."
    )
    stratify: Names = Field(default=(), description="With by: random, columns whose values every part has alike.")
    id: str | None = Field(
        default=None, description="Column of ids that no two parts may share; with by: group, the same column."
    )
    leakage: Literal["refuse", "report", "ignore"] = Field(
        default="report", description="What is done where parts share ids, identical features or images."
    )

    @model_validator(mode="after")
    def _check(self) -> SplitSpec:
        total = self.tune + self.calibrate + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"tune + calibrate + test must be 1; got {total:g}")
        for message in self._contradictions():
            raise ValueError(message)
        return self

    def _contradictions(self) -> Iterator[str]:
        if self.by != "random" and self.column is None:
            what = {"group": "whose ids", "time": "whose times", "column": "that"}[self.by]
            yield f"by is {self.by}, which needs column, the name of the column {what} part the rows"
        if self.by == "random" and self.column is not None:
            yield "column needs by: group, time or column, which says what the column is"
        if self.stratify and self.by != "random":
            yield f"stratify belongs to by: random only; got it with by: {self.by}"
        if self.values is not None and self.by != "column":
            yield f"values belongs to by: column only; got it with by: {self.by}"
        if self.values is not None and set(self.values) != set(PARTS):
            yield f"values must name what stands for each of {', '.join(PARTS)}; got {', '.join(self.values)}"
        if self.by == "column" and self.fractions != _DEFAULT_SHARES:
            yield "tune, calibrate and test are shares, which by: column does not heed; leave them out"
        if self.by == "group" and self.id not in (None, self.column):
            yield f"id is {self.id!r} and by: group keeps the rows of {self.column!r} together; name one of them"

    @property
    def fractions(self) -> dict[str, float]:
        """Part name → share of the rows."""
        return {name: getattr(self, name) for name in PARTS}

    @property
    def part_values(self) -> dict[str, tuple[PartValue, ...]]:
        """Part name → the values that stand for it."""
        named = self.values or {name: name for name in PARTS}
        return {name: _tuple(named[name]) for name in PARTS}

    @property
    def id_column(self) -> str | None:
        """The column of ids that are looked for in several parts."""
        return self.column if self.by == "group" else self.id

    @property
    def columns(self) -> dict[str, str]:
        """Key → column that says where a row belongs; none of them is a feature unless the file says so."""
        named = {"column": self.column, "id": self.id}
        return {key: name for key, name in named.items() if name is not None}

    def describe(self) -> dict[str, Any]:
        """What run.json says about how the rows were parted."""
        return {"by": self.by, "column": self.column, "stratify": list(self.stratify), "id": self.id_column}


_DEFAULT_SHARES = {"tune": 0.4, "calibrate": 0.3, "test": 0.3}


def _tuple(values: Any) -> tuple[PartValue, ...]:
    return values if isinstance(values, tuple) else (values,)
