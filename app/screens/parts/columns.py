"""Which column of an uploaded table plays which part."""

from __future__ import annotations

import streamlit as st

import auditkit as ak

from . import words
from .session import Json, Workspace, errors_shown, kept
from .uploads import Table

NONE = "(none)"
MOST_GROUPS = 30
AS_NUMBERS = "(as numbers)"


def choose(space: Workspace, table: Table) -> tuple[list[str], list[str], bool]:
    """Let the visitor assign the columns.

    Returns:
        Names that criteria may protect, names they may be given, and whether the outcome is known.
    """
    score = kept(
        st.selectbox, "Score", key=space.key("score"), default=_guess(table, ("score", "prob", "pred")),
        options=list(table.numeric), help="The model's output, one number per row.",
    )  # fmt: skip
    few = [name for name, values in table.levels.items() if len(values) <= MOST_GROUPS and name != score]
    attributes = kept(
        st.multiselect, "Protected attributes", key=space.key("attributes"), default=[], options=few,
        help=f"Columns with at most {MOST_GROUPS} different values.",
    )  # fmt: skip
    banded = _choose_bands(space, [name for name in table.numeric if name != score and name not in attributes])
    label = _choose_label(space, table, score)
    used = {score, label, *attributes}
    strata = kept(
        st.multiselect, "Legitimate conditions (strata)", key=space.key("strata"), default=[],
        options=[name for name in few if name not in used],
    )  # fmt: skip
    kept(
        st.multiselect, "Numeric features", key=space.key("features"), default=[],
        options=[name for name in table.numeric if name not in used],
        help="Frozen features of the model. Needed to tune a head (page Enforce); an audit does without.",
    )  # fmt: skip
    return [*attributes, *banded], list(strata), label is not None


def _choose_bands(space: Workspace, numeric: list[str]) -> list[str]:
    """Numeric columns cut into bands, such as age; returns the names of the new attributes."""
    chosen = kept(
        st.multiselect, "Numbers to cut into bands", key=space.key("banded"), default=[], options=numeric,
        help="An attribute such as age, compared in bands.",
    )  # fmt: skip
    bands: Json = {}
    for name in chosen:
        text = kept(
            st.text_input, f"Inner edges of {words.plain(name)}", key=space.key(f"edges-{name}"), default="",
            placeholder="25, 45, 65", help="Every band holds its lower edge.",
        )  # fmt: skip
        with errors_shown():
            bands[f"{name} band"] = {"column": name, "bins": parse_edges(name, text)}
    space.memory[space.key("bands")] = bands
    return list(bands)


def parse_edges(name: str, text: str) -> list[float]:
    """Edges as they were typed.

    Raises:
        AuditkitError: They are not increasing numbers.
    """
    try:
        edges = [float(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError:
        edges = []
    if not edges or sorted(set(edges)) != edges:
        raise ak.AuditkitError(f"the edges of {name} must be increasing numbers, such as 25, 45, 65")
    return edges


def _choose_label(space: Workspace, table: Table, score: str | None) -> str | None:
    options = [NONE, *(name for name in table.columns if name != score and name in {*table.levels, *table.numeric})]
    name = kept(
        st.selectbox, "Outcome (optional)", key=space.key("label-choice"), default=NONE, options=options,
        help="Needed for equalized odds, equal opportunity, residuals, and for enforcing anything.",
    )  # fmt: skip
    label = None if name == NONE else str(name)
    space.memory[space.key("label")] = label
    values = table.levels.get(label or "", (0, 1))
    if label is not None and not set(values) <= {0, 1}:
        options = [*([AS_NUMBERS] if label in table.numeric else []), *values]
        positive = kept(
            st.selectbox, "Outcome value that counts as positive", key=space.key(f"positive-of-{label}"),
            default=options[0] if label in table.numeric else options[-1], options=options,
        )  # fmt: skip
        space.memory[space.key(f"positive-{label}")] = None if positive == AS_NUMBERS else positive
    return label


def _guess(table: Table, hints: tuple[str, ...]) -> str:
    return next((name for name in table.numeric if any(hint in name.lower() for hint in hints)), table.numeric[-1])
