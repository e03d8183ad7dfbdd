"""Audit: measure the gaps of the model as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

import auditkit as ak

from .parts import findings, group_charts, planning, running, snippets
from .parts.session import Json, Run, errors_shown, kept, step_buttons, workspace

THEN = "at these settings"
NO_OUTCOME = "This needs an outcome of every row; name its column on the page Data & model."


def show() -> None:
    """Draw the page."""
    st.title("Audit")
    space = workspace()
    make = partial(planning.build, space)
    st.markdown("Every gap that the plan's criteria constrain is measured, with intervals that hold jointly.")
    running.start_button("audit", "Run the audit", make)
    run = space.runs.get("audit")
    if run is None:
        if space.job is None:
            _show_plan_error()
        step_buttons(back="data")
        return
    running.warn_if_outdated(run, make)
    audit = run.read("audit")
    if audit is not None:
        _show_audit(run, audit)
    with errors_shown():
        snippets.show("audit", ak.make_config(run.plan, folder=space.folder))
    step_buttons(back="data", onward="enforce")


def _show_plan_error() -> None:
    with errors_shown():
        planning.build(workspace())


def _show_audit(run: Run, audit: Json) -> None:
    findings.show_verdict(audit, title="Model as found")
    findings.show_table(findings.verdict_table(audit), key="verdicts")
    st.caption(
        "Within tolerance: every gap was shown to be below it. Outside: some gap was shown to be above it. "
        "Inconclusive: these rows cannot tell; missing evidence never counts as within. The intervals hold for all "
        "gaps at once and are wider than what a verdict is tested with: one may reach past a tolerance that is kept."
    )
    view = kept(
        st.radio, "Look at", key=run.key("view"), default="Score gaps", options=list(VIEWS),
        horizontal=True, label_visibility="collapsed",
    )  # fmt: skip
    VIEWS[view or "Score gaps"](run, audit)


def _show_gaps(run: Run, audit: Json) -> None:
    place = findings.choose_finding(audit, key=run.key("criterion"))
    findings.show_finding(audit["findings"][place], key="audit-finding")


def _show_decisions(run: Run, audit: Json) -> None:
    findings.show_decisions(audit, key=run.key("decisions"))


def _without_sums(run: Run, otherwise: str) -> str:
    """Why there are no sums by score to answer from."""
    return "A run that was made elsewhere brings no sums by score; run the audit here." if run.opened else otherwise


@st.fragment
def _show_distributions(run: Run, audit: Json) -> None:
    del audit
    if run.profile is None:
        st.caption(_without_sums(run, "There are too many groups to keep the distribution of each."))
        return
    sets = list(run.outcome.attribute_sets)
    names = [" × ".join(attributes) for attributes in sets]
    place = st.selectbox("Distributions by", range(len(sets)), format_func=lambda k: names[k], key=run.key("spread-by"))
    place = min(place or 0, len(sets) - 1)
    group_charts.show_distributions(run.profile.distributions(sets[place]), by=names[place], key="distributions")


@st.fragment
def _show_errors(run: Run, audit: Json) -> None:
    if not audit["errors"]:
        st.caption(NO_OUTCOME)
        return
    table = group_charts.choose_table(audit["errors"], key=run.key("errors-by"), label="Errors by")
    group_charts.show_errors(table, key="errors")


@st.fragment
def _show_reliability(run: Run, audit: Json) -> None:
    if not audit["reliability"]:
        st.caption("Reliability needs scores and outcomes between 0 and 1.")
        return
    table = group_charts.choose_table(audit["reliability"], key=run.key("reliability-by"), label="Reliability by")
    group_charts.show_reliability(table, key="reliability")


@st.fragment
def _show_subgroups(run: Run, audit: Json) -> None:
    searches = audit["subgroups"]
    if not searches:
        st.caption("There are too many subgroups to screen them here.")
        return
    st.markdown("Screening: a place to look further. No verdict depends on it.")
    names = {"ECP": "mean scores", "EER": "mean residuals (outcome − score)"}
    place = st.selectbox(
        "Compared are", range(len(searches)), format_func=lambda k: names[searches[k]["family"]],
        key=run.key("screened"),
    )  # fmt: skip
    search = searches[min(place or 0, len(searches) - 1)]
    group_charts.show_subgroups(search, key=f"subgroups-{search['family']}")


@st.fragment
def _show_what_if(run: Run, audit: Json) -> None:
    st.markdown(
        "How would the verdicts be at other settings? This is worked out from the stored sums, without reading "
        "the rows again. It is for understanding; the plan on record stays what it is."
    )
    left, right = st.columns(2)
    first = max(finding["criterion"]["tolerance"] for finding in audit["findings"])
    tolerance = left.slider(
        "Tolerance of every criterion", 0.0, max(0.5, 2 * first), first, 0.005, format="%.3f", key=run.key("tolerance")
    )
    confidence = right.slider("Confidence", 0.8, 0.99, float(audit["confidence"]), 0.01, key=run.key("confidence"))
    view = st.radio("What", ["Score gaps", "Decisions"], key=run.key("what-if-view"), horizontal=True)
    with errors_shown():
        if view == "Decisions":
            _show_other_decisions(run, audit, confidence)
        else:
            _show_other_gaps(run, tolerance, confidence)


def _show_other_gaps(run: Run, tolerance: float, confidence: float) -> None:
    outcome = reassess(run, tolerance=tolerance, confidence=confidence)
    findings.show_verdict(outcome, title="At these settings")
    findings.show_table(findings.verdict_table(outcome), key="what-if-verdicts")
    place = findings.choose_finding(outcome, key=run.key("what-if-criterion"))
    findings.show_finding(outcome["findings"][place], key="what-if-finding", title=THEN)


def reassess(run: Run, *, tolerance: float, confidence: float) -> Json:
    """The findings of a run at one tolerance for every criterion and another confidence, from its sums.

    Args:
        run: The run.
        tolerance: Of every criterion.
        confidence: Joint confidence.

    Returns:
        The keys of audit.json that the findings are shown from.
    """
    before = run.outcome
    if run.profile is not None:
        outcome = run.profile.evaluate(rule=None, tolerance=tolerance, confidence=confidence)
    else:
        criteria = [finding.criterion.with_tolerance(tolerance) for finding in before.findings]
        outcome = ak.evaluate_moments(before.moments, criteria, confidence=confidence, seed=before.seed)
    found = [finding.to_dict() for finding in outcome.findings]
    return {"verdict": outcome.verdict, "n_rows": outcome.n_rows, "confidence": confidence, "findings": found}


def _show_other_decisions(run: Run, audit: Json, confidence: float) -> None:
    if run.profile is None:
        st.caption(_without_sums(run, "There are too many groups to answer this without the rows."))
        return
    sets = list(run.outcome.attribute_sets)
    names = [" × ".join(attributes) for attributes in sets]
    left, right = st.columns(2)
    place = left.selectbox("Groups", range(len(sets)), format_func=names.__getitem__, key=run.key("what-if-by")) or 0
    with right:
        rule = _choose_rule(run, audit)
    table = run.profile.decisions(rule, sets[min(place, len(sets) - 1)], confidence=confidence).to_dict()
    outcome = {"decisions": [table], "decision_rule": run.profile.describe_rule(rule)}
    findings.show_decisions(outcome, key=run.key("what-if-decisions"), title=THEN)


def _choose_rule(run: Run, audit: Json) -> float | str:
    """A rule of decision among those that the sums by score can answer."""
    titles = {"threshold": "scores from a threshold on"}
    titles |= {name: f"the {name.removeprefix('top ')} highest scores" for name in run.profile.cuts}
    titles |= {"median": "scores above the median"} if "median" in titles else {}
    rule = st.selectbox("Positive are", list(titles), format_func=titles.__getitem__, key=run.key("rule"))
    if rule != "threshold":
        return rule
    options = [float(value) for value in run.profile.thresholds]
    wanted = 0.5 if audit["threshold"] is None else audit["threshold"]
    start = min(options, key=lambda value: abs(value - wanted))
    return st.select_slider(
        "Threshold", options, start, format_func=lambda value: f"{value:.4g}", key=run.key("threshold")
    )


VIEWS: dict[str, Callable[[Run, Json], None]] = {
    "Score gaps": _show_gaps,
    "Decisions": _show_decisions,
    "Distributions": _show_distributions,
    "Errors": _show_errors,
    "Reliability": _show_reliability,
    "Subgroups": _show_subgroups,
    "What if": _show_what_if,
}
"""One is drawn at a time, so that the page stays quick."""
