"""The section of the audit file that says which model is audited."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field

from auditkit.config.scalars import Whole

PREFIXES = ("hf-hub:", "local-dir:", "sample:", "timm:")
"""What a model's name may begin with that is no path."""


class ModelSection(pydantic.BaseModel):
    """A model with the options that `auditkit.load_model` takes for it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, description="A file or folder relative to this file, or e.g. timm:<name>.")
    checkpoint: str | None = Field(default=None, description="Weights for timm:<name>, relative to this file.")
    task: Literal["binary", "regression", "multiclass"] | None = Field(
        default=None, description="What it predicts, where the file does not tell."
    )
    features: str | tuple[str, ...] | None = Field(
        default=None, description="Where features are read: a layer, a value of an ONNX graph, or columns."
    )
    output: Whole | str | tuple[str, Whole] | None = Field(
        default=None,
        description="Which of several outputs is the score: its number, from 0, or a class; the name of an output of "
        "an ONNX graph, or [name, number].",
    )
    outputs: Literal["logits", "probabilities"] | None = Field(
        default=None, description="What that output holds, where the graph does not tell."
    )
    trust: str | tuple[str, ...] | None = Field(
        default=None, description='Types that a .skops file may construct; or "pickle", which runs code in the file.'
    )
    score: str | None = Field(default=None, description="Column of scores, where the model is a table of predictions.")
    key: str | None = Field(default=None, description="Column that joins such a table to the data.")

    def spec(self, folder: Path) -> str | Path:
        """What `auditkit.load_model` takes."""
        return model_path(self.path, folder)

    def options(self, folder: Path) -> dict[str, Any]:
        """The keyword arguments of `auditkit.load_model`."""
        given = self.model_dump(exclude={"path"}, exclude_none=True)
        return given if self.checkpoint is None else {**given, "checkpoint": folder / self.checkpoint}


def model_path(text: str, folder: Path) -> str | Path:
    """A model's name as it is, or its path below a folder; a local-dir: is a path too."""
    if text.startswith("local-dir:"):
        return f"local-dir:{folder / text.removeprefix('local-dir:')}"
    return text if text.startswith(PREFIXES) else folder / text
