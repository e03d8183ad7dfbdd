"""The sections of the audit file that say which model is audited and which images it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field

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
    output: str | None = Field(default=None, description="The output of an ONNX graph that holds the scores.")
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


class ImageSection(pydantic.BaseModel):
    """Images as data: the table names one in each row, and a vision model reads them."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    column: str = Field(default="path", description="Column of image paths.")
    folder: str = Field(default=".", description="Where they are, relative to this file; nothing outside is read.")
    unreadable: Literal["refuse", "skip"] = Field(
        default="refuse", description="What to do about images that cannot be decoded; skip counts them in the report."
    )
    cache: str = Field(default="features", description="Folder of computed features, relative to this file.")
    batch_size: int = Field(default=64, ge=1, description="Images per step of the model.")
    workers: int = Field(default=0, ge=0, description="Processes that decode images; 0 decodes in this one.")
    device: str = Field(default="cpu", description='Where the model runs: "cpu", "cuda", "cuda:1".')
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="Of the computation; features are stored as float32."
    )


def model_path(text: str, folder: Path) -> str | Path:
    """A model's name as it is, or its path below a folder; a local-dir: is a path too."""
    if text.startswith("local-dir:"):
        return f"local-dir:{folder / text.removeprefix('local-dir:')}"
    return text if text.startswith(PREFIXES) else folder / text
