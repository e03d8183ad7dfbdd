"""What an audit found, drawn from audit.json and, after enforcement, audit_after.json; nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from . import charts, words
from .words import Json

AS_FOUND, AFTER = "as found", "after"


def show_verdict(audit: Json, *, title: str, only: Sequence[str] | None = None) -> None:
    """The verdict over all criteria, in words; with ``only``, that of each of these instead."""
    listed = [finding for finding in audit["findings"] if only is None or finding["criterion"]["name"] in only]
    names = [finding["verdict"] for finding in listed]
    parts = [f"{names.count(key)} {text}" for key, text in words.VERDICTS.items() if key in names]
    rows, level = words.count(audit["n_rows"]), f"{100 * audit['confidence']:g} %"
    with st.container(border=True):
        if only is None:
            st.markdown(f"**{title}:** {words.verdict(audit['verdict'])}")
        else:
            each = [f"{words.plain(one['criterion']['name'])} {words.verdict(one['verdict'])}" for one in listed]
            st.markdown(f"**{title}:** {' · '.join(each)}")
        kind = "criteria" if only is None else "enforced criteria"
        st.caption(f"Of {len(names)} {kind}: {', '.join(parts)}. {rows} rows; joint confidence {level}.")


def verdict_table(audit: Json, after: Json | None = None) -> pd.DataFrame:
    """One row per criterion, before and after."""
    later = {finding["criterion"]["name"]: finding for finding in (after or {}).get("findings", ())}
    rows = []
    for finding in audit["findings"]:
        name = finding["criterion"]["name"]
        row = {"criterion": name}
        if after is None:
            row |= _columns(finding, "verdict", "largest gap")
        else:
            row |= _columns(finding, f"verdict {AS_FOUND}", f"largest gap {AS_FOUND}")
            row |= _columns(later[name], f"verdict {AFTER}", f"largest gap {AFTER}")
        rows.append(row | {"tolerance": f"{finding['criterion']['tolerance']:g}"})
    return pd.DataFrame(rows)


def _columns(finding: Json, verdict: str, gap: str) -> Json:
    shown = f"{words.number(finding['gap'])} {words.interval(finding['interval'])}"
    return {verdict: words.VERDICTS[finding["verdict"]], gap: shown}


def show_table(frame: pd.DataFrame, *, key: str) -> None:
    """A table of text, as high as its rows."""
    st.dataframe(frame, hide_index=True, key=key, height="content")


def choose_finding(audit: Json, *, key: str) -> int:
    """A choice of one criterion of an audit."""
    names = [finding["criterion"]["name"] for finding in audit["findings"]]
    chosen = st.selectbox("Criterion in detail", range(len(names)), format_func=lambda place: names[place], key=key)
    return min(chosen or 0, len(names) - 1)


def show_finding(finding: Json, *, key: str, after: Json | None = None, title: str = AS_FOUND) -> None:
    """One criterion: verdict with reason, gaps, and means; ``title`` is what the first audit is called."""
    st.markdown(words.plain(words.meaning(finding["criterion"])))
    for name, one in ((title, finding), (AFTER, after)):
        if one is not None:
            st.markdown(f"**{name.capitalize()}:** {words.verdict(one['verdict'])} — {words.plain(one['reason'])}.")
            _show_rows_needed(one)
    gaps, means = st.tabs(["Gaps", "Groups"])
    with gaps:
        _show_gaps(finding, after, key=f"{key}-gaps", title=title)
    with means:
        _show_means(finding, after, key=f"{key}-means", title=title)


def _show_rows_needed(finding: Json) -> None:
    if finding["rows_needed"]:
        rows = words.count(finding["rows_needed"])
        st.caption(f"About {rows} rows in the smaller group of the most open comparison would settle it.")


def _show_gaps(finding: Json, after: Json | None, *, key: str, title: str) -> None:
    ranked = sorted(finding["gaps"], key=lambda gap: -abs(gap["gap"]))
    if not ranked:
        st.info("No two groups could be compared.")
        return
    series = [_gap_series(title, ranked[: charts.MOST_ROWS])]
    if after is not None:
        series.append(_gap_series(AFTER, after["gaps"]))
    tolerance = finding["criterion"]["tolerance"]
    figure = charts.dots(series, axis=f"gap in score units; shaded: within ±{tolerance:g}")
    shown = f"the {charts.MOST_ROWS} widest of {len(ranked)} gaps" if len(ranked) > charts.MOST_ROWS else "every gap"
    text = f"{finding['criterion']['name']}: {shown} with simultaneous intervals, against ±{tolerance:g}. "
    parts = [_gap_words(when, one) for when, one in ((title, finding), (AFTER, after)) if one is not None]
    text += "; ".join(parts).capitalize() + "."
    data = pd.concat([_gap_frame(title, ranked), *([_gap_frame(AFTER, after["gaps"])] if after else [])])
    charts.draw(charts.add_band(figure, tolerance), key=key, words_for_it=text, data=data)


def _gap_words(title: str, finding: Json) -> str:
    return f"{title}, the largest is {words.number(finding['gap'])} {words.interval(finding['interval'])}"


def _gap_series(title: str, gaps: Sequence[Json]) -> charts.Series:
    return charts.Series(
        title, [gap["name"] for gap in gaps], [gap["gap"] for gap in gaps], [gap["interval"] for gap in gaps]
    )


def _gap_frame(title: str, gaps: Sequence[Json]) -> pd.DataFrame:
    rows = [[title, gap["name"], gap["gap"], *(gap["interval"] or (None, None)), gap["verdict"]] for gap in gaps]
    return pd.DataFrame(rows, columns=["when", "gap of", "gap", "low", "high", "verdict"])


def _show_means(finding: Json, after: Json | None, *, key: str, title: str) -> None:
    cells = finding["cells"]
    series = [_cell_series(title, cells[: 2 * charts.MOST_ROWS])]
    if after is not None:
        series.append(_cell_series(AFTER, after["cells"]))
    what = "mean error (outcome − score)" if finding["criterion"]["family"] == "EER" else "mean score"
    labels = [f"{words.cell(cell)} · {words.count(cell['count'])} rows" for cell in cells[: 2 * charts.MOST_ROWS]]
    figure = charts.dots(series, axis=f"{what}, ± one standard error", labels=labels)
    more = "" if len(cells) <= 2 * charts.MOST_ROWS else f" The chart holds the first {2 * charts.MOST_ROWS} of them."
    text = f"{what.capitalize()} of every group, {title}: "
    text += "; ".join(f"{words.cell(cell)} {words.number(cell['value'])}" for cell in cells) + f".{more}"
    data = pd.concat([pd.DataFrame(cells).assign(when=title), *_later_cells(after)])
    charts.draw(figure, key=key, words_for_it=text, data=data)


def _later_cells(after: Json | None) -> list[pd.DataFrame]:
    return [] if after is None else [pd.DataFrame(after["cells"]).assign(when=AFTER)]


def _cell_series(title: str, cells: Sequence[Json]) -> charts.Series:
    ends = [None if cell["standard_error"] is None else _around(cell) for cell in cells]
    return charts.Series(title, [words.cell(cell) for cell in cells], [cell["value"] for cell in cells], ends)


def _around(cell: Json) -> tuple[float, float]:
    return cell["value"] - cell["standard_error"], cell["value"] + cell["standard_error"]


def show_decisions(audit: Json, *, key: str, after: Json | None = None, title: str = AS_FOUND) -> None:
    """Selection rates with intervals and impact ratios; ``title`` is what the first audit is called."""
    if not audit["decisions"]:
        st.caption("The plan states no threshold, so there are no decisions to look at.")
        return
    names = [" × ".join(table["attributes"]) for table in audit["decisions"]]
    place = 0
    if len(names) > 1:
        place = st.selectbox("Decisions by", range(len(names)), format_func=lambda k: names[k], key=f"{key}-by")
        place = min(place or 0, len(names) - 1)
    tables = [(title, audit["decisions"][place])]
    if after is not None:
        tables.append((AFTER, after["decisions"][place]))
    series = [_rate_series(when, table["groups"]) for when, table in tables]
    groups = tables[0][1]["groups"]
    later = {group["group"]: group for group in tables[-1][1]["groups"]} if after is not None else {}
    labels = [f"{group['group']} · impact ratio {_ratios(group, later.get(group['group']))}" for group in groups]
    figure = charts.dots(series, axis="share with a positive decision", labels=labels)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    text = f"Selection rates by {names[place]}; positive is {audit['decision_rule']}. "
    text += " ".join(_rate_words(when, table) for when, table in tables)
    frames = [pd.DataFrame(_rate_rows(table["groups"])).assign(when=when) for when, table in tables]
    charts.draw(figure, key=f"{key}-rates", words_for_it=text, data=pd.concat(frames))
    st.caption(
        "The impact ratio is a group's selection rate over the highest one. "
        "Parity of mean scores does not imply parity of selection rates, nor the reverse."
    )


def _ratios(before: Json, after: Json | None) -> str:
    first = words.number(before["impact_ratio"], 2)
    return first if after is None else f"{first} → {words.number(after['impact_ratio'], 2)}"


def _rate_words(title: str, table: Json) -> str:
    worst = words.number(table["worst_impact_ratio"], 2)
    return (
        f"{title.capitalize()}, the rates differ by at most {words.percent(table['rate_gap'])}; "
        f"the smallest impact ratio is {worst}."
    )


def _rate_series(title: str, groups: Sequence[Json]) -> charts.Series:
    return charts.Series(
        title,
        [group["group"] for group in groups],
        [group["selection_rate"] for group in groups],
        [group["interval"] for group in groups],
    )


def _rate_rows(groups: Sequence[Json]) -> list[Json]:
    plain = [{key: value for key, value in group.items() if key != "interval"} for group in groups]
    return [
        row | {"low": group["interval"][0], "high": group["interval"][1]}
        for row, group in zip(plain, groups, strict=True)
    ]
