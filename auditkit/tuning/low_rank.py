"""Low-rank adaptation of a backbone's last block together with its head, through the fairness layer.

    W ← W + B·A        A: (r, in), B: (out, r), zero at the start

Off by default: `tune_head` leaves the backbone as it is. Where its owner lets it move, only the products B·A of the
named layers are learnt, and the result says which tensors of the backbone differ from before, having compared them all.
Source: Hu et al., LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from auditkit._typing import VectorLike
from auditkit._validation import check_vector
from auditkit.clusters import check_clusters
from auditkit.criteria import Criterion, check_criteria
from auditkit.errors import InputError, ModelChangedError
from auditkit.groups import Groups
from auditkit.heads import EpochRecord, FairHead
from auditkit.progress import NullProgress, Progress
from auditkit.tuning.config import TuneConfig
from auditkit.tuning.rows import HeadRows, check_classes
from auditkit.tuning.training import make_loss, new_head, train


@dataclass(frozen=True, eq=False)
class AdaptedModel:
    """A backbone whose last block was adapted, and its head.

    Attributes:
        backbone: A copy of the module with the learnt products added to its weights; the original is as it was.
        head: The head on the features of that copy.
        moved: Names of the tensors that differ from the original; they are weights of the adapted layers.
        unmoved: Names of all others, equal to the original bit by bit.
        history: One record per epoch.
    """

    backbone: nn.Module
    head: FairHead
    moved: tuple[str, ...]
    unmoved: tuple[str, ...]
    history: tuple[EpochRecord, ...]


def adapt_backbone(
    backbone: nn.Module,
    inputs: Tensor,
    labels: VectorLike,
    groups: Groups,
    criteria: Criterion | Sequence[Criterion],
    *,
    layers: Sequence[str],
    rank: int = 4,
    clusters: VectorLike | None = None,
    config: TuneConfig | None = None,
    progress: Progress | None = None,
) -> AdaptedModel:
    """Train low-rank products on named layers of a backbone, and a head, through the fairness layer.

    Args:
        backbone: Maps inputs to features, shape (n, d); it is copied, and the copy stays in evaluation mode.
        inputs: What the backbone reads, float32 or float64, shape (n, …).
        labels: As for `tune_head`.
        groups: Attributes of the same rows.
        criteria: What to enforce.
        layers: Names of the linear layers to adapt, as in ``named_modules()``: those of the last block.
        rank: r, at most the smaller side of every layer's weight.
        clusters: Whom each row is of, as for `tune_head`.
        config: How to train.
        progress: Where to report epochs.

    Returns:
        The adapted copy, its head, and which tensors moved.

    Raises:
        InputError: A layer that is not there or not linear, a rank that does not fit, or wrong rows.
        ModelChangedError: A tensor moved that is no weight of an adapted layer, such as a buffer that the backbone
            updates by itself.
        SolverError: No epoch had a finite validation loss.
    """
    listed, settings = check_criteria(criteria), config or TuneConfig()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    moving = copy.deepcopy(backbone)
    _parametrize(moving, layers, rank, settings.seed)
    rows = _check_inputs(inputs, labels, groups, clusters, settings)

    def build(training: HeadRows, config: TuneConfig) -> _Adapted:
        with torch.no_grad():
            features = moving(training.features)
        if features.ndim != 2:
            raise InputError(f"backbone must give features of shape (n, d); got {tuple(features.shape)}")
        head = new_head(HeadRows(features, training.labels, training.groups), config)
        return _Adapted(moving, head)

    adapted = train(rows, make_loss(listed, settings), listed, settings, progress or NullProgress(), build=build)
    for name in layers:
        parametrize.remove_parametrizations(moving.get_submodule(name), "weight", leave_parametrized=True)
    moved = _compare(before, moving, [f"{name}.weight" for name in layers])
    unmoved = tuple(name for name in before if name not in moved)
    head = adapted.head.double().eval()
    head.history, head.best_epoch = adapted.history, adapted.best_epoch
    return AdaptedModel(moving.requires_grad_(False).eval(), head, moved, unmoved, adapted.history)


class _LowRank(nn.Module):
    """W ↦ W + B·A."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        out, width = weight.shape
        self.a = nn.Parameter(torch.randn(rank, width, generator=generator).to(weight.dtype) / width**0.5)
        self.b = nn.Parameter(torch.zeros(out, rank, dtype=weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


class _Adapted(nn.Module):
    """A backbone and its head as one network that trains like a head."""

    def __init__(self, backbone: nn.Module, head: FairHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.history: tuple[EpochRecord, ...] = ()
        self.best_epoch: int | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))

    def train(self, mode: bool = True) -> _Adapted:
        super().train(mode)
        self.backbone.eval()  # no statistic of a frozen layer may move
        return self


def _parametrize(module: nn.Module, layers: Sequence[str], rank: int, seed: int) -> None:
    module.requires_grad_(False).eval()
    if not layers:
        raise InputError("layers is empty; name at least one linear layer of the backbone, as in named_modules()")
    there = dict(module.named_modules())
    generator = torch.Generator().manual_seed(seed)
    for name in layers:
        layer = there.get(name)
        if not isinstance(layer, nn.Linear):
            linear = ", ".join(repr(key) for key, value in there.items() if isinstance(value, nn.Linear))
            raise InputError(f"layers names {name!r}, which is no linear layer of the backbone; there are: {linear}")
        if not 1 <= rank <= min(layer.weight.shape):
            raise InputError(f"rank must lie between 1 and {min(layer.weight.shape)} for layer {name!r}; got {rank!r}")
        parametrize.register_parametrization(layer, "weight", _LowRank(layer.weight, rank, generator))
        layer.parametrizations.weight.original.requires_grad_(False)  # type: ignore[union-attr]


def _check_inputs(
    inputs: Tensor, labels: VectorLike, groups: Groups, clusters: VectorLike | None, config: TuneConfig
) -> HeadRows:
    y = check_vector("labels", labels, n_rows=groups.n_rows)
    if config.score_space != "identity":
        check_classes(y, config)
    if not inputs.is_floating_point() or len(inputs) != groups.n_rows:
        raise InputError(
            f"inputs must be floating-point with {groups.n_rows} rows, as many as groups has; got {inputs.dtype} of "
            f"shape {tuple(inputs.shape)}"
        )
    codes = check_clusters(clusters, n_rows=groups.n_rows)
    return HeadRows(inputs.detach(), torch.as_tensor(y, dtype=inputs.dtype), groups, clusters=codes)


def _compare(before: dict[str, Tensor], after: nn.Module, allowed: Sequence[str]) -> tuple[str, ...]:
    """Names of the tensors that moved.

    Raises:
        ModelChangedError: One that was not allowed to.
    """
    state = after.state_dict()
    moved = tuple(name for name, value in before.items() if not torch.equal(value, state[name]))
    if wrong := [name for name in moved if name not in allowed]:
        raise ModelChangedError(
            f"{', '.join(wrong)} changed while only {', '.join(allowed)} were adapted; a backbone that updates itself "
            "cannot be adapted"
        )
    return moved
