"""Charts as SVG, for pages that run no script and for print: drawn from the same figure as the interactive ones.

Only what the report's figures use is drawn: points, lines, error bars, lines and bands behind them, and annotations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape, unescape
from typing import Any

from auditkit.reporting.charts import Chart
from auditkit.reporting.document import Json

WIDTH = 640
_DASHES = {"dot": "2 3", "dash": "6 4"}
_LEGEND_LINE, _LETTER = 18, 6.4
_LEAST_LEFT, _LEAST_BOTTOM = 12, 46


@dataclass(frozen=True)
class _Axis:
    """One axis: a range of values on a range of pixels."""

    low: float
    high: float
    start: float
    end: float
    options: Json

    def place(self, value: float) -> float:
        """Where a value lies, in pixels."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the range, about five."""
        low, high = sorted((self.low, self.high))
        rough = (high - low) / 5
        base = 10 ** math.floor(math.log10(rough))
        step = next(factor * base for factor in (1, 2, 5, 10) if factor * base >= rough * 0.999)
        first = math.ceil(low / step - 1e-9)
        return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]

    def label(self, value: float) -> str:
        """A tick in words, as the figure's format says."""
        ticks = self.ticks()
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
        if str(self.options.get("tickformat", "")).endswith("%"):
            digits = max(0, -math.floor(math.log10(100 * step) + 1e-9))
            return f"{100 * value:.{digits}f}%".replace("-", "−")
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{value:.{digits}f}".replace("-", "−")


def draw_svg(chart: Chart, *, width: int = WIDTH) -> str:
    """A chart as one SVG element.

    Args:
        chart: The chart.
        width: In pixels; its height is the chart's.

    Returns:
        The SVG; text in it is escaped.
    """
    layout, traces = chart.figure["layout"], chart.figure["data"]
    drawing = _Drawing(traces, layout, width, chart.height)
    body = "".join(drawing.parts())
    title = escape(f"{chart.title}. {chart.description}", quote=True)
    size = f'width="{width}" height="{chart.height}" viewBox="0 0 {width} {chart.height}"'
    font = f'font-family="sans-serif" font-size="{layout["font"]["size"]}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} role="img"><title>{title}</title>{body}</svg>'


