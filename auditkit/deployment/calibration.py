"""A calibration: corrections of scores per cell, applied row by row.

y = clip( z + α_g + β_g · z )                 g: the row's combination of attribute (and stratum) values
y = clip( z + Σ_g p_g · α_g )                 where attributes are inferred: the correction expected under p
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auditkit._typing import FloatArray, VectorLike
from auditkit._validation import check_vector
from auditkit.criteria import Criterion
from auditkit.deployment.guarantee import ContrastGuarantee
from auditkit.deployment.lookup import CellValues, OnUnseen, find_cells, place_cells, read_json, write_json
from auditkit.errors import InputError
from auditkit.groups import Groups

SCHEMA = "auditkit.calibration/1"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Corrections per cell, applied row by row without a solver, a batch or labels.

    Attributes:
        criteria: What they enforce.
        columns: The columns that a row is looked up by.
        cells: The values of those columns, one tuple per cell, length c.
        counts: Calibration rows per cell, length c; expected rows where attributes are inferred.
        shift: α, shape (c,).
        slope: β, shape (c,).
        bounds: (lb, ub) or None.
        confidence: Joint confidence of the guarantee; None when no margin was taken off.
        contrasts: What is guaranteed; empty without a confidence.
        on_unseen: What happens to a row whose cell was not among the calibration rows: "raise", or "keep" its score
            (with inferred attributes: no correction for that share of the row).
        inferred: The columns that were known by their probabilities only. The guarantee is then about the
            probability-weighted gaps, and rows must bring probabilities of the same kind along.
    """

    criteria: tuple[Criterion, ...]
    columns: tuple[str, ...]
    cells: tuple[CellValues, ...]
    counts: tuple[float, ...]
    shift: FloatArray
    slope: FloatArray
    bounds: tuple[float | None, float | None] | None = None
    confidence: float | None = None
    contrasts: tuple[ContrastGuarantee, ...] = ()
    on_unseen: OnUnseen = "raise"
    inferred: tuple[str, ...] = ()

    @property
    def is_guaranteed(self) -> bool:
        """Whether every contrast of every criterion carries the guarantee."""
        return bool(self.contrasts) and all(contrast.guaranteed for contrast in self.contrasts)

    def apply(self, scores: VectorLike, groups: Groups) -> Any:
        """Correct scores, each row by itself: clip(z + α + β z).

        Args:
            scores: z, shape (n,).
            groups: Attributes of the same rows, inferred where they were inferred at calibration.

        Returns:
            Corrected scores, of the kind and dtype that came in.

        Raises:
            InputError: Wrong shapes, NaN, a combination of values that the calibration never saw, or attributes that
                are known where they were inferred, or the other way round.
        """
        z = check_vector("scores", scores, n_rows=groups.n_rows)
        self._check_kind(groups)
        corrected = self._apply_shares(z, groups) if self.inferred else self._apply_values(z, groups)
        if isinstance(scores, torch.Tensor):
            return torch.as_tensor(corrected, device=scores.device).to(scores.dtype)
        return corrected.astype(np.float32) if getattr(scores, "dtype", None) == np.float32 else corrected

    def _apply_values(self, z: FloatArray, groups: Groups) -> FloatArray:
        index = find_cells(groups, self.columns, self.cells, self.on_unseen)
        shift, slope = np.append(self.shift, 0.0)[index], np.append(self.slope, 0.0)[index]
        return np.where(index < len(self.cells), _clip(z + shift + slope * z, self.bounds), z)

    def _apply_shares(self, z: FloatArray, groups: Groups) -> FloatArray:
        cells = groups.soft_cells(self.columns)
        position = place_cells(cells.table, self.columns, self.cells, self.on_unseen)
        known = cells.membership @ (position < len(self.cells)).astype(np.float64)
        corrected = z + cells.membership @ np.append(self.shift, 0.0)[position]
        return np.where(known > 0, _clip(corrected, self.bounds), z)

    def _check_kind(self, groups: Groups) -> None:
        """The guarantee holds for the attributes as they were at calibration."""
        inferred = set(groups.inferred)
        for name in self.columns:
            if (name in inferred) != (name in self.inferred):
                was, now = ("probabilities", "values") if name in self.inferred else ("values", "probabilities")
                raise InputError(
                    f"attribute {name!r} comes as {now}, but the correction was calibrated on its {was}; a correction "
                    f"for one does not hold for the other: pass {was}, or calibrate on {now}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The calibration as JSON-ready values."""
        return {
            "schema": SCHEMA,
            "criteria": [criterion.to_dict() for criterion in self.criteria],
            "columns": list(self.columns),
            "inferred": list(self.inferred),
            "cells": [
                {"cell": list(values), "count": count, "shift": float(a), "slope": float(b)}
                for values, count, a, b in zip(self.cells, self.counts, self.shift, self.slope, strict=True)
            ],
            "bounds": None if self.bounds is None else list(self.bounds),
            "confidence": self.confidence,
            "contrasts": [asdict(contrast) for contrast in self.contrasts],
            "on_unseen": self.on_unseen,
        }

    def save(self, path: str | Path) -> None:
        """Write the calibration as JSON; the file appears whole or not at all."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InputError: The file is missing, not JSON, or not a calibration.
        """
        return read_json(path, schema=SCHEMA, what="calibration", build=_from_dict)

    def to_onnx(self, path: str | Path) -> None:
        """Write the corrections as an ONNX model: inputs ``scores`` (float64) and one string tensor per column.

        A combination that the calibration never saw gives NaN, or the score unchanged with on_unseen="keep".

        Raises:
            InputError: The attributes were inferred, which a table of strings cannot look up.
        """
        from auditkit.onnx_export import write_calibration

        if self.inferred:
            raise InputError(
                f"the corrections for inferred attributes ({', '.join(self.inferred)}) have no ONNX form; apply them "
                "in Python, or calibrate on known values"
            )
        write_calibration(self, Path(path))


def _clip(values: FloatArray, bounds: tuple[float | None, float | None] | None) -> FloatArray:
    return values if bounds is None else np.clip(values, *bounds)


def _from_dict(content: dict[str, Any]) -> Calibration:
    cells = content["cells"]
    return Calibration(
        criteria=tuple(Criterion.from_dict(entry) for entry in content["criteria"]),
        columns=tuple(content["columns"]),
        cells=tuple(tuple(entry["cell"]) for entry in cells),
        counts=tuple(entry["count"] for entry in cells),
        shift=np.array([entry["shift"] for entry in cells], dtype=np.float64),
        slope=np.array([entry["slope"] for entry in cells], dtype=np.float64),
        bounds=None if content["bounds"] is None else (content["bounds"][0], content["bounds"][1]),
        confidence=content["confidence"],
        contrasts=tuple(ContrastGuarantee.from_dict(entry) for entry in content["contrasts"]),
        on_unseen=content["on_unseen"],
        inferred=tuple(content.get("inferred", ())),
    )
