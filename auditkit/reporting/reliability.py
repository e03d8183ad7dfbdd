"""Reliability curves of a report: what happened against what was predicted, group by group."""

from __future__ import annotations

import plotly.graph_objects as go

from auditkit.reporting.charts import METHOD_COLOURS, MUTED, SYMBOLS, Chart, hover_text, make_chart, set_style
from auditkit.reporting.document import Json
from auditkit.reporting.wording import count, number

_ROWS = 7
_MOST_GROUPS = 5
_LEAST_ROWS = 10
"""Bins of fewer rows are left to the table: their outcomes jump from 0 to 1 and hide the curves."""


def reliability_chart(table: Json, *, key: str) -> Chart:
    """Mean outcome against mean score by bin of the score, a curve for every group; on the diagonal they agree.

    Args:
        table: A reliability table of audit.json.
        key: The chart's id.

    Returns:
        The chart of the largest groups, without the bins of fewer than ten rows.
    """
    groups = sorted(table["groups"], key=lambda group: -group["count"])[:_MOST_GROUPS]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="calibrated", hoverinfo="skip", line={"color": MUTED, "dash": "dot"}
    )
    for place, group in enumerate(groups):
        figure.add_trace(_curve(group, place))
    set_style(figure)
    figure.update_xaxes(title_text="mean score of the bin", range=[-0.02, 1.02])
    figure.update_yaxes(title_text="mean outcome", range=[-0.02, 1.02])
    figure.update_layout(margin={"l": 64})
    shown = (
        f"the {len(groups)} largest of {len(table['groups'])} groups, " if len(groups) < len(table["groups"]) else ""
    )
    words = "; ".join(f"{group['group']} {number(group['calibration_error'])}" for group in groups)
    title = f"Reliability by {' × '.join(table['attributes'])}: {shown}bins of at least {_LEAST_ROWS} rows"
    return make_chart(figure, key, title, f"Calibration error of every group: {words}.", rows=_ROWS)


def _curve(group: Json, place: int) -> go.Scatter:
    bins, colour = [each for each in group["bins"] if each["count"] >= _LEAST_ROWS], METHOD_COLOURS[place]
    # the interval is of outcome less score; around the outcome it is the same interval moved by the score
    below = [each["mean_label"] - each["mean_score"] - each["interval"][0] for each in bins]
    above = [each["interval"][1] - each["mean_label"] + each["mean_score"] for each in bins]
    return go.Scatter(
        x=[each["mean_score"] for each in bins],
        y=[each["mean_label"] for each in bins],
        mode="lines+markers",
        name=hover_text(group["group"]),
        line={"color": colour, "width": 1.5},
        marker={"color": colour, "symbol": SYMBOLS[place], "size": 8},
        error_y={
            "type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": colour, "thickness": 1,
            "width": 0,
        },
        hovertext=[
            hover_text(
                f"{group['group']}: score {number(each['mean_score'])}, outcome {number(each['mean_label'])}, "
                f"{count(each['count'])} rows"
            )
            for each in bins
        ],
        hoverinfo="text",
    )  # fmt: skip
