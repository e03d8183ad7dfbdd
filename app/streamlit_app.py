"""The app: choose data and a plan, audit, enforce, compare, watch a stream, and take the report away.

Start it with ``streamlit run app`` in the root of the repository.
"""

from __future__ import annotations

import streamlit as st
from screens import audit, compare, data, enforce, report, start, stream
from screens.parts import charts, running, session

WIDTH = 1000


def main() -> None:
    """Draw the page that the visitor is on."""
    st.set_page_config(page_title="auditkit", page_icon=":material/balance:", layout="wide")
    charts.follow_theme()
    pages = {
        "start": st.Page(start.show, title="Start", url_path="start", default=True),
        "data": st.Page(data.show, title="Data & model", url_path="data"),
        "audit": st.Page(audit.show, title="Audit", url_path="audit"),
        "enforce": st.Page(enforce.show, title="Enforce", url_path="enforce"),
        "compare": st.Page(compare.show, title="Compare", url_path="compare"),
        "stream": st.Page(stream.show, title="Stream", url_path="stream"),
        "report": st.Page(report.show, title="Report", url_path="report"),
    }
    session.set_pages(pages)
    page = st.navigation(list(pages.values()), position="top")
    session.note_address()
    with running.watched():
        try:
            with st.container(horizontal_alignment="center"), st.container(width=WIDTH):
                session.show_loss()
                page.run()
        finally:
            session.keep(session.workspace())


main()
