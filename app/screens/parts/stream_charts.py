"""Charts of a stream: pooled gaps with their bounds, corrections or multipliers, and alarms."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from . import charts, group_charts, words
from .words import Json

_FILL = "rgba(138,148,158,0.22)"


def show_gap(points: Sequence[Json], *, key: str) -> None:
    """One gap of a stream, against the rows released."""
    frame = gap_frame(points)
    if frame.empty:
        st.caption("No two groups have been seen yet.")
        return
    names = list(dict.fromkeys(zip(frame["criterion"], frame["compared"], strict=True)))
    titles = [f"{criterion}: {compared}" for criterion, compared in names]
    place = st.selectbox("Gap", range(len(names)), format_func=titles.__getitem__, key=f"{key}-of")
    criterion, compared = names[min(place or 0, len(names) - 1)]
    chosen = pd.DataFrame(frame[(frame["criterion"] == criterion) & (frame["compared"] == compared)])
    now: Json = chosen.to_dict("records")[-1]
    text = (
        f"{criterion}, {compared}: the pooled gap of everything released is {words.number(now['gap'], 4)} after "
        f"{words.count(int(now['rows']))} rows, against ±{now['tolerance']:g}."
    )
    if pd.notna(now["bound"]):
        text += f" By the ledger it is at most {words.number(now['bound'], 4)} either way."
    if pd.notna(now["low"]):
        text += f" The population's lies in {words.interval((now['low'], now['high']), 4)}, at every look at once."
    charts.draw(_gap_figure(chosen), key=key, words_for_it=text, data=frame)


def gap_frame(points: Sequence[Json]) -> pd.DataFrame:
    """Every gap at every look."""
    rows = [
        {
            "rows": point["rows"], "batches": point["batches"], "criterion": gap["criterion"], "compared": gap["name"],
            "gap": gap["gap"], "tolerance": gap["tolerance"], "bound": gap["bound"],
            "low": (gap["interval"] or (None, None))[0], "high": (gap["interval"] or (None, None))[1],
        }
        for point in points
        for gap in point["gaps"]
    ]  # fmt: skip
    columns = ["rows", "batches", "criterion", "compared", "gap", "tolerance", "bound", "low", "high"]
    numbers = ["gap", "tolerance", "bound", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers, "float64"))


def _gap_figure(frame: pd.DataFrame) -> go.Figure:
    figure, x = go.Figure(), frame["rows"]
    known = frame.dropna(subset=["low"])
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=known["rows"], y=known["high"], showlegend=False, **edge)
    figure.add_scatter(
        x=known["rows"], y=known["low"], fill="tonexty", fillcolor=_FILL, name="interval for the population", **edge
    )
    bound = {"color": charts.BEFORE, "width": 1.5, "dash": "dash"}
    figure.add_scatter(x=x, y=frame["bound"], mode="lines", name="a-posteriori bound", line=bound)
    figure.add_scatter(x=x, y=-frame["bound"], mode="lines", showlegend=False, line=bound)
    style = {"color": charts.AFTER, "width": 3}
    figure.add_scatter(x=x, y=frame["gap"], mode="lines", name="pooled gap", line=style)
    tolerance = frame["tolerance"].tolist()[-1]
    figure.add_hrect(-tolerance, tolerance, fillcolor=charts.BAND, line_width=0, layer="below")
    for edge in (-tolerance, tolerance):
        figure.add_hline(edge, line={"color": charts.LINE, "width": 1.5, "dash": "dot"}, layer="below")
    settled = frame["gap"].dropna().tolist()[len(frame) // 10 :]  # the first rows would stretch the axis
    span = 3 * max(tolerance, 1e-6) + 1.2 * max(map(abs, settled), default=0.0)
    figure.update_yaxes(title_text=f"pooled gap; shaded: within ±{tolerance:g}", range=[-span, span])
    return _framed(figure, height=440)


def show_corrections(points: Sequence[Json], *, key: str) -> None:
    """What the multipliers make of every group's scores; the multiplier itself under the scalar rule."""
    scalar = bool(points) and points[-1]["rule"] == "scalar"
    if scalar:
        frame = pd.DataFrame([{"rows": point["rows"], "group": "λ", "value": point["dual"]} for point in points])
        title = "multiplier λ"
    else:
        frame = pd.DataFrame(
            [
                {"rows": point["rows"], "group": one["group"], "value": one["shift"]}
                for point in points
                for one in point["corrections"]
            ],
            columns=["rows", "group", "value"],
        )
        title = "correction of a group, −(Tᵀλ) / N"
    if frame.empty:
        st.caption("Nothing has been released yet.")
        return
    figure = go.Figure()
    names = list(dict.fromkeys(frame["group"]))
    for place, name in enumerate(names[: group_charts.MOST_LINES]):
        one = frame[frame["group"] == name]
        colour = charts.COLOURS[(place + 1) % group_charts.MOST_LINES]
        figure.add_scatter(
            x=one["rows"], y=one["value"], mode="lines", name=words.for_chart(name),
            line={"color": colour, "width": 2, "dash": group_charts.DASHES[place]},
        )  # fmt: skip
    figure.update_yaxes(title_text=title)
    last = dict(zip(frame["group"], frame["value"].tolist(), strict=True))
    text = f"{title[0].upper()}{title[1:]}, now: " + "; ".join(
        f"{name} {words.number(last[name], 4)}" for name in names[: group_charts.MOST_LINES]
    )
    shown = min(len(names), group_charts.MOST_LINES)
    text += f".{group_charts.left_out(names)}"
    charts.draw(_framed(figure, height=300 + 22 * shown), key=key, words_for_it=text, data=frame)


