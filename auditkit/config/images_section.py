"""The section of the audit file that says where the images of a data set are and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from auditkit.config.files_section import FilesSection


class ImagesSection(FilesSection):
    """A column of image paths, and what becomes of the images."""

    KEY = "images"
    READS = ("images", "image paths")

    column: str = Field(default="path", min_length=1, description="Column of image paths, relative to the root.")
    root: str | None = Field(
        default=None, description="Folder of the images, relative to this file; by default the table's own."
    )
    on_corrupt: Literal["fail", "skip"] = Field(
        default="fail", description="Stop at an image that cannot be read, or skip it; skipped images are counted."
    )
    max_pixels: int = Field(
        default=89_478_485, ge=1, le=178_956_970, description="Largest width x height that is decoded."
    )
    size: tuple[int, int] | None = Field(
        default=None, description="Height and width for a model that does not bring its own preprocessing."
    )
    mean: tuple[float, float, float] | None = Field(
        default=None, description="Subtracted from values of 0 to 1, per channel; 0 by default. With size only."
    )
    std: tuple[float, float, float] | None = Field(
        default=None, description="Divided by, per channel; 1 by default. With size only."
    )
    batch_size: int = Field(default=64, ge=1, description="Images per step of the model.")
    workers: int = Field(default=0, ge=0, description="Processes that decode images; 0 decodes in the job's own.")

    @model_validator(mode="after")
    def _check(self) -> ImagesSection:
        if self.size is None and (self.mean is not None or self.std is not None):
            raise ValueError("mean and std need size, the height and width that the model reads")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be height and width, both at least 1; got {list(self.size)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be positive; got {list(self.std)}")
        return self

    def extraction_options(self) -> dict[str, Any]:
        """The fields of `auditkit.feature_cache.ExtractionConfig` that are named alike."""
        return self.model_dump(include={"batch_size", "workers", "device", "mixed", "on_corrupt", "max_pixels"})

    def preprocessing_options(self) -> dict[str, Any] | None:
        """The fields of `auditkit.feature_cache.ImagePreprocessing`; None without a size."""
        return None if self.size is None else self.model_dump(include={"size", "mean", "std"}, exclude_none=True)

    def place(self, folder: Path, cache: Path | Literal[False] | None) -> PlacedImages:
        """The section of a file in a folder; ``cache``, where it is given, has precedence over the file's."""
        root = None if self.root is None else folder / self.root
        return PlacedImages(self, root, self.place_cache(folder, cache))


@dataclass(frozen=True)
class PlacedImages:
    """The section with its folders in place.

    Attributes:
        section: The section.
        root: Folder of the images; None is the table's own.
        cache: Folder that keeps features; True is the user's cache folder, False none.
    """

    section: ImagesSection
    root: Path | None
    cache: Path | bool
