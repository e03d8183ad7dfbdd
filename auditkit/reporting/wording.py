"""Numbers and findings in words, for readers who are not statisticians; facts only, never a legal conclusion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from auditkit.reporting.document import CriterionRow, Json, Outcome, ReportDocument

DASH = "—"
VERDICTS = {
    "pass": "within tolerance",
    "fail": "outside tolerance",
    "inconclusive": "inconclusive",
}
METRICS = {"accuracy": "Accuracy", "auc": "AUC", "brier": "Brier score", "log_loss": "Log-loss"}
LOWER_IS_BETTER = frozenset({"brier", "log_loss"})


def number(value: float | None, digits: int = 3) -> str:
    """A number with ``digits`` decimals, more for one that they would show as zero; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    if 0 < abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}".replace("-", "−")
    return f"{value + 0.0:.{digits}f}".replace("-", "−")  # + 0.0 takes the sign off a zero


def p_value(value: float | None) -> str:
    """A p-value with the sign before it, as "= 0.012" or "< 0.001"; a dash when there is none."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"= {number(value)}"


def signed(value: float | None, digits: int = 3) -> str:
    """As `number`, with a sign."""
    shown = number(value, digits)
    return shown if value is None or shown == DASH or value < 0 else f"+{shown}"


def interval(ends: Sequence[float | None] | None, digits: int = 3) -> str:
    """An interval in brackets, an end that is None without bound; a dash when there is none."""
    if ends is None:
        return DASH
    return f"[{number(ends[0], digits)}, {'∞' if ends[1] is None else number(ends[1], digits)}]"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return DASH if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %".replace("-", "−")


def count(value: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return DASH if value is None else f"{round(value):,}".replace(",", "\u202f")


def cell(value: str | float | None, kind: str) -> str:
    """A cell of a regulatory table as its column's kind shows it."""
    if value is None or isinstance(value, str):
        return value or DASH
    shown = {"count": _amount, "percent": percent, "ratio": number, "p": _bare_p_value}
    return shown.get(kind, number)(value)


def _amount(value: float) -> str:
    """A count, with a decimal where places or weights make it no whole number."""
    return count(value) if abs(value - round(value)) < 1e-9 else number(value, 1)


def _bare_p_value(value: float) -> str:
    return p_value(value).removeprefix("= ")


def tolerance(value: float) -> str:
    """A tolerance as it was written."""
    return f"{value:g}"


def moment(text: str) -> str:
    """A date and time in words, e.g. ``3 May 2026, 14:05 UTC``; what is no ISO date stays as it is."""
    try:
        when = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return text
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def join(words: Iterable[str]) -> str:
    """Words with commas and a final "and"."""
    listed = list(words)
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else "".join(listed)


def plural(amount: int, singular: str, several: str | None = None) -> str:
    """An amount with its noun."""
    return f"{amount} {singular if amount == 1 else several or singular + 's'}"


def meaning(criterion: Json) -> str:
    """What a criterion asks for, in a sentence."""
    groups = " and ".join(criterion["attributes"])
    groups = f"{groups} combined" if len(criterion["attributes"]) > 1 else groups
    within = _condition(criterion)
    bound = tolerance(criterion["tolerance"])
    if criterion["family"] == "ECP":
        return f"The average score of any two groups by {groups} differs by at most {bound}{within}."
    if criterion["form"] == "absolute":
        return (
            f"The average error (outcome minus score) of every group by {groups} is at most {bound} either way{within}."
        )
    return f"The average error (outcome minus score) of any two groups by {groups} differs by at most {bound}{within}."


def _condition(criterion: Json) -> str:
    parts = []
    for name in criterion.get("given") or ():
        if name != "@label":
            parts.append(f"the same {name}")
        elif criterion.get("label_value") is not None:
            parts.append(f"the outcome {criterion['label_value']}")
        else:
            parts.append("the same outcome")
    return f", among people with {join(parts)}" if parts else ""


