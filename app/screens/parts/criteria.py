"""The criteria of the plan: what is there, in words, and a form to add one."""

from __future__ import annotations

import streamlit as st

import auditkit as ak

from . import planning, words
from .session import Json, Workspace, errors_shown


def edit(space: Workspace, *, attributes: list[str], strata: list[str], has_label: bool) -> None:
    """List the criteria, and let the visitor remove and add some."""
    _show_listed(space)
    left, right = st.columns(2)
    with left.popover("Add a criterion", icon=":material/add:", width="stretch", disabled=not attributes):
        _show_form(space, attributes, strata, has_label)
    if right.button(
        "Take the usual ones",
        key="usual",
        icon=":material/restart_alt:",
        width="stretch",
        disabled=not attributes,
    ):
        space.criteria = usual(attributes, has_label=has_label)
        st.rerun()


def usual(attributes: list[str], *, has_label: bool) -> list[Json]:
    """Parity of every attribute, of all crossed, and the residuals where outcomes are known."""
    sets = [[name] for name in attributes] + ([attributes] if len(attributes) > 1 else [])
    found: list[Json] = [{"family": "ECP", "attributes": names, "tolerance": 0.05} for names in sets]
    if has_label:
        found += [{"family": "EER", "attributes": [name], "tolerance": 0.05} for name in attributes]
    return found


def _show_listed(space: Workspace) -> None:
    try:
        built = planning.build(space).build_criteria()
    except ak.AuditkitError:
        built = ()
    for place, spec in enumerate(space.criteria):
        text, button = st.columns([5, 1], vertical_alignment="center")
        name, sentence = _described(spec, built[place] if built else None)
        text.markdown(f"**{words.plain(name)}** — {words.plain(sentence)}")
        if button.button(
            "Remove", key=space.key(f"remove-{place}"), icon=":material/delete:", help=f"Remove {words.plain(name)}"
        ):
            del space.criteria[place]
            st.rerun()
    if not space.criteria:
        st.info("No criterion yet. Add one, or take the usual ones.", icon=":material/info:")


def _described(spec: Json, criterion: ak.Criterion | None) -> tuple[str, str]:
    if criterion is None:
        return f"{spec['family']}({'×'.join(spec['attributes'])})", f"tolerance {spec['tolerance']:g}"
    return criterion.name, words.meaning(criterion.to_dict())


def _show_form(space: Workspace, attributes: list[str], strata: list[str], has_label: bool) -> None:
    with st.form(space.key("add-form"), border=False):
        family = st.selectbox(
            "Family", list(words.FAMILIES), format_func=words.FAMILIES.__getitem__, key=space.key("family")
        )
        names = st.multiselect(
            "Attributes",
            attributes,
            key=space.key("add-attributes"),
            help="Several are crossed: every combination is a group.",
        )
        tolerance = st.number_input(
            "Tolerance", min_value=0.0,  value=0.05, step=0.01, format="%.3f",
            key=space.key("add-tolerance"), help="The largest gap accepted, in the unit of the scores.",
        )  # fmt: skip
        given = _choose_given(space, strata)
        form = st.selectbox(
            "Form (EER only)", list(words.FORMS), format_func=words.FORMS.__getitem__, key=space.key("add-form-of")
        )
        if not has_label:
            st.caption("Without an outcome column, only ECP and demographic parity can be assessed.")
        if st.form_submit_button("Add", type="primary", key="add-criterion"):
            with errors_shown():
                add(space, family, names, tolerance=tolerance, given=given, form=form)
                st.rerun()


def _choose_given(space: Workspace, strata: list[str]) -> list[str]:
    if not strata:
        st.caption("To compare groups among those in the same situation, name legitimate conditions above first.")
        return []
    return st.multiselect(
        "Given (ECP and EER only)",
        strata,
        key=space.key("add-given"),
        help="Groups are compared within each value of these.",
    )


def add(space: Workspace, family: str, attributes: list[str], *, tolerance: float, given: list[str], form: str) -> None:
    """Add a criterion to the plan, unless the library refuses it.

    Raises:
        AuditkitError: The criterion is wrong; the plan is as it was.
    """
    if not attributes:
        raise ak.AuditkitError("choose at least one attribute for the criterion")
    spec: Json = {"family": family, "attributes": list(attributes), "tolerance": float(tolerance)}
    spec |= {"given": list(given)} if given else {}
    spec |= {"form": form} if family == "EER" else {}
    before = list(space.criteria)
    space.criteria = [*before, spec]
    try:
        planning.build(space)
    except ak.AuditkitError:
        space.criteria = before
        raise
