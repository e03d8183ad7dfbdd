"""`run_stream`: batches as JSON lines in, released scores as JSON lines out, in any number of runs over one store.

    {"batch_id": "7", "scores": [0.2, 0.9], "groups": {"sex": ["f", "m"]}}  →  {"batch_id": "7", "scores": [0.5, 0.6]}
    {"batch_id": "7", "labels": [0, 1]}                                     →  {"batch_id": "7", "labels": 2}

A line is written after it is committed; a run that is cut short is simply repeated, for a batch id is applied once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import IO, Any

from auditkit.errors import AuditkitError, InputError
from auditkit.online_enforcer import ObserveRequest, ObserveResult, OnlineEnforcer, Request, StepResult, read_labels

GROUP = 256
"""Lines of a file that share a commit; lines from a terminal or a pipe are committed one by one."""

_KEYS = {"batch_id", "scores", "groups", "labels"}


def run_stream(stream: OnlineEnforcer, lines: Iterable[str], output: IO[str], *, name: str, group: int = 1) -> int:
    """Release every batch of some lines.

    Args:
        stream: What enforces.
        lines: JSON objects, one per line; empty lines are skipped.
        output: Where the answers go.
        name: What messages call the input.
        group: Lines that share one commit.

    Returns:
        Lines that were answered.

    Raises:
        InputError: A line is malformed or refused; everything before it was released, and is in the output.
        StoreError: The store cannot be written.
    """
    answered = 0
    for numbers, requests, complaint in _grouped(stream, lines, name, group):
        for number, result in zip(numbers, stream.apply(requests, stop=True) if requests else [], strict=False):
            if isinstance(result, AuditkitError):
                output.flush()
                raise InputError(f"{name}, line {number}: {result}") from result
            output.write(json.dumps(_answer(result), separators=(",", ":"), ensure_ascii=False) + "\n")
            answered += 1
        output.flush()
        if complaint is not None:
            raise complaint
    return answered


def _grouped(
    stream: OnlineEnforcer, lines: Iterable[str], name: str, group: int
) -> Iterator[tuple[list[int], list[Request], InputError | None]]:
    numbers: list[int] = []
    requests: list[Request] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            requests.append(read_request(stream, line))
        except InputError as error:
            yield numbers, requests, InputError(f"{name}, line {number}: {error}")
            return
        numbers.append(number)
        if len(requests) >= group:
            yield numbers, requests, None
            numbers, requests = [], []
    yield numbers, requests, None


def read_request(stream: OnlineEnforcer, line: str) -> Request:
    """One line as a checked request.

    Raises:
        InputError: Not a JSON object of the form above.
    """
    try:
        content = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"this is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"a line must be a JSON object with batch_id, scores and groups; got {line.strip()[:60]!r}")
    if unknown := set(content) - _KEYS:
        raise InputError(f"there is no key {sorted(unknown)[0]!r}; a line has {', '.join(sorted(_KEYS))}")
    if "batch_id" not in content:
        raise InputError("the key 'batch_id' is missing; it makes a repeated line harmless")
    labels = content.get("labels")
    if labels is not None and not _is_numbers(labels, missing=True):
        raise InputError("labels must be a list of numbers, null where one is not known")
    if "scores" not in content:
        if labels is None:
            raise InputError("a line needs scores and groups, or labels")
        return ObserveRequest(read_labels(labels), content["batch_id"])
    if not isinstance(content.get("groups"), dict):
        raise InputError("groups must be an object: attribute → one value per score")
    if not _is_numbers(content["scores"], missing=False):
        raise InputError("scores must be a list of numbers")
    late = None if labels is None else read_labels(labels)
    return stream.make_step(content["scores"], content["groups"], batch_id=content["batch_id"], labels=late)


def _is_numbers(values: Any, *, missing: bool) -> bool:
    return isinstance(values, list) and all(
        (missing and value is None) or (isinstance(value, int | float) and not isinstance(value, bool))
        for value in values
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _answer(result: StepResult | ObserveResult) -> dict[str, Any]:
    if isinstance(result, ObserveResult):
        return {"batch_id": result.batch_id, "labels": result.rows, "replayed": result.replayed}
    return {"batch_id": result.batch_id, "scores": result.scores.tolist(), "replayed": result.replayed}


def summarize(stream: OnlineEnforcer) -> Iterator[str]:
    """A report in a few lines, for people."""
    report = stream.report()
    yield f"{report.rows} rows in {report.batches} batches, {report.labelled_rows} with labels"
    for gap in report.gaps:
        shown = "–" if gap.gap is None or not math.isfinite(gap.gap) else f"{gap.gap:+.4f}"
        bound = "" if gap.bound is None else f", at most {gap.bound:.4f} by the ledger"
        wide = "" if gap.interval is None else f", population [{gap.interval[0]:+.4f}, {gap.interval[1]:+.4f}]"
        yield f"{gap.criterion}: {gap.name}: pooled gap {shown} (ε {gap.tolerance:g}{bound}{wide})"
    if report.weighted_violation is not None:
        yield f"weighted-average violation of the batches by themselves: {report.weighted_violation:+.4f}" + (
            f", at most {report.dual_bound:.4f}" if report.dual_bound is not None else ""
        )
    for alarm in report.alarms:
        yield f"ALARM ({alarm.kind}): {alarm.message}"
