"""Transformers of a few thousand random weights, saved as folders the way the library saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from auditkit.models.torchvision_compat import ensure_torchvision

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "loan", "was", "repaid", "late"]
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}


def import_transformers() -> Any:
    ensure_torchvision()  # transformers imports torchvision where it is installed
    return pytest.importorskip("transformers", reason="pip install 'auditkit[transformers]'")


def bert(seed: int = 0, labels: int = 2, **options: Any) -> tuple[nn.Module, Any]:
    """A model of text and its tokenizer."""
    transformers = import_transformers()
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), max_position_embeddings=32, num_labels=labels, initializer_range=0.5, **TINY, **options
    )
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    )
    return transformers.BertForSequenceClassification(config).train(), tokenizer


def vit(labels: int = 2) -> tuple[nn.Module, Any]:
    """A model of images and its image processor."""
    transformers = import_transformers()
    torch.manual_seed(0)
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=labels, initializer_range=0.3, **TINY)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    return transformers.ViTForImageClassification(config), processor


def save(folder: Path, made: tuple[nn.Module, Any]) -> Path:
    """What ``save_pretrained`` leaves behind."""
    for part in made:
        part.save_pretrained(folder)
    return folder
