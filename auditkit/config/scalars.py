"""The kinds of values that several sections of an audit file hold."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, Field, WithJsonSchema

_STRING_LIST = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}


def check_number(value: Any) -> Any:
    """Refuse true and false as numbers; leave text such as 1e-2, which YAML 1.1 reads as a string, to pydantic."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number; got {str(value).lower()}")
    return value


def _names(value: Any) -> Any:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(name, str) and name for name in listed):
        raise ValueError(f"must be a column name or a list of column names; got {value!r}")
    return tuple(listed)


Number = Annotated[float, BeforeValidator(check_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(check_number)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names), WithJsonSchema(_STRING_LIST)]


class Section(pydantic.BaseModel):
    """A mapping of the audit file: no key but those named."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
