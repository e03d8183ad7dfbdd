"""Where a model runs while features are computed, and in which precision."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from auditkit.errors import InputError

if TYPE_CHECKING:
    import torch

    from auditkit.models import FrozenModel


@contextlib.contextmanager
def placed(model: FrozenModel, device: str) -> Iterator[torch.device]:
    """Move a model's module to the device while the block runs, and back."""
    import torch

    module = model.placed_module()
    if device == "auto":
        there = torch.cuda.is_available() and module is not None
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if there else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device must be 'auto', 'cpu' or 'cuda'; got {device!r}") from error
    first = None if module is None else next(module.parameters(), None)
    if module is None or first is None or first.device.type == place.type:
        if place.type != "cpu" and first is None:
            raise InputError(f"model {model.name!r} runs on the CPU only; got device={device!r}")
        yield place
        return
    home = first.device
    try:
        yield _moved(module, place)
    finally:
        module.to(home)


def _moved(module: torch.nn.Module, place: torch.device) -> torch.device:
    try:
        module.to(place)
    except (RuntimeError, AssertionError) as error:  # a build of torch without it, no such device, no memory left
        raise InputError(f"device {str(place)!r} cannot be used: {' '.join(str(error).split())[:200]}") from error
    return place


def half_precision(device: torch.device) -> str:
    """The type that autocast computes in; "full" where there is no GPU, since it is off on the CPU."""
    import torch

    if device.type != "cuda":
        return "full"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
