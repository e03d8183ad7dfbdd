"""What a report says about itself: representation, plan, methods, guarantee, limits and terms, from the run's files."""

from __future__ import annotations

from auditkit.groups import value_in_words
from auditkit.reporting.document import Json, ReportDocument
from auditkit.reporting.sections import GroupShare, GuaranteeRecord, Paragraph, PlanRecord, Representation
from auditkit.reporting.wording import count, moment, number, percent, plural, tolerance

GLOSSARY = tuple(
    Paragraph(*term)
    for term in (
        ("Score", "What the model gives each person before any decision, here the number that the criteria are about."),
        ("Gap", "The difference between two groups' mean scores (or mean errors), in score units."),
        ("Tolerance (ε)", "The largest gap that the plan accepts."),
        (
            "ECP: expected conditional parity",
            (
                "The mean scores of all groups lie within ε of each other, overall or within strata. Given the outcome "
                "it is equalized odds, and given the positive outcome equal opportunity, of mean scores."
            ),
        ),
        (
            "EER: expected equalized residuals",
            (
                "The mean error, outcome minus score, of every group lies within ε of zero (absolute) or of the other "
                "groups' (pairwise)."
            ),
        ),
        (
            "Simultaneous interval",
            (
                "A range for each gap, wide enough that all ranges of the audit hold their true values together with "
                "the stated confidence."
            ),
        ),
        (
            "Selection rate and impact ratio",
            "The share of a group with a positive decision, and that share divided by the highest share of any group.",
        ),
        (
            "AUC, Brier score, log-loss",
            (
                "How well scores rank people, and how close they come to the outcomes: squared error and logarithmic "
                "error. Higher AUC and lower errors are better."
            ),
        ),
        (
            "Frozen model",
            (
                "The model is read and never changed; its fingerprint, taken before and checked by others, shows which "
                "model it was."
            ),
        ),
        ("Manifest", "A list of every file of the run with its SHA-256, so that a changed byte can be found."),
    )
)

_LIMITATIONS = (
    (
        "These rows, these groups",
        (
            "The figures describe the rows listed under Scope. They say nothing about groups that the data does not "
            "record, or about people unlike those in it."
        ),
    ),
    (
        "A batch is not the whole",
        (
            "Equal mean scores within every batch do not add up to equal mean scores overall unless each batch has the "
            "same mix of groups. Every gap here is of the pooled predictions."
        ),
    ),
    (
        "A gap is not a cause",
        (
            "A difference between groups can have many sources; this report measures its size, and neither explains "
            "nor excuses it."
        ),
    ),
    (
        "Scores are not decisions",
        (
            "The criteria bound mean scores or mean errors. What they do to decisions depends on the threshold and is "
            "stated under Decisions."
        ),
    ),
    (
        "Criteria can conflict",
        (
            "Holding one gap down can widen another; criteria that were not enforced are audited before and after for "
            "that reason."
        ),
    ),
)
_NO_LAW = ("No conclusion of law", "No verdict in this report says that a law was kept or broken.")


def report_options(document: ReportDocument) -> Json:
    """The section ``report`` of the audit file; empty where it has none."""
    return (document.run.get("plan") or {}).get("report") or {}


def report_fact(document: ReportDocument, name: str) -> str | None:
    """A fact that the audit file states for the report; None where it does not."""
    return (report_options(document).get("facts") or {}).get(name)


def describe_representation(document: ReportDocument) -> tuple[Representation, ...]:
    """Rows and shares of every group, among all rows and among those audited, beside the shares of the population."""
    data = document.run.get("data") or {}
    references = report_options(document).get("reference") or {}
    return tuple(
        _represent(document, attribute, values, data.get("rows") or 0, references.get(attribute) or {})
        for attribute, values in (data.get("attributes") or {}).items()
    )


def _represent(
    document: ReportDocument, attribute: str, values: Json, total: int, reference: dict[str, float]
) -> Representation:
    audited = _audited_rows(document.audit, attribute)
    groups = []
    for value in dict.fromkeys([*values, *reference]):
        rows = int(values.get(value, 0))
        share, expected = (rows / total if total else None), reference.get(value)
        difference = None if share is None or expected is None else share - expected
        seen = None if audited is None else audited.get(value, 0)
        groups.append(GroupShare(value, rows, share, seen, expected, difference))
    inferred = attribute in document.audit.get("inferred", ())
    return Representation(f"{attribute} (expected, by probabilities)" if inferred else attribute, tuple(groups))


def _audited_rows(audit: Json, attribute: str) -> dict[str, int] | None:
    sums = audit["moments"]
    if attribute not in sums["columns"] or audit.get("outputs") or attribute in audit.get("inferred", ()):
        return None
    rows: dict[str, int] = {}
    for value, amount in zip(sums["columns"][attribute], sums["count"], strict=True):
        name = value_in_words(value)
        rows[name] = rows.get(name, 0) + int(amount)
    return rows


def describe_plan(audit: Json) -> PlanRecord:
    """Whether the audit followed a plan that was frozen beforehand."""
    plan = audit.get("plan")
    if not plan:
        return PlanRecord(None, None, None, (), "No plan was frozen before the data were read.")
    frozen = f"the plan frozen on {moment(plan['frozen_at'])} (SHA-256 {plan['hash']})"
    differences = tuple(plan["differences"])
    followed = f"The audit followed {frozen}."
    departed = f"The audit departed from {frozen}: {'; '.join(differences)}."
    return PlanRecord(
        plan["followed"], plan["frozen_at"], plan["hash"], differences, followed if plan["followed"] else departed
    )


