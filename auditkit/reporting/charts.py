"""The charts of a report, as Plotly figures in JSON; names from the data are text, never markup.

Colours are those of the light theme; the page's script replaces each by its counterpart where the theme is dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from auditkit.reporting.document import CriterionRow, DecisionPair, Json, Outcome, ReportDocument
from auditkit.reporting.wording import count, interval, number, percent, tolerance

INK, MUTED, GRID, BAND, EDGE = "#1c2733", "#5c6b7a", "#dfe5ea", "#dcebe4", "#4f8f75"
BEFORE, AFTER = "#c05a1a", "#1f5f99"
METHOD_COLOURS = ("#3d4852", "#1f5f99", "#0d8a72", "#9c5bb0", "#c05a1a", "#a88400", "#b8336a", "#5b7f2e")
DARK = {
    INK: "#e8edf2",
    MUTED: "#a3b1be",
    GRID: "#33414e",
    BAND: "#20392f",
    EDGE: "#69b394",
    BEFORE: "#f0955a",
    AFTER: "#74b3ea",
    "#3d4852": "#c3ccd4",
    "#0d8a72": "#3fc4a8",
    "#9c5bb0": "#cf9fe0",
    "#a88400": "#dcba3f",
    "#b8336a": "#f08bb5",
    "#5b7f2e": "#a5cc74",
}
SYMBOLS = ("diamond", "circle", "square", "triangle-up", "x", "star", "cross", "hexagon")
MOST_ROWS = 14
_ROW_PIXELS, _FRAME_PIXELS = 46, 96
_NAME_LENGTH = 56


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        key: Its id in the page.
        title: What it shows.
        description: The same in words, for readers who cannot see it.
        figure: Plotly's figure as JSON-ready values.
        height: In pixels.
    """

    key: str
    title: str
    description: str
    figure: Json
    height: int


@dataclass(frozen=True)
class _Mark:
    """One dot with its interval, on one row."""

    row: int
    value: float
    low: float | None
    high: float | None
    hover: str


def gap_chart(row: CriterionRow, *, key: str) -> Chart | None:
    """Every gap of a criterion with its simultaneous interval, against the band of ±ε; the widest first.

    Args:
        row: The criterion, before and after.
        key: The chart's id.

    Returns:
        The chart; None when there is no gap to draw.
    """
    names = [gap["name"] for gap in sorted(row.before.gaps, key=lambda gap: -abs(gap["gap"]))][:MOST_ROWS]
    if not names:
        return None
    series = [(title, colour, _gap_marks(outcome, names)) for title, colour, outcome in _pair(row.before, row.after)]
    figure = _dot_figure(names, series)
    for edge in (-row.tolerance, row.tolerance):
        figure.add_vline(edge, line={"color": EDGE, "width": 1, "dash": "dot"}, layer="below")
    figure.add_vrect(-row.tolerance, row.tolerance, fillcolor=BAND, line_width=0, layer="below")
    figure.add_vline(0, line={"color": MUTED, "width": 1}, layer="below")
    figure.update_xaxes(title_text=f"gap in score units; shaded: within ±{tolerance(row.tolerance)}")
    shown = (
        f"the {len(names)} widest of {len(row.before.gaps)} gaps" if len(names) < len(row.before.gaps) else "every gap"
    )
    return make_chart(figure, key, f"Gaps of {row.name}: {shown}", _describe_gaps(row), rows=len(names))


def mean_chart(row: CriterionRow, *, key: str) -> Chart | None:
    """What a criterion compares, group by group, with one standard error either way.

    Args:
        row: The criterion, before and after.
        key: The chart's id.

    Returns:
        The chart; None when there is no group to draw.
    """
    names = [_cell_name(cell) for cell in row.before.cells][: 2 * MOST_ROWS]
    if not names:
        return None
    series = [(title, colour, _cell_marks(outcome, names)) for title, colour, outcome in _pair(row.before, row.after)]
    figure = _dot_figure(names, series)
    what = "mean error (outcome − score)" if row.criterion["family"] == "EER" else "mean score"
    figure.update_xaxes(title_text=f"{what}, ± one standard error")
    cells = "; ".join(
        f"{_cell_name(cell)} {number(cell['value'])} ({count(cell['count'])} rows)" for cell in row.before.cells
    )
    description = f"{what.capitalize()} of every group, as found: {cells}."
    return make_chart(figure, key, f"{what.capitalize()} by group", description, rows=len(names))


def rate_chart(pair: DecisionPair, *, key: str) -> Chart | None:
    """Selection rates by group with their intervals; the impact ratio stands beside the name.

    Args:
        pair: The decisions, before and after.
        key: The chart's id.

    Returns:
        The chart; None without groups.
    """
    groups = pair.before["groups"][: 2 * MOST_ROWS]
    if not groups:
        return None
    names = [group["group"] for group in groups]
    after = {group["group"]: group for group in (pair.after or {}).get("groups", ())}
    labels = [
        f"{_short(name)} · ratio {_ratios(group, after.get(name))}" for name, group in zip(names, groups, strict=True)
    ]
    series = [("as found", BEFORE, _rate_marks(groups, names))]
    if after:
        series.append(("after", AFTER, _rate_marks(list(after.values()), names)))
    figure = _dot_figure(labels, series)
    figure.update_xaxes(title_text="share with a positive decision", tickformat=".0%", rangemode="tozero")
    described = "; ".join(f"{group['group']} {percent(group['selection_rate'])}" for group in groups)
    title = f"Selection rates by {' × '.join(pair.attributes)}"
    return make_chart(figure, key, title, f"{title}, as found: {described}.", rows=len(names))


