"""`render_html`: the report as one file that holds all it needs and asks the network for nothing.

What comes from the data is escaped by the templates, and inside script elements by `_embed`. The page's
Content-Security-Policy lets no script run but the two it was written with.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from auditkit.reporting import wording
from auditkit.reporting.charts import DARK, Chart, gap_chart, history_chart, mean_chart, rate_chart, trade_off_charts
from auditkit.reporting.document import ReportDocument
from auditkit.reporting.frontier import comparison_frontier_chart, frontier_chart
from auditkit.reporting.reliability import reliability_chart
from auditkit.reporting.static_charts import draw_svg

if TYPE_CHECKING:
    from auditkit.reporting.public import PublicSummary

_TEMPLATES = Path(__file__).parent / "templates"
_FILTERS = (
    "cell",
    "claim",
    "count",
    "interval",
    "meaning",
    "moment",
    "number",
    "p_value",
    "percent",
    "plural",
    "precision",
    "signed",
    "frontier_rows",
    "standings",
    "tolerance",
)
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def render_html(document: ReportDocument, *, static: bool = False) -> str:
    """The report as one self-contained HTML page.

    Args:
        document: What it states.
        static: Whether its charts are drawings and every table is open, for print; such a page holds no script.

    Returns:
        The page; equal documents give equal pages.
    """
    charts = build_charts(document)
    plotly, script = ("", "") if static else (_plotly_source(), _read("report.js"))
    figures = {} if static else {key: chart.figure for key, chart in charts.items()}
    drawings = {key: Markup(draw_svg(chart)) for key, chart in charts.items()} if static else {}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            doc=document,
            charts=charts,
            style=Markup(_read("report.css") + (_read("static.css") if static else "")),
            plotly=Markup(plotly),
            script=Markup(script),
            hashes=[] if static else [_policy_hash(plotly), _policy_hash(script)],
            static=static,
            drawings=drawings,
            figures=_embed({"figures": figures, "dark": DARK}),
        )
    )


def render_public_html(summary: PublicSummary) -> str:
    """The public summary as one page without scripts.

    Args:
        summary: What it states.
    """
    template = _environment().get_template("public.html.j2")
    return template.render(summary=summary, style=Markup(_read("report.css")))


def build_charts(document: ReportDocument) -> dict[str, Chart]:
    """Every chart of a report by its key, such as gaps-0, means-0, rates-0, reliability-0, history or trade-off-0."""
    charts: list[Chart | None] = []
    for position, row in enumerate(document.criteria):
        charts += [gap_chart(row, key=f"gaps-{position}"), mean_chart(row, key=f"means-{position}")]
    charts += [rate_chart(pair, key=f"rates-{position}") for position, pair in enumerate(document.decisions)]
    tables = enumerate(document.audit["reliability"])
    charts += [reliability_chart(table, key=f"reliability-{position}") for position, table in tables]
    charts += [history_chart(document), frontier_chart(document.frontier)]
    if document.comparison is not None:
        charts += [*trade_off_charts(document.comparison), comparison_frontier_chart(document.comparison)]
    return {chart.key: chart for chart in charts if chart is not None}


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(wording, name) for name in _FILTERS}
    environment.globals |= {
        "METRICS": wording.METRICS,
        "VERDICTS": wording.VERDICTS,
        "tally": wording.tally,
    }
    return environment


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _plotly_source() -> str:
    from auditkit.reporting.charts import plotly_source

    return plotly_source()


def _policy_hash(source: str) -> str:
    """The hash by which the page's policy lets a script run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _embed(values: Any) -> Markup:
    """JSON for a script element: no character of it can end the element or open a comment."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.translate(_ESCAPES))
