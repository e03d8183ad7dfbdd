"""One thread where there is little to share out.

torch splits even an operation of a few numbers over its threads, which then wait for each other: on a small head and
small batches that is most of a step, and on a busy machine many times the step itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from auditkit.tuning.config import TuneConfig
from auditkit.tuning.rows import HeadRows

FEW_VALUES = 2**19
"""Numbers that one thread goes through in about the time that it takes to wake another one."""


@contextmanager
def share_threads(values: int | None) -> Iterator[None]:
    """Use one thread of torch inside where an operation is on few numbers, and as many as before afterwards.

    Args:
        values: The most numbers that an operation inside is on; None where that is not known, and many.
    """
    before = torch.get_num_threads()
    if values is None or values > FEW_VALUES or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def values_per_step(rows: HeadRows, config: TuneConfig) -> int:
    """Products of features and weights in one step of a `FairHead`."""
    n_rows, width = rows.features.shape
    return min(config.batch_size or n_rows, n_rows) * width * (config.hidden or 1)
