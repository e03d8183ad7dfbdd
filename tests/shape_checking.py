"""The run-time check that conftest.py hooks into auditkit: shapes only.

A wrong type must reach auditkit's own validation, whose message is part of the contract, so annotations without a
jaxtyping shape are left unchecked here; pyright covers them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jaxtyping
import torch
from beartype import beartype

PACKAGE = Path(__file__).parent.parent / "auditkit"


def modules_with_shapes() -> list[str]:
    """Dotted names of the auditkit modules that use jaxtyping."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if "jaxtyping" in file.read_text(encoding="utf-8"):
            parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Beartype ``function``, with every annotation that holds no shape replaced by ``object``."""
    hints = dict(function.__annotations__)
    if not any(holds_shape(hint) for hint in hints.values()):
        return function
    function.__annotations__ = {name: hint if holds_shape(hint) else object for name, hint in hints.items()}
    checked = beartype(function)

    @functools.wraps(function)
    def unless_compiling(*args: Any, **kwargs: Any) -> Any:
        return None if torch.compiler.is_compiling() else checked(*args, **kwargs)

    return unless_compiling


def holds_shape(hint: object) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(holds_shape(part) for part in get_args(hint))
