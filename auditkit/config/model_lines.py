"""The lines of a first audit file that come from a model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from auditkit.config.model_section import PREFIXES

if TYPE_CHECKING:
    from auditkit.models.inspection import ModelSketch


def describe_model(
    model: ModelSketch, folder: Path, *, columns: Sequence[str] = (), taken: Sequence[str | None] = ()
) -> list[str]:
    """The features of the data and the ``model:`` section, with what has to be known about them.

    Args:
        model: What the model says about itself.
        folder: Where the audit file will lie.
        columns: Columns of the table; empty where it is not known yet.
        taken: Columns of the table that are something else.

    Returns:
        Lines that follow the ``data:`` section.
    """
    lines = _features(model, columns, taken) if model.reads == "columns" else _files(model, columns)
    spec = _spec(model.spec, folder)
    if model.options:
        lines += ["model:", f"  path: {quote_text(spec)}   # {model.what}"]
        lines += [f"  {name}: {_value(value)}" for name, value in model.options.items()]
    else:
        lines.append(f"model: {quote_text(spec)}   # {model.what}")
    return [*lines, *(f"# {comment_text(note)}" for note in model.notes)]


def _spec(spec: str, folder: Path) -> str:
    """A model as an audit file in ``folder`` names it."""
    if spec.startswith("local-dir:"):
        return f"local-dir:{relative_path(Path(spec.removeprefix('local-dir:')), folder)}"
    return spec if spec.startswith(PREFIXES) else relative_path(Path(spec), folder)


def _files(model: ModelSketch, columns: Sequence[str]) -> list[str]:
    """The column of texts, or of image files, by its name."""
    pattern, line, example = _READ[model.reads]
    found = next((name for name in columns if re.fullmatch(pattern, name, flags=re.IGNORECASE)), None)
    return [f"  {'# ' if found is None else ''}{line.format(quote_text(found or example))}"]


_READ = {
    "text": (
        r"(\w+_)?(text|texts|review|comment|content|message|body|letter|description|sentence|document|post|essay)",
        "text: {}   # the column of texts that the model reads",
        "review",
    ),
    "image": (
        r"(\w+_)?(path|file|filename|image|img|picture|photo)(_(path|file|name))?",
        "images: {{column: {}}}   # the column of image files that the model reads, relative to this file",
        "file",
    ),
}
"""What a row is to a model: names of columns, the line of the audit file, and a column where none is found."""


def _features(model: ModelSketch, columns: Sequence[str], taken: Sequence[str | None]) -> list[str]:
    if model.columns:
        lines = [f"  features: [{', '.join(map(quote_text, model.columns))}]   # what the model reads, in its order"]
        absent = [name for name in model.columns if columns and name not in columns]
        if absent:
            lines.append(f"  # the table lacks {comment_text(', '.join(absent))}, which the model reads")
        return lines
    left = [name for name in columns if name not in taken]
    if model.width is None:
        return ["  # features: [age, education]   # what the model reads, in its order"]
    if len(left) == model.width:
        shown = ", ".join(map(quote_text, left))
        return [f"  features: [{shown}]   # the model reads {model.width} columns without names: check the order"]
    counted = f"; {len(left)} are left beside the roles above" if columns else ""
    return [f"  # features: []   # the model reads {model.width} columns without names, in its order{counted}"]


def relative_path(path: Path, folder: Path) -> str:
    """A path as an audit file in ``folder`` names it."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def quote_text(text: str) -> str:
    """A string as YAML; what JSON writes, YAML reads."""
    reserved = re.fullmatch("y|n|yes|no|on|off|true|false|null", text, flags=re.IGNORECASE)
    return text if re.fullmatch(r"[A-Za-z_]\w*", text) and not reserved else json.dumps(text)


def comment_text(text: str) -> str:
    """A string on one line."""
    return " ".join(text.split())


def _value(value: object) -> str:
    listed = isinstance(value, list | tuple)
    return f"[{', '.join(quote_text(str(one)) for one in value)}]" if listed else quote_text(str(value))
