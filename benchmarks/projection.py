"""The fairness layer beside its peers: forward and backward, in one process and in turn, medians and ratios.

    python -m benchmarks.projection            needs: pip install -e '.[bench]'

Peers: a cvxpylayers layer built for every batch with its default solver (which is how the paper's code runs), the
same with Clarabel, that one built once and reused (the best a CVXPY layer does), OSQP's own torch layer, the paper's
package ``fairness-training`` (two groups, always bounded, float32), and a penalty on the gaps, which constrains
nothing. All see the same scores and groups, and the same gradient arrives from above; no loss is timed.

The first column of auditkit is a batch that is projected again, as in training on all rows or on batches of one
composition; *drawn anew* takes the batch from the groups of all rows before every step, as a loop over shuffled rows
does, so that the constraints are assembled each time.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
import torch
from cvxpylayers.torch import CvxpyLayer
from fairness_training import FairModel
from osqp.nn.torch import OSQP
from rich.console import Console
from rich.table import Table

import auditkit as ak

TOLERANCE = 1e-3
CLARABEL = {"solve_method": "CLARABEL"}
CASES = ((128, 2, False), (128, 2, True), (1024, 4, False), (1024, 14, False), (8192, 4, False), (1024, 4, True))
LARGE = (1_000_000, 10_000_000)
ROUNDS = 3

Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One problem size."""

    scores: torch.Tensor
    codes: np.ndarray
    n_groups: int
    bounds: tuple[float, float] | None

    @property
    def averages(self) -> np.ndarray:
        """Matrix that takes scores to group means, shape (g, n)."""
        member = np.eye(self.n_groups)[:, self.codes]
        return member / member.sum(axis=1, keepdims=True)


def make_case(rows: int, groups: int, bounded: bool) -> Case:
    rng = np.random.default_rng(rows + groups)
    codes = rng.permutation(np.arange(rows) % groups)
    scores = torch.as_tensor(rng.normal(size=rows) + 0.5 * (codes == 0)).requires_grad_()
    return Case(scores, codes, groups, (-1.5, 1.5) if bounded else None)


def auditkit_step(case: Case) -> Step:
    layer = ak.FairnessLayer(ak.ECP("g", tolerance=TOLERANCE), bounds=case.bounds)
    groups = ak.Groups({"g": case.codes})
    return lambda scores: layer(scores, groups)


def drawn_step(case: Case) -> Step:
    layer = ak.FairnessLayer(ak.ECP("g", tolerance=TOLERANCE), bounds=case.bounds)
    everyone, rows = ak.Groups({"g": np.tile(case.codes, 4)}), np.arange(len(case.codes))
    return lambda scores: layer(scores, everyone.take(rows))


def build_cvxpy_layer(case: Case) -> CvxpyLayer:
    values, scores = cp.Variable(len(case.codes)), cp.Parameter(len(case.codes))
    means = case.averages @ values
    constraints = [cp.abs(means[a] - means[b]) <= TOLERANCE for a, b in combinations(range(case.n_groups), 2)]
    if case.bounds is not None:
        constraints += [values >= case.bounds[0], values <= case.bounds[1]]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(values - scores)), constraints)
    return CvxpyLayer(problem, parameters=[scores], variables=[values])


def rebuilt_step(case: Case) -> Step:
    return lambda scores: build_cvxpy_layer(case)(scores)[0]


def rebuilt_clarabel_step(case: Case) -> Step:
    return lambda scores: build_cvxpy_layer(case)(scores, solver_args=CLARABEL)[0]


def reused_clarabel_step(case: Case) -> Step:
    layer = build_cvxpy_layer(case)
    return lambda scores: layer(scores, solver_args=CLARABEL)[0]


def osqp_step(case: Case) -> Step:
    pairs = list(combinations(range(case.n_groups), 2))
    rows = np.array([case.averages[a] - case.averages[b] for a, b in pairs])
    size, limit = len(case.codes), np.full(len(pairs), TOLERANCE)
    matrix = sp.csr_array(rows) if case.bounds is None else sp.vstack([sp.csr_array(rows), sp.eye_array(size)]).tocsr()
    entries, unit = matrix.tocoo(), np.arange(size)
    low, high = (-limit, limit) if case.bounds is None else (
        np.concatenate([-limit, np.full(size, case.bounds[0])]), np.concatenate([limit, np.full(size, case.bounds[1])])
    )  # fmt: skip
    layer = OSQP((unit, unit), (size, size), entries.coords, matrix.shape, eps_abs=1e-8, eps_rel=1e-8, max_iter=100_000)
    ones, values, lower, upper = (torch.as_tensor(part) for part in (np.ones(size), entries.data, low, high))
    return lambda scores: layer(ones, -scores, values, lower, upper)


class _Scores(torch.nn.Module):
    """A network whose output was computed beforehand."""

    scores: torch.Tensor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        del features
        return self.scores


def fairness_training_step(case: Case) -> Step | None:
    if case.n_groups != 2:
        return None  # it takes binary attributes
    model = FairModel(
        input_dim=1, protected_attr_idx=0, prediction_bounds=case.bounds or (-1e3, 1e3), fairness_tolerance=TOLERANCE,
        custom_network=_Scores(),
    )  # fmt: skip
    attribute = torch.as_tensor(case.codes, dtype=torch.float32).unsqueeze(1)

    def step(scores: torch.Tensor) -> torch.Tensor:
        model.ffnn.scores = scores.float().unsqueeze(1)
        return model(attribute).squeeze(1).double()

    return step


