"""The app: choose data and a plan, audit, enforce, compare, and take the report away.

Start it with ``streamlit run app`` in the root of the repository.
"""

from __future__ import annotations

import streamlit as st
from screens import audit, compare, enforce, plan, report
from screens.parts import session

WIDTH = 1000


def main() -> None:
    """Draw the page that the visitor is on."""
    st.set_page_config(page_title="auditkit", page_icon=":material/balance:", layout="wide")
    pages = {
        "plan": st.Page(plan.show, title="1 Plan", url_path="plan", default=True),
        "audit": st.Page(audit.show, title="2 Audit", url_path="audit"),
        "enforce": st.Page(enforce.show, title="3 Enforce", url_path="enforce"),
        "compare": st.Page(compare.show, title="4 Compare", url_path="compare"),
        "report": st.Page(report.show, title="5 Report", url_path="report"),
    }
    session.set_pages(pages)
    page = st.navigation(list(pages.values()), position="top")
    with st.container(horizontal_alignment="center"), st.container(width=WIDTH):
        page.run()


main()
