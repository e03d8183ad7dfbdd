"""Charts: dots with intervals, a trade-off, lines; in colours that colour-blind readers tell apart (Okabe, Ito)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from auditkit.csv_export import write_csv

from . import words
from .words import Json

BEFORE, AFTER = "#D55E00", "#0072B2"
BAND, LINE = "rgba(0,158,115,0.16)", "#009E73"
GREY, GRID = "#8A949E", "rgba(138,148,158,0.25)"
COLOURS = ("#7A848E", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#D55E00", "#8F7EC2")
SYMBOLS = ("diamond", "circle", "square", "triangle-up", "star", "cross", "x", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot")
MOST_ROWS = 14
_ROW, _FRAME, _NAME = 46, 96, 54
_TEXT_OF_THE_PAGE = """<style>
.js-plotly-plot text:not(.hoverlayer text, .heatmap-label text) { fill: currentColor !important }
</style>"""


@dataclass(frozen=True)
class Series:
    """Dots with intervals.

    Attributes:
        title: What the legend calls it.
        names: The row of every dot.
        values: Where the dots are.
        ends: Their intervals; None where there is none.
    """

    title: str
    names: Sequence[str]
    values: Sequence[float]
    ends: Sequence[Sequence[float] | None]


def follow_theme() -> None:
    """Give text in charts the colour of the page's text: the browser knows of a change of theme, the server does not.

    Every other colour stands out from both backgrounds.
    """
    st.html(_TEXT_OF_THE_PAGE)


def dots(series: Sequence[Series], *, axis: str, labels: Sequence[str] = ()) -> go.Figure:
    """Dots with intervals, one row per name; the name stands above its row, so that narrow screens keep the width.

    Args:
        series: At most two; the rows are those of the first.
        axis: Title of the horizontal axis.
        labels: What stands above the rows, if not the names.
    """
    figure, names = go.Figure(), list(series[0].names)
    for place, (one, colour) in enumerate(zip(series, (BEFORE, AFTER), strict=False)):
        offset = 0.0 if len(series) == 1 else (-0.08, 0.16)[place]
        kept = [k for k, name in enumerate(one.names) if name in names]
        _add_dots(figure, one, kept, [names.index(one.names[k]) + offset for k in kept], colour, place)
    for place, name in enumerate(labels or names):
        short = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
        figure.add_annotation(
            text=words.for_chart(short), x=0, xref="paper", xanchor="left", y=place - 0.38, showarrow=False,
            font={"size": 13},
        )  # fmt: skip
    figure.update_yaxes(visible=False, range=[len(names) - 0.5, -0.7], fixedrange=True)
    figure.update_xaxes(title_text=axis, gridcolor=GRID, zeroline=False, fixedrange=True)
    figure.update_layout(showlegend=len(series) > 1, height=_FRAME + _ROW * len(names))
    return framed(figure)


def _add_dots(
    figure: go.Figure, one: Series, kept: Sequence[int], rows: Sequence[float], colour: str, place: int
) -> None:
    values = [one.values[k] for k in kept]
    ends = [one.ends[k] or (one.values[k], one.values[k]) for k in kept]
    figure.add_scatter(
        x=values,
        y=list(rows),
        mode="markers",
        name=one.title,
        marker={"color": colour, "size": 10, "symbol": ("circle", "diamond")[place]},
        error_x={
            "type": "data", "symmetric": False, "color": colour, "thickness": 2.5, "width": 4,
            "array": [high - value for value, (_, high) in zip(values, ends, strict=True)],
            "arrayminus": [value - low for value, (low, _) in zip(values, ends, strict=True)],
        },
        hovertext=[
            f"{words.for_chart(one.names[k])}<br>{one.title}: {words.number(one.values[k])} "
            + words.interval(one.ends[k])
            for k in kept
        ],
        hoverinfo="text",
    )  # fmt: skip


def add_band(figure: go.Figure, tolerance: float, *, both_sides: bool = True) -> go.Figure:
    """Shade what lies within the tolerance."""
    low = -tolerance if both_sides else 0.0
    figure.add_vrect(low, tolerance, fillcolor=BAND, line_width=0, layer="below")
    for edge in (low, tolerance) if both_sides else (tolerance,):
        figure.add_vline(edge, line={"color": LINE, "width": 1.5, "dash": "dot"}, layer="below")
    if both_sides:
        figure.add_vline(0, line={"color": GREY, "width": 1}, layer="below")
    return figure


def trade_off(methods: Sequence[Json], criterion: Json) -> tuple[go.Figure, pd.DataFrame]:
    """Accuracy against the largest gap of one criterion, methods as points; and the same as a table."""
    figure, rows = go.Figure(), []
    for place, method in enumerate(methods):
        accuracy = method["utility"].get("accuracy")
        gap = next((gap for gap in method["gaps"] if gap["criterion"] == criterion["name"]), None)
        if not accuracy or gap is None or gap["gap"] is None:
            continue
        _add_point(figure, method["title"], gap, accuracy, place)
        ends = gap["interval"] or (None, None)
        rows.append([method["title"], gap["gap"], *ends, accuracy["value"], accuracy["low"], accuracy["high"]])
    add_band(figure, criterion["tolerance"], both_sides=False)
    title = f"largest gap of {words.for_chart(criterion['name'])}; shaded: within {criterion['tolerance']:g}"
    figure.update_xaxes(title_text=title, rangemode="tozero", gridcolor=GRID, zeroline=False, fixedrange=True)
    figure.update_yaxes(title_text="accuracy", tickformat=".1%", gridcolor=GRID, zeroline=False, fixedrange=True)
    figure.update_layout(height=520, showlegend=True)
    columns = ["method", "gap", "gap low", "gap high", "accuracy", "accuracy low", "accuracy high"]
    return framed(figure, legend_below=True), pd.DataFrame(rows, columns=columns)


def against_tolerance(frame: pd.DataFrame, measure: str) -> go.Figure:
    """A measure of quality against ε, one line per method, from rows of method, ε and the measure."""
    said = words.percent if measure == "accuracy" else words.number
    lines = list(frame.dropna(subset=[measure]).groupby("method", sort=False))
    several = len(lines) > 1
    figure = go.Figure()
    for place, (title, rows) in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)] if several else AFTER
        figure.add_scatter(
            x=rows["ε"], y=rows[measure], mode="lines+markers", name=words.for_chart(title),
            line={"color": colour, "width": 2, "dash": DASHES[place % len(DASHES)]},
            marker={"color": colour, "size": 10, "symbol": SYMBOLS[place % len(SYMBOLS)]},
            hovertext=[
                f"{words.for_chart(title)}<br>ε {level:g}: {said(value)}"
                for level, value in zip(rows["ε"], rows[measure], strict=True)
            ],
            hoverinfo="text",
        )  # fmt: skip
    axis, ticks = "tolerance ε of all enforced criteria", ".1%" if measure == "accuracy" else None
    figure.update_xaxes(title_text=axis, rangemode="tozero", gridcolor=GRID, zeroline=False, fixedrange=True)
    figure.update_yaxes(title_text=measure, tickformat=ticks, gridcolor=GRID, zeroline=False, fixedrange=True)
    figure.update_layout(height=480 if several else 380, showlegend=several)
    return framed(figure, legend_below=several)


def _add_point(figure: go.Figure, title: str, gap: Json, accuracy: Json, place: int) -> None:
    colour = COLOURS[place % len(COLOURS)]
    low, high = gap["interval"] or (gap["gap"], gap["gap"])
    figure.add_scatter(
        x=[gap["gap"]],
        y=[accuracy["value"]],
        mode="markers",
        name=words.for_chart(title),
        marker={"color": colour, "size": 12, "symbol": SYMBOLS[place % len(SYMBOLS)]},
        error_x=_error(gap["gap"], low, high, colour),
        error_y=_error(accuracy["value"], accuracy["low"], accuracy["high"], colour),
        hovertext=f"{words.for_chart(title)}<br>accuracy {words.percent(accuracy['value'])}"
        f"<br>gap {words.number(gap['gap'])} {words.interval(gap['interval'])}",
        hoverinfo="text",
    )


def _error(value: float, low: float, high: float, colour: str) -> Json:
    return {
        "type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low],
        "color": colour, "thickness": 1.5, "width": 0,
    }  # fmt: skip


def framed(figure: go.Figure, *, legend_below: bool = False) -> go.Figure:
    """The figure with the margins, legend and type of every chart."""
    legend: Json = {"orientation": "h", "x": 0, "xanchor": "left", "font": {"size": 13}}
    legend |= {"y": 0, "yref": "container", "yanchor": "bottom"} if legend_below else {"y": 1, "yanchor": "bottom"}
    margin = {"l": 8, "r": 12, "t": 34, "b": 160 if legend_below else 48}
    figure.update_layout(margin=margin, legend=legend, dragmode=False, hoverlabel={"align": "left"})
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(tickfont={"size": 12}, title_font={"size": 13})
    return figure


def draw(figure: go.Figure, *, key: str, words_for_it: str, data: pd.DataFrame) -> None:
    """A chart with its text alternative, and the data behind it to look at and to download.

    Args:
        figure: The chart.
        key: Unique on the page.
        words_for_it: What it shows, for readers who cannot see it.
        data: The numbers in it.
    """
    st.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt=words_for_it)
    st.caption(words.plain(words_for_it))
    with st.expander("Data behind this chart", icon=":material/table:"):
        st.dataframe(data, hide_index=True, key=f"{key}-data")
        text = write_csv(data)
        st.download_button("Download as CSV", text, file_name=f"{key}.csv", mime="text/csv", key=f"{key}-csv")


def lines(frame: pd.DataFrame, *, x: str, columns: Sequence[str], mark: float | None) -> go.Figure:
    """Columns of a frame as lines, with a dotted mark."""
    figure = go.Figure()
    for place, (name, colour) in enumerate(zip(columns, (BEFORE, AFTER), strict=True)):
        if name in frame:
            style = {"color": colour, "width": 2, "dash": ("solid", "dash")[place]}
            figure.add_scatter(x=frame[x], y=frame[name], mode="lines", name=name.replace("_", " "), line=style)
    if mark is not None:
        figure.add_vline(mark, line={"color": GREY, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(title_text=x, gridcolor=GRID, zeroline=False, fixedrange=True)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, fixedrange=True)
    figure.update_layout(height=340)
    return framed(figure)
