"""Training through the fairness layer beside the same training without it, and beside the paper's trainer.

    python -m benchmarks.tuning            needs: pip install -e '.[bench]'

1. One epoch of a linear head on 200,000 × 512 cached float32 features, in a plain torch loop, with the layer and
   without, in turns so that a busy machine slows both; and one epoch of `tune_head`, which also evaluates the held-back
   rows, beside the same loop with the loss of the scores as they are.
2. The same number of epochs of the same network on the same rows, batches and optimiser by ``fairness-training``, the
   paper's package, which solves a CVXPY problem for every batch; medians of rounds in turns, set-up included. Beside
   them the two products of features and weights in every step alone, which neither side can do without.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from fairness_training import FairModel, FairTrainer
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, TensorDataset

import auditkit as ak
from auditkit.progress import NullProgress
from auditkit.tuning.losses import PlainLoss
from auditkit.tuning.rows import check_rows
from auditkit.tuning.training import train

TOLERANCE = 0.01
CRITERIA: dict[str, list[ak.Criterion]] = {
    "ECP, 2 groups": [ak.ECP("sex", tolerance=TOLERANCE)],
    "ECP, 2 × 5 groups crossed": [ak.ECP(("sex", "race"), tolerance=TOLERANCE)],
    "ECP, 2 and 5 groups": [ak.ECP("sex", tolerance=TOLERANCE), ak.ECP("race", tolerance=TOLERANCE)],
    "equalized odds, 2 groups": [ak.equalized_odds("sex", tolerance=TOLERANCE)],
    "EER, 5 groups": [ak.EER("race", tolerance=TOLERANCE)],
}


def make_rows(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor, ak.Groups, np.ndarray]:
    rng = np.random.default_rng(0)
    sex, race = rng.integers(0, 2, rows), rng.integers(0, 5, rows)
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    features[:, 0] += torch.as_tensor(0.8 * sex + 0.5 * (race == 1), dtype=torch.float32)
    chance = torch.sigmoid(features[:, 0] + 0.5 * features[:, 1] - 0.5)
    labels = (torch.as_tensor(rng.random(rows)) < chance).float()
    return features, labels, ak.Groups({"sex": sex, "race": race}), sex


Epoch = Callable[[], float]


def plain_loop(
    features: torch.Tensor, labels: torch.Tensor, groups: ak.Groups, criteria: Sequence[ak.Criterion] | None
) -> Epoch:
    """One full-batch step of AdamW on a linear head; with the layer where there are criteria."""
    torch.manual_seed(0)
    head = torch.nn.Linear(features.shape[1], 1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
    layer = bound = None
    if criteria is not None:
        layer = ak.FairnessLayer(criteria, bounds=(1e-3, 1 - 1e-3), warm_start=True)
        bound = layer.bind(groups, labels)

    def epoch() -> float:
        optimizer.zero_grad()
        scores = torch.sigmoid(head(features).squeeze(1))
        if layer is not None:
            scores = layer(scores, bound)
        loss = torch.nn.functional.binary_cross_entropy(scores.clamp(1e-3, 1 - 1e-3), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return epoch


def in_turns(epochs: dict[str, Epoch], rounds: int) -> dict[str, float]:
    """Median CPU seconds of every epoch: other work on the machine does not count."""
    for epoch in epochs.values():
        epoch()
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(rounds):
        for name, epoch in epochs.items():
            begin = time.process_time()
            epoch()
            times[name].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def compare_epochs(console: Console, *, rows: int, width: int, rounds: int) -> None:
    features, labels, groups, _ = make_rows(rows, width)
    loops = {"without": plain_loop(features, labels, groups, None)}
    loops |= {name: plain_loop(features, labels, groups, criteria) for name, criteria in CRITERIA.items()}
    medians = in_turns(loops, rounds)
    table = Table("criteria", "CPU ms", "ratio", title=f"one full-batch epoch, {rows:,} × {width} float32, plain torch")
    for name, seconds in medians.items():
        table.add_row(name, f"{1e3 * seconds:.1f}", f"{seconds / medians['without']:.3f}×")
    console.print(table)


def compare_tuning(console: Console, *, rows: int, width: int, epochs: int) -> None:
    features, labels, groups, _ = make_rows(rows, width)
    table = Table("batch", "with, CPU s", "without, CPU s", "ratio", title=f"tune_head, {epochs} epochs less one epoch")
    criteria = CRITERIA["ECP, 2 groups"]
    for batch_size in (None, 8192):

        def seconds(count: int, layered: bool, batch_size: int | None = batch_size) -> float:
            config = ak.TuneConfig(epochs=count, patience=count, batch_size=batch_size)
            begin = time.process_time()
            if layered:
                ak.tune_head(features, labels, groups, criteria, config=config)
            else:
                train(check_rows(features, labels, groups, config), PlainLoss(config), (), config, NullProgress())
            return time.process_time() - begin

        totals = [seconds(epochs, layered) - seconds(1, layered) for layered in (True, False)]
        table.add_row(str(batch_size), *(f"{t:.2f}" for t in totals), f"{totals[0] / totals[1]:.3f}×")
    console.print(table)


def clamped_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The solver returns float64, and leaves the bounds by its accuracy."""
    return torch.nn.functional.binary_cross_entropy(scores.float().clamp(1e-3, 1 - 1e-3), labels.float())


