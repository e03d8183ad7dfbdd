"""Plans: what will be tested, frozen with its hash and time before the data are read.

An analysis chosen after looking can always be made to pass. A plan holds criteria, tolerances, confidence, decision
rule and tests; the hash is over all of it but itself, so that an audit can state whether it did what was planned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from auditkit._validation import check_probability
from auditkit.criteria import Criterion, check_criteria
from auditkit.errors import InputError, SchemaError

SCHEMA = "auditkit.plan/1"
COLUMN_ROLES = ("weight", "decision", "cluster")
TESTS = {
    "fail": "one-sided test of |gap| ≤ tolerance per gap, Holm over all gaps of the audit, level 1 − confidence",
    "pass": "two one-sided tests of |gap| ≥ tolerance per gap, all gaps of a criterion at level 1 − confidence each",
    "intervals": "simultaneous over all gaps of the audit (max-t), at the confidence",
}


@dataclass(frozen=True)
class PlanCheck:
    """Whether an audit followed its plan.

    Attributes:
        followed: Whether nothing differs.
        differences: What differs, in words.
        frozen_at: When the plan was frozen (UTC, ISO 8601).
        hash: SHA-256 of the plan.
    """

    followed: bool
    differences: tuple[str, ...]
    frozen_at: str
    hash: str


@dataclass(frozen=True)
class Plan:
    """A frozen plan; made by `freeze_plan` or `Plan.load`.

    Attributes:
        criteria: The criteria with their tolerances, in order.
        confidence: Joint confidence.
        threshold: Threshold or rule of the decisions; None for none.
        seed: Seed of the simulations.
        frozen_at: When it was frozen (UTC, ISO 8601).
        tests: What is tested how.
        columns: Columns that change what is estimated or tested, by role: weight, decision, cluster.
    """

    criteria: tuple[Criterion, ...]
    confidence: float
    threshold: float | str | None
    seed: int
    frozen_at: str
    tests: tuple[tuple[str, str], ...] = tuple(TESTS.items())
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON of everything else."""
        text = json.dumps(self._content(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "frozen_at": self.frozen_at,
            "criteria": [criterion.to_dict() for criterion in self.criteria],
            "confidence": self.confidence,
            "threshold": self.threshold,
            "seed": self.seed,
            "tests": dict(self.tests),
            **({"columns": dict(self.columns)} if self.columns else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready values, with its hash."""
        return {**self._content(), "hash": self.hash}

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON; a plan is never overwritten.

        Raises:
            InputError: The file exists.
        """
        target = Path(path)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        try:
            with target.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise InputError(f"{target.name!r} exists, and a frozen plan stays as it is; name another file") from error
        return target

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan and check that it is as it was frozen.

        Raises:
            InputError: There is no such file.
            SchemaError: It is not a plan, or was changed after it was frozen.
        """
        place = Path(path)
        if not place.is_file():
            raise InputError(f"there is no plan {str(path)!r}; `auditkit plan` writes one")
        try:
            content = json.loads(place.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise SchemaError(f"{place.name} has schema {content['schema']!r}; this release reads {SCHEMA!r}")
            criteria = tuple(Criterion.from_dict(entry) for entry in content["criteria"])
            plan = cls(
                criteria, content["confidence"], content["threshold"], content["seed"], content["frozen_at"],
                tuple(content["tests"].items()), tuple(content.get("columns", {}).items()),
            )  # fmt: skip
            stated = content["hash"]
        except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SchemaError(f"{place.name} is not a plan ({error}); `auditkit plan` writes one") from error
        if stated != plan.hash:
            raise SchemaError(f"{place.name} was changed after it was frozen: its content has hash {plan.hash[:12]}…")
        return plan

    def check(
        self,
        criteria: Sequence[Criterion],
        *,
        confidence: float,
        threshold: float | str | None,
        seed: int,
        columns: Mapping[str, str | None] | None = None,
    ) -> PlanCheck:
        """Whether an audit with these settings follows the plan.

        Args:
            criteria: What is audited.
            confidence: Its joint confidence.
            threshold: Its threshold or rule.
            seed: Its seed.
            columns: Its columns of weights, decisions and clusters, by role; None for one that came without a name.
        """
        differences = []
        planned, audited = ([c.to_dict() for c in listed] for listed in (self.criteria, criteria))
        differences += [f"criterion {c['name']} was planned and not audited" for c in planned if c not in audited]
        differences += [f"criterion {c['name']} was audited and not planned" for c in audited if c not in planned]
        for name, was, now in (
            ("confidence", self.confidence, confidence),
            ("threshold", self.threshold, threshold),
            ("seed", self.seed, seed),
            ("tests", dict(self.tests), TESTS),
        ):
            if was != now:
                differences.append(f"{name} was planned as {was!r} and is {now!r}")
        differences += _column_differences(dict(self.columns), columns or {})
        return PlanCheck(not differences, tuple(differences), self.frozen_at, self.hash)


def _column_differences(planned: Mapping[str, str], given: Mapping[str, str | None]) -> list[str]:
    return [
        f"{role} was planned as {_in_words(planned, role)} and is {_in_words(given, role)}"
        for role in COLUMN_ROLES
        if (role in planned) != (role in given) or given.get(role) not in (None, planned.get(role))
    ]


def _in_words(columns: Mapping[str, str | None], role: str) -> str:
    return repr(columns[role] or "given") if role in columns else "none"


def freeze_plan(
    criteria: Criterion | Sequence[Criterion],
    *,
    confidence: float = 0.95,
    threshold: float | str | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> Plan:
    """Freeze what will be tested; do so before the data are looked at.

    Args:
        criteria: The criteria with their tolerances.
        confidence: Joint confidence, in (0, 1).
        threshold: Threshold or rule of the decisions.
        seed: Seed of the simulations.
        columns: Columns that change what is estimated or tested, by role: "weight", "decision", "cluster".

    Returns:
        The plan, dated now.

    Raises:
        InputError: A confidence outside (0, 1), an unknown role.
    """
    listed = check_criteria(criteria)
    unknown = sorted(set(columns or {}) - set(COLUMN_ROLES))
    if unknown:
        raise InputError(f"columns has roles {', '.join(COLUMN_ROLES)}; got {', '.join(unknown)}")
    check_probability("confidence", confidence)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Plan(listed, confidence, threshold, seed, now, columns=tuple(sorted((columns or {}).items())))
