"""A torch module given in Python, frozen."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from auditkit.errors import InputError
from auditkit.models.base import (
    FrozenModel,
    Task,
    fingerprint_of,
    freeze,
    one_per_row,
    state_tensors,
    tensor_chunks,
    weights_hash,
)

CHUNK_ROWS = 4_096


@final
class TorchModule(FrozenModel):
    """A frozen copy of an ``nn.Module`` that maps (n, …) to logits (n,), (n, 1), (n, 2) or (n, k).

    The module is copied, so training the original later does not change this model. The fingerprint covers the
    printed architecture, the source of the ``forward`` methods where Python can show it, and all weights.

    Args:
        module: The module.
        task: ``"binary"`` (logits become probabilities by the logistic function; two logits by their difference),
            ``"regression"`` or ``"multiclass"``.
        feature_layer: Name of the submodule whose output is the features, as in ``named_modules()``; by default the
            features are what the last ``nn.Linear`` reads.
        n_features: Width of the features; needed only when the layer does not tell.
        name: What reports call it; by default the name of the class.
        chunk_rows: Rows computed at a time.
        trust: What had to be trusted to get the module; recorded with the model.

    Raises:
        InputError: The layer does not exist, or its width cannot be told.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        task: Task = "binary",
        feature_layer: str | None = None,
        n_features: int | None = None,
        name: str | None = None,
        chunk_rows: int = CHUNK_ROWS,
        trust: str = "",
    ) -> None:
        frozen = copy.deepcopy(module)
        if feature_layer is None and isinstance(frozen, torch.jit.ScriptModule):
            self._layer_name, self._layer, n_features = "", frozen, 0  # a script does not show its layers' kinds
        else:
            self._layer_name = feature_layer if feature_layer is not None else last_linear(frozen)
            self._layer = find_layer(frozen, self._layer_name)
        self._reads_input = feature_layer is None
        width = n_features
        if width is None:
            width = width_of(self._layer, self._layer_name, of_input=self._reads_input)
        self._module = freeze(frozen)
        self._description = _describe(frozen, task=task, layer=(self._layer_name, self._reads_input))
        super().__init__(
            name=name or type(module).__name__,
            task=task,
            n_features=width,
            chunk_rows=chunk_rows,
            fingerprint=self._measure(),
            weights_sha256=weights_hash(state_tensors(frozen)),
            trust=trust,
        )

    def _measure(self) -> str:
        return fingerprint_of(self._module, describe=self._description)

    def _chunks(self, batch: Any) -> Iterator[Tensor]:
        return tensor_chunks(as_tensor(batch), module=self._module, chunk_rows=self.chunk_rows)

    def _chunk_logits(self, chunk: Tensor) -> Tensor:
        return one_per_row(self._module(chunk), task=self.task, name=self.name)

    def placed_module(self) -> nn.Module:
        """The module, which may be moved to another device."""
        return self._module

    def _both(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self._both_at_once(batch, self._chunk_both)

    def _chunk_both(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        with watch_layer(self._layer, self._layer_name, reads_input=self._reads_input) as seen:
            logits = one_per_row(self._module(chunk), task=self.task, name=self.name)
        return seen().flatten(1), logits

    def _chunk_features(self, chunk: Tensor) -> Tensor:
        with watch_layer(self._layer, self._layer_name, reads_input=self._reads_input) as seen:
            self._module(chunk)
        return seen().flatten(1)


def _describe(module: nn.Module, *, task: Task, layer: tuple[str, bool]) -> Mapping[str, Any]:
    return {
        "kind": "torch_module",
        "architecture": re.sub(r" at 0x[0-9a-fA-F]+", "", str(module)),
        "forward": _forward_sources(module),
        "task": task,
        "features": layer,
    }


@contextlib.contextmanager
def watch_layer(layer: nn.Module, name: str, *, reads_input: bool) -> Iterator[Callable[[], Tensor]]:
    """Keep what a layer reads or gives while the block runs; the callable returns it afterwards.

    Raises:
        InputError: When it is asked for: the layer did not run exactly once, or gave no tensor.
    """
    seen: list[Any] = []

    def only() -> Tensor:
        if len(seen) != 1:
            raise InputError(
                f"feature_layer {name!r} ran {len(seen)} times in one forward pass; name a layer that runs exactly once"
            )
        found = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        if not isinstance(found, Tensor):
            raise InputError(f"feature_layer {name!r} gives a {type(found).__name__}; name a layer that gives a tensor")
        return found

    with layer.register_forward_hook(functools.partial(_keep_input if reads_input else _keep_output, seen)):
        yield only


def _keep_input(seen: list[Any], layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    seen.append(inputs[0])


def _keep_output(seen: list[Any], layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    seen.append(output)


def last_linear(module: nn.Module) -> str:
    """Name of the last ``nn.Linear`` of a module."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not names:
        raise InputError(
            "feature_layer must be given for a module without nn.Linear; name the layer that gives features"
        )
    return names[-1]


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """A submodule by its name."""
    layers = dict(module.named_modules())
    if name not in layers:
        shown = ", ".join(repr(layer) for layer in layers if layer)
        raise InputError(f"feature_layer {name!r} is no submodule; there are: {shown[:500]}")
    return layers[name]


def width_of(layer: nn.Module, name: str, *, of_input: bool) -> int:
    """Columns that an ``nn.Linear`` reads or gives."""
    if isinstance(layer, nn.Linear):
        return layer.in_features if of_input else layer.out_features
    raise InputError(f"n_features must be given: the width of layer {name!r} ({type(layer).__name__}) is not known")


def as_tensor(batch: Any) -> Tensor:
    """A tensor, an array or a numeric frame as a tensor of shape (n, …)."""
    if isinstance(batch, pd.DataFrame):
        batch = batch.to_numpy()
    if isinstance(batch, np.ndarray):
        if batch.dtype.kind not in "fiub":
            raise InputError(f"batch must be numeric for a torch module; got {batch.dtype}; encode text columns first")
        batch = torch.from_numpy(np.ascontiguousarray(batch))
    if not isinstance(batch, Tensor) or batch.ndim < 2:
        raise InputError(f"batch must be a tensor, array or numeric DataFrame with shape (n, …); got {_shown(batch)}")
    return batch


def _shown(batch: Any) -> str:
    return f"shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__


def _forward_sources(module: nn.Module) -> dict[str, str]:
    """What the parts compute, as text: by type in Python, by name in TorchScript."""
    if isinstance(module, torch.jit.ScriptModule):
        scripts = {name: getattr(part, "code", "") for name, part in module.named_modules()}
        return {name: str(code) for name, code in scripts.items()}
    return {_type_name(kind): _forward_source(kind) for kind in _own_types(module)}


def _own_types(module: nn.Module) -> list[type[nn.Module]]:
    kinds = {type(part) for part in module.modules()}
    return sorted((kind for kind in kinds if not kind.__module__.startswith("torch.nn.")), key=_type_name)


def _type_name(kind: type[nn.Module]) -> str:
    return kind.__qualname__


def _forward_source(kind: type[nn.Module]) -> str:
    try:
        return inspect.getsource(kind.forward)
    except (OSError, TypeError):  # defined at a prompt or compiled: the architecture and weights still count
        return ""