def paper_seconds(data: Sequence[torch.Tensor], batch_size: int, epochs: int) -> float:
    features, labels = data
    torch.manual_seed(0)
    model = FairModel(
        input_dim=features.shape[1], protected_attr_idx=0, prediction_bounds=(1e-3, 1 - 1e-3), b_tau=1,
        fairness_tolerance=TOLERANCE,
        custom_network=torch.nn.Sequential(torch.nn.Linear(features.shape[1], 1), torch.nn.Sigmoid()),
    )  # fmt: skip
    loader = DataLoader(TensorDataset(features, labels.unsqueeze(1)), batch_size=batch_size, shuffle=True)
    trainer = FairTrainer(model, clamped_loss, torch.optim.AdamW(model.parameters(), lr=0.01))
    begin = time.process_time()
    trainer.fit(loader, None, epochs=epochs, verbose=0)
    return time.process_time() - begin


def our_seconds(data: Sequence[torch.Tensor], groups: ak.Groups, batch_size: int, epochs: int) -> float:
    features, labels = data
    config = ak.TuneConfig(
        epochs=epochs, patience=epochs, batch_size=batch_size, validation_fraction=1 / len(labels), anchor=0.0
    )
    begin = time.process_time()
    ak.tune_head(features, labels, groups, CRITERIA["ECP, 2 groups"], config=config)
    return time.process_time() - begin


def product_seconds(features: torch.Tensor, batch_size: int, epochs: int) -> float:
    weight, batches = torch.ones(features.shape[1]), features.split(batch_size)
    slopes = [torch.ones(len(batch)) for batch in batches]
    begin = time.process_time()
    for _ in range(epochs):
        for batch, slope in zip(batches, slopes, strict=True):
            torch.mv(batch, weight)
            torch.mv(batch.T, slope)
    return time.process_time() - begin


def compare_trainers(console: Console, *, rows: int, epochs: int, rounds: int) -> None:
    table = Table("rows", "batch", "products alone, CPU ms", "auditkit, CPU ms", "fairness-training, CPU ms", "ratio",
                  title=f"{epochs} epochs of a linear head on 32 features, ECP of 2 groups")  # fmt: skip
    features, labels, groups, sex = make_rows(rows, 31)
    features = torch.cat([torch.as_tensor(sex, dtype=torch.float32).unsqueeze(1), features], dim=1)
    for batch_size in (512, 2048, 8192):
        our_seconds((features, labels), groups, batch_size, 1)  # imports
        times: list[tuple[float, float, float]] = []
        for _ in range(rounds):
            gc.collect()  # what the other side left behind is not ours to clear away
            products = product_seconds(features, batch_size, epochs)
            ours = our_seconds((features, labels), groups, batch_size, epochs)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                times.append((products, ours, paper_seconds((features, labels), batch_size, epochs)))
        medians = [statistics.median(values) for values in zip(*times, strict=True)]
        cells = [f"{1e3 * seconds:,.1f}" for seconds in medians]
        table.add_row(f"{rows:,}", str(batch_size), *cells, f"{medians[2] / medians[1]:,.0f}×")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("epochs", "tuning", "trainers"), help="one of the tables; all by default")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15, help="epochs per median")
    parser.add_argument("--paper-rows", type=int, default=8192, help="rows that the paper's trainer is given")
    parser.add_argument("--paper-epochs", type=int, default=2)
    parser.add_argument("--paper-rounds", type=int, default=3, help="runs of both trainers per median")
    chosen = parser.parse_args(arguments)
    console = Console(width=140)
    if chosen.part in (None, "epochs"):
        compare_epochs(console, rows=chosen.rows, width=chosen.width, rounds=chosen.rounds)
    if chosen.part in (None, "tuning"):
        compare_tuning(console, rows=chosen.rows, width=chosen.width, epochs=6)
    if chosen.part in (None, "trainers"):
        compare_trainers(console, rows=chosen.paper_rows, epochs=chosen.paper_epochs, rounds=chosen.paper_rounds)


if __name__ == "__main__":
    main()
