"""The section of the audit file that says which column of a table holds texts, and how a model reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from auditkit.config.files_section import FilesSection


class TextSection(FilesSection):
    """A column of texts, and what becomes of them."""

    KEY = "text"
    READS = ("texts", "texts")

    column: str = Field(min_length=1, description="Column of texts.")
    on_missing: Literal["fail", "skip"] = Field(
        default="fail", description="Stop at a row without text, or skip it; skipped rows are counted."
    )
    batch_size: int = Field(default=32, ge=1, description="Texts per step of the model.")

    def extraction_options(self) -> dict[str, Any]:
        """The fields of `auditkit.feature_cache.ExtractionConfig`."""
        named = self.model_dump(include={"batch_size", "device", "mixed"})
        return {**named, "on_corrupt": self.on_missing}

    def place(self, folder: Path, cache: Path | Literal[False] | None) -> PlacedTexts:
        """The section of a file in a folder; ``cache``, where it is given, has precedence over the file's."""
        return PlacedTexts(self, self.place_cache(folder, cache))

    def misplaced(self, data: Any) -> Iterator[tuple[tuple[str, str], str]]:
        """What does not go with rows that are texts, with the place to mend it."""
        yield from super().misplaced(data)
        if data.images is not None:
            yield ("data", "images"), "a model reads texts or images; keep one of data.text and data.images"


@dataclass(frozen=True)
class PlacedTexts:
    """The section with its cache in place.

    Attributes:
        section: The section.
        cache: Folder that keeps features; True is the user's cache folder, False none.
    """

    section: TextSection
    cache: Path | bool
