"""Where a training stands, in one file that appears whole or not at all and runs no code when it is read.

Tensors are stored by safetensors, everything else as JSON in its header.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditkit._files import write_whole
from auditkit.criteria import Criterion
from auditkit.errors import InputError
from auditkit.feature_rows import FeatureRows
from auditkit.tuning.config import TuneConfig
from auditkit.tuning.rows import SourceRows

SCHEMA = "auditkit.checkpoint/1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a tree of dictionaries, lists, tensors and plain values in place of an earlier checkpoint."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    header = json.dumps(_pack({"schema": SCHEMA, **state}, tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(tensors, metadata={"state": header}), durable=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        InputError: The file is not a checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("state", "null")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        state = _unpack(json.loads(header), tensors)
    except (OSError, SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise InputError(f"checkpoint {path} cannot be read: {error}; delete it to start anew") from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise InputError(f"checkpoint {path} is not one of {SCHEMA}; name another file, or delete it to start anew")
    return state


def describe_task(
    rows: SourceRows, criteria: tuple[Criterion, ...], config: TuneConfig, *, initial: Any = None
) -> dict[str, Any]:
    """What a checkpoint must agree on to be continued: hashes of the rows, the criteria and the configuration.

    The number of epochs is left out, so that a training that has ended can be made longer.
    """
    settings = {name: value for name, value in asdict(config).items() if name != "epochs"}
    digest = hashlib.sha256()
    for part in (rows.features, rows.labels, *(() if rows.start is None else (rows.start,))):
        digest.update(str((part.dtype, tuple(part.shape))).encode())
        for block in part.blocks() if isinstance(part, FeatureRows) else (part.numpy(),):
            digest.update(np.ascontiguousarray(block).data)
    if rows.clusters is not None:
        digest.update(rows.clusters.data)
    for name in rows.groups.names:
        values = rows.groups.shares(name) if name in rows.groups.inferred else rows.groups.codes(name)
        digest.update(repr((name, rows.groups.categories(name))).encode())
        digest.update(np.ascontiguousarray(values).data)
    begin = None
    if initial is not None:
        begin = hashlib.sha256(b"".join(value.numpy().tobytes() for value in initial.values())).hexdigest()
    return {
        "rows": digest.hexdigest(),
        "criteria": json.loads(json.dumps([criterion.to_dict() for criterion in criteria])),
        "config": settings,
        "initial": begin,
    }


def check_task(path: Path, found: Any, wanted: dict[str, Any]) -> None:
    """Raise when a checkpoint belongs to another training, or does not say to which."""
    if not isinstance(found, dict):
        raise InputError(f"checkpoint {path} does not say of which training it is; delete it to start anew")
    different = [name for name in wanted if found.get(name) != wanted[name]]
    if different:
        raise InputError(
            f"checkpoint {path} belongs to a training that differs in: {', '.join(different)}; name another file, or "
            "delete it to start anew"
        )


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().contiguous().clone()
        return {"@tensor": name}
    if isinstance(value, dict):
        return {"@pairs": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "@tensor" in value:
        return torch.clone(tensors[value["@tensor"]])
    return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["@pairs"]}
