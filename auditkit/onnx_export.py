"""Corrections and thresholds as ONNX models, alone or behind a model that gives the scores."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from auditkit._extras import import_extra
from auditkit._files import write_whole
from auditkit._typing import BoolArray, FloatArray, IntArray
from auditkit.errors import InputError

OPSET = 18
ML_OPSET = 3


class Lookup(Protocol):
    """The fields of a calibration that a row is looked up by."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a row is looked up by."""
        ...

    @property
    def cells(self) -> tuple[tuple[Hashable, ...], ...]:
        """Values of those columns, one tuple per cell."""
        ...


class Correction(Lookup, Protocol):
    """The fields of a `Calibration` that a score is corrected with."""

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


class Rules(Lookup, Protocol):
    """The fields of `DecisionThresholds` that a row is decided with."""

    @property
    def tables(self) -> tuple[FloatArray, FloatArray]:
        """Thresholds and chances per cell, those of a row of no known cell last."""
        ...

    @property
    def on_unseen(self) -> str:
        """What happens to a row of no known cell."""
        ...


def write_calibration(calibration: Correction, path: Path, *, scorer: Any = None) -> None:
    """Write y = clip(z + α_g + β_g z) with g looked up from strings.

    Inputs are ``scores`` (float64, shape (n,)) and one string tensor of shape (n,) per column, named like it; the
    output is ``corrected`` (float64, shape (n,)). Category values are compared as text.

    Args:
        calibration: What to write.
        path: Where; the file appears whole or not at all.
        scorer: An ONNX model whose output ``scores`` (float64, shape (n,)) is corrected; its inputs take the place of
            the scores.

    Raises:
        InputError: Two values of a column have the same text.
        MissingExtraError: The onnx package is not installed.
    """
    onnx = import_extra("onnx")
    nodes, inputs, constants = _lookup_nodes(onnx, calibration)
    nodes += _correction_nodes(onnx, calibration, constants)
    outputs = [onnx.helper.make_tensor_value_info("corrected", onnx.TensorProto.DOUBLE, ["n"])]
    _write(onnx, onnx.helper.make_graph(nodes, "auditkit_calibration", inputs, outputs, constants), path, scorer)


def write_thresholds(rules: Rules, path: Path, *, scorer: Any = None) -> None:
    """Write decision = 1[max_k p_gk · 1[z ≥ t_gk] > u] with g looked up from strings.

    Inputs are ``scores`` and ``uniforms`` (float64, shape (n,)) and one string tensor of shape (n,) per column; outputs
    are ``chance`` (float64) and ``decision`` (int64), of shape (n,).

    Args:
        rules: What to write.
        path: Where; the file appears whole or not at all.
        scorer: An ONNX model whose output ``scores`` is decided on, as `write_calibration` takes it.

    Raises:
        InputError: Two values of a column have the same text.
        MissingExtraError: The onnx package is not installed.
    """
    onnx = import_extra("onnx")
    nodes, inputs, constants = _lookup_nodes(onnx, rules)
    nodes += _decision_nodes(onnx, rules, constants)
    types = onnx.TensorProto
    inputs.append(onnx.helper.make_tensor_value_info("uniforms", types.DOUBLE, ["n"]))
    outputs = [onnx.helper.make_tensor_value_info("chance", types.DOUBLE, ["n"]),
               onnx.helper.make_tensor_value_info("decision", types.INT64, ["n"])]  # fmt: skip
    _write(onnx, onnx.helper.make_graph(nodes, "auditkit_thresholds", inputs, outputs, constants), path, scorer)


def _write(onnx: Any, graph: Any, path: Path, scorer: Any) -> None:
    """Write a graph, behind a model that gives its scores where there is one."""
    domains = {"": OPSET, "ai.onnx.ml": ML_OPSET}
    ir_version = 9
    if scorer is not None:
        ir_version = max(ir_version, int(scorer.ir_version))
        scorer.ir_version = ir_version
        domains |= {opset.domain: opset.version for opset in scorer.opset_import}
        clashes = {info.name for info in scorer.graph.input} & {info.name for info in graph.input}
        if clashes:
            raise InputError(
                f"the model has an input {sorted(clashes)[0]!r}, which is what a column is called; rename it"
            )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in domains.items()]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    if scorer is not None:
        inner = onnx.compose.add_prefix(scorer, "model/", rename_inputs=False, rename_outputs=False)
        model = onnx.compose.merge_models(inner, model, io_map=[("scores", "scores")])
        onnx.helper.set_model_props(model, {"producer": "auditkit"})
    onnx.checker.check_model(model)
    write_whole(path, model.SerializeToString())


