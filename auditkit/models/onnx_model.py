"""A frozen ONNX graph, run by onnxruntime on the CPU, with any value inside it as features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from auditkit._extras import import_extra
from auditkit.errors import InputError, SchemaError
from auditkit.models.base import FrozenModel, Task, hash_description, one_per_row
from auditkit.models.onnx_file import describe_probabilities, external_files, has_external, read_onnx

CHUNK_ROWS = 4_096

Outputs: TypeAlias = Literal["logits", "probabilities"]
Inputs: TypeAlias = dict[str, np.ndarray[Any, Any]]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


@final
class OnnxModel(FrozenModel):
    """A frozen ONNX graph.

    Args:
        path: The .onnx file; weights may lie in files of the same folder.
        task: What it predicts; by default read off the width of the output: two or one binary, more multiclass. A
            regression has to be named.
        output: The output to read; by default the first of floating-point type.
        outputs: Whether that output holds logits or probabilities; by default read off the operator that makes it.
        features: Name of a value inside the graph that gives the features, shape (n, …); without it there are none.
        name: What reports call it; the file's stem by default.
        chunk_rows: Rows computed at a time; a graph of a fixed batch size takes that many.

    Raises:
        InputError: The file is damaged; an output or value does not exist; the task cannot be told.
        UntrustedFileError: It needs foreign operators, or files outside its folder.
        MissingExtraError: onnx or onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        task: Task | None = None,
        output: str | None = None,
        outputs: Outputs | None = None,
        features: str | None = None,
        name: str | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        file = Path(path)
        model = read_onnx(file)
        self._files = (file, *(external_files(model, file.parent)))
        self._features = features
        self._session = _session(model, file, features)
        self._inputs: dict[str, tuple[str, list[Any]]] = {
            value.name: (value.type, value.shape) for value in self._session.get_inputs()
        }
        self._output = _choose_output(self._session, output, features)
        self._outputs = outputs or ("probabilities" if describe_probabilities(model, self._output) else "logits")
        self._fixed = _fixed_rows(self._inputs)
        chosen = task or _task(_width(self._session, self._output), self._output, name or file.stem)
        width = 0 if features is None else _feature_width(self._session, features, self._try)
        super().__init__(
            name=name or file.stem,
            task=chosen,
            n_features=width,
            chunk_rows=self._fixed or chunk_rows,
            fingerprint=_hash_files(self._files, self._describe(chosen)),
        )

    def _describe(self, task: Task) -> Mapping[str, Any]:
        return {
            "kind": "onnx",
            "task": task,
            "output": self._output,
            "outputs": self._outputs,
            "features": self._features or "",
        }

    @property
    def gives_probabilities(self) -> bool:
        """Whether the output that is read holds probabilities."""
        return self._outputs == "probabilities"

    def _measure(self) -> str:
        # The runtime keeps its own, read-only copy of the weights: what can change is what a later load would read.
        return _hash_files(self._files, self._describe(self.task))

    def _chunks(self, batch: Any) -> Iterator[Inputs]:
        arrays = _arrays(batch, self._inputs, self.name)
        n_rows = len(next(iter(arrays.values())))
        for start in range(0, n_rows, self.chunk_rows):
            yield {key: values[start : start + self.chunk_rows] for key, values in arrays.items()}

    def _count(self, chunk: Inputs) -> int:
        return len(next(iter(chunk.values())))

    def _first_rows(self, chunk: Inputs, n: int) -> Inputs:
        return {key: values[:n] for key, values in chunk.items()}

    def _try(self, name: str) -> Tensor:
        """One value for one row of zeros."""
        rows = self._fixed or 1
        feed = {
            key: np.zeros([rows, *(d if isinstance(d, int) else 1 for d in shape[1:])], _DTYPES.get(kind, np.float32))
            for key, (kind, shape) in self._inputs.items()
        }
        return self._read(feed, name)

    def _read(self, chunk: Inputs, name: str) -> Tensor:
        n_rows = self._count(chunk)
        fed = {key: _filled(values, self._fixed) for key, values in chunk.items()}
        try:
            found = self._session.run([name], fed)[0]
        except Exception as error:  # the runtime's exceptions have no common base
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"batch does not suit model {self.name!r}: {reason}") from error
        if isinstance(found, list):
            raise InputError(
                f"model {self.name!r} gives {name!r} as a list of dictionaries (ZipMap); export it with zipmap=False"
            )
        values = torch.from_numpy(np.array(found, copy=True))
        return values[:n_rows] if self._fixed else values

    def _scores(self, batch: Any) -> Tensor:
        if self._outputs == "logits" or self.task == "regression":
            return super()._scores(batch)
        return self._run(batch, self._chunk_scores, "scores")

    def _chunk_scores(self, chunk: Inputs) -> Tensor:
        """Probabilities as the graph gives them."""
        found = self._read(chunk, self._output)
        if self.task == "binary" and found.ndim == 2 and found.shape[1] == 2:
            scores = found[:, 1]
        else:
            scores = one_per_row(found, task=self.task, name=self.name)
        if bool(((scores < -1e-6) | (scores > 1 + 1e-6)).any()):
            raise InputError(
                f"model {self.name!r} gave probabilities outside of 0…1 in {self._output!r}; if they are logits, load "
                'it with outputs="logits"'
            )
        return scores

    def _chunk_logits(self, chunk: Inputs) -> Tensor:
        if self._outputs == "probabilities" and self.task != "regression":
            scores = self._chunk_scores(chunk)
            return torch.logit(scores) if self.task == "binary" else torch.log(scores)
        return one_per_row(self._read(chunk, self._output), task=self.task, name=self.name)

    def _chunk_features(self, chunk: Inputs) -> Tensor:
        assert self._features is not None
        return self._read(chunk, self._features).flatten(1)


