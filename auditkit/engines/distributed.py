"""One batch whose rows are spread over the processes of a torch.distributed group.

Only sums per cell are exchanged, in float64: O(cells) numbers per step, however many rows there are. Groups may occur
on some processes only; the cells of all processes are aligned once per batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scipy.sparse import csr_array

from auditkit._typing import FloatArray, IntArray
from auditkit.errors import InputError
from auditkit.groups import Cells, CellTable, SoftCells
from auditkit.moments import merge_tables


class ProcessGroup:
    """Adds up over the processes of a group, and aligns their cells.

    Args:
        group: A torch.distributed process group; `torch.distributed.group.WORLD` is all processes.

    Raises:
        InputError: torch.distributed is not initialised.
    """

    def __init__(self, group: Any) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise InputError(
                "process_group needs torch.distributed; call torch.distributed.init_process_group(...) first, "
                "as torchrun's programs do"
            )
        self.group = group
        uses_devices = str(dist.get_backend(group)) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if uses_devices else torch.device("cpu")

    def sum(self, values: FloatArray) -> FloatArray:
        """Elementwise sum over the processes, the same on each."""
        tensor = torch.as_tensor(np.ascontiguousarray(values, dtype=np.float64)).to(self.device, copy=True)
        dist.all_reduce(tensor, group=self.group)
        return tensor.cpu().numpy()

    def max(self, value: float) -> float:
        """Largest value of any process."""
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.group)
        return float(tensor.item())

    def align(self, cells: Cells | SoftCells) -> Cells | SoftCells:
        """The same rows in the cells of all processes, in the same order everywhere."""
        tables: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(tables, cells.table, group=self.group)
        _check_alike(tables)
        merged = tables[0]
        for table in tables[1:]:
            merged, _, _ = merge_tables(merged, table)
        _, _, place = merge_tables(merged, cells.table)
        return _place(cells, merged, place)


def _check_alike(tables: list[CellTable]) -> None:
    names = {table.names for table in tables}
    if len(names) > 1:
        raise InputError(f"all processes must use the same attributes and criteria; got columns {sorted(names)}")


def _place(cells: Cells | SoftCells, table: CellTable, place: IntArray) -> Cells | SoftCells:
    if isinstance(cells, Cells):
        return Cells(table, place[cells.index])
    old = cells.membership.tocoo()
    rows, columns = old.coords
    shape = (cells.n_rows, table.n_cells)
    return replace(cells, table=table, membership=csr_array((old.data, (rows, place[columns])), shape=shape))
