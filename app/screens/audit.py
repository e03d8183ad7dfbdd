"""Step 2: measure the gaps of the model as it is."""

from __future__ import annotations

from functools import partial

import streamlit as st

import auditkit as ak

from .parts import findings, planning, running, snippets
from .parts.session import Json, Run, errors_shown, step_buttons, workspace


def show() -> None:
    """Draw the page."""
    st.title("Audit")
    space = workspace()
    make = partial(planning.build, space)
    st.markdown("Every gap that the plan's criteria constrain is measured, with intervals that hold jointly.")
    running.start_button("audit", "Run the audit", make)
    run = space.runs.get("audit")
    if run is None:
        _show_plan_error()
        step_buttons(back="plan")
        return
    running.warn_if_outdated(run, make)
    audit = run.read("audit")
    if audit is not None:
        _show_audit(run, audit)
    with errors_shown():
        snippets.show("audit", ak.make_config(run.plan, folder=space.folder))
    step_buttons(back="plan", onward="enforce")


def _show_plan_error() -> None:
    with errors_shown():
        planning.build(workspace())


def _show_audit(run: Run, audit: Json) -> None:
    findings.show_verdict(audit, title="Model as found")
    findings.show_table(findings.verdict_table(audit), key="verdicts")
    st.caption(
        "Within tolerance: every gap was shown to be below it. Outside: some gap was shown to be above it. "
        "Inconclusive: these rows cannot tell; missing evidence never counts as within."
    )
    detail, decisions, what_if = st.tabs(["Score gaps", "Decisions", "What if"])
    with detail:
        place = findings.choose_finding(audit, key=run.key("criterion"))
        findings.show_finding(audit["findings"][place], key="audit-finding")
    with decisions:
        findings.show_decisions(audit, key=run.key("decisions"))
    with what_if:
        _show_what_if(run, audit)


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
    with errors_shown():
        outcome = reassess(run.outcome, tolerance=tolerance, confidence=confidence).to_dict()
        findings.show_verdict(outcome, title="At these settings")
        findings.show_table(findings.verdict_table(outcome), key="what-if-verdicts")
        place = findings.choose_finding(outcome, key=run.key("what-if-criterion"))
        findings.show_finding(outcome["findings"][place], key="what-if-finding", title="at these settings")


def reassess(outcome: ak.AuditResult, *, tolerance: float, confidence: float) -> ak.AuditResult:
    """The same audit with one tolerance for every criterion and another confidence, from its moments."""
    criteria = [finding.criterion.with_tolerance(tolerance) for finding in outcome.findings]
    return ak.evaluate_moments(
        outcome.moments, criteria, threshold=outcome.threshold, confidence=confidence, seed=outcome.seed
    )
