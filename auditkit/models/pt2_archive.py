"""Open a torch.export archive (.pt2) without running anything in it.

Reading one with ``torch.export.load`` can run code in many places: pickled weights, constants and example inputs;
compiled libraries; symbolic sizes and guards, which are evaluated as Python; operator names, which are looked up
anywhere below ``torch``; names of values, which become the text of a Python function. Here the archive is taken apart,
every part is checked against what may stand there, and a new archive is made of the checked parts alone; only that one
is given to torch, so nothing depends on two readers understanding the same file alike.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from auditkit.errors import InputError, UntrustedFileError
from auditkit.models.archives import check_archive

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/"
CONSTANTS = "data/constants/"
CONFIGS = {WEIGHTS: "model_weights_config.json", CONSTANTS: "model_constants_config.json"}
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
MARKS = {"archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id", "version"}
DROPPED = ("data/sample_inputs/", "extra/")

NAME = re.compile(r"[\w.]*", re.ASCII)
IDENTIFIER = re.compile(r"[A-Za-z_]\w*|", re.ASCII)
TENSOR_FILE = re.compile(r"(?:weight|tensor)_\d+", re.ASCII)
WORD = re.compile(r"[\w.:+\-]*", re.ASCII)
OPERATOR = re.compile(r"torch\.ops\.aten\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)")
OTHER_OPERATORS = frozenset(
    {f"_operator.{name}" for name in ("getitem", "add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pos")}
    | {f"_operator.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_")}
    | {f"torch.sym_{name}" for name in ("int", "float", "max", "min", "not", "ite", "sum")}
    | {"math.ceil", "math.floor", "math.trunc"}
    | {f"torch.ops.higher_order.{name}" for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast")}
)
REFUSED_ATEN = frozenset({"from_file", "_print", "set", "set_", "data", "set_data", "copy_sparse_to_sparse_"})
"""Operators of aten that reach a file, another storage or the screen."""

SYMBOL = re.compile(r"Symbol\('[a-z]{1,3}\d{1,6}'(?:, (?:positive|nonnegative|integer|real)=(?:True|False))*\)")
SYMBOLIC = frozenset(
    {
        "Integer", "Add", "Mul", "Max", "Min", "Mod", "FloorDiv", "CeilDiv", "CleanDiv", "PythonMod",
        "ModularIndexing", "Rational", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality",
        "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or", "Not", "true", "false",
        "BooleanTrue", "BooleanFalse", "IntTrueDiv", "TruncToInt", "FloorToInt", "CeilToInt", "ToFloat", "Half",
        "One", "Zero", "NegativeOne", "S",
    }
)  # fmt: skip
TREE_TYPES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None})
REFUSED_KEYS = frozenset({"as_custom_obj", "custom_obj", "as_operator", "as_opaque", "token", "input_token"})
NAME_KEYS = frozenset(
    {"name", "parameter_name", "buffer_name", "tensor_constant_name", "fqn", "graph_name", "target_name"}
)

Layers = dict[str, str]
"""Layer path → name of the last value computed inside that layer."""


def read_program(path: Path) -> tuple[io.BytesIO, Layers]:
    """Check a .pt2 archive and rebuild it from what was checked.

    Args:
        path: The archive.

    Returns:
        An archive that ``torch.export.load`` may read, and where the layers of the original module end.

    Raises:
        UntrustedFileError: A part could run code, or the archive is built to mislead.
        InputError: It is missing, damaged, or of a form that is no longer written.
    """
    if not path.is_file():
        raise InputError(f"spec: there is no file {str(path)!r}")
    check_archive(path, what="program")
    with zipfile.ZipFile(path) as archive:
        parts = _parts(archive, path)
    program = _json(parts, PROGRAM, path)
    layers = _layers(program)
    _check(program, path, "")
    parts[PROGRAM] = json.dumps(program).encode()
    parts[SAMPLE_INPUTS] = b""
    for folder, config in CONFIGS.items():
        content = _json(parts, folder + config, path)
        _check_payload(content, folder, parts, path)
        parts[folder + config] = json.dumps(content).encode()
    return _rebuild(parts), layers


def _parts(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    """The entries that are known, without the archive's own top folder."""
    parts: dict[str, bytes] = {}
    for entry in archive.infolist():
        top, _, name = entry.filename.partition("/")
        if not name or top in ("code", "serialized_state_dict.pt"):
            raise _outdated(path)
        if name in ("data.pkl", "constants.pkl") or name.startswith("code/"):
            raise UntrustedFileError(
                f"spec: {path.name!r} is a TorchScript or pickle archive, which can run code when it is loaded; save "
                "the nn.Module with torch.export.save"
            )
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UntrustedFileError(f"spec: {path.name!r} holds compressed entries, which torch.export does not write")
        if name.startswith(DROPPED):
            continue
        if not _is_known(name):
            raise UntrustedFileError(
                f"spec: {path.name!r} holds {name!r}, which is no part of a plain exported program (compiled code or "
                "several models); save it again with torch.export.save"
            )
        try:
            parts[name] = archive.read(entry)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise InputError(f"spec: {str(path)!r} is damaged ({error}); copy it again") from error
    if PROGRAM not in parts:
        raise _outdated(path)
    return parts


