"""Backbone, head and correction as one artefact: a torch.export program (.pt2) or an ONNX graph, groups as inputs.

    y = clip( h(φ(x)) + α_g + β_g · h(φ(x)) )       φ: the frozen features, h: the head, (α, β): the calibration

An ONNX graph takes the groups as strings, one input per column. A torch program takes their codes, shape (n, a),
`encode_groups` makes them from the vocabulary that the program carries. A combination that the calibration never saw
gives NaN, or the score unchanged with on_unseen="keep": a program cannot raise.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from auditkit._extras import import_extra
from auditkit._files import write_whole
from auditkit.deployment.calibration import Calibration
from auditkit.deployment.thresholds import DecisionThresholds
from auditkit.errors import InputError, SolverError
from auditkit.groups import Groups
from auditkit.heads import FairHead
from auditkit.models.base import FrozenModel
from auditkit.onnx_export import OPSET, column_texts, correction_tables, write_calibration, write_thresholds

VOCABULARY = "auditkit_vocabulary.json"
LARGEST_DIFFERENCE = 1e-6

Vocabulary = Mapping[str, Sequence[str]]
"""Column → the texts of its values in the order of their codes, which start at 1; 0 is a value never seen."""


class Scorer(nn.Module):
    """From what the backbone reads to scores in float64.

    Args:
        backbone: A frozen model, or a module that gives features of shape (n, d), or scores of shape (n,).
        head: A head on the features; without it the backbone's own scores are corrected.
    """

    def __init__(self, backbone: FrozenModel | nn.Module, head: FairHead | None = None) -> None:
        super().__init__()
        own = isinstance(backbone, FrozenModel)
        self.backbone = backbone.as_module(features=head is not None) if own else _frozen_copy(backbone)
        self.head = None if head is None else _frozen_copy(head)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores of a prepared batch, shape (n,)."""
        output = self.backbone(inputs)
        scores = output if self.head is None else self.head(output)
        return scores.to(torch.float64)


def _frozen_copy(module: nn.Module) -> nn.Module:
    """The caller's module stays as it is."""
    return copy.deepcopy(module).eval().requires_grad_(False)


class Deployed(nn.Module):
    """A scorer with its correction: what is exported.

    Args:
        scorer: Gives the scores.
        calibration: Corrects them.
    """

    def __init__(self, scorer: nn.Module, calibration: Calibration) -> None:
        super().__init__()
        shift, slope, is_known = correction_tables(calibration)
        self.scorer = scorer
        self.register_buffer("shift", torch.from_numpy(shift))
        self.register_buffer("slope", torch.from_numpy(slope))
        self.register_buffer("is_known", torch.from_numpy(is_known))
        self.sizes = [len(column_texts(calibration, k)) + 1 for k in range(len(calibration.columns))]
        self.bounds = calibration.bounds
        self.keeps = calibration.on_unseen == "keep"

    def forward(self, inputs: Tensor, codes: Int[Tensor, "n a"]) -> Float[Tensor, " n"]:
        """Corrected scores of a prepared batch and the codes of its groups."""
        scores = self.scorer(inputs)
        position = torch.zeros_like(codes[:, 0]) if self.sizes else codes.new_zeros(len(codes))
        for column, size in enumerate(self.sizes):
            position = position * size + codes[:, column]
        corrected = scores + self.get_buffer("slope")[position] * scores + self.get_buffer("shift")[position]
        if self.bounds is not None and any(bound is not None for bound in self.bounds):
            corrected = corrected.clamp(*self.bounds)
        otherwise = scores if self.keeps else torch.full_like(scores, float("nan"))
        return torch.where(self.get_buffer("is_known")[position], corrected, otherwise)


