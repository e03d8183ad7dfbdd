"""Processes that torchrun started for one command: all compute features, the first does and says everything else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from auditkit.feature_cache import Ranks

LONGEST = timedelta(days=7)
"""How long a process waits for the others; where one dies, torchrun ends the others at once."""


def process_rank() -> int:
    """The number of this process among those of torchrun; 0 without it."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def is_told_elsewhere(error: Exception) -> bool:
    """Whether the first process says what went wrong, so that this one need not."""
    if not process_rank():
        return False
    from auditkit.feature_cache import KNOWN

    return KNOWN in getattr(error, "__notes__", ())


@contextmanager
def joined_processes() -> Iterator[Ranks]:
    """The processes of torchrun as a group while the block runs; without torchrun this one alone."""
    from auditkit.feature_cache import KNOWN, Ranks, current_ranks

    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    # only names and numbers are exchanged, features go through the cache: gloo does, with a GPU as well
    dist.init_process_group("gloo", timeout=LONGEST)
    ranks = current_ranks()
    try:
        yield ranks
    except RuntimeError as error:
        if ranks.rank and "gloo" in str(error):  # the first process has left, and said why
            error.add_note(KNOWN)
        raise
    finally:
        dist.destroy_process_group()
