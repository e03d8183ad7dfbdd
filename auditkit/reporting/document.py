"""The report as data: the files of a run's folder, arranged criterion by criterion; no number is computed here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from auditkit.auditing import SCHEMA as AUDIT_SCHEMA
from auditkit.errors import InputError, SchemaError
from auditkit.groups import value_in_words

SCHEMA = "auditkit.report/1"
RUN_SCHEMA = "auditkit.run/1"

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one audit found for one criterion.

    Attributes:
        verdict: "pass", "fail" or "inconclusive".
        gap: Largest absolute gap; None when no two groups could be compared.
        interval: Simultaneous interval of it; None when some gap has none.
        reason: The verdict in a sentence.
        rows_needed: Rows of the smaller group that would settle an inconclusive gap, where known.
        rows_by_group: The same for every group that is short of rows.
        corrected_gap: The largest gap less what the largest of several estimates exceeds it by on average.
        detectable_gap: Smallest gap that would have been found with probability 0.8.
        cells: Mean and size of every group within every stratum.
        gaps: Every gap.
    """

    verdict: str
    gap: float | None
    interval: tuple[float, float] | None
    reason: str
    rows_needed: int | None
    rows_by_group: Json
    corrected_gap: float | None
    detectable_gap: float | None
    cells: tuple[Json, ...]
    gaps: tuple[Json, ...]


@dataclass(frozen=True)
class CriterionRow:
    """One criterion with what was found before and, where a head was tuned, after.

    Attributes:
        name: What the report calls it.
        criterion: The criterion as a dictionary.
        tolerance: ε.
        enforced_tolerance: The tolerance that the head was tuned for; None when it was not tuned for this.
        before: Of the model as found.
        after: Of the tuned and calibrated scores; None without them.
    """

    name: str
    criterion: Json
    tolerance: float
    enforced_tolerance: float | None
    before: Outcome
    after: Outcome | None

    @property
    def enforced(self) -> bool:
        """Whether the head was tuned for it."""
        return self.enforced_tolerance is not None


@dataclass(frozen=True)
class DecisionPair:
    """The decisions by the groups of one set of attributes, before and after.

    Attributes:
        attributes: The columns crossed.
        output: The output of the model; None where there is one score per row.
        before: The decision table of the model as found.
        after: Of the tuned and calibrated scores; None without them.
    """

    attributes: tuple[str, ...]
    output: str | None
    before: Json
    after: Json | None


@dataclass(frozen=True)
class ReportDocument:
    """Everything a report states; the same content as its JSON.

    Attributes:
        title: Name of the audit.
        verdict: Of the model as found, over every criterion.
        after_verdict: Of the tuned scores, over the enforced criteria; None without them.
        criteria: One row per criterion of the audit.
        decisions: One pair of tables per set of attributes; empty without a threshold.
        run: run.json.
        audit: audit.json.
        after: audit_after.json, where there is one.
        comparison: comparison.json, where there is one.
        timing: timing.json, where there is one.
        schema: Version of this layout.
    """

    title: str
    verdict: str
    after_verdict: str | None
    criteria: tuple[CriterionRow, ...]
    decisions: tuple[DecisionPair, ...]
    run: Json
    audit: Json
    after: Json | None = None
    comparison: Json | None = None
    timing: Json | None = None
    schema: str = SCHEMA

    @property
    def enforced(self) -> tuple[CriterionRow, ...]:
        """The criteria that the head was tuned for."""
        return tuple(row for row in self.criteria if row.enforced)

    def to_dict(self) -> Json:
        """The document as JSON-ready values."""
        return asdict(self)


