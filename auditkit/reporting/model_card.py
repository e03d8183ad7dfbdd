"""`render_model_card`: the run as a model card, Markdown with YAML front matter.

The front matter has the fields that model hubs read (licence, tags, data sets, results by metric); below it stand
details, data, metrics by group with intervals, and considerations. What the audit file does not say is not stated.
"""

from __future__ import annotations

from typing import Any

import yaml

from auditkit.reporting import wording
from auditkit.reporting.document import Json, ReportDocument
from auditkit.reporting.facts import report_fact
from auditkit.reporting.markdown import escape, table

_RATES = ("selection_rate", "true_positive_rate", "false_positive_rate", "accuracy")


def render_model_card(document: ReportDocument) -> str:
    """The model card of a run.

    Args:
        document: The run.

    Returns:
        Markdown with YAML front matter; what comes from the data is escaped.
    """
    matter = yaml.safe_dump(_front_matter(document), sort_keys=False, allow_unicode=True, width=120)
    name = (document.run.get("model") or {}).get("name") or document.title
    lines = [f"---\n{matter}---", "", f"# {escape(name)}", "", *_details(document), "", *_data(document)]
    lines += ["", *_metrics(document), "", *_considerations(document)]
    return "\n".join([*lines, ""])


def _front_matter(document: ReportDocument) -> Json:
    model, data = document.run.get("model") or {}, document.run.get("data") or {}
    result = {
        "task": {"type": model.get("task") or "scoring"},
        "dataset": {"name": data.get("name"), "type": "tabular", "revision": data.get("sha256")},
        "metrics": [_metric(*entry) for entry in _entries(document)],
    }
    content: dict[str, Any] = {
        "license": report_fact(document, "license"),
        "tags": ["fairness-audit"],
        "datasets": [data.get("name")],
        "model-index": [{"name": model.get("name") or document.title, "results": [result]}],
    }
    return {key: value for key, value in content.items() if value is not None}


def _metric(kind: str, part: str, value: float, ends: Any) -> Json:
    metric: Json = {"type": kind, "name": f"{kind}, {part}", "value": value}
    if ends is not None:
        metric["args"] = {"confidence_interval": [float(end) for end in ends if end is not None]}
    return metric


def _entries(document: ReportDocument) -> list[tuple[str, str, float, Any]]:
    """Every metric: its type, its slice, its value and its interval; after mitigation where there is one."""
    entries: list[tuple[str, str, float, Any]] = []
    for row in document.criteria:
        outcome = row.after or row.before
        if outcome.gap is not None:
            entries.append(("largest gap", row.name, outcome.gap, outcome.interval))
    for pair in document.decisions:
        for group in (pair.after or pair.before)["groups"]:
            part = f"{' × '.join(pair.attributes)} = {group['group']}"
            known = [rate for rate in _RATES if group[rate] is not None]
            entries += [(rate.replace("_", " "), part, group[rate], group["intervals"].get(rate)) for rate in known]
    return entries


def _stated(document: ReportDocument, name: str) -> str:
    text = report_fact(document, name)
    return "not stated" if text is None else escape(text)


def _details(document: ReportDocument) -> list[str]:
    model = document.run.get("model") or {}
    fingerprint = f"`{model['fingerprint']}`" if model else "no model was loaded; the table holds its scores"
    return [
        "## Model details",
        "",
        f"- Version: {_stated(document, 'version')}",
        f"- Owner: {_stated(document, 'owner')}; contact: {_stated(document, 'contact')}",
        f"- Licence: {_stated(document, 'license')}",
        f"- Fingerprint: {fingerprint}",
        f"- Changed by this run: {'a new last layer, with corrections' if document.after is not None else 'nothing'}",
    ]


def _data(document: ReportDocument) -> list[str]:
    data = document.run.get("data") or {}
    lines = [
        "## Data",
        "",
        f"- {escape(data.get('name') or '')}, {wording.count(data.get('rows'))} rows, SHA-256 `{data.get('sha256')}`",
        f"- Where they come from: {_stated(document, 'data_explanation')}",
        f"- Sensitive attributes: {escape(', '.join(each.attribute for each in document.representation)) or 'none'}",
    ]
    for each in document.representation:
        rows = [[escape(g.value), wording.count(g.rows), wording.percent(g.share)] for g in each.groups]
        lines += ["", *table([escape(each.attribute), "rows", "share"], rows)]
    return lines


def _metrics(document: ReportDocument) -> list[str]:
    when = "after mitigation" if document.after is not None else "of the model as found"
    rows = [
        [kind, escape(part), wording.number(value), escape(wording.interval(ends))]
        for kind, part, value, ends in _entries(document)
    ]
    confidence = wording.percent(document.audit["confidence"], 0)
    note = f"Figures {when}. Intervals of gaps hold together with {confidence} confidence, those of rates one by one."
    return ["## Metrics", "", note, "", *table(["type", "slice", "value", "interval"], rows, text=2)]


def _considerations(document: ReportDocument) -> list[str]:
    lines = ["## Considerations", ""]
    for title, name in (
        ("Users", "users"),
        ("Use cases", "intended_use"),
        ("Out of scope", "out_of_scope"),
        ("Trade-offs", "trade_offs"),
        ("Risks for people, and mitigation", "ethics"),
    ):
        lines.append(f"- **{title}**: {_stated(document, name)}")
    lines += ["", "### Limitations", ""]
    return [*lines, *(f"- **{escape(part.heading)}**: {escape(part.text)}" for part in document.limitations)]
