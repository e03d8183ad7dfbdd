"""Compare: several methods on the same rows."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

import auditkit as ak

from .parts import charts, frontiers, planning, running, snippets, words
from .parts.session import Json, Run, Workspace, errors_shown, kept, step_buttons, workspace

METRICS = {"accuracy": "accuracy", "auc": "AUC", "brier": "Brier score", "log_loss": "log-loss"}


def show() -> None:
    """Draw the page."""
    st.title("Compare methods")
    st.markdown(
        "Every method gets the same features, the same split and the criteria chosen on the page Enforce, and is "
        "judged on rows that none of them has seen."
    )
    space = workspace()
    make = partial(planning.build, space, enforce=True)
    ready = _show_choices(space)
    running.start_button("compare", "Compare", make, disabled=not ready)
    run = space.runs.get("compare")
    if run is not None:
        running.warn_if_outdated(run, make)
        _show_run(run)
        with errors_shown():
            snippets.show("compare", ak.make_config(run.plan, folder=space.folder))
    step_buttons(back="enforce", onward="stream")


def _show_choices(space: Workspace) -> bool:
    known = list(ak.sample_config().methods)
    kept(
        st.multiselect, "Methods", key=space.key("methods"), default=known, options=known,
        format_func=lambda name: name.replace("_", " "),
        help="The model as found is always among them, as the reference.",
    )  # fmt: skip
    frontiers.choose_levels(space)
    if space.source == "table" and not space.recall("label"):
        st.info("Comparing needs the outcome; name its column on the page Data & model.", icon=":material/info:")
        return False
    return True


def _show_run(run: Run) -> None:
    comparison = run.read("comparison")
    if comparison is None:
        return
    methods = comparison["methods"]
    for method in methods:
        if method["error"]:
            st.warning(f"{words.plain(method['title'])} could not be fitted: {words.plain(method['error'])}")
    level = f"{100 * comparison['confidence']:g} %"
    st.header("On the test rows")
    st.dataframe(_table(comparison), hide_index=True, key="methods", height="content")
    taken = words.plain(comparison["intervals"])
    st.caption(
        f"Values with {level} intervals, {taken}. "
        "A dash: the method gives decisions only, or the figure is not defined."
    )
    for place, criterion in enumerate(comparison["criteria"]):
        figure, data = charts.trade_off(methods, criterion)
        points = [
            f"{row['method']} {words.percent(row['accuracy'])} at {words.number(row['gap'])}"
            for row in data.to_dict("records")
        ]
        text = f"Accuracy against the largest gap of {criterion['name']}: {'; '.join(points)}."
        charts.draw(figure, key=f"trade-off-{place}", words_for_it=text, data=data)
    st.header("Against the model as found")
    st.dataframe(_differences(comparison), hide_index=True, key="differences", height="content")
    st.caption("Paired differences on the same rows. An interval that holds zero shows no difference.")
    st.header("Who is ahead")
    st.dataframe(_standings(comparison), hide_index=True, key="winners", height="content")
    st.caption(
        "Among the methods whose gaps are not shown to exceed the tolerances. A method is ahead only where the "
        "intervals of its paired differences to all others exclude zero at once."
    )
    with st.expander("The paired difference of every two methods", icon=":material/table:"):
        st.dataframe(_pairs(comparison), hide_index=True, key="pairs", height="content")
        st.caption(f"The first less the second, each with {level} confidence by itself.")
    frontiers.show_methods(comparison)
    with st.expander("What the methods do and need", icon=":material/info:"):
        st.dataframe(_needs(methods), hide_index=True, key="needs", height="content")


def _titles(comparison: Json) -> dict[str, str]:
    return {method["name"]: method["title"] for method in comparison["methods"]}


def _standings(comparison: Json) -> pd.DataFrame:
    titles = _titles(comparison)
    rows = [
        {
            "by": METRICS.get(winner["utility"], winner["utility"]),
            "gaps of": winner["level"],
            "ahead": titles[winner["winner"]] if winner["winner"] else "nobody is shown to be",
            "not shown to exceed": "; ".join(titles[name] for name in winner["eligible"]) or "none",
        }
        for winner in comparison["winners"]
    ]
    return pd.DataFrame(rows)


def _pairs(comparison: Json) -> pd.DataFrame:
    titles = _titles(comparison)
    rows = [
        {"first": titles[pair["first"]], "second": titles[pair["second"]]}
        | {title: words.estimate(pair.get(key)) for key, title in METRICS.items()}
        for pair in comparison["pairs"]
    ]
    return pd.DataFrame(rows)


def _table(comparison: Json) -> pd.DataFrame:
    rows = []
    for method in comparison["methods"]:
        row = {"method": method["title"], "reads the group": "yes" if method["needs_attributes"] else "no"}
        row["accuracy"] = words.estimate(method["utility"].get("accuracy"))
        gaps = {gap["criterion"]: gap for gap in method["gaps"]}
        for criterion in comparison["audited"]:
            row[f"gap {criterion['name']}"] = _gap(gaps.get(criterion["name"]))
        for table in method["decisions"]:
            row[f"selection-rate gap {' × '.join(table['attributes'])}"] = words.percent(table["rate_gap"])
        rows.append(
            row | {title: words.estimate(method["utility"].get(key)) for key, title in list(METRICS.items())[1:]}
        )
    return pd.DataFrame(rows).fillna(words.DASH)


def _gap(gap: Json | None) -> str:
    if gap is None:
        return words.DASH
    verdict = f" {words.VERDICTS[gap['verdict']]}" if gap["verdict"] else ""
    return f"{words.number(gap['gap'])} {words.interval(gap['interval'])}{verdict}"


def _differences(comparison: Json) -> pd.DataFrame:
    rows = [
        {"method": method["title"]}
        | {title: words.estimate(method["difference"].get(key)) for key, title in METRICS.items()}
        for method in comparison["methods"][1:]
    ]
    return pd.DataFrame(rows)


def _needs(methods: list[Json]) -> pd.DataFrame:
    rows = [
        {
            "method": method["title"],
            "what it does": method["description"],
            "gives": method["level"],
            "reads the group": "yes" if method["needs_attributes"] else "no",
            "needs the whole batch": "yes" if method["needs_batch"] else "no",
            "needs outcomes to decide": "yes" if method["needs_labels"] else "no",
        }
        for method in methods
    ]
    return pd.DataFrame(rows)
