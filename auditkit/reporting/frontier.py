"""The frontier of a report: what every tolerance costs, from the frontier.json beside a run."""

from __future__ import annotations

import plotly.graph_objects as go

from auditkit.reporting.charts import AFTER, BEFORE, Chart, hover_text, make_chart, set_style
from auditkit.reporting.document import Json
from auditkit.reporting.wording import number, tolerance

_ROWS = 6


def frontier_chart(frontier: Json | None) -> Chart | None:
    """Quality against the tolerance that the head was trained for.

    Args:
        frontier: The content of frontier.json.

    Returns:
        The chart; None without a frontier.
    """
    if frontier is None or not frontier["points"]:
        return None
    points = sorted(frontier["points"], key=lambda point: point["tolerance"])
    hovers = [f"ε {tolerance(p['tolerance'])}: {number(p['quality'])}, gap {number(p['gap'])}" for p in points]
    figure = go.Figure()
    figure.add_scatter(
        x=[point["tolerance"] for point in points],
        y=[point["quality"] for point in points],
        mode="lines+markers",
        name=frontier["measure"],
        line={"color": AFTER, "width": 1.5},
        marker={"color": BEFORE, "size": 9, "symbol": "circle"},
        hovertext=[hover_text(text) for text in hovers],
        hoverinfo="text",
    )
    set_style(figure)
    figure.update_xaxes(title_text="tolerance ε that the head was trained for")
    figure.update_yaxes(title_text=frontier["measure"])
    figure.update_layout(margin={"l": 64}, showlegend=False)
    title = f"{frontier['measure'].capitalize()} against the tolerance"
    return make_chart(figure, "frontier", title, f"{title}: {'; '.join(hovers)}.", rows=_ROWS)