def describe_methods(document: ReportDocument) -> tuple[Paragraph, ...]:
    """How the figures of this run were reached."""
    audit, level = document.audit, percent(1 - document.audit["confidence"])
    parts = [
        (
            "Verdicts",
            (
                "Two questions are asked of every gap. A criterion is outside tolerance when one of its gaps was shown "
                f"to be above ε (p-value adjusted by Holm's method over all gaps of the audit, at most {level}), "
                f"within tolerance when every one of its gaps was shown to be below ε (p-value at most {level} each) "
                "and no group is missing, and inconclusive otherwise: missing evidence never counts as passing."
            ),
        ),
        (
            "Intervals",
            (
                f"Simultaneous over all gaps of the audit at {percent(audit['confidence'], 0)}: the critical value is "
                "the quantile of the largest of jointly normal deviations. They are wider than the tests above need: "
                "one may reach past a tolerance that is kept. Standard errors are linearised from sums "
                "per group; means of values in [0, 1] have the limits of a proportion."
            ),
        ),
    ]
    roles = {role: (document.run.get("plan") or {}).get("data", {}).get(role) for role in ("weight", "cluster")}
    if roles["weight"]:
        parts.append(("Weights", f"Rows count by {roles['weight']}; standard errors heed the weights."))
    if roles["cluster"]:
        together = "; what the split left to chance put them into one part" if document.run.get("split") else ""
        parts.append(("Clusters", f"Rows of one {roles['cluster']} are taken together, as one observation{together}."))
    if audit.get("decision_rule"):
        parts.append(("Decisions", f"{audit['decision_rule'].capitalize()} is a positive decision."))
    if document.after is not None:
        parts.append(
            (
                "Enforcement",
                (
                    "The head was trained on rows of its own, the corrections were set on others, and everything "
                    "under Findings was measured on rows that neither has seen."
                ),
            )
        )
    return tuple(Paragraph(*part) for part in parts)


def describe_guarantee(calibration: Json | None) -> GuaranteeRecord | None:
    """What the corrections promise; None without corrections."""
    if calibration is None:
        return None
    contrasts = calibration.get("contrasts") or ()
    if calibration.get("confidence") is None:
        text = (
            "No margin was taken off the tolerances, so the corrections hold on the calibration rows and carry no "
            "guarantee beyond them."
        )
        return GuaranteeRecord(None, 0, len(contrasts), None, text)
    held = sum(bool(contrast["guaranteed"]) for contrast in contrasts)
    needed = [contrast["rows_needed"] for contrast in contrasts if contrast.get("rows_needed")]
    clustered = any(contrast.get("counted") == "clusters" for contrast in contrasts)
    drawn, those = ("persons whose rows were calibrated on", "persons") if clustered else ("calibration rows", "rows")
    text = (
        f"{held} of {plural(len(contrasts), 'comparison')} carry this guarantee: with "
        f"{percent(calibration['confidence'], 0)} confidence over the draw of the {drawn}, and for all of "
        f"them at once, the gap in the population that those {those} were drawn from is within ε. To that end each was "
        "held to a tolerance that is smaller by its margin. The margin rests on a large-sample approximation."
    )
    if held < len(contrasts):
        text += (
            " The others carry none: a group is too small for its margin to fit into ε. They were held to a gap of "
            "zero on the calibration rows."
        )
    return GuaranteeRecord(calibration["confidence"], held, len(contrasts), max(needed, default=None), text)


def describe_limitations(document: ReportDocument) -> tuple[Paragraph, ...]:
    """What the figures of this run do not say."""
    parts = [*_LIMITATIONS, *_own_limitations(document)]
    if document.run.get("calibration") or document.after or document.comparison:
        methods = (document.comparison or {}).get("methods", ())
        shown = any(method["name"] == "head" for method in methods)
        parts.append(
            (
                "Group-aware corrections",
                (
                    "A correction that moves one person's score by that person's group may itself be treated as "
                    "differential treatment, and needs the group of every person when the model is used. The "
                    "alternative without it is the tuned head used group-blind: the same head without the correction. "
                    "It reads no protected attribute, and its gaps carry no guarantee"
                    f"{'; the comparison shows what it reaches' if shown else ''}. Which of the two may be used is a "
                    "question for counsel."
                ),
            )
        )
    return tuple(Paragraph(*part) for part in (*parts, _NO_LAW))


def _own_limitations(document: ReportDocument) -> list[tuple[str, str]]:
    """Limits that this run's own figures show."""
    parts = []
    undecided = [row for row in document.criteria if row.before.verdict == "inconclusive"]
    if undecided:
        needed = max((row.before.rows_needed or 0 for row in undecided), default=0)
        text = f"{plural(len(undecided), 'criterion', 'criteria')} could not be settled by these rows"
        text += f"; about {count(needed)} rows of the smaller group would do." if needed else "."
        parts.append(("Too few rows", text))
    weakest = [row for row in document.criteria if (row.before.detectable_gap or 0) > row.tolerance]
    if weakest:
        row = max(weakest, key=lambda row: (row.before.detectable_gap or 0) / max(row.tolerance, 1e-12))
        parts.append(
            (
                "Gaps that would go unseen",
                (
                    f"These rows would find a gap of {row.name} with probability 0.8 only from "
                    f"{number(row.before.detectable_gap)} on; its tolerance is {tolerance(row.tolerance)}."
                ),
            )
        )
    if document.audit.get("inferred"):
        parts.append(
            (
                "Inferred attributes",
                (
                    f"{', '.join(document.audit['inferred'])} are known by probabilities, not observed; gaps between "
                    "the people themselves may differ."
                ),
            )
        )
    return parts