def _lookup_nodes(onnx: Any, calibration: Lookup) -> tuple[list[Any], list[Any], list[Any]]:
    """Strings → code per column → one flat position; position 0 is "never seen"."""
    helper, types = onnx.helper, onnx.TensorProto
    inputs = [helper.make_tensor_value_info("scores", types.DOUBLE, ["n"])]
    nodes, constants = [], []
    values = [column_texts(calibration, k) for k in range(len(calibration.columns))]
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
    shift, slope, is_known = correction_tables(calibration)
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


def column_texts(calibration: Lookup, column: int) -> list[str]:
    """The values of one column as text, in the order of their codes.

    Raises:
        InputError: Two of them have the same text.
    """
    values = dict.fromkeys(cell[column] for cell in calibration.cells)
    texts = [str(value) for value in values]
    if len(set(texts)) != len(texts):
        raise InputError(
            f"column {calibration.columns[column]!r} has values that read the same as text; rename them first"
        )
    return texts


def _decision_nodes(onnx: Any, rules: Rules, constants: list[Any]) -> list[Any]:
    helper, types = onnx.helper, onnx.TensorProto
    thresholds, chances = rules.tables
    position = cell_positions(rules, unseen=len(rules.cells))
    tables = {"thresholds": thresholds[position], "chances": chances[position]}
    if rules.on_unseen == "raise":  # a graph cannot raise; NaN and −1 cannot be mistaken for a decision
        tables["chances"][position == len(rules.cells)] = np.nan
        tables["thresholds"][position == len(rules.cells)] = -np.inf
    constants += [helper.make_tensor(name, types.DOUBLE, table.shape, table.ravel()) for name, table in tables.items()]
    constants += [helper.make_tensor("last_axis", types.INT64, [1], [1]),
                  helper.make_tensor("nothing", types.DOUBLE, [], [0.0]),
                  helper.make_tensor("refused", types.INT64, [], [-1])]  # fmt: skip
    return [
        helper.make_node("Gather", ["thresholds", "position"], ["row_thresholds"]),
        helper.make_node("Gather", ["chances", "position"], ["row_chances"]),
        helper.make_node("Unsqueeze", ["scores", "last_axis"], ["score_column"]),
        helper.make_node("GreaterOrEqual", ["score_column", "row_thresholds"], ["is_passed"]),
        helper.make_node("Where", ["is_passed", "row_chances", "nothing"], ["passed"]),
        helper.make_node("ReduceMax", ["passed", "last_axis"], ["chance"], keepdims=0),
        helper.make_node("Greater", ["chance", "uniforms"], ["is_positive"]),
        helper.make_node("Cast", ["is_positive"], ["positive"], to=types.INT64),
        helper.make_node("IsNaN", ["chance"], ["is_refused"]),
        helper.make_node("Where", ["is_refused", "refused", "positive"], ["decision"]),
    ]


def cell_positions(calibration: Lookup, *, unseen: int) -> IntArray:
    """Cell of every flat position, in which the codes of the columns are counted up; ``unseen`` where there is none."""
    texts = [column_texts(calibration, k) for k in range(len(calibration.columns))]
    sizes = [len(column) + 1 for column in texts]
    position = np.full(int(np.prod(sizes)), unseen, dtype=np.int64)
    for cell, values in enumerate(calibration.cells):
        codes = [texts[k].index(str(value)) + 1 for k, value in enumerate(values)]
        position[int(np.ravel_multi_index(codes, sizes))] = cell
    return position


def correction_tables(calibration: Correction) -> tuple[FloatArray, FloatArray, BoolArray]:
    """α, β and whether it is known, for every flat position."""
    position = cell_positions(calibration, unseen=len(calibration.cells))
    shift, slope = np.append(calibration.shift, 0.0)[position], np.append(calibration.slope, 0.0)[position]
    return shift, slope, position < len(calibration.cells)