def show_alarms(points: Sequence[Json], *, key: str) -> None:
    """Bounds that are crossed now, and when others were."""
    rows = [
        {"rows": point["rows"], "alarm": alarm["kind"], "criterion": alarm["criterion"], "found": alarm["message"]}
        for point in points
        for alarm in point["alarms"]
    ]
    now = points[-1]["alarms"] if points else []
    for alarm in now:
        st.warning(f"**{words.plain(alarm['kind'])}**: {words.plain(alarm['message'])}", icon=":material/warning:")
    if not now:
        st.success("No bound is crossed now.", icon=":material/check_circle:")
    if rows:
        with st.expander(f"Looks at which a bound was crossed: {len({row['rows'] for row in rows})} of {len(points)}"):
            frame = pd.DataFrame(rows)
            st.dataframe(frame, hide_index=True, key=f"{key}-data")
            text = frame.to_csv(index=False)
            st.download_button("Download as CSV", text, file_name=f"{key}.csv", mime="text/csv", key=f"{key}-csv")


def ledger_points(found: Json) -> list[Json]:
    """The history of a ledger as looks: pooled gaps alone, and everything at the last."""
    tolerance = {(gap["criterion"], gap["name"]): gap["tolerance"] for gap in found["gaps"]}
    points = [
        {
            "rows": point["rows"], "batches": point["sequence"], "rule": found["rule"], "dual": found["dual"],
            "corrections": [], "alarms": [],
            "gaps": [
                {**which, "gap": gap, "tolerance": tolerance[which["criterion"], which["name"]], "bound": None,
                 "interval": None}
                for which, gap in zip(found["compared"], point["gaps"], strict=True)
                if gap is not None and (which["criterion"], which["name"]) in tolerance
            ],
        }
        for point in found["history"]
    ]  # fmt: skip
    return [*points, found]


def _framed(figure: go.Figure, *, height: int) -> go.Figure:
    figure.update_xaxes(title_text="rows released", gridcolor=charts.GRID, zeroline=False, fixedrange=True)
    figure.update_yaxes(gridcolor=charts.GRID, zeroline=False, fixedrange=True)
    figure.update_layout(height=height, showlegend=True)
    return charts.framed(figure)
