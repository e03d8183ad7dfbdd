"""A tabular MLP kept in a folder: ``model.json`` (architecture, preprocessing) and ``model.safetensors`` (weights)."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast, final

import numpy as np
import pandas as pd
import pydantic
import safetensors.torch
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from auditkit.errors import InputError, SchemaError
from auditkit.models.base import FrozenModel, fingerprint_of, freeze, state_tensors, weights_hash

MODEL_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
CHUNK_ROWS = 65_536

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NumericColumn(_Record):
    """One number read as ``(x - mean) / std``, after ``log(1 + x)`` where ``log1p`` is set."""

    column: str
    mean: float
    std: float = pydantic.Field(gt=0)
    log1p: bool = False


class CategoricalColumn(_Record):
    """One text column, one-hot over its vocabulary; an unknown value becomes all zeros."""

    column: str
    vocabulary: list[str] = pydantic.Field(min_length=1)

    @pydantic.field_validator("vocabulary")
    @classmethod
    def _distinct(cls, vocabulary: list[str]) -> list[str]:
        if len(set(vocabulary)) != len(vocabulary):
            raise ValueError("a category is listed twice")
        return vocabulary


class Preprocessing(_Record):
    """The columns a model reads, in the order of its inputs: numeric first, then categorical."""

    numeric: list[NumericColumn]
    categorical: list[CategoricalColumn]

    @property
    def columns(self) -> list[str]:
        """Names of all columns read."""
        return [spec.column for spec in (*self.numeric, *self.categorical)]

    @property
    def width(self) -> int:
        """Number of inputs of the network."""
        return len(self.numeric) + sum(len(spec.vocabulary) for spec in self.categorical)

    def encode(self, frame: pd.DataFrame) -> tuple[NDArray[np.float32], Counter[str]]:
        """Inputs of the network, shape (n, width), and how many unknown values each text column had."""
        encoded = np.zeros((len(frame), self.width), dtype=np.float32)
        for place, spec in enumerate(self.numeric):
            encoded[:, place] = _standardized(_column(frame, spec.column), spec)
        unknown: Counter[str] = Counter()
        start = len(self.numeric)
        for spec in self.categorical:
            codes = pd.Index(spec.vocabulary).get_indexer(_texts(_column(frame, spec.column)))
            known = np.flatnonzero(codes >= 0)
            encoded[known, start + codes[known]] = 1.0
            unknown[spec.column] += len(codes) - len(known)
            start += len(spec.vocabulary)
        return encoded, +unknown


class Architecture(_Record):
    """Fully connected layers: the hidden widths, one activation, one output."""

    hidden: list[pydantic.PositiveInt] = pydantic.Field(min_length=1)
    activation: Literal["gelu", "relu", "silu", "tanh"]


class ModelFile(_Record):
    """The content of ``model.json``."""

    format: Literal["auditkit.tabular_mlp"]
    format_version: Literal[1]
    name: str
    task: Literal["binary", "regression"]
    architecture: Architecture
    preprocessing: Preprocessing
    output: str


class MLP(nn.Module):
    """Linear layers with an activation after each but the last; ``features`` stops in front of the last."""

    def __init__(self, n_inputs: int, architecture: Architecture) -> None:
        super().__init__()
        widths = [n_inputs, *architecture.hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.activation = _ACTIVATIONS[architecture.activation]()
        self.head = nn.Linear(widths[-1], 1)

    def features(self, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "n d"]:
        """Activations of the last hidden layer."""
        for layer in self.hidden:
            x = self.activation(layer(x))
        return x

    def forward(self, x: Float[Tensor, "n inputs"]) -> Float[Tensor, " n"]:
        """One logit (or value) per row."""
        return self.head(self.features(x)).squeeze(1)


@final
class TabularMLP(FrozenModel):
    """A frozen MLP on the raw columns of a table.

    Args:
        network: The network, with ``content.preprocessing.width`` inputs.
        content: Name, task, architecture and preprocessing.
    """

    def __init__(self, network: MLP, content: ModelFile) -> None:
        self._module: MLP = freeze(network)
        self._content = content
        super().__init__(
            name=content.name,
            task=content.task,
            n_features=content.architecture.hidden[-1],
            chunk_rows=CHUNK_ROWS,
            fingerprint=self._measure(),
            weights_sha256=weights_hash(state_tensors(network)),
        )

    def _measure(self) -> str:
        return fingerprint_of(self._module, describe=self._content.model_dump(exclude={"name"}))

    @classmethod
    def load(cls, folder: str | Path) -> TabularMLP:
        """Load a folder that holds ``model.json`` and ``model.safetensors``.

        Raises:
            SchemaError: ``model.json`` does not follow the format.
            InputError: A file is missing or damaged, or the weights do not fit the architecture.
        """
        content = _read_content(Path(folder) / MODEL_FILE)
        weights = _read_weights(Path(folder) / WEIGHTS_FILE)
        with torch.device("meta"):  # no memory and no random numbers are spent on weights that are replaced
            network = MLP(content.preprocessing.width, content.architecture)
        _check_weights(weights, network)
        network.load_state_dict(weights, assign=True)
        return cls(network, content)

    @property
    def columns(self) -> list[str]:
        """Columns that a batch must have."""
        return self._content.preprocessing.columns

    def count_unknown(self, batch: pd.DataFrame) -> dict[str, int]:
        """How many values of each text column the model has never seen (columns without any are left out)."""
        return dict(self._content.preprocessing.encode(self._checked_batch(batch))[1])

    def _checked_batch(self, batch: Any) -> pd.DataFrame:
        if not isinstance(batch, pd.DataFrame):
            raise InputError(
                f"batch must be a DataFrame of raw columns for model {self.name!r}; got {type(batch).__name__}"
            )
        missing = [column for column in self.columns if column not in batch.columns]
        if missing:
            raise SchemaError(
                f"batch lacks the columns {', '.join(missing)} that model {self.name!r} reads; "
                f"it has: {', '.join(map(str, batch.columns))}"
            )
        return batch

    def _chunks(self, batch: Any) -> Iterator[Tensor]:
        frame = self._checked_batch(batch)
        unknown: Counter[str] = Counter()
        for start in range(0, len(frame), self.chunk_rows):
            encoded, count = self._content.preprocessing.encode(frame.iloc[start : start + self.chunk_rows])
            unknown += count
            yield torch.from_numpy(encoded)
        if unknown:
            counts = ", ".join(f"{column}: {count}" for column, count in unknown.items())
            warnings.warn(
                f"model {self.name!r} read values it was not trained on as all zeros ({counts})", stacklevel=5
            )

    def _chunk_logits(self, chunk: Tensor) -> Tensor:
        return self._module(chunk)

    def _chunk_features(self, chunk: Tensor) -> Tensor:
        return self._module.features(chunk)


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return cast("pd.Series", frame[name])


def _standardized(values: pd.Series, spec: NumericColumn) -> NDArray[np.float64]:
    if not pd.api.types.is_numeric_dtype(values):
        raise SchemaError(f"batch column {spec.column!r} must be numeric; it is {values.dtype}")
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    lowest = -1.0 if spec.log1p else -np.inf
    bad = np.flatnonzero(~(np.isfinite(numbers) & (numbers > lowest)))
    if bad.size:
        limit = " or ≤ -1 (it is read on a log scale)" if spec.log1p else ""
        raise InputError(
            f"batch column {spec.column!r} has {bad.size} values that are missing, infinite{limit}; "
            f"the first is at row label {values.index[bad[0]]}; fill or drop those rows"
        )
    numbers = np.log1p(numbers) if spec.log1p else numbers
    return (numbers - spec.mean) / spec.std


def _texts(values: pd.Series) -> pd.Series:
    numeric = pd.api.types.is_numeric_dtype(values)
    return values.astype(str) if numeric else values.astype(object)


def _read_content(path: Path) -> ModelFile:
    try:
        return ModelFile.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"model: there is no {path.name} in {str(path.parent)!r}") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SchemaError(f"model: {str(path)!r} is not a valid model description; {place}: {first['msg']}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"model: there is no {path.name} in {str(path.parent)!r}") from error
    except SafetensorError as error:
        raise InputError(f"model: {str(path)!r} is damaged or no safetensors file ({error}); copy it again") from error


def _check_weights(weights: Mapping[str, Tensor], network: MLP) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise InputError(
            f"model: the weights do not fit {MODEL_FILE}: {name!r} should have shape {expected.get(name, 'none')} "
            f"and has {found.get(name, 'none')} ({len(wrong)} tensors differ)"
        )
    for name, tensor in weights.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise InputError(
                f"model: tensor {name!r} must be finite float32; got {tensor.dtype}; train or export it again"
            )
