"""A hash of what an object is made of: equal for equal state in every process and whatever file it came from."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from auditkit.errors import InputError

PLAIN = (type(None), bool, int, float, complex, str, bytes)


def hash_object(value: Any) -> str:
    """SHA-256 over the types and the state of an object and of everything that it holds.

    Arrays count with type, shape and bytes, functions and classes by their name, other objects by their class and by
    the state that they would be stored with. Nothing is stored and nothing is run but ``__getstate__`` or
    ``__reduce__`` of the parts.

    Args:
        value: Such as a fitted scikit-learn pipeline.

    Returns:
        64 hexadecimal digits.

    Raises:
        InputError: A part has no state that could be read.
    """
    digest = hashlib.sha256()
    _Walk(digest).add(value)
    return digest.hexdigest()


class _Walk:
    """Feeds a digest with an object, each part once: a part met again counts by its number."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is only unique while its object lives

    def add(self, value: Any) -> None:
        if isinstance(value, PLAIN):
            self._tag(type(value).__name__, repr(value))
        elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
            self._tag("array", f"{value.dtype.str if value.dtype.names is None else value.dtype.descr}|{value.shape}")
            self._digest.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, np.generic):
            self._tag("number", f"{value.dtype.str}|{value!r}")
        elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | np.ufunc):
            self._tag("named", f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}")
        elif self._is_new(value):
            self._add_parts(value)

    def _add_parts(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            self._tag("objects", str(value.shape))
            self._each(value.ravel().tolist())
        elif isinstance(value, Mapping):
            self._tag("mapping", f"{_name(value)}|{len(value)}")
            for key in sorted(value, key=_order):
                self.add(key)
                self.add(value[key])
        elif isinstance(value, list | tuple):
            self._tag("sequence", f"{_name(value)}|{len(value)}")
            self._each(value)
        elif isinstance(value, set | frozenset):
            self._tag("set", str(len(value)))
            self._each(sorted(value, key=_order))
        else:
            self._tag("object", _name(value))
            self.add(_state(value))

    def _each(self, values: Any) -> None:
        for value in values:
            self.add(value)

    def _is_new(self, value: Any) -> bool:
        number = self._seen.setdefault(id(value), len(self._seen))
        if number == len(self._kept):
            self._kept.append(value)
            return True
        self._tag("again", str(number))
        return False

    def _tag(self, kind: str, text: str) -> None:
        self._digest.update(json.dumps([kind, text]).encode() + b"\n")


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _order(key: Any) -> tuple[str, str]:
    return type(key).__name__, repr(key)


def _state(value: Any) -> Any:
    if isinstance(value, np.random.RandomState | np.random.Generator):
        return value.__reduce__()[1:] if isinstance(value, np.random.Generator) else value.get_state(legacy=False)
    try:
        state = value.__getstate__()
        return state if state is not None else value.__reduce_ex__(4)[1:3]
    except (TypeError, AttributeError, NotImplementedError) as error:
        raise InputError(f"the fingerprint of {_name(value)} cannot be taken: it has no state to read") from error
