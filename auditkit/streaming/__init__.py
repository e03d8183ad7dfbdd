"""Online enforcement of a stream of scores: frozen states, pure steps, two rules; nothing is stored here.

`auditkit.OnlineEnforcer` joins it with a durable store (`auditkit.state_store`).
"""

from __future__ import annotations

from auditkit.streaming.batches import GroupsLike, StreamBatch, make_batch
from auditkit.streaming.figures import Alarm, StreamGap, StreamReport, describe
from auditkit.streaming.pooled import Release
from auditkit.streaming.state import Bounds, CellSums, LabelSums, Rule, StreamConfig, StreamState
from auditkit.streaming.stepping import PendingRows, check_labels, keep_pending, observe, step

__all__ = [
    "Alarm",
    "Bounds",
    "CellSums",
    "GroupsLike",
    "LabelSums",
    "PendingRows",
    "Release",
    "Rule",
    "StreamBatch",
    "StreamConfig",
    "StreamGap",
    "StreamReport",
    "StreamState",
    "check_labels",
    "describe",
    "keep_pending",
    "make_batch",
    "observe",
    "step",
]