def precision(outcome: Outcome) -> str:
    """What the sample can and cannot show, in a few sentences."""
    parts = []
    if outcome.corrected_gap is not None and outcome.gap is not None and len(outcome.gaps) > 1:
        parts.append(
            f"The largest of several estimates is too large on average; corrected for that, the largest gap is "
            f"{number(outcome.corrected_gap)} instead of {number(outcome.gap)}."
        )
    if outcome.detectable_gap is not None:
        parts.append(f"A gap of {number(outcome.detectable_gap)} would have been found with probability 0.8.")
    if outcome.rows_by_group:
        rows = join(f"{count(rows)} rows of {group}" for group, rows in outcome.rows_by_group.items())
        parts.append(f"About {rows} would settle what is open.")
    return " ".join(parts)


def tally(rows: Sequence[CriterionRow], *, after: bool) -> str:
    """How many criteria have which verdict, e.g. ``2 of 5 criteria are within tolerance, 3 are outside tolerance``."""
    verdicts = [row.after.verdict if after and row.after else row.before.verdict for row in rows]
    parts = [(verdicts.count(key), words) for key, words in VERDICTS.items() if key in verdicts]
    if len(parts) == 1:
        amount = parts[0][0]
        lead = {1: "The one criterion is", 2: "Both criteria are"}.get(amount, f"All {amount} criteria are")
        return f"{lead} {parts[0][1]}."
    first, *rest = [f"{amount} {'is' if amount == 1 else 'are'} {words}" for amount, words in parts]
    return f"Of {len(rows)} criteria, {join([first, *rest])}."


def summary(document: ReportDocument) -> list[tuple[str, str]]:
    """The report in a few paragraphs: (heading, text)."""
    parts = [("What was found", _found(document)), ("What was done", _done(document))]
    if document.after is not None:
        parts += [("What changed", _changed(document)), ("What it cost", _cost(document))]
    open_ends = _open(document)
    return [*parts, ("What remains open", open_ends)] if open_ends else parts


def _found(document: ReportDocument) -> str:
    worst = max(document.criteria, key=lambda row: (row.before.gap or 0) / max(row.tolerance, 1e-12), default=None)
    text = tally(document.criteria, after=False)
    if worst is None or worst.before.gap is None:
        return text
    sure = interval(worst.before.interval) if worst.before.interval else "(without interval: a group has too few rows)"
    return (
        f"{text} Measured against its tolerance, the largest gap is that of {worst.name}: {number(worst.before.gap)} "
        f"{sure}, where at most {tolerance(worst.tolerance)} was accepted."
    )


def _done(document: ReportDocument) -> str:
    if document.after is None:
        return "The model was measured as it is. Nothing about it was changed."
    names = join(row.name for row in document.enforced) or "the criteria of the plan"
    text = f"The model itself was left as it is. A new last layer was tuned on its features to hold {names}"
    return text + (
        ", and a fixed correction for every group was then set on separate rows."
        if document.run.get("calibration")
        else "."
    )


def _changed(document: ReportDocument) -> str:
    rows = [row for row in document.enforced or document.criteria if row.after is not None]
    moves = [f"{row.name} went from {number(row.before.gap)} to {number(row.after.gap)}" for row in rows if row.after]
    text = f"On the {count(document.audit['n_rows'])} rows that played no part in the tuning, the largest gap of "
    text += f"{join(moves)}."
    lost = [row for row in document.criteria if row.after and row.before.verdict == "pass" != row.after.verdict]
    for row in lost:
        text += f" {row.name} was within tolerance and is now {VERDICTS[row.after.verdict if row.after else 'fail']}"
        text += f" ({number(row.before.gap)} to {number(row.after.gap if row.after else None)})."
    return text


def deployed_method(document: ReportDocument) -> Json | None:
    """The method of the comparison that the run's "after" stands for."""
    methods = {method["name"]: method for method in (document.comparison or {}).get("methods", ())}
    return methods.get("calibrated") or methods.get("layer")


