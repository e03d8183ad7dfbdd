"""What a finished experiment found, read from its run folders, and the Markdown that states it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditkit.comparison.settings import LOWER_IS_BETTER
from auditkit.metrics import Estimate

UTILITIES = {"accuracy": "accuracy", "auc": "AUC", "brier": "Brier", "log_loss": "log-loss"}
OURS = "layer"

Json = dict[str, Any]
Paired = Mapping[str, Mapping[str, Estimate | None]]


@dataclass(frozen=True, eq=False)
class ExperimentResult:
    """One experiment.

    Attributes:
        name: Its folder's name.
        prepared: What its prepare script reported.
        audit: audit.json of all rows.
        run: run.json of the comparison.
        comparison: comparison.json.
        paired: Method → utility → difference of the layer to it on the test rows.
        codes: Command → exit code.
        seconds: Command → wall-clock seconds.
    """

    name: str
    prepared: Json
    audit: Json
    run: Json
    comparison: Json
    paired: Paired
    codes: Mapping[str, int]
    seconds: Mapping[str, float]

    @property
    def enforced(self) -> list[str]:
        """Names of the enforced criteria."""
        return [criterion["name"] for criterion in self.comparison["criteria"]]

    def gap(self, method: Json, criterion: str) -> Json | None:
        """One method's gap of one criterion; None for a method without scores."""
        return next((gap for gap in method["gaps"] if gap["criterion"] == criterion), None)

    def guaranteed(self, criterion: str) -> tuple[int, int]:
        """How many of a criterion's contrasts the calibration guarantees, and of how many."""
        contrasts = [c for c in self.run["calibration"]["contrasts"] if c["criterion"] == criterion]
        return sum(contrast["guaranteed"] for contrast in contrasts), len(contrasts)


def collect(work: Path, *, codes: Mapping[str, int], seconds: Mapping[str, float]) -> ExperimentResult:
    """Read a work folder after its audit and its comparison."""
    comparison = read_json(work / "compare" / "comparison.json")
    return ExperimentResult(
        name=work.name,
        prepared=read_json(work / "prepared.json"),
        audit=read_json(work / "audit" / "audit.json"),
        run=read_json(work / "compare" / "run.json"),
        comparison=comparison,
        paired=pair_with_layer(comparison),
        codes=codes,
        seconds=seconds,
    )


def read_json(path: Path) -> Json:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def pair_with_layer(comparison: Json) -> Paired:
    """Differences of the layer to every method, row by row."""
    paired: dict[str, dict[str, Estimate | None]] = {}
    for pair in comparison["pairs"]:
        first, second = pair["first"], pair["second"]
        if OURS in (first, second):
            other = second if first == OURS else first
            paired[other] = {key: _difference(pair[key], turned=second == OURS) for key in UTILITIES}
    return paired


def _difference(found: Json | None, *, turned: bool) -> Estimate | None:
    if found is None:
        return None
    return Estimate(-found["value"], -found["high"], -found["low"]) if turned else Estimate(**found)


def standing(difference: Estimate | None, *, lower_is_better: bool = False) -> str:
    """Ahead, level or behind, by the interval of a difference."""
    if difference is None:
        return "—"
    if difference.low <= 0 <= difference.high:
        return "level"
    return "ahead" if (difference.value > 0) != lower_is_better else "behind"


def describe(result: ExperimentResult) -> str:
    """One experiment as Markdown."""
    rows, facts = result.comparison["rows"], result.prepared
    codes = ", ".join(f"`{command}` {code} ({result.seconds[command]:.0f} s)" for command, code in result.codes.items())
    size = (
        f"{facts['rows']:,} rows in the file, {facts['trained_on']:,} of them the frozen model's training rows; "
        f"{result.audit['n_rows']:,} audited; tuned on {rows['tune']:,}, calibrated on {rows['calibrate']:,}, "
        f"tested on {rows['test']:,}. Exit codes (and wall-clock time): {codes}."
    )
    all_rows = f"All audited rows, the model as found: {_verdicts(result.audit)}."
    tables = (_gap_table(result), _utility_table(result), _paired_table(result))
    return "\n\n".join((f"## {result.name}", size, all_rows, *tables))


def _verdicts(audit: Json) -> str:
    return "; ".join(
        f"{finding['criterion']['name']} {_interval(finding['gap'], finding['interval'])} {finding['verdict']}"
        for finding in audit["findings"]
    )


def _gap_table(result: ExperimentResult) -> str:
    """Gap per enforced criterion and method on the test rows, and what is guaranteed beyond them."""
    head = ["gap on the test rows", *(f"{name}, ε = {_tolerance(result, name):g}" for name in result.enforced)]
    body = [
        [f"{method['title']} (`{method['name']}`)", *(_gap_cell(result, method, name) for name in result.enforced)]
        for method in result.comparison["methods"]
        if method["gaps"]
    ]
    known = [result.guaranteed(name) for name in result.enforced]
    body.append(["comparisons guaranteed for the population by `calibrated`", *(f"{a} of {b}" for a, b in known)])
    return table(head, body)


def _tolerance(result: ExperimentResult, name: str) -> float:
    return next(c["tolerance"] for c in result.comparison["criteria"] if c["name"] == name)


def _gap_cell(result: ExperimentResult, method: Json, name: str) -> str:
    gap = result.gap(method, name)
    return "—" if gap is None else f"{_interval(gap['gap'], gap['interval'])} {gap['verdict']}"


def _utility_table(result: ExperimentResult) -> str:
    body = [
        [f"`{method['name']}`", *(_utility_cell(method, key) for key in UTILITIES)]
        for method in result.comparison["methods"]
    ]
    return table(["utility on the test rows", *UTILITIES.values()], body)


def _utility_cell(method: Json, key: str) -> str:
    value = method["utility"][key]
    return "—" if value is None else _interval(value["value"], (value["low"], value["high"]))


def _paired_table(result: ExperimentResult) -> str:
    body = [
        [f"`{name}`", *(_paired_cell(key, difference) for key, difference in differences.items())]
        for name, differences in result.paired.items()
    ]
    return table([f"`{OURS}` minus …, paired", *UTILITIES.values()], body)


def _paired_cell(key: str, difference: Estimate | None) -> str:
    if difference is None:
        return "—"
    found = standing(difference, lower_is_better=key in LOWER_IS_BETTER)
    return f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] {found}"


def _interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "—"
    return f"{value:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
