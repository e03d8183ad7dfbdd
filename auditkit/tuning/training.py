"""The loop: steps, history, early stopping at equal constraint, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditkit._typing import IntArray
from auditkit.criteria import Criterion
from auditkit.errors import InputError, SolverError
from auditkit.groups import Groups
from auditkit.heads import EpochRecord, FairHead
from auditkit.progress import Progress
from auditkit.tuning.affine import AffineLoss
from auditkit.tuning.checkpoints import check_task, describe_task, load_checkpoint, save_checkpoint
from auditkit.tuning.config import TuneConfig
from auditkit.tuning.gaps import LargestGap
from auditkit.tuning.gradients import find_gradient
from auditkit.tuning.losses import ProjectedLoss
from auditkit.tuning.optimizers import FusedSteps
from auditkit.tuning.primal_dual import PrimalDualLoss
from auditkit.tuning.rows import (
    CHUNK_ROWS,
    Batches,
    HeadRows,
    SourceRows,
    measure_features,
    split_rows_for_validation,
)
from auditkit.tuning.threads import share_threads, values_per_step

FARTHEST = 1e3
"""Distance of a feature's mean from zero, in standard deviations, beyond which float32 loses too many digits."""

START = -1
"""Epoch of the weights that a training starts from."""


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often a training writes where it stands.

    Attributes:
        path: The file; where it exists, the training goes on from it.
        every: Epochs between two writes.
    """

    path: Path
    every: int = 10


def train(
    rows: SourceRows,
    loss: Any,
    criteria: Sequence[Criterion],
    config: TuneConfig,
    progress: Progress,
    *,
    checkpoint: Checkpointing | None = None,
    initial: dict[str, Tensor] | None = None,
    build: Callable[[HeadRows, TuneConfig], Any] | None = None,
) -> Any:
    """Minimise a loss over a head's weights with early stopping on held-back rows.

    Args:
        rows: All rows.
        loss: Called with (head, rows), returns a differentiable scalar; or a function of the training rows that makes
            such a loss, marked by an attribute ``needs_training_rows``.
        criteria: Whose gaps the history records.
        config: How to train.
        progress: Where to report epochs.
        checkpoint: Where to write where the training stands; None writes nothing.
        initial: Weights to start from, as `FairHead.state_dict` gives them; None starts from the seed.
        build: Makes the network from training rows and configuration; None makes a `FairHead`.

    Returns:
        The head, or whatever was built, at its best validation loss.

    Raises:
        InputError: The checkpoint is of another training.
        SolverError: No epoch had a finite validation loss.
    """
    task = None if checkpoint is None else describe_task(rows, tuple(criteria), config, initial=initial)
    with share_threads(math.prod(rows.features.shape) if build is None else None):
        run = _Training(rows, loss, criteria, config, initial, build)
    if checkpoint is not None and task is not None and checkpoint.path.exists():
        state = load_checkpoint(checkpoint.path)
        check_task(checkpoint.path, state.get("task"), task)
        _restore(run, state, checkpoint.path)
    with (
        progress.stage("tuning the head", config.epochs) as advance,
        share_threads(values_per_step(run.training, config) if build is None else None),
    ):
        advance(len(run.history))
        while not run.is_over:
            try:
                run.run_epoch()
            except InputError as error:
                run.check_finite(error)
                raise
            advance(1)
            if checkpoint is not None and (run.is_over or len(run.history) % checkpoint.every == 0):
                save_checkpoint(checkpoint.path, {"task": task, **run.state()})
    return run.finish()


def _restore(run: _Training, state: dict[str, Any], path: Path) -> None:
    """Take up a checkpoint of this training.

    Raises:
        InputError: Something that a training of this kind writes is missing in it, or does not fit.
    """
    try:
        run.restore(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"checkpoint {path} is incomplete or damaged ({type(error).__name__}: {reason}); delete it to start anew"
        ) from error


def make_loss(criteria: Sequence[Criterion], config: TuneConfig) -> Any:
    """The loss of a mode, as `train` takes it."""
    if config.mode == "layer":
        return ProjectedLoss(criteria, config)
    if config.mode == "affine":
        return AffineLoss(criteria, config)
    make = partial(PrimalDualLoss, criteria, config)
    make.needs_training_rows = True  # type: ignore[attr-defined]
    return make


@dataclass
class _Best:
    """The best epoch so far."""

    loss: float = float("inf")
    epoch: int = START
    state: dict[str, Any] = field(default_factory=dict)


class _Training:
    """Everything that changes from epoch to epoch."""

    def __init__(
        self,
        rows: SourceRows,
        loss: Any,
        criteria: Sequence[Criterion],
        config: TuneConfig,
        initial: dict[str, Tensor] | None,
        build: Callable[[HeadRows, TuneConfig], Any] | None,
    ) -> None:
        self.config = config
        self.rng = np.random.default_rng(config.seed)
        parts = split_rows_for_validation(rows, self.rng, config)
        self.training, self.validation = _with_safe_precision(*parts) if build is None else parts
        self.batches = Batches(self.training, criteria, config)
        self.loss = loss(self.training) if getattr(loss, "needs_training_rows", False) else loss
        self.head = (build or new_head)(self.training, config)
        self.pull = _Anchor(self.head, self.training, config)  # to the frozen model, wherever the head starts
        if initial is not None:
            self.head.load_state_dict(initial)
        self.optimizer = _make_optimizer(self.head, config)
        self.gradient = find_gradient(self.head, self.loss, config)
        self.step = FusedSteps(self.optimizer) if isinstance(self.optimizer, torch.optim.AdamW) else None
        self.best, self.history = _Best(), []
        self.gaps = [LargestGap(part, criteria, config) for part in (self.training, self.validation)]
        shape = (
            (self.training.groups.n_rows,) if config.columns is None else (self.training.groups.n_rows, config.classes)
        )
        self.seen = torch.zeros(shape, dtype=self.training.features.dtype).numpy()
        if initial is not None or self.training.start is not None:
            self._take_start()

    def _take_start(self) -> None:
        """Let the given start be the best so far: the first steps of an optimiser may only lead away from it."""
        self.head.eval()
        loss = self._validate()[0]
        if loss < self.best.loss:
            self._keep(loss, START)

    @property
    def is_over(self) -> bool:
        """Whether the epochs or the patience are spent."""
        done = len(self.history)
        return done >= self.config.epochs or (done > 0 and done - 1 - self.best.epoch >= self.config.patience)

    @np.errstate(all="ignore")  # a training that diverges says so itself
    def run_epoch(self) -> None:
        """One pass over the rows, and its line of history."""
        n_rows, total, suppressed, last = self.training.groups.n_rows, 0.0, 0.0, 0
        constrained = isinstance(self.loss, ProjectedLoss)
        self.head.train()
        for batch, places in self.batches.draw(self.rng):
            last = batch.groups.n_rows
            total += self._step(batch, places) * last
            if constrained:
                suppressed += (self.loss.suppressed_share or 0.0) * last
        multipliers = self.loss.multipliers(last) if constrained else {}
        self.head.eval()
        validation_loss, validation_gap = self._validate()
        share = suppressed / n_rows if constrained else None
        gap = self.gaps[0](torch.from_numpy(self.seen))
        self.history.append(
            EpochRecord(len(self.history), total / n_rows, validation_loss, gap, validation_gap, multipliers, share)
        )
        self._keep_best()

    @torch.no_grad()
    def check_finite(self, cause: InputError) -> None:
        """Raise where the head itself made what a loss refused: its features were checked."""
        if not all(torch.isfinite(self.head(part)).all() for part in self.training.features.split(CHUNK_ROWS)):
            raise SolverError(
                f"training diverged in epoch {len(self.history)}: the head's scores are no longer finite; "
                "lower learning_rate"
            ) from cause

    def _step(self, batch: HeadRows, places: IntArray | slice) -> float:
        """One step; the loss before it."""
        value, self.seen[places] = self._step_by_graph(batch) if self.gradient is None else self._step_closed(batch)
        return value

    def _step_closed(self, batch: HeadRows) -> tuple[float, np.ndarray[Any, Any]]:
        assert self.gradient is not None
        assert self.step is not None
        value, scores = self.gradient(batch)
        self.pull.add_slope(self.head)
        self.step()
        return value, scores

    def _step_by_graph(self, batch: HeadRows) -> tuple[float, np.ndarray[Any, Any]]:
        first: list[tuple[float, np.ndarray[Any, Any]]] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            with _Listening(self.head) as heard:
                value = self.loss(self.head, batch)
            whole = value + self.pull(self.head) + self._decay()
            whole.backward()
            if not first:  # a line search asks again
                first.append((float(value.detach()), heard.output.numpy()))
            return whole

        self.optimizer.step(closure)  # type: ignore[arg-type]
        return first[0]

    def _decay(self) -> Tensor | float:
        """What AdamW does by itself."""
        if self.config.optimizer == "adamw" or self.config.weight_decay == 0:
            return 0.0
        return (
            0.5
            * self.config.weight_decay
            * sum((weight**2).sum() for weight in self.head.parameters() if weight.requires_grad)
        )

    @torch.no_grad()
    def _validate(self) -> tuple[float, float]:
        if self.gradient is not None:
            value, scores = self.gradient.evaluate(self.validation)
            return value, self.gaps[1](torch.from_numpy(scores))
        with _Listening(self.head) as heard:
            value = float(self.loss(self.head, self.validation))
        return value, self.gaps[1](heard.output)

    def _keep_best(self) -> None:
        record = self.history[-1]
        if record.validation_loss < self.best.loss:
            self._keep(record.validation_loss, record.epoch)

    def _keep(self, loss: float, epoch: int) -> None:
        state = {name: value.detach().clone() for name, value in self.head.state_dict().items()}
        self.best = _Best(loss, epoch, state)

    def finish(self) -> Any:
        """The head at its best epoch; a `FairHead` in float64."""
        if not any(math.isfinite(record.validation_loss) for record in self.history):
            raise SolverError("training diverged: no epoch had a finite validation loss; lower learning_rate")
        self.head.load_state_dict(self.best.state)
        self.head.history, self.head.best_epoch = tuple(self.history), self.best.epoch
        return (self.head.double() if isinstance(self.head, FairHead) else self.head).eval()

    @property
    def _kept(self) -> list[Groups]:
        return [*self.batches.kept, self.validation.groups]

    def state(self) -> dict[str, Any]:
        """Everything that the epochs to come depend on."""
        constrained = isinstance(self.loss, ProjectedLoss)
        return {
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "best": {"loss": self.best.loss, "epoch": self.best.epoch, "state": self.best.state},
            "history": [asdict(record) for record in self.history],
            "loss": self.loss.state(self._kept) if constrained else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["rng"]
        self.best = _Best(**state["best"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        if state["loss"] is not None:
            self.loss.restore(state["loss"], self._kept)


class _Listening:
    """Keeps what a head last returned, so that no loss has to hand it on and nothing is computed twice."""

    output: Tensor

    def __init__(self, head: nn.Module) -> None:
        self._head = head

    def __enter__(self) -> _Listening:
        self._handle = self._head.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, _module: Any, _inputs: Any, output: Tensor) -> None:
        self.output = output.detach()


def _with_safe_precision(training: HeadRows, validation: HeadRows) -> tuple[HeadRows, HeadRows]:
    """The rows in float64 where a float32 product would lose too many digits of features far from zero."""
    if training.features.dtype == torch.float64:
        return training, validation
    spread, mean = measure_features(training)
    if not bool((mean.abs() > FARTHEST * spread).logical_and(spread > 0).any()):
        return training, validation
    return _to_double(training), _to_double(validation)


def _to_double(rows: HeadRows) -> HeadRows:
    return replace(rows, features=rows.features.double(), labels=rows.labels.double(), derived={})


def new_head(training: HeadRows, config: TuneConfig) -> FairHead:
    """A head standardised by the training rows, at its start, in the dtype of the features."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # of the host alone: the one for all devices is slow
        head = FairHead(
            training.features.shape[1], hidden=config.hidden, score_space=config.score_space, outputs=config.outputs
        )
    spread, mean = measure_features(training)
    head.get_buffer("mean").copy_(mean)
    head.get_buffer("scale").copy_(torch.where(spread > 1e-12, spread, 1.0))
    if training.start is not None:
        head.start_from(training.features, training.start)
    return head.to(training.features.dtype)