def penalty_step(case: Case) -> Step:
    index = torch.as_tensor(case.codes)
    size = torch.bincount(index).double()

    def step(scores: torch.Tensor) -> torch.Tensor:
        means = torch.zeros(case.n_groups, dtype=torch.float64).index_add(0, index, scores) / size
        return scores + 0.0 * (means.max() - means.min() - TOLERANCE).clamp_min(0)

    return step


PEERS: dict[str, Callable[[Case], Step | None]] = {
    "CVXPY layer, rebuilt": rebuilt_step,
    "rebuilt, Clarabel": rebuilt_clarabel_step,
    "reused, Clarabel": reused_clarabel_step,
    "OSQP layer": osqp_step,
    "fairness-training": fairness_training_step,
    "penalty": penalty_step,
}


def measure(steps: Sequence[Step], case: Case, seconds: float) -> list[tuple[float, float]]:
    """Milliseconds of forward and backward of every step, and the largest gap of what came out.

    Others use the machine as well, so all steps are taken in turn, and the median of the best round counts.
    """
    upstream = torch.linspace(-1, 1, len(case.codes), dtype=torch.float64)

    def once(step: Step) -> torch.Tensor:
        output = step(case.scores)
        torch.autograd.grad(output, case.scores, upstream)
        return output

    def median(step: Step) -> float:
        times, stop = [], time.perf_counter() + seconds / ROUNDS
        while not times or time.perf_counter() < stop:
            begin = time.perf_counter()
            once(step)
            times.append(time.perf_counter() - begin)
        return 1e3 * statistics.median(times)

    outputs = [once(step).detach().numpy() for step in steps]
    best = np.min([[median(step) for step in steps] for _ in range(ROUNDS)], axis=0)
    means = [np.bincount(case.codes, weights=output) / np.bincount(case.codes) for output in outputs]
    return [(float(spent), float(np.ptp(mean))) for spent, mean in zip(best, means, strict=True)]


def compare(console: Console, *, seconds: float) -> None:
    table = Table(
        "rows",
        "groups",
        "bounds",
        "auditkit",
        "drawn anew",
        "gap − ε",
        title="forward + backward, ms (ratio), excess gap",
    )
    for name in PEERS:
        table.add_column(name)
    for rows, groups, bounded in CASES:
        case = make_case(rows, groups, bounded)
        peers = {name: step for name, make in PEERS.items() if (step := make(case)) is not None}
        steps = [auditkit_step(case), drawn_step(case), *peers.values()]
        (ours, gap), (drawn, _), *others = measure(steps, case, seconds)
        found = dict(zip(peers, others, strict=True))
        cells = [str(rows), str(groups), "yes" if bounded else "no", f"{ours:.3f}", f"{drawn:.3f}"]
        cells.append(f"{max(0.0, gap - TOLERANCE):.0e}")
        for name in PEERS:
            if name not in found:
                cells.append("—")
                continue
            theirs, excess = found[name]
            ratio = theirs / ours
            times = f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×"
            cells.append(f"{theirs:.2f} ({times}), {max(0.0, excess - TOLERANCE):.0e}")
        table.add_row(*cells)
    console.print(table)


def scale(console: Console, *, seconds: float) -> None:
    table = Table("rows", "auditkit, ms", "bincount + gather, ms", "ratio", title="large batches, 4 groups")
    for rows in LARGE:
        case = make_case(rows, 4, False)
        index = torch.as_tensor(case.codes)
        ((ours, _),) = measure([auditkit_step(case)], case, seconds)
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            torch.bincount(index, weights=case.scores.detach())[index]
            times.append(1e3 * (time.perf_counter() - begin))
        bare = statistics.median(times)
        table.add_row(f"{rows:,}", f"{ours:.1f}", f"{bare:.1f}", f"{ours / bare:.1f}×")
    console.print(table)


def memory(console: Console) -> None:
    """The most memory of one forward and backward pass beside the scores and what arrives from above (Linux, glibc)."""
    rows = LARGE[-1]
    table = Table(
        "criteria", "bounds", "arrays of n", title=f"peak memory at {rows:,} rows, output and gradient included"
    )
    groups = ak.Groups({"g": np.arange(rows) % 4, "h": np.arange(rows) % 3})
    scores = torch.as_tensor(np.random.default_rng(0).normal(size=rows) + 0.5 * (np.arange(rows) % 4 == 0))
    upstream = torch.linspace(-1, 1, rows, dtype=torch.float64)
    for columns, bounds in product((("g",), ("g", "h")), (None, (-1.5, 1.5))):
        layer = ak.FairnessLayer([ak.ECP(column, tolerance=TOLERANCE) for column in columns], bounds=bounds)

        def once(layer: ak.FairnessLayer = layer) -> None:
            inputs = scores.detach().requires_grad_()
            torch.autograd.grad(layer(inputs, groups), inputs, upstream)

        once()  # constraints are assembled once
        peak = peak_bytes(once) / (8 * rows)
        table.add_row(" and ".join(columns), "no" if bounds is None else "yes", f"{peak:.1f}")
    console.print(table)


def peak_bytes(work: Callable[[], None]) -> int:
    """How far the memory of this process rises above where it stood."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before is given back, and counts when it is taken again
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = read_status("VmRSS")
    work()
    return read_status("VmHWM") - before


def read_status(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition(f"{name}:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="time to spend on every cell of the table")
    arguments = parser.parse_args()
    console = Console(width=190)
    compare(console, seconds=arguments.seconds)
    scale(console, seconds=arguments.seconds)
    memory(console)


if __name__ == "__main__":
    main()
