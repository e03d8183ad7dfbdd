"""The keys of the audit file, with their types, their defaults and what must agree between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)

from auditkit.config.data_section import AttributeSpec, DataSpec
from auditkit.config.images_section import PlacedImages
from auditkit.config.model_section import ModelSection, model_path
from auditkit.config.report_section import ReportSpec
from auditkit.config.scalars import Names, Number, Section, Whole, check_number
from auditkit.config.split_section import SplitSpec
from auditkit.config.text_section import PlacedTexts
from auditkit.criteria import ECP, EER, Criterion, demographic_parity, equal_opportunity, equalized_odds
from auditkit.decision_rules import check_rule
from auditkit.errors import InputError
from auditkit.groups import LABEL
from auditkit.observations import HIGHEST

SAMPLE = "sample:"
METHODS = (
    "unconstrained",
    "layer",
    "calibrated",
    "head",
    "projection",
    "calibrated_projection",
    "penalty",
    "threshold_optimizer",
)
_NAMED = {
    "demographic_parity": demographic_parity,
    "equal_opportunity": equal_opportunity,
    "equalized_odds": equalized_odds,
}
_RULE = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(median|highest|top \d+(\.\d+)?%?)$"}]}

Location = tuple[str | int, ...]


class PlacedError(ValueError):
    """A value is wrong at ``location``, which pydantic cannot know from where the check runs."""

    def __init__(self, location: Location, message: str) -> None:
        super().__init__(message)
        self.location = location


def _rule(value: Any) -> Any:
    """A decision rule; text such as 1e-2, which YAML 1.1 reads as a string, is a number."""
    if value == HIGHEST:
        return value
    if not isinstance(check_number(value), int | float | str):
        raise ValueError(f'must be a number, "median", "top 100", "top 5%" or null; got {value!r}')
    try:
        return check_rule(value)
    except InputError as error:
        raise ValueError(str(error)) from error


DecisionRule = Annotated[float | str, BeforeValidator(_rule), WithJsonSchema(_RULE)]


class CriterionSpec(Section):
    """One criterion, as `auditkit.ECP`, `auditkit.EER` and their named special cases take it."""

    family: Literal["ECP", "EER", "demographic_parity", "equalized_odds", "equal_opportunity"]
    attributes: Names
    tolerance: Number = Field(description="Largest gap accepted, in the unit of the scores.")
    given: Names = Field(default=(), description="Strata, for ECP and EER; the label's column conditions on the label.")
    form: Literal["absolute", "pairwise"] | None = Field(default=None, description="Of EER only; absolute by default.")
    positive: int | float | None = Field(default=None, description="Of equal_opportunity only; 1 by default.")
    name: str = Field(default="", description="What reports call it; made from the rest when empty.")

    @model_validator(mode="after")
    def _check(self) -> CriterionSpec:
        for key, families in {"form": ("EER",), "positive": ("equal_opportunity",), "given": ("ECP", "EER")}.items():
            if getattr(self, key) not in (None, ()) and self.family not in families:
                raise ValueError(f"{key} belongs to {' and '.join(families)} only; got it with {self.family}")
        self.build()
        return self

    def build(self, *, label: str | None = None) -> Criterion:
        """The criterion; the label's column among ``given`` stands for the label."""
        given = tuple(LABEL if name == label else name for name in self.given)
        if self.family == "ECP":
            return ECP(self.attributes, tolerance=self.tolerance, given=given, name=self.name)
        if self.family == "EER":
            form = self.form or "absolute"
            return EER(self.attributes, tolerance=self.tolerance, given=given, form=form, name=self.name)
        options = {} if self.positive is None else {"positive": self.positive}
        built = _NAMED[self.family](self.attributes, tolerance=self.tolerance, **options)
        return Criterion(
            built.family,
            built.attributes,
            built.tolerance,
            built.given,
            built.form,
            built.label_value,
            name=self.name or built.name,
        )


