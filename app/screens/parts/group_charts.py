"""Charts by group: how scores are spread, how far they are from outcomes, reliability, and a map of subgroups."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from . import charts, words
from .words import Json

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")
MOST_LINES = len(charts.COLOURS)
ANY = "(any)"
_SCALE = (
    (0.0, "#0072B2"),
    (0.5, "#F2F5F7"),
    (1.0, "#D55E00"),
)  # apart for every kind of colour vision


def choose_table(tables: Sequence[Json], *, key: str, label: str) -> Json:
    """One of several tables by group."""
    names = [_name(table) for table in tables]
    place = st.selectbox(label, range(len(tables)), format_func=lambda k: names[k], key=key)
    return tables[min(place or 0, len(tables) - 1)]


def _name(table: Json) -> str:
    name = " × ".join(table["attributes"])
    return name if table.get("output") is None else f"{name}, output {table['output']}"


def show_distributions(groups: Sequence[Json], *, by: str, key: str) -> None:
    """Scores of every group, as shares of the group."""
    figure = go.Figure()
    for place, group in enumerate(groups[:MOST_LINES]):
        ends = [group["bars"][0]["low"], *(bar["high"] for bar in group["bars"])]
        shares = [bar["share"] for bar in group["bars"]]
        _add_line(figure, group["group"], ends, [*shares, shares[-1]], place, shape="hv")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    _frame(figure, x="score", y="share of the group", height=400)
    rows = [
        {"group": group["group"], "count": group["count"], "mean": group["mean"], **bar}
        for group in groups
        for bar in group["bars"]
    ]
    means = "; ".join(f"{group['group']} {words.number(group['mean'])}" for group in groups)
    text = f"How the scores are spread within every group by {by}. Mean scores: {means}.{left_out(groups)}"
    charts.draw(figure, key=key, words_for_it=text, data=pd.DataFrame(rows))


def show_errors(table: Json, *, key: str) -> None:
    """Mean residual, MAE and RMSE of every group, with intervals for each alone."""
    groups = table["groups"]
    shown = groups[: 2 * charts.MOST_ROWS]
    ends = [None if one["mean_residual"][1] is None else one["mean_residual"][1:] for one in shown]
    series = charts.Series(
        "mean residual", [one["group"] for one in shown], [one["mean_residual"][0] for one in shown], ends
    )
    labels = [f"{one['group']} · {words.count(one['count'])} rows" for one in shown]
    figure = charts.dots([series], axis="mean of outcome − score; above zero: scores are too low", labels=labels)
    figure.add_vline(0, line={"color": charts.GREY, "width": 1}, layer="below")
    names = ("mean_residual", "mean_absolute_error", "root_mean_square_error")
    rows = []
    for one in groups:
        row: Json = {"group": one["group"], "count": one["count"]}
        for name in names:
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), one[name], strict=True))
        rows.append(row)
    each = "; ".join(
        f"{one['group']}: residual {words.number(one['mean_residual'][0])}, MAE "
        f"{words.number(one['mean_absolute_error'][0])}, RMSE {words.number(one['root_mean_square_error'][0])}"
        for one in shown
    )
    charts.draw(
        figure, key=key, words_for_it=f"Errors of the scores by {_name(table)}. {each}.", data=pd.DataFrame(rows)
    )


def show_reliability(table: Json, *, key: str) -> None:
    """What happened against what was predicted, bin by bin and group by group."""
    groups = table["groups"]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="calibrated", hoverinfo="skip",
        line={"color": charts.GREY, "width": 1, "dash": "dot"},
    )  # fmt: skip
    for place, group in enumerate(groups[:MOST_LINES]):
        bins = group["bins"]
        _add_line(
            figure, group["group"], [one["mean_score"] for one in bins], [one["mean_label"] for one in bins], place,
            markers=True,
        )  # fmt: skip
    _frame(figure, x="mean score of the bin", y="mean outcome of the bin", height=460)
    rows = [
        {"group": group["group"], **{k: v for k, v in one.items() if k != "interval"},
         "deviation_low": one["interval"][0], "deviation_high": one["interval"][1]}
        for group in groups
        for one in group["bins"]
    ]  # fmt: skip
    each = "; ".join(
        f"{group['group']} {words.number(group['calibration_error'])}, of which chance alone would make "
        f"{words.number(group['expected_by_chance'])}"
        for group in groups
    )
    text = f"Reliability by {_name(table)}. Calibration error (ECE): {each}.{left_out(groups)}"
    charts.draw(figure, key=key, words_for_it=text, data=pd.DataFrame(rows))


def show_subgroups(search: Json, *, key: str) -> None:
    """Groups and pairs of crossed groups against everybody else, as a map."""
    found = search["subgroups"]
    names = list(dict.fromkeys(name for one in found for name in one["values"]))
    pairs = list(combinations(names, 2)) or [(names[0], None)]
    place = st.selectbox(
        "Attributes", range(len(pairs)), format_func=lambda k: " × ".join(filter(None, pairs[k])), key=f"{key}-pair"
    )
    first, second = pairs[min(place or 0, len(pairs) - 1)]
    figure = _map(found, first, second)
    shown = [one for one in found if one["found"]]
    what = "mean score" if search["family"] == "ECP" else "mean residual"
    listed = "; ".join(f"{_values(one)} {words.number(one['gap'])}" for one in shown[:8])
    text = (
        f"The {what} of a group less that of everybody else; a star marks the {len(shown)} of {len(found)} subgroups "
        f"whose gap was shown to be above {search['tolerance']:g}, of which at most the share "
        f"{search['false_discovery_rate']:g} is expected to be false. {listed}"
    )
    charts.draw(figure, key=key, words_for_it=text.rstrip() + ".", data=_subgroup_rows(found))
    if search["untested"]:
        st.caption(f"{search['untested']} had too few rows to be tested; they are not cleared.")


def _map(found: Sequence[Json], first: str, second: str | None) -> go.Figure:
    if second is not None and _levels(found, second) > _levels(found, first):
        first, second = second, first  # fewer columns than rows, so that a phone has room for the figures
    cells = {
        (str(one["values"].get(first, ANY)), str(one["values"].get(second, ANY))): one
        for one in found
        if set(one["values"]) <= {first, second}
    }
    rows, columns = (sorted({key[k] for key in cells}, key=lambda name: (name == ANY, name)) for k in (0, 1))
    gaps = [[cells[row, column]["gap"] if (row, column) in cells else None for column in columns] for row in rows]
    text = [[_cell_text(cells.get((row, column))) for column in columns] for row in rows]
    widest = max((abs(gap) for line in gaps for gap in line if gap is not None), default=1.0) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=gaps, x=[words.for_chart(name) for name in columns], y=[words.for_chart(name) for name in rows],
            text=text, texttemplate="%{text}", textfont={"color": "#0D141B", "size": 13}, hoverinfo="text",
            colorscale=[[at, colour] for at, colour in _SCALE], zmin=-1.6 * widest, zmax=1.6 * widest, xgap=2, ygap=2,
            showscale=False,
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True)
    _frame(figure, x=second or "", y=first, height=120 + 42 * len(rows))
    figure.update_layout(showlegend=False)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    return figure


def _levels(found: Sequence[Json], name: str) -> int:
    return len({str(one["values"][name]) for one in found if name in one["values"]})


def _cell_text(one: Json | None) -> str:
    if one is None:
        return ""
    return f"{words.number(one['gap'])}{' ★' if one['found'] else ''}<br>n {words.count(one['count'])}"


def _subgroup_rows(found: Sequence[Json]) -> pd.DataFrame:
    rows = [
        {"subgroup": _values(one), **{k: v for k, v in one.items() if k not in ("values", "interval")},
         "low": (one["interval"] or (None, None))[0], "high": (one["interval"] or (None, None))[1]}
        for one in found
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _values(one: Json) -> str:
    return " × ".join(f"{name}={value}" for name, value in one["values"].items())


def _add_line(
    figure: go.Figure,
    name: str,
    x: Sequence[float],
    y: Sequence[float],
    place: int,
    *,
    shape: str = "linear",
    markers: bool = False,
) -> None:
    colour = charts.COLOURS[(place + 1) % MOST_LINES]
    figure.add_scatter(
        x=list(x), y=list(y), mode="lines+markers" if markers else "lines", name=words.for_chart(name),
        line={"color": colour, "width": 2, "dash": DASHES[place], "shape": shape},
        marker={"color": colour, "size": 8, "symbol": charts.SYMBOLS[place]},
    )  # fmt: skip


def _frame(figure: go.Figure, *, x: str, y: str, height: int) -> None:
    figure.update_xaxes(title_text=x, gridcolor=charts.GRID, zeroline=False, fixedrange=True)
    figure.update_yaxes(title_text=y, gridcolor=charts.GRID, zeroline=False, fixedrange=True)
    figure.update_layout(height=height, showlegend=True)
    charts.framed(figure)


def left_out(groups: Sequence[object]) -> str:
    """What a chart of lines does not hold, in a sentence; nothing where it holds all groups."""
    return "" if len(groups) <= MOST_LINES else f" The chart holds the first {MOST_LINES} of {len(groups)} groups."
