"""A frozen torch.export program, with any of its layers as the feature point."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from auditkit.errors import InputError
from auditkit.models.base import (
    FrozenModel,
    Task,
    fingerprint_of,
    one_per_row,
    padded,
    state_tensors,
    tensor_chunks,
    weights_hash,
)
from auditkit.models.pt2_archive import Layers, read_program
from auditkit.models.torch_module import as_tensor

CHUNK_ROWS = 4_096
_LINEAR = {"aten.linear.default": 0, "aten.addmm.default": 1, "aten.mm.default": 0}
"""Operators of a last layer, and which argument is what it reads."""


@final
class ExportedProgram(FrozenModel):
    """A frozen program that maps one tensor (n, …) to logits (n,), (n, 1), (n, 2) or (n, k).

    Args:
        path: A .pt2 file written by ``torch.export.save`` (torch 2.8 or newer).
        task: ``"binary"``, ``"regression"`` or ``"multiclass"``.
        features: A layer of the module that was exported, such as ``"body.2"``, or a value of its graph; by default
            what the last linear layer reads.
        name: What reports call it; the file's stem by default.
        chunk_rows: Rows computed at a time; a program of a fixed batch size takes that many.

    Raises:
        UntrustedFileError: Reading it could run code.
        InputError: It is damaged, was exported in training mode, or has no such layer.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        task: Task | None = None,
        features: str | None = None,
        name: str | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        file = Path(path)
        buffer, layers = read_program(file)
        module, self._shape = _load(buffer, file)
        self._module = module.requires_grad_(False)
        point = _feature_point(module, features, layers, file)
        self._features = None if point is None else _cut(module, point)
        chosen: Task = task or "binary"
        self._description = {
            "kind": "exported_program",
            "graph": [_line(node) for node in module.graph.nodes],
            "task": chosen,
            "features": "" if point is None else point.name,
        }
        rows = self._shape[0]
        super().__init__(
            name=name or file.stem,
            task=chosen,
            n_features=0 if point is None else _width(point),
            chunk_rows=rows if isinstance(rows, int) else chunk_rows,
            fingerprint=self._measure(),
            weights_sha256=weights_hash(state_tensors(module)),
        )

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of what it reads; None for a size that may be any."""
        return tuple(size if isinstance(size, int) else None for size in self._shape)

    def _measure(self) -> str:
        return fingerprint_of(self._module, describe=self._description)

    def _chunks(self, batch: Any) -> Iterator[Tensor]:
        rows = as_tensor(batch)
        if any(isinstance(a, int) and a != b for a, b in zip(self._shape[1:], rows.shape[1:], strict=False)) or len(
            self._shape
        ) != len(rows.shape):
            shown = ", ".join("n" if i == 0 else str(size) for i, size in enumerate(self._shape))
            raise InputError(f"batch must have shape ({shown}) for model {self.name!r}; got {tuple(rows.shape)}")
        return tensor_chunks(rows, module=self._module, chunk_rows=self.chunk_rows)

    def _call(self, module: nn.Module, chunk: Tensor) -> Tensor:
        rows = self._shape[0]
        found = module(padded(chunk, rows) if isinstance(rows, int) else chunk)
        found = found[0] if isinstance(found, tuple | list) else found
        if not isinstance(found, Tensor):
            raise InputError(f"model {self.name!r} gives a {type(found).__name__}; it must give one tensor")
        return found[: len(chunk)] if isinstance(rows, int) else found

    def _chunk_logits(self, chunk: Tensor) -> Tensor:
        return one_per_row(self._call(self._module, chunk), task=self.task, name=self.name)

    def _chunk_features(self, chunk: Tensor) -> Tensor:
        assert self._features is not None
        return self._call(self._features, chunk).flatten(1)


def _load(buffer: Any, file: Path) -> tuple[fx.GraphModule, tuple[Any, ...]]:
    """The program as a module, and the shape of its one input (a dimension of any size is None)."""
    try:
        program = torch.export.load(buffer)
        # Guards are Python text of the file's author; they were left out when the archive was checked.
        options = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
        module = program.module(**options)
    except Exception as error:  # a damaged program fails in any of torch's own ways
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"spec: {str(file)!r} is damaged or of another version of torch ({reason})") from error
    if program.graph_signature.buffers_to_mutate or any(map(_is_training, module.graph.nodes)):
        raise InputError(f"spec: {file.name!r} was exported in training mode; call module.eval() and export it again")
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1 or not isinstance(inputs[0].meta.get("val"), Tensor):
        raise InputError(
            f"spec: {file.name!r} reads {len(inputs)} inputs ({', '.join(node.name for node in inputs)}); it must read "
            "one tensor"
        )
    shape = inputs[0].meta["val"].shape
    return module, tuple(size if isinstance(size, int) else None for size in shape)


def _is_training(node: fx.Node) -> bool:
    """A dropout or a batch norm that behaves as in training."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    schema = node.target._schema
    names = [argument.name for argument in schema.arguments]
    place = next((names.index(word) for word in ("train", "training", "use_input_stats") if word in names), None)
    if place is None or schema.name == "aten::instance_norm":
        return False
    return (node.args[place] if place < len(node.args) else node.kwargs.get(names[place])) is True


def _feature_point(module: fx.GraphModule, wanted: str | None, layers: Layers, file: Path) -> fx.Node | None:
    values = {node.name: node for node in module.graph.nodes if node.op == "call_function"}
    if wanted is None:
        last = [node for node in values.values() if str(node.target) in _LINEAR]
        read = last[-1].args[_LINEAR[str(last[-1].target)]] if last else None
        return read if isinstance(read, fx.Node) and read.op == "call_function" else None
    found = values.get(layers.get(wanted, wanted))
    if found is None:
        there = ", ".join((*layers, *values))[:500]
        raise InputError(f"features {wanted!r} is no layer or value of {file.name!r}; there are: {there}")
    return found


def _cut(module: fx.GraphModule, point: fx.Node) -> fx.GraphModule:
    """The part of a program up to one value."""
    graph = fx.Graph()
    places: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            break
        places[node] = graph.node_copy(node, lambda old: places[old])
        if node is point:
            break
    graph.output(places[point])
    return fx.GraphModule(module, graph)


def _width(point: fx.Node) -> int:
    sizes = [size for size in point.meta["val"].shape[1:] if isinstance(size, int)]
    width = 1
    for size in sizes:
        width *= size
    return width


def _line(node: fx.Node) -> str:
    return f"{node.op}|{node.name}|{node.target}|{node.args}|{node.kwargs}"
