"""`verify_run`: does a run's folder still say what was computed?

Every file is compared with its hash in run.json and in the manifest, the manifest with its signature, and every finding
is computed again from the sums stored beside it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from auditkit.auditing import SCHEMA, AuditResult, combine_verdicts, evaluate_moments
from auditkit.categories import MISSING
from auditkit.checks import Check
from auditkit.criteria import Criterion
from auditkit.errors import AuditkitError, InputError, SchemaError
from auditkit.groups import CellTable
from auditkit.moments import SUMS, Moments
from auditkit.reporting.document import RUN_SCHEMA, Json
from auditkit.reporting.manifest import SIGNATURE, check_manifest
from auditkit.reporting.reading import PROJECTION, PROJECTION_SCHEMA, read_part
from auditkit.reporting.signing import check_signature

RELATIVE_ERROR = 1e-9
"""Largest relative difference at which two figures count as equal: another machine may round sums differently."""

_FIGURES = ("gap", "corrected_gap", "interval", "p_value", "p_equivalence", "detectable_gap")
_AUDITS = ("audit.json", "audit_after.json")


def verify_run(folder: str | Path, *, public_key: str | Path | None = None) -> tuple[Check, ...]:
    """Verify a run's folder.

    Args:
        folder: Holds run.json and what it lists, and a manifest.
        public_key: PEM file of the Ed25519 key that the manifest must be signed with; None asks for no signature.

    Returns:
        One check per listed file, per file that differs from the manifest, and per criterion of every audit.

    Raises:
        InputError: There is no such folder, no run.json in it, or no such key.
        SchemaError: run.json is not JSON, or of another version.
        MissingExtraError: There is a signature and cryptography is not installed.
    """
    place = Path(folder)
    run = read_part(place / "run.json", RUN_SCHEMA)
    if run is None:
        raise InputError(f"folder: {str(folder)!r} holds no run.json; name the folder of a finished run")
    checks = [_check_file(place, name, digest) for name, digest in sorted((run.get("files") or {}).items())]
    for name in _AUDITS:
        checks += _check_audit(place / name)
    checks += _check_projection(place)
    checks += check_manifest(place)
    signed = check_signature(place, public_key) if public_key is not None or (place / SIGNATURE).exists() else None
    return tuple(checks if signed is None else [*checks, signed])


def _check_file(folder: Path, name: str, digest: str) -> Check:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return Check(name, False, "lies outside the folder and was not read")
    if not path.is_file():
        return Check(name, False, "missing")
    same = hashlib.sha256(path.read_bytes()).hexdigest() == digest
    return Check(name, same, "hash as recorded" if same else "differs from the hash in run.json")


def _check_audit(path: Path) -> Iterator[Check]:
    try:
        stored = read_part(path, SCHEMA)
    except SchemaError as error:
        yield Check(path.name, False, f"the findings cannot be computed again: {error}")
        return
    if stored is not None:
        yield from _check_findings(path.name, stored)


def _check_projection(folder: Path) -> Iterator[Check]:
    """Say of the certificate what can be said without the rows: that it is the one recorded, and no more."""
    try:
        stored = read_part(folder / PROJECTION, PROJECTION_SCHEMA)
    except SchemaError as error:
        yield Check(f"{PROJECTION}: certificate", False, str(error))
        return
    if stored is None:
        return
    said = "not computed again: a run keeps no scores of its rows; with them, auditkit.verify_certificate does"
    if stored["certificate"] is None:
        said = "there is none: the projection did not reach its accuracy"
    yield Check(f"{PROJECTION}: certificate", True, said)


def _check_findings(name: str, stored: Json) -> Iterator[Check]:
    try:
        again = recompute(stored)
        pairs = list(zip(stored["findings"], again.findings, strict=True))
    except (AuditkitError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        yield Check(name, False, f"the findings cannot be computed again: {error}")
        return
    verdicts = []
    for before, now in pairs:
        wrong = _differences(before, now.to_dict())
        verdicts.append(before["verdict"])
        detail = f"differs in {', '.join(wrong)}" if wrong else "gap, interval and verdict as recorded"
        yield Check(f"{name}: {now.criterion.name}", not wrong, detail)
    same = stored["verdict"] == combine_verdicts(verdicts)
    yield Check(f"{name}: verdict", same, "follows from the findings" if same else "does not follow from the findings")


def _differences(stored: Json, again: Json) -> list[str]:
    wrong = [key for key in _FIGURES if not _equal(stored[key], again[key])]
    wrong += [key for key in ("gaps", "cells") if not _equal(stored[key], again[key])]
    # a group without rows has left no cell to be found again; that it was missing is taken from the record
    verdict = "inconclusive" if stored["missing"] and again["verdict"] == "pass" else again["verdict"]
    return wrong if verdict == stored["verdict"] else [*wrong, "verdict"]


def _equal(stored: Any, again: Any) -> bool:
    """Whether two JSON values are the same, numbers up to rounding."""
    if isinstance(stored, dict) and isinstance(again, dict):
        return stored.keys() == again.keys() and all(_equal(stored[key], again[key]) for key in stored)
    if isinstance(stored, list | tuple) and isinstance(again, list | tuple):
        return len(stored) == len(again) and all(map(_equal, stored, again))
    if isinstance(stored, float) and isinstance(again, float | int):
        return math.isclose(stored, again, rel_tol=RELATIVE_ERROR, abs_tol=1e-12)
    return stored == again


def recompute(stored: Json) -> AuditResult:
    """The audit again, from the sums that its JSON holds.

    Args:
        stored: audit.json.

    Returns:
        The audit of the same criteria at the same confidence and seed.
    """
    criteria = [
        Criterion(
            finding["criterion"]["family"],
            tuple(finding["criterion"]["attributes"]),
            finding["criterion"]["tolerance"],
            tuple(finding["criterion"]["given"]),
            finding["criterion"]["form"],
            finding["criterion"]["label_value"],
            name=finding["criterion"]["name"],
        )
        for finding in stored["findings"]
    ]
    return evaluate_moments(
        _moments(stored),
        criteria,
        threshold=stored["threshold"],
        decision_rule=stored["decision_rule"],
        confidence=stored["confidence"],
        seed=stored["seed"],
    )


def _moments(stored: Json) -> Moments:
    sums = stored["moments"]
    cells = [cell for finding in stored["findings"] for cell in finding["cells"]]
    arrays = {name: np.asarray(sums[name], dtype=np.float64) for name in SUMS}
    return Moments(
        table=_table(sums),
        **arrays,
        has_labels=any(cell["mean_label"] is not None for cell in cells),
        has_decisions=bool(stored["decisions"]),
        shift=sums["shift"],
        gram=None if sums["gram"] is None else np.asarray(sums["gram"], dtype=np.float64),
    )


def _table(sums: Json) -> CellTable:
    names = tuple(sums["columns"])
    stored = sums.get("categories") or {}
    categories = [tuple(stored.get(name) or _ordered_values(sums["columns"], name)) for name in names]
    codes = [
        [values.index(value) for value in sums["columns"][name]] for name, values in zip(names, categories, strict=True)
    ]
    return CellTable(
        names, np.array(codes, dtype=np.int64).T.reshape(len(sums["count"]), len(names)), tuple(categories)
    )


def _ordered_values(columns: dict[str, Sequence[Hashable]], name: str) -> list[Hashable]:
    """The values of a column in the order of their codes, which the order of the cells tells.

    Cells are sorted by the codes of the first column, then of the second, …; among cells that agree in the columns
    before this one, its values therefore come in the order of their codes.
    """
    position = list(columns).index(name)
    earlier = list(columns.values())[:position]
    blocks: dict[tuple[Hashable, ...], list[Hashable]] = {}
    for cell, value in enumerate(columns[name]):
        block = blocks.setdefault(tuple(column[cell] for column in earlier), [])
        if not block or block[-1] != value:
            block.append(value)
    return _merge(list(blocks.values()))


def _merge(sequences: list[list[Hashable]]) -> list[Hashable]:
    """One order that agrees with every sequence; where they leave it open, sorted, with the missing value last."""
    values = {value for sequence in sequences for value in sequence}
    after: dict[Hashable, set[Hashable]] = {value: set() for value in values}
    for sequence in sequences:
        for first, second in pairwise(sequence):
            after[second].add(first)
    order: list[Hashable] = []
    while len(order) < len(values):
        ready = [value for value in values if value not in order and after[value] <= set(order)]
        if not ready:
            raise SchemaError("moments: the cells are not sorted by their values")
        order.append(min(ready, key=_rank))
    return order


def _rank(value: Hashable) -> tuple[bool, str, float, str]:
    """Numbers by size, other values by their text, the missing value last."""
    size = float(value) if isinstance(value, int | float) else 0.0
    return value == MISSING, type(value).__name__, size, str(value)
