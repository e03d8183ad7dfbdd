"""Read an audit file; every mistake is a `SchemaError` that names the file, the line and the key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from auditkit.config.audit_file import AuditFile, Location, PlacedError
from auditkit.errors import InputError, SchemaError

MAX_BYTES = 1_000_000


def load_config(path: str | Path) -> AuditFile:
    """Read and check an audit file.

    Args:
        path: A YAML file; the paths in it are relative to its folder.

    Returns:
        The checked file.

    Raises:
        InputError: The file is missing, too large, or not UTF-8.
        SchemaError: It is not YAML, or a key is unknown, missing or wrong; the message names file, line and key.
    """
    file = Path(path)
    text = _read_text(file)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SchemaError(f"{file.name}{_mark(error)}: this is not YAML: {_one_line(error)}") from error
    if root is None or not isinstance(values, dict):
        raise SchemaError(f"{file.name}: an audit file is a mapping with name, data, criteria, …; see `auditkit init`")
    for key, line in _repeated_keys(root):
        raise SchemaError(f"{file.name}, line {line}: the key {key!r} is written twice; keep one")
    return _validate(values, folder=file.parent, file=file.name, root=root)


def make_config(values: Mapping[str, Any], *, folder: str | Path = ".") -> AuditFile:
    """Check the content of an audit file that was not read from one.

    Args:
        values: The keys of the file, e.g. the ``plan`` of a run.json.
        folder: What the paths in it are relative to.

    Returns:
        The checked file.

    Raises:
        SchemaError: A key is unknown, missing or wrong.
    """
    return _validate(dict(values), folder=Path(folder), file="audit file", root=None)


def sample_config() -> AuditFile:
    """The audit of the bundled sample model, as `auditkit demo` runs it."""
    return make_config(yaml.safe_load(example_config()))


def config_schema() -> dict[str, Any]:
    """The JSON Schema of the audit file, for editors and for checks outside Python."""
    schema = AuditFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "auditkit audit file"}


def example_config() -> str:
    """A commented audit file that runs as it is, on the bundled sample."""
    return (Path(__file__).parent / "example.yaml").read_text(encoding="utf-8")


def _read_text(file: Path) -> str:
    if not file.is_file():
        raise InputError(f"there is no audit file {str(file)!r}; `auditkit init` writes one to start from")
    if file.stat().st_size > MAX_BYTES:
        raise InputError(f"{file.name} has more than {MAX_BYTES:,} bytes; is it the data instead of the audit file?")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file.name} is not UTF-8 text (byte {error.start}); save it again as UTF-8") from error


def _validate(values: dict[str, Any], *, folder: Path, file: str, root: yaml.Node | None) -> AuditFile:
    try:
        checked = AuditFile.model_validate(values)
    except pydantic.ValidationError as error:
        raise SchemaError(_explain(error, file=file, root=root)) from None
    return checked.within(folder)


def _explain(error: pydantic.ValidationError, *, file: str, root: yaml.Node | None) -> str:
    """The likeliest mistake in a line, with how many there are beside it."""
    problems = sorted(error.errors(include_url=False), key=_urgency)
    first = problems[0]
    location, message = _problem(first)
    others = len({problem["loc"][:3] for problem in problems} - {first["loc"][:3]})
    line, known = _find(root, location)
    where = file if line is None else f"{file}, line {line}"
    more = f" (and {others} more problem{'s' * (others > 1)})" if others else ""
    return f"{where}, {_dotted(known)}: {message}{more}" if known else f"{where}: {message}{more}"


def _urgency(problem: Any) -> tuple[bool, int]:
    """A misspelt key first, then the deepest: where a value fits neither of two forms, the form it is nearer."""
    return problem["type"] != "extra_forbidden", -len(problem["loc"])


def _problem(error: Any) -> tuple[Location, str]:
    """Where a mistake is and what it is, in words."""
    location, message = tuple(error["loc"]), str(error["msg"]).removeprefix("Value error, ")
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, PlacedError):
        return cause.location, message
    if error["type"] == "extra_forbidden":
        return location, f"there is no such key{_suggestion(location)}"
    if error["type"] == "missing":
        return location[:-1], f"the key {location[-1]!r} is missing"
    if error["type"] == "value_error":
        named = message.partition(" ")[0]
        return (*location, named) if named in _known_keys(location) else location, message
    shown = repr(error["input"])
    return location, f"{message[:1].lower()}{message[1:]}; got {shown if len(shown) < 60 else shown[:57] + '…'}"


def _suggestion(location: Location) -> str:
    """The keys that may stand where an unknown one was found, the likeliest first."""
    known = _known_keys(location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"


def _known_keys(location: Location) -> list[str]:
    """The keys of the section at a location, from the JSON Schema."""
    schema = AuditFile.model_json_schema()
    section: Any = schema
    for step in location:
        if step in schema["$defs"] or step == "str":  # which form of a value pydantic tried, no key of the file
            continue
        section = section.get("items", {}) if isinstance(step, int) else section.get("properties", {}).get(step, {})
        choices = [choice for choice in section.get("anyOf", ()) if choice.get("type") != "null"]
        section = next((choice for choice in choices if "$ref" in choice), choices[0] if choices else section)
        section = schema["$defs"][section["$ref"].rpartition("/")[2]] if "$ref" in section else section
    return list(section.get("properties", {}))


def _find(root: yaml.Node | None, location: Location) -> tuple[int | None, Location]:
    """The line of a location and the part of it that the file holds; what pydantic added in between is skipped."""
    node, line, known = root, None, []
    for step in location:
        found = _child(node, step) if node is not None else (None, None)
        if found[0] is not None:
            node, line = found
            known.append(step)
        elif root is None and (isinstance(step, int) or step.isidentifier()):
            known.append(step)
    return line, tuple(known)


def _child(node: yaml.Node, step: str | int) -> tuple[yaml.Node | None, int | None]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return item, item.start_mark.line + 1
    return None, None


def _dotted(location: Location) -> str:
    words = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return words.removeprefix(".")


def _repeated_keys(root: yaml.Node) -> Iterator[tuple[str, int]]:
    """Keys that occur twice in one mapping; the YAML loader would keep the last in silence."""
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:  # an alias may point back at what holds it
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        elif isinstance(node, yaml.MappingNode):
            names: set[str] = set()
            for key, value in node.value:
                if key.value in names:
                    yield str(key.value), key.start_mark.line + 1
                names.add(str(key.value))
                pending.append(value)


def _mark(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f", line {mark.line + 1}"


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())