def load_document(folder: str | Path) -> ReportDocument:
    """Read the files of a run's folder.

    Args:
        folder: Holds run.json and audit.json, and may hold audit_after.json, comparison.json and timing.json.

    Returns:
        The document.

    Raises:
        InputError: The folder or one of its two necessary files is missing.
        SchemaError: A file is not JSON, or not of the version that this release reads.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"folder: there is no folder {str(folder)!r}; name the folder of a run")
    run = _required(place, "run", RUN_SCHEMA)
    audit = _required(place, "audit", AUDIT_SCHEMA)
    after = read_part(place / "audit_after.json", AUDIT_SCHEMA)
    try:
        return _assemble(
            run,
            audit,
            after,
            comparison=read_part(place / "comparison.json", "auditkit.comparison/2"),
            timing=read_part(place / "timing.json", None),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise SchemaError(f"{place.name}: run.json and audit.json lack what a report needs ({error!r})") from error


def read_part(path: Path, schema: str | None) -> Json | None:
    """One JSON file of a run's folder; None when it is not there.

    Args:
        path: The file.
        schema: The value that its ``schema`` key must have; None for a file without one.

    Raises:
        SchemaError: It is not a JSON object, or of another schema.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SchemaError(f"{path.name} is not JSON ({error}); run the audit again") from error
    if not isinstance(content, dict):
        raise SchemaError(f"{path.name} must hold a JSON object; got {type(content).__name__}")
    if schema is not None and content.get("schema") != schema:
        raise SchemaError(f"{path.name} has schema {content.get('schema')!r}; this release reads {schema!r}")
    return content


def criterion_key(criterion: Json) -> tuple[Any, ...]:
    """What makes two criteria the same question, whatever their names and tolerances."""
    return (
        criterion["family"],
        tuple(criterion["attributes"]),
        tuple(criterion.get("given") or ()),
        criterion.get("form"),
        criterion.get("label_value"),
    )


def enforced_tolerances(run: Json) -> dict[str, float]:
    """Names and tolerances of what the head was tuned for: the plan's, where a head was tuned at all."""
    if run.get("tuning") is None and run.get("calibration") is None:
        return {}
    return {spec["name"]: spec["tolerance"] for spec in (run.get("plan") or {}).get("enforce") or ()}


def combine(verdicts: list[str]) -> str:
    """The verdict over several."""
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts and all(verdict == "pass" for verdict in verdicts) else "inconclusive"


def _required(folder: Path, part: str, schema: str) -> Json:
    content = read_part(folder / f"{part}.json", schema)
    if content is None:
        raise InputError(f"folder: {folder.name!r} holds no {part}.json; name the folder of a finished run")
    return content


def _assemble(
    run: Json, audit: Json, after: Json | None, *, comparison: Json | None, timing: Json | None
) -> ReportDocument:
    rows = _rows(audit, after, enforced_tolerances(run))
    judged = [row.after.verdict for row in rows if row.after is not None and row.enforced]
    plan = run.get("plan") or {}
    return ReportDocument(
        title=str(plan.get("name") or (run.get("data") or {}).get("name") or "Audit"),
        verdict=audit["verdict"],
        after_verdict=None if after is None else combine(judged) if judged else after["verdict"],
        criteria=rows,
        decisions=_decision_pairs(audit, after),
        run=run,
        audit=audit,
        after=after,
        comparison=comparison,
        timing=timing,
    )


def _rows(audit: Json, after: Json | None, enforced: dict[str, float]) -> tuple[CriterionRow, ...]:
    later = {criterion_key(finding["criterion"]): finding for finding in (after or {}).get("findings", ())}
    rows = []
    for finding in audit["findings"]:
        criterion = finding["criterion"]
        match = later.get(criterion_key(criterion))
        rows.append(
            CriterionRow(
                name=criterion["name"],
                criterion=criterion,
                tolerance=criterion["tolerance"],
                enforced_tolerance=enforced.get(criterion["name"]),
                before=_outcome(finding),
                after=None if match is None else _outcome(match),
            )
        )
    return tuple(rows)


def _outcome(finding: Json) -> Outcome:
    interval = finding["interval"]
    return Outcome(
        verdict=finding["verdict"],
        gap=finding["gap"],
        interval=None if interval is None else (interval[0], interval[1]),
        reason=finding["reason"],
        rows_needed=finding["rows_needed"],
        rows_by_group=finding["rows_by_group"],
        corrected_gap=finding["corrected_gap"],
        detectable_gap=finding["detectable_gap"],
        cells=tuple(finding["cells"]),
        gaps=tuple(finding["gaps"]),
    )


def _decision_pairs(audit: Json, after: Json | None) -> tuple[DecisionPair, ...]:
    later = {_table_key(table): table for table in (after or {}).get("decisions", ())}
    return tuple(
        DecisionPair(tuple(table["attributes"]), _in_words(table["output"]), table, later.get(_table_key(table)))
        for table in audit["decisions"]
    )


def _table_key(table: Json) -> tuple[Any, ...]:
    return tuple(table["attributes"]), table["output"]


def _in_words(output: Any) -> str | None:
    return None if output is None else value_in_words(output)
