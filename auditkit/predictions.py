"""Audit a table of predictions as an audit file says, by one scan: the table is never loaded whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from auditkit._tables import hash_file
from auditkit.auditing import AuditResult, evaluate_moments
from auditkit.config import AuditFile
from auditkit.datasets import parse_specs
from auditkit.engines import Roles, TableScan, scan_table
from auditkit.errors import InputError
from auditkit.progress import Progress
from auditkit.run_folder import Clock


def audit_predictions(config: AuditFile, *, progress: Progress, clock: Clock) -> tuple[AuditResult, dict[str, Any]]:
    """Audit the scores of a table.

    Args:
        config: The audit file; has no model.
        progress: Where to report.
        clock: Where to note the time taken.

    Returns:
        The audit, and what run.json holds about the data.

    Raises:
        InputError: The table or the request is wrong.
    """
    criteria = config.build_criteria()
    with clock.stage("read"), progress.stage("reading the table", 2) as advance:
        scanned = scan_table(config.data_path, criteria, roles_of(config))
        advance(1)
        digest = _hash_files(scanned.files)
        advance(1)
    _check_attributes(config, scanned)
    with clock.stage("audit"):
        outcome = evaluate_moments(
            scanned.moments, criteria, threshold=config.threshold, confidence=config.confidence, seed=config.seed
        )
    return outcome, _describe(config, scanned, digest)


def roles_of(config: AuditFile) -> Roles:
    """The roles of the columns that an audit file names."""
    options = config.table_options()
    listed = [*parse_specs("attributes", options["attributes"]), *parse_specs("strata", options["strata"])]
    if config.data.score is None:
        raise InputError("data.score is missing; name the column of scores, or give a model")
    return Roles(
        score=config.data.score,
        label=config.data.label,
        positive_label=config.data.positive_label,
        threshold=config.threshold,
        keys={name: (source, bins) for name, source, bins in listed},
        mentioned={"features": config.data.features or (), "exclude": config.data.exclude},
    )


def _check_attributes(config: AuditFile, scanned: TableScan) -> None:
    for name, _, _ in parse_specs("attributes", config.table_options()["attributes"]):
        values = [value for value, count in scanned.counts[name].items() if count]
        if len(values) < 2:
            raise InputError(f"attribute {name!r} has the single value {values[0]!r}; there are no groups to compare")


def _describe(config: AuditFile, scanned: TableScan, digest: str) -> dict[str, Any]:
    return {
        "name": config.name,
        "source": Path(config.data.path).name,
        "sha256": digest,
        "rows": scanned.n_rows,
        "attributes": {
            name: {str(value): count for value, count in counts.items()} for name, counts in scanned.counts.items()
        },
        "label_mean": scanned.label_mean,
    }


def _hash_files(files: Sequence[str]) -> str:
    """SHA-256 of one file's bytes; of the list of hashes where there are several."""
    hashes = [hash_file(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
