"""What a model file says about itself: the columns it reads, its task and its outputs; nothing in it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from auditkit.errors import InputError
from auditkit.models.hub_folders import CONFIG, find_folder, library_of, read_config
from auditkit.models.loading import PICKLES, PREFIXES

SUFFIXES = (".onnx", ".pt2", ".skops", ".json", ".ubj", ".txt", ".lgb", *PICKLES)
"""Suffixes of model files, those that are refused among them."""


@dataclass(frozen=True)
class ModelSketch:
    """What can be told of a model without data.

    Attributes:
        spec: How an audit file names it, relative to its folder.
        what: What it is, in words.
        columns: Names of the columns that it reads, in order; empty where the file has none.
        width: Number of columns; None where it is not written, or the model reads no table.
        options: Options of the ``model:`` section that it needs.
        notes: What whoever writes the audit file has to know.
        reads: What a row is to it: some columns of a table, a text, or an image.
    """

    spec: str
    what: str
    columns: tuple[str, ...] = ()
    width: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reads: Literal["columns", "text", "image"] = "columns"


def is_model(spec: str) -> bool:
    """Whether a name or path is meant as a model: by its prefix or suffix, or as a folder that describes one."""
    path = Path(spec)
    described = any((path / name).is_file() for name in ("model.json", CONFIG))
    return spec.startswith(PREFIXES) or path.suffix.lower() in SUFFIXES or described


def sketch_model(spec: str) -> ModelSketch:
    """Look at a model without running it.

    Args:
        spec: A file, a folder with model.json or config.json, or a name such as ``timm:resnet18``; nothing is fetched.

    Returns:
        What it says about itself.

    Raises:
        InputError: It is missing, damaged or of an unknown kind.
        UntrustedFileError: It is a pickle.
        MissingExtraError: The package that reads it is not installed.
    """
    if spec.startswith("sample:"):
        from auditkit.models.samples import sample_folder

        return _sketch_folder(sample_folder(spec.removeprefix("sample:")))
    path = Path(spec.removeprefix("local-dir:"))
    if spec.startswith("hf-hub:"):
        note = "it reads images (data.images) or texts (data.text), which is not known before it is fetched"
        return ModelSketch(spec, "a model that is looked up when it is used", notes=(note,))
    if spec.startswith("timm:") or (path / CONFIG).is_file():
        return _sketch_hub_folder(spec, path)
    if spec.startswith("local-dir:"):
        find_folder(spec)  # says what is not there
    if (path / "model.json").is_file():
        return _sketch_folder(path)
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        from auditkit.models.pickled import refuse_pickle

        refuse_pickle(path)
    if suffix not in _SKETCHES:
        raise InputError(f"model: {path.name!r} is of no known kind; known are {', '.join(SUFFIXES)} and model.json")
    return _SKETCHES[suffix](path)


def _sketch_folder(path: Path) -> ModelSketch:
    from auditkit.models.tabular import TabularMLP

    columns = tuple(TabularMLP.load(path).columns)
    return ModelSketch(str(path), "a network on the columns of a table", columns, len(columns))


def _sketch_hub_folder(spec: str, path: Path) -> ModelSketch:
    timm = ModelSketch(spec, "an image model of timm, which is loaded when it is used", reads="image")
    if spec.startswith("timm:"):
        return timm
    config = read_config(path, spec)
    if library_of(config, spec) == "timm":
        return timm
    from auditkit.models.transformer_folder import describe_folder

    facts = describe_folder(config, spec)
    what = f"a transformer that reads {'texts' if facts.reads_text else 'images'}"
    kind: Literal["text", "image"] = "text" if facts.reads_text else "image"
    if len(facts.labels) < 2:
        return ModelSketch(spec, what, reads=kind)
    named = ", ".join(facts.labels[:20])
    if len(facts.labels) == 2:
        note = f"its labels are {named}; the score is the probability of the second"
        return ModelSketch(spec, what, notes=(note,), reads=kind)
    note = f"its labels are {named}; output names the one whose probability is the score"
    return ModelSketch(spec, what, options={"output": facts.labels[-1]}, notes=(note,), reads=kind)


def _sketch_skops(path: Path) -> ModelSketch:
    from auditkit.models.skops_file import list_untrusted, load_skops

    unknown = list_untrusted(path)
    if unknown:
        note = "it would construct these types; nothing was loaded: keep trust only if you trust each of them"
        return ModelSketch(str(path), "a scikit-learn estimator", options={"trust": unknown}, notes=(note,))
    model = load_skops(path)
    return ModelSketch(str(path), f"a scikit-learn estimator, {model.task}", model.columns, len(model.columns) or None)


def _sketch_boosted(path: Path) -> ModelSketch:
    from auditkit.models.boosted_model import BoostedModel

    model = BoostedModel(path)
    return ModelSketch(str(path), f"boosted trees, {model.task}", model.columns, len(model.columns) or None)


def _sketch_program(path: Path) -> ModelSketch:
    from auditkit.models.exported_program import ExportedProgram

    model = ExportedProgram(path)
    shape = model.input_shape
    note = "task is not written in the file: say binary, multiclass or regression"
    if len(shape) != 2:
        shown = ", ".join("n" if size is None else str(size) for size in shape)
        notes = (note, f"it reads arrays of shape ({shown}), which are no columns of a table")
        return ModelSketch(str(path), "a torch.export program", options={"task": "binary"}, notes=notes)
    width = shape[1] if isinstance(shape[1], int) else None
    return ModelSketch(str(path), "a torch.export program", (), width, {"task": "binary"}, (note,))


def _sketch_onnx(path: Path) -> ModelSketch:
    from auditkit.models.onnx_file import describe_probabilities, read_onnx

    model = read_onnx(path)
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: _shape(value) for value in model.graph.input if value.name not in known}
    outputs = {value.name: _shape(value) for value in model.graph.output}
    shown = "; ".join(f"{name} {_in_words(shape)}" for name, shape in outputs.items())
    notes = [f"its outputs are {shown}; output: names the one with the scores"] if len(outputs) > 1 else []
    last = list(outputs)[-1]
    held = "probabilities" if describe_probabilities(model, last) else "logits"
    notes.append(f"{last} holds {held}, as far as the graph tells; a regression needs task: regression")
    options = {"output": last} if len(outputs) > 1 else {}
    named = len(inputs) > 1 and all(len(shape) <= 2 and shape[1:] in ((), (1,)) for shape in inputs.values())
    if named:
        return ModelSketch(str(path), "an ONNX graph", tuple(inputs), len(inputs), options, tuple(notes))
    shape = next(iter(inputs.values()), ())
    if len(inputs) != 1 or len(shape) != 2:
        said = "; ".join(f"{name} {_in_words(one)}" for name, one in inputs.items())
        notes.append(f"its inputs are {said}, which are no columns of one table")
    width = shape[1] if len(inputs) == 1 and len(shape) == 2 else None
    return ModelSketch(str(path), "an ONNX graph", (), width, options, tuple(notes))


def _shape(value: Any) -> tuple[int | None, ...]:
    dimensions = value.type.tensor_type.shape.dim
    return tuple(one.dim_value if one.HasField("dim_value") else None for one in dimensions)


def _in_words(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('n' if size is None else str(size) for size in shape)})"


_SKETCHES: dict[str, Callable[[Path], ModelSketch]] = {
    ".onnx": _sketch_onnx,
    ".pt2": _sketch_program,
    ".skops": _sketch_skops,
    **dict.fromkeys((".json", ".ubj", ".txt", ".lgb"), _sketch_boosted),
}