def _cost(document: ReportDocument) -> str:
    method = deployed_method(document)
    utility = (method or {}).get("utility") or {}
    change = ((method or {}).get("difference") or {}).get("accuracy")
    if method is None or not utility.get("accuracy"):
        return "This run did not measure what the change costs in accuracy; a comparison run does."
    text = f"Accuracy is {percent(utility['accuracy']['value'])} with {method.get('title') or method['name']}"
    if not change:
        return f"{text}."
    ends = f"[{signed(100 * change['low'], 1)}, {signed(100 * change['high'], 1)}]"
    shown = f"{signed(100 * change['value'], 1)} percentage points {ends} against the model as found"
    if change["low"] <= 0 <= change["high"]:
        return f"{text}: {shown}. The interval includes zero, so no cost in accuracy was shown."
    return f"{text}: {shown}."


def _open(document: ReportDocument) -> str:
    rows = [(row, row.after or row.before) for row in document.criteria]
    outside = [row.name for row, outcome in rows if row.after is not None and outcome.verdict == "fail"]
    undecided = [_undecided(row, outcome) for row, outcome in rows if outcome.verdict == "inconclusive"]
    parts = [f"Still outside tolerance: {join(outside)}."] if outside else []
    if undecided:
        parts.append(f"Not settled by these rows: {join(undecided)}.")
    contrasts = (document.run.get("calibration") or {}).get("contrasts") or ()
    lacking = sum(not contrast["guaranteed"] for contrast in contrasts)
    if lacking:
        parts.append(f"{lacking} of {plural(len(contrasts), 'comparison')} carry no guarantee beyond these rows.")
    return " ".join(parts)


def _undecided(row: CriterionRow, outcome: Outcome) -> str:
    if not outcome.rows_needed:
        return row.name
    return f"{row.name} (about {count(outcome.rows_needed)} rows in every group that is short of them would settle it)"


def claim(metric: str, difference: Json | None) -> str:
    """Better, worse, or no difference shown: a claim only where the paired interval excludes zero."""
    if not difference:
        return ""
    if difference["low"] <= 0 <= difference["high"]:
        return "no difference shown"
    return "better" if (difference["value"] > 0) != (metric in LOWER_IS_BETTER) else "worse"


def frontier_rows(comparison: Json) -> list[tuple[float, str, Json | None, list[float | None], str]]:
    """Every method at every further tolerance: ε, its title, its accuracy, its gaps by criterion, why there are none.

    A gap is that of the scores, or of the decisions where a method gives decisions only.
    """
    titles = {method["name"]: method.get("title") or method["name"] for method in comparison["methods"]}
    rows = []
    for level in sorted(comparison.get("frontier") or [], key=lambda level: level["tolerance"]):
        for method in level["methods"]:
            found = method["score_gaps"] or method["decision_gaps"]
            gaps = {gap["criterion"]: gap["gap"] for gap in found}
            wanted = [gaps.get(criterion["name"]) for criterion in comparison["criteria"]]
            accuracy = (method.get("utility") or {}).get("accuracy")
            rows.append((level["tolerance"], titles[method["name"]], accuracy, wanted, method["error"]))
    return rows


def standings(comparison: Json) -> list[tuple[str, str, str, str]]:
    """Who is ahead by each utility: the utility, whose gaps, who is not shown to exceed ε, the finding; in titles."""
    titles = {method["name"]: method.get("title") or method["name"] for method in comparison["methods"]}
    rows = []
    for winner in comparison.get("winners") or ():
        finding = winner["statement"].partition(": ")[2]
        for name, title in titles.items():
            finding = finding.replace(repr(name), f"“{title}”")  # titles hold commas
        eligible = "; ".join(titles[name] for name in winner["eligible"]) or "none"
        rows.append((METRICS.get(winner["utility"], winner["utility"]), winner["level"], eligible, finding))
    return rows
