"""Small trainings keep to one thread, and leave the process as it was."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import auditkit as ak
from auditkit.errors import InputError, SolverError
from auditkit.tuning import training
from auditkit.tuning.threads import FEW_VALUES, share_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("values", "threads"), [(FEW_VALUES, 1), (FEW_VALUES + 1, 2), (None, 2)])
def test_few_values_are_for_one_thread(values: int | None, threads: int) -> None:
    with share_threads(values):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


def test_the_threads_come_back_after_an_error() -> None:
    with pytest.raises(InputError, match="stop"), share_threads(1):
        raise InputError("stop")
    assert torch.get_num_threads() == 2


def _watch(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    found: set[int] = set()
    run_epoch = training._Training.run_epoch

    def watched(self: training._Training) -> None:
        found.add(torch.get_num_threads())
        run_epoch(self)

    monkeypatch.setattr(training._Training, "run_epoch", watched)
    return found


@pytest.mark.parametrize(
    ("width", "options", "threads"),
    [(4, {}, 1), (2000, {}, 2), (2000, {"batch_size": 32}, 1), (2000, {"batch_size": 32, "hidden": 16}, 2)],
)
def test_a_training_takes_as_many_as_its_steps_are_worth(
    width: int, options: dict[str, int], threads: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    features, groups = rng.normal(size=(400, width)).astype(np.float32), ak.Groups({"g": np.arange(400) % 2})
    found = _watch(monkeypatch)
    config = ak.TuneConfig(epochs=2, **options)
    ak.tune_head(features, (features[:, 0] > 0).astype(float), groups, ak.ECP("g", tolerance=0.1), config=config)
    assert found == {threads}
    assert torch.get_num_threads() == 2


def test_a_training_that_diverges_leaves_the_threads_as_they_were(rng: np.random.Generator) -> None:
    config = ak.TuneConfig(epochs=2, learning_rate=1e300, score_space="identity")
    features, groups = rng.normal(size=(50, 3)), ak.Groups({"g": np.arange(50) % 2})
    with pytest.raises(SolverError, match="diverged"):
        ak.tune_head(features, features[:, 0], groups, ak.ECP("g", tolerance=0.1), config=config)
    assert torch.get_num_threads() == 2
