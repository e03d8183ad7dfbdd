"""Frozen models: ``load_model`` finds the adapter that fits; each adapter is imported only when it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditkit.models.samples import sample_folder

if TYPE_CHECKING:
    from torch import nn

    from auditkit.models.base import FrozenModel, Task
    from auditkit.models.boosted_model import BoostedModel
    from auditkit.models.estimator_model import EstimatorModel
    from auditkit.models.exported_program import ExportedProgram
    from auditkit.models.onnx_model import OnnxModel
    from auditkit.models.predictions_model import PredictionsModel
    from auditkit.models.tabular import TabularMLP
    from auditkit.models.timm_model import TimmModel
    from auditkit.models.torch_module import TorchModule
    from auditkit.models.transformer_model import TransformerModel

__all__ = [
    "BoostedModel",
    "EstimatorModel",
    "ExportedProgram",
    "FrozenModel",
    "OnnxModel",
    "PredictionsModel",
    "TabularMLP",
    "TimmModel",
    "TorchModule",
    "TransformerModel",
    "load_model",
    "sample_folder",
]

_HOMES = {
    "BoostedModel": "boosted_model",
    "EstimatorModel": "estimator_model",
    "ExportedProgram": "exported_program",
    "FrozenModel": "base",
    "OnnxModel": "onnx_model",
    "PredictionsModel": "predictions_model",
    "TabularMLP": "tabular",
    "TimmModel": "timm_model",
    "TorchModule": "torch_module",
    "TransformerModel": "transformer_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def load_model(
    spec: str | Path | nn.Module | Any,
    *,
    trust: str | Sequence[str] | None = None,
    checkpoint: str | Path | None = None,
    task: Task | None = None,
    features: str | Sequence[str] | None = None,
    output: int | str | tuple[str, int] | None = None,
    outputs: str | None = None,
    preprocess: Any = None,
    score: str | None = None,
    key: str | None = None,
) -> FrozenModel:
    """Load a model and freeze it. Nothing in a file is executed.

    Args:
        spec: What there is:

            - a folder with ``model.json`` and ``model.safetensors``, or ``"sample:adult_mlp"``;
            - ``"timm:<name>"``, with ``checkpoint`` or packaged weights;
            - a folder with config.json that timm or transformers saved, also as ``"local-dir:<folder>"`` or
              ``"hf-hub:<owner>/<name>"``, with the preprocessing in it;
            - a ``.pt2`` file of ``torch.export.save``; an ``.onnx`` file;
            - a scikit-learn estimator or pipeline in a ``.skops`` file, or given in Python;
            - boosted trees: ``.json`` or ``.ubj`` of XGBoost, ``.txt`` or ``.lgb`` of LightGBM;
            - a table of predictions (``.csv``, ``.parquet``, ``.arrow``, ``.feather``), with ``score``;
            - a torch module, or a Hugging Face transformer with ``preprocess``, given in Python; they are copied.
        trust: For a .skops file the names of types that it may construct beyond those that skops knows. ``"pickle"``
            loads a pickle, a joblib file, a pickled module or TorchScript: it runs whatever code is in it, warns, and
            is recorded with the run.
        checkpoint: Weights for ``"timm:<name>"``: a local .safetensors file, or a .pth file of plain tensors.
        task: ``"binary"``, ``"regression"`` or ``"multiclass"``, where the file does not tell.
        features: Where features are read: a layer of a module or .pt2 program, a value of an ONNX graph, columns of a
            table of predictions. By default what the last linear layer reads, for modules and .pt2 programs.
        output: Which of several outputs is the score: its number, from 0, or the name of a class. ``task`` then says
            what the outputs are: classes that exclude each other ("multiclass", by default), questions of their own
            ("binary"), or values ("regression"). A name says which output of an ONNX graph is read, and a pair
            ``("probabilities", 3)`` which column of it as well.
        outputs: Whether that output holds ``"logits"`` or ``"probabilities"``, where the graph does not tell.
        preprocess: The tokenizer or image processor of a Hugging Face transformer.
        score: Column of scores of a table of predictions.
        key: Column that joins a table of predictions to the data.

    Returns:
        The model: ``.scores(batch)``, ``.logits(batch)``, ``.features(batch)``, ``.task``, ``.fingerprint``.

    Raises:
        InputError: ``spec`` is of no known form, names nothing that exists, or an option does not belong to it.
        UntrustedFileError: Loading it could run code.
        MissingExtraError: The package that reads it is not installed.
    """
    from auditkit.models.loading import load

    given = {
        "trust": trust, "checkpoint": checkpoint, "task": task, "features": features, "output": output,
        "outputs": outputs, "preprocess": preprocess, "score": score, "key": key,
    }  # fmt: skip
    return load(spec, {name: value for name, value in given.items() if value is not None})