class _Drawing:
    """A figure while it is drawn."""

    def __init__(self, traces: Sequence[Json], layout: Json, width: int, height: int) -> None:
        self.traces, self.layout, self.width = traces, layout, width
        margin = layout["margin"]
        self.named = [trace for trace in traces if self._is_named(trace)]
        self.legend_below = layout.get("legend", {}).get("yanchor") == "top"
        lines = len(list(self._legend_rows()))
        self.top = max(margin["t"], 8 + _LEGEND_LINE * (0 if self.legend_below else lines))
        self.left = max(margin["l"], _LEAST_LEFT if self._hides_values() else 56)
        self.bottom = height - max(margin["b"], _LEAST_BOTTOM)
        if self.legend_below:
            self.bottom -= _LEGEND_LINE * lines
        self.right = width - margin["r"]
        self.axes = {key: self._pair(key) for key in dict.fromkeys(trace.get("xaxis", "x") for trace in traces)}

    def _hides_values(self) -> bool:
        return self.layout["yaxis"].get("visible") is False

    def _is_named(self, trace: Json) -> bool:
        shown = self.layout.get("showlegend", len(self.traces) > 1)
        return bool(shown and trace.get("name") and trace.get("showlegend", True))

    def _pair(self, key: str) -> tuple[_Axis, _Axis]:
        number = key.removeprefix("x")
        mine = [trace for trace in self.traces if trace.get("xaxis", "x") == key]
        x_options, y_options = self.layout[f"xaxis{number}"], self.layout[f"yaxis{number}"]
        low, high = y_options.get("domain", (0.0, 1.0))
        span = self.bottom - self.top
        x = self._axis(mine, "x", x_options, number, (self.left, self.right))
        y = self._axis(mine, "y", y_options, number, (self.bottom - low * span, self.bottom - high * span))
        return x, y

    def _axis(
        self, traces: Sequence[Json], letter: str, options: Json, number: str, ends: tuple[float, float]
    ) -> _Axis:
        if options.get("range") is not None:
            first, last = options["range"]
            return _Axis(first, last, ends[0], ends[1], options)
        values = [value for trace in traces for value in _extent(trace, letter)]
        for shape in self.layout.get("shapes", ()):
            if shape[f"{letter}ref"] == f"{letter}{number}":
                values += [shape[f"{letter}0"], shape[f"{letter}1"]]
        if options.get("rangemode") == "tozero":
            values.append(0.0)
        low, high = min(values, default=0.0), max(values, default=1.0)
        slack = 0.04 * (high - low) or 0.5
        floor = low if options.get("rangemode") == "tozero" and low == 0 else low - slack
        return _Axis(floor, high + slack, ends[0], ends[1], options)

    def parts(self) -> Iterator[str]:
        """Every element, from back to front."""
        for shape in sorted(self.layout.get("shapes", ()), key=lambda shape: shape["type"] != "rect"):
            yield self._shape(shape)
        for x, y in self.axes.values():
            yield from self._frame(x, y)
        for trace in self.traces:
            yield from self._trace(trace)
        for note in self.layout.get("annotations", ()):
            _, y = next(iter(self.axes.values()))
            yield _text(self.left, y.place(note["y"]) + 4, note["text"], colour=note["font"]["color"])
        yield from self._legend()

    def _shape(self, shape: Json) -> str:
        x, y = self.axes[shape["xref"]]
        first, last = x.place(shape["x0"]), x.place(shape["x1"])
        if shape["type"] == "rect":
            area = f'x="{first:.1f}" y="{y.end:.1f}" width="{last - first:.1f}" height="{y.start - y.end:.1f}"'
            return f'<rect {area} fill="{shape["fillcolor"]}"/>'
        return _line(first, y.start, last, y.end, shape["line"])

    def _frame(self, x: _Axis, y: _Axis) -> Iterator[str]:
        ink, muted = self.layout["font"]["color"], x.options["title"]["font"]["color"]
        grid = {"color": x.options["gridcolor"], "width": 1}
        for tick in x.ticks():
            place = x.place(tick)
            yield _line(place, y.start, place, y.end, grid)
            if x.options.get("showticklabels", True):
                yield _text(place, y.start + 16, x.label(tick), colour=ink, anchor="middle")
        if y.options.get("visible", True):
            for tick in y.ticks():
                yield _line(x.start, y.place(tick), x.end, y.place(tick), grid)
                yield _text(x.start - 6, y.place(tick) + 4, y.label(tick), colour=ink, anchor="end")
            middle = (y.start + y.end) / 2
            turn = f' transform="rotate(-90 14 {middle:.1f})"'
            yield _text(14, middle, y.options["title"].get("text", ""), colour=muted, anchor="middle", extra=turn)
        title = x.options["title"].get("text", "")
        yield _text((x.start + x.end) / 2, y.start + 34, title, colour=muted, anchor="middle")

    def _trace(self, trace: Json) -> Iterator[str]:
        x, y = self.axes[trace.get("xaxis", "x")]
        points = [
            (x.place(a), y.place(b))
            for a, b in zip(trace["x"], trace["y"], strict=True)
            if a is not None and b is not None
        ]
        if "lines" in trace["mode"] and points:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            yield f'<polyline points="{path}" fill="none" {_stroke(trace["line"])}/>'
        for letter, axis in (("x", x), ("y", y)):
            yield from _error_bars(trace, letter, axis, points)
        if "markers" in trace["mode"]:
            for a, b in points:
                yield _marker(a, b, trace["marker"])

    def _legend_rows(self) -> Iterator[list[Json]]:
        """Names in rows that fit the width."""
        row, used = [], 0.0
        for trace in self.named:
            space = 34 + _LETTER * len(unescape(trace["name"]))
            if row and used + space > self.width - 24:
                yield row
                row, used = [], 0.0
            row.append(trace)
            used += space
        if row:
            yield row

    def _legend(self) -> Iterator[str]:
        top = self.bottom + 54 if self.legend_below else 14
        for number, row in enumerate(self._legend_rows()):
            left, line = 12.0, top + _LEGEND_LINE * number
            for trace in row:
                if "lines" in trace["mode"]:
                    yield _line(left - 6, line - 4, left + 10, line - 4, trace["line"])
                if "markers" in trace["mode"]:
                    yield _marker(left + 2, line - 4, {**trace["marker"], "size": 8})
                yield _text(left + 14, line, trace["name"], colour=self.layout["font"]["color"])
                left += 34 + _LETTER * len(unescape(trace["name"]))