def _is_known(name: str) -> bool:
    if name in MARKS or name == PROGRAM:
        return True
    # Other names in these folders, such as model.pt, are older forms, which torch unpickles whenever they are there.
    return any(
        name.startswith(folder) and (name[len(folder) :] == config or TENSOR_FILE.fullmatch(name[len(folder) :]))
        for folder, config in CONFIGS.items()
    )


def _outdated(path: Path) -> InputError:
    return InputError(
        f"spec: {path.name!r} is no archive of the form that torch.export.save writes since torch 2.8; export it again"
    )


def _json(parts: Mapping[str, bytes], name: str, path: Path) -> Any:
    try:
        return json.loads(parts[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"spec: {str(path)!r} is damaged: {name} cannot be read ({error})") from error


def _check(value: Any, path: Path, key: str) -> None:
    """Walk the program; every string must be of the kind that its key asks for, and notes that are run are left out."""
    if isinstance(value, dict):
        for inner in list(value):
            if inner in REFUSED_KEYS and value[inner] is not None:
                raise _refused(path, f"an object or function of its own ({inner})")
            if not NAME.fullmatch(inner):
                raise _refused(path, f"the name {inner[:60]!r}")
            if inner == "metadata":
                value[inner] = {}
            elif inner == "guards_code":
                value[inner] = []
            else:
                _check(value[inner], path, inner)
    elif isinstance(value, list):
        for item in value:
            _check(item, path, key)
    elif isinstance(value, str):
        _check_text(value, path, key)


def _check_text(text: str, path: Path, key: str) -> None:
    if key == "target":
        _check_operator(text, path)
    elif key == "expr_str":
        _check_symbolic(text, path)
    elif key in ("in_spec", "out_spec"):
        _check_tree(text, path)
    elif key in ("as_name", "forward_arg_names") or (key == "name" and "." not in text):
        if not IDENTIFIER.fullmatch(text):
            raise _refused(path, f"the name {text[:60]!r}")
    elif key in NAME_KEYS or key in ("verifiers", "dialect"):
        if not NAME.fullmatch(text):
            raise _refused(path, f"the name {text[:60]!r}")
    elif key not in ("as_string", "as_strings") and not WORD.fullmatch(text):
        raise _refused(path, f"the text {text[:60]!r} as {key}")


def _check_operator(target: str, path: Path) -> None:
    import torch

    if target in OTHER_OPERATORS:
        return
    found = OPERATOR.fullmatch(target)
    overload = "" if found is None or found.group(2) == "default" else f".{found.group(2)}"
    known = found is not None and torch._C._dispatch_has_kernel(f"aten::{found.group(1)}{overload}")
    if found is None or not known or found.group(1) in REFUSED_ATEN:
        raise _refused(path, f"the operator {target[:80]!r}, which is none of torch's own tensor operators")


def _check_symbolic(text: str, path: Path) -> None:
    rest = SYMBOL.sub("0", text)
    words = re.findall(r"[A-Za-z_]\w*", rest)
    plain = re.fullmatch(r"[\w\s(),+\-*<>=!]*", rest) is not None and "**" not in rest
    if not plain or not set(words) <= SYMBOLIC or re.search(r"\d{20}", rest) or len(text) > 5_000:
        raise _refused(path, f"the size {text[:60]!r}, which is evaluated as Python")


def _check_tree(text: str, path: Path) -> None:
    """The nesting of inputs and outputs: tuples, lists and dictionaries with plain keys."""
    if not text:
        return
    try:
        _check_node(json.loads(text)[1], path)
    except UntrustedFileError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"spec: {str(path)!r} is damaged: the form of its inputs cannot be read ({error})") from error


