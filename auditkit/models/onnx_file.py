"""Look into an ONNX file before a runtime gets it: nothing outside its folder, nothing that needs foreign code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from auditkit._extras import import_extra
from auditkit.errors import InputError, UntrustedFileError

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
REFUSED_OPERATORS = frozenset({"EPContext", "PyOp", "ExternalStream"})
"""Operators of the runtime itself that hand work, or a path, to something outside of it."""

PROBABILITY_OPERATORS = frozenset({"Softmax", "Sigmoid", "HardSigmoid"})
PROBABILITY_ESTIMATORS = frozenset({"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"})
PASSING_OPERATORS = frozenset(
    {"Cast", "Flatten", "Identity", "Normalizer", "Reshape", "Squeeze", "Unsqueeze", "ZipMap", "Gather", "Slice"}
)
"""Operators behind which probabilities are still probabilities."""


def read_onnx(path: Path) -> Any:
    """Parse an ONNX file without reading any other file, and check it.

    Args:
        path: The file.

    Returns:
        The ``onnx.ModelProto``.

    Raises:
        InputError: The file is missing, damaged or truncated, or data beside it are.
        UntrustedFileError: It needs an operator library of somebody else, or reads files outside its folder.
        MissingExtraError: onnx is not installed.
    """
    if not path.is_file():
        raise InputError(f"spec: there is no file {str(path)!r}")
    onnx = import_extra("onnx")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # the parser's own exceptions have no common base
        raise InputError(f"spec: {str(path)!r} is damaged or no ONNX file ({error}); export it again") from error
    if not model.graph.node or not model.graph.output:
        raise InputError(f"spec: {str(path)!r} is damaged or no ONNX file (it has no graph); export it again")
    _check_operators(model, path)
    for tensor in _tensors(model):
        _check_external(tensor, path)
    return model


def describe_probabilities(model: Any, output: str) -> bool:
    """Whether an output is already a probability: made by a softmax, a sigmoid or a classifier, perhaps reshaped."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for _ in range(len(makers)):
        node = makers.get(output)
        if node is None:
            return False
        if node.op_type in PROBABILITY_OPERATORS or node.op_type in PROBABILITY_ESTIMATORS:
            return True
        if node.op_type not in PASSING_OPERATORS:
            return False
        output = node.input[0]
    return False


def has_external(model: Any) -> bool:
    """Whether weights lie in files beside the model."""
    return any(_is_external(tensor) for tensor in _tensors(model))


def external_files(model: Any, folder: Path) -> list[Path]:
    """The files beside the model that hold its weights, sorted."""
    return sorted({folder / _location(tensor)["location"] for tensor in _tensors(model) if _is_external(tensor)})


def _check_operators(model: Any, path: Path) -> None:
    own = {function.domain for function in model.functions}
    nodes = [*_nodes(model.graph), *(node for function in model.functions for node in _inner(function.node))]
    foreign = sorted({node.domain for node in nodes} - STANDARD_DOMAINS - own)
    if foreign:
        raise UntrustedFileError(
            f"spec: {path.name!r} needs operators of {', '.join(map(repr, foreign))}, which only a library of foreign "
            "code brings; export the model with standard ONNX operators"
        )
    refused = sorted({node.op_type for node in nodes} & REFUSED_OPERATORS)
    if refused:
        raise UntrustedFileError(
            f"spec: {path.name!r} uses the operator {', '.join(refused)}, which hands work to something outside of the "
            "file; export the model with standard ONNX operators"
        )


def _check_external(tensor: Any, path: Path) -> None:
    if not _is_external(tensor):
        return
    entries = _location(tensor)
    location = PurePosixPath(entries.get("location", "").replace("\\", "/"))
    root = path.parent.resolve()
    file = (path.parent / location).resolve()
    if not location.name or location.is_absolute() or ".." in location.parts or not file.is_relative_to(root):
        raise UntrustedFileError(
            f"spec: {path.name!r} keeps the tensor {tensor.name!r} in {str(location)!r}, which leads out of its "
            "folder; export the model again, into one file or one folder"
        )
    if not file.is_file():
        raise InputError(f"spec: {path.name!r} keeps the tensor {tensor.name!r} in {str(location)!r}, which is missing")
    end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    if end > file.stat().st_size:
        raise InputError(
            f"spec: {str(location)!r} is truncated: the tensor {tensor.name!r} ends at byte {end:,} of "
            f"{file.stat().st_size:,}; copy it again"
        )


def _location(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _is_external(tensor: Any) -> bool:
    return bool(tensor.external_data) or tensor.data_location == 1  # TensorProto.EXTERNAL


def _nodes(graph: Any) -> Iterator[Any]:
    yield from _inner(graph.node)


def _inner(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph)


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    functions = [node for function in model.functions for node in _inner(function.node)]
    for node in (*_nodes(model.graph), *functions):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _graphs(inner)
