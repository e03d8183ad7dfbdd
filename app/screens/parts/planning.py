"""From what the visitor chose to a checked audit file."""

from __future__ import annotations

from typing import Any

import streamlit as st

import auditkit as ak

from .session import Json, Workspace, sample_plan
from .uploads import Table, describe

SAMPLE_NAME = "Adult income"


@st.cache_data(show_spinner=False)
def sample_table() -> Table:
    """The bundled sample's columns; the same for every visitor."""
    import pandas as pd

    config = ak.sample_config()
    data = ak.load_table(config.data_path, **config.table_options())
    assert data.features is not None
    return describe("sample", pd.concat([data.attributes, data.features], axis=1))


def build(space: Workspace, *, enforce: bool = False) -> ak.AuditFile:
    """The audit file of what was chosen.

    Args:
        space: The visitor's workspace.
        enforce: Whether to add what only tuning and comparing need.

    Raises:
        AuditkitError: Something is missing or does not fit together.
    """
    return ak.make_config(values(space, enforce=enforce), folder=space.folder)


def values(space: Workspace, *, enforce: bool = False) -> Json:
    """The keys of that audit file."""
    content = _sample_values(space) if space.source == "sample" else _table_values(space)
    if not space.criteria:
        raise ak.AuditkitError("the plan has no criterion yet; add one below")
    content |= {
        "criteria": space.criteria,
        "threshold": _rule(space) if space.recall("decide", True) else None,
        "confidence": space.recall("confidence", 0.95),
        "seed": int(space.recall("seed", 0)),
    }
    return content | _enforcement(space) if enforce else content


def _rule(space: Workspace) -> float | str:
    """What makes a decision positive, as an audit file says it."""
    rule = space.recall("rule", "threshold")
    if rule == "top":
        return f"top {space.recall('top', 10.0):g}%"
    return rule if rule == "median" else space.recall("threshold", 0.5)


def enforced_default(space: Workspace) -> list[int]:
    """Positions of the criteria that are enforced unless the visitor says otherwise."""
    if space.source == "sample" and space.criteria == sample_plan()["criteria"]:
        wanted = sample_plan()["enforce"]
        return [place for place, spec in enumerate(space.criteria) if spec in wanted]
    built = [place for place, criterion in enumerate(build(space).build_criteria()) if not criterion.needs_labels]
    return built or list(range(len(space.criteria)))


def _enforcement(space: Workspace) -> Json:
    chosen = space.recall("enforce")
    places = enforced_default(space) if chosen is None else chosen
    extra: Json = {
        "enforce": [space.criteria[place] for place in places if place < len(space.criteria)],
        "tune": {"epochs": int(space.recall("epochs", 300))},
    }
    extra |= {"frontier": sorted(levels)} if (levels := space.recall("frontier")) else {}
    methods = space.recall("methods")
    return extra | ({"methods": list(methods)} if methods else {})


def _sample_values(space: Workspace) -> Json:
    plan = sample_plan()
    data = {**plan["data"], "strata": list(space.recall("strata", []))}
    return {"name": plan["name"], "data": data, "model": plan["model"]}


def _table_values(space: Workspace) -> Json:
    table = space.table
    if table is None:
        raise ak.AuditkitError("no table was uploaded yet; choose one above, or the bundled sample")
    attributes = [*space.recall("attributes", []), *({name: rule} for name, rule in space.recall("bands", {}).items())]
    data: dict[str, Any] = {"path": table.file_name, "attributes": attributes}
    data |= {"strata": list(space.recall("strata", [])), "score": space.recall("score")}
    label = space.recall("label")
    if label is not None:
        data["label"] = label
        positive = space.recall(f"positive-{label}")
        data |= {} if positive is None else {"positive_label": positive}
    features = list(space.recall("features", []))
    data |= {"features": features} if features else {}
    if data["score"] is None:
        raise ak.AuditkitError("no column of scores was chosen yet")
    return {"name": table.file_name.rpartition(".")[0], "data": data}
