"""A calibration as an ONNX model, so that its corrections run where Python does not."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from auditkit._extras import import_extra
from auditkit._typing import FloatArray
from auditkit.errors import InputError

OPSET = 18
ML_OPSET = 3


class Correction(Protocol):
    """What is written: the fields of a `Calibration` that a row is corrected with."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a row is looked up by."""
        ...

    @property
    def cells(self) -> tuple[tuple[Hashable, ...], ...]:
        """Values of those columns, one tuple per cell."""
        ...

    @property
    def shift(self) -> FloatArray:
        """α per cell."""
        ...

    @property
    def slope(self) -> FloatArray:
        """β per cell."""
        ...

    @property
    def bounds(self) -> tuple[float | None, float | None] | None:
        """(lb, ub) or None."""
        ...

    @property
    def on_unseen(self) -> str:
        """What happens to a row of no known cell."""
        ...


def write_calibration(calibration: Correction, path: Path) -> None:
    """Write y = clip(z + α_g + β_g z) with g looked up from strings.

    Inputs are ``scores`` (float64, shape (n,)) and one string tensor of shape (n,) per column, named like it; the
    output is ``corrected`` (float64, shape (n,)). Category values are compared as text.

    Args:
        calibration: What to write.
        path: Where; the file appears whole or not at all.

    Raises:
        InputError: Two values of a column have the same text.
        MissingExtraError: The onnx package is not installed.
    """
    onnx = import_extra("onnx")
    nodes, inputs, constants = _lookup_nodes(onnx, calibration)
    nodes += _correction_nodes(onnx, calibration, constants)
    output = onnx.helper.make_tensor_value_info("corrected", onnx.TensorProto.DOUBLE, ["n"])
    graph = onnx.helper.make_graph(nodes, "auditkit_calibration", inputs, [output], constants)
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(model.SerializeToString())
    temporary.replace(path)


def _lookup_nodes(onnx: Any, calibration: Correction) -> tuple[list[Any], list[Any], list[Any]]:
    """Strings → code per column → one flat position; position 0 is "never seen"."""
    helper, types = onnx.helper, onnx.TensorProto
    inputs = [helper.make_tensor_value_info("scores", types.DOUBLE, ["n"])]
    nodes, constants = [], []
    values = [_texts(calibration, k) for k in range(len(calibration.columns))]
    total = "code_start"
    constants.append(helper.make_tensor(total, types.INT64, [1], [0]))
    for k, (column, texts) in enumerate(zip(calibration.columns, values, strict=True)):
        inputs.append(helper.make_tensor_value_info(column, types.STRING, ["n"]))
        nodes.append(
            helper.make_node(
                "LabelEncoder", [column], [f"code_{k}"], domain="ai.onnx.ml", keys_strings=texts,
                values_int64s=list(range(1, len(texts) + 1)), default_int64=0,
            )
        )  # fmt: skip
        constants.append(helper.make_tensor(f"size_{k}", types.INT64, [1], [len(texts) + 1]))
        nodes.append(helper.make_node("Mul", [total, f"size_{k}"], [f"scaled_{k}"]))
        nodes.append(helper.make_node("Add", [f"scaled_{k}", f"code_{k}"], [f"flat_{k}"]))
        total = f"flat_{k}"
    nodes.append(helper.make_node("Identity", [total], ["position"]))
    return nodes, inputs, constants


def _correction_nodes(onnx: Any, calibration: Correction, constants: list[Any]) -> list[Any]:
    helper, types = onnx.helper, onnx.TensorProto
    shift, slope, is_known = _tables(calibration)
    constants.append(helper.make_tensor("shift", types.DOUBLE, shift.shape, shift))
    constants.append(helper.make_tensor("slope", types.DOUBLE, slope.shape, slope))
    constants.append(helper.make_tensor("is_known", types.BOOL, is_known.shape, is_known))
    nodes = [
        helper.make_node("Gather", ["shift", "position"], ["row_shift"]),
        helper.make_node("Gather", ["slope", "position"], ["row_slope"]),
        helper.make_node("Gather", ["is_known", "position"], ["row_known"]),
        helper.make_node("Mul", ["scores", "row_slope"], ["tilted"]),
        helper.make_node("Add", ["scores", "tilted"], ["sloped"]),
        helper.make_node("Add", ["sloped", "row_shift"], ["moved"]),
    ]
    low, high = calibration.bounds or (None, None)
    limits = []
    for name, bound in (("low", low), ("high", high)):
        if bound is not None:
            constants.append(helper.make_tensor(name, types.DOUBLE, [], [float(bound)]))
        limits.append(name if bound is not None else "")
    nodes.append(helper.make_node("Clip", ["moved", *limits], ["clipped"]))
    otherwise = "scores"
    if calibration.on_unseen == "raise":  # a graph cannot raise; NaN cannot be mistaken for a score
        constants.append(helper.make_tensor("unseen", types.DOUBLE, [], [float("nan")]))
        otherwise = "unseen"
    nodes.append(helper.make_node("Where", ["row_known", "clipped", otherwise], ["corrected"]))
    return nodes


def _texts(calibration: Correction, column: int) -> list[str]:
    values = dict.fromkeys(cell[column] for cell in calibration.cells)
    texts = [str(value) for value in values]
    if len(set(texts)) != len(texts):
        raise InputError(
            f"column {calibration.columns[column]!r} has values that read the same as text; rename them first"
        )
    return texts


def _tables(calibration: Correction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """α, β and whether it is known, for every flat position."""
    texts = [_texts(calibration, k) for k in range(len(calibration.columns))]
    sizes = [len(column) + 1 for column in texts]
    shift, slope = np.zeros(int(np.prod(sizes))), np.zeros(int(np.prod(sizes)))
    is_known = np.zeros(int(np.prod(sizes)), dtype=bool)
    for cell, values in enumerate(calibration.cells):
        codes = [texts[k].index(str(value)) + 1 for k, value in enumerate(values)]
        position = int(np.ravel_multi_index(codes, sizes))
        shift[position], slope[position], is_known[position] = calibration.shift[cell], calibration.slope[cell], True
    return shift, slope, is_known
