"""Columns of texts: streamed from their file to a model, and audited, tuned and compared from end to end."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import auditkit as ak
from auditkit import texts as texts_module
from auditkit.cli import main
from auditkit.errors import InputError, SchemaError
from auditkit.feature_cache import ExtractionConfig, extract_outputs, list_entries
from auditkit.leakage import find_leakage
from auditkit.models import TransformerModel, load_model
from auditkit.table_files import infer_types
from auditkit.texts import read_texts, text_key
from tests.transformer_folders import WORDS, bert, save

N = 600
PLAN = """
name: reviews
data: {{path: {path}, text: {text}, attributes: [sex], label: repaid}}
model: bert
criteria: [{{family: ECP, attributes: sex, tolerance: 0.05}}]
tune: {{epochs: 5}}
methods: [unconstrained, head, calibrated_projection]
"""


def letters(n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    words = np.array(WORDS[4:])
    texts = [" ".join(rng.choice(words, size)) for size in rng.integers(1, 12, n)]
    sex = rng.choice(["F", "M"], n)
    return pd.DataFrame({"letter": texts, "sex": sex, "repaid": rng.integers(0, 2, n), "age": rng.integers(18, 80, n)})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("letters")
    save(folder / "bert", bert())
    letters().to_csv(folder / "letters.csv", index=False)
    letters().to_parquet(folder / "letters.parquet")
    return folder


def write_plan(place: Path, path: str = "letters.csv", text: str = "letter", name: str = "audit.yaml") -> Path:
    (place / name).write_text(PLAN.format(path=path, text=text))
    return place / name


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_audit_of_texts_is_the_audit_of_their_scores(place: Path, tmp_path: Path) -> None:
    assert run("audit", write_plan(place), "--out", tmp_path / "run", "--cache", tmp_path / "cache") in (0, 1, 3)
    frame, model = letters(), load_model(place / "bert")
    scores = model.scores(frame["letter"].tolist()).numpy()
    gap = abs(scores[frame["sex"] == "F"].mean() - scores[frame["sex"] == "M"].mean())
    found = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert found["findings"][0]["gap"] == pytest.approx(gap, abs=1e-6)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"]["fingerprint"] == model.fingerprint
    facts = record["data"]["text"]
    assert (facts["column"], facts["rows"], facts["skipped"]) == ("letter", N, 0)
    assert facts["different"] == frame["letter"].nunique()
    assert "column <q>letter</q>: 600 rows" in (tmp_path / "run" / "report.html").read_text()
    assert run("verify", tmp_path / "run") == 0


@pytest.mark.parametrize("path", ["letters.csv", "letters.parquet"])
def test_tune_and_compare_on_texts(place: Path, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, cache = write_plan(place, path, name=f"{path}.yaml"), tmp_path / "cache"
    passes = count_passes(monkeypatch)
    assert run("tune", plan, "--out", tmp_path / "tuned", "--cache", cache) in (0, 1, 3)
    assert sum(passes) == pytest.approx(N, abs=2 * 33)  # one pass for features and scores, and the check of the first
    passes.clear()
    assert run("compare", plan, "--out", tmp_path / "compared", "--cache", cache) == 0
    assert passes == []
    (entry,) = list_entries(cache)
    assert (entry.state, entry.unit, entry.rows) == ("whole", "texts", N)
    record = json.loads((tmp_path / "tuned" / "run.json").read_text())
    assert record["leakage"]["checked"] == ["text"]
    assert record["model"]["n_features"] == 16
    assert (tmp_path / "tuned" / "head").exists()


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    passes: list[int] = []
    plain = TransformerModel._inputs

    def counting(self: TransformerModel, chunk: Any) -> Any:
        passes.append(len(chunk))
        return plain(self, chunk)

    monkeypatch.setattr(TransformerModel, "_inputs", counting)
    return passes


def test_both_kinds_of_file_give_the_same_rows(place: Path) -> None:
    tables = [
        read_texts(place / f"letters.{kind}", text_column="letter", attributes=["sex"], label="repaid", keep=["age"])
        for kind in ("csv", "parquet")
    ]
    for table in tables:
        assert list(table.texts()) == letters()["letter"].tolist()
        assert table.data.kept is not None
        assert table.data.kept["age"].tolist() == letters()["age"].tolist()
        assert table.data.labels is not None
        assert table.data.labels.tolist() == letters()["repaid"].tolist()
        assert table.data.features is None
    assert tables[0].sha256 == tables[1].sha256
    assert np.array_equal(tables[0].keys, tables[1].keys)
    assert tables[0].data.sha256 != tables[1].data.sha256  # of the files


def test_pieces_and_batches_do_not_show(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(place / "bert")
    options = {"text_column": "letter", "attributes": ["sex"]}
    whole = read_texts(place / "letters.csv", **options)
    expected = model.scores(letters()["letter"].tolist()).numpy()
    monkeypatch.setattr(texts_module, "PIECE_ROWS", 7)
    pieces = read_texts(place / "letters.csv", **options)
    assert pieces.sha256 == whole.sha256
    found = extract_outputs(
        model, pieces, cache_dir=tmp_path, outputs=("scores",), config=ExtractionConfig(batch_size=5)
    )
    np.testing.assert_allclose(found.scores(), expected, atol=1e-6)


def test_a_second_part_of_the_work_reads_over_the_first(place: Path) -> None:
    """As after a kill, or in another process of a group."""
    from auditkit.feature_cache.sources import make_source

    table = read_texts(place / "letters.csv", text_column="letter", attributes=["sex"])
    batches = list(make_source(load_model(place / "bert"), table).batches([(40, 43), (590, 600)], workers=0))
    assert [batch.kept for batch in batches] == [(40, 41, 42), tuple(range(590, 600))]
    assert batches[1].values["letter"].tolist() == letters()["letter"].tolist()[590:]


def test_rows_without_text(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = letters()
    frame.loc[[3, 50], "letter"] = None
    frame.to_csv(place / "gaps.csv", index=False)
    assert run("audit", write_plan(place, "gaps.csv", name="g.yaml"), "--out", tmp_path / "a", "--no-cache") == 2
    assert "row 3 (from 0) has no text in column 'letter'; fill it in, drop the row" in capsys.readouterr().err
    plan = write_plan(place, "gaps.csv", "{column: letter, on_missing: skip}", name="s.yaml")
    assert run("tune", plan, "--out", tmp_path / "b", "--no-cache") in (0, 1, 3)
    facts = json.loads((tmp_path / "b" / "run.json").read_text())["data"]
    assert (facts["rows"], facts["text"]["skipped"], facts["text"]["skipped_rows"]) == (N - 2, 2, [3, 50])


def test_columns_of_csv_have_the_types_of_the_whole_file(tmp_path: Path) -> None:
    """Beside the texts a column is typed by all of its values, as where the file is read whole."""
    n = 30_000
    frame = pd.DataFrame({"letter": ["12 3"] * n, "sex": ["F", "M"] * (n // 2), "score": ["1"] * (n - 1) + ["0.5"]})
    frame["code"] = ["7"] * (n - 1) + ["x"]
    frame["age"] = np.arange(n) % 90
    frame.loc[5, "age"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    options: dict[str, Any] = {"attributes": ["sex"], "keep": ["score", "code", "age"]}
    table = read_texts(tmp_path / "t.csv", text_column="letter", **options)
    whole = ak.load_table(tmp_path / "t.csv", features=["letter"], **options)
    assert table.data.kept is not None
    pd.testing.assert_frame_equal(table.data.kept, whole.kept)
    assert next(table.texts()) == "12 3"


def test_one_column_of_text_keeps_its_gaps() -> None:
    found = infer_types(pa.table({"x": pa.array(["1", None, "3"])}))
    assert found.column("x").to_pylist() == [1, None, 3]


def test_numbers_are_texts_where_the_file_says_so(tmp_path: Path) -> None:
    pd.DataFrame({"code": [12, 13], "sex": ["F", "M"]}).to_csv(tmp_path / "t.csv", index=False)
    table = read_texts(tmp_path / "t.csv", text_column="code", attributes=["sex"])
    assert list(table.texts()) == ["12", "13"]
    assert table.keys.tolist() == [text_key("12"), text_key("13")]


def test_a_text_may_be_an_attribute_too(tmp_path: Path) -> None:
    pd.DataFrame({"word": ["good", "bad"]}).to_csv(tmp_path / "t.csv", index=False)
    table = read_texts(tmp_path / "t.csv", text_column="word", attributes=["word"])
    assert set(table.groups.categories("word")) == {"bad", "good"}


def test_a_file_that_changes_under_the_model(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    letters().to_csv(path, index=False)
    table = read_texts(path, text_column="letter", attributes=["sex"])
    letters().assign(letter="other").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"'t.csv' changed while its texts were read; run again"):
        extract_outputs(load_model(place / "bert"), table, cache_dir=None)


def test_same_texts_in_two_parts_are_found() -> None:
    parts = {"tune": np.array([0, 1]), "test": np.array([2, 3])}
    found = find_leakage(parts, texts=pd.Series([5, 6, 6, 7], dtype="uint64"))
    assert found.sentences == ("1 of 2 test rows have the same text as rows of tune",)


def test_wrong_requests(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"attributes": ["sex"]}
    with pytest.raises(SchemaError, match=r"text_column names column 'leter', which the table lacks \(did you mean"):
        read_texts(place / "letters.csv", text_column="leter", **options)
    with pytest.raises(SchemaError, match="text_column 'age' must hold text; it is int64"):
        read_texts(place / "letters.parquet", text_column="age", **options)
    np.savez(tmp_path / "t.npz", letter=np.array(["a", "b"]), sex=np.array(["F", "M"]))
    with pytest.raises(InputError, match=r"texts are read from .csv, .parquet, .arrow, .feather files; got 't.npz'"):
        read_texts(tmp_path / "t.npz", text_column="letter", **options)
    plan = write_plan(place, text="letter, features: [age]", name="w.yaml")
    assert run("audit", plan, "--out", tmp_path / "w") == 2
    assert "the model reads the texts of data.text; leave features out" in capsys.readouterr().err
    plan = write_plan(place, text="{columns: letter}", name="x.yaml")
    assert run("audit", plan, "--out", tmp_path / "x") == 2
    assert "columns" in capsys.readouterr().err


def test_texts_and_a_model_that_reads_numbers(place: Path, tmp_path: Path) -> None:
    table = read_texts(place / "letters.csv", text_column="letter", attributes=["sex"])
    with pytest.raises(InputError, match="batch must be numeric for a torch module"):
        extract_outputs(load_model(torch.nn.Sequential(torch.nn.Linear(1, 1))), table, cache_dir=None)


def test_a_pipeline_of_scikit_learn_reads_texts(place: Path, tmp_path: Path) -> None:
    io = pytest.importorskip("skops.io")
    from sklearn.compose import make_column_transformer
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    frame = letters()
    pipeline = make_pipeline(make_column_transformer((CountVectorizer(), "letter")), LogisticRegression())
    pipeline.fit(frame[["letter"]], frame["repaid"])
    io.dump(pipeline, place / "words.skops")
    plan = write_plan(place, name="p.yaml")
    plan.write_text(plan.read_text().replace("model: bert", "model: words.skops"))
    result = ak.run_audit(ak.load_config(plan).with_cache(False), out=tmp_path / "run")
    scores = pipeline.predict_proba(frame[["letter"]])[:, 1]
    gap = abs(scores[frame["sex"] == "F"].mean() - scores[frame["sex"] == "M"].mean())
    assert result.outcome.findings[0].gap == pytest.approx(gap, abs=1e-9)


MEASURE = """
import sys
from pathlib import Path
import pandas, pyarrow.parquet
from auditkit.texts import read_texts
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
before = peak()
table = read_texts(sys.argv[1], text_column="letter", attributes=["sex"], label="y")
assert sum(len(text) for text in table.texts()) > 2e8
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory where Linux tells it")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_texts_never_lie_in_memory_whole(tmp_path: Path, kind: str) -> None:
    """200 MiB of texts, in parquet as one row group: read twice in less than 150 MiB, the libraries' own included."""
    rng = np.random.default_rng(0)
    letters = ["".join(rng.choice(list("abcdefgh "), 2_100)) for _ in range(500)] * 200
    frame = pd.DataFrame({"letter": letters, "sex": ["F", "M"] * 50_000, "y": [0, 1] * 50_000})
    path = tmp_path / f"t.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, row_group_size=100_000)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert float(done.stdout) < 150


def test_a_header_without_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("letter,sex\n")
    with pytest.raises(InputError, match="has columns but no rows"):
        read_texts(tmp_path / "t.csv", text_column="letter", attributes=["sex"])
