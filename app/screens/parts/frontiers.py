"""Accuracy against the tolerance: of every method that was compared, and of the tuned head by itself."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from . import charts, words
from .session import Json, Workspace, kept

LEVELS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2)


def choose_levels(space: Workspace) -> None:
    """The further tolerances; the pages Enforce and Compare ask for them alike."""
    kept(
        st.multiselect, "Do it again at these tolerances", key=space.key("frontier"), default=[], options=list(LEVELS),
        help="All enforced criteria at that ε: what is tuned or compared is fitted once more for each, and its "
        "accuracy is drawn against ε.",
    )  # fmt: skip


def show_methods(comparison: Json) -> None:
    """Every method at every further tolerance of comparison.json."""
    titles = {method["name"]: method["title"] for method in comparison["methods"]}
    rows = [
        _method_row(titles[method["name"]], level["tolerance"], method)
        for level in sorted(comparison["frontier"], key=lambda level: level["tolerance"])
        for method in level["methods"]
    ]
    if not rows:
        return
    st.header("Accuracy against the tolerance")
    frame = pd.DataFrame(rows)
    text = f"Accuracy against the tolerance that all enforced criteria were held to. {_in_words(frame, 'accuracy')}."
    charts.draw(charts.against_tolerance(frame, "accuracy"), key="frontier", words_for_it=text, data=frame)


def show_head(frontier: Json) -> None:
    """The tuned head at every tolerance of frontier.json."""
    measure = frontier["measure"]
    rows = [
        {
            "method": "Tuned head, projected",
            "ε": point["tolerance"],
            measure: point["quality"],
            "largest gap": point["gap"],
            "largest gap of the head itself": point["head_gap"],
            "loss": point["loss"],
        }
        for point in sorted(frontier["points"], key=lambda point: point["tolerance"])
    ]
    frame = pd.DataFrame(rows)
    gaps = "; ".join(f"{words.number(row['largest gap of the head itself'])} at {row['ε']:g}" for row in rows)
    text = (
        f"{measure[0].upper()}{measure[1:]} of heads, each tuned at one tolerance and projected on the test rows. "
        f"{_in_words(frame, measure)}. The largest gap of the heads themselves, before the projection: {gaps}."
    )
    charts.draw(charts.against_tolerance(frame, measure), key="head-frontier", words_for_it=text, data=frame)


def _method_row(title: str, tolerance: float, method: Json) -> Json:
    """Gaps of scores, or of decisions where there are no scores."""
    accuracy = method["utility"].get("accuracy") or {}
    row = {"method": title, "ε": tolerance, "accuracy": accuracy.get("value")}
    row |= {"accuracy low": accuracy.get("low"), "accuracy high": accuracy.get("high")}
    gaps = method["score_gaps"] or method["decision_gaps"]
    return row | {f"gap {gap['criterion']}": gap["gap"] for gap in gaps} | {"error": method["error"]}


def _in_words(frame: pd.DataFrame, measure: str) -> str:
    said = words.percent if measure == "accuracy" else words.number
    points = [
        f"{title}: "
        + ", ".join(f"{said(value)} at {level:g}" for level, value in zip(mine["ε"], mine[measure], strict=True))
        for title, mine in frame.dropna(subset=[measure]).groupby("method", sort=False)
    ]
    return "; ".join(points)
