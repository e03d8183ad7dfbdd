"""What only a pickle holds: refused, or loaded when it is asked for by name, with a warning and a record."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

from auditkit.errors import InputError, UntrustedFileError
from auditkit.models.base import FrozenModel, Task

TRUSTED = "pickle"

_REMEDIES = {
    ".pkl": "save scikit-learn models with skops.io.dump (.skops), boosted trees with their own save_model",
    ".torchscript": "save the nn.Module with torch.export.save (.pt2)",
    ".pth": "save the program with torch.export.save (.pt2); or save the weights with safetensors, build the nn.Module "
    'in Python and pass it (for a timm model: "timm:<name>" with checkpoint=)',
}


def refuse_pickle(path: Path) -> None:
    """Raise for a file that can run code when it is loaded, naming the safe way to store what it holds.

    Raises:
        UntrustedFileError: Always.
    """
    suffix = path.suffix.lower()
    kind = {".joblib": "joblib", ".torchscript": "TorchScript", ".jit": "TorchScript"}.get(suffix, "pickle")
    family = {".pickle": ".pkl", ".joblib": ".pkl", ".jit": ".torchscript"}.get(suffix, suffix)
    remedy = _REMEDIES.get(family, _REMEDIES[".pth"])
    raise UntrustedFileError(
        f"spec: {path.name!r} is a {kind} file, which can run code when it is loaded; {remedy}; or, if you trust "
        f'whoever made it as much as your own code, ask for it with trust="{TRUSTED}"'
    )


def load_pickle(path: str | Path, *, task: Task | None = None, features: str | None = None) -> FrozenModel:
    """Load a pickle, a joblib file, a pickled torch module or a TorchScript program, running whatever code is in it.

    Args:
        path: The file.
        task: What a torch module predicts.
        features: The submodule whose output is the features of a torch module.

    Returns:
        The frozen model, whose ``trust`` says "pickle".

    Raises:
        InputError: The file is missing, damaged, or holds no model that is known.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"spec: there is no file {str(path)!r}")
    warnings.warn(
        f'{file.name} was loaded with trust="{TRUSTED}": code in it may have run with your rights', stacklevel=3
    )
    suffix = file.suffix.lower()
    read = _read_joblib if suffix in (".pkl", ".pickle", ".joblib") else _read_torch
    try:
        loaded = read(file)
    except Exception as error:  # a pickle can raise anything
        raise InputError(f"spec: {str(path)!r} could not be unpickled ({type(error).__name__}: {error})") from error
    return _freeze(loaded, file, task, features)


def _read_joblib(file: Path) -> Any:
    import joblib

    return joblib.load(file)  # also reads plain pickles


def _read_torch(file: Path) -> Any:
    import torch

    if zipfile.is_zipfile(file) and _is_torchscript(file):
        return torch.jit.load(file, map_location="cpu")
    return torch.load(file, map_location="cpu", weights_only=False)


def _is_torchscript(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        return any(name.partition("/")[2].startswith("code/") for name in archive.namelist())


def _freeze(loaded: Any, file: Path, task: Task | None, features: str | None) -> FrozenModel:
    from torch import nn

    if isinstance(loaded, nn.Module):
        from auditkit.models.torch_module import TorchModule

        return TorchModule(loaded, task=task or "binary", feature_layer=features, name=file.stem, trust=TRUSTED)
    if hasattr(loaded, "predict"):
        from auditkit.models.estimator_model import EstimatorModel

        return EstimatorModel(loaded, name=file.stem, trust=TRUSTED)
    raise InputError(
        f"spec: {file.name!r} holds a {type(loaded).__name__}, which is no estimator and no torch module; weights "
        "alone need the module that they belong to"
    )
