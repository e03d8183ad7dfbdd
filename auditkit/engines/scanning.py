"""`scan`: the moments of an audit from a table, by one aggregation where the rows are."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from auditkit._tables import hashing
from auditkit._typing import FloatArray
from auditkit.criteria import Criterion, check_criteria
from auditkit.decision_rules import Rule
from auditkit.engines import clusters, labels, statements
from auditkit.engines.base import Engine, OutOfRangeError, TableScan
from auditkit.engines.bins import bin_numbers, has_probabilities, sample_parts, split_bins, with_score_bins
from auditkit.engines.cuts import find_cut
from auditkit.engines.keys import key_values
from auditkit.engines.opening import check_columns, check_kinds, open_engine
from auditkit.engines.statements import Roles, Term
from auditkit.errors import InputError
from auditkit.groups import LABEL, Cells, Groups
from auditkit.margins import SCORE_BIN
from auditkit.moments import MAX_LABEL_STRATA, Moments, Rows, cell_columns, check_clustered_cells, products
from auditkit.table_roles import AttributeSpec, Key, parse_specs

SAMPLE_ROWS = 10_000
MAX_PASSES = 5
"""One pass over the rows is the rule; others follow where the first rows misled about size or digits."""

_ROLE_NAMES = {"z": "score", "y": "label", "d": "decision", "w": "weight"}


def scan(
    table: Any,
    criteria: Criterion | Sequence[Criterion],
    *,
    score: str,
    label: str | None = None,
    positive_label: Hashable | None = None,
    weight: str | None = None,
    decision: str | None = None,
    threshold: Rule | None = None,
    clusters: str | None = None,
    attributes: Sequence[AttributeSpec] | AttributeSpec = (),
    engine: str = "duckdb",
    max_gib: float | None = None,
) -> Moments:
    """The sums per cell that an audit needs, from a table that may be larger than memory.

    Args:
        table: A path or glob pattern of .parquet, .csv, .arrow or .feather files, several of them, or a frame of
            pandas, polars, pyarrow or Spark.
        criteria: The criteria that will be audited.
        score: Column of scores z.
        label: Column of labels y.
        positive_label: Value of the label that counts as 1 (every other as 0); needed for text.
        weight: Column of row weights.
        decision: Column of decisions, or of their probabilities, in place of a threshold.
        threshold: Scores at or above it are positive decisions; or "median", "top 100" or "top 5%", as
            `auditkit.decisions.decide` takes them.
        clusters: Column that says whom each row is of, where several rows are of one person.
        attributes: Attributes and strata that are not plain columns, such as
            ``{"age_band": {"column": "age", "bins": [18, 30, 45, 60]}}`` or ``{"old": {"expression": "age >= 65"}}``.
        engine: "duckdb", or "spark" for a table on a cluster.
        max_gib: Largest decoded size that a file may declare, in GiB; 1024 by default. Spark is not held to it.

    Returns:
        The moments; `auditkit.evaluate_moments` gives the verdicts.

    Raises:
        SchemaError: The table lacks a column that is named, or the column has the wrong kind.
        InputError: The table cannot be read or is empty; a score, label or weight is missing, NaN or infinite; a
            decision rule is unknown, or given beside a column of decisions.
        MissingExtraError: The engine is not installed.
    """
    listed = check_criteria(criteria)
    specs = {key.name: key for key in parse_specs("attributes", attributes)}
    plain = {name: Key(name, name) for c in listed for name in c.columns if name != LABEL and name not in specs}
    used = {name: rule for name, rule in {**specs, **plain}.items() if any(name in c.columns for c in listed)}
    if inferred := [name for name, key in used.items() if key.probabilities]:
        raise InputError(
            f"attributes: {inferred[0]!r} is inferred, which is for rows in memory; take auditkit.load_table and "
            "auditkit.audit"
        )
    roles = Roles(score, label, positive_label, weight, decision, threshold, clusters, keys=used)
    with open_engine(table, engine, max_gib=max_gib) as opened:
        return _Scan(opened, listed, roles).moments()


def scan_table(
    table: Any, criteria: Sequence[Criterion], roles: Roles, *, engine: str = "duckdb", max_gib: float | None = None
) -> TableScan:
    """`scan` for roles that are already sorted out, with what else a record of the run states about the table.

    Args:
        table: As `scan`.
        criteria: The criteria.
        roles: Which columns are what; keys that no criterion reads are counted as well.
        engine: As `scan`.
        max_gib: As `scan`.

    Returns:
        Moments and counts.

    Raises:
        InputError: As `scan`.
    """
    with open_engine(table, engine, max_gib=max_gib) as opened, hashing(opened.files) as digest:
        task = _Scan(opened, criteria, with_score_bins(roles))
        moments, bins = split_bins(task.moments())
        counts = {name: task.counts(name, moments) for name in roles.keys}
        mean = None if roles.label is None else float(moments.label.sum() / moments.weight.sum())
        sha256 = digest() if opened.files else None
        return TableScan(moments, counts, mean, opened.files, sha256, int(moments.count.sum()), task.roles.cut, bins)


class _Scan:
    """One scan: the steps share the engine, the columns and the roles."""

    def __init__(self, engine: Engine, criteria: Sequence[Criterion], roles: Roles) -> None:
        needing = [criterion.name for criterion in criteria if criterion.needs_labels]
        if needing and roles.label is None:
            raise InputError(f"label is needed by {', '.join(needing)}; name the column of labels")
        if roles.decision is not None and roles.threshold is not None:
            raise InputError(
                f"threshold is {roles.threshold!r}, and decision names the column {roles.decision!r}; both say what a "
                "decision is, so give one of them"
            )
        check_columns(engine, roles)
        self.engine, self.criteria = engine, criteria
        self.columns = engine.bind([name for names in roles.named().values() for name in names])
        check_kinds(engine, self.columns, roles)
        positive = None if roles.label is None else labels.read_positive(engine, self.columns, roles)
        self.roles = replace(roles, positive_label=positive)
        self.given = self.roles.given
        self.checked = self._checked(label_key=False)
        self.keys = [name for name in roles.keys if name == SCORE_BIN or any(name in c.columns for c in criteria)]

    def _checked(self, *, label_key: bool) -> statements.Checked:
        """What is looked at beside the sums: not the labels where they are keys, nor the decisions made on scores."""
        known = "y" * label_key + "d" * (self.roles.threshold is not None)
        return statements.Checked([n for n in statements.checks(self.given) if n not in known], self._extremes())

    def _extremes(self) -> tuple[str, ...]:
        """What tells a weight or a decision that is out of range."""
        weights = ("min(w)",) if self.roles.weight is not None else ()
        return (*weights, "min(d)", "max(d)") if self.roles.decision is not None else weights

    def moments(self) -> Moments:
        """The sums per cell: a look at the first rows, then one aggregation of all."""
        sample = self._decide(self._sample())
        label_key = self._expects_label_key(sample)
        if SCORE_BIN in self.keys and not has_probabilities(sample):
            self.keys.remove(SCORE_BIN)
        answer, terms = self._aggregate(sample, label_key)
        if label_key and not self._keeps_label_key(answer):
            label_key = False
            answer, terms = self._aggregate(sample, label_key)
        moments, cells = self._collect(answer, terms, label_key, sample.shift)
        if not moments.label.any():
            labels.check_occurs(self.engine, self.columns, self.roles)
        if self.roles.cluster is None:
            return moments
        return replace(moments, gram=self._gram(answer, cells, label_key, sample))

    def _sample(self) -> Rows:
        """The first rows: they fix the shift, the size of the terms, and what kind of labels to expect."""
        rows = statements.select_rows(self.roles, self.columns, ())
        names = self._known()
        text = f"SELECT {', '.join(names)} FROM ({rows.text}) taken LIMIT {SAMPLE_ROWS}"
        found = self.engine.query(text, rows.parameters)
        if not found:
            raise InputError(f"{self.engine.source} has columns but no rows")
        values = np.array(found, dtype=np.float64).reshape(len(found), len(names))
        values = values[np.isfinite(values).all(axis=1)]
        if not len(values):
            self._refuse_unusable()
        by_name = dict(zip(names, values.T, strict=True))
        return Rows(by_name["z"], by_name.get("y"), by_name.get("d"), by_name.get("w"), float(by_name["z"].mean()))

    def _known(self) -> list[str]:
        """Which of z, y, d and w the rows have by now: decisions only once it is known where the scores are cut."""
        decided = self.roles.decision is not None or self.roles.cut is not None
        return [name for name in statements.checks(self.given) if name != "d" or decided]

    def _decide(self, sample: Rows) -> Rows:
        """The sample with its decisions, once it is known where the rule cuts the scores of all rows."""
        if self.roles.threshold is None:
            return sample
        rows = statements.select_rows(Roles(self.roles.score), self.columns, ())
        cut = find_cut(self.engine, rows, self.roles.threshold, sample.z, refuse=self._refuse_unusable)
        self.roles = replace(self.roles, cut=cut)
        return replace(sample, d=(sample.z > cut.threshold) + (sample.z == cut.threshold) * cut.share)

    def _expects_label_key(self, sample: Rows) -> bool:
        """Whether the rows must be told apart by label, as far as the first of them say."""
        if sample.y is None:
            return False
        binary = bool(np.isin(sample.y, (0.0, 1.0)).all())
        columns = cell_columns(self.criteria, binary_labels=binary, has_decisions="d" in self.given)
        if LABEL in columns and not binary:
            self._check_label_strata(len(np.unique(sample.y)))
        return LABEL in columns

    def _keeps_label_key(self, answer: list[tuple[Any, ...]]) -> bool:
        """Whether the labels of all rows are what the first rows promised."""
        values = {row[len(self.keys)] for row in answer}
        if values <= {0.0, 1.0}:
            return True
        self._refuse({"y": sum(row[len(self.keys) + 1] for row in answer if not _is_finite(row[len(self.keys)]))})
        kept = LABEL in cell_columns(self.criteria, binary_labels=False, has_decisions="d" in self.given)
        if kept:
            self._check_label_strata(len(values))
        return kept

    def _check_label_strata(self, n_values: int) -> None:
        if n_values > MAX_LABEL_STRATA:
            raise InputError(
                f"label column {self.roles.label!r} has at least {n_values} different values, too many to condition "
                "on; use binary or binned labels with equalized odds and equal opportunity"
            )

    def _aggregate(self, sample: Rows, label_key: bool) -> tuple[list[tuple[Any, ...]], tuple[Term, ...]]:
        rows = statements.select_rows(self.roles, self.columns, self.keys, label_key=label_key)
        keys, self.checked = self._key_columns(label_key), self._checked(label_key=label_key)
        whole = {"d"} if self.roles.cut is not None and self.roles.cut.share in (0.0, 1.0) else set()
        parts = sample_parts(sample) if SCORE_BIN in self.keys else None
        terms = statements.plan_terms(self.given, sample, whole=whole, label_is_key=label_key, parts=parts)
        for _ in range(MAX_PASSES):
            asked = statements.aggregate(self.engine, rows, keys, terms, self.checked, shift=sample.shift)
            try:
                answer = self.engine.query(asked.text, asked.parameters)
            except OutOfRangeError:
                terms = self._rescale(terms, sample.shift)
                continue
            if len(answer) > statements.MAX_COMBINATIONS and SCORE_BIN in self.keys:
                self.keys.remove(SCORE_BIN)
                return self._aggregate(sample, label_key)
            self._check_size(answer)
            more = self._more_digits(answer, terms, len(keys))
            if more == terms:
                return answer, terms
            terms = more
        raise InputError(f"{self.engine.source} holds numbers too large or too small to be summed in float64")

    def _more_digits(self, answer: list[tuple[Any, ...]], terms: tuple[Term, ...], start: int) -> tuple[Term, ...]:
        """The terms, refined where some combination shows too few digits of its sum."""
        positions = self._term_positions(terms, start)
        return tuple(
            term.refined()
            if any(row[i] is not None and term.needs_more(row[i : i + term.width], row[start]) for row in answer)
            else term
            for term, i in zip(terms, positions, strict=True)
        )

    def _term_positions(self, terms: tuple[Term, ...], start: int) -> list[int]:
        """Where the columns of each term begin in the answer."""
        first = start + 1 + self.checked.width
        return [first + sum(term.width for term in terms[:i]) for i in range(len(terms))]

    def _check_size(self, answer: list[tuple[Any, ...]]) -> None:
        if len(answer) > statements.MAX_COMBINATIONS:
            raise InputError(
                f"crossing {', '.join(map(repr, self.keys))} makes more than {statements.MAX_COMBINATIONS:,} "
                "combinations; cross fewer attributes or bin them"
            )

    def _rescale(self, terms: tuple[Term, ...], shift: float) -> tuple[Term, ...]:
        """The terms with scales that fit the largest of all rows; raises where a value is NaN or infinite."""
        sizes = self._refuse_unusable(terms, shift)
        return tuple(
            term if term.form == "whole" else replace(term, exponent=statements.exponent_for(size))
            for term, size in zip(terms, sizes, strict=True)
        )

    def _refuse_unusable(self, terms: tuple[Term, ...] = (), shift: float = 0.0) -> list[float]:
        """Raise, naming the column, where a value is missing, NaN or infinite; else the largest size of each term."""
        rows = statements.select_rows(self.roles, self.columns, ())
        names = self._known()
        asked = statements.count_unusable(rows, names, terms, shift=shift)
        found = self.engine.query(asked.text, asked.parameters)[0]
        self._refuse({name: int(count) for name, count in zip(names, found, strict=False)})
        return [float(size) for size in found[len(names) :]]

    def _refuse(self, unusable: Mapping[str, int]) -> None:
        for name, count in unusable.items():
            role = _ROLE_NAMES[name]
            column = getattr(self.roles, role) or self.roles.score
            if count:
                first = f" (first at row {self._first_unusable(name)})" if self.engine.ordered else ""
                raise InputError(
                    f"{role} column {column!r} of {self.engine.source} holds {count} missing, NaN or infinite "
                    f"values{first}; drop those rows or fix what produced them"
                )

    def _first_unusable(self, name: str) -> int:
        asked = statements.first_unusable(statements.select_rows(self.roles, self.columns, ()), name)
        return int(self.engine.query(asked.text, asked.parameters)[0][0])

    def _collect(
        self, answer: list[tuple[Any, ...]], terms: tuple[Term, ...], label_key: bool, shift: float
    ) -> tuple[Moments, Cells]:
        """The sums per cell, from one answer per combination of the keys, and the cell of every combination."""
        labels = np.array([row[len(self.keys)] for row in answer], dtype=np.float64) if label_key else None
        start = len(self.keys) + label_key
        self._check_answer(answer, start)
        keys = {name: self._values(name, [row[i] for row in answer]) for i, name in enumerate(self.keys)}
        columns = dict.fromkeys(name for c in self.criteria for name in c.columns if name != LABEL)
        extra = [LABEL] * label_key + [SCORE_BIN] * (SCORE_BIN in self.keys)
        cells = Groups(keys).cells((*columns, *extra), labels=labels)
        sums = self._term_totals(answer, terms, start, shift)
        totals = {}
        for product in products(self.given):
            values = sums[statements.inner_factors(product, label_is_key=label_key)]
            if labels is not None:
                values = values * statements.label_factor(product, labels, shift)
            totals[product] = np.bincount(cells.index, weights=values, minlength=cells.table.n_cells)
        moments = Moments.from_totals(cells.table, totals, given=self.given, shift=shift)
        if not moments.weight.any():
            raise InputError(
                f"weight column {self.roles.weight!r} is zero in every row; name the people a row stands for"
            )
        return moments, cells

    def _gram(self, answer: list[tuple[Any, ...]], cells: Cells, label_key: bool, sample: Rows) -> FloatArray:
        """`Moments.gram`, from another aggregation of the rows, by cluster."""
        assert self.roles.cluster is not None
        check_clustered_cells(cells.table.n_cells)
        rows = statements.select_rows(self.roles, self.columns, self.keys, label_key=label_key)
        keys = self._key_columns(label_key)
        terms = clusters.plan_parts(self.given, sample)
        try:
            kept, missing = clusters.keep_clusters(self.engine, rows, keys, terms, shift=sample.shift)
        except OutOfRangeError:
            terms = self._rescale(terms, sample.shift)
            kept, missing = clusters.keep_clusters(self.engine, rows, keys, terms, shift=sample.shift)
        clusters.refuse_missing(self.roles.cluster, self.engine.source, missing)
        found = clusters.Combinations([row[: len(keys)] for row in answer], cells.index, cells.table.n_cells)
        return clusters.sum_over_clusters(self.engine, kept, self.given, keys, found)

    def _key_columns(self, label_key: bool) -> list[str]:
        return [f"k{i}" for i in range(len(self.keys))] + ["ky"] * label_key

    def _term_totals(
        self, answer: list[tuple[Any, ...]], terms: tuple[Term, ...], start: int, shift: float
    ) -> dict[tuple[str, ...], FloatArray]:
        """Every sum of every combination, rounded once."""
        counts = [int(row[start]) for row in answer]
        sums: dict[tuple[str, ...], FloatArray] = {(): np.array(counts, dtype=np.float64)}
        centred = {plain: factors for factors, plain in statements.CENTRED.items()}
        numerator, denominator = float(shift).as_integer_ratio()
        for term, i in zip(terms, self._term_positions(terms, start), strict=True):
            exact, scale = term.totals(answer, i), 1 << term.power
            sums[term.factors] = np.array([value / scale for value in exact])
            if term.factors in centred:  # whole numbers throughout, whose quotient is rounded once
                over, taken = scale * denominator, numerator * scale
                less = [(x * denominator - n * taken) / over for x, n in zip(exact, counts, strict=True)]
                sums[centred[term.factors]] = np.array(less)
        return sums

    def _check_answer(self, answer: list[tuple[Any, ...]], start: int) -> None:
        names = self.checked.names
        missing = {name: sum(int(row[start + 1 + i]) for row in answer) for i, name in enumerate(names)}
        self._refuse(missing)
        first = start + 1 + len(names)
        extremes = {name: [float(row[first + i]) for row in answer] for i, name in enumerate(self.checked.extremes)}
        if min(extremes.get("min(w)", [0.0])) < 0:
            smallest = min(extremes["min(w)"])
            raise InputError(f"weight column {self.roles.weight!r} must be non-negative; it holds {smallest:g}")
        for value in (min(extremes.get("min(d)", [0.0])), max(extremes.get("max(d)", [1.0]))):
            if not 0 <= value <= 1:
                raise InputError(
                    f"decision column {self.roles.decision!r} must hold 0 and 1, or probabilities; it holds {value:g}"
                )

    def _values(self, name: str, values: list[Any]) -> Any:
        if name == SCORE_BIN:
            return bin_numbers(values)
        return key_values(self.columns, self.roles.keys[name], values)

    def counts(self, name: str, moments: Moments) -> dict[Hashable, int]:
        """Rows by value of one attribute or stratum; asked of the engine only where no criterion reads it."""
        if name in self.keys:
            column = moments.table.names.index(name)
            values = moments.table.categories[column]
            sizes = np.bincount(moments.table.codes[:, column], weights=moments.count, minlength=len(values))
        else:
            rows = statements.select_rows(Roles(self.roles.score, keys=self.roles.keys), self.columns, [name])
            found = self.engine.query(f"SELECT k0, count(*) FROM ({rows.text}) taken GROUP BY k0", rows.parameters)
            groups = Groups({name: self._values(name, [value for value, _ in found])})
            values = groups.categories(name)
            sizes = np.bincount(groups.codes(name), weights=[count for _, count in found], minlength=len(values))
        return {value: int(size) for value, size in zip(values, sizes, strict=True)}


def _is_finite(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))
