"""Frozen models: ``load_model`` finds the adapter that fits; each adapter is imported only when it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditkit.errors import InputError, UntrustedFileError

if TYPE_CHECKING:
    from torch import nn

    from auditkit.models.base import FrozenModel
    from auditkit.models.skops_model import SkopsModel
    from auditkit.models.tabular import TabularMLP
    from auditkit.models.timm_model import TimmModel
    from auditkit.models.torch_module import TorchModule

__all__ = ["FrozenModel", "SkopsModel", "TabularMLP", "TimmModel", "TorchModule", "load_model", "sample_folder"]

_HOMES = {
    "FrozenModel": "base",
    "SkopsModel": "skops_model",
    "TabularMLP": "tabular",
    "TimmModel": "timm_model",
    "TorchModule": "torch_module",
}
_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pt2", ".pth", ".bin", ".ckpt", ".torchscript", ".jit")
_FORMS = 'a folder with model.json, a .skops file, "sample:<name>", "timm:<name>" or an nn.Module'


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def load_model(
    spec: str | Path | nn.Module, *, trust: Sequence[str] | None = None, checkpoint: str | Path | None = None
) -> FrozenModel:
    """Load a model and freeze it.

    Args:
        spec: A folder with ``model.json`` and ``model.safetensors``; a scikit-learn estimator in a .skops file;
            ``"sample:adult_mlp"``; ``"timm:<name>"``; or a torch module, which is copied (see ``TorchModule`` for its
            options).
        trust: Names of the types, beyond those skops knows, that a .skops file may construct, such as
            ``["my_package.MyTransformer"]``; only types you trust. It never opens a pickle.
        checkpoint: Weights for ``"timm:<name>"``: a local .safetensors file, or a .pth file of plain tensors.

    Returns:
        The model: ``.scores(batch)``, ``.logits(batch)``, ``.features(batch)``, ``.fingerprint``.

    Raises:
        InputError: ``spec`` is of no known form, or names nothing that exists.
        UntrustedFileError: ``spec`` is a pickle in one of its forms.
    """
    is_timm = isinstance(spec, str) and spec.startswith("timm:")
    is_skops = isinstance(spec, str | Path) and Path(spec).suffix.lower() == ".skops"
    if checkpoint is not None and not is_timm:
        raise InputError(f'checkpoint belongs to "timm:<name>" only; got spec {spec!r}')
    if trust is not None and not is_skops:
        raise InputError(f"trust belongs to .skops files only; got spec {spec!r}")
    if not isinstance(spec, str | Path):
        return _freeze_module(spec)
    if is_timm:
        from auditkit.models.timm_model import TimmModel

        return TimmModel.load(str(spec).removeprefix("timm:"), checkpoint=checkpoint)
    if is_skops:
        from auditkit.models.skops_model import SkopsModel

        return SkopsModel.load(spec, trust=trust or ())
    if isinstance(spec, str) and spec.startswith("sample:"):
        return _load_folder(sample_folder(spec.removeprefix("sample:")))
    return _load_folder(_checked_folder(Path(spec)))


def sample_folder(name: str) -> Path:
    """Folder of a sample model: inside an installed package, or in the repository beside it.

    Raises:
        InputError: There is no such sample; the message lists those there are.
    """
    package = Path(__file__).parents[1]
    homes = [package / "_samples", package.parent / "sample_models"]
    found = {folder.name: folder for home in reversed(homes) if home.is_dir() for folder in home.iterdir()}
    samples = {key: folder for key, folder in found.items() if (folder / "card.json").is_file()}
    if name not in samples:
        raise InputError(f"sample model {name!r} does not exist; there are: {', '.join(sorted(samples)) or 'none'}")
    return samples[name]


def _freeze_module(module: Any) -> FrozenModel:
    from torch import nn

    if not isinstance(module, nn.Module):
        raise InputError(f"spec must be {_FORMS}; got {type(module).__name__}")
    from auditkit.models.torch_module import TorchModule

    return TorchModule(module)


def _checked_folder(path: Path) -> Path:
    if path.suffix.lower() in _PICKLES and not path.is_dir():
        raise UntrustedFileError(
            f"spec: {path.name!r} is a pickle, joblib, TorchScript or torch.export file, which can run code when it is "
            "loaded; save scikit-learn models with skops.io.dump (.skops); of a torch model, save the weights with "
            "safetensors, build the nn.Module in Python and pass it"
        )
    if not path.exists():
        raise InputError(f"spec: there is nothing at {str(path)!r}; it must be {_FORMS}")
    if not path.is_dir():
        raise InputError(f"spec: {path.name!r} is a file; it must be {_FORMS}")
    return path


def _load_folder(folder: Path) -> FrozenModel:
    from auditkit.models.tabular import TabularMLP

    return TabularMLP.load(folder)
