"""One extraction by the processes of a torch.distributed group, as torchrun starts them: each computes its share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from auditkit.errors import InputError

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
        if self.size == 1:
            return step()
        import torch.distributed as dist

        failure: Exception | None = None
        found: list[ResultT] = []
        try:
            found.append(step())
        except Exception as error:
            failure = error
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, None if failure is None else str(failure))
        if failure is not None:
            raise self._known(failure)
        failed = [f"process {rank}: {reason}" for rank, reason in enumerate(told) if reason is not None]
        if failed:
            raise self._known(InputError(failed[0]))
        return found[0]

    def _known(self, failure: Exception) -> Exception:
        """Mark what the first process knows of: the others need not say it again."""
        if self.rank:
            failure.add_note(KNOWN)
        return failure


def current_ranks() -> Ranks:
    """The processes of this program: those of torch.distributed where it was initialised, else this one."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())
