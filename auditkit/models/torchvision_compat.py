"""Let torchvision be imported beside a CPU build of torch (pytorch/vision #9337)."""

from __future__ import annotations

import importlib
import sys

_NMS_ERROR = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold, float dets_scale, int dets_zero_point) -> Tensor",
)
_kept_alive: list[object] = []  # torch forgets the operators when the Library object is collected


def ensure_torchvision() -> None:
    """Import torchvision, declaring the two operators that it misses on some machines.

    Call it before any timm import. Where torchvision loads by itself nothing is changed; any error other than the
    missing ``nms`` operator is raised as it came.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _NMS_ERROR not in str(error):
            raise
        _declare_operators()
        importlib.import_module("torchvision")


def _declare_operators() -> None:
    import torch

    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _kept_alive.append(library)
