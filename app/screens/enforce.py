"""Enforce: tune a head through the fairness layer, calibrate it, and audit again."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

import auditkit as ak

from .parts import charts, findings, frontiers, planning, running, snippets, words
from .parts.session import Json, Run, Workspace, error_line, errors_shown, kept, step_buttons, workspace

STATEMENT = """
- **Parity on a batch is not parity on the union of batches.** Scores that meet a criterion batch by batch can miss it
  over all rows together. The corrections found here are fixed on separate calibration rows and then applied row by row.
- **A correction that reads the group may itself be differential treatment:** it moves one person's score by that
  person's group. The group-blind alternative is the tuned head without the correction (method `head` on the page
  Compare), which does not promise that the criteria hold.
- **Equalized residuals and equalized odds need outcomes** on the calibration rows only, not when a new row is scored.
"""


def show() -> None:
    """Draw the page."""
    st.title("Enforce")
    st.markdown(
        "The model stays frozen. A new last layer is trained on its features through a layer that meets the criteria "
        "exactly, a correction per group is fixed on separate rows, and rows that played no part are audited again."
    )
    with st.expander("Read this first", icon=":material/info:", expanded=True):
        st.markdown(STATEMENT)
    space = workspace()
    make = partial(planning.build, space, enforce=True)
    ready = show_choices(space)
    running.start_button("tune", "Tune and calibrate", make, disabled=not ready)
    run = space.runs.get("tune")
    if run is not None:
        running.warn_if_outdated(run, make)
        _show_run(run)
        with errors_shown():
            snippets.show("tune", ak.make_config(run.plan, folder=space.folder))
    step_buttons(back="audit", onward="compare")


def show_choices(space: Workspace) -> bool:
    """What is enforced and for how long it is trained; False, with the reason on the page, where it cannot be."""
    try:
        criteria = planning.build(space).build_criteria()
        default = planning.enforced_default(space)
    except ak.AuditkitError as error:
        st.error(error_line(error), icon=":material/error:")
        return False
    names = [criterion.name for criterion in criteria]
    _forget_missing(space, len(names))
    kept(
        st.multiselect, "Criteria to enforce", key=space.key("enforce"), default=default,
        options=list(range(len(names))), format_func=lambda place: names[place],
    )  # fmt: skip
    kept(
        st.slider, "Epochs", key=space.key("epochs"), default=300, min_value=10, max_value=500, step=10,
        help="Passes over the tuning rows, at most; the epoch with the best validation is kept.",
    )  # fmt: skip
    frontiers.choose_levels(space)
    return _has_what_it_needs(space)


def _forget_missing(space: Workspace, size: int) -> None:
    """Start the choice anew when criteria were added or removed since it was made."""
    if space.memory.get(space.key("enforce-size"), size) != size:
        space.memory.pop(space.key("enforce"), None)
        st.session_state.pop(space.key("enforce"), None)
    space.memory[space.key("enforce-size")] = size


def _has_what_it_needs(space: Workspace) -> bool:
    if space.source == "sample":
        return True
    lacking = [
        name for name, key in (("the outcome", "label"), ("numeric features", "features")) if not space.recall(key)
    ]
    if lacking:
        st.info(
            f"Enforcing needs {' and '.join(lacking)} of this table; name them on the page Data & model.",
            icon=":material/info:",
        )
    return not lacking


def _show_run(run: Run) -> None:
    audit, after, record = run.read("audit"), run.read("audit_after"), run.read("run")
    if audit is None or record is None:
        return
    if after is None:
        st.warning("Nothing was tuned: there were no features to tune a head on.")
        return
    st.header("Before and after")
    split = ", ".join(f"{words.count(size)} to {name}" for name, size in record["split"].items())
    st.caption(f"Rows: {split}. Everything below is about the test rows.")
    enforced = [spec["name"] for spec in record["plan"]["enforce"]]
    findings.show_verdict(audit, title="As found", only=enforced)
    findings.show_verdict(after, title="After", only=enforced)
    st.markdown(
        f"Enforced: {words.plain(', '.join(enforced))}. The others are shown to see what the change does to them."
    )
    findings.show_table(findings.verdict_table(audit, after), key="before-after")
    views = ["Score gaps", "Decisions", "Guarantee", "Training"]
    frontier = run.read("frontier")
    detail, decisions, guarantee, training, *more = st.tabs([*views, "Frontier"] if frontier else views)
    with detail:
        place = findings.choose_finding(audit, key=run.key("criterion"))
        findings.show_finding(audit["findings"][place], key="tune-finding", after=after["findings"][place])
    with decisions:
        findings.show_decisions(audit, key=run.key("decisions"), after=after)
    with guarantee:
        _show_guarantee(record["calibration"])
    with training:
        _show_training(record["tuning"])
    if frontier:
        with more[0]:
            frontiers.show_head(frontier)


def _show_guarantee(calibration: Json | None) -> None:
    if not calibration:
        st.caption("Nothing was calibrated.")
        return
    rows = calibration["contrasts"]
    good = [row for row in rows if row["guaranteed"]]
    level = f" with confidence {calibration['confidence']:g}" if calibration["confidence"] else ""
    st.markdown(
        f"For {len(good)} of {len(rows)} comparisons the calibration rows are enough to hold the tolerance on the "
        f"population{level}, all of them at once. For the others the gap is set to zero on the calibration rows; "
        "no more than that is claimed."
    )
    st.dataframe(_guarantee_table(rows), hide_index=True, key="guarantee", height="content")
    with st.expander("Correction per group", icon=":material/table:"):
        cells = [{"group": " × ".join(map(str, one["cell"])), **_without(one, "cell")} for one in calibration["cells"]]
        st.dataframe(pd.DataFrame(cells), hide_index=True, key="corrections")


def _guarantee_table(rows: list[Json]) -> pd.DataFrame:
    counted = "persons" if any(row.get("counted") == "clusters" for row in rows) else "rows"
    table = [
        {
            "comparison": row["name"],
            "criterion": row["criterion"],
            "guaranteed": "yes" if row["guaranteed"] else "no",
            "tolerance": f"{row['tolerance']:g}",
            "margin": words.number(row["margin"]),
            "tolerance on the calibration rows": words.number(row["enforced_tolerance"]),
            f"{counted} of the smaller group needed": words.DASH
            if row["rows_needed"] is None
            else str(row["rows_needed"]),
        }
        for row in rows
    ]
    return pd.DataFrame(table)


def _without(content: Json, name: str) -> Json:
    return {key: value for key, value in content.items() if key != name}


def _show_training(tuning: Json | None) -> None:
    if not tuning or not tuning["history"]:
        st.caption("No head was trained.")
        return
    history = pd.DataFrame(tuning["history"])
    best = tuning["best_epoch"]
    figure = charts.lines(history, x="epoch", columns=("loss", "validation_loss"), mark=None if best < 0 else best)
    kept = (
        "the weights it started from were kept" if best < 0 else f"the dotted line marks epoch {best}, which was kept"
    )
    text = f"Loss over {len(history)} epochs, on the training rows and on the validation rows; {kept}."
    charts.draw(figure, key="training", words_for_it=text, data=history)