def trade_off_charts(comparison: Json) -> list[Chart]:
    """Accuracy against the gap of every enforced criterion, one chart each, methods as points."""
    charts = []
    for position, criterion in enumerate(comparison["criteria"]):
        chart = _trade_off(comparison["methods"], criterion, key=f"trade-off-{position}")
        charts += [chart] if chart is not None else []
    return charts


def history_chart(document: ReportDocument) -> Chart | None:
    """Loss and gap of the head over the epochs of its tuning; None when no head was tuned."""
    tuning = document.run.get("tuning") or {}
    history = tuning.get("history") or []
    if not history:
        return None
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.12)
    epochs = [record["epoch"] for record in history]
    lines = (("loss", "training", BEFORE, "solid"), ("validation_loss", "validation", AFTER, "dash"))
    gaps = (("gap", "training", BEFORE, "solid"), ("validation_gap", "validation", AFTER, "dash"))
    for place, pairs in ((1, lines), (2, gaps)):
        for name, title, colour, dash in pairs:
            values = [record.get(name) for record in history]
            style = {"color": colour, "dash": dash, "width": 2}
            figure.add_scatter(
                x=epochs, y=values, name=title, line=style, mode="lines", showlegend=place == 1, row=place, col=1
            )
    best = tuning.get("best_epoch")
    if best is not None and best >= 0:  # −1 is the start
        figure.add_vline(best, line={"color": MUTED, "width": 1, "dash": "dot"})
    figure.update_yaxes(title_text="loss", row=1, col=1)
    figure.update_yaxes(title_text="gap before projection", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="epoch; dotted: the one that was kept", row=2, col=1)
    set_style(figure)
    figure.update_layout(margin={"l": 64})
    last = history[-1]
    description = (
        f"In {len(history)} epochs the training loss went from {number(history[0]['loss'])} to {number(last['loss'])} "
        f"and the head's own largest gap from {number(history[0].get('gap'))} to {number(last.get('gap'))}."
    )
    return Chart("history", "Tuning of the head", description, _values(figure), 380)


def _trade_off(methods: Sequence[Json], criterion: Json, *, key: str) -> Chart | None:
    figure, words = go.Figure(), []
    for position, method in enumerate(methods):
        accuracy = (method.get("utility") or {}).get("accuracy")
        gap = next((gap for gap in method["gaps"] if gap["criterion"] == criterion["name"]), None)
        if accuracy and gap is not None and gap["gap"] is not None:
            title = method.get("title") or method["name"]
            words.append(f"{title}: accuracy {percent(accuracy['value'])}, gap {number(gap['gap'])}")
            figure.add_trace(_method_point(title, gap, accuracy, position))
    if not words:
        return None
    figure.add_vrect(0, criterion["tolerance"], fillcolor=BAND, line_width=0, layer="below")
    figure.add_vline(criterion["tolerance"], line={"color": EDGE, "width": 1, "dash": "dot"}, layer="below")
    axis = f"largest gap; shaded: within {tolerance(criterion['tolerance'])}"
    figure.update_xaxes(title_text=axis, rangemode="tozero")
    figure.update_yaxes(title_text="accuracy", tickformat=".1%")
    set_style(figure)
    figure.update_layout(margin={"l": 64, "b": 56}, legend={"y": -0.26, "yanchor": "top"}, showlegend=True)
    name = f"Accuracy against the gap of {criterion['name']}"
    return Chart(key, name, f"{name}. {'; '.join(words)}.", _values(figure), 480)


def _method_point(title: str, gap: Json, accuracy: Json, position: int) -> go.Scatter:
    ends = gap["interval"] or (gap["gap"], gap["gap"])
    colour = METHOD_COLOURS[position % len(METHOD_COLOURS)]
    hover = f"{title}<br>accuracy {percent(accuracy['value'])}<br>gap {number(gap['gap'])} {interval(gap['interval'])}"
    return go.Scatter(
        x=[gap["gap"]],
        y=[accuracy["value"]],
        error_x=_errors([gap["gap"]], [ends[0]], [ends[1]], colour),
        error_y=_errors([accuracy["value"]], [accuracy["low"]], [accuracy["high"]], colour),
        mode="markers",
        name=_plain(title),
        marker={"color": colour, "size": 11, "symbol": SYMBOLS[position % len(SYMBOLS)]},
        hovertext=[hover_text(hover)],
        hoverinfo="text",
    )


def _pair(before: Outcome, after: Outcome | None) -> list[tuple[str, str, Outcome]]:
    pair = [("as found", BEFORE, before)]
    return pair if after is None else [*pair, ("after", AFTER, after)]


