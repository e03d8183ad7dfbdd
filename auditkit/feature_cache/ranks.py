"""One extraction by the processes of a torch.distributed group, as torchrun starts them: each computes its share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from auditkit.errors import InputError
from auditkit.images import ImageManifest

ResultT = TypeVar("ResultT")

KNOWN = "the first process knows of it"
"""Note on an exception of another process than the first."""


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    Attributes:
        rank: Its number.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, chunks: Sequence[int]) -> list[int]:
        """This process's part of the chunks: consecutive ones, as many as the others have, give or take one."""
        base, extra = divmod(len(chunks), self.size)
        start = self.rank * base + min(self.rank, extra)
        return list(chunks[start : start + base + (self.rank < extra)])

    def on_first(self, step: Callable[[], ResultT]) -> ResultT:
        """Run a step in the first process and give its result to all; where it fails, all of them fail.

        Raises:
            InputError: The step raised one.
        """
        if self.size == 1:
            return step()
        import torch.distributed as dist

        told: list[Any] = [None, None]
        failure: Exception | None = None
        if self.rank == 0:
            try:
                told[0] = step()
            except Exception as error:  # told to the others, who would wait for ever, and raised below
                failure, told[1] = error, str(error)
        dist.broadcast_object_list(told, src=0)
        if failure is not None:
            raise failure
        if told[1] is not None:
            raise self._known(InputError(f"process 0: {told[1]}"))
        return told[0]

    def together(self, step: Callable[[], ResultT]) -> ResultT:
        """Run a step in every process; where one fails, all of them fail, none waits for it.

        Raises:
            InputError: The step failed in another process.
        """
        found: list[ResultT] = []
        self.gather(lambda: found.append(step()))
        return found[0]

    def gather(self, step: Callable[[], ResultT]) -> list[ResultT]:
        """Run a step in every process and give the results of all to all, in their order; where one fails, all do.

        Raises:
            InputError: The step failed in another process.
        """
        if self.size == 1:
            return [step()]
        import torch.distributed as dist

        failure: Exception | None = None
        mine: tuple[str | None, ResultT | None] = (None, None)
        try:
            mine = (None, step())
        except Exception as error:
            failure, mine = error, (str(error), None)
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, mine)
        if failure is not None:
            raise self._known(failure)
        failed = [f"process {rank}: {reason}" for rank, (reason, _) in enumerate(told) if reason is not None]
        if failed:
            raise self._known(InputError(failed[0]))
        return [result for _, result in told]

    def _known(self, failure: Exception) -> Exception:
        """Mark what the first process knows of: the others need not say it again."""
        if self.rank:
            failure.add_note(KNOWN)
        return failure


def hash_together(manifest: ImageManifest, ranks: Ranks) -> ImageManifest:
    """A manifest that knows the hashes of its images, of which every process takes its share.

    Raises:
        InputError: An image cannot be read, by whichever process.
    """
    if ranks.size == 1:
        return manifest
    share = ranks.share(range(manifest.n_rows))
    parts = ranks.gather(lambda: manifest.hash_some(share))
    return manifest.with_hashes(tuple(itertools.chain.from_iterable(parts)))


def current_ranks() -> Ranks:
    """The processes of this program: those of torch.distributed where it was initialised, else this one."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())
