"""The frontiers of a report: what every tolerance costs, of one head (frontier.json) and of every method compared."""

from __future__ import annotations

import plotly.graph_objects as go

from auditkit.reporting.charts import (
    AFTER,
    BEFORE,
    METHOD_COLOURS,
    SYMBOLS,
    Chart,
    hover_text,
    make_chart,
    set_style,
)
from auditkit.reporting.document import Json
from auditkit.reporting.wording import number, percent, tolerance

_ROWS, _METHOD_ROWS = 6, 8
_DASHES = ("solid", "dash", "dot", "dashdot")


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
    return make_chart(figure, "head-frontier", title, f"{title}: {'; '.join(hovers)}.", rows=_ROWS)


def comparison_frontier_chart(comparison: Json | None) -> Chart | None:
    """Accuracy of every method against the tolerance that all criteria were enforced at.

    Args:
        comparison: The content of comparison.json.

    Returns:
        The chart; None without further tolerances, or where no method has an accuracy at one.
    """
    levels = sorted((comparison or {}).get("frontier") or [], key=lambda level: level["tolerance"])
    titles = (
        {} if comparison is None else {one["name"]: one.get("title") or one["name"] for one in comparison["methods"]}
    )
    figure, words = go.Figure(), []
    for place, (name, title) in enumerate(titles.items()):
        points = [
            (level["tolerance"], accuracy)
            for level in levels
            for method in level["methods"]
            if method["name"] == name and (accuracy := (method.get("utility") or {}).get("accuracy"))
        ]
        if points:
            figure.add_trace(_method_line(title, points, place))
            words.append(f"{title}: " + ", ".join(f"{percent(a['value'])} at ε {tolerance(e)}" for e, a in points))
    if not words:
        return None
    set_style(figure)
    figure.update_xaxes(title_text="tolerance ε of all enforced criteria", rangemode="tozero")
    figure.update_yaxes(title_text="accuracy", tickformat=".1%")
    figure.update_layout(margin={"l": 64, "b": 56}, legend={"y": -0.26, "yanchor": "top"}, showlegend=True)
    title = "Accuracy of every method against the tolerance"
    return make_chart(figure, "method-frontier", title, f"{title}. {'; '.join(words)}.", rows=_METHOD_ROWS)


def _method_line(title: str, points: list[tuple[float, Json]], place: int) -> go.Scatter:
    colour = METHOD_COLOURS[place % len(METHOD_COLOURS)]
    return go.Scatter(
        x=[epsilon for epsilon, _ in points],
        y=[accuracy["value"] for _, accuracy in points],
        mode="lines+markers",
        name=hover_text(title),
        line={"color": colour, "width": 1.5, "dash": _DASHES[place % len(_DASHES)]},
        marker={"color": colour, "size": 9, "symbol": SYMBOLS[place % len(SYMBOLS)]},
        hovertext=[
            hover_text(
                f"{title}<br>ε {tolerance(e)}: {percent(a['value'])} [{percent(a['low'])}, {percent(a['high'])}]"
            )
            for e, a in points
        ],
        hoverinfo="text",
    )
