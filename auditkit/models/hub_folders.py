"""Folders as the Hugging Face hub keeps models: config.json beside weights, of timm or of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from auditkit.errors import InputError

CONFIG = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TEXT_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model")
"""What a tokenizer is made of; any of them but merges.txt is enough for some kind."""

DATA_FILES = (
    CONFIG, *WEIGHT_FILES, "model.safetensors.index.json", "model-*.safetensors", *TEXT_FILES, "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
"""What is fetched of a model on the hub: no file that holds source code is among it."""

Library = Literal["timm", "transformers"]


def find_folder(source: str) -> Path:
    """The folder that a name stands for.

    Args:
        source: ``"local-dir:<folder>"``, or ``"hf-hub:<owner>/<name>"``, perhaps with ``@<revision>``.

    Raises:
        InputError: It is not there and cannot be fetched.
    """
    kind, _, name = source.partition(":")
    folder = _fetched(name) if kind == "hf-hub" else Path(name)
    if not folder.is_dir():
        raise InputError(f"model {source!r}: there is no folder {name!r}")
    return folder


def read_config(folder: Path, source: str) -> dict[str, Any]:
    """What config.json holds.

    Raises:
        InputError: It is missing, or no JSON mapping.
    """
    return read_json(folder / CONFIG, source, "a folder saved by timm or transformers has one")


def read_json(path: Path, source: str, why: str) -> dict[str, Any]:
    """A JSON mapping of a model's folder.

    Args:
        path: The file.
        source: What messages call the model.
        why: Said where the file is missing.

    Raises:
        InputError: It is missing, or no JSON mapping.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"model {source!r} has no {path.name}; {why}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"model {source!r}: its {path.name} is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"model {source!r}: its {path.name} must be a mapping; got {type(content).__name__}")
    return content


def library_of(config: Mapping[str, Any], source: str) -> Library:
    """Which library reads a model: transformers where config.json has ``model_type``, timm with ``architecture``.

    Raises:
        InputError: It has neither.
    """
    if isinstance(config.get("model_type"), str):
        return "transformers"
    if "architecture" in config:
        return "timm"
    raise InputError(
        f"model {source!r}: its config.json has neither model_type, as transformers writes it, nor architecture, as "
        "timm does; save the model with one of them"
    )


def _fetched(name: str) -> Path:
    """The folder of a hub model, from the local cache or, where the hub is reached, downloaded: data files only."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(DATA_FILES)))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model 'hf-hub:{name}' is not in the local cache and cannot be fetched ({reason}); download its folder "
            'elsewhere and use "local-dir:<folder>"'
        ) from error
