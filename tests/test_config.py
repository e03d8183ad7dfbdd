from __future__ import annotations

import dataclasses
from pathlib import Path

import jsonschema
import pytest
import yaml

from auditkit.comparison import DEFAULT_METHODS
from auditkit.config import (
    TuneSpec,
    config_for_table,
    config_schema,
    example_config,
    load_config,
    make_config,
    sample_config,
)
from auditkit.criteria import ECP, EER, Criterion, equal_opportunity, equalized_odds
from auditkit.datasets import load_table
from auditkit.errors import InputError, SchemaError
from auditkit.finetuning import TuneConfig
from auditkit.groups import LABEL
from auditkit.models import load_model
from tests.run_folders import plan, predictions, write_case


def written(folder: Path, text: str) -> Path:
    file = folder / "audit.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_example_is_the_sample(tmp_path: Path) -> None:
    loaded = load_config(written(tmp_path, example_config()))
    assert loaded.to_dict() == sample_config().to_dict()
    jsonschema.validate(yaml.safe_load(example_config()), config_schema())


def test_sample_names_data_and_model_that_load() -> None:
    config = sample_config()
    data = load_table(config.data_path, **config.table_options(), name=config.name)
    assert data.n_rows > 10_000
    assert load_model(config.model_spec or "").name == "adult_mlp"
    assert [criterion.name for criterion in config.build_criteria()] == [
        "ECP(sex)", "ECP(race)", "ECP(sex×race)", "equalized odds(sex)", "EER(sex)",
    ]  # fmt: skip
    assert config.build_enforced() == (ECP("sex", tolerance=0.05), ECP("race", tolerance=0.05))


def test_schema_describes_what_is_accepted() -> None:
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    assert checker.is_valid(plan())
    assert not checker.is_valid({**plan(), "tolerance": 0.05})
    assert not checker.is_valid({**plan(), "criteria": []})


@pytest.mark.parametrize(
    ("spec", "built"),
    [
        ({"family": "ECP", "attributes": "sex"}, ECP("sex", tolerance=0.1)),
        ({"family": "ECP", "attributes": ["sex"], "given": "region"}, ECP("sex", tolerance=0.1, given="region")),
        ({"family": "ECP", "attributes": "sex", "given": "outcome"}, ECP("sex", tolerance=0.1, given=LABEL)),
        ({"family": "EER", "attributes": "sex"}, EER("sex", tolerance=0.1)),
        ({"family": "EER", "attributes": "sex", "form": "pairwise"}, EER("sex", tolerance=0.1, form="pairwise")),
        ({"family": "equalized_odds", "attributes": "sex"}, equalized_odds("sex", tolerance=0.1)),
        ({"family": "equal_opportunity", "attributes": "sex"}, equal_opportunity("sex", tolerance=0.1)),
        (
            {"family": "equal_opportunity", "attributes": "sex", "positive": 0},
            equal_opportunity("sex", tolerance=0.1, positive=0),
        ),
    ],
)
def test_criteria_are_those_of_the_library(spec: dict[str, object], built: Criterion) -> None:
    config = make_config(plan(criteria=[{**spec, "tolerance": 0.1}], enforce=None))
    assert config.build_criteria() == (built,)
    assert config.build_criteria()[0].name.partition("(")[0] == built.name.partition("(")[0]


def test_enforced_by_default_are_the_criteria_without_labels() -> None:
    assert make_config(plan(enforce=None)).build_enforced() == (ECP("sex", tolerance=0.05),)
    odds = [{"family": "equalized_odds", "attributes": "sex", "tolerance": 0.05}]
    assert make_config(plan(criteria=odds, enforce=None)).build_enforced() == ()


def test_a_plan_reads_back_with_every_default_written_out() -> None:
    config = make_config(plan(enforce=None))
    stored = config.to_dict()
    assert make_config(stored).to_dict() == stored
    assert [spec["name"] for spec in stored["enforce"]] == ["ECP(sex)"]
    assert stored["confidence"] == 0.95
    assert {name: stored["split"][name] for name in ("tune", "calibrate", "test", "by", "leakage")} == {
        "tune": 0.4, "calibrate": 0.3, "test": 0.3, "by": "random", "leakage": "report",
    }  # fmt: skip


def test_a_model_with_options(tmp_path: Path) -> None:
    options = {"path": "timm:resnet18", "checkpoint": "w.safetensors", "task": "binary"}
    config = load_config(write_case(tmp_path, model=options))
    assert config.model_spec == "timm:resnet18"
    assert config.model_options == {"checkpoint": tmp_path / "w.safetensors", "task": "binary"}
    assert load_config(write_case(tmp_path, model="local-dir:net")).model_spec == f"local-dir:{tmp_path / 'net'}"
    assert load_config(write_case(tmp_path, model="hf-hub:a/b")).model_spec == "hf-hub:a/b"
    assert make_config(config.to_dict()).to_dict() == config.to_dict()
    with pytest.raises(SchemaError, match=r"audit\.yaml, line \d+, model\.chekpoint: there is no such key; did you"):
        load_config(write_case(tmp_path, model={"path": "m.onnx", "chekpoint": "x"}))


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write_case(tmp_path, model="net"))
    assert config.data_path == tmp_path / "predictions.csv"
    assert config.model_spec == tmp_path / "net"
    assert config.model_copy(update={"seed": 7}).data_path == config.data_path
    assert str(tmp_path) not in str(config.to_dict())