def _check_node(node: Mapping[str, Any], path: Path) -> None:
    if set(node) != {"type", "context", "children_spec"} or node["type"] not in TREE_TYPES:
        raise _refused(path, f"inputs of the type {node.get('type')!r}")
    context = json.loads(node["context"]) if isinstance(node["context"], str) else node["context"]
    if context is not None and not (
        isinstance(context, list) and all(isinstance(key, str) and IDENTIFIER.fullmatch(key) for key in context)
    ):
        raise _refused(path, f"inputs named {str(context)[:60]}")
    for child in node["children_spec"]:
        _check_node(child, path)


def _check_payload(content: Any, folder: str, parts: Mapping[str, bytes], path: Path) -> None:
    """Every weight is a plain tensor that lies whole in the archive."""
    config = content.get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict):
        raise InputError(f"spec: {str(path)!r} is damaged: {folder} has no list of tensors")
    for name, entry in config.items():
        if not NAME.fullmatch(name):
            raise _refused(path, f"the name {name[:60]!r}")
        stored, meta = entry.get("path_name", ""), entry.get("tensor_meta")
        if entry.get("use_pickle") or meta is None or not TENSOR_FILE.fullmatch(stored):
            raise _refused(path, f"a pickle or an object in the place of the tensor {name!r}")
        _check(meta, path, "")
        if folder + stored not in parts:
            raise InputError(f"spec: {str(path)!r} is damaged: the tensor {name!r} is missing; copy it again")
        sizes = [size.get("as_int", 0) for size in meta["sizes"]]
        if math.prod(sizes) > max(8 * len(parts[folder + stored]), 0):
            raise InputError(f"spec: {str(path)!r} is damaged: the tensor {name!r} of shape {sizes} is cut short")


def _layers(program: Any) -> Layers:
    """Where each layer ends, from the notes of the exporter; they are read as text and used for nothing else."""
    layers: Layers = {}
    for node in _nodes(program):
        stack = str(node.get("metadata", {}).get("nn_module_stack", ""))
        name = str(node.get("name") or "")
        for level in stack.split(";"):
            layer = level.split(",")[1] if level.count(",") >= 2 else ""
            if layer and name:
                layers[layer] = name
    return layers


def _nodes(program: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from program["graph_module"]["graph"]["nodes"]
    except (KeyError, TypeError):
        return


def _rebuild(parts: Mapping[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(f"model/{name}", content)
    buffer.seek(0)
    return buffer


def _refused(path: Path, what: str) -> UntrustedFileError:
    return UntrustedFileError(
        f"spec: {path.name!r} holds {what}; loading it could run code, so it is refused. Save it again with "
        "torch.export.save, from layers of torch alone, or pass the nn.Module"
    )
