"""`load_document`: the files of a run's folder, arranged as a report; no figure of the audit is computed here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pydantic

from auditkit.auditing import SCHEMA as AUDIT_SCHEMA
from auditkit.errors import InputError, SchemaError
from auditkit.groups import value_in_words
from auditkit.reporting import facts, wording
from auditkit.reporting.document import (
    RUN_SCHEMA,
    SCHEMA,
    CriterionRow,
    DecisionPair,
    Json,
    Outcome,
    ReportDocument,
    combine,
    criterion_key,
    enforced_tolerances,
)
from auditkit.reporting.regulation import fill_template
from auditkit.reporting.sections import Paragraph

STREAM_FIGURES = "stream.json"
FRONTIER = "frontier.json"
PROJECTION = "projection.json"
PROJECTION_SCHEMA = "auditkit.projection/1"


def load_document(folder: str | Path, *, templates: Sequence[str] = ()) -> ReportDocument:
    """Read the files of a run's folder.

    Args:
        folder: Holds run.json and audit.json, and may hold audit_after.json, comparison.json, timing.json,
            projection.json, stream.json and frontier.json.
        templates: Names of the regulatory templates to fill in; empty takes those of the audit file.

    Returns:
        The document.

    Raises:
        InputError: The folder or one of its two necessary files is missing, or there is no such template.
        SchemaError: A file is not JSON, or not of the version that this release reads.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"folder: there is no folder {str(folder)!r}; name the folder of a run")
    run = _required(place, "run", RUN_SCHEMA)
    audit = _required(place, "audit", AUDIT_SCHEMA)
    after = read_part(place / "audit_after.json", AUDIT_SCHEMA)
    try:
        document = _assemble(
            run,
            audit,
            after,
            comparison=read_part(place / "comparison.json", "auditkit.comparison/2"),
            timing=read_part(place / "timing.json", None),
            stream=read_part(place / STREAM_FIGURES, None),
        )
        frontier = read_part(place / FRONTIER, "auditkit.frontier/1")
        projection = read_part(place / PROJECTION, PROJECTION_SCHEMA)
        return _complete(replace(document, frontier=frontier, projection=projection), templates)
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
        raise SchemaError(f"{path.name} is not JSON ({error}): it was changed or cut short; run again") from error
    if not isinstance(content, dict):
        raise SchemaError(f"{path.name} must hold a JSON object; got {type(content).__name__}")
    if schema is not None and content.get("schema") != schema:
        raise SchemaError(f"{path.name} has schema {content.get('schema')!r}; this release reads {schema!r}")
    return content


def read_document(text: str | bytes) -> ReportDocument:
    """A report from its JSON; what is rendered from it is the same as from the run's folder.

    Args:
        text: The content of report.json.

    Returns:
        The document.

    Raises:
        SchemaError: It is not a report, or of another version.
    """
    try:
        document = _adapter().validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SchemaError(f"this is no report of schema {SCHEMA!r}: {place}: {first['msg']}") from error
    if document.schema != SCHEMA:
        raise SchemaError(f"the report has schema {document.schema!r}; this release reads {SCHEMA!r}")
    return document


def report_schema() -> Json:
    """The JSON Schema of report.json."""
    schema = _adapter().json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA, **schema}


@cache
def _adapter() -> pydantic.TypeAdapter[ReportDocument]:
    return pydantic.TypeAdapter(ReportDocument)


def _complete(document: ReportDocument, templates: Sequence[str]) -> ReportDocument:
    """The document with the parts that are words about the others."""
    wanted = templates or facts.report_options(document).get("templates") or ()
    document = replace(
        document,
        representation=facts.describe_representation(document),
        plan=facts.describe_plan(document.audit),
        methods=facts.describe_methods(document),
        guarantee=facts.describe_guarantee(document.run.get("calibration")),
        limitations=facts.describe_limitations(document),
        glossary=facts.GLOSSARY,
        summary=tuple(Paragraph(*part) for part in wording.summary(document)),
    )
    return replace(document, regulations=tuple(fill_template(name, document) for name in dict.fromkeys(wanted)))


def _required(folder: Path, part: str, schema: str) -> Json:
    content = read_part(folder / f"{part}.json", schema)
    if content is None:
        raise InputError(f"folder: {folder.name!r} holds no {part}.json; name the folder of a finished run")
    return content


def _assemble(
    run: Json,
    audit: Json,
    after: Json | None,
    *,
    comparison: Json | None,
    timing: Json | None,
    stream: Json | None,
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
        stream=stream,
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
