"""The section of the audit file that says which column of a table holds texts, and how a model reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from auditkit.config.scalars import Section


class TextSection(Section):
    """A column of texts, and what becomes of them."""

    column: str = Field(min_length=1, description="Column of texts.")
    on_missing: Literal["fail", "skip"] = Field(
        default="fail", description="Stop at a row without text, or skip it; skipped rows are counted."
    )
    batch_size: int = Field(default=32, ge=1, description="Texts per step of the model.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="What the model runs on.")
    mixed: bool = Field(default=False, description="Half precision where autocast allows it, on a GPU only.")
    cache: bool | str = Field(
        default=True,
        description="Keep features: true in $AUDITKIT_CACHE or the user's cache folder, a folder relative to this "
        "file, or false.",
    )

    def extraction_options(self) -> dict[str, Any]:
        """The fields of `auditkit.feature_cache.ExtractionConfig`."""
        named = self.model_dump(include={"batch_size", "device", "mixed"})
        return {**named, "on_corrupt": self.on_missing}

    def place(self, folder: Path, cache: Path | Literal[False] | None) -> PlacedTexts:
        """The section of a file in a folder; ``cache``, where it is given, has precedence over the file's."""
        asked = folder / self.cache if isinstance(self.cache, str) else self.cache
        return PlacedTexts(self, asked if cache is None else cache)

    def misplaced(self, data: Any) -> Iterator[tuple[tuple[str, str], str]]:
        """What does not go with rows that are texts, with the place to mend it."""
        for key in ("features", "score"):
            if getattr(data, key) is not None:
                yield ("data", key), f"the model reads the texts of data.text; leave {key} out"
        if data.images is not None:
            yield ("data", "images"), "a model reads texts or images; keep one of data.text and data.images"
        if self.column in data.exclude:
            yield ("data", "exclude"), f"exclude names {self.column!r}, the column of texts; leave it in"


@dataclass(frozen=True)
class PlacedTexts:
    """The section with its cache in place.

    Attributes:
        section: The section.
        cache: Folder that keeps features; True is the user's cache folder, False none.
    """

    section: TextSection
    cache: Path | bool