def _session(model: Any, file: Path, features: str | None) -> Any:
    onnxruntime = import_extra("onnxruntime")
    if features is not None:
        _expose(model, features, file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if has_external(model):
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(file.parent.resolve())
        )
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime's exceptions have no common base
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"spec: {str(file)!r} cannot be run by onnxruntime: {reason}") from error


def _expose(model: Any, value: str, file: Path) -> None:
    """Make a value inside the graph an output."""
    made = [name for node in model.graph.node for name in node.output if name]
    if value not in made:
        raise InputError(f"features {value!r} is no value of {file.name!r}; the last ones are: {', '.join(made[-12:])}")
    if value not in [output.name for output in model.graph.output]:
        model.graph.output.append(import_extra("onnx").ValueInfoProto(name=value))


def _choose_output(session: Any, output: str | None, features: str | None) -> str:
    there = {
        value.name: value.type for value in session.get_outputs() if value.name != features or value.name == output
    }
    if output is not None:
        if output not in there:
            raise InputError(f"output {output!r} is not given by the model; there are: {', '.join(there)}")
        return output
    floats = [name for name, kind in there.items() if kind in ("tensor(float)", "tensor(double)", "tensor(float16)")]
    if not floats:
        shown = ", ".join(f"{name}: {kind}" for name, kind in there.items())
        raise InputError(f"the model has no floating-point output ({shown}); export it with one, and zipmap=False")
    return floats[0]


def _width(session: Any, output: str) -> int | None:
    """Columns of an output; None where the file does not tell."""
    shape = next(value.shape for value in session.get_outputs() if value.name == output)
    if len(shape) == 1:
        return 1
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None


def _task(width: int | None, output: str, name: str) -> Task:
    if width is None:
        raise InputError(f"task must be given for model {name!r}: the width of {output!r} is not written in the file")
    return "binary" if width <= 2 else "multiclass"


def _feature_width(session: Any, features: str, read: Any) -> int:
    shape = next(value.shape for value in session.get_outputs() if value.name == features)
    if len(shape) > 1 and all(isinstance(size, int) for size in shape[1:]):
        return int(np.prod(shape[1:]))
    return read(features).flatten(1).shape[1]


def _fixed_rows(inputs: Mapping[str, tuple[str, list[Any]]]) -> int:
    """The batch size of a graph that takes no other; 0 for one that takes any."""
    sizes = {shape[0] for _, shape in inputs.values() if shape and isinstance(shape[0], int)}
    return max(sizes, default=0)


def _filled(values: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    missing = rows - len(values)
    return values if missing <= 0 else np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])


def _arrays(batch: Any, inputs: Mapping[str, tuple[str, list[Any]]], name: str) -> Inputs:
    """One array per input of the graph: the batch itself, or its columns where the graph has several inputs."""
    if len(inputs) == 1 and not isinstance(batch, Mapping):
        key, (kind, _) = next(iter(inputs.items()))
        return {key: _array(batch, kind, name)}
    if not isinstance(batch, Mapping | pd.DataFrame):
        raise InputError(
            f"model {name!r} reads the inputs {', '.join(inputs)}; batch must be a DataFrame or a mapping with these"
        )
    missing = [key for key in inputs if key not in batch]
    if missing:
        raise SchemaError(
            f"batch lacks {', '.join(missing)}, which model {name!r} reads; it has: {', '.join(map(str, batch))}"
        )
    arrays = {key: _array(batch[key], kind, name) for key, (kind, _) in inputs.items()}
    lengths = {key: len(values) for key, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"batch must have as many rows for every input of model {name!r}; got {lengths}")
    two = {key for key, (_, shape) in inputs.items() if len(shape) == 2}
    return {key: values[:, None] if key in two and values.ndim == 1 else values for key, values in arrays.items()}


def _array(batch: Any, kind: str, name: str) -> np.ndarray[Any, Any]:
    values = batch.detach().cpu().numpy() if isinstance(batch, Tensor) else np.asarray(batch)
    if values.ndim < 1:
        raise InputError(f"batch for model {name!r} must have shape (n, …); got a single value")
    try:
        return np.ascontiguousarray(values.astype(_DTYPES.get(kind, np.float32)))
    except (TypeError, ValueError) as error:
        raise InputError(f"batch for model {name!r} must be numbers ({kind}); {error}") from error


def _hash_files(files: tuple[Path, ...], describe: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(hash_description(describe).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