def _gap_marks(outcome: Outcome, names: Sequence[str]) -> list[_Mark]:
    gaps = {gap["name"]: gap for gap in outcome.gaps}
    marks = []
    for position, name in enumerate(names):
        if name not in gaps:
            continue
        gap = gaps[name]
        low, high = gap["interval"] or (None, None)
        hover = f"{name}<br>gap {number(gap['gap'])} {interval(gap['interval'])}<br>{gap['verdict']}"
        marks.append(_Mark(position, gap["gap"], low, high, hover))
    return marks


def _cell_marks(outcome: Outcome, names: Sequence[str]) -> list[_Mark]:
    cells = {_cell_name(cell): cell for cell in outcome.cells}
    marks = []
    for position, name in enumerate(names):
        if name not in cells:
            continue
        cell = cells[name]
        error, value = cell["standard_error"], cell["value"]
        low, high = (None, None) if error is None else (value - error, value + error)
        hover = f"{name}<br>{number(value)} ± {number(error)}<br>{count(cell['count'])} rows"
        marks.append(_Mark(position, value, low, high, hover))
    return marks


def _rate_marks(groups: Sequence[Json], names: Sequence[str]) -> list[_Mark]:
    marks = []
    for group in groups:
        if group["group"] in names:
            low, high = group["interval"]
            hover = f"{group['group']}<br>{percent(group['selection_rate'])} of {count(group['count'])} rows"
            marks.append(_Mark(names.index(group["group"]), group["selection_rate"], low, high, hover))
    return marks


def _ratios(before: Json, after: Json | None) -> str:
    first = number(before["impact_ratio"], 2)
    return first if after is None else f"{first} → {number(after['impact_ratio'], 2)}"


def _cell_name(cell: Json) -> str:
    return f"{cell['group']} · {cell['stratum']}" if cell["stratum"] else cell["group"]


def _dot_figure(names: Sequence[str], series: Sequence[tuple[str, str, list[_Mark]]]) -> go.Figure:
    """Dots with intervals, one row per name; the name stands above its row, so that narrow screens keep the width."""
    figure = go.Figure()
    for position, (title, colour, marks) in enumerate(series):
        offset = 0.0 if len(series) == 1 else (0.02, 0.26)[position]
        values = [mark.value for mark in marks]
        lows = [mark.value if mark.low is None else mark.low for mark in marks]
        highs = [mark.value if mark.high is None else mark.high for mark in marks]
        figure.add_scatter(
            x=values,
            y=[mark.row + offset for mark in marks],
            error_x=_errors(values, lows, highs, colour),
            mode="markers",
            name=title,
            marker={"color": colour, "size": 9, "symbol": ("circle", "diamond")[position]},
            hovertext=[hover_text(mark.hover) for mark in marks],
            hoverinfo="text",
        )
    for position, name in enumerate(names):
        figure.add_annotation(
            text=_plain(_short(name)), x=0, xref="paper", xanchor="left", y=position - 0.34, yanchor="middle",
            showarrow=False, font={"size": 12, "color": INK},
        )  # fmt: skip
    figure.update_yaxes(visible=False, range=[len(names) - 0.45, -0.62], fixedrange=True)
    set_style(figure)
    figure.update_layout(showlegend=len(series) > 1)
    return figure


def _errors(values: Sequence[float], lows: Sequence[float], highs: Sequence[float], colour: str) -> Json:
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, high in zip(values, highs, strict=True)],
        "arrayminus": [value - low for value, low in zip(values, lows, strict=True)],
        "color": colour,
        "thickness": 2,
        "width": 0,
    }


def set_style(figure: go.Figure) -> None:
    """The look that all charts share."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        margin={"l": 8, "r": 16, "t": 34, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom"},
        hoverlabel={"align": "left"},
        dragmode=False,
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, tickcolor=GRID, title_font_color=MUTED, title_standoff=8)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, tickcolor=GRID, title_font_color=MUTED, title_standoff=8)


def make_chart(figure: go.Figure, key: str, title: str, description: str, *, rows: int) -> Chart:
    """A chart of so many rows in height."""
    return Chart(key, title, description, _values(figure), _FRAME_PIXELS + _ROW_PIXELS * rows)


def _describe_gaps(row: CriterionRow) -> str:
    words = [
        f"{title}: the largest gap is {number(outcome.gap)}, interval {interval(outcome.interval)}, {outcome.verdict}"
        for title, _, outcome in _pair(row.before, row.after)
    ]
    return (
        f"Gaps of {row.name} against ±{tolerance(row.tolerance)}. {'; '.join(words)}. The table below holds every gap."
    )


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


def _plain(text: str) -> str:
    """Text that Plotly shows as it is, though it reads some HTML."""
    return html.escape(text, quote=False)


def hover_text(text: str) -> str:
    """A hover text whose line breaks are kept and whose other characters are never markup."""
    return "<br>".join(_plain(line) for line in text.split("<br>"))


def _values(figure: go.Figure) -> Json:
    """The figure without what JSON cannot hold: a number that is not finite becomes null."""
    return _finite(figure.to_plotly_json())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plotly_source() -> str:
    """Plotly's script, to be embedded in a page."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