class TuneSpec(Section):
    """How the head is tuned; the fields of `auditkit.TuneConfig` that a file may set."""

    epochs: Whole = Field(default=300, ge=1)
    learning_rate: Number = Field(default=0.01, gt=0)
    weight_decay: Number = Field(default=1e-4, ge=0)
    anchor: Number = Field(
        default=40.0, ge=0, description="Pull towards the frozen model's scores, in rows; 0 is none."
    )
    patience: Whole = Field(default=40, ge=1, description="Epochs without a better validation loss before stopping.")
    hidden: Whole | None = Field(default=None, ge=1, description="Width of a hidden layer; null is a linear head.")
    batch_size: Whole | None = Field(default=None, ge=1, description="Rows per step; null takes all at once.")


class AuditFile(Section):
    """A checked audit file.

    Attributes mirror the keys of the file; `data_path` and `model_spec` are relative to the folder it lies in.
    """

    name: str = Field(default="audit", min_length=1, description="What reports call the audit.")
    data: DataSpec
    model: str | ModelSection | None = Field(
        default=None,
        description="A file or folder relative to this file, sample:<name>, timm:<name>, local-dir:<folder> or "
        "hf-hub:<name>; or a mapping of path and options. Not needed with data.score.",
    )
    criteria: tuple[CriterionSpec, ...] = Field(min_length=1, description="What is audited.")
    enforce: tuple[CriterionSpec, ...] | None = Field(
        default=None, description="What the head is tuned for; by default the criteria that need no label."
    )
    threshold: DecisionRule | None = Field(
        default=0.5,
        description='Scores at or above it are positive decisions; or "median", "top 100", "top 5%"; "highest" where '
        "there are several outputs; null: none. Left out with data.decision.",
    )
    confidence: Number = Field(default=0.95, gt=0, lt=1, description="Joint confidence of all intervals.")
    seed: Whole = Field(default=0, ge=0)
    plan: str | None = Field(default=None, description="A plan that `auditkit plan` froze, relative to this file.")
    split: SplitSpec = SplitSpec()
    tune: TuneSpec = TuneSpec()
    methods: tuple[str, ...] = Field(default=METHODS, min_length=1, description="What compare puts side by side.")
    frontier: tuple[Annotated[Number, Field(ge=0)], ...] = Field(
        default=(),
        description="Further tolerances, each for all enforced criteria at once: tune measures a head at each on the "
        "test rows, from the largest to the smallest; compare fits every method at each.",
    )
    seeds: tuple[Annotated[Whole, Field(ge=0)], ...] = Field(
        default=(),
        description="Further seeds at which compare does everything again: on another split each, or, where split.by "
        "is time or column, with another training on the same one.",
    )
    report: ReportSpec = Field(default=ReportSpec(), description="What the report documents beside the figures.")
    _folder: Path = PrivateAttr(default_factory=Path)
    _cache: Path | Literal[False] | None = PrivateAttr(default=None)  # no part of the plan: it changes no number

    @model_validator(mode="before")
    @classmethod
    def _decide(cls, values: Any) -> Any:
        """A column of decisions leaves no room for the threshold that is there by default."""
        data = values.get("data") if isinstance(values, dict) else None
        decided = isinstance(data, dict) and data.get("decision") is not None
        return {"threshold": None, **values} if decided else values

    @model_validator(mode="after")
    def _check(self) -> AuditFile:
        for location, message in _inconsistencies(self):
            raise PlacedError(location, message)
        return self

    def within(self, folder: Path) -> AuditFile:
        """The same file, with its paths relative to ``folder``."""
        placed = self.model_copy()
        placed._folder = folder
        return placed

    def with_cache(self, cache: Path | Literal[False]) -> AuditFile:
        """The same file, with the features that are computed kept in this folder, or not at all."""
        placed = self.model_copy()
        placed._cache = cache
        return placed

    @property
    def table_cache(self) -> Path | bool:
        """Where features of a table of columns go: a folder, True for the user's cache folder, False nowhere."""
        return True if self._cache is None else self._cache

    @property
    def images(self) -> PlacedImages | None:
        """How the images are read, with folders in place; None where the rows are no images."""
        return None if self.data.images is None else self.data.images.place(self._folder, self._cache)

    @property
    def texts(self) -> PlacedTexts | None:
        """How texts are read, with the cache in place; None where the rows are none."""
        return None if self.data.texts is None else self.data.texts.place(self._folder, self._cache)

    @property
    def reads_files(self) -> bool:
        """Whether rows are images or texts, whose features are kept in the cache."""
        return self.data.images is not None or self.data.text is not None

    @property
    def data_path(self) -> Path:
        """Where the table lies."""
        if self.data.path.startswith(SAMPLE):
            from auditkit.models import sample_folder

            return sample_folder(self.data.path.removeprefix(SAMPLE)) / "heldout.parquet"
        return self._folder / self.data.path

    @property
    def model_spec(self) -> str | Path | None:
        """What `auditkit.load_model` takes; None when the table holds the scores."""
        if isinstance(self.model, ModelSection):
            return self.model.spec(self._folder)
        return None if self.model is None else model_path(self.model, self._folder)

    @property
    def model_options(self) -> dict[str, Any]:
        """The keyword arguments of `auditkit.load_model`."""
        return self.model.options(self._folder) if isinstance(self.model, ModelSection) else {}

    @property
    def plan_path(self) -> Path | None:
        """Where the frozen plan lies; None without one."""
        return None if self.plan is None else self._folder / self.plan

    def table_options(self) -> dict[str, Any]:
        """The keyword arguments of `auditkit.datasets.load_table`."""
        options = self.data.model_dump(mode="python").items()
        given = {name: value for name, value in options if name not in ("path", "engine", "images", "text")}
        beside = [name for name in self.split.columns.values() if name not in (self.data.features or ())]
        keep = dict.fromkeys((*self.split.columns.values(), *self.split.stratify))
        return {**given, "exclude": tuple(dict.fromkeys((*self.data.exclude, *beside))), "keep": tuple(keep)}

    @property
    def engine(self) -> str:
        """What reads the table: as the file says, else DuckDB; pandas where rows must be in memory.

        They must where a model scores them, where they have several scores, and where an attribute is inferred.
        """
        whole = self.model is not None or self.data.has_outputs or self.data.inferred
        return self.data.engine or ("pandas" if whole else "duckdb")

    @property
    def columns(self) -> dict[str, str]:
        """The columns beside score and label that change what is estimated or tested: role → name."""
        named = {"weight": self.data.weight, "decision": self.data.decision, "cluster": self.data.cluster}
        return {role: name for role, name in named.items() if name is not None}

    def build_criteria(self) -> tuple[Criterion, ...]:
        """The criteria that are audited."""
        return tuple(spec.build(label=self.data.label) for spec in self.criteria)

    def build_enforced(self) -> tuple[Criterion, ...]:
        """The criteria that the head is tuned for; empty when each needs labels and none was asked for."""
        if self.enforce is None:
            return tuple(criterion for criterion in self.build_criteria() if not criterion.needs_labels)
        return tuple(spec.build(label=self.data.label) for spec in self.enforce)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready values: every default written out, paths as in the file, every criterion named.

        `make_config` reads it back.
        """
        plan = self.model_dump(mode="json")
        default = [
            spec for spec, built in zip(self.criteria, self.build_criteria(), strict=True) if not built.needs_labels
        ]
        enforce = default if self.enforce is None else self.enforce
        plan["criteria"] = [_named(spec, self.data.label) for spec in self.criteria]
        plan["enforce"] = [_named(spec, self.data.label) for spec in enforce]
        return plan


def _named(spec: CriterionSpec, label: str | None) -> dict[str, Any]:
    return {**spec.model_dump(mode="json"), "name": spec.build(label=label).name}


def _inconsistencies(file: AuditFile) -> Iterator[tuple[Location, str]]:
    """Every mistake that lies between two keys of the file, with the place to mend it."""
    data = file.data
    if file.model is None and data.score is None:
        yield ("data",), "there is neither a model: nor data.score, the column of a table of predictions; give one"
    if data.positive_label is not None and data.label is None:
        yield ("data", "positive_label"), "positive_label needs label, the column that it is a value of"
    if data.decision is not None and file.threshold is not None:
        yield (
            ("threshold",),
            (
                f"threshold is {file.threshold!r}, and data.decision names the column {data.decision!r}; both say what "
                "a decision is, so keep one of them"
            ),
        )
    if file.model is not None and data.engine in ("duckdb", "spark"):
        yield (
            ("data", "engine"),
            (
                f"a model scores rows that are in memory; leave engine out, or audit a table of its scores with "
                f"{data.engine} (data.score without model:)"
            ),
        )
    yield from _misplaced_outputs(file)
    if len(set(file.frontier)) < len(file.frontier):
        yield ("frontier",), f"frontier must name no tolerance twice; got {list(file.frontier)}"
    if len({file.seed, *file.seeds}) <= len(file.seeds):
        yield ("seeds",), f"seeds must name further seeds, none twice and not seed itself; got {list(file.seeds)}"
    yield from () if data.images is None else data.images.misplaced(data)
    yield from () if data.texts is None else data.texts.misplaced(data)
    yield from _repeated_columns(file)
    attributes, strata = _column_names(data.attributes), _column_names(data.strata)
    audited = {_question(spec, data.label) for spec in file.criteria}
    if not attributes:
        yield ("data", "attributes"), "attributes must name at least one protected attribute"
    for key in ("criteria", "enforce"):
        for position, spec in enumerate(getattr(file, key) or ()):
            for part, message in _unknown_columns(spec, attributes, strata, data.label):
                yield (key, position, part), message
            if key == "enforce" and _question(spec, data.label) not in audited:
                yield (key, position), f"{spec.build().name} is enforced but not audited; add it to criteria"
            if data.label is None and spec.build().needs_labels:
                yield (key, position), f"{spec.family} needs the outcomes; name their column in data.label"


def _misplaced_outputs(file: AuditFile) -> Iterator[tuple[Location, str]]:
    """What does not go with several scores per row, or with an inferred attribute."""
    data = file.data
    several = f"data.score names {len(data.score_columns)} outputs"
    if data.has_outputs and file.model is not None:
        yield ("data", "score"), f"{several}, and model: makes scores as well; keep one of them"
    if data.has_outputs and data.positive_label is not None:
        yield ("data", "positive_label"), f"{several}, whose labels are classes; leave positive_label out"
    if data.has_outputs and data.decision is not None:
        yield ("data", "decision"), f"{several}, and a decision is of one; leave it out, and use threshold"
    if file.threshold == HIGHEST and not data.has_outputs:
        yield ("threshold",), f"{HIGHEST!r} is for several outputs; data.score names one column or none"
    if data.engine in ("duckdb", "spark") and (data.has_outputs or data.inferred):
        cause = several if data.has_outputs else f"{data.inferred[0]} is inferred"
        yield ("data", "engine"), f"{cause}, which is for rows in memory; leave engine out, or say pandas"


def _repeated_columns(file: AuditFile) -> Iterator[tuple[Location, str]]:
    """Columns that one row cannot have two of, named by one column."""
    taken = dict.fromkeys(file.data.score_columns, "score")
    if file.data.label is not None:
        taken[file.data.label] = "label"
    for role, name in file.columns.items():
        known = taken.get(name)
        if known is not None and (role, known) != ("decision", "score"):  # a decision may be what is audited as a score
            yield ("data", role), f"{role} names {name!r}, which is the {known} column already"
        taken.setdefault(name, role)


def _question(spec: CriterionSpec, label: str | None) -> tuple[object, ...]:
    """What a criterion asks, whatever its name and tolerance."""
    built = spec.build(label=label)
    return built.family, built.attributes, built.given, built.form, built.label_value


def _column_names(specs: tuple[AttributeSpec, ...]) -> tuple[str, ...]:
    return tuple(name for spec in specs for name in ([spec] if isinstance(spec, str) else spec))


def _unknown_columns(
    spec: CriterionSpec, attributes: tuple[str, ...], strata: tuple[str, ...], label: str | None
) -> Iterator[tuple[str, str]]:
    for name in spec.attributes:
        if name not in attributes:
            yield "attributes", f"{name!r} is not among data.attributes ({', '.join(attributes)})"
    known = (*strata, *attributes, *([label, LABEL] if label else []))
    for name in spec.given:
        if name not in known:
            yield "given", f"{name!r} is not among data.strata ({', '.join(strata) or 'none'})"
