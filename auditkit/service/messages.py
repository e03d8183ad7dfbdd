"""The bodies of requests and answers; their JSON Schemas are exactly what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import pydantic
from pydantic import ConfigDict, Field, Strict

from auditkit.online_enforcer import MAX_ID_LENGTH

LARGEST = 1e12
"""Numbers beyond it are taken for mistakes."""

Score = Annotated[float, Strict(), Field(ge=-LARGEST, le=LARGEST, description="What the model said.")]
Whole = Annotated[int, Strict(), Field(ge=-int(LARGEST), le=int(LARGEST))]
Real = Annotated[float, Strict(), Field(ge=-LARGEST, le=LARGEST)]
Text = Annotated[str, Strict(), Field(max_length=200)]
Value = Text | Annotated[bool, Strict()] | Whole | Real | None
BatchId = Annotated[
    str,
    Strict(),
    Field(pattern=rf"^[!-~]{{1,{MAX_ID_LENGTH}}}$", description="Applied once; repeating it returns the same answer."),
]


class Message(pydantic.BaseModel):
    """A body: no key but those named."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


class StepAnswer(Message):
    """Released scores."""

    batch_id: str
    scores: list[float] = Field(description="In the order of the rows.")
    replayed: bool = Field(description="Whether this is the answer to an earlier, identical request.")


class ObserveBody(Message):
    """Labels that arrived late."""

    batch_id: BatchId
    labels: list[Real | None] = Field(min_length=1, description="One per row of the batch; null where unknown.")


class ObserveAnswer(Message):
    """What became of the labels."""

    batch_id: str
    labels: int = Field(description="Labels that were taken in.")
    replayed: bool


class Problem(Message):
    """Why a request was refused; nothing of it was applied."""

    error: str


class HealthAnswer(Message):
    """Whether the process runs, or is ready for requests."""

    status: str


def make_step_body(columns: Sequence[str], max_batch: int) -> type[pydantic.BaseModel]:
    """The body of a step for the attributes of one stream.

    Args:
        columns: The attributes that its criteria look at; a row has exactly these.
        max_batch: Rows at most.

    Returns:
        A model with ``batch_id`` and ``rows``, each with ``score`` and ``groups``.
    """
    fields: dict[str, Any] = {f"value_{position}": (Value, Field(alias=name)) for position, name in enumerate(columns)}
    groups = pydantic.create_model("Groups", __base__=Message, __doc__="One value per attribute.", **fields)
    row = pydantic.create_model("Row", __base__=Message, __doc__="One score.", score=(Score, ...), groups=(groups, ...))
    rows: Any = Annotated[list[row], Field(min_length=1, max_length=max_batch)]  # type: ignore[valid-type]
    return pydantic.create_model(
        "StepBody", __base__=Message, __doc__="Scores to be enforced.", batch_id=(BatchId, ...), rows=(rows, ...)
    )
