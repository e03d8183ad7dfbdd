"""Cross-fitting: scores by heads that did not see the row, and one head that is the mean of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import auditkit as ak
from auditkit.constraints import measure_gaps
from auditkit.errors import InputError
from auditkit.heads import FairHead
from auditkit.tuning.cross_fitting import CrossFit, average_heads, cross_fit

CONFIG = ak.TuneConfig(epochs=30, learning_rate=0.05, batch_size=256)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, ak.Groups]:
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, 1500)
    features = rng.normal(size=(1500, 4))
    features[:, 0] += sex
    labels = (rng.random(1500) < 1 / (1 + np.exp(-features[:, 0] - features[:, 1]))) * 1.0
    return features, labels, ak.Groups({"sex": sex})


@pytest.fixture(scope="module")
def fitted(rows: tuple) -> CrossFit:
    return cross_fit(*rows, ak.ECP("sex", tolerance=0.02), folds=3, config=CONFIG)


@pytest.mark.parametrize("hidden", [None, 3])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_mean_head_has_the_mean_of_the_logits(hidden: int | None, outputs: int) -> None:
    x, heads = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double(), []
    for seed in range(3):
        torch.manual_seed(seed)
        head = FairHead(5, hidden=hidden, score_space="logit", outputs=outputs)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
        head.get_buffer("mean").uniform_(-1, 1)
        head.get_buffer("scale").uniform_(0.5, 2)
        heads.append(head)
    with torch.no_grad():
        torch.testing.assert_close(average_heads(heads)(x), sum(head(x) for head in heads) / 3)


def test_every_row_is_scored_by_a_head_that_did_not_see_it(rows: tuple, fitted: CrossFit) -> None:
    features, labels, groups = rows
    assert np.bincount(fitted.fold).tolist() == [500, 500, 500]
    for k, head in enumerate(fitted.heads):
        out, seen = fitted.fold == k, np.flatnonzero(fitted.fold != k)
        np.testing.assert_array_equal(fitted.scores[out], head.predict(features[out]))
        criterion = ak.ECP("sex", tolerance=0.02)
        again = ak.tune_head(features[seen], labels[seen], groups.take(seen), criterion, config=CONFIG)
        np.testing.assert_array_equal(again.predict(features), head.predict(features))


def test_a_correction_found_out_of_fold_fits_new_rows(rows: tuple, fitted: CrossFit) -> None:
    rng = np.random.default_rng(1)
    sex = rng.integers(0, 2, 20_000)
    features = rng.normal(size=(20_000, 4))
    features[:, 0] += sex
    criterion, groups = ak.ECP("sex", tolerance=0.02), ak.Groups({"sex": sex})
    raw = fitted.head.predict(features)
    corrected = ak.calibrate(fitted.scores, rows[2], criterion, bounds=(0, 1)).apply(raw, groups)
    before, after = (measure_gaps(values, groups, (criterion,))[criterion.name] for values in (raw, corrected))
    assert before > 0.1
    assert after < 0.05  # 0.02, and the error of 1,500 rows


def test_a_start_is_kept_where_nothing_is_better(rows: tuple) -> None:
    alone = cross_fit(*rows, folds=3, config=CONFIG)
    still = cross_fit(*rows, folds=3, start=alone, config=ak.TuneConfig(epochs=1, learning_rate=10.0, batch_size=256))
    assert [head.best_epoch for head in still.heads] == [-1, -1, -1]
    np.testing.assert_allclose(still.scores, alone.scores, rtol=0, atol=1e-12)


def test_what_does_not_fit_is_refused(rows: tuple, fitted: CrossFit) -> None:
    with pytest.raises(InputError, match="folds must be from 2 to the number of rows, 1500; got 1"):
        cross_fit(*rows, folds=1)
    with pytest.raises(InputError, match="start was made of other rows, folds or another seed"):
        cross_fit(*rows, folds=3, start=fitted, config=ak.TuneConfig(seed=4))
    with pytest.raises(InputError, match="heads must be of one form"):
        average_heads([FairHead(3), FairHead(4)])
    with pytest.raises(InputError, match="heads must be of one form"):
        average_heads([])
