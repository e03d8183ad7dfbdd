"""What the sections of images and of texts have in common: a column, how a model reads it, and where features stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from auditkit.config.scalars import Section


class FilesSection(Section):
    """Rows whose content a frozen model reads from files, once, with its features kept."""

    KEY: ClassVar[str]
    """The key of the section in ``data``."""
    READS: ClassVar[tuple[str, str]]
    """What the model reads, and what the column holds, in words."""

    column: str
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="What the model runs on.")
    mixed: bool = Field(default=False, description="Half precision where autocast allows it, on a GPU only.")
    cache: bool | str = Field(
        default=True,
        description="Keep features: true in $AUDITKIT_CACHE or the user's cache folder, a folder relative to this "
        "file, or false.",
    )

    def place_cache(self, folder: Path, cache: Path | Literal[False] | None) -> Path | bool:
        """Where features stay for a file in a folder; ``cache``, where it is given, has precedence over the file's."""
        asked = folder / self.cache if isinstance(self.cache, str) else self.cache
        return asked if cache is None else cache

    def misplaced(self, data: Any) -> Iterator[tuple[tuple[str, str], str]]:
        """What does not go with rows of this kind, with the place to mend it."""
        read, held = self.READS
        for key in ("features", "score"):
            if getattr(data, key) is not None:
                yield ("data", key), f"the model reads the {read} of data.{self.KEY}; leave {key} out"
        if self.column in data.exclude:
            yield ("data", "exclude"), f"exclude names {self.column!r}, the column of {held}; leave it in"
