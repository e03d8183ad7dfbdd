"""A Hugging Face transformer from a folder: config.json, weights, and its tokenizer or image processor; data alone.

Nothing in the folder is run. The architecture is one that transformers itself has, config.json is stripped of what
would fetch, quantize or replace code, and the weights are read as tensors before transformers sees them.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from auditkit._extras import import_extra
from auditkit.errors import InputError, UntrustedFileError
from auditkit.models.base import Task
from auditkit.models.checkpoints import read_checkpoint
from auditkit.models.hub_folders import TEXT_FILES, WEIGHT_FILES, read_config, read_json
from auditkit.models.torchvision_compat import ensure_torchvision
from auditkit.models.transformer_model import TransformerModel

INDEX = "model.safetensors.index.json"
DROPPED = re.compile(
    r"_?(attn|experts)_implementation.*|auto_map|custom_pipelines|use_kernels|dtype|torch_dtype|_name_or_path"
)
"""Keys of config.json, at any depth, that choose code, kernels to download, or a precision."""
REFUSED = ("quantization_config", "compression_config", "backbone", "use_timm_backbone", "backbone_config")
"""Keys of config.json that need code or weights from elsewhere."""
COUNTS = re.compile(r"(num_|n_)?(\w+_)?(layers?|blocks|depths?|stages)")
MOST_SURPLUS = 1_000_000
"""Numbers that a model may have beyond twice those in its weights: tied weights, tables of positions."""


class FolderFacts(NamedTuple):
    """What a folder says about itself, without its weights.

    Attributes:
        kind: ``model_type`` of config.json.
        name: Class of the model, such as ``BertForSequenceClassification``.
        reads_text: Whether it reads text; images otherwise.
        labels: Names of its outputs, in order; none without a head.
    """

    kind: str
    name: str
    reads_text: bool
    labels: tuple[str, ...]


def load_transformer(
    folder: Path, source: str, *, task: Task | None = None, features: str | None = None
) -> TransformerModel:
    """Load a classifier, a regression or a backbone without a head that transformers saved.

    Args:
        folder: Holds config.json, model.safetensors (or its shards, or pytorch_model.bin of plain tensors), and the
            files of a tokenizer or an image processor.
        source: What messages call it.
        task: As `TransformerModel` takes it.
        features: Submodule whose output is the features; by default what the last linear layer reads.

    Returns:
        The frozen model, in float32.

    Raises:
        InputError: The folder is incomplete, does not fit together, or is no classifier or backbone of text or images.
        UntrustedFileError: It could only be loaded by running code, or its weights hold more than tensors.
        MissingExtraError: transformers is not installed.
    """
    values = read_config(folder, source)
    facts = describe_folder(values, source)
    transformers = _transformers()
    with _readable(source, "transformers cannot build it from its config.json"):
        config = transformers.CONFIG_MAPPING[facts.kind].from_dict(_strip(values))
    preprocess = _preprocessing(transformers, folder, config, source, text=facts.reads_text)
    module = _filled(getattr(transformers, facts.name), config, _read_weights(folder, source), source)
    return TransformerModel(module, preprocess=preprocess, task=task, feature_layer=features, name=_name(source))


def describe_folder(values: Mapping[str, Any], source: str) -> FolderFacts:
    """What config.json says, checked; the weights are not opened.

    Raises:
        InputError: It is no classifier or backbone that transformers has, or needs what is not read.
        UntrustedFileError: It could only be loaded by running code of its own.
        MissingExtraError: transformers is not installed.
    """
    transformers = _transformers()
    auto = import_extra("transformers.models.auto.modeling_auto")
    kind = values["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        if "auto_map" in values:
            raise UntrustedFileError(
                f"model {source!r} brings code of its own (auto_map in its config.json), which is never run; export it "
                "with torch.export or to ONNX where it is trusted"
            )
        raise InputError(f"model {source!r}: model_type {kind!r} is unknown to transformers {transformers.__version__}")
    texts = _names(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, kind)
    images = _names(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, kind)
    named = values.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    heads = [*texts, *images]
    backbones = _names(auto.MODEL_MAPPING_NAMES, kind) if heads else []
    if name not in (*heads, *backbones):
        wanted = f"a {' or a '.join([*heads, *backbones])}" if heads else "a model with a classification head"
        raise InputError(
            f"model {source!r} is {name or 'of no named class'}, which gives neither scores nor features; use {wanted}"
        )
    if kind == "timm_wrapper":
        raise InputError(f"model {source!r} is a model of timm in a wrapper; save it with timm.models.save_for_hf")
    unread = [key for key in REFUSED if values.get(key)]
    if unread:
        raise InputError(
            f"model {source!r}: {unread[0]} in its config.json asks for code or weights from elsewhere; save the model "
            "whole and without it"
        )
    if name in backbones:
        return FolderFacts(kind, name, bool(texts), ())
    return FolderFacts(kind, name, name in texts, _labels(values))


def _names(mapping: Mapping[str, Any], kind: str) -> list[str]:
    """The classes that a table of transformers lists for a model_type: none, one or several."""
    found = mapping.get(kind, ())
    return [found] if isinstance(found, str) else list(found)


def _transformers() -> Any:
    ensure_torchvision()  # transformers imports torchvision where it is installed
    return import_extra("transformers")


def _labels(values: Mapping[str, Any]) -> tuple[str, ...]:
    named = values.get("id2label")
    if not isinstance(named, dict) or not all(str(key).isdigit() for key in named):
        return ()
    return tuple(str(named[key]) for key in sorted(named, key=int))


def _strip(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strip(inner) for key, inner in value.items() if not DROPPED.fullmatch(key)}
    return [_strip(inner) for inner in value] if isinstance(value, list) else value


def _name(source: str) -> str:
    return Path(source.partition(":")[2].partition("@")[0]).name or source


def _read_weights(folder: Path, source: str) -> dict[str, Tensor]:
    """Every tensor of the folder: of one file, or of the shards that an index names."""
    if (folder / INDEX).is_file() and not (folder / WEIGHT_FILES[0]).is_file():
        shards = read_json(folder / INDEX, source, "").get("weight_map")
        names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise InputError(f"model {source!r}: {INDEX} must name .safetensors files in the folder")
        stored: dict[str, Tensor] = {}
        for name in names:
            stored |= read_checkpoint(folder / name)
        return stored
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise InputError(f"model {source!r} has no weights; there should be {' or '.join(WEIGHT_FILES)}")
    return read_checkpoint(weights)


def _filled(kind: Any, config: Any, stored: Mapping[str, Tensor], source: str) -> nn.Module:
    """The architecture with its weights; every parameter comes from the file."""
    options = _choose_parts(kind, stored)
    _check_size(partial(kind, **options), config, stored, source)
    with _readable(source, "its weights do not fit its config.json"):
        module, found = kind.from_pretrained(
            None, config=config, state_dict=dict(stored), dtype=torch.float32, attn_implementation="eager",
            output_loading_info=True, **options,
        )  # fmt: skip
    missing, unknown = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing or found["mismatched_keys"]:
        raise InputError(
            f"model {source!r}: its weights lack {len(missing)} tensors of {type(module).__name__} "
            f"({', '.join(missing[:3])}); a layer that was never trained gives no scores or features"
        )
    if unknown:
        raise InputError(
            f"model {source!r}: its weights hold {len(unknown)} tensors that {type(module).__name__} does not have "
            f"({', '.join(unknown[:3])})"
        )
    return module


def _choose_parts(kind: Any, stored: Mapping[str, Tensor]) -> dict[str, Any]:
    """A backbone that was saved without its pooling layer, such as that of a classifier of images, is built without."""
    can_lack = "add_pooling_layer" in inspect.signature(kind).parameters
    return {"add_pooling_layer": False} if can_lack and not any("pooler." in name for name in stored) else {}


def _check_size(kind: Any, config: Any, stored: Mapping[str, Tensor], source: str) -> None:
    """Raise for a config.json that describes a far larger model than there are weights, before memory is taken.

    Raises:
        InputError: It does.
    """
    for key, value in config.to_dict().items():
        deepest = max((one for one in (value if isinstance(value, list) else [value]) if type(one) is int), default=0)
        if COUNTS.fullmatch(key) and deepest > len(stored):
            raise InputError(
                f"model {source!r}: its config.json says {key} {value}, and its weights hold {len(stored)} tensors"
            )
    with _readable(source, "transformers cannot build it from its config.json"), torch.device("meta"):
        module = kind(config)
    described = sum(math.prod(one.shape) for one in (*module.parameters(), *module.buffers()))
    held = sum(math.prod(tensor.shape) for tensor in stored.values())
    if described > 2 * held + MOST_SURPLUS:
        raise InputError(
            f"model {source!r}: its config.json describes {described:,} numbers, and its weights hold {held:,}"
        )


def _preprocessing(transformers: Any, folder: Path, config: Any, source: str, *, text: bool) -> Any:
    """The tokenizer or the image processor of the folder.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    options = {"trust_remote_code": False, "local_files_only": True}
    if not text:
        if not (folder / "preprocessor_config.json").is_file():
            raise InputError(f"model {source!r} has no preprocessor_config.json, which says how it reads an image")
        with _readable(source, "its image processor cannot be read"):
            return transformers.AutoImageProcessor.from_pretrained(folder, **options)
    if not any((folder / name).is_file() for name in TEXT_FILES):
        raise InputError(f"model {source!r} has no tokenizer; there should be {TEXT_FILES[0]} or vocab.txt")
    with _readable(source, "its tokenizer cannot be read"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, config=config, **options)
    if tokenizer.pad_token is None:
        raise InputError(
            f"model {source!r}: its tokenizer has no padding token, without which texts of several lengths make no "
            "batch; name pad_token in its tokenizer_config.json"
        )
    if getattr(config, "pad_token_id", None) is None:  # some models look for the end of a text by it
        config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


@contextlib.contextmanager
def _readable(source: str, what: str) -> Iterator[None]:
    """Say what is wrong with the folder in one line, whatever the library raises; its own notes are left out."""
    notes = import_extra("transformers.utils.logging")
    verbosity, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    try:
        yield
    except Exception as error:  # damaged files lead the library to errors of many kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"model {source!r}: {what} ({reason})") from error
    finally:
        notes.set_verbosity(verbosity)
        if bars:
            notes.enable_progress_bar()
