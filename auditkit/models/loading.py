"""Which adapter reads what: by the prefix or the suffix of a name, or by the type of an object."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditkit._tables import TABLE_SUFFIXES
from auditkit.errors import InputError
from auditkit.models.hub_folders import CONFIG, find_folder, library_of, read_config

if TYPE_CHECKING:
    from auditkit.models.base import FrozenModel

Options = Mapping[str, Any]

HUB_PREFIXES = ("hf-hub:", "local-dir:")
PREFIXES = (*HUB_PREFIXES, "sample:", "timm:")
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".torchscript", ".jit")
FORMS = (
    'a folder with model.json or config.json, "timm:<name>", "local-dir:<folder>", "hf-hub:<name>", "sample:<name>", '
    "a .pt2, .onnx, .skops, .json, .ubj, .txt or .lgb file, a table of predictions, an nn.Module or a scikit-learn "
    "estimator"
)


@dataclass(frozen=True)
class Adapter:
    """Reads one kind of model.

    Attributes:
        what: What messages call the kind.
        options: The options that belong to it.
        read: Called with what ``load_model`` was given and its options.
    """

    what: str
    options: frozenset[str]
    read: Callable[[Any, Options], FrozenModel]


def load(spec: Any, options: Options) -> FrozenModel:
    """Find the adapter and hand it the model.

    Raises:
        InputError: There is none, or an option does not belong to it.
    """
    adapter = _adapter(spec, options)
    graph_output, chosen = _split_output(adapter, options.get("output"))
    surplus = sorted(set(options) - adapter.options)
    if surplus:
        allowed = ", ".join(sorted(adapter.options)) or "none"
        raise InputError(
            f"{surplus[0]} belongs to {_owners(surplus[0])}; got it with {adapter.what} {_shown(spec)}, whose options "
            f"are: {allowed}"
        )
    if chosen is None:
        return adapter.read(spec, options)
    given = {name: value for name, value in options.items() if name != "output"}
    given |= {"task": "multiclass"} if "task" in adapter.options else {}
    given |= {"output": graph_output} if graph_output is not None else {}
    model = adapter.read(spec, given)
    return _class("chosen_output", "ChosenOutput")(model, chosen, task=options.get("task", model.output_task))


def _split_output(adapter: Adapter, output: Any) -> tuple[str | None, int | str | None]:
    """The output of a graph by its name, and which of its columns is the score; an ONNX graph may need both.

    Raises:
        InputError: It is neither a number, nor a name, nor both.
    """
    if output is None:
        return None, None
    named = adapter is ADAPTERS[".onnx"]
    if isinstance(output, str):
        return (output, None) if named else (None, output)
    if isinstance(output, int) and not isinstance(output, bool):
        return None, output
    pair = tuple(output) if isinstance(output, list | tuple) else ()
    if named and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int:
        return pair
    both = ', or ["name", number] for an ONNX graph of several outputs' if named else ", or the name of a class"
    raise InputError(f"output must be the number of an output, from 0{both}; got {output!r}")


def _adapter(spec: Any, options: Options) -> Adapter:
    if not isinstance(spec, str | Path):
        return _object_adapter(spec)
    prefix = next((prefix for prefix in PREFIXES if isinstance(spec, str) and spec.startswith(prefix)), None)
    if prefix in HUB_PREFIXES:
        return _hub_adapter(str(spec))
    if prefix is not None:
        return ADAPTERS[prefix]
    path = Path(spec)
    if path.is_dir():
        is_ours = (path / "model.json").is_file() or not (path / CONFIG).is_file()
        return ADAPTERS["folder"] if is_ours else _hub_adapter(f"local-dir:{path}")
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        return ADAPTERS["trusted" if options.get("trust") == "pickle" else "pickle"]
    if not path.exists():
        raise InputError(f"spec: there is nothing at {str(path)!r}; it must be {FORMS}")
    if suffix not in ADAPTERS:
        raise InputError(f"spec: {path.name!r} is a file; it must be {FORMS}")
    return ADAPTERS[suffix]


def _hub_adapter(source: str) -> Adapter:
    """Of the library that saved a folder with config.json."""
    return ADAPTERS[library_of(read_config(find_folder(source), source), source)]


def _object_adapter(spec: Any) -> Adapter:
    from torch import nn

    if isinstance(spec, nn.Module):
        from auditkit.models.transformer_model import is_transformer

        return ADAPTERS["transformer" if is_transformer(spec) else "module"]
    if hasattr(spec, "predict") and hasattr(spec, "get_params"):
        return ADAPTERS["estimator"]
    raise InputError(f"spec must be {FORMS}; got {type(spec).__name__}")


def _owners(option: str) -> str:
    return ", ".join(dict.fromkeys(adapter.what for adapter in ADAPTERS.values() if option in adapter.options))


def _shown(spec: Any) -> str:
    return repr(str(spec)) if isinstance(spec, str | Path) else type(spec).__name__


def _class(home: str, name: str) -> Any:
    return getattr(importlib.import_module(f"auditkit.models.{home}"), name)


def _read_timm(spec: Any, options: Options) -> FrozenModel:
    return _class("timm_model", "TimmModel").load(str(spec).removeprefix("timm:"), checkpoint=options.get("checkpoint"))


def _read_timm_folder(spec: Any, options: Options) -> FrozenModel:
    del options
    return _class("timm_model", "TimmModel").load_folder(_source(spec))


def _read_transformer_folder(spec: Any, options: Options) -> FrozenModel:
    from auditkit.models.transformer_folder import load_transformer

    source = _source(spec)
    return load_transformer(find_folder(source), source, **options)


def _source(spec: Any) -> str:
    """A folder with the prefix that it may be given without."""
    return spec if isinstance(spec, str) and spec.startswith(HUB_PREFIXES) else f"local-dir:{spec}"


def _read_sample(spec: Any, options: Options) -> FrozenModel:
    from auditkit.models.samples import sample_folder

    return _read_folder(sample_folder(str(spec).removeprefix("sample:")), options)


def _read_folder(spec: Any, options: Options) -> FrozenModel:
    del options
    return _class("tabular", "TabularMLP").load(Path(spec))


def _read_program(spec: Any, options: Options) -> FrozenModel:
    return _class("exported_program", "ExportedProgram")(spec, **options)


def _read_onnx(spec: Any, options: Options) -> FrozenModel:
    if options.get("outputs") not in (None, "logits", "probabilities"):
        raise InputError(f"outputs must be logits or probabilities; got {options['outputs']!r}")
    return _class("onnx_model", "OnnxModel")(spec, **options)


def _read_boosted(spec: Any, options: Options) -> FrozenModel:
    del options
    return _class("boosted_model", "BoostedModel")(spec)


def _read_predictions(spec: Any, options: Options) -> FrozenModel:
    if "score" not in options:
        raise InputError(f"spec: {Path(spec).name!r} is a table of predictions; name its column of scores in score=")
    return _class("predictions_model", "PredictionsModel")(spec, **options)


def _read_skops(spec: Any, options: Options) -> FrozenModel:
    from auditkit.models.skops_file import load_skops

    trust = options.get("trust", ())
    if isinstance(trust, str):
        raise InputError(
            f'trust for a .skops file must be a list of type names; got {trust!r}; write trust=["{trust}"]'
        )
    return load_skops(spec, trust=trust)


def _refuse(spec: Any, options: Options) -> FrozenModel:
    from auditkit.models.pickled import refuse_pickle

    del options
    refuse_pickle(Path(spec))
    raise AssertionError("refuse_pickle returned")


def _read_pickle(spec: Any, options: Options) -> FrozenModel:
    from auditkit.models.pickled import load_pickle

    return load_pickle(spec, task=options.get("task"), features=options.get("features"))


def _read_estimator(spec: Any, options: Options) -> FrozenModel:
    del options
    return _class("estimator_model", "EstimatorModel")(spec, name=type(spec).__name__)


def _read_module(spec: Any, options: Options) -> FrozenModel:
    task = options.get("task", "binary")
    return _class("torch_module", "TorchModule")(spec, task=task, feature_layer=options.get("features"))


def _read_transformer(spec: Any, options: Options) -> FrozenModel:
    if "preprocess" not in options:
        raise InputError(
            f"preprocess is missing: pass the tokenizer or the image processor of {type(spec).__name__}, without which "
            "it cannot read a batch"
        )
    return _class("transformer_model", "TransformerModel")(
        spec, preprocess=options["preprocess"], task=options.get("task"), feature_layer=options.get("features")
    )


def _make(what: str, options: str, read: Callable[[Any, Options], FrozenModel]) -> Adapter:
    return Adapter(what, frozenset(options.split()), read)


_BOOSTED = _make("files of boosted trees", "output", _read_boosted)
_TABLE = _make("tables of predictions", "score features key task", _read_predictions)

ADAPTERS: dict[str, Adapter] = {
    "timm:": _make('"timm:<name>"', "checkpoint output", _read_timm),
    "timm": _make("folders saved by timm", "output", _read_timm_folder),
    "transformers": _make("folders saved by transformers", "task features output", _read_transformer_folder),
    "sample:": _make("sample models", "", _read_sample),
    "folder": _make("folders with model.json", "", _read_folder),
    ".pt2": _make(".pt2 files", "task features output", _read_program),
    ".onnx": _make(".onnx files", "task features output outputs", _read_onnx),
    ".skops": _make(".skops files", "trust output", _read_skops),
    "pickle": _make("pickles", "trust task features output", _refuse),
    "trusted": _make("pickles", "trust task features output", _read_pickle),
    "estimator": _make("scikit-learn estimators", "output", _read_estimator),
    "module": _make("torch modules", "task features output", _read_module),
    "transformer": _make("Hugging Face transformers", "preprocess task features output", _read_transformer),
    **dict.fromkeys((".json", ".ubj", ".txt", ".lgb"), _BOOSTED),
    **dict.fromkeys(TABLE_SUFFIXES, _TABLE),
}
"""Prefix, suffix, library of a folder or kind of object → adapter."""
