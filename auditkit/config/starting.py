"""A first audit file for a table, its roles guessed from its columns; and an audit of a table by options alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditkit._tables import TABLE_SUFFIXES
from auditkit.config.audit_file import AuditFile
from auditkit.config.model_lines import comment_text, describe_model, quote_text, relative_path
from auditkit.config.reading import load_config, make_config
from auditkit.engines import ColumnSummary, summarize_table
from auditkit.errors import InputError

if TYPE_CHECKING:
    from auditkit.models.inspection import ModelSketch

_ATTRIBUTES = r"sex|gender|race|ethnicity|ethnic|religion|disability|nationality|age|age_?(band|group)|marital.?status"
_LABELS = r"label|target|outcome|y|y_?true|class|income.*|hired|approved|default(ed)?|income_over_50k"
_SCORES = r"score|scores|prob|probability|y_?score|prediction|y_?pred|p"
_DATA_OPTIONS = ("score", "label", "positive_label", "weight", "decision", "cluster", "engine")
_MOST_VALUES = 20
_AGE_BINS = [25, 40, 55]
_THRESHOLD = "threshold: 0.5   # scores from it are positive decisions; or median, top 100, top 5%; null states none"


def config_for_table(table: Path, *, folder: Path, model: ModelSketch | None = None) -> str:
    """A commented audit file for a table, to be checked by whoever knows the columns.

    Args:
        table: Where the table lies; its columns are summarised there, it is not loaded.
        folder: Where the audit file will lie; paths are written relative to it.
        model: The model that scores the table; None where the table holds scores, or the model is not known.

    Returns:
        YAML that `auditkit.config.load_config` accepts once the guesses are right.

    Raises:
        InputError: The table cannot be read, or no column looks like a protected attribute.
    """
    roles = (_ATTRIBUTES, _LABELS, _SCORES)
    columns, found = summarize_table(table, lambda name: any(_is(name, pattern) for pattern in roles))
    label = next((name for name in found if _is(name, _LABELS) and found[name].distinct == 2), None)
    scored = [name for name in found if _is(name, _SCORES) and found[name].kind == "number"]
    score = None if model is not None else next(iter(scored), None)
    candidates = {name: _attribute(name, summary) for name, summary in found.items() if name not in (label, score)}
    attributes = {name: spec for name, spec in candidates.items() if spec}
    if not attributes:
        raise InputError(
            f"{table.name} has no column that looks like a protected attribute ({', '.join(columns[:12])}); "
            "start from `auditkit init` and name it in data.attributes"
        )
    path = relative_path(table, folder)
    outcome = None if label is None else found[label]
    if model is None:
        scoring = _scores(score)
    else:
        plain = [name for name, spec in attributes.items() if not spec.startswith("{")]
        scoring = describe_model(model, folder, columns=columns, taken=[*plain, label])
    head, roles = _head(table, path, columns, attributes), _outcome(label, outcome)
    return "\n".join([*head, *roles, *scoring, *_tail(attributes, label)])


def config_for_model(model: ModelSketch, *, folder: Path) -> str:
    """A commented audit file for a model whose table is yet to be named.

    Args:
        model: What the model says about itself.
        folder: Where the audit file will lie.

    Returns:
        YAML with the model, and the columns that it reads as the data's features.
    """
    named = [name for name in model.columns if _is(name, _ATTRIBUTES) and not _is(name, "age")] or ["sex"]
    attributes = {name: quote_text(name) for name in named}
    return "\n".join(
        [
            f"# Made from {comment_text(model.spec)} alone; name the table and its protected attributes.",
            f"name: {quote_text(Path(model.spec).stem)}",
            "data:",
            "  path: table.csv   # csv, parquet or arrow, relative to this file",
            f"  attributes: [{', '.join(attributes.values())}]   # protected columns of the table",
            *_outcome(None, None),
            *describe_model(model, folder),
            *_tail(attributes, None),
        ]
    )


def load_request(path: str | Path, options: Mapping[str, Any]) -> AuditFile:
    """What to audit: an audit file, or a table of predictions with its roles as options.

    Args:
        path: An audit file, or a table (or a pattern of tables) that is audited without one.
        options: For a table: ``score`` (columns), ``attributes``, and where wanted ``strata``, ``label``,
            ``positive_label``, ``criteria`` (families), ``tolerance``, ``threshold``, ``weight``, ``decision``,
            ``cluster`` and ``engine``. None stands for "not given". The attribute ``sex*race`` crosses two columns.

    Returns:
        The checked audit file.

    Raises:
        InputError: Options with an audit file, which has them inside; a table without score or attributes.
        SchemaError: A key is wrong.
    """
    given = {name: value for name, value in options.items() if value not in (None, [], ())}
    if len(given.get("score", ())) == 1:
        given["score"] = given["score"][0]
    table = Path(path)
    if table.suffix.lower() not in TABLE_SUFFIXES:
        if given:
            shown = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given))
            raise InputError(f"{shown}: only for a table; in {table.name} write it under data, criteria or threshold")
        return load_config(table)
    for name, option in (("score", "--score COLUMN"), ("attributes", "--attributes COLUMN")):
        if name not in given:
            raise InputError(f"{table.name} is a table of predictions: give {option}, or an audit file that names it")
    return make_config(_table_request(table, given))


def _table_request(table: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    crossed = [tuple(part.strip() for part in text.split("*")) for text in given["attributes"]]
    strata = list(given.get("strata", ()))
    families = given.get("criteria") or ["ECP"]
    tolerance = given.get("tolerance", 0.05)
    criteria = [
        {"family": family, "attributes": names, "tolerance": tolerance, **_given(family, strata)}
        for family in families
        for names in crossed
    ]
    data = {
        "path": str(table),
        "attributes": list(dict.fromkeys(name for names in crossed for name in names)),
        "strata": strata,
        **{name: given[name] for name in _DATA_OPTIONS if name in given},
    }
    threshold = {"threshold": given["threshold"]} if "threshold" in given else {}
    return {"name": table.stem, "data": data, "criteria": criteria, **threshold}


def _given(family: str, strata: list[str]) -> dict[str, Any]:
    return {"given": strata} if strata and family in ("ECP", "EER") else {}


def _is(name: str, pattern: str) -> bool:
    return re.fullmatch(pattern, name, flags=re.IGNORECASE) is not None


def _attribute(name: str, summary: ColumnSummary) -> str:
    """How the audit file names an attribute: the column, or bands of it; empty when it does not look like one."""
    if not _is(name, _ATTRIBUTES):
        return ""
    if summary.kind in ("integer", "number") and summary.distinct > _MOST_VALUES:
        return f"{{{quote_text(name + '_band')}: {{column: {quote_text(name)}, bins: {_AGE_BINS}}}}}"
    return quote_text(name) if summary.distinct > 1 else ""


def _head(table: Path, path: str, columns: list[str], attributes: dict[str, str]) -> list[str]:
    return [
        f"# Roles guessed from the columns of {comment_text(table.name)}; check every line before you look at results.",
        f"# Columns: {comment_text(', '.join(columns))}",
        f"name: {quote_text(table.stem)}",
        "data:",
        f"  path: {quote_text(path)}",
        f"  attributes: [{', '.join(attributes.values())}]   # protected",
        "  # inferred ones are columns of probabilities: {race: {probabilities: {white: p_white, black: p_black}}}",
    ]


def _outcome(label: str | None, outcome: ColumnSummary | None) -> list[str]:
    lines = ["  # label: outcome               # needed by equalized_odds, equal_opportunity and EER"]
    if label is not None and outcome is not None:
        lines = [f"  label: {quote_text(label)}"]
        if outcome.kind in ("text", "other"):
            values = str(outcome.lowest), str(outcome.highest)
            lines.append(f"  positive_label: {quote_text(values[-1])}   # of {comment_text(', '.join(values))}")
    return lines


def _scores(score: str | None) -> list[str]:
    if score is None:
        return ["model: model                    # a folder with model.json; or data.score, a column of scores"]
    return [
        f"  score: {quote_text(score)}   # a column of scores; no model is needed",
        "  # score: {cat: p_cat, dog: p_dog}   # or a column per output (class) of a model; labels name the output",
        "  # weight: people               # a column of row weights: how many people a row stands for",
        "  # decision: invited            # a column of the decisions themselves, 0 or 1; then leave threshold out",
        "  # cluster: person              # a column that says whom a row is of, where several rows are of one person",
        "  # engine: duckdb               # or spark; or pandas, which reads the table whole into memory",
    ]


def _tail(attributes: dict[str, str], label: str | None) -> list[str]:
    names = [quote_text(name + "_band") if spec.startswith("{") else spec for name, spec in attributes.items()]
    lines = [f"  - {{family: ECP, attributes: {name}, tolerance: 0.05}}" for name in names]
    if label is not None:
        lines += [f"  - {{family: equalized_odds, attributes: {name}, tolerance: 0.05}}" for name in names]
    return ["criteria:   # tolerance: the largest gap accepted, in score units", *lines, _THRESHOLD, ""]
