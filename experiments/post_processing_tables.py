"""The table of the comparison with post-processing: who is ahead in accuracy at the same certified gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditkit.comparison.differences import Resampling
from auditkit.metrics import Estimate
from experiments.protocol import shown
from experiments.results import standing, table

NO_BASELINES = ("reference", "reference + own thresholds")
"""What is shown beside the methods that are compared."""
MARGIN = 0.005
"""Accuracy that counts as the same: half a point, set before the seeds that are shown were run."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Where the tuned head stands against all baselines of one setting and level.

    Attributes:
        at_or_above: Its mean accuracy is at least that of every baseline.
        same: It is not behind one beyond the paired interval, and no mean is further below than the margin.
        shown: No paired interval reaches further below than the margin.
        behind: It is behind one beyond the interval, or has no certificate where one has.
    """

    at_or_above: bool
    same: bool
    shown: bool
    behind: bool


def describe(found: Sequence[Json], parts: Mapping[str, float], ours: str) -> str:
    """The comparison as Markdown: the count of settings, one line per setting and level, every method by setting."""
    resampling = Resampling(0.95, parts["test"] / (1 - parts["test"]))
    settings = list(dict.fromkeys((each["dataset"], each["criterion"]) for each in found))
    lines, details, outcome = [], [], {}
    for setting in settings:
        runs = [each for each in found if (each["dataset"], each["criterion"]) == setting]
        for level in runs[0]["levels"]:
            line, verdict = _line(runs, level, ours, resampling)
            lines.append([*setting, f"{runs[0]['tolerance']:g}", level, *line])
            outcome[(*setting, level)] = verdict
            details += [[*setting, level, *row] for row in _details(runs, level, ours, resampling)]
    head = ["data set", "criterion", "ε", "level", "seeds", "tuned head certified", "accuracy", "best baseline",
            "its accuracy", "tuned head minus it, paired", "mean", "interval"]  # fmt: skip
    more = ["data set", "criterion", "level", "method", "certified", "accuracy", "test gap", "tuned head minus it"]
    return "\n\n".join(("## post_processing", _summary(settings, outcome), table(head, lines), table(more, details)))


def _summary(settings: Sequence[tuple[str, str]], outcome: Mapping[tuple[str, ...], Outcome]) -> str:
    sentences = []
    levels = list(dict.fromkeys(level for *_, level in outcome))
    for level in levels:
        found = [outcome[(*setting, level)] for setting in settings]
        sentences.append(
            f"Gaps of {level}, of {len(settings)} settings: mean accuracy of the tuned head at or above that of every "
            f"baseline in {sum(one.at_or_above for one in found)}; the same or better (not behind by the paired "
            f"interval, and in mean at most {MARGIN} below any) in {sum(one.same for one in found)}; shown not to be "
            f"more than {MARGIN} below any in {sum(one.shown for one in found)}; behind one beyond the paired "
            f"interval, or without a certificate where one has it, in {sum(one.behind for one in found)}."
        )
    both = sum(all(outcome[(*setting, level)].same for level in levels) for setting in settings)
    return " ".join((*sentences, f"The same or better at both levels: {both} of {len(settings)}."))


def _line(runs: Sequence[Json], level: str, ours: str, resampling: Resampling) -> tuple[list[str], Outcome]:
    """Cells of one setting and level, and where the tuned head stands."""
    mine = _accuracies(runs, level, ours)
    rivals = [name for name in runs[0]["levels"][level] if name not in (ours, *NO_BASELINES)]
    certified = [name for name in rivals if _accuracies(runs, level, name)]
    gains = {name: _difference(runs, level, ours, name, resampling) for name in certified}
    known = {name: gain for name, gain in gains.items() if gain is not None}
    cells = [str(len(runs)), f"{len(mine)}", _mean(mine, resampling)]
    if not mine or not known:
        alone = bool(mine) and not certified  # else there are two, on no two seeds both certified: not compared
        return [*cells, "—", "—", "—", "—", "—"], Outcome(alone, alone, alone, not mine and bool(certified))
    least = min(known, key=lambda name: known[name].value)
    at_or_above = all(gain.value >= 0 for gain in known.values())
    behind = any(standing(gain) == "behind" for gain in known.values())
    same = not behind and all(gain.value >= -MARGIN for gain in known.values())
    shown_same = all(gain.low >= -MARGIN for gain in known.values())
    best = known[least]
    in_mean = "at or above all" if at_or_above else "same" if same else "below one"
    cells += [f"`{least}`", _mean(_accuracies(runs, level, least), resampling), shown(best, 4, signed=True), in_mean,
              "behind" if behind else standing(best)]  # fmt: skip
    return cells, Outcome(at_or_above, same, shown_same, behind)


def _details(runs: Sequence[Json], level: str, ours: str, resampling: Resampling) -> list[list[str]]:
    rows = []
    for name in runs[0]["levels"][level]:
        known = _accuracies(runs, level, name)
        gaps = [run["levels"][level][name]["gap"] for run in runs if run["levels"][level][name]["certified"]]
        gap = f"{np.mean(gaps):.3f} (worst {np.max(gaps):.3f})" if gaps else "—"
        change = None if name == ours else _difference(runs, level, ours, name, resampling)
        rows.append([f"`{name}`", f"{len(known)} of {len(runs)}", _mean(known, resampling), gap,
                     shown(change, 4, signed=True)])  # fmt: skip
    return rows


def _accuracies(runs: Sequence[Json], level: str, name: str) -> dict[int, float]:
    """Seed → test accuracy, of the seeds with a certificate."""
    entries = {run["seed"]: run["levels"][level][name] for run in runs}
    return {seed: entry["accuracy"] for seed, entry in entries.items() if entry["certified"]}


def _difference(runs: Sequence[Json], level: str, first: str, second: str, resampling: Resampling) -> Estimate | None:
    """Paired difference over the seeds on which both are certified; None for fewer than two."""
    one, other = _accuracies(runs, level, first), _accuracies(runs, level, second)
    both = sorted(set(one) & set(other))
    return resampling.pool([one[seed] - other[seed] for seed in both]) if len(both) > 1 else None


def _mean(known: Mapping[int, float], resampling: Resampling) -> str:
    if len(known) < 2:
        return "—" if not known else f"{next(iter(known.values())):.4f}"
    return shown(resampling.pool(list(known.values())), 4)