def _extent(trace: Json, letter: str) -> Iterator[float]:
    """Every value of a trace along one axis, with the ends of its error bars."""
    bars = trace.get(f"error_{letter}") or {}
    values = trace[letter]
    above, below = bars.get("array") or [0.0] * len(values), bars.get("arrayminus") or [0.0] * len(values)
    for value, up, down in zip(values, above, below, strict=True):
        if value is not None:
            yield value - (down or 0.0)
            yield value + (up or 0.0)


def _error_bars(trace: Json, letter: str, axis: _Axis, points: Sequence[tuple[float, float]]) -> Iterator[str]:
    bars = trace.get(f"error_{letter}")
    if not bars:
        return
    style = {"color": bars["color"], "width": bars["thickness"]}
    ends = zip(trace[letter], bars["arrayminus"], bars["array"], points, strict=True)
    for value, down, up, (a, b) in ends:
        low, high = axis.place(value - (down or 0.0)), axis.place(value + (up or 0.0))
        yield _line(low, b, high, b, style) if letter == "x" else _line(a, low, a, high, style)


def _marker(x: float, y: float, marker: Json) -> str:
    r, fill = marker["size"] / 2, marker["color"]
    symbol = marker.get("symbol", "circle")
    if symbol == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{fill}"/>'
    if symbol in ("cross", "x"):
        turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if symbol == "x" else ""
        path = f"M{x - r:.1f} {y:.1f}H{x + r:.1f}M{x:.1f} {y - r:.1f}V{y + r:.1f}"
        return f'<path d="{path}" stroke="{fill}" stroke-width="{r * 0.8:.1f}"{turn}/>'
    corners = " ".join(f"{x + r * a:.1f},{y + r * b:.1f}" for a, b in _corners(symbol))
    return f'<polygon points="{corners}" fill="{fill}"/>'


def _corners(symbol: str) -> list[tuple[float, float]]:
    """The corners of a symbol on the unit circle, from its top."""
    if symbol == "square":
        return [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
    sides = {"diamond": 4, "triangle-up": 3, "hexagon": 6, "star": 10}[symbol]
    radii = [1.2, 0.5] if symbol == "star" else [1.2]
    angles = [2 * math.pi * k / sides - math.pi / 2 for k in range(sides)]
    return [(radii[k % len(radii)] * math.cos(a), radii[k % len(radii)] * math.sin(a)) for k, a in enumerate(angles)]


def _line(x1: float, y1: float, x2: float, y2: float, style: Json) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {_stroke(style)}/>'


def _stroke(style: Json) -> str:
    dash = _DASHES.get(style.get("dash", ""))
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{style["color"]}" stroke-width="{style.get("width", 2)}"{dashes}'


def _text(x: float, y: float, text: Any, *, colour: str, anchor: str = "start", extra: str = "") -> str:
    """Text that is shown as it is; the figures hold it escaped, as Plotly wants it."""
    shown = escape(unescape(str(text)), quote=False)
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{extra}>{shown}</text>'
