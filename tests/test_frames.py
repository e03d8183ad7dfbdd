"""Tables in memory of every kind give the same data, and text reaches the model as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import auditkit as ak
from auditkit.errors import InputError, SchemaError
from tests.test_architecture import modules_loaded_by

NAMES = ["sex", "age", "job", "label"]


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "sex": rng.choice(["F", "M"], 60),
            "age": rng.integers(18, 80, 60).astype(float),
            "job": rng.choice(["cook", "nurse", "pilot"], 60),
            "label": rng.integers(0, 2, 60).astype(float),
        }
    )


def kinds(frame: pd.DataFrame) -> dict[str, Any]:
    polars = pytest.importorskip("polars")
    return {
        "polars": polars.DataFrame({name: frame[name].tolist() for name in frame}),
        "pyarrow": pa.Table.from_pandas(frame),
        "record batch": pa.RecordBatch.from_pandas(frame),
        "structured array": np.array(
            list(frame.itertuples(index=False, name=None)),
            dtype=[("sex", "U1"), ("age", "f8"), ("job", "U5"), ("label", "f8")],
        ),
        "objects with names": frame.to_numpy(dtype=object),
    }


@pytest.mark.parametrize("kind", ["polars", "pyarrow", "record batch", "structured array", "objects with names"])
def test_every_kind_gives_what_pandas_gives(frame: pd.DataFrame, kind: str) -> None:
    bands = {"band": {"column": "age", "bins": [30, 50]}}
    options: dict[str, Any] = {"attributes": ["sex", bands], "label": "label"}
    expected = ak.from_frame(frame, **options)
    columns = NAMES if kind == "objects with names" else None
    found = ak.from_frame(kinds(frame)[kind], columns=columns, **options)
    assert found.features is not None
    assert expected.features is not None
    assert list(found.features) == ["age", "job"]
    assert found.features["job"].tolist() == frame["job"].tolist()
    assert found.features["age"].tolist() == frame["age"].tolist()
    assert found.labels is not None
    assert found.labels.tolist() == frame["label"].tolist()
    for name in ("sex", "band"):
        assert found.attributes[name].astype(str).tolist() == expected.attributes[name].astype(str).tolist()


def test_a_matrix_needs_names() -> None:
    values = np.column_stack([np.arange(6.0), np.tile([0.0, 1.0], 3)])
    data = ak.from_frame(values, attributes=["group"], columns=["x", "group"])
    assert data.groups.categories("group") == (0, 1)
    with pytest.raises(SchemaError, match=r"shape \(6, 2\) has no column names; pass 2 columns="):
        ak.from_frame(values, attributes=["group"])
    with pytest.raises(SchemaError, match="columns has 1 names for an array of 2 columns"):
        ak.from_frame(values, attributes=["group"], columns=["group"])
    with pytest.raises(SchemaError, match="several columns called 'x'; rename"):
        ak.from_frame(values, attributes=["x"], columns=["x", "x"])
    with pytest.raises(InputError, match=r"an array must have shape \(n, d\)"):
        ak.from_frame(values[:, 0], attributes=["x"], columns=["x"])


@pytest.mark.parametrize("as_frame", [False, True])
def test_a_bunch_of_scikit_learn(as_frame: bool) -> None:
    from sklearn.datasets import load_breast_cancer

    bunch: Any = load_breast_cancer(as_frame=as_frame)
    bands = {"size": {"column": "mean radius", "bins": [12, 15]}}
    data = ak.from_frame(bunch, attributes=[bands], label="target")
    assert data.labels is not None
    assert data.features is not None
    assert data.labels.tolist() == np.asarray(bunch.target).tolist()
    assert list(data.features) == list(bunch.feature_names)


def test_what_is_no_table_is_named(frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="frame must be a frame of pandas or polars, .*; got list"):
        ak.from_frame([1, 2], attributes=["sex"])
    with pytest.raises(InputError, match=r"got str; use load_table for a file"):
        ak.from_frame("table.csv", attributes=["sex"])
    with pytest.raises(InputError, match="a DataFrame has names of its own"):
        ak.from_frame(frame, attributes=["sex"], columns=NAMES)
    with pytest.raises(SchemaError, match=r"'sx', which the table lacks .*; it has: sex, age, job, label"):
        ak.from_frame(pa.Table.from_pandas(frame), attributes=["sx"])


def test_reading_an_arrow_table_loads_no_polars(tmp_path: Path) -> None:
    code = (
        "import pyarrow as pa, auditkit as ak\n"
        "ak.from_frame(pa.table({'sex': ['F', 'M'], 'x': [1, 2]}), attributes=['sex'])"
    )
    assert "polars" not in modules_loaded_by(code)


def test_text_columns_reach_a_pipeline_untouched(frame: pd.DataFrame) -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    encoder = ColumnTransformer([("job", OneHotEncoder(), ["job"])], remainder="passthrough")
    pipeline = make_pipeline(encoder, LogisticRegression()).fit(frame[["age", "job"]], frame["label"])
    data = ak.from_frame(pa.Table.from_pandas(frame), attributes=["sex"], label="label")
    scores = ak.load_model(pipeline).scores(data.features).numpy()
    assert scores == pytest.approx(pipeline.predict_proba(frame[["age", "job"]])[:, 1])