def export_torch(
    backbone: FrozenModel | nn.Module,
    calibration: Calibration,
    path: str | Path,
    *,
    example: Tensor,
    head: FairHead | None = None,
) -> None:
    """Write backbone, head and correction as one torch.export program.

    The program is called with (inputs, codes): a batch of any number of rows as ``example`` is, and int64 codes of the
    groups, shape (n, a). It gives the corrected scores in float64, shape (n,).

    Args:
        backbone: A frozen torch model, or a module that gives features (with a head) or scores (without).
        calibration: The correction of known groups.
        path: Where, usually .pt2; the file appears whole or not at all.
        example: A prepared batch of at least two rows; what the program gives for it is checked.
        head: The head on the features.

    Raises:
        InputError: Scores of another shape than (n,), inferred attributes, or an example of one row.
        SolverError: The program differs from the model by more than 1e-6.
    """
    scorer = _checked_scorer(backbone, head, calibration, example)
    model = Deployed(scorer, calibration).eval()
    codes = torch.ones((len(example), len(calibration.columns)), dtype=torch.int64)
    rows = torch.export.Dim("rows")
    program = torch.export.export(model, (example, codes), dynamic_shapes=({0: rows}, {0: rows}))
    with torch.no_grad():
        found, wanted = program.module()(example, codes), model(example, codes)
    if not torch.allclose(found, wanted, rtol=0, atol=LARGEST_DIFFERENCE, equal_nan=True):
        raise SolverError("the exported program differs from the model by more than 1e-6; nothing was written")
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={VOCABULARY: json.dumps(vocabulary_of(calibration))})
    write_whole(Path(path), content.getvalue())


def export_onnx(
    backbone: FrozenModel | nn.Module,
    correction: Calibration | DecisionThresholds,
    path: str | Path,
    *,
    example: Tensor,
    head: FairHead | None = None,
) -> None:
    """Write backbone, head and correction (or thresholds) as one ONNX graph.

    Inputs are ``inputs`` (a batch of any number of rows as ``example`` is) and one string tensor per column, shape
    (n,); the output is ``corrected`` in float64. With `DecisionThresholds` there is an input ``uniforms`` as well, and
    the outputs are ``chance`` and ``decision``.

    Args:
        backbone: A frozen torch model, or a module that gives features (with a head) or scores (without).
        correction: The correction of known groups, or thresholds.
        path: Where; the file appears whole or not at all.
        example: A prepared batch of at least two rows.
        head: The head on the features.

    Raises:
        InputError: Scores of another shape than (n,), or inferred attributes.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    import_extra("onnxscript")
    scorer = _checked_scorer(backbone, head, correction, example)
    program = torch.onnx.export(
        scorer, (example,), dynamo=True, opset_version=OPSET, input_names=["inputs"], output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("rows")},), verbose=False,
    )  # fmt: skip
    assert program is not None
    write = write_calibration if isinstance(correction, Calibration) else write_thresholds
    write(correction, Path(path), scorer=program.model_proto)  # type: ignore[arg-type]


def vocabulary_of(calibration: Calibration | DecisionThresholds) -> dict[str, list[str]]:
    """The texts of the values of every column, in the order of their codes."""
    return {name: column_texts(calibration, k) for k, name in enumerate(calibration.columns)}


def read_vocabulary(path: str | Path) -> dict[str, list[str]]:
    """The vocabulary that a program written by `export_torch` carries, read without loading the program.

    Raises:
        InputError: The file is missing, or was not written by `export_torch`.
    """
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith(VOCABULARY))
            return {str(column): list(map(str, texts)) for column, texts in json.loads(archive.read(name)).items()}
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, AttributeError) as error:
        raise InputError(f"path holds no program with a vocabulary of groups: {path}") from error


def encode_groups(groups: Groups, vocabulary: Vocabulary) -> Int[Tensor, "n a"]:
    """Codes of the groups as a torch program takes them; 0 for a value that the calibration never saw.

    Args:
        groups: Attributes of the rows.
        vocabulary: From `read_vocabulary` or `vocabulary_of`.
    """
    columns = []
    for name, texts in vocabulary.items():
        place = {text: k + 1 for k, text in enumerate(texts)}
        table = np.array([place.get(str(value), 0) for value in groups.categories(name)], dtype=np.int64)
        columns.append(table[groups.codes(name)])
    return torch.from_numpy(np.stack(columns, axis=1))


def _checked_scorer(
    backbone: FrozenModel | nn.Module,
    head: FairHead | None,
    correction: Calibration | DecisionThresholds,
    example: Tensor,
) -> Scorer:
    if isinstance(correction, Calibration) and correction.inferred:
        raise InputError(
            f"the corrections for inferred attributes ({', '.join(correction.inferred)}) cannot be exported; calibrate "
            "on known values"
        )
    if len(example) < 2:
        raise InputError("example must have at least two rows, so that the number of rows stays open")
    scorer = Scorer(backbone, head).eval()
    with torch.no_grad():
        shape = tuple(scorer(example).shape)
    if shape != (len(example),):
        raise InputError(
            f"backbone{'' if head is None else ' and head'} must give one score per row, shape ({len(example)},); got "
            f"{shape}"
        )
    return scorer