def _make_optimizer(head: nn.Module, config: TuneConfig) -> torch.optim.Optimizer:
    moving = [parameter for parameter in head.parameters() if parameter.requires_grad]
    if config.optimizer == "lbfgs":
        return torch.optim.LBFGS(moving, lr=config.learning_rate, line_search_fn="strong_wolfe")
    return torch.optim.AdamW(moving, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


class _Anchor:
    """The penalty that pulls the linear weights towards where they start; nothing where they start at random."""

    def __init__(self, head: Any, training: HeadRows, config: TuneConfig) -> None:
        started = training.start is not None and config.anchor > 0  # only a `FairHead` has a start
        self.strength = config.anchor / training.groups.n_rows
        self.origin = [weight.detach().clone() for weight in head.linear.parameters()] if started else []

    def __call__(self, head: Any) -> Tensor | float:
        """The penalty."""
        return self.strength * sum(((weight - first) ** 2).sum() for weight, first in self._pairs(head))

    def add_slope(self, head: Any) -> None:
        """Add its gradient to that of the weights."""
        for weight, first in self._pairs(head):
            weight.grad.add_(weight.detach() - first, alpha=2 * self.strength)

    def _pairs(self, head: Any) -> list[tuple[Any, Tensor]]:
        return list(zip(head.linear.parameters(), self.origin, strict=True)) if self.origin else []
