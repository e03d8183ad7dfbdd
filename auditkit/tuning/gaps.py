"""The gap that the history of a training records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from auditkit.batches import assemble_batch
from auditkit.criteria import Criterion
from auditkit.tuning.config import TuneConfig
from auditkit.tuning.rows import SourceRows


class LargestGap:
    """Largest gap of scores on rows that stay; 0 where nothing is compared.

    Args:
        rows: The rows.
        criteria: Whose gaps.
        config: Says how many columns the scores have.
    """

    def __init__(self, rows: SourceRows, criteria: Sequence[Criterion], config: TuneConfig) -> None:
        self._parts = []
        if criteria:
            batch = assemble_batch(rows.groups, criteria, labels=rows.labels, columns=config.columns)
            self._parts = [(system, system.moment_map(None, torch.device("cpu"))) for system in batch.systems]

    def __call__(self, scores: Tensor) -> float:
        """The gap of scores of shape (n,), or the largest of all columns."""
        columns = [scores] if scores.ndim == 1 else list(scores.T.contiguous())
        return max(
            (
                float(np.abs(system.matrix @ moments.collect(column) - system.target).max(initial=0.0))
                for (system, moments), column in zip(self._parts, columns, strict=bool(self._parts))
            ),
            default=0.0,
        )
