"""The stream file: which criteria a stream enforces, how, and where its state is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import Field

from auditkit.config.audit_file import CriterionSpec, Number, Whole
from auditkit.criteria import Criterion
from auditkit.errors import InputError, SchemaError
from auditkit.groups import LABEL

MAX_BYTES = 100_000


class StreamFile(pydantic.BaseModel):
    """What `auditkit stream` and `auditkit serve` read; every key but ``criteria`` has a default."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    criteria: tuple[CriterionSpec, ...] = Field(min_length=1, description="What is enforced.")
    label: str = Field(default=LABEL, description="The name that stands for the label in `given` of a criterion.")
    bounds: tuple[Number | None, Number | None] | None = Field(default=None, description="Of every released score.")
    rule: Literal["pooled", "scalar"] = Field(default="pooled", description="scalar is the paper's, per batch.")
    repayment: Number = Field(default=4.0, ge=0, description="What was missed is repaid over N/repayment rows.")
    band: Number = Field(default=1.0, ge=0, description="The pooled gap aimed at is tolerance + band/√N.")
    min_labels: Whole = Field(default=20, ge=1, description="Labelled rows per group before labels are acted on.")
    window: Number | None = Field(default=None, ge=1, description="Rows after which a row weighs 1/e; null: never.")
    hard_rows: Whole | None = Field(default=None, ge=1, description="Of the scalar rule: batches projected outright.")
    eta: Number = Field(default=0.5, ge=0, description="First step size of the scalar rule.")
    confidence: Number = Field(default=0.95, gt=0, lt=1, description="Of the intervals for the population.")
    store: str | None = Field(default=None, description="A file beside this one, or a PostgreSQL URL.")

    def build_criteria(self) -> tuple[Criterion, ...]:
        """The criteria as objects."""
        return tuple(spec.build(label=self.label) for spec in self.criteria)

    def enforcer_options(self) -> dict[str, Any]:
        """What `auditkit.OnlineEnforcer` takes beside the criteria and the store."""
        names = ("bounds", "rule", "repayment", "band", "min_labels", "window", "hard_rows", "eta", "confidence")
        return {name: getattr(self, name) for name in names}


def load_stream_file(path: str | Path) -> StreamFile:
    """Read and check a stream file.

    Args:
        path: A YAML file; a store that is a file lies beside it unless its path is absolute.

    Returns:
        The checked file, the store's path made complete.

    Raises:
        InputError: The file is missing or too large.
        SchemaError: It is not YAML, or a key is unknown, missing or wrong.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"there is no stream file {str(file)!r}; it holds criteria, bounds, store, … (docs/streaming.md)"
        )
    if file.stat().st_size > MAX_BYTES:
        raise InputError(f"{file.name} is larger than {MAX_BYTES} bytes; this is no stream file")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SchemaError(f"{file.name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise SchemaError(f"{file.name}: a stream file is a mapping with criteria, bounds, store, …")
    try:
        checked = StreamFile.model_validate(values)
    except pydantic.ValidationError as error:
        raise SchemaError(f"{file.name}, {_first_problem(error)}") from None
    store = checked.store
    if store is not None and "://" not in store:
        checked = checked.model_copy(update={"store": str(file.parent / store)})
    return checked


def _first_problem(error: pydantic.ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    place = ".".join(map(str, first["loc"]))
    words = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        words = f"there is no such key; there are: {', '.join(StreamFile.model_fields)}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {words[:1].lower()}{words[1:]}{more}"
