"""A Hugging Face text or vision transformer given in Python, frozen together with its tokenizer or image processor."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast, final

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
from auditkit.models.torch_module import find_layer, last_linear, watch_layer, width_of

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK_ROWS = 32
_NOT_THE_MODEL = (
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "special_tokens_map_file",
    "torch_dtype",
    "dtype",
)


@final
class TransformerModel(FrozenModel):
    """A frozen copy of a transformer with a classification or regression head.

    Text models read a sequence of strings, vision models a tensor of prepared images (see ``prepare``). Nothing is
    downloaded: model and preprocessing are what the caller has loaded.

    Args:
        module: Such as ``BertForSequenceClassification`` or ``ViTForImageClassification``.
        preprocess: Its tokenizer (text) or image processor (vision).
        task: By default read off ``module.config``: one label regression, two binary, more multiclass.
        feature_layer: Name of the submodule whose output is the features; by default what the last ``nn.Linear`` reads.
            Features of a whole sequence are averaged over the tokens that are there.
        max_length: Tokens after which a text is cut; by default what the tokenizer says, at most 512.
        name: What reports call it; by default the name of the class.
        chunk_rows: Rows computed at a time.

    Raises:
        InputError: There is no preprocessing, or no such layer.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        preprocess: Any,
        task: Task | None = None,
        feature_layer: str | None = None,
        max_length: int | None = None,
        name: str | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        self._is_text = hasattr(preprocess, "get_vocab")
        if not self._is_text and not (callable(preprocess) and hasattr(preprocess, "to_dict")):
            raise InputError(
                f"preprocess must be the tokenizer or the image processor of the model; got {type(preprocess).__name__}"
            )
        self._preprocess = cast("Any", preprocess)
        self._max_length = max_length or min(int(getattr(preprocess, "model_max_length", 512)), 512)
        self._module = freeze(copy.deepcopy(module))
        self._layer_name = feature_layer if feature_layer is not None else last_linear(self._module)
        self._reads_input = feature_layer is None
        self._layer = find_layer(self._module, self._layer_name)
        chosen = task or _task(int(_config(module).get("num_labels", len(_config(module).get("id2label", "12")))))
        self._description = self._describe(chosen)
        super().__init__(
            name=name or type(module).__name__,
            task=chosen,
            n_features=self._feature_width(module),
            chunk_rows=chunk_rows,
            fingerprint=self._measure(),
            weights_sha256=weights_hash(state_tensors(self._module)),
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels of its configuration."""
        labels = _config(self._module).get("id2label") or {}
        return tuple(str(labels[key]) for key in sorted(labels, key=int))

    def prepare(self, image: Image) -> Tensor:
        """One image as the model reads it, shape (channels, height, width)."""
        if self._is_text:
            raise InputError(f"model {self.name!r} reads text; it has no images to prepare")
        return self._preprocess(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]

    def _describe(self, task: Task) -> Mapping[str, Any]:
        return {
            "kind": "transformer",
            "class": type(self._module).__name__,
            "config": _config(self._module),
            "preprocessing": _preprocessing(self._preprocess),
            "max_length": self._max_length if self._is_text else 0,
            "task": task,
            "features": [self._layer_name, self._reads_input],
        }

    def _feature_width(self, module: nn.Module) -> int:
        if isinstance(self._layer, nn.Linear):
            return width_of(self._layer, self._layer_name, of_input=self._reads_input)
        width = _config(module).get("hidden_size")
        if not isinstance(width, int):
            raise InputError(f"feature_layer {self._layer_name!r} has no known width; name an nn.Linear layer")
        return width

    def _measure(self) -> str:
        return fingerprint_of(self._module, describe=self._description)

    def _chunks(self, batch: Any) -> Iterator[Any]:
        if self._is_text:
            texts = _texts(batch, self.name)
            for start in range(0, len(texts), self.chunk_rows):
                yield texts[start : start + self.chunk_rows]
            return
        if not isinstance(batch, Tensor) or batch.ndim != 4:
            found = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
            raise InputError(
                f"batch must be a tensor of prepared images, shape (n, channels, height, width); got {found}; "
                "see prepare()"
            )
        yield from tensor_chunks(batch, module=self._module, chunk_rows=self.chunk_rows)

    def _inputs(self, chunk: Any) -> dict[str, Tensor]:
        if not self._is_text:
            return {"pixel_values": chunk}
        encoded = self._preprocess(
            list(chunk), padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        )
        device = next(self._module.parameters()).device
        return {key: value.to(device) for key, value in encoded.items()}

    def _chunk_logits(self, chunk: Any) -> Tensor:
        found = self._module(**self._inputs(chunk))
        if not isinstance(getattr(found, "logits", None), Tensor):
            raise InputError(f"model {self.name!r} gives no logits; use a model with a classification head")
        return one_per_row(found.logits, task=self.task, name=self.name)

    def _chunk_features(self, chunk: Any) -> Tensor:
        inputs = self._inputs(chunk)
        with watch_layer(self._layer, self._layer_name, reads_input=self._reads_input) as seen:
            self._module(**inputs)
        features = seen()
        if features.ndim != 3:
            return features.flatten(1)
        mask = inputs.get("attention_mask")
        weights = torch.ones(features.shape[:2]) if mask is None or mask.shape != features.shape[:2] else mask
        weights = weights.to(features).unsqueeze(2)
        return (features * weights).sum(dim=1) / weights.sum(dim=1)


def is_transformer(module: object) -> bool:
    """Whether a module comes from the transformers package."""
    return any(kind.__module__.startswith("transformers.") for kind in type(module).__mro__)


def _config(module: nn.Module) -> dict[str, Any]:
    values: dict[str, Any] = cast("Any", module).config.to_dict()
    kept = {key: value for key, value in values.items() if key not in _NOT_THE_MODEL}
    return json.loads(json.dumps(kept, sort_keys=True, default=repr))


def _preprocessing(preprocess: Any) -> Any:
    """What a tokenizer or an image processor is made of, without the place that it came from."""
    backend = getattr(preprocess, "backend_tokenizer", None)
    if backend is not None:
        # Cutting and padding are set by every call; they are part of a call and not of the tokenizer.
        return {
            key: value for key, value in json.loads(backend.to_str()).items() if key not in ("truncation", "padding")
        }
    if hasattr(preprocess, "get_vocab"):
        settings = {key: repr(value) for key, value in preprocess.init_kwargs.items() if key not in _NOT_THE_MODEL}
        return {"vocabulary": sorted(preprocess.get_vocab().items()), "settings": settings}
    return json.loads(json.dumps(preprocess.to_dict(), sort_keys=True, default=repr))


def _task(n_labels: int) -> Task:
    return {1: "regression", 2: "binary"}.get(n_labels, "multiclass")  # type: ignore[return-value]


def _texts(batch: Any, name: str) -> list[str]:
    if isinstance(batch, pd.DataFrame):
        if batch.shape[1] != 1:
            raise InputError(
                f"model {name!r} reads one column of text; got the columns {', '.join(map(str, batch.columns))}: name "
                "it in features"
            )
        batch = batch.iloc[:, 0]
    texts = list(batch.tolist()) if isinstance(batch, pd.Series | np.ndarray) else batch
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"batch must be texts for model {name!r}, such as a list or a column of strings without gaps")
    return list(texts)