def test_nothing_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "elsewhere")
    assert load_config(write_case(tmp_path, name="${WHERE} $WHERE ~")).name == "${WHERE} $WHERE ~"


def test_bands_reach_the_table(tmp_path: Path) -> None:
    frame = predictions(rows=300).assign(age=range(300))
    data = {**plan()["data"], "attributes": ["sex", {"age_band": {"column": "age", "bins": [100, 200]}}]}
    criteria = [{"family": "ECP", "attributes": ["sex", "age_band"], "tolerance": 0.05}]
    config = load_config(write_case(tmp_path, frame, data=data, criteria=criteria, enforce=None))
    table = load_table(config.data_path, **config.table_options())
    assert table.groups.categories("age_band") == ("<100", "[100, 200)", ">=200")


def test_tune_section_holds_fields_of_the_tuning() -> None:
    assert set(TuneSpec().model_dump()) <= {field.name for field in dataclasses.fields(TuneConfig)}
    TuneConfig(**TuneSpec().model_dump())


def test_methods_by_default_are_those_compared() -> None:
    assert sample_config().methods == DEFAULT_METHODS
    assert make_config({**plan(), "methods": list(DEFAULT_METHODS)}).methods == DEFAULT_METHODS


MISTAKES = {
    "negative tolerance": ("race, tolerance: 0.05", "race, tolerance: -0.05", r"criteria\[1\].tolerance: .*≥ 0.*-0.05"),
    "tolerance NaN": ("race, tolerance: 0.05", "race, tolerance: .nan", r"criteria\[1\].tolerance: .*finite.*nan"),
    "tolerance true": ("race, tolerance: 0.05", "race, tolerance: true", r"criteria\[1\].tolerance: must be a number"),
    "misspelt key": ("race, tolerance:", "race, tolerence:", r"criteria\[1\].tolerence: .*did you mean 'tolerance'"),
    "unknown family": ("family: EER", "family: XER", r"criteria\[4\].family: .*'EER'.*got 'XER'"),
    "unknown form": ("form: absolute", "form: abs", r"criteria\[4\].form: .*'absolute' or 'pairwise'; got 'abs'"),
    "form of ECP": ("race, tol", "race, form: absolute, tol", r"criteria\[1\].form: form belongs to EER only"),
    "given of odds": ("equalized_odds, att", "equalized_odds, given: race, att", r"criteria\[3\].given: given belongs"),
    "unknown attribute": ("attributes: race", "attributes: rcae", r"criteria\[1\].attributes: 'rcae' is not among"),
    "unknown stratum": ("race, tol", "race, given: town, tol", r"criteria\[1\].given: 'town' is not among data.strata"),
    "attribute twice": ("[sex, race], tol", "[sex, sex], tol", r"criteria\[2\].*a column is used twice"),
    "seed yes": ("seed: 0", "seed: yes", "seed: must be a number; got true"),
    "seed fraction": ("seed: 0", "seed: 0.5", "seed: .*got 0.5"),
    "split": ("tune: 0.4", "tune: 0.5", r"split.tune: tune \+ calibrate \+ test must be 1; got 1.1"),
    "confidence": ("confidence: 0.95", "confidence: 95", "confidence: .*less than 1; got 95"),
    "tune key": ("epochs: 300", "epohcs: 300", "tune.epohcs: .*did you mean 'epochs'"),
    "hidden": ("hidden: null", "hidden: 0", "tune.hidden: "),
    "rule": ("threshold: 0.5", "threshold: best", 'threshold: threshold must be a number, "median", .*got \'best\''),
    "rule of none": ("threshold: 0.5", "threshold: top 0", "threshold: threshold must be .*got 'top 0'"),
    "rule true": ("threshold: 0.5", "threshold: true", "threshold: must be a number; got true"),
    "engine": ("# engine: duckdb", "engine: dask", "data.engine: .*'duckdb', 'spark' or 'pandas'; got 'dask'"),
    "engine of a model": ("# engine: duckdb", "engine: spark", "data.engine: a model scores rows that are in memory"),
    "weight of outcomes": ("# weight: people", "weight: income_over_50k", "data.weight: .*, which is the label column"),
    "column kind": ("# cluster: person", "cluster: [person]", "data.cluster: .*valid string"),
    "bins": ("[sex, race]  ", "[sex, race, {a: {column: b}}]  ", r"data.attributes\[2\].*: the key 'bins' is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_name_file_line_and_key(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = example_config()
    assert text.count(old) >= 1
    line = text[: text.index(old)].count("\n") + 1
    with pytest.raises(SchemaError, match=rf"^audit\.yaml, line {line}, {message}"):
        load_config(written(tmp_path, text.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an audit file is a mapping"),
        ("- a\n- b\n", "an audit file is a mapping"),
        ("name: [", r"audit\.yaml, line 1: this is not YAML"),
        ("name: a\n---\nname: b\n", r"audit\.yaml, line 2: this is not YAML"),
        ("name: a\nname: b\n", r"audit\.yaml, line 2: the key 'name' is written twice"),
        ("name: a\n", "audit.yaml: the key 'data' is missing"),
        ("name: !!python/object/apply:os.system [ls]\n", "line 1: this is not YAML: could not determine a constructor"),
        ("name: &a [*a]\ndata: {}\n", r"line 2, data: the key 'path' is missing"),
    ],
)
def test_what_is_no_audit_file(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=message):
        load_config(written(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no audit file .*auditkit init"):
        load_config(tmp_path / "missing.yaml")
    file = tmp_path / "latin.yaml"
    file.write_bytes("name: caf\xe9\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load_config(file)
    file.write_text("#" * 1_000_001, encoding="utf-8")
    with pytest.raises(InputError, match="is it the data"):
        load_config(file)


def test_mistakes_between_keys() -> None:
    data = plan()["data"]
    with pytest.raises(SchemaError, match=r"data: there is neither a model: nor data\.score"):
        make_config(plan(data={**data, "score": None}))
    with pytest.raises(SchemaError, match=r"equalized_odds needs the outcomes"):
        make_config(plan(data={**data, "label": None}))
    with pytest.raises(SchemaError, match=r"positive_label needs label"):
        make_config(plan(data={**data, "label": None, "positive_label": 1}))
    with pytest.raises(SchemaError, match=r"enforce\[0\]: EER\(sex\) is enforced but not audited"):
        make_config(plan(enforce=[{"family": "EER", "attributes": "sex", "tolerance": 0.05}]))
    with pytest.raises(SchemaError, match=r"must name at least one"):
        make_config(plan(data={**data, "attributes": []}))


def test_several_mistakes_are_counted() -> None:
    with pytest.raises(SchemaError, match=r"and 1 more problem\)"):
        make_config(plan(seed="x", confidence=2))


def test_numbers_in_scientific_notation_without_a_dot(tmp_path: Path) -> None:
    text = example_config().replace("learning_rate: 0.01", "learning_rate: 1e-2")
    assert load_config(written(tmp_path, text)).tune.learning_rate == 0.01


def test_first_file_for_a_table_loads(tmp_path: Path) -> None:
    frame = predictions(rows=200).assign(age=range(200), label=["yes", "no"] * 100)
    frame = frame.drop(columns="outcome").rename(columns={"region": "the: region"})
    (tmp_path / "data").mkdir()
    table = tmp_path / "data" / "my table.csv"
    frame.to_csv(table, index=False)
    config = load_config(written(tmp_path, config_for_table(table, folder=tmp_path)))
    assert config.data_path.resolve() == table.resolve()
    assert config.data.label == "label"
    assert config.data.positive_label == "yes"
    assert config.data.score == "score"
    assert load_table(config.data_path, **config.table_options()).groups.names == ("sex", "age_band")


def test_first_file_for_a_table_without_attributes(tmp_path: Path) -> None:
    predictions().drop(columns="sex").to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no column that looks like a protected attribute"):
        config_for_table(tmp_path / "t.parquet", folder=tmp_path)


def test_the_first_file_is_made_without_loading_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auditkit import _tables

    monkeypatch.setattr(_tables, "_READERS", dict.fromkeys(_tables._READERS, None))
    predictions(rows=50).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("sex;score\nf;0.5\n")
    text = config_for_table(tmp_path / "t.parquet", folder=tmp_path)
    keys = ("weight", "decision", "cluster", "engine")
    assert all(f"\n  # {key}: " in text and f"\n  # {key}: " in example_config() for key in keys)
    with pytest.raises(SchemaError, match="'t.csv' is not separated by commas"):
        config_for_table(tmp_path / "t.csv", folder=tmp_path)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("0.25", 0.25),
        ("median", "median"),
        ("top 100", "top 100"),
        ("'top 5%'", "top 5%"),
        ("null", None),
    ],
)
def test_decisions_follow_a_threshold_or_a_rule(tmp_path: Path, given: str, rule: float | str | None) -> None:
    text = example_config().replace("threshold: 0.5", f"threshold: {given}")
    jsonschema.validate(yaml.safe_load(text), config_schema())
    config = load_config(written(tmp_path, text))
    assert config.threshold == rule
    assert make_config(config.to_dict()).threshold == rule


def test_a_column_of_decisions_takes_the_place_of_the_threshold(tmp_path: Path) -> None:
    values = plan()
    values["data"] |= {"decision": "hired"}
    config = make_config(values)
    assert config.threshold is None
    assert make_config(config.to_dict()).to_dict() == config.to_dict()
    text = yaml.safe_dump({"threshold": 0.5, **values}, sort_keys=False)
    with pytest.raises(
        SchemaError, match="line 1, threshold: threshold is 0.5, and data.decision names the column 'hi"
    ):
        load_config(written(tmp_path, text))
