"""Verdicts, criteria and numbers in words; facts only, never a legal conclusion."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

Json = dict[str, Any]

DASH = "—"
ROUNDING = 1e-9
"""Numbers closer to zero are zero but for rounding."""
VERDICTS = {"pass": "within tolerance", "fail": "outside tolerance", "inconclusive": "inconclusive"}
ICONS = {"pass": ":material/check_circle:", "fail": ":material/cancel:", "inconclusive": ":material/help:"}
COLOURS = {"pass": "blue", "fail": "orange", "inconclusive": "gray"}
FAMILIES = {
    "ECP": "Parity of the mean score (ECP)",
    "EER": "Equalized residuals (EER)",
    "demographic_parity": "Demographic parity",
    "equalized_odds": "Equalized odds",
    "equal_opportunity": "Equal opportunity",
}
FORMS = {"absolute": "each group against zero", "pairwise": "groups against each other"}
RULES = {
    "threshold": "scores from a threshold on",
    "median": "scores above the median of all rows",
    "top": "the highest scores",
}
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|$~<>:^=&])")


def plain(text: object) -> str:
    """Text that Markdown shows as it is."""
    return _MARKUP.sub(r"\\\1", str(text))


def for_chart(text: object) -> str:
    """Text that Plotly shows as it is."""
    return html.escape(str(text), quote=False)


def number(value: float | None, digits: int = 3) -> str:
    """A number; a dash where there is none."""
    if value is None:
        return DASH
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def percent(value: float | None) -> str:
    """A share as a percentage; a dash where there is none."""
    return DASH if value is None else f"{100 * value:.1f} %".replace("-", "−")


def interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    """An interval; a dash where there is none. An end that is not zero is never shown as zero: its sign matters."""
    return DASH if ends is None else f"[{_end(ends[0], digits)}, {_end(ends[1], digits)}]"


def _end(value: float, digits: int) -> str:
    shown = number(value, digits)
    if abs(value) < ROUNDING or shown.strip("−0."):
        return shown
    return f"{Decimal(f'{value:.0e}'):f}".replace("-", "−")


def estimate(value: Json | None, digits: int = 3) -> str:
    """An estimate with its interval; a dash where there is none."""
    if not value:
        return DASH
    return f"{number(value['value'], digits)} {interval((value['low'], value['high']), digits)}"


def count(value: int) -> str:
    """A whole number, grouped by thousands."""
    return f"{value:,}".replace(",", "\u202f")


def verdict(value: str) -> str:
    """A verdict with its icon and colour; the words alone say it all."""
    return f":{COLOURS[value]}-badge[{ICONS[value]} {VERDICTS[value]}]"


def meaning(criterion: Json) -> str:
    """What a criterion asks for, in a sentence."""
    groups = " × ".join(criterion["attributes"])
    bound = f"{criterion['tolerance']:g}"
    if criterion["family"] == "ECP":
        what = f"The mean scores of any two groups by {groups} differ by at most {bound}"
    elif criterion["form"] == "absolute":
        what = f"The mean error (outcome − score) of every group by {groups} is at most {bound} either way"
    else:
        what = f"The mean errors (outcome − score) of any two groups by {groups} differ by at most {bound}"
    return what + _condition(criterion) + "."


def _condition(criterion: Json) -> str:
    parts = [name for name in criterion.get("given") or () if name != "@label"]
    words = [f"the same {name}" for name in parts]
    if "@label" in (criterion.get("given") or ()):
        value = criterion.get("label_value")
        words.append("the same outcome" if value is None else f"the outcome {value}")
    return f", among rows with {' and '.join(words)}" if words else ""


def cell(value: Json) -> str:
    """A group within its stratum."""
    return f"{value['group']} · {value['stratum']}" if value["stratum"] else value["group"]
