"""Audit a table of predictions as an audit file says, by one scan: the table is never loaded whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from auditkit.auditing import AuditResult, evaluate_moments
from auditkit.config import AuditFile
from auditkit.engines import Roles, TableScan, scan_table
from auditkit.errors import InputError
from auditkit.progress import Progress
from auditkit.run_folder import Clock
from auditkit.table_roles import parse_specs


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
    with clock.stage("read"), progress.stage("reading the table", 1) as advance:
        limit = config.data.max_gib
        scanned = scan_table(config.data_path, criteria, roles_of(config), engine=config.engine, max_gib=limit)
        advance(1)
    if scanned.sha256 is None:
        raise InputError(
            f"data.path: {config.data.path!r} is not on this machine, so that it cannot be hashed; copy it"
        )
    _check_attributes(config, scanned)
    rule = config.columns.get("decision")
    with clock.stage("audit"):
        outcome = evaluate_moments(
            scanned.moments,
            criteria,
            threshold=None if scanned.cut is None else scanned.cut.threshold,
            decision_rule=describe_decisions(rule) if scanned.cut is None else scanned.cut.rule,
            confidence=config.confidence,
            seed=config.seed,
            bins=scanned.bins,
        )
    return outcome, _describe(config, scanned)


def describe_decisions(column: str | None) -> str | None:
    """What a decision is that was read from a column, in words; None without one."""
    return None if column is None else f"what column {column!r} holds"


def roles_of(config: AuditFile) -> Roles:
    """The roles of the columns that an audit file names."""
    options = config.table_options()
    listed = [*parse_specs("attributes", options["attributes"]), *parse_specs("strata", options["strata"])]
    if not isinstance(config.data.score, str):
        raise InputError("data.score is missing; name the column of scores, or give a model")
    return Roles(
        score=config.data.score,
        label=config.data.label,
        positive_label=config.data.positive_label,
        weight=config.data.weight,
        decision=config.data.decision,
        threshold=config.threshold,
        cluster=config.data.cluster,
        keys={key.name: key for key in listed},
        mentioned={"features": config.data.features or (), "exclude": options["exclude"], "split": options["keep"]},
    )


def _check_attributes(config: AuditFile, scanned: TableScan) -> None:
    for name in [key.name for key in parse_specs("attributes", config.table_options()["attributes"])]:
        values = [value for value, count in scanned.counts[name].items() if count]
        if len(values) < 2:
            raise InputError(f"attribute {name!r} has the single value {values[0]!r}; there are no groups to compare")


def _describe(config: AuditFile, scanned: TableScan) -> dict[str, Any]:
    return {
        "name": config.name,
        "source": Path(config.data.path).name,
        "sha256": scanned.sha256,
        "engine": config.engine,
        "rows": scanned.n_rows,
        "attributes": {
            name: {str(value): count for value, count in counts.items()} for name, counts in scanned.counts.items()
        },
        "label_mean": scanned.label_mean,
    }
