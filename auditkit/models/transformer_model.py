"""A Hugging Face text or vision transformer, frozen together with its tokenizer or image processor."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
MOST_TOKENS = 512
_OUTPUTS: dict[str, Task] = {"multi_label_classification": "binary", "regression": "regression"}
_NOT_THE_MODEL = (
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "special_tokens_map_file",
    "torch_dtype",
    "dtype",
    "architectures",
)
"""Keys of a configuration that say where a model is from, or what is known of it anyway."""


@final
class TransformerModel(FrozenModel):
    """A frozen copy of a transformer with a classification or regression head.

    Text models read a sequence of strings, vision models a tensor of prepared images (see ``prepare``). Nothing is
    downloaded: model and preprocessing are what the caller has loaded.

    A backbone without a head, such as ``BertModel``, has features alone: the mean of its last hidden state over the
    tokens that are there, or over the places of an image.

    Args:
        module: Such as ``BertForSequenceClassification``, ``ViTForImageClassification`` or ``BertModel``.
        preprocess: Its tokenizer (text) or image processor (vision).
        task: By default read off ``module.config``: one label regression, two binary, more multiclass; labels that do
            not exclude each other (``problem_type``) are several outputs.
        feature_layer: Name of the submodule whose output is the features; by default what the last ``nn.Linear`` reads,
            or of a backbone its last hidden state. Features of a whole sequence are averaged over the tokens that are
            there.
        max_length: Tokens after which a text is cut; by default what tokenizer and model allow, at most 512.
        name: What reports call it; by default the name of the class.
        chunk_rows: Rows computed at a time.

    Raises:
        InputError: There is no preprocessing, or no such layer; a task for a backbone without a head.
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
        self._max_length = max_length or _longest(preprocess, module)
        self._module = freeze(copy.deepcopy(module))
        self._arguments = frozenset(inspect.signature(self._module.forward).parameters)
        headless = is_backbone(module)
        if headless and task is not None:
            raise InputError(
                f"{type(module).__name__} has no head, and so no output that could be a score: leave task and output "
                "out, or use a model with a classification head"
            )
        default = "" if headless else last_linear(self._module)  # "" is the module itself
        self._layer_name = feature_layer if feature_layer is not None else default
        self._reads_input = feature_layer is None and not headless
        self._layer = find_layer(self._module, self._layer_name)
        chosen = None if headless else task or _task(_config(module))
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
        """The labels of its configuration; none without a head."""
        if self.task == "features":
            return ()
        labels = _config(self._module).get("id2label") or {}
        return tuple(str(labels[key]) for key in sorted(labels, key=int))

    @property
    def packages(self) -> tuple[str, ...]:
        """What tokenizes texts, or prepares images."""
        return ("tokenizers", "transformers") if self._is_text else ("transformers",)

    @property
    def output_task(self) -> Task:
        """By ``problem_type`` of its configuration."""
        return _OUTPUTS.get(str(_config(self._module).get("problem_type")), "multiclass")

    def prepare(self, image: Image) -> Tensor:
        """One image as the model reads it, shape (channels, height, width)."""
        if self._is_text:
            raise InputError(f"model {self.name!r} reads text; it has no images to prepare")
        return _ImageTransform(self._preprocess)(image)

    def image_transform(self) -> Callable[[Any], Tensor] | None:
        """The image processor alone, which worker processes take without the model; None for a model of text."""
        return None if self._is_text else _ImageTransform(self._preprocess)

    def placed_module(self) -> nn.Module:
        """The module, which may be moved to another device."""
        return self._module

    def _describe(self, task: Task | None) -> Mapping[str, Any]:
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
        config = _config(module)
        width = config.get("hidden_size", (config.get("hidden_sizes") or [None])[-1])
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
        # a generic tokenizer gives more than some models take, such as the types of tokens
        return {key: value.to(device) for key, value in encoded.items() if key in self._arguments}

    def _link(self, logits: Tensor) -> Tensor:
        if self.task != "multiclass" or self.output_task == "multiclass":
            return super()._link(logits)
        return torch.sigmoid(logits) if self.output_task == "binary" else logits

    def _chunk_logits(self, chunk: Any) -> Tensor:
        return self._logits_of(self._module(**self._inputs(chunk)))

    def _logits_of(self, found: Any) -> Tensor:
        if not isinstance(getattr(found, "logits", None), Tensor):
            raise InputError(f"model {self.name!r} gives no logits; use a model with a classification head")
        return one_per_row(found.logits, task=self.task, name=self.name)

    def _chunk_features(self, chunk: Any) -> Tensor:
        return self._chunk_both(chunk, logits=False)[0]

    def _both(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self._both_at_once(batch, self._chunk_both)

    def _last_hidden(self, found: Any) -> Tensor:
        hidden = getattr(found, "last_hidden_state", None)
        if not isinstance(hidden, Tensor):
            raise InputError(f"model {self.name!r} gives no last hidden state; name the layer of its features")
        return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden

    def _chunk_both(self, chunk: Any, *, logits: bool = True) -> tuple[Tensor, Tensor]:
        """Features and logits of one chunk by one pass."""
        inputs = self._inputs(chunk)
        if self._layer is self._module:
            found = self._module(**inputs)
            hidden = self._last_hidden(found)
        else:
            with watch_layer(self._layer, self._layer_name, reads_input=self._reads_input) as seen:
                found = self._module(**inputs)
            hidden = seen()
        features = _pooled(hidden, inputs.get("attention_mask"))
        return features, self._logits_of(found) if logits else features


@dataclass(frozen=True)
class _ImageTransform:
    """From an image to what a vision model reads; travels to worker processes."""

    processor: Any

    def __call__(self, image: Image) -> Tensor:
        return self.processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]


def _pooled(features: Tensor, mask: Tensor | None) -> Tensor:
    """One row of features per row: of a sequence the mean over the tokens that are there."""
    if features.ndim != 3:
        return features.flatten(1)
    there = torch.ones(features.shape[:2]) if mask is None or mask.shape != features.shape[:2] else mask
    weights = there.to(features).unsqueeze(2)
    return (features * weights).sum(dim=1) / weights.sum(dim=1)


def is_transformer(module: object) -> bool:
    """Whether a module comes from the transformers package."""
    return any(kind.__module__.startswith("transformers.") for kind in type(module).__mro__)


def is_backbone(module: object) -> bool:
    """Whether a module of transformers is one without a head, which holds no other as its base."""
    return getattr(module, "base_model", None) is module


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


def _longest(preprocess: Any, module: nn.Module) -> int:
    """Tokens that a text may have: what tokenizer and table of positions allow, at most ``MOST_TOKENS``."""
    places = _config(module).get("max_position_embeddings")
    allowed = places if isinstance(places, int) and places > 0 else MOST_TOKENS
    return min(int(getattr(preprocess, "model_max_length", MOST_TOKENS)), allowed, MOST_TOKENS)


def _task(config: Mapping[str, Any]) -> Task:
    """One label is a regression, two exclude each other, more are classes; ``problem_type`` says where it is not so."""
    n_labels = int(config.get("num_labels", len(config.get("id2label", "12"))))
    kind = _OUTPUTS.get(str(config.get("problem_type")))
    if n_labels == 1:
        return kind or "regression"
    return "binary" if n_labels == 2 and kind is None else "multiclass"


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
